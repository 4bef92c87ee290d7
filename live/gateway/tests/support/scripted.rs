//! A network that follows a script: the model's name says what happens.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ol_gateway::backend::{
    Finished, Generate, Health, Instruction, LogFile, ModelInfo, NetworkInfo, Payload, Quote, QuoteRequest, Reason,
    ReceiptState, Reply, ResponseDigest, Running, Size, Submission, TokenLogProb, Work,
};
use ol_gateway::refusal::Gate;
use ol_gateway::{ApiKey, ApiKeys, Backend, Kind, Refusal, Tenant};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::parameters::Parameters;
use ol_protocol::{
    Digest, Epoch, GatewayId, IssuerId, MicroCredits, Micros, NodeId, OperatorId, OwnerId, Price, TaskId, TenantId,
    Timestamp, TokenCount,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// What it costs.
pub(crate) const PRICE: Price =
    Price { prompt_per_million: MicroCredits(500_000), output_per_million: MicroCredits(1_500_000) };
/// Words that its answers are made of.
const WORDS: [&str; 8] = [" the", " network", " answers", " with", " a", " word", " café", " now"];

/// Follows the script and remembers what happened.
pub(crate) struct Scripted {
    keys: ApiKeys,
    pub(crate) submissions: Mutex<Vec<Submission>>,
    pub(crate) instructions: Mutex<Vec<Instruction>>,
    pub(crate) closed: Mutex<BTreeMap<TaskId, ResponseDigest>>,
    pub(crate) closings: mpsc::UnboundedSender<(TaskId, ResponseDigest)>,
    /// Senders of tasks that hang, so that a test sees them cancelled.
    pub(crate) hanging: Mutex<Vec<mpsc::Sender<Reply>>>,
    /// What becomes of answers that wait, once their responses are reported.
    waiting: Mutex<BTreeMap<TaskId, (mpsc::Sender<Reply>, Reply)>>,
}

/// The key of a tenant.
pub(crate) fn key(tenant: u8) -> ApiKey {
    ApiKey::from_secret(&[tenant; 32])
}

/// A tenant: 1 may ask much, 2 hardly, 3 spends few tokens.
pub(crate) fn tenant(tenant: u8) -> Tenant {
    let requests_per_minute = if tenant == 2 { 1 } else { 6_000 };
    let tokens_per_minute = if tenant == 3 { 100 } else { 6_000_000 };
    Tenant { id: TenantId([tenant; 16]), name: format!("tenant {tenant}"), requests_per_minute, tokens_per_minute }
}

/// The operator's key.
pub(crate) const OPERATOR_KEY: &str = "ol-operator";

impl Scripted {
    /// With three tenants, and a channel that says which responses have ended.
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<(TaskId, ResponseDigest)>) {
        let mut keys = ApiKeys::new();
        for number in 1..=3 {
            keys.insert(key(number).digest(), tenant(number));
        }
        let (closings, ended) = mpsc::unbounded_channel();
        let (submissions, closed, hanging) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (instructions, waiting) = (Mutex::default(), Mutex::default());
        (Arc::new(Self { keys, submissions, instructions, closed, closings, hanging, waiting }), ended)
    }
}

/// The words of a generated answer: a function of what was asked and of the seed, streamed or not.
fn words(canonical: &Digest, generate: &Generate) -> Vec<&'static str> {
    let seed = generate.client_seed.unwrap_or(0).to_le_bytes();
    let noise = digest(Domain::Events, &[&canonical.0, &seed]);
    noise.0.iter().map(|byte| WORDS[usize::from(byte % 8)]).collect()
}

fn log_prob(word: &str, wanted: Option<u8>) -> Vec<TokenLogProb> {
    let Some(count) = wanted else { return Vec::new() };
    let top = WORDS.iter().take(usize::from(count)).enumerate();
    let top = top.map(|(rank, word)| ((*word).to_owned(), -0.5 - rank as f32)).collect();
    vec![TokenLogProb { text: word.to_owned(), log_prob: -0.5, top }]
}

fn finished(reason: Reason, prompt_tokens: u32, output_tokens: u32, vectors: Vec<Vec<f32>>) -> Reply {
    Reply::Finished(Box::new(Finished {
        reason,
        prompt_tokens,
        cached_tokens: prompt_tokens / 2,
        output_tokens,
        charge: MicroCredits(u64::from(prompt_tokens) + 3 * u64::from(output_tokens)),
        price: PRICE,
        node: "node-a".into(),
        region: "local".into(),
        attempts: 1,
        trust: 0.5,
        assurance: "seeded",
        vectors,
        waits: false,
    }))
}

