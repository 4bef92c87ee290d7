//! `openledger bench prefix`: what it is worth that a conversation goes on where its earlier turns are held.
//!
//! Every turn is asked twice, one after the other: in a conversation that goes on, and in one that is the same but for a number in its
//! first line, which is another each time, so that nothing of it is held anywhere.

use super::children::{Gateway, Process};
use super::load::{Asked, Connection};
use super::{gateway, machine, progress};
use crate::config::Role;
use crate::home::Home;
use crate::logging::say;
use crate::{fetch, flags, logging};
use anyhow::Context as _;
use indicatif::ProgressBar;
use ol_protocol::{Digest, NodeId, Scope, TokenCount, scope};
use ol_sched::{Prefix, Residency};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Turns of a conversation, and tokens of each answer.
const TURNS: usize = 6;
const ANSWER_TOKENS: u32 = 32;

/// Conversations at a time.
const CLIENTS: usize = 2;

/// Conversations that the gateway's memory holds while a look into it is measured, and turns of each.
const REMEMBERED: u32 = 16_384;
const REMEMBERED_TURNS: usize = 8;
const ROUNDS: u32 = 10;

/// What people talk about: one paragraph a conversation, and a question a turn.
const PARAGRAPHS: [&str; 4] = [
    "The harbour of the old town lies behind a mole of rough stone, which was built when the fishing fleet grew too large for the river's \
     mouth. In winter the ice reaches as far as the light at its end, and the boats stay in the inner basin for weeks. The pilots keep a \
     book of each year's first and last day of ice, which begins in the year of the great flood.",
    "A sourdough is kept alive by feeding it: flour and water go in each day, and half of it is taken out for bread. In a cool kitchen it \
     rises slowly and tastes sour, in a warm one it is quick and mild. Bakers of the valley say that a dough that was neglected for a week \
     comes back in three days, and one that was frozen in five.",
    "The committee that plans the new tram line has measured how many people walk between the station and the university at each hour of \
     the day. Most of them come in the half hour before nine, and few go back before four. A line that runs every five minutes would be \
     full twice a day and empty otherwise, unless the shops along the way stay open for longer.",
    "Before there were clocks in the villages, the day was divided by bells, and the hour of the evening bell moved with the season. The \
     first mechanical clocks were wrong by a quarter of an hour a day, and were set each noon by a line on the church's floor. Travellers \
     complained that it was noon in one town when it was ten past in the next.",
];
const QUESTIONS: [&str; TURNS] = [
    "What is this about? Answer in two sentences.",
    "Which detail of it surprises you most, and why?",
    "What would you ask somebody who was there?",
    "How would a child put it?",
    "What may the writer have left out?",
    "Give it a title, and say why you chose that one.",
];

/// Measure residency of conversations: a gateway, nodes with a real engine, each in its own process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Conversations of six turns.
    #[arg(long, value_name = "NUMBER", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    conversations: u32,
    /// Nodes, of one thread and two slots each.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    nodes: u32,
    /// GGUF file to serve instead of the default model; `tiny` is a random model that needs no download.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    common: flags::Common,
}

// One answer.
#[derive(Debug, Clone)]
struct Answer {
    first_token: Duration,
    prompt_tokens: u64,
    cached_tokens: u64,
    node: String,
    text: String,
}

// The answers to one turn.
#[derive(Debug, Clone)]
struct Turn {
    number: usize,
    warm: Answer,
    cold: Answer,
    // Whether the node that answered the turn before answered this one.
    is_home: bool,
}

/// Runs `openledger bench prefix`. Fails if a request fails.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut config = flags::load(Role::Node, &args.common, None, None, None, None)?;
    config.model = args.model.clone().or(config.model);
    logging::start(&config.log, config.log_format)?;
    let model = match config.model {
        Some(path) => path,
        None => fetch::ensure(Home::open(&config.data_dir)?.sub("models")?.path(), fetch::Progress::detect())?.llama,
    };
    let folder = tempfile::Builder::new().prefix("openledger-bench-").tempdir().context("no temporary folder")?;
    let gateway = Gateway::start(&folder.path().join("gateway"), &[])?;
    let nodes = (0..args.nodes)
        .map(|number| gateway.engine(&model, &folder.path().join(format!("node-{number}"))))
        .collect::<anyhow::Result<Vec<Process>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bar = progress::bar(u64::from(args.conversations) * TURNS as u64);
    let asker = Asker { address: gateway.address, key: gateway.key.clone(), model: name(&model) };
    let turns = runtime.block_on(async {
        gateway::joined(&gateway, args.nodes).await?;
        all(&asker, args.conversations, &bar).await
    })?;
    bar.finish_and_clear();
    drop(nodes);
    let record = machine::stamp(report(args, &asker.model, &turns));
    if args.json {
        say(record.to_string());
    } else {
        tell(&record);
    }
    Ok(ExitCode::SUCCESS)
}

