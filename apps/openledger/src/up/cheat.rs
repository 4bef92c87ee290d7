//! `up --once --cheat`: requests until the network has found the cheating node.

use super::ask;
use crate::gateway::Running;
use crate::logging::say;
use anyhow::Context as _;
use ol_engine::Cheat;
use ol_gateway::driver::News;
use ol_protocol::NodeId;
use serde_json::json;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Requests until a verdict, at most.
const REQUESTS_MAX: usize = 60;

/// Wait for what is still being audited after the last request, and for the epoch that settles a verdict.
const PATIENCE: Duration = Duration::from_secs(120);

/// Subjects of the requests: short, and different each time.
const SUBJECTS: [&str; 12] = [
    "the sea",
    "a lighthouse",
    "bread",
    "mountains in winter",
    "an old clock",
    "the first train",
    "a chess game",
    "rain on a tin roof",
    "a library at night",
    "two rivers",
    "the moon",
    "a market in the morning",
];

/// What came of it.
pub(super) struct Found {
    cheat: Cheat,
    verdict: bool,
    requests: usize,
    tokens: u64,
    audits: u64,
    withheld: u64,
    refunded: u64,
    slashed: u64,
    honest_sanctioned: usize,
}

/// Sends requests until the cheating node's audit has failed and its epoch is settled.
pub(super) async fn until_verdict(
    running: &Running,
    model: &str,
    cheat: Cheat,
    cheater: NodeId,
    mut news: broadcast::Receiver<News>,
) -> anyhow::Result<Found> {
    let mut watch = Watch::new(cheater);
    let mut requests = 0;
    let mut tokens = 0;
    while requests < REQUESTS_MAX && !watch.verdict {
        let subject = SUBJECTS[requests % SUBJECTS.len()];
        let question = format!("Tell me something about {subject}. ({requests})");
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 48,
            "temperature": 1.0,
            // Without it a cheat costs its pay and no escrow.
            "openledger": {"public": true},
        });
        let asked = ask::chat(running, body, &question).await?;
        requests += 1;
        if asked.answer["openledger"]["node"].as_str() == Some(cheater.to_string().as_str()) {
            tokens += asked.answer["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        }
        watch.drain(&mut news);
    }
    let began = Instant::now();
    while began.elapsed() < PATIENCE && !watch.is_over(began) {
        if let Ok(item) = tokio::time::timeout(Duration::from_secs(1), news.recv()).await {
            watch.add(item.context("the gateway has ended")?)
        }
    }
    Ok(Found {
        cheat,
        verdict: watch.verdict,
        requests,
        tokens,
        audits: watch.audits,
        withheld: watch.withheld,
        refunded: watch.refunded,
        slashed: watch.slashed,
        honest_sanctioned: watch.honest.len(),
    })
}

struct Watch {
    cheater: NodeId,
    verdict: bool,
    audits: u64,
    withheld: u64,
    refunded: u64,
    slashed: u64,
    // Epochs that ended after the one with the refund: evidence may come a moment later.
    since_refund: u32,
    honest: BTreeSet<NodeId>,
}

impl Watch {
    const fn new(cheater: NodeId) -> Self {
        Self {
            cheater,
            verdict: false,
            audits: 0,
            withheld: 0,
            refunded: 0,
            slashed: 0,
            since_refund: 0,
            honest: BTreeSet::new(),
        }
    }

    fn add(&mut self, item: News) {
        match item {
            News::Audited { node, passed, .. } => {
                if node == self.cheater {
                    self.audits += u64::from(!self.verdict);
                    self.verdict |= passed == Some(false);
                } else if passed == Some(false) {
                    self.honest.insert(node);
                }
            }
            News::Closed { summary } => {
                self.since_refund += u32::from(self.refunded > 0);
                self.withheld += summary.withheld.0;
                self.refunded += summary.refunded.0;
                self.slashed += summary.slashed.0;
            }
            News::Joined(_) => {}
        }
    }

    fn drain(&mut self, news: &mut broadcast::Receiver<News>) {
        while let Ok(item) = news.try_recv() {
            self.add(item);
        }
    }

    // With a verdict: once the epoch has settled it, and taken escrow or had another epoch's time for it. Without: once audits have had time to end.
    fn is_over(&self, since: Instant) -> bool {
        if self.verdict { self.slashed > 0 || self.since_refund > 0 } else { since.elapsed() > PATIENCE / 4 }
    }
}

/// Prints it; a failure without a verdict, or with one against an honest node.
pub(super) fn tell(found: &Found, as_json: bool) -> ExitCode {
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cheat": found.cheat.name(),
        "verdict": if found.verdict { "failed" } else { "none" },
        "requests": found.requests,
        "tokens_to_verdict": found.tokens,
        "audits_to_verdict": found.audits,
        "withheld_micro_credits": found.withheld,
        "refunded_micro_credits": found.refunded,
        "slashed_micro_credits": found.slashed,
        "honest_nodes_sanctioned": found.honest_sanctioned,
    });
    if as_json {
        say(object.to_string());
    } else if found.verdict {
        say(format!(
            "the cheating node was found after {} of its tokens and {} audits, in {} requests: {} micro-credits withheld, {} \
             refunded, {} slashed, {} honest nodes sanctioned",
            found.tokens,
            found.audits,
            found.requests,
            found.withheld,
            found.refunded,
            found.slashed,
            found.honest_sanctioned
        ));
    } else {
        say(format!("no verdict after {} requests and {} audits of the cheating node", found.requests, found.audits));
    }
    if found.verdict && found.honest_sanctioned == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
