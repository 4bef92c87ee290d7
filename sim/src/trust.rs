//! Policies of verification side by side: what each costs, what it lets through, and when it finds whom; and how well our
//! stated trust values and the truth agree.
//!
//! Every node does one task after the other; nothing else is modelled. Ours is the policy that gateways run, with its
//! governed rule. A node that was caught, or leaves, makes room for a newcomer.

use crate::random::{Random, Use};
use crate::reliability::{Reliability, Tally};
use ol_protocol::Epoch;
use ol_protocol::parameters::AuditRule;
use ol_protocol::variant::Assurance;
use ol_trust::policy::{Finding, Standing};
use ol_trust::{Evidence, value};
use serde::Serialize;

/// Tasks that each node does before anything is counted, in a network that has run for long: ten times those that are
/// counted, two thirds of a node's life.
const WARM_UP_TASKS: u32 = 15_000;

/// Validity in a row from which BOINC stops replicating every task.
///
/// Source: BOINC, sched/sched_config.h (`CONS_VALID_UNREPLICATED`), sched/sched_send.cpp (`set_trust`), sched/validator.cpp
/// (`is_valid`): below it a task is replicated, from it on with chance 1 / (valid in a row); only replicated results count.
const BOINC_VALID_IN_A_ROW: u32 = 10;

/// Share of the tasks that proof of sampling runs again, as in the comparison that the goals were set by.
const PROOF_OF_SAMPLING: f64 = 0.08;

/// The rates at which hostile nodes cheat.
const CHEAT_RATES: [f64; 3] = [1.0, 0.1, 0.02];

/// Honest tasks of a sleeper.
const SLEEPER_TASKS: u64 = 500;

/// What is compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Decides everything that is random.
    pub seed: u64,
    /// Nodes at any time.
    pub nodes: u32,
    /// Tasks of each that are counted.
    pub tasks: u32,
    /// Share of those who arrive that are hostile, and of the first.
    pub hostile: f64,
    /// Share of the nodes that leave by themselves while those tasks are done.
    pub churn: f64,
    /// What scoring a result costs, as a share of computing it (docs/bench/2026-11-main-job.md).
    pub audit_cost: f64,
    /// Chance that scoring a wrong result shows it.
    pub detection: f64,
    /// Our rule.
    pub newcomer_tasks: u32,
    /// Our rule, out of a million tasks.
    pub rate_ppm: u32,
    /// Tasks of each node before anything is counted, in a network that has run for long.
    pub warm_up_tasks: u32,
}

impl Setting {
    /// The network that the goals are stated for.
    pub fn new(seed: u64) -> Self {
        let AuditRule { newcomer_tasks, rate_ppm, .. } = AuditRule::DEFAULT;
        Self {
            seed,
            nodes: 2_000,
            tasks: 1_500,
            hostile: 0.1,
            churn: 0.1,
            audit_cost: 0.21,
            detection: 0.95,
            newcomer_tasks,
            rate_ppm,
            warm_up_tasks: WARM_UP_TASKS,
        }
    }
}

/// Whose history the network begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// It has run for long, with the same policy and the same kind of arrivals.
    Steady,
    /// Everybody is new.
    Cold,
}

/// How results are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Ours: a newcomer's first results, then a floor. A result goes out at once.
    Openledger,
    /// Scoring with chance `clip(k (1 - q^(1 / (1 + clean))), floor, 1)`, k = 0.5, q = 0.05, floor = 2 %: what ours is to beat.
    DecayingRate,
    /// Every task on two nodes, a third if they differ; the majority's goes out. Hostile nodes cheat in the same tasks, and their
    /// results agree.
    #[serde(rename = "replication_x2")]
    Replication,
    /// BOINC's adaptive replication, in its own rule; else as replication. Nobody is excluded.
    BoincAdaptive,
    /// 8 % of the results run again; who is caught is excluded. A result goes out at once.
    #[serde(rename = "proof_of_sampling_8pct")]
    ProofOfSampling,
    /// Every result run again before it goes out; who is caught is excluded.
    FullRerun,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Openledger,
        Self::DecayingRate,
        Self::Replication,
        Self::BoincAdaptive,
        Self::ProofOfSampling,
        Self::FullRerun,
    ];
}

