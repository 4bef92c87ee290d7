//! `openledger bench trust`.

use super::verdicts::{Reach, Seen, false_positives, verdicts};
use super::{machine, progress, vectors};
use crate::config::Role;
use crate::home::Home;
use crate::logging::say;
use crate::{calibrations, fetch, flags, logging, models};
use anyhow::Context as _;
use indicatif::ProgressBar;
use ol_engine::pair::{Answer, Plan, Settings, clipped_means, observe};
use ol_engine::{Cheat, Model, Options, Rounding, requantise, start};
use ol_protocol::calibration::Calibration;
use ol_trust::Odds;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Generations at the same time.
const SLOTS: u32 = 8;
/// Longest answer, in tokens.
const TOKENS_MAX: u32 = 128;
/// Margin over which an audit fails, and tolerance at truncation boundaries, in nats.
const LIMIT: f32 = 0.05;
/// Lengths of prefixes whose means are written out are all multiples of this, and powers of two before it.
const PREFIX_STEP: usize = 16;

/// Measure how many audits and tokens it takes to convict each kind of cheat, and how often honest answers fail.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    /// Answers of each kind of cheat.
    #[arg(long, value_name = "NUMBER", default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) answers: u32,
    /// Honest answers.
    #[arg(long, value_name = "NUMBER", default_value_t = 480, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) honest: u32,
    /// Decides the tasks, which are the same for all provers.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) seed: u64,
    /// Measure the model that turns text into vectors in place of the one that continues text.
    #[arg(long, conflicts_with = "raw")]
    embeddings: bool,
    /// GGUF file (with --embeddings: folder) to measure instead of the default model; `tiny` is a random model that needs no download.
    #[arg(long, value_name = "FILE")]
    pub(super) model: Option<PathBuf>,
    /// File to write each answer's margins to, as JSON, after every prover anew.
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Threads that compute.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) threads: u32,
    #[command(flatten)]
    pub(super) common: flags::Common,
}

/// Who is checked.
#[derive(Debug, Clone, Copy)]
enum Prover {
    Honest,
    /// A node whose file holds the same weights, rounded.
    Rounded(Rounding),
    Cheat(Cheat),
}

impl Prover {
    fn all(has_file: bool) -> Vec<Self> {
        let files = [Rounding::Q8_0, Rounding::Q4_0].map(Self::Rounded);
        let files = files.into_iter().filter(|_| has_file);
        [Self::Honest].into_iter().chain(files).chain(Cheat::ALL.map(Self::Cheat)).collect()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Rounded(Rounding::Q8_0) => "file-q8_0",
            Self::Rounded(Rounding::Q4_0) => "file-q4_0",
            Self::Cheat(cheat) => cheat.name(),
        }
    }

    /// The model it runs.
    fn model(self, path: &Path, honest: &Arc<Model>) -> anyhow::Result<Arc<Model>> {
        match self {
            Self::Honest | Self::Cheat(_) => Ok(honest.clone()),
            Self::Rounded(rounding) => {
                let file = requantise(&fs::read(path).context("cannot read the model")?, rounding)?;
                Ok(Arc::new(Model::from_gguf(&honest.variant().name, &file)?))
            }
        }
    }

    const fn cheat(self) -> Option<Cheat> {
        match self {
            Self::Honest | Self::Rounded(_) => None,
            Self::Cheat(cheat) => Some(cheat),
        }
    }
}

/// One prover and its answers.
struct Row {
    prover: Prover,
    weights: [u8; 32],
    quantisation: String,
    answers: Vec<Answer>,
}

