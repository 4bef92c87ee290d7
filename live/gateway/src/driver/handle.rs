//! The gateway as HTTP sees it.

use super::document;
use super::message::{Message, New};
use super::prefix::prefixes;
use super::questions::Questions;
use super::start::RateLimits;
use super::{quote, trust, why};
use crate::Backend;
use crate::backend::{
    self, Generate, Health, Instruction, LogFile, ModelInfo, NetworkInfo, Payload, QuoteRequest, ReceiptState,
    ResponseDigest, Running, Submission, Work,
};
use crate::keys::{ApiKeys, Tenant, key_digest};
use crate::refusal::{Kind, Refusal};
use bytes::Bytes;
use ol_drive::clock;
use ol_net::{Traffic, frame};
use ol_protocol::digest::{Domain, salted};
use ol_protocol::genesis::Genesis;
use ol_protocol::parameters::Parameters;
use ol_protocol::record::Record;
use ol_protocol::tile::{Content, push_entry};
use ol_protocol::variant::{self, Variant};
use ol_protocol::{
    Digest, Epoch, GatewayId, Micros, NetworkId, NodeId, Region, Scope, TaskId, TenantId, Timestamp, TokenCount,
    VariantId, scope, seed,
};
use ol_roles::Prices;
use ol_roles::gateway::event::TrustFloor;
use ol_roles::quote::Quote;
use ol_store::{PostgresFunds, Read};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Output tokens of a request that names no limit.
const DEFAULT_MAX_TOKENS: u32 = 1_024;

/// Tokens that a chat template adds to a message at most, and to a conversation: role names, marks, a default system
/// prompt. Only a bound for the reservation; what is charged is what the node counts.
pub(super) const TEMPLATE_TOKENS_PER_MESSAGE: usize = 16;
pub(super) const TEMPLATE_TOKENS: usize = 64;

/// Longest a request may wait for its answer if it doesn't say.
const DEFAULT_DEADLINE: Micros = Micros::from_secs(600);

/// A commit that takes longer is no ordinary one: 100 times as long as most (docs/adr/0015).
const COMMIT_LIMIT: Duration = Duration::from_secs(3);

/// After a start the nodes of before are on their way back: they try again within a quarter of a second, once more within another half, and then
/// ever later.
const RETURN_TIME: Duration = Duration::from_secs(2);

/// Time between two looks whether they are back.
const RETURN_LOOK: Duration = Duration::from_millis(20);

/// Replies that may wait for a slow client beside one for each token.
const REPLIES_EXTRA: usize = 16;

/// A variant that nodes offer.
pub(super) struct Served {
    pub(super) variant: Variant,
    pub(super) nodes: u32,
    /// Where they say that they stand.
    pub(super) regions: BTreeMap<Region, u32>,
    /// Links of the referee that has it too. Whoever likes can give weights of their own a known name, and any number of keys:
    /// of several variants of one name, the one that can be audited to the end comes first.
    pub(super) referees: u32,
}

/// What the loop shares with those who ask.
pub(super) struct Shared {
    pub(super) network: NetworkId,
    pub(super) genesis: Genesis,
    pub(super) gateway: GatewayId,
    pub(super) master: [u8; 32],
    pub(super) prices: Prices,
    /// Digest of the operator's key.
    pub(super) operator: Digest,
    pub(super) variants: RwLock<BTreeMap<VariantId, Served>>,
    pub(super) keys: RwLock<ApiKeys>,
    /// How often an instruction changed the keys: who read them before that has old ones.
    pub(super) entered: AtomicU64,
    pub(super) rates: RateLimits,
    /// The loop's.
    pub(super) reader: Mutex<Box<dyn Read>>,
    pub(super) questions: Questions,
    pub(super) committer: ol_store::Handle,
    /// What the issuer sold, where gateways share it.
    pub(super) funds: Option<Mutex<PostgresFunds>>,
    pub(super) epoch: AtomicU64,
    pub(super) counter: AtomicU64,
    /// What will hold once all changes that wait have come into force.
    pub(super) parameters: Mutex<Parameters>,
    pub(super) metrics: Mutex<String>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) workers: AtomicU64,
    pub(super) has_referee: AtomicBool,
    /// Why the log can't be written now, if it can't.
    pub(super) fault: Mutex<Option<String>>,
    /// Since when a commit has been on its way to the disk, if one is.
    pub(super) committing_since: Mutex<Option<Instant>>,
    pub(super) draining: AtomicBool,
    pub(super) started_at: u64,
    pub(super) began: Instant,
}