/// What came of one policy against one kind of cheat.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Whose.
    pub policy: Policy,
    /// How the network began.
    pub start: Start,
    /// Chance that a hostile node cheats in a task.
    pub cheat_rate: f64,
    /// Honest tasks before its first.
    pub honest_first: u64,
    /// Cost of verification, as a share of the cost of all tasks.
    pub overhead_pct: f64,
    /// Wrong results that went out, in a million.
    pub wrong_ppm: f64,
    /// Interval of 95 % of the same: hostile nodes are independent, their wrong results are not.
    pub wrong_ppm_interval_95: [f64; 2],
    /// Median over the hostile nodes that were caught: tasks since they began to cheat, that one included.
    pub delay_tasks_p50: Option<u64>,
    /// The same of wrong results.
    pub delay_wrong_p50: Option<u64>,
    /// The same of audits or replicas.
    pub delay_checks_p50: Option<u64>,
    /// Hostile nodes that were caught.
    pub caught: u64,
    /// Hostile nodes that had cheated and were never caught, as a share of those that had cheated.
    pub undetected_pct: f64,
}

/// What hostile nodes do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cheats {
    /// All the same: cheat at that rate after so many honest tasks.
    Same {
        /// Chance in each task.
        rate: f64,
        /// Honest tasks before.
        honest_first: u64,
    },
    /// Half of them always, the others in a half, a quarter and so on to 1 / 128 of their tasks, as the trust value assumes; one in ten
    /// sleeps first.
    Mixed,
}

/// How far a comparison is: done and in all.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// Runs every policy against every kind of cheat, from both starts; then ours against sleepers.
pub fn compare(setting: &Setting, progress: &mut Progress<'_>) -> Vec<Row> {
    let mut runs = Vec::new();
    for start in [Start::Steady, Start::Cold] {
        for policy in Policy::ALL {
            runs.extend(CHEAT_RATES.map(|cheat_rate| (policy, start, cheat_rate, 0)));
        }
        runs.push((Policy::Openledger, start, 1.0, SLEEPER_TASKS));
    }
    let mut rows = Vec::new();
    for (policy, start, rate, honest_first) in &runs {
        progress(rows.len() as u64, runs.len() as u64);
        let cheats = Cheats::Same { rate: *rate, honest_first: *honest_first };
        rows.push(Network::new(setting, *policy, cheats).run(*start).row(*start, *rate, *honest_first));
    }
    rows
}

/// Our trust values held against the truth, in steady networks with several kinds of hostile nodes.
pub fn reliability(setting: &Setting, progress: &mut Progress<'_>) -> Vec<Reliability> {
    let same = |rate, honest_first| Cheats::Same { rate, honest_first };
    let populations = [Cheats::Mixed, same(1.0, 0), same(0.1, 0), same(0.02, 0), same(1.0, SLEEPER_TASKS)];
    let mut found = Vec::new();
    for cheats in populations {
        progress(found.len() as u64, populations.len() as u64);
        let mut network = Network::new(setting, Policy::Openledger, cheats);
        network.states_values = true;
        found.push(network.run(Start::Steady).tally.reliability(cheats));
    }
    found
}

// A node, from its arrival on.
#[derive(Debug, Clone, Copy, Default)]
struct Host {
    hostile: bool,
    cheat_rate: f64,
    honest_first: u64,
    // Until it leaves by itself.
    tasks_left: u64,
    tasks: u64,
    // Since it began to cheat.
    exposed: u64,
    wrong: u64,
    checks: u64,
    // Wrong results of the counted time.
    wrong_counted: u64,
    // Whether it was ever found out, where that excludes nobody.
    found: bool,
    standing: Standing,
    clean: u32,
    valid_in_a_row: u32,
    // Wrong results of the counted time, by what was stated of them.
    wrong_as_stated: [u32; Tally::BINS],
}

// What became of one task.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    cost: f64,
    went_out_wrong: bool,
    caught: bool,
    drawn: bool,
}

#[derive(Debug, Default)]
struct Counts {
    tasks: u64,
    cost: f64,
    wrong: u64,
    wrong_squared: u64,
    delays: Vec<[u64; 3]>,
    undetected: u64,
}

struct Network<'a> {
    setting: &'a Setting,
    rule: AuditRule,
    policy: Policy,
    cheats: Cheats,
    random: Random,
    hosts: Vec<Host>,
    counts: Counts,
    // Whether trust values are stated of every result, which costs more than all the rest.
    states_values: bool,
    tally: Tally,
}

