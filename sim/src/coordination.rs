//! Ways to choose a node, side by side: the same gateway and nodes, the same requests, another rule.

use crate::config::{BreachOfPromise, Config, Demand, Fleet, Home, LONG_SHARE, OfRegion, Report, Violation};
use crate::run;
use crate::world::World;
use ol_protocol::{Micros, Timestamp};
use ol_sched::Rule;
use serde::Serialize;

/// Who is compared, ours first.
const POLICIES: [(Rule, &str); 5] = [
    (Rule::Cost, "openledger"),
    (Rule::Random, "random"),
    (Rule::RoundRobin, "round robin"),
    (Rule::LeastOutstanding, "least outstanding"),
    (Rule::TwoChoices, "power of two choices"),
];

const PROMISE: &str = "one node in ten grants sixteen times the slots it has";
const STILL: &str = "one node in ten stands still after the first token";

const LONG: &str = "30 % of nodes are ten times slower, and one request in four is eight times as much work";

/// Prompt and answer of these.
const LONG_LENGTHS: [u32; 2] = [4_000, 500];

const UNEVEN: &str =
    "five regions, 20 to 250 ms away, 1 % of frames lost; the first asks four times as much for a minute";

/// What all have in common.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Setting {
    /// Decides everything that is random.
    pub seed: u64,
    /// Nodes, but where a thousand start at once.
    pub nodes: u32,
    /// Seconds during which requests come, at most.
    pub seconds: u32,
    /// Tokens of each prompt and each answer: all are equal, so that what differs is the network's doing.
    pub lengths: [u32; 2],
}

/// One policy in one situation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What happens.
    pub situation: &'static str,
    /// Who chooses.
    pub policy: &'static str,
    /// Requests a second, as a share of what the nodes could answer if all of them worked all the time.
    pub load: f64,
    /// Requests a second.
    pub rate: f64,
    /// Nodes.
    pub nodes: u32,
    /// Seconds during which requests came.
    pub seconds: u32,
    /// Requests.
    pub tasks: u64,
    /// Median of the time from a request to the end of its answer, in milliseconds.
    pub p50_ms: u64,
    /// The 99th percentile of the same.
    pub p99_ms: u64,
    /// The one by the other.
    pub p99_over_p50: f64,
    /// The 99th percentile of how many times longer an answer took than a usual node takes that does nothing else, by its median.
    pub stretch_p99_over_p50: f64,
    /// Work of engines beyond one prefill of each prompt and one decode of each answer, in percent of these.
    pub extra_work_pct: f64,
    /// Tasks that were admitted and not answered in time, though their clients waited.
    pub lost: u64,
    /// Tasks whose receipts charge more than was delivered: a run in which there is one ends with an error.
    pub paid_twice: u64,
    /// Requests that were refused at once.
    pub refused: u64,
    /// Second attempts beside late ones, and instead of slow ones, in percent of the tasks.
    pub second_attempts_pct: f64,
    /// Answers a second while requests came, in percent of the most that any load gave the same policy.
    pub goodput_pct_of_peak: Option<f64>,
    /// After what was lost: how long until at most one answer in twenty of each second took more than three times the median from before, in milliseconds.
    pub restored_after_ms: Option<u64>,
}

impl Setting {
    /// The published setting.
    pub fn new(seed: u64) -> Self {
        Self { seed, nodes: 100, seconds: 120, lengths: [100, 100] }
    }