/// A cheap handle on a running gateway.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: mpsc::Sender<Message>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// The network.
    pub fn network(&self) -> NetworkId {
        self.shared.network
    }

    /// The open epoch.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.shared.epoch.load(Ordering::Relaxed))
    }

    /// Why the gateway's log can't be written now, if it can't.
    pub fn fault(&self) -> Option<String> {
        lock(&self.shared.fault).clone()
    }

    /// Waits until the gateway's loop is gone: after a drain, or a fault of its own.
    pub async fn stopped(&self) {
        self.inbox.closed().await;
    }

    /// Nodes that are connected and take tasks.
    pub fn workers(&self) -> u64 {
        self.shared.workers.load(Ordering::Relaxed)
    }

    /// Whether the network's own scorer is connected.
    pub fn has_referee(&self) -> bool {
        self.shared.has_referee.load(Ordering::Relaxed)
    }

    /// Asks the store; for commands that print.
    pub fn read<T>(&self, ask: impl FnOnce(&dyn Read) -> T) -> T {
        ask(lock(&self.shared.reader).as_ref())
    }

    /// Sends something to the loop.
    pub async fn tell(&self, message: Message) -> bool {
        self.inbox.send(message).await.is_ok()
    }

    // Just after the start who asks waits a little for the nodes, and is not told that there are none; nor given to whoever was
    // back first with weights of their own.
    pub(super) async fn variant_soon(&self, wanted: &Wanted<'_>) -> Result<(VariantId, Variant), Refusal> {
        loop {
            let found = self.variant(wanted);
            let may_wait = self.shared.began.elapsed() <= RETURN_TIME;
            if !may_wait || found.as_ref().is_ok_and(|(id, _)| self.has_referee_of(id)) {
                return found;
            }
            tokio::time::sleep(RETURN_LOOK).await;
        }
    }

    fn has_referee_of(&self, id: &VariantId) -> bool {
        let variants = self.shared.variants.read().unwrap_or_else(PoisonError::into_inner);
        variants.get(id).is_some_and(|served| served.referees > 0)
    }

    fn variant(&self, wanted: &Wanted<'_>) -> Result<(VariantId, Variant), Refusal> {
        let variants = self.shared.variants.read().unwrap_or_else(PoisonError::into_inner);
        let offered = || variants.iter().filter(|(_, served)| served.nodes > 0);
        let of_model: Vec<_> = offered().filter(|(_, served)| served.variant.model == wanted.model).collect();
        if of_model.is_empty() {
            let names: std::collections::BTreeSet<&str> = offered().map(|(_, s)| s.variant.model.as_str()).collect();
            let names: Vec<&str> = names.into_iter().collect();
            return Err(match names.is_empty() {
                // As after a start: that there is no such model can't be known, and who asks again may have an answer.
                true => Refusal::new(Kind::Unservable, "no node is connected yet: there is no model to ask"),
                false => {
                    let served = names.join(", ");
                    let message = format!("no node serves model {:?}; served are: {served}", wanted.model);
                    Refusal::new(Kind::NotFound, message)
                }
            });
        }
        let is_there = |served: &Served| wanted.region.is_none_or(|region| served.regions.contains_key(&region));
        let fits = |v: &Variant| wanted.quantisation.is_none_or(|q| *q == v.quantisation);
        let works = |v: &Variant| wanted.work.is_none_or(|work| work == v.work);
        of_model
            .iter()
            .filter(|(id, _)| wanted.quoted.is_none_or(|quoted| quoted == **id))
            .filter(|(_, served)| works(&served.variant) && fits(&served.variant))
            .max_by_key(|(_, served)| (served.referees > 0, is_there(served), served.nodes))
            .map(|(id, served)| (**id, served.variant.clone()))
            .ok_or_else(|| {
                if wanted.quoted.is_some() {
                    return quote::mismatch();
                }
                let param = if of_model.iter().any(|(_, s)| works(&s.variant)) { "quantisation" } else { "model" };
                let message = format!("model {:?} is not served that way", wanted.model);
                Refusal::new(Kind::Invalid { param: Some(param.into()) }, message)
            })
    }

    async fn new_task(
        &self,
        submission: Submission,
        scope: Option<Scope>,
    ) -> Result<(New, mpsc::Receiver<backend::Reply>), Refusal> {
        let quote = self.quoted(&submission)?;
        let (id, variant) = self.variant_soon(&Wanted::of(&submission, quote.as_ref())).await?;
        let Submission {
            tenant,
            task,
            payload,
            generate,
            request_digest,
            canonical,
            deadline,
            max_price,
            quote: submission_quote,
            public,
            min_trust_ppm,
            place,
            tier,
            ..
        } = submission;
        let prompt_max = prompt_tokens_max(&payload, variant.context_tokens);
        let output_max = output_tokens_max(generate.as_ref().and_then(|g| g.max_tokens), &variant)?;
        let price = quote.as_ref().map_or_else(|| self.shared.prices.of(&variant, place.bound()), |quote| quote.price);
        let salt = seed::salt(&self.shared.master, &task);
        let client_seed = generate.as_ref().and_then(|g| g.client_seed);
        let nonce_secret = seed::nonce_secret(&self.shared.master, self.epoch());
        let nonce = seed::nonce(&nonce_secret, self.shared.counter.fetch_add(1, Ordering::Relaxed));
        let seed = seed::derive(&tenant, client_seed, &canonical, &nonce);
        let day = began(task).0 / Micros::from_secs(86_400).0;
        let scope = scope.unwrap_or_else(|| scope::scope(&self.shared.master, &tenant, &id, day));
        let prefixes = prefixes(&self.shared.master, &scope, &payload, prompt_max);
        let payload = node_payload(payload, generate, output_max);
        ol_net::limits::payload(&payload)
            .map_err(|error| Refusal::new(Kind::Invalid { param: None }, error.to_string()))?;
        let (replies, events) = mpsc::channel(output_max as usize + REPLIES_EXTRA);
        let new = New {
            submission: ol_roles::gateway::event::Submission {
                task,
                tenant,
                variant: id,
                prompt_tokens_max: TokenCount(prompt_max),
                output_tokens_max: TokenCount(output_max),
                price,
                max_price,
                deadline: deadline.unwrap_or(DEFAULT_DEADLINE),
                request: salted(Domain::Request, &salt, &request_digest.0),
                public,
                floor: min_trust_ppm.map(|value_ppm| TrustFloor { value_ppm, assurance: variant.assurance }),
                place,
                tier,
                prefixes,
            },
            scope,
            assurance: variant.assurance,
            quote: submission_quote.zip(quote).map(|(id, quote)| quote::facts(&id, &quote)),
            payload,
            salt,
            seed: seed.0,
            replies,
        };
        Ok((new, events))
    }
}