// By which the model of a file is asked for.
fn name(model: &Path) -> String {
    let stem = model.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    stem.rsplit_once("-q").map_or(stem.clone(), |(name, _)| name.to_owned())
}

// Whom to ask, and for what model.
#[derive(Clone)]
struct Asker {
    address: SocketAddr,
    key: String,
    model: String,
}

async fn all(asker: &Asker, conversations: u32, bar: &ProgressBar) -> anyhow::Result<Vec<Turn>> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (asker, bar) = (asker.clone(), bar.clone());
        clients.spawn(async move {
            let mut turns = Vec::new();
            for number in (client..conversations as usize).step_by(CLIENTS) {
                turns.extend(asker.conversation(number, &bar).await?);
            }
            anyhow::Ok(turns)
        });
    }
    let turns: Vec<Vec<Turn>> = clients.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(turns.concat())
}

impl Asker {
    async fn conversation(&self, number: usize, bar: &ProgressBar) -> anyhow::Result<Vec<Turn>> {
        let mut messages = vec![say_as("system", "")];
        let (mut turns, mut last): (Vec<Turn>, Option<String>) = (Vec::new(), None);
        for (turn, question) in QUESTIONS.into_iter().enumerate() {
            let paragraph = if turn == 0 { PARAGRAPHS[number % PARAGRAPHS.len()] } else { "" };
            messages.push(say_as("user", &format!("{paragraph} {question}")));
            let warm = Instruction { conversation: number, turn: 0 };
            let cold = Instruction { conversation: number, turn: turn + 1 };
            // Who comes second may find the machine busier.
            let (warm, cold) = if (number + turn).is_multiple_of(2) {
                let warm = self.ask(warm, &mut messages).await?;
                (warm, self.ask(cold, &mut messages).await?)
            } else {
                let cold = self.ask(cold, &mut messages).await?;
                (self.ask(warm, &mut messages).await?, cold)
            };
            messages.push(say_as("assistant", &warm.text));
            let is_home = last.replace(warm.node.clone()).is_some_and(|before| before == warm.node);
            turns.push(Turn { number: turn, warm, cold, is_home });
            bar.inc(1);
        }
        Ok(turns)
    }

    async fn ask(&self, instruction: Instruction, messages: &mut [Value]) -> anyhow::Result<Answer> {
        messages[0] = say_as("system", &instruction.text());
        let body = json!({
            "model": self.model,
            "messages": messages,
            "max_tokens": ANSWER_TOKENS,
            "seed": 7,
            "temperature": 0.7,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let Self { address, key, .. } = self;
        let body = body.to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut connection = Connection::open(Asked { address: *address, request: request.into_bytes() }).await?;
        let answer = connection.ask().await?;
        let first_token = answer.first_token.context("an answer without a token")?;
        Answer::read(first_token, &connection.received())
    }
}

// The first line of a conversation.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    conversation: usize,
    // 0 in the one that goes on.
    turn: usize,
}

impl Instruction {
    fn text(self) -> String {
        format!("Part {} of conversation {:04}. Be a helpful and precise assistant.", self.turn, self.conversation)
    }
}

fn say_as(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content.trim()})
}

impl Answer {
    // From the events of a stream.
    fn read(first_token: Duration, stream: &str) -> anyhow::Result<Self> {
        let events = stream.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok());
        let events: Vec<Value> = events.collect();
        let text = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        let usage = events.iter().map(|event| &event["usage"]).rfind(|usage| !usage.is_null());
        let usage = usage.context("a stream without usage")?;
        let node = events.iter().rev().find_map(|event| event["openledger"]["node"].as_str());
        Ok(Self {
            first_token,
            prompt_tokens: usage["prompt_tokens"].as_u64().unwrap_or(0),
            cached_tokens: usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0),
            node: node.context("an answer of nobody")?.to_owned(),
            text,
        })
    }
}