/// Runs `openledger bench trust`.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.embeddings {
        return vectors::run(args);
    }
    let config = flags::load(Role::Node, &args.common, None, None, None, None)?;
    logging::start(&config.log, config.log_format)?;
    let path = match args.model.clone().or(config.model) {
        Some(path) => path,
        None => fetch::ensure(Home::open(&config.data_dir)?.sub("models")?.path(), fetch::Progress::detect())?.llama,
    };
    let honest = Arc::new(models::named(&path, None)?);
    let verifier = start(honest.clone(), Options { slots: SLOTS, threads: args.threads, cheat: None });
    let provers = Prover::all(path.is_file());
    let data = Home::open(&config.data_dir)?;
    let variant = ol_node::content::variant(verifier.variant()).id();
    let calibration = calibrations::load(&data)?.into_iter().find(|of| (of.prover, of.verifier) == (variant, variant));
    let calibration = calibration.context("this model is not calibrated: run openledger calibrate first")?;
    let odds = Odds::new(&calibration);
    let size = |prover: &Prover| if matches!(prover, Prover::Honest) { args.honest } else { args.answers };
    let bar = progress::bar(provers.iter().map(|prover| u64::from(size(prover))).sum());
    let mut rows = Vec::with_capacity(provers.len());
    for prover in provers {
        bar.set_message(prover.name());
        let model = prover.model(&path, &honest)?;
        let variant = model.variant();
        let (weights, quantisation) = (variant.weights, variant.quantisation.clone());
        let engine = start(model, Options { slots: SLOTS, threads: args.threads, cheat: prover.cheat() });
        let plan = Plan { answers: size(&prover), tokens_max: TOKENS_MAX, seed: args.seed };
        let answers = observe(engine.as_ref(), verifier.as_ref(), &plan, LIMIT, &mut advance(&bar))?;
        rows.push(Row { prover, weights, quantisation, answers });
        // After each prover: a measurement takes long, and what is there must not be lost with its end.
        if let Some(file) = &args.raw {
            let raw: Vec<Value> = rows.iter().flat_map(Row::raw).collect();
            fs::write(file, serde_json::to_vec(&raw)?).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    bar.finish_and_clear();
    let record = machine::stamp(json!({
        "model": honest.variant().name,
        "numerics": honest.variant().numerics,
        "threads": args.threads,
        "tokens_max": TOKENS_MAX,
        "seed": args.seed,
        "calibration": { "measured_at_us": calibration.measured_at.0, "honest_answers": honest_answers(&calibration) },
        "false_positives": false_positives(&seen(&rows[0], &odds)),
        "rows": table(&rows, &odds),
    }));
    if args.json {
        say(record.to_string())
    } else {
        tell(&record)
    }
    Ok(ExitCode::SUCCESS)
}

fn advance(bar: &ProgressBar) -> impl FnMut(u32) {
    let first = bar.position();
    move |answers| bar.set_position(first + u64::from(answers))
}

// By class of lengths; an answer is in each that it reaches.
fn honest_answers(of: &Calibration) -> Vec<u32> {
    of.lengths.iter().map(|counts| counts.honest.iter().flatten().sum()).collect()
}

fn seen(row: &Row, odds: &Odds) -> Vec<Seen> {
    row.answers.iter().map(|answer| Seen::new(answer, odds)).collect()
}

fn reaches(row: &Row, odds: &Odds, reach: Reach) -> Vec<Vec<Seen>> {
    row.answers.iter().map(|answer| Seen::reaches(answer, odds, reach)).collect()
}

fn table(rows: &[Row], odds: &Odds) -> Vec<Value> {
    let max = |row: &Row| row.answers.iter().map(Answer::clipped_mean).fold(0.0, f64::max);
    let honest_max = rows.first().map_or(0.0, max);
    rows.iter().map(|row| row.record(honest_max, odds)).collect()
}

impl Row {
    fn record(&self, honest_max: f64, odds: &Odds) -> Value {
        let answers = &self.answers;
        let sum = |figure: &dyn Fn(&Answer) -> f64| answers.iter().map(figure).sum::<f64>();
        let tokens = sum(&|answer| answer.margins.len() as f64).max(1.0);
        let over = |limit: f32| {
            let count = |answer: &Answer| answer.margins.iter().filter(|margin| **margin > limit).count() as f64;
            sum(&count) / tokens
        };
        let share = |is: &dyn Fn(&Answer) -> bool| {
            answers.iter().filter(|answer| is(answer)).count() as f64 / answers.len().max(1) as f64
        };
        let bytes = sum(&|answer| answer.byte_steps.len() as f64).max(1.0);
        json!({
            "row": self.prover.name(),
            "verdict": verdicts(&reaches(self, odds, Reach::Drawn), true),
            "verdict_by_whole_answers": verdicts(&reaches(self, odds, Reach::Whole), true),
            "verdict_by_bets_alone": verdicts(&reaches(self, odds, Reach::Drawn), false),
            "weights": hex(&self.weights),
            "quantisation": self.quantisation,
            "answers": answers.len(),
            "tokens": tokens,
            "tokens_not_zero_share": over(0.0),
            "tokens_over_limit_share": over(LIMIT),
            "answers_with_token_over_limit_share": share(&|answer| answer.margins.iter().any(|margin| *margin > LIMIT)),
            "answers_over_honest_max_share": share(&|answer| answer.clipped_mean() > honest_max),
            "ends_differing_share": share(&|answer| !answer.finish_fits),
            "clipped_mean_nats": self.quantiles(),
            "bytes_equal_share": sum(&|answer| answer.bytes_within(0) as f64) / bytes,
            "bytes_close_share": sum(&|answer| answer.bytes_within(2) as f64) / bytes,
            "score_over_generate": sum(&|answer| answer.score_cpu_s) / sum(&|answer| answer.generate_cpu_s).max(1e-9),
        })
    }

    /// Quantiles of the answers' clipped means, by settings and of all.
    fn quantiles(&self) -> Value {
        let of = |keep: &dyn Fn(Settings) -> bool| {
            let kept = self.answers.iter().filter(|answer| keep(answer.settings));
            let mut means: Vec<f64> = kept.map(Answer::clipped_mean).collect();
            means.sort_by(f64::total_cmp);
            let quantile = |share: f64| {
                let at = (share * means.len().saturating_sub(1) as f64).round() as usize;
                means.get(at).copied().unwrap_or(0.0)
            };
            json!({ "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "max": quantile(1.0) })
        };
        let mut found: Map<String, Value> = Settings::ALL
            .into_iter()
            .map(|settings| (class(settings).to_owned(), of(&|own| own == settings)))
            .collect();
        found.insert("all".to_owned(), of(&|_| true));
        Value::Object(found)
    }

    fn raw(&self) -> impl Iterator<Item = Value> {
        self.answers.iter().map(|answer| {
            let last = answer.margins.len();
            let is_written = |length: usize| {
                length == last
                    || length.is_multiple_of(PREFIX_STEP)
                    || (length < PREFIX_STEP && length.is_power_of_two())
            };
            let means: Vec<(usize, f64)> =
                (1..).zip(clipped_means(&answer.margins)).filter(|(length, _)| is_written(*length)).collect();
            json!({
                "row": self.prover.name(),
                "class": class(answer.settings),
                "finish_fits": answer.finish_fits,
                "byte_steps": answer.byte_steps,
                "margins": answer.margins,
                "margins_mean_clipped_by_prefix": means,
            })
        })
    }
}

const fn class(settings: Settings) -> &'static str {
    match settings {
        Settings::Greedy => "greedy",
        Settings::Sampled => "sampled",
        Settings::Truncated => "truncated",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tell(record: &Value) {
    say(format!(
        "{}, {}",
        record["model"].as_str().unwrap_or_default(),
        record["numerics"].as_str().unwrap_or_default()
    ));
    say(format!(
        "{:<30}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "", "tokens", "> 0", "> limit", "p50", "p99", "ends", "cost", "audits", "by bets"
    ));
    for row in record["rows"].as_array().into_iter().flatten() {
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let all = &row["clipped_mean_nats"]["all"];
        say(format!(
            "{:<30}{:>8}{:>9.4}{:>9.4}{:>9.4}{:>9.4}{:>9.3}{:>9.3}{:>9}{:>9}",
            row["row"].as_str().unwrap_or_default(),
            number(&row["tokens"]),
            number(&row["tokens_not_zero_share"]),
            number(&row["tokens_over_limit_share"]),
            number(&all["p50"]),
            number(&all["p99"]),
            number(&row["ends_differing_share"]),
            number(&row["score_over_generate"]),
            row["verdict"]["audits_p50"].to_string().replace("null", "never"),
            row["verdict_by_bets_alone"]["audits_p50"].to_string().replace("null", "never"),
        ));
    }
    let found = &record["false_positives"];
    say(format!(
        "{} of {} honest answers failed: {} to {} in a million; their bets came to {:.3} at most, and 1,000 convicts",
        found["failed"],
        found["answers"],
        found["ppm_interval_95"][0],
        found["ppm_interval_95"][1],
        found["largest_bets"].as_f64().unwrap_or_default()
    ));
}