impl Handle {
    /// Takes on a task; of the network's own in the scope of the task that it is like, or its tenant would show in that.
    pub(super) async fn submit_within(&self, scope: Option<Scope>, submission: Submission) -> Result<Running, Refusal> {
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err(Refusal::new(Kind::ShuttingDown, "the gateway is shutting down"));
        }
        if let Some(fault) = lock(&self.shared.fault).clone() {
            let message = format!("the gateway's log can't be written: {fault}");
            return Err(Refusal::new(Kind::Overloaded { retry_after: Micros::from_secs(5) }, message));
        }
        let task = submission.task;
        let (new, events) = self.new_task(submission, scope).await?;
        if self.inbox.send(Message::Submit(Box::new(new))).await.is_err() {
            return Err(Refusal::new(Kind::ShuttingDown, "the gateway has stopped"));
        }
        Ok(Running { task, events })
    }
}

impl Backend for Handle {
    async fn submit(&self, submission: Submission) -> Result<Running, Refusal> {
        self.submit_within(None, submission).await
    }

    fn network(&self) -> NetworkInfo {
        NetworkInfo {
            genesis: self.shared.genesis.clone(),
            epoch: self.epoch(),
            parameters: *lock(&self.shared.parameters),
        }
    }

    fn models(&self) -> Vec<ModelInfo> {
        let variants = self.shared.variants.read().unwrap_or_else(PoisonError::into_inner);
        let info = |Served { variant: v, regions, .. }: &Served| ModelInfo {
            id: v.model.clone(),
            created: self.shared.started_at,
            owned_by: "openledger".into(),
            context_tokens: v.context_tokens,
            quantisation: v.quantisation.clone(),
            assurance: v.assurance.name(),
            price: self.shared.prices.of(v, None),
            region_prices: self.shared.prices.by_region(v),
            regions: regions.iter().map(|(region, nodes)| (region.to_string(), *nodes)).collect(),
            work: match v.work {
                variant::Work::Generate => Work::Generate,
                variant::Work::Embed => Work::Embed,
            },
        };
        let mut models: Vec<ModelInfo> = variants.values().filter(|served| served.nodes > 0).map(info).collect();
        models.sort_by(|a, b| a.id.cmp(&b.id));
        models.dedup_by(|a, b| a.id == b.id);
        models
    }