impl<'a> Network<'a> {
    fn new(setting: &'a Setting, policy: Policy, cheats: Cheats) -> Self {
        let Setting { newcomer_tasks, rate_ppm, .. } = *setting;
        let rule = AuditRule { newcomer_tasks, rate_ppm, ..AuditRule::DEFAULT };
        let random = Random::new(setting.seed, Use::Policies);
        let (hosts, counts, tally) = (Vec::new(), Counts::default(), Tally::default());
        let mut network = Self { setting, rule, policy, cheats, random, hosts, counts, states_values: false, tally };
        network.hosts = (0..setting.nodes).map(|_| network.arrival()).collect();
        network
    }

    fn arrival(&mut self) -> Host {
        let mean = f64::from(self.setting.tasks) / self.setting.churn;
        let hostile = self.random.happens(self.setting.hostile);
        let (cheat_rate, honest_first) = match self.cheats {
            Cheats::Same { rate, honest_first } => (rate, honest_first),
            Cheats::Mixed => {
                let halvings = if self.random.happens(0.5) { 0 } else { 1 + self.random.below(7) };
                let sleeps = self.random.happens(0.1);
                (libm::ldexp(1.0, -(halvings as i32)), if sleeps { SLEEPER_TASKS } else { 0 })
            }
        };
        let tasks_left = self.random.exponential(mean) + 1;
        Host { hostile, cheat_rate, honest_first, tasks_left, ..Host::default() }
    }

    fn run(mut self, start: Start) -> Self {
        if start == Start::Steady {
            let states_values = core::mem::replace(&mut self.states_values, false);
            (0..self.setting.warm_up_tasks).for_each(|_| self.round());
            self.states_values = states_values;
            self.counts = Counts::default();
            self.hosts.iter_mut().for_each(|host| host.wrong_counted = 0);
        }
        (0..self.setting.tasks).for_each(|_| self.round());
        (0..self.hosts.len()).for_each(|at| self.leave(at));
        self
    }

    // One task of every node.
    fn round(&mut self) {
        for at in 0..self.hosts.len() {
            // Hostile nodes cheat in the same tasks, so that their answers agree where one is replicated.
            let temptation = self.random.unit();
            let wrong = self.is_cheating(at, temptation);
            let before = self.hosts[at].standing;
            let outcome = self.task(at, temptation);
            if self.states_values {
                self.state_value(at, &before, outcome, wrong);
            }
            self.counts.tasks += 1;
            self.counts.cost += outcome.cost;
            let excluded = outcome.caught && self.excludes();
            let host = &mut self.hosts[at];
            host.tasks += 1;
            host.tasks_left -= 1;
            host.exposed += u64::from(host.hostile && host.tasks > host.honest_first);
            host.wrong += u64::from(wrong);
            host.wrong_counted += u64::from(outcome.went_out_wrong);
            if outcome.caught && !host.found {
                host.found = true;
                self.counts.delays.push([host.exposed, host.wrong, host.checks]);
            }
            if excluded || host.tasks_left == 0 {
                self.leave(at);
            }
        }
    }

    fn state_value(&mut self, at: usize, before: &Standing, outcome: Outcome, wrong: bool) {
        let evidence = match (outcome.drawn, outcome.caught) {
            (false, _) => Evidence::Undrawn,
            (true, false) => Evidence::Clean,
            (true, true) => Evidence::Failed,
        };
        let bin = self.tally.add(value(before, evidence, Assurance::Seeded), !wrong);
        self.hosts[at].wrong_as_stated[bin] += u32::from(wrong);
    }

    const fn excludes(&self) -> bool {
        match self.policy {
            Policy::Openledger | Policy::DecayingRate | Policy::ProofOfSampling | Policy::FullRerun => true,
            Policy::Replication | Policy::BoincAdaptive => false,
        }
    }

    fn leave(&mut self, at: usize) {
        let next = self.arrival();
        let host = core::mem::replace(&mut self.hosts[at], next);
        self.counts.wrong += host.wrong_counted;
        self.counts.wrong_squared += host.wrong_counted * host.wrong_counted;
        self.counts.undetected += u64::from(host.wrong > 0 && !host.found);
        self.tally.leave(&host.wrong_as_stated);
    }

    fn is_cheating(&self, at: usize, temptation: f64) -> bool {
        let host = &self.hosts[at];
        host.hostile && host.tasks >= host.honest_first && temptation < host.cheat_rate
    }

