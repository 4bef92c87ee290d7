//! `openledger sim` and `openledger replay`: the same core without a network.

use crate::logging::say;
use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ol_drive::log::{Frame, OutputDigest, Reader};
use ol_protocol::Machine as _;
use ol_protocol::Micros;
use ol_protocol::id::hex;
use ol_roles::Gateway;
use ol_roles::gateway::codec::Origin;
use ol_roles::gateway::event::Input;
use ol_sim::coordination;
use ol_sim::trust::{Row, Setting};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Run the same gateway and node code in simulated time.
#[derive(Debug, clap::Args)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    what: Sim,
}

#[derive(Debug, clap::Subcommand)]
enum Sim {
    /// One network for some simulated time; every invariant is checked after every step.
    Run(RunArgs),
    /// Policies of verification side by side: cost, wrong results that went out, and when cheats are found.
    Trust(TrustArgs),
    /// Ways to choose a node where many are slow: how long answers take, and how much work is done twice.
    Tails(CoordinationArgs),
    /// Ways to choose a node where some take more than they can do, or begin and do not go on.
    Promises(CoordinationArgs),
    /// The same where nodes are killed, a region is lost, or all start at once.
    Churn(CoordinationArgs),
    /// The same where more is asked for than can be answered.
    Overload(CoordinationArgs),
    /// The same in five regions, of which one asks for more than it has for a while: what spills over, and comes back.
    Regions(CoordinationArgs),
    /// Adversaries side by side: what each gains, when it is found, and whether it profits.
    Adversaries(AdversariesArgs),
}

#[derive(Debug, clap::Args)]
struct CoordinationArgs {
    /// Seed of everything random.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct AdversariesArgs {
    /// Seed of everything random.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct TrustArgs {
    /// Seed of everything random.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Nodes.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    /// Simulated seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Requests a second.
    #[arg(long, value_name = "NUMBER", default_value_t = 20.0)]
    rate: f64,
    /// Seed of everything random.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Share of the nodes that leave and come back in a minute.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    churn: f64,
    /// How long clients wait for their answers.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    deadline: f64,
    /// Nodes that cheat.
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    cheaters: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `openledger sim`.
pub(crate) fn run(args: &SimArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        Sim::Run(args) => network(args),
        Sim::Trust(args) => trust(args),
        Sim::Tails(args) => coordination(args, coordination::tails),
        Sim::Promises(args) => coordination(args, coordination::promises),
        Sim::Churn(args) => coordination(args, coordination::churn),
        Sim::Overload(args) => coordination(args, coordination::overload),
        Sim::Regions(args) => regions(args),
        Sim::Adversaries(args) => adversaries(args),
    }
}

fn bar(message: &'static str) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed} (left: {eta})")?;
    Ok(ProgressBar::new(0).with_style(style).with_message(message))
}