    async fn receipt(&self, tenant: TenantId, task: TaskId) -> ReceiptState {
        if let Some(ready) = self.document(tenant, task).await {
            return ready;
        }
        if self.is_known(tenant, task).await {
            return ReceiptState::Pending;
        }
        // It may have come to the log between the two questions.
        match self.document(tenant, task).await {
            Some(ready) => ready,
            None if self.is_pruned(task).await => ReceiptState::Pruned,
            None => ReceiptState::Unknown,
        }
    }

    async fn publish(&self, tenant: TenantId, task: TaskId) -> bool {
        let (answer, known) = tokio::sync::oneshot::channel();
        self.tell(Message::Publish { tenant, task, answer }).await && known.await.unwrap_or(false)
    }

    async fn quote(&self, asked: QuoteRequest) -> Result<backend::Quote, Refusal> {
        self.offer(asked).await
    }

    async fn why_task(&self, tenant: Option<TenantId>, task: TaskId) -> Result<serde_json::Value, Refusal> {
        let now = clock::now();
        let (of, kept) = self.look(move |machine| (machine.task_decisions(task), machine.decisions_kept())).await?;
        let of = of.filter(|of| tenant.is_none_or(|tenant| tenant == of.tenant));
        of.map(|of| why::task(&of)).ok_or_else(|| {
            let message = format!("no decisions about this task are kept here: {}", why::how_long(now, &kept));
            Refusal::new(Kind::NoSuchPath, message)
        })
    }

    async fn why_node(&self, node: NodeId) -> Result<serde_json::Value, Refusal> {
        let now = clock::now();
        let look = move |machine: &ol_roles::Gateway| (machine.node_decisions(now, node), machine.decisions_kept());
        let (of, kept) = self.look(look).await?;
        of.map(|of| why::node(now, &of, &kept)).ok_or_else(|| {
            let how_long = why::how_long(now, &kept);
            let message = format!("this node is not connected here, and no decision that is kept names it: {how_long}");
            Refusal::new(Kind::NoSuchPath, message)
        })
    }

    fn is_operator(&self, key: &str) -> bool {
        key_digest(key) == self.shared.operator
    }

    fn authenticate(&self, key: &str) -> Option<Tenant> {
        self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).authenticate(key)
    }

    fn health(&self) -> Health {
        let nodes = u32::try_from(self.workers()).unwrap_or(u32::MAX);
        let fault = lock(&self.shared.fault).clone();
        let draining = self.shared.draining.load(Ordering::Relaxed).then(|| "shutting down".to_owned());
        let nobody = (nodes == 0).then(|| "no node is connected".to_owned());
        let live = !self.inbox.is_closed();
        let stopped = (!live).then(|| "the gateway has stopped because of a fault of its own".to_owned());
        let reason = stopped.or(fault).or_else(|| self.stall()).or(draining).or(nobody);
        Health { live, ready: reason.is_none(), nodes, reason }
    }

    fn metrics(&self) -> String {
        lock(&self.shared.metrics).clone()
    }

    async fn log(&self, file: LogFile) -> Result<Option<Bytes>, Refusal> {
        match self.shared.questions.ask(move |reader| log_file(reader, file)).await {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(ol_store::Error::Pruned { .. })) => Err(Refusal::new(
                Kind::Gone,
                "records of this tile were pruned: a copy of the log that was made before has it",
            )),
            Some(Err(error)) => {
                tracing::error!(%error, "cannot read the log");
                Err(Refusal::new(Kind::Internal, "the log can't be read now"))
            }
            None => Err(Refusal::new(Kind::Internal, "the log can't be read now")),
        }
    }

    async fn instruct(&self, instruction: Instruction) -> Result<(), Refusal> {
        self.carry(instruction).await
    }

    fn closed(&self, task: TaskId, response: ResponseDigest) {
        let inbox = self.inbox.clone();
        let message = Message::Responded { task, digest: response.digest, complete: response.complete };
        if let Err(mpsc::error::TrySendError::Full(message)) = inbox.try_send(message) {
            tokio::spawn(async move { inbox.send(message).await });
        }
    }
}