    fn task(&mut self, at: usize, temptation: f64) -> Outcome {
        let wrong = self.is_cheating(at, temptation);
        match self.policy {
            Policy::Openledger => {
                let chance = self.hosts[at].standing.chance(&self.rule, self.rule.rate_ppm);
                let drawn = chance.takes(self.random.word());
                self.hosts[at].standing.record();
                let outcome = self.scored(at, wrong, drawn);
                if drawn {
                    let finding = if outcome.caught { Finding::Failed } else { Finding::Passed };
                    self.hosts[at].standing.find(finding, Epoch(0));
                }
                outcome
            }
            Policy::DecayingRate => {
                let chance = 0.5 * (1.0 - libm::pow(0.05, 1.0 / (1.0 + f64::from(self.hosts[at].clean))));
                let drawn = self.random.happens(chance.clamp(0.02, 1.0));
                let outcome = self.scored(at, wrong, drawn);
                self.hosts[at].clean += u32::from(drawn);
                outcome
            }
            Policy::Replication => self.replicated(at, temptation),
            Policy::BoincAdaptive => {
                let valid = self.hosts[at].valid_in_a_row;
                let alone = valid >= BOINC_VALID_IN_A_ROW && !self.random.happens(1.0 / f64::from(valid));
                if alone {
                    Outcome { cost: 0.0, went_out_wrong: wrong, caught: false, drawn: false }
                } else {
                    self.replicated(at, temptation)
                }
            }
            Policy::ProofOfSampling => {
                let again = self.random.happens(PROOF_OF_SAMPLING);
                self.hosts[at].checks += u64::from(again);
                Outcome {
                    cost: f64::from(u8::from(again)),
                    went_out_wrong: wrong,
                    caught: again && wrong,
                    drawn: again,
                }
            }
            Policy::FullRerun => {
                self.hosts[at].checks += 1;
                Outcome { cost: 1.0, went_out_wrong: false, caught: wrong, drawn: true }
            }
        }
    }

    // Scored by an auditor; a failure once more, by the referee.
    fn scored(&mut self, at: usize, wrong: bool, drawn: bool) -> Outcome {
        let caught = drawn && wrong && self.random.happens(self.setting.detection);
        self.hosts[at].checks += u64::from(drawn);
        let audits = u8::from(drawn) + u8::from(caught);
        Outcome { cost: self.setting.audit_cost * f64::from(audits), went_out_wrong: wrong, caught, drawn }
    }

    // On another node too, and on a third if the two differ. What the most agree on goes out.
    fn replicated(&mut self, at: usize, temptation: f64) -> Outcome {
        let wrong = self.is_cheating(at, temptation);
        let mut copies = vec![(at, wrong)];
        copies.push(self.other(&copies, temptation));
        if copies[1].1 != wrong {
            copies.push(self.other(&copies, temptation));
        }
        let wrong_ones = copies.iter().filter(|(_, wrong)| *wrong).count();
        let went_out_wrong = 2 * wrong_ones > copies.len();
        for (host, wrong) in &copies {
            let host = &mut self.hosts[*host];
            host.checks += 1;
            host.valid_in_a_row = if *wrong == went_out_wrong { host.valid_in_a_row + 1 } else { 0 };
        }
        Outcome { cost: (copies.len() - 1) as f64, went_out_wrong, caught: wrong && !went_out_wrong, drawn: true }
    }

    // A node that has no copy yet, and whether it cheats.
    fn other(&mut self, copies: &[(usize, bool)], temptation: f64) -> (usize, bool) {
        loop {
            let at = self.random.below(self.hosts.len());
            if copies.iter().all(|(taken, _)| *taken != at) {
                return (at, self.is_cheating(at, temptation));
            }
        }
    }