/// The replies of an ordinary generation, one word after another until a limit or a stop string.
fn generation(submission: &Submission, generate: &Generate) -> Vec<Reply> {
    let prompt_tokens = match &submission.payload {
        Payload::Chat(messages) => messages.iter().map(|m| m.content.split_whitespace().count() as u32 + 4).sum(),
        Payload::Text(text) => text.split_whitespace().count() as u32,
        Payload::Embed(_) => 0,
    };
    let mut replies = vec![started(prompt_tokens)];
    let words = words(&submission.canonical, generate);
    let whole = words.concat();
    let end = generate.stop.iter().filter_map(|stop| whole.find(stop)).min().unwrap_or(whole.len());
    let (mut at, mut count, mut reason) = (0, 0, Reason::Stop);
    for word in words {
        if at >= end {
            break;
        }
        if generate.max_tokens == Some(count) {
            reason = Reason::Length;
            break;
        }
        let text = whole[at..end.min(at + word.len())].to_owned();
        (at, count) = (at + word.len(), count + 1);
        replies.push(Reply::Delta { text, count: 1, logprobs: log_prob(word, generate.top_logprobs) });
    }
    replies.push(finished(reason, prompt_tokens, count, Vec::new()));
    replies
}

fn kept_back(mut replies: Vec<Reply>) -> Vec<Reply> {
    if let Some(Reply::Finished(finished)) = replies.last_mut() {
        finished.waits = true;
    }
    replies
}

fn embedding(texts: &[String]) -> Vec<Reply> {
    let vector = |text: &String| {
        let bits = digest(Domain::Events, &[text.as_bytes()]).0;
        (0..384).map(|at| (f32::from(bits[at % 32]) - 127.5) / 2_500.0).collect()
    };
    let tokens = texts.iter().map(|text| text.split_whitespace().count() as u32).sum();
    vec![started(tokens), finished(Reason::Stop, tokens, 0, texts.iter().map(vector).collect())]
}

fn started(prompt_tokens: u32) -> Reply {
    Reply::Started { prompt_tokens, node: "node-a".into(), region: "local".into() }
}

fn delta(text: &str) -> Reply {
    Reply::Delta { text: text.into(), count: 1, logprobs: Vec::new() }
}

fn billed_failure() -> Reply {
    Reply::Failed(Refusal { billed: true, ..Refusal::new(Kind::NodeFailed, "the node went away") })
}

impl Scripted {
    fn script(&self, submission: &Submission) -> Result<Vec<Reply>, Refusal> {
        let refuse = |kind| Err(Refusal::new(kind, "as the script says"));
        match (submission.model.as_str(), &submission.generate, &submission.payload) {
            ("words", Some(generate), _) => Ok(generation(submission, generate)),
            ("confirmed" | "unconfirmed", Some(generate), _) => Ok(kept_back(generation(submission, generate))),
            ("vectors", None, Payload::Embed(texts)) => Ok(embedding(texts)),
            ("hang", Some(_), _) => Ok(vec![started(1), delta("some")]),
            ("mute", Some(_), _) => Ok(vec![started(1)]),
            ("lost", Some(_), _) => Ok(vec![started(1)]),
            ("break-early", Some(_), _) => Ok(vec![started(1), billed_failure()]),
            ("break-late", Some(_), _) => Ok(vec![started(1), delta("some"), delta(" text"), billed_failure()]),
            ("poor", ..) => refuse(Kind::Budget),
            ("busy", ..) => refuse(Kind::Overloaded { retry_after: Micros(1_500_000) }),
            ("late", ..) => refuse(Kind::Deadline),
            ("long", ..) => refuse(Kind::TooLong),
            ("ending", ..) => refuse(Kind::ShuttingDown),
            ("barred", ..) => {
                let gate = |gate, passed, message: &str| Gate {
                    gate,
                    passed,
                    message: message.to_owned(),
                    node: None,
                    figures: BTreeMap::new(),
                };
                let figures = BTreeMap::from([("best_ppm", 200_000), ("needed_ppm", 500_000)]);
                let gates = vec![
                    Gate { figures: [("nodes", 2)].into(), ..gate("variant", true, "2 nodes serve it") },
                    Gate { figures, ..gate("trust", false, "node-a: trust 0.2 below 0.5") },
                    Gate { node: Some("node-b".into()), ..gate("region", false, "node-b: region eu") },
                ];
                Err(Refusal { gates, ..Refusal::new(Kind::Unservable, "no node may serve this") })
            }
            ("words" | "vectors", ..) => Err(Refusal::invalid("model", "this model does other work")),
            _ => Err(Refusal::new(Kind::NotFound, "there is no model of this name")),
        }
    }
}

impl Backend for Scripted {
    async fn submit(&self, submission: Submission) -> Result<Running, Refusal> {
        let script = self.script(&submission)?;
        let (sender, events) = mpsc::channel(script.len() + 1);
        for reply in script {
            sender.try_send(reply).expect("the channel holds the script");
        }
        if submission.model == "hang" || submission.model == "mute" {
            self.hanging.lock().unwrap().push(sender.clone());
        }
        let task = submission.task;
        let end = match submission.model.as_str() {
            "confirmed" => Some(Reply::Released),
            "unconfirmed" => Some(Reply::Failed(Refusal::new(Kind::Unconfirmed, "the answer failed its audit"))),
            _ => None,
        };
        if let Some(end) = end {
            self.waiting.lock().unwrap().insert(task, (sender, end));
        }
        self.submissions.lock().unwrap().push(submission);
        Ok(Running { task, events })
    }