impl Handle {
    async fn document(&self, tenant: TenantId, task: TaskId) -> Option<ReceiptState> {
        let (network, gateway) = (self.shared.network, self.shared.gateway);
        let salt = seed::salt(&self.shared.master, &task).to_string();
        let build = move |reader: &dyn Read| document::build(reader, (tenant, task), (network, gateway));
        match self.shared.questions.ask(build).await? {
            Ok(None) => None,
            Ok(Some((mut receipt, subject))) => {
                // The facts of a task are not in a log that was restored from its public copy; its salt is never lost.
                if receipt["salt"].is_null() {
                    receipt["salt"] = salt.into();
                }
                let (answer, known) = tokio::sync::oneshot::channel();
                let asked = Message::Standing { node: subject.node, variant: subject.variant, answer };
                let known = if self.tell(asked).await { known.await.ok() } else { None };
                let trust = known.map_or(serde_json::Value::Null, |known| trust::document(&subject, &known));
                Some(ReceiptState::Ready { receipt, trust })
            }
            Err(error) => {
                tracing::error!(%error, "cannot read a receipt");
                None
            }
        }
    }

    /// Looks at the machine once it has taken what was sent before.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&ol_roles::Gateway) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, known) = tokio::sync::oneshot::channel();
        // Whoever asked may have gone.
        let look = Box::new(move |machine: &ol_roles::Gateway| drop(answer.send(look(machine))));
        self.tell(Message::Look(look)).await;
        known.await.map_err(|_| Refusal::new(Kind::ShuttingDown, "the gateway has stopped"))
    }

    // A server that stands still says nothing, so that the commit has not failed yet. What can be answered is answered
    // meanwhile, but who can ask elsewhere should.
    fn stall(&self) -> Option<String> {
        let since = (*lock(&self.shared.committing_since))?.elapsed();
        let is_long = since > COMMIT_LIMIT;
        is_long.then(|| format!("the log has not been written for {} s: its disk or server is slow", since.as_secs()))
    }

    // Ids begin with the time, so that they tell what may have been pruned.
    async fn is_pruned(&self, task: TaskId) -> bool {
        match self.shared.questions.ask(pruned_until).await {
            Some(Ok(until)) => until.is_some_and(|until| began(task) < until),
            Some(Err(_)) | None => false,
        }
    }

    async fn is_known(&self, tenant: TenantId, task: TaskId) -> bool {
        let (answer, known) = tokio::sync::oneshot::channel();
        self.tell(Message::IsKnown { tenant, task, answer }).await && known.await.unwrap_or(false)
    }
}

/// Which variants will do.
pub(super) struct Wanted<'a> {
    pub(super) model: &'a str,
    pub(super) work: Option<variant::Work>,
    pub(super) quantisation: Option<&'a String>,
    /// The only region that may compute it.
    pub(super) region: Option<Region>,
    /// The only one, of a request that names a quote.
    pub(super) quoted: Option<VariantId>,
}

impl<'a> Wanted<'a> {
    fn of(submission: &'a Submission, quote: Option<&Quote>) -> Self {
        let work = Some(work(&submission.payload));
        let (model, quantisation) = (submission.model.as_str(), submission.quantisation.as_ref());
        let (region, quoted) = (submission.place.bound(), quote.map(|quote| quote.variant));
        Self { model, work, quantisation, region, quoted }
    }
}