    fn config(&self, rule: Rule, situation: &str) -> Config {
        let fleet = Fleet {
            slow: 0.3,
            slow_factor: 10,
            crowding: 0.15,
            jitter: 0.1,
            pauses: (0.005, Micros::from_secs(3)),
            fails: 0.0,
            stalls: 0.0,
            is_killed: true,
            ..Fleet::default()
        };
        let deadline = Micros::from_secs(60);
        let lengths = Some(self.lengths);
        let demand = Demand { lengths, long: None, deadline, leaves: 0.0, goes_on: 0.0, plain: true, home: None };
        let config = Config {
            nodes: self.nodes,
            seconds: self.seconds,
            rate: 0.0,
            seed: self.seed,
            operators: self.nodes / 2,
            regions: 1,
            demand,
            fleet,
            rule,
            ..Config::default()
        };
        let even = Fleet { slow: 0.0, ..fleet };
        match situation {
            "30 % of nodes are ten times slower, others each half minute" => {
                Config { fleet: Fleet { changes_every: Some(Micros::from_secs(30)), ..fleet }, ..config }
            }
            "10 % of nodes are killed a minute" => {
                Config { fleet: even, churn_per_minute: f64::from(self.nodes) / 10.0, ..config }
            }
            "one of five regions is lost" => {
                let lost = Some(Timestamp(u64::from(self.seconds) * 500_000));
                Config { fleet: Fleet { region_lost_at: lost, ..even }, regions: 5, ..config }
            }
            UNEVEN => {
                let far = Fleet { distances: [Micros::from_millis(10), Micros(28_750)], loss: 0.01, ..even };
                Config { fleet: far, regions: 5, seconds: 180, ..config }
            }
            "1,000 nodes start at once" => Config { fleet: even, nodes: 1_000, operators: 500, seconds: 15, ..config },
            PROMISE => Config { fleet: Fleet { breach: Some(BreachOfPromise::OverPromises), ..even }, ..config },
            STILL => Config { fleet: Fleet { breach: Some(BreachOfPromise::StandsStill), ..even }, ..config },
            LONG => Config { demand: Demand { long: Some(LONG_LENGTHS), ..demand }, ..config },
            "steady" => Config { fleet: even, seconds: 30, ..config },
            _ => config,
        }
    }

    // Asked for that share of what the nodes could answer if all of them worked all the time.
    fn loaded(&self, rule: Rule, situation: &str, load: f64) -> Result<Config, Violation> {
        let config = self.config(rule, situation);
        let world = World::new(config.clone())?;
        let capacity = match config.demand.long {
            Some(long) => 1.0 / ((1.0 - LONG_SHARE) / world.capacity(self.lengths) + LONG_SHARE / world.capacity(long)),
            None => world.capacity(self.lengths),
        };
        Ok(Config { rate: (load * capacity).round(), ..config })
    }