fn report(args: &Args, model: &str, turns: &[Turn]) -> Value {
    // Of a first turn nothing can be held.
    let later: Vec<&Turn> = turns.iter().filter(|turn| turn.number > 0).collect();
    let side = |of: fn(&Turn) -> &Answer| {
        let answers = || later.iter().map(|turn| of(turn));
        let (prompt, cached) =
            (answers().map(|it| it.prompt_tokens).sum::<u64>(), answers().map(|it| it.cached_tokens).sum::<u64>());
        let mut ms: Vec<f64> = answers().map(|it| it.first_token.as_secs_f64() * 1e3).collect();
        json!({
            "prompt_tokens": prompt,
            "computed_tokens": prompt - cached,
            "first_token_ms_p50": quantile(&mut ms, 0.5),
            "first_token_ms_p99": quantile(&mut ms, 0.99),
        })
    };
    let (warm, cold) = (side(|turn| &turn.warm), side(|turn| &turn.cold));
    let share = |part: f64, whole: f64| (part / whole.max(1.0) * 1e4).round() / 1e4;
    let computed = |side: &Value| side["computed_tokens"].as_f64().unwrap_or(0.0);
    let home = later.iter().filter(|turn| turn.is_home).count();
    let mut ratios: Vec<f64> =
        later.iter().map(|turn| turn.warm.first_token.as_secs_f64() / turn.cold.first_token.as_secs_f64()).collect();
    json!({
        "model": model,
        "conversations": args.conversations,
        "nodes": args.nodes,
        "turns": TURNS,
        "later_turns": later.len(),
        "answered_where_the_last_was": share(home as f64, later.len() as f64),
        "prefill_saved": share(computed(&cold) - computed(&warm), computed(&cold)),
        "first_token_ratio_p50": (quantile(&mut ratios, 0.5) * 100.0).round() / 100.0,
        "with": warm,
        "without": cold,
        "gateway_us_per_task": gateway_us(),
    })
}

// What the ninth turn of a conversation that nobody answered costs the gateway, by the wall clock: digests of its messages, a look for each of
// its beginnings, and one more conversation to remember.
fn gateway_us() -> f64 {
    let node = NodeId([7; 32]);
    let content = "x".repeat(256);
    let begin =
        |number: u32| scope::empty(&[1; 32], &Scope([number.to_le_bytes(); 4].concat().try_into().unwrap_or([0; 16])));
    let prefixes = |number: u32| -> Vec<Prefix> {
        let next = |before: &mut Digest, _| {
            *before = scope::next(&scope::next(before, "user", &content), "assistant", &content);
            Some(Prefix { digest: *before, tokens: TokenCount(100) })
        };
        (0..REMEMBERED_TURNS).scan(begin(number), next).collect()
    };
    let mut residency = Residency::default();
    let mut remember = |number: u32| {
        let prefixes = prefixes(number);
        // A choice asks twice.
        let found = (0..2).filter(|_| residency.find(&prefixes).is_some()).count();
        if let Some(last) = prefixes.last() {
            residency.answered(last.digest, node);
        }
        found
    };
    let mut found: usize = (0..REMEMBERED).map(&mut remember).sum();
    let mut least = f64::MAX;
    // Others disturb the machine: the best round counts.
    for round in 1..=ROUNDS {
        let began = Instant::now();
        found += (round * REMEMBERED..(round + 1) * REMEMBERED).map(&mut remember).sum::<usize>();
        least = least.min(began.elapsed().as_secs_f64() * 1e6 / f64::from(REMEMBERED));
    }
    assert_eq!(found, 0, "conversations that nobody began");
    (least * 100.0).round() / 100.0
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (share * values.len().saturating_sub(1) as f64).round() as usize;
    values.get(at).map_or(0.0, |value| (value * 100.0).round() / 100.0)
}

fn tell(record: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    say(format!("{:<44}{:>12}{:>12}", "turns after the first", "with", "without"));
    for (what, field) in [
        ("prompt tokens", "prompt_tokens"),
        ("of them computed", "computed_tokens"),
        ("time to first token p50, ms", "first_token_ms_p50"),
        ("time to first token p99, ms", "first_token_ms_p99"),
    ] {
        say(format!("{what:<44}{:>12.1}{:>12.1}", number(&record["with"][field]), number(&record["without"][field])));
    }
    for (what, field) in [
        ("answered by the node of the turn before", "answered_where_the_last_was"),
        ("prefill saved", "prefill_saved"),
        ("time to first token, with over without, p50", "first_token_ratio_p50"),
        ("digests and look-ups in the gateway, us a task", "gateway_us_per_task"),
    ] {
        say(format!("{what:<48}{:>8.3}", number(&record[field])));
    }
}