pub(super) const fn work(payload: &Payload) -> variant::Work {
    match payload {
        Payload::Embed(_) => variant::Work::Embed,
        Payload::Chat(_) | Payload::Text(_) => variant::Work::Generate,
    }
}

pub(super) fn output_tokens_max(asked: Option<u32>, variant: &Variant) -> Result<u32, Refusal> {
    let context = variant.context_tokens;
    if asked.is_some_and(|n| n >= context) {
        let message = format!("max_tokens leaves no room for a prompt in the model's context of {context} tokens");
        return Err(Refusal::new(Kind::TooLong, message));
    }
    Ok(match variant.work {
        variant::Work::Generate => asked.unwrap_or(DEFAULT_MAX_TOKENS.min(context / 2)),
        variant::Work::Embed => 0,
    })
}

// No tokenizer of the served kinds makes more tokens than bytes.
pub(super) fn prompt_tokens_max(payload: &Payload, context: u32) -> u32 {
    let bound = match payload {
        Payload::Chat(messages) => {
            let bytes: usize = messages.iter().map(|m| m.content.len() + TEMPLATE_TOKENS_PER_MESSAGE).sum();
            (bytes + TEMPLATE_TOKENS).min(context as usize)
        }
        Payload::Text(prompt) => (prompt.len() + TEMPLATE_TOKENS).min(context as usize),
        Payload::Embed(texts) => texts.iter().map(|t| (t.len() + 2).min(context as usize)).sum(),
    };
    u32::try_from(bound).unwrap_or(u32::MAX)
}

fn node_payload(payload: Payload, generate: Option<Generate>, max_tokens: u32) -> frame::Payload {
    let generate = generate.map(|g| frame::Generate {
        temperature: g.sampling.temperature,
        top_p: g.sampling.top_p,
        top_k: g.sampling.top_k,
        min_p: g.sampling.min_p,
        max_tokens,
        stop: g.stop,
        // Zero alternatives still want the chosen token's log-probability: one more than asked for, none if not asked.
        top_logprobs: g.top_logprobs.map_or(0, |n| u32::from(n) + 1),
    });
    match (payload, generate) {
        (Payload::Chat(messages), Some(generate)) => {
            let messages = messages
                .into_iter()
                .map(|m| frame::Message { role: m.role.name().into(), content: m.content })
                .collect();
            frame::Payload::Chat { messages, generate }
        }
        (Payload::Text(prompt), Some(generate)) => frame::Payload::Text { prompt, generate },
        (Payload::Embed(texts), _) => frame::Payload::Embed { texts },
        (Payload::Chat(_) | Payload::Text(_), None) => frame::Payload::Embed { texts: Vec::new() },
    }
}

// When an id of ours was given out (docs/adr/0013).
fn began(task: TaskId) -> Timestamp {
    let TaskId([a, b, c, d, e, f, ..]) = task;
    Timestamp(u64::from_be_bytes([0, 0, a, b, c, d, e, f]).saturating_mul(1_000))
}

// When the last pruned epoch closed.
fn pruned_until(reader: &dyn Read) -> Result<Option<Timestamp>, ol_store::Error> {
    let Some(pruned) = reader.pruned()? else { return Ok(None) };
    match reader.record(pruned.size.saturating_sub(1))? {
        Some(Record::Close(close)) => Ok(Some(close.at)),
        _ => Ok(None),
    }
}

fn log_file(reader: &dyn Read, file: LogFile) -> Result<Option<Bytes>, ol_store::Error> {
    let Some(note) = reader.latest_checkpoint()? else { return Ok(None) };
    let tile = match file {
        LogFile::Checkpoint => return Ok(Some(note.text.into())),
        LogFile::Tile(tile) => tile,
    };
    if !tile.is_within(note.size) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    match tile.content {
        Content::Hashes { .. } => {
            let Some(hashes) = reader.hashes(tile.tree_level(), tile.positions())? else { return Ok(None) };
            hashes.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
        }
        Content::Entries => {
            for record in reader.page(tile.positions())? {
                let record = record.to_bytes();
                push_entry(&mut bytes, &record).expect("no record is longer than an entry of a tile");
            }
        }
    }
    Ok(Some(bytes.into()))
}