fn network(args: &RunArgs) -> anyhow::Result<ExitCode> {
    if !(args.rate.is_finite() && args.rate > 0.0 && args.rate <= 1e6) {
        bail!("--rate must be above 0 and at most 1000000 requests a second");
    }
    if !(0.0..=60.0).contains(&args.churn) {
        bail!("--churn must be between 0 and 60 of the nodes a minute");
    }
    if !(0.1..=3_600.0).contains(&args.deadline) {
        bail!("--deadline must be between 0.1 and 3600 seconds");
    }
    let deadline = Micros((args.deadline * 1e6) as u64);
    let config = ol_sim::Config {
        nodes: args.nodes,
        seconds: args.seconds,
        rate: args.rate,
        seed: args.seed,
        demand: ol_sim::Demand { deadline, ..ol_sim::Demand::default() },
        churn_per_minute: args.churn * f64::from(args.nodes),
        cheaters: args.cheaters.min(args.nodes),
        ..ol_sim::Config::default()
    };
    let began = Instant::now();
    let report = ol_sim::run(&config).context("the simulation broke an invariant")?;
    let wall_s = began.elapsed().as_secs_f64();
    let value = serde_json::to_value(&report)?;
    if args.json {
        say(value.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        say(format!("{:<20} {}", name.replace('_', " "), value.to_string().trim_matches('"')));
    }
    say(format!("{:<20} {wall_s:.2} s", "took"));
    Ok(ExitCode::SUCCESS)
}

fn trust(args: &TrustArgs) -> anyhow::Result<ExitCode> {
    let setting = Setting::new(args.seed);
    let bar = bar("policies and cheats")?;
    let mut progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let rows = ol_sim::trust::compare(&setting, &mut progress);
    bar.set_message("trust values");
    bar.reset_eta();
    let reliability = ol_sim::trust::reliability(&setting, &mut progress);
    bar.finish_and_clear();
    if args.json {
        say(serde_json::json!({ "setting": setting, "rows": rows, "reliability": reliability }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    say(format!(
        "{:<23} {:<6} {:>5} {:>10} {:>10} {:>11} {:>11} {:>11}",
        "policy", "start", "cheat", "overhead %", "wrong ppm", "until found", "wrong ones", "not found %"
    ));
    for row in &rows {
        say(line(row)?);
    }
    for found in &reliability {
        say(format!(
            "\ntrust values where hostile nodes are {}: Brier score {:.6}, of the mean {:.6}",
            serde_json::to_string(&found.cheats)?,
            found.brier,
            found.brier_of_the_mean
        ));
        for bin in &found.bins {
            say(format!("stated {:.5}: {:.5} right, of {}", bin.stated, bin.right, bin.results));
        }
    }
    Ok(ExitCode::SUCCESS)
}

type Comparison =
    fn(&coordination::Setting, &mut dyn FnMut(u64, u64)) -> Result<Vec<coordination::Row>, ol_sim::Violation>;

fn coordination(args: &CoordinationArgs, compare: Comparison) -> anyhow::Result<ExitCode> {
    let bar = bar("policies")?;
    let broken = "the simulation broke an invariant";
    let setting = coordination::Setting::new(args.seed);
    let mut progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let rows = compare(&setting, &mut progress).context(broken)?;
    bar.finish_and_clear();
    if args.json {
        say(serde_json::json!({ "setting": setting, "rows": rows }).to_string());
    } else {
        show(&rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn regions(args: &CoordinationArgs) -> anyhow::Result<ExitCode> {
    let bar = bar("policies")?;
    let setting = coordination::Setting::new(args.seed);
    let mut progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let (rows, regions) =
        coordination::regions(&setting, &mut progress).context("the simulation broke an invariant")?;
    bar.finish_and_clear();
    if args.json {
        say(serde_json::json!({ "setting": setting, "rows": rows, "regions": regions }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    show(&rows);
    let mut policy = "";
    for row in &regions {
        if std::mem::replace(&mut policy, row.policy) != row.policy {
            say(format!(
                "\n{}\n{:<7} {:>6} {:>8} {:>8} {:>7} {:>7} {:>8} {:>9}",
                row.policy, "", "region", "asked %", "busy %", "p50 ms", "p99 ms", "spilt %", "refused %"
            ));
        }
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        let of = &row.of;
        say(format!(
            "{:<7} {:>6} {:>8} {:>8} {:>7} {:>7} {:>8} {:>9}",
            row.when,
            of.region,
            percent(of.asked),
            percent(of.utilisation),
            of.p50_ms,
            of.p99_ms,
            percent(of.spilled),
            percent(of.refused),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(rows: &[coordination::Row]) {
    let mut situation = "";
    for row in rows {
        if std::mem::replace(&mut situation, row.situation) != row.situation {
            say(format!("\n{}; {} nodes, {} s", row.situation, row.nodes, row.seconds));
            say(format!(
                "{:<21} {:>5} {:>7} {:>7} {:>8} {:>7} {:>9} {:>6} {:>5} {:>5} {:>7} {:>9} {:>11}",
                "policy",
                "load",
                "p50 ms",
                "p99 ms",
                "p99/p50",
                "stretch",
                "second %",
                "work %",
                "lost",
                "twice",
                "refused",
                "goodput %",
                "restored ms"
            ));
        }
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        say(format!(
            "{:<21} {:>5} {:>7} {:>7} {:>8} {:>7} {:>9} {:>6} {:>5} {:>5} {:>7} {:>9} {:>11}",
            row.policy,
            row.load,
            row.p50_ms,
            row.p99_ms,
            row.p99_over_p50,
            row.stretch_p99_over_p50,
            row.second_attempts_pct,
            row.extra_work_pct,
            row.lost,
            row.paid_twice,
            row.refused,
            or_dash(row.goodput_pct_of_peak.map(|share| share.to_string())),
            or_dash(row.restored_after_ms.map(|ms| ms.to_string())),
        ));
    }
}

fn line(row: &Row) -> anyhow::Result<String> {
    let value = serde_json::to_value(row)?;
    let text = |name: &str| match &value[name] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "never".to_owned(),
        other => other.to_string(),
    };
    let sleeper =
        if row.honest_first > 0 { format!(" after {} honest tasks", row.honest_first) } else { String::new() };
    Ok(format!(
        "{:<23} {:<6} {:>5} {:>10} {:>10} {:>11} {:>11} {:>11}{sleeper}",
        text("policy"),
        text("start"),
        text("cheat_rate"),
        text("overhead_pct"),
        text("wrong_ppm"),
        text("delay_tasks_p50"),
        text("delay_wrong_p50"),
        text("undetected_pct"),
    ))
}

fn adversaries(args: &AdversariesArgs) -> anyhow::Result<ExitCode> {
    let setting = ol_sim::adversaries::Setting::new(args.seed);
    let bar = bar("adversaries")?;
    let rows = ol_sim::adversaries::compare(&setting, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    if args.json {
        say(serde_json::json!({ "setting": setting, "rows": rows }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    say(format!(
        "{:<48} {:<14} {:>6} {:>11} {:>12} {:>8} (of an honest one's) profits; where tasks may become public",
        "adversary", "verifier", "gain", "found after", "never found", "income"
    ));
    for row in &rows {
        let value = serde_json::to_value(row)?;
        let text = |name: &str| match &value[name] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let [low, high] = row.income_vs_honest_interval_95;
        let word = |profits: bool| if profits { "PROFITS" } else { "no" };
        let public = |of: &ol_sim::adversaries::WherePublic| {
            format!("{:.0} %: {} {}", of.share * 100.0, of.income_vs_honest, word(of.profits))
        };
        say(format!(
            "{:<48} {:<14} {:>6} {:>11} {:>10} % {:>8} ({low:.3} to {high:.3}) {}; {}",
            text("adversary"),
            text("verifier"),
            text("gain_per_task"),
            text("found_after_tasks_p50"),
            text("never_found_pct"),
            text("income_vs_honest"),
            word(row.profits),
            row.where_public.iter().map(public).collect::<Vec<_>>().join(", "),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Feed a recorded event log through the core and compare the outputs.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The log, as `openledger gateway --event-log FILE` wrote it.
    #[arg(value_name = "LOG")]
    log: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `openledger replay`.
pub(crate) fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let path = args.log.display();
    let mut reader = Reader::open(&args.log)?;
    let Some(Frame::Setup(bytes)) = reader.next_frame()? else { bail!("{path} does not begin with a setup") };
    let origin = Origin::from_bytes(&bytes).with_context(|| format!("the setup in {path}"))?;
    let now = origin.now;
    let mut gateway = Gateway::new(now, origin.setup().with_context(|| format!("the ledger in {path}"))?);
    let mut outputs = Vec::new();
    let (mut digest, mut inputs, mut produced, mut compared) = (OutputDigest::default(), 0u64, 0u64, 0u64);
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {pos} events {elapsed}")?);
    while let Some(frame) = reader.next_frame()? {
        match frame {
            Frame::Setup(_) => bail!("{path} has two setups"),
            Frame::Input(now, bytes) => {
                let input = Input::from_bytes(&bytes).with_context(|| format!("input {inputs} in {path}"))?;
                gateway.handle(now, input, &mut outputs);
                inputs += 1;
                produced += outputs.len() as u64;
                for output in outputs.drain(..) {
                    digest.add(&output);
                }
                bar.set_position(inputs);
            }
            Frame::Outputs(said) => {
                compared += 1;
                if said != digest.value() {
                    bar.finish_and_clear();
                    bail!("the outputs differ from the recorded ones at or before input {inputs}");
                }
            }
        }
    }
    bar.finish_and_clear();
    anyhow::ensure!(compared > 0, "{path} has no digest to compare with: the gateway ended before it wrote one");
    let digest = hex(&digest.value());
    if args.json {
        let object = serde_json::json!({
            "inputs": inputs, "outputs": produced, "digests_compared": compared, "digest": digest, "equal": true,
        });
        say(object.to_string());
    } else {
        say(format!(
            "{inputs} inputs gave the {produced} recorded outputs; {compared} digests compared, the last is {digest}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}