    fn row(&self, (rule, policy): (Rule, &'static str), situation: &'static str, load: f64) -> Result<Row, Violation> {
        let report = run(&self.loaded(rule, situation, load)?)?;
        Ok(Row::of(&report, policy, situation, load))
    }
}

impl Row {
    fn of(report: &Report, policy: &'static str, situation: &'static str, load: f64) -> Self {
        let (p50, p99) = (report.latency_p50_ms, report.latency_p99_ms);
        let hundredths = |value: f64| (value * 100.0).round() / 100.0;
        Self {
            situation,
            policy,
            load,
            rate: report.rate,
            nodes: report.nodes,
            seconds: report.seconds,
            tasks: report.tasks,
            p50_ms: p50,
            p99_ms: p99,
            p99_over_p50: hundredths(p99 as f64 / p50.max(1) as f64),
            stretch_p99_over_p50: hundredths(report.stretch_p99 / report.stretch_p50.max(0.01)),
            extra_work_pct: hundredths(report.extra_work_pct),
            lost: report.lost,
            paid_twice: report.paid_twice,
            refused: report.refused - report.lost,
            second_attempts_pct: hundredths((report.raced + report.moved) as f64 * 100.0 / report.tasks.max(1) as f64),
            goodput_pct_of_peak: None,
            restored_after_ms: report.restored_after_ms,
        }
    }
}

fn compare(
    setting: &Setting,
    situations: &[(&'static str, f64)],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Row>, Violation> {
    let all = (situations.len() * POLICIES.len()) as u64;
    let pairs = situations.iter().flat_map(|situation| POLICIES.map(|policy| (*situation, policy)));
    let mut rows = Vec::new();
    for ((situation, load), policy) in pairs {
        progress(rows.len() as u64, all);
        rows.push(setting.row(policy, situation, load)?);
    }
    Ok(rows)
}

/// One policy, region and third of the time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionRow {
    /// Who chooses.
    pub policy: &'static str,
    /// Before, while or after the first region asks for more than it has.
    pub when: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub of: OfRegion,
}

/// Regions under uneven load: the rows of all policies, and of each region before, while and after the first asks for more than it has.
///
/// # Errors
/// The first check that failed.
pub fn regions(setting: &Setting, progress: &mut dyn FnMut(u64, u64)) -> Result<(Vec<Row>, Vec<RegionRow>), Violation> {
    let ours = [
        ((Rule::Cost, "openledger"), Home::Preferred),
        ((Rule::Cost, "openledger, bound to the region"), Home::Bound),
        ((Rule::Cost, "openledger, region unknown"), Home::Unknown),
    ];
    let others = POLICIES.into_iter().skip(1).map(|policy| (policy, Home::Unknown));
    let all = ours.len() + POLICIES.len() - 1;
    let (mut rows, mut of_regions) = (Vec::new(), Vec::new());
    for ((rule, policy), home) in ours.into_iter().chain(others) {
        progress(rows.len() as u64, all as u64);
        let mut config = setting.loaded(rule, UNEVEN, 0.6)?;
        config.demand.home = Some(home);
        let report = run(&config)?;
        rows.push(Row::of(&report, policy, UNEVEN, 0.6));
        let when = |of: &OfRegion| ["before", "while", "after"].get(of.third as usize).copied().unwrap_or_default();
        of_regions.extend(report.regions.into_iter().map(|of| RegionRow { policy, when: when(&of), of }));
    }
    Ok((rows, of_regions))
}

/// Nodes that are slow, all the time or in turn.
///
/// # Errors
/// The first check that failed.
pub fn tails(setting: &Setting, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Row>, Violation> {
    let slow = "30 % of nodes are ten times slower";
    let turns = "30 % of nodes are ten times slower, others each half minute";
    compare(setting, &[(slow, 0.3), (slow, 0.6), (turns, 0.5), (LONG, 0.3), (LONG, 0.6)], progress)
}

/// Nodes that take more than they can do, or begin and do not go on.
///
/// # Errors
/// The first check that failed.
pub fn promises(setting: &Setting, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Row>, Violation> {
    compare(setting, &[(PROMISE, 0.3), (PROMISE, 0.6), (STILL, 0.3), (STILL, 0.6)], progress)
}

/// Nodes that are killed.
///
/// # Errors
/// The first check that failed.
pub fn churn(setting: &Setting, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Row>, Violation> {
    let situations = [
        ("10 % of nodes are killed a minute", 0.6),
        ("one of five regions is lost", 0.6),
        ("1,000 nodes start at once", 0.5),
    ];
    compare(setting, &situations, progress)
}

/// More requests than the nodes can answer.
///
/// # Errors
/// The first check that failed.
pub fn overload(setting: &Setting, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Row>, Violation> {
    const LOADS: [f64; 5] = [0.7, 0.85, 1.0, 1.5, 3.0];
    let all = (LOADS.len() * POLICIES.len()) as u64;
    let mut rows = Vec::new();
    for policy in POLICIES {
        let mut of_policy = Vec::new();
        for load in LOADS {
            progress((rows.len() + of_policy.len()) as u64, all);
            let report = run(&setting.loaded(policy.0, "steady", load)?)?;
            of_policy
                .push((report.goodput, Row::of(&report, policy.1, "more is asked for than can be answered", load)));
        }
        let peak = of_policy.iter().map(|(goodput, _)| *goodput).fold(0.0, f64::max);
        rows.extend(
            of_policy.into_iter().map(|(goodput, row)| Row {
                goodput_pct_of_peak: Some((goodput * 1_000.0 / peak).round() / 10.0),
                ..row
            }),
        );
    }
    Ok(rows)
}