    fn row(self, start: Start, cheat_rate: f64, honest_first: u64) -> Row {
        let Self { policy, counts, .. } = self;
        let Counts { tasks, cost, wrong, wrong_squared, delays, undetected } = counts;
        let ppm = |wrong: f64| round(wrong * 1e6 / tasks as f64);
        // A compound Poisson count has the sum of the squares for its variance.
        let reach = 1.96 * libm::sqrt(wrong_squared as f64);
        let caught = delays.len() as u64;
        let median = |of: usize| {
            let mut values: Vec<u64> = delays.iter().map(|delay| delay[of]).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        Row {
            policy,
            start,
            cheat_rate,
            honest_first,
            overhead_pct: round(cost * 100.0 / tasks as f64),
            wrong_ppm: ppm(wrong as f64),
            wrong_ppm_interval_95: [ppm((wrong as f64 - reach).max(0.0)), ppm(wrong as f64 + reach)],
            delay_tasks_p50: median(0),
            delay_wrong_p50: median(1),
            delay_checks_p50: median(2),
            caught,
            undetected_pct: round(undetected as f64 * 100.0 / (undetected + caught).max(1) as f64),
        }
    }
}

fn round(value: f64) -> f64 {
    libm::round(value * 1e3) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(hostile: f64) -> Setting {
        Setting { nodes: 400, warm_up_tasks: 3_000, hostile, ..Setting::new(7) }
    }

    fn row(setting: &Setting, policy: Policy, rate: f64, honest_first: u64, start: Start) -> Row {
        Network::new(setting, policy, Cheats::Same { rate, honest_first }).run(start).row(start, rate, honest_first)
    }

    fn run(setting: &Setting, policy: Policy, rate: f64, start: Start) -> Row {
        row(setting, policy, rate, 0, start)
    }

    #[test]
    fn one_seed_gives_one_table() {
        let setting = setting(0.1);
        let one = run(&setting, Policy::Openledger, 0.1, Start::Steady);
        assert_eq!(one, run(&setting, Policy::Openledger, 0.1, Start::Steady));
        assert_ne!(one, run(&Setting { seed: 8, ..setting }, Policy::Openledger, 0.1, Start::Steady));
    }

    #[test]
    fn honest_nodes_pay_what_each_policy_says() {
        let setting = setting(0.0);
        let cost = |policy, start| {
            let row = run(&setting, policy, 1.0, start);
            assert_eq!((row.wrong_ppm, row.caught, row.undetected_pct), (0.0, 0, 0.0));
            row.overhead_pct
        };
        assert_eq!(cost(Policy::FullRerun, Start::Cold), 100.0);
        assert_eq!(cost(Policy::Replication, Start::Cold), 100.0);
        // 600,000 draws: five standard errors are 0.18.
        assert!((cost(Policy::ProofOfSampling, Start::Cold) - 8.0).abs() < 0.18);
        // Thirty of the first 1,500 results and one in a hundred of the others, 0.21 each; some nodes leave, and newcomers come.
        let ours = cost(Policy::Openledger, Start::Cold);
        assert!((0.6..0.75).contains(&ours), "{ours}");
        assert!(cost(Policy::Openledger, Start::Steady) < 0.3);
        // Ten replicated results, then one in as many as were valid: (n + 1) n / 2 tasks for n, two copies in each.
        let boinc = cost(Policy::BoincAdaptive, Start::Cold);
        assert!((1.5..4.5).contains(&boinc), "{boinc}");
    }

    #[test]
    fn who_always_cheats_is_found_at_once_and_who_seldom_does_later() {
        let setting = setting(0.1);
        let [always, seldom] = [1.0, 0.1].map(|rate| run(&setting, Policy::Openledger, rate, Start::Cold));
        assert_eq!((always.delay_tasks_p50, always.undetected_pct), (Some(1), 0.0));
        assert!(always.wrong_ppm < 150.0 && always.caught >= 40, "{always:?}");
        assert!(seldom.wrong_ppm < 800.0, "{seldom:?}");
        assert!(
            always.wrong_ppm_interval_95[0] < always.wrong_ppm && always.wrong_ppm < always.wrong_ppm_interval_95[1]
        );
    }

    #[test]
    fn what_two_hostile_nodes_agree_on_gets_through_replication() {
        // A tenth of a tenth, and two of three where the first two differ.
        let row = run(&setting(0.1), Policy::Replication, 1.0, Start::Cold);
        assert!((15_000.0..45_000.0).contains(&row.wrong_ppm), "{row:?}");
        assert_eq!(run(&setting(0.1), Policy::FullRerun, 1.0, Start::Cold).wrong_ppm, 0.0);
    }

    #[test]
    fn a_sleeper_has_its_honest_time_and_is_found_by_the_floor() {
        let row = row(&setting(0.1), Policy::Openledger, 1.0, SLEEPER_TASKS, Start::Steady);
        // The median of a geometric time at 1 % and 95 % is 73.
        let wrong = row.delay_wrong_p50.unwrap();
        assert!((20..=180).contains(&wrong), "{row:?}");
    }

    #[test]
    fn stated_values_are_about_as_often_right_as_they_say() {
        let setting = setting(0.1);
        let mut network = Network::new(&setting, Policy::Openledger, Cheats::Mixed);
        network.states_values = true;
        let found = network.run(Start::Cold).tally.reliability(Cheats::Mixed);
        // Where many results are, of newcomers and of nodes with some audits.
        let large = found.bins.iter().filter(|bin| bin.results > 2_000);
        for bin in large {
            assert!((bin.right - bin.stated).abs() < 0.02, "{bin:?}");
        }
        assert!(found.brier < 0.01 && found.bins.len() >= 4, "{found:?}");
    }
}
