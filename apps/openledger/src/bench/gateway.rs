//! `openledger bench gateway`.

use super::children::{Gateway, Process};
use super::load::{self, Asked};
use super::measure::{self, Meter, Phase, median};
use super::{floor, machine, progress};
use crate::logging::say;
use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Requests at the same time.
const IN_FLIGHT: [usize; 3] = [1, 32, 256];

/// Requests at the same time where a figure is for one load only.
const TYPICAL: usize = 32;

/// Wait for the nodes to join.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// Measure coordination: a gateway and nodes that answer at once, each in its own process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Length of a phase.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// Rounds; every figure is the median over them.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Tokens of the longer answers; figures for a token compare them with answers of one.
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=4_096))]
    tokens: u32,
    /// Nodes, each of another operator. With five or more they audit each other.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
}

// All phases of all rounds.
#[derive(Default)]
struct Rounds {
    floor: [Vec<Phase>; IN_FLIGHT.len()],
    whole: [Vec<Phase>; IN_FLIGHT.len()],
    long: Vec<Phase>,
    streamed_alone: Vec<Phase>,
    streamed: Vec<Phase>,
}

/// Runs `openledger bench gateway`. Fails if a task fails.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("openledger-bench-").tempdir().context("no temporary folder")?;
    let gateway = Gateway::start(&folder.path().join("gateway"), &[])?;
    let referee = gateway.referee(args.tokens, &folder.path().join("gateway"))?;
    let nodes = (0..args.nodes)
        .map(|number| gateway.node(args.tokens, &folder.path().join(format!("node-{number}"))))
        .collect::<anyhow::Result<Vec<Process>>>()?;
    let floor = floor::start()?;
    // One thread: the fewer processors the load generator takes, the less it disturbs.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = runtime.block_on(async {
        joined(&gateway, args.nodes).await?;
        let rounds = measure(args, &gateway, floor).await?;
        anyhow::Ok(report(args, &gateway, &rounds))
    })?;
    drop((nodes, referee));
    let record = machine::stamp(record);
    if args.json {
        say(record.to_string())
    } else {
        tell(&record)
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn joined(gateway: &Gateway, nodes: u32) -> anyhow::Result<()> {
    let all = async {
        while measure::metric(gateway, "openledger_nodes_connected").await? < u64::from(nodes) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(JOIN_LIMIT, all).await {
        Ok(result) => result,
        Err(_) => bail!("the nodes did not join in {} s", JOIN_LIMIT.as_secs()),
    }
}

async fn measure(args: &Args, gateway: &Gateway, floor: std::net::SocketAddr) -> anyhow::Result<Rounds> {
    let time = Duration::try_from_secs_f64(args.seconds).context("--seconds is no length of time")?;
    let chat = |tokens, streamed| load::chat(gateway.address, &gateway.key, tokens, streamed);
    let (short, long, stream) = (chat(1, false), chat(args.tokens, false), chat(args.tokens, true));
    let bare = Asked { address: floor, request: short.request.clone() };
    let bar = progress::bar(u64::from(args.rounds) * (2 * IN_FLIGHT.len() as u64 + 3));
    let mut meter = Meter::new(gateway);
    let mut rounds = Rounds::default();
    for _ in 0..args.rounds {
        for (level, in_flight) in IN_FLIGHT.into_iter().enumerate() {
            step(&bar, &format!("floor, {in_flight} in flight"));
            rounds.floor[level].push(measure::floor(&bare, in_flight, time).await?);
            step(&bar, &format!("gateway, {in_flight} in flight"));
            rounds.whole[level].push(meter.phase(&short, in_flight, time).await?);
        }
        step(&bar, "longer answers");
        rounds.long.push(meter.phase(&long, TYPICAL, time).await?);
        step(&bar, "streams");
        rounds.streamed_alone.push(meter.phase(&stream, 1, time).await?);
        rounds.streamed.push(meter.phase(&stream, TYPICAL, time).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rounds)
}

fn step(bar: &ProgressBar, what: &str) {
    bar.set_message(what.to_owned());
    bar.inc(1);
}

fn report(args: &Args, gateway: &Gateway, rounds: &Rounds) -> Value {
    let typical = IN_FLIGHT.iter().position(|in_flight| *in_flight == TYPICAL).unwrap_or(0);
    let whole = &rounds.whole;
    let added = |figure: fn(&Phase) -> f64| tenth(median(&whole[0], figure) - median(&rounds.floor[0], figure));
    let long_us = median(&rounds.long, |phase| phase.cpu_us_per_task);
    let short_us = median(&whole[typical], |phase| phase.cpu_us_per_task);
    let first_us = median(&rounds.streamed_alone, |phase| phase.first_token_us_p50);
    let streamed_us = median(&rounds.streamed, |phase| phase.cpu_us_per_task);
    let all = || whole.iter().flatten().chain(&rounds.long).chain(&rounds.streamed_alone).chain(&rounds.streamed);
    let sum = |count: fn(&Phase) -> u64| all().map(count).sum::<u64>();
    json!({
        "cpu_us_per_task": by_level(whole, |phase| phase.cpu_us_per_task),
        "cpu_us_per_task_min": least(whole),
        "link_frames_per_task": by_level(whole, |phase| phase.frames_per_task),
        "link_bytes_per_task": by_level(whole, |phase| phase.bytes_per_task),
        "link_frames_per_stream": tenth(median(&rounds.streamed, |phase| phase.frames_per_task)),
        "link_bytes_per_stream": tenth(median(&rounds.streamed, |phase| phase.bytes_per_task)),
        "cpu_us_per_task_by_thread": by_thread(&whole[typical]),
        "cpu_us_per_further_token": tenth((long_us - short_us) / f64::from(args.tokens - 1)),
        "cpu_us_per_token_streamed": tenth(streamed_us / f64::from(args.tokens)),
        "added_latency_us_p50": added(|phase| phase.latency_us_p50),
        "added_latency_us_p99": added(|phase| phase.latency_us_p99),
        "added_time_to_first_token_us_p50": tenth(first_us - median(&rounds.floor[0], |phase| phase.latency_us_p50)),
        "latency_us_p50": by_level(whole, |phase| phase.latency_us_p50),
        "latency_us_p99": by_level(whole, |phase| phase.latency_us_p99),
        "floor_latency_us_p50": tenth(median(&rounds.floor[0], |phase| phase.latency_us_p50)),
        "floor_latency_us_p99": tenth(median(&rounds.floor[0], |phase| phase.latency_us_p99)),
        "tasks_per_second": by_level(whole, |phase| phase.tasks_per_second),
        "floor_tasks_per_second": by_level(&rounds.floor, |phase| phase.tasks_per_second),
        "tasks": sum(|phase| phase.tasks),
        "receipts_logged": sum(|phase| phase.receipts),
        "audits_drawn": sum(|phase| phase.audits_drawn),
        "audits_passed": sum(|phase| phase.audits_passed),
        "gateway_resident_kib": gateway.process.resident_kib(),
        "tokens": args.tokens,
        "nodes": args.nodes,
        "seconds": args.seconds,
        "rounds": args.rounds,
    })
}

// A tenth of a microsecond is finer than anything measured here.
fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn by_level(phases: &[Vec<Phase>; IN_FLIGHT.len()], figure: fn(&Phase) -> f64) -> Value {
    let pairs = IN_FLIGHT.iter().zip(phases);
    pairs.map(|(level, phases)| (level.to_string(), json!(tenth(median(phases, figure))))).collect::<Map<_, _>>().into()
}

fn least(phases: &[Vec<Phase>; IN_FLIGHT.len()]) -> Value {
    let least = |phases: &[Phase]| phases.iter().map(|phase| phase.cpu_us_per_task).fold(f64::MAX, f64::min);
    let pairs = IN_FLIGHT.iter().zip(phases);
    pairs.map(|(level, phases)| (level.to_string(), json!(tenth(least(phases))))).collect::<Map<_, _>>().into()
}

fn by_thread(phases: &[Phase]) -> Value {
    let names = phases.first().map(|phase| phase.by_thread.keys().cloned().collect()).unwrap_or_default();
    let of = |name: &String| median(phases, |phase| phase.by_thread.get(name).copied().unwrap_or(0.0));
    let names: Vec<String> = names;
    names.iter().map(|name| (name.clone(), json!(tenth(of(name))))).collect::<Map<_, _>>().into()
}

fn tell(record: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    say(format!("{:<42}{:>10}{:>10}{:>10}", "in flight", 1, 32, 256));
    for (what, field) in [
        ("CPU of the gateway, us a task", "cpu_us_per_task"),
        ("latency p50, us", "latency_us_p50"),
        ("latency p99, us", "latency_us_p99"),
        ("tasks a second", "tasks_per_second"),
        ("bare server, requests a second", "floor_tasks_per_second"),
        ("messages with nodes, a task", "link_frames_per_task"),
        ("bytes with nodes, a task", "link_bytes_per_task"),
    ] {
        let cell = |level: &str| number(&record[field][level]);
        say(format!("{what:<42}{:>10.1}{:>10.1}{:>10.1}", cell("1"), cell("32"), cell("256")));
    }
    say(String::new());
    for (what, field) in [
        ("added latency p50, us", "added_latency_us_p50"),
        ("added latency p99, us", "added_latency_us_p99"),
        ("bare server's latency p50, us", "floor_latency_us_p50"),
        ("added time to first token p50, us", "added_time_to_first_token_us_p50"),
        ("CPU of a streamed token, us", "cpu_us_per_token_streamed"),
        ("CPU of a further token not streamed, us", "cpu_us_per_further_token"),
        ("messages with nodes, a stream", "link_frames_per_stream"),
        ("bytes with nodes, a stream", "link_bytes_per_stream"),
        ("tasks", "tasks"),
        ("receipts in the log", "receipts_logged"),
        ("audits drawn", "audits_drawn"),
        ("gateway's memory, KiB", "gateway_resident_kib"),
    ] {
        say(format!("{what:<42}{:>10.1}", number(&record[field])));
    }
}