    fn models(&self) -> Vec<ModelInfo> {
        let model = |id: &str, work, context_tokens| ModelInfo {
            id: id.into(),
            created: 1_700_000_000,
            owned_by: "script".into(),
            context_tokens,
            quantisation: "f32".into(),
            assurance: "seeded",
            price: PRICE,
            region_prices: BTreeMap::new(),
            regions: BTreeMap::from([("local".to_owned(), 1)]),
            work,
        };
        vec![model("words", Work::Generate, 2_048), model("vectors", Work::Embed, 256)]
    }

    async fn receipt(&self, tenant: TenantId, task: TaskId) -> ReceiptState {
        let owned = self.submissions.lock().unwrap().iter().any(|s| s.task == task && s.tenant == tenant);
        match (owned, self.closed.lock().unwrap().get(&task)) {
            (false, _) => ReceiptState::Unknown,
            (true, None) => ReceiptState::Pending,
            (true, Some(response)) => {
                let receipt = serde_json::json!({"response": response.digest.to_string()});
                ReceiptState::Ready { receipt, trust: Value::Null }
            }
        }
    }

    // As if everything of a tenant's was refuted.
    async fn publish(&self, tenant: TenantId, task: TaskId) -> bool {
        self.submissions.lock().unwrap().iter().any(|s| s.task == task && s.tenant == tenant)
    }

    async fn quote(&self, asked: QuoteRequest) -> Result<Quote, Refusal> {
        if asked.model != "words" {
            return Err(Refusal::new(Kind::NotFound, "there is no model of this name"));
        }
        let (prompt, output) =
            (if let Size::PromptTokens(count) = asked.size { count } else { 9 }, asked.max_tokens.unwrap_or(32));
        let charge = |output| PRICE.charge(TokenCount(prompt), TokenCount(output)).unwrap_or_default();
        Ok(Quote {
            id: "olq-scripted".into(),
            model: asked.model,
            variant: "ab".repeat(32),
            region: asked.region.map(|region| region.to_string()),
            quantisation: "f32".into(),
            assurance: "seeded",
            price: PRICE,
            price_with_audit: asked.min_trust_ppm.map(|_| PRICE),
            prompt_tokens_max: prompt,
            output_tokens_max: output,
            worst_case: charge(output),
            expected_prompt_tokens: prompt,
            expected_output_tokens: output / 2,
            expected: charge(output / 2),
            expires_at: 1_700_000_060,
        })
    }

    async fn why_task(&self, tenant: Option<TenantId>, task: TaskId) -> Result<Value, Refusal> {
        let submissions = self.submissions.lock().unwrap();
        let known = submissions.iter().any(|s| s.task == task && tenant.is_none_or(|tenant| s.tenant == tenant));
        let none = || Refusal::new(Kind::NoSuchPath, "as the script says");
        known.then(|| json!({"object": "task.why", "id": task.to_string()})).ok_or_else(none)
    }

    async fn why_node(&self, node: NodeId) -> Result<Value, Refusal> {
        Ok(json!({"object": "node.why", "id": node.to_string()}))
    }

    fn is_operator(&self, key: &str) -> bool {
        key == OPERATOR_KEY
    }

    fn authenticate(&self, key: &str) -> Option<Tenant> {
        self.keys.authenticate(key)
    }

    fn health(&self) -> Health {
        Health { live: true, ready: true, nodes: 1, reason: None }
    }

    fn metrics(&self) -> String {
        "# TYPE scripted gauge\nscripted 1\n".into()
    }

    async fn log(&self, file: LogFile) -> Result<Option<Bytes>, Refusal> {
        Ok((file == LogFile::Checkpoint).then(|| Bytes::from_static(b"a checkpoint")))
    }

    fn network(&self) -> NetworkInfo {
        let gateway = GatewayId([1; 32]);
        let genesis = Genesis {
            issuer: IssuerId([2; 32]),
            referee: NodeId([3; 32]),
            referee_operator: OperatorId([4; 32]),
            born_at: Timestamp(0),
            epoch: Micros::from_secs(10),
            parameters: Parameters::DEFAULT,
            gateway,
            owner: OwnerId([0; 32]),
            signature: Signature([0; 64]),
        };
        let genesis = genesis.of(gateway, &SecretKey::from_bytes(&[5; 32]));
        NetworkInfo { genesis, epoch: Epoch(7), parameters: Parameters::DEFAULT }
    }

    async fn instruct(&self, instruction: Instruction) -> Result<(), Refusal> {
        self.instructions.lock().unwrap().push(instruction);
        Ok(())
    }

    fn closed(&self, task: TaskId, response: ResponseDigest) {
        assert_eq!(self.closed.lock().unwrap().insert(task, response), None, "closed twice");
        if let Some((sender, end)) = self.waiting.lock().unwrap().remove(&task) {
            sender.try_send(end).expect("the channel holds the script and its end");
        }
        // Nobody may listen.
        let _ = self.closings.send((task, response));
    }
}
