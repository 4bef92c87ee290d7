//! The resources of the API.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use ol_protocol::TaskId;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::id::hex;
use ol_protocol::tile::Tile;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::answer::{self, Head, ModelObject};
use crate::backend::{Backend, LogFile, NetworkInfo, Payload, ReceiptState, Submission};
use crate::body::{self, BodyLimits};
use crate::deliver::{self, RECEIPT, Vectors, Whole};
use crate::idempotency::{Answers, Claim, KEY_CHARS_MAX, Kept, Slot};
use crate::instruct;
use crate::keys::Tenant;
use crate::limits::{Limits, Reservation};
use crate::metrics::Metrics;
use crate::quote::{self, QuoteObject};
use crate::refusal::{Kind, Refusal};
use crate::request::{Api, Delivery, Request as Parsed};
use crate::task::{Sent, Task};
use crate::visitors::{Visitor, Visitors};

/// Output tokens set aside for a request that names no maximum.
const OUTPUT_ESTIMATE: u64 = 256;
/// Bytes of body for each prompt token set aside.
const BYTES_PER_TOKEN: u64 = 4;
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken over from a client.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// How long a proxy may keep a checkpoint: far less than an epoch.
const CHECKPOINT_KEPT: &str = "public, max-age=5";
/// A full tile is what it is.
const FULL_TILE_KEPT: &str = "public, max-age=31536000, immutable";
/// So is one that is not full, but nobody asks for it again after the next checkpoint.
const PART_TILE_KEPT: &str = "public, max-age=3600";

/// What all requests share.
pub(crate) struct App<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) visitors: Visitors,
    pub(crate) answers: Arc<Answers>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) body: BodyLimits,
    /// Longest silence of a task.
    pub(crate) stall: Duration,
}

type Shared<B> = State<Arc<App<B>>>;

/// Every resource.
pub(crate) fn router<B: Backend>(app: Arc<App<B>>) -> Router {
    Router::new()
        .route("/v1/models", get(models::<B>))
        .route("/v1/models/{*id}", get(model::<B>))
        .route("/v1/chat/completions", post(|State(app), request| work::<B>(app, Api::Chat, request)))
        .route("/v1/completions", post(|State(app), request| work::<B>(app, Api::Text, request)))
        .route("/v1/embeddings", post(|State(app), request| work::<B>(app, Api::Embeddings, request)))
        .route("/v1/quotes", post(quotes::<B>))
        .route("/v1/tasks/{id}/why", get(why_task::<B>))
        .route("/v1/nodes/{id}/why", get(why_node::<B>))
        .route("/v1/receipts/{id}", get(receipt::<B>))
        .route("/v1/receipts/{id}/publish", post(publish::<B>))
        .route(instruct::PATHS[0], post(instruction::<B>))
        .route(instruct::PATHS[1], post(instruction::<B>))
        .route(instruct::PATHS[2], post(instruction::<B>))
        .route("/v1/network", get(network::<B>))
        .route("/log/{*file}", get(log::<B>))
        .route("/health", get(health::<B>))
        .route("/metrics", get(metrics::<B>))
        .fallback(async |request: Request| refuse(request, no_such_path()).await)
        .method_not_allowed_fallback(async |request: Request| {
            let refusal = wrong_method(request.uri().path(), request.method());
            refuse(request, refusal).await
        })
        .layer(from_fn_with_state(Arc::clone(&app), observe::<B>))
        .with_state(app)
}

fn no_such_path() -> Refusal {
    Refusal::new(Kind::NoSuchPath, "there is nothing at this path")
}

fn wrong_method(path: &str, method: &Method) -> Refusal {
    let allow = match route_of(path) {
        "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" => "POST",
        path if instruct::PATHS.contains(&path) => "POST",
        "/v1/receipts/{id}/publish" | "/v1/quotes" => "POST",
        _ => "GET, HEAD",
    };
    Refusal::new(Kind::WrongMethod { allow }, format!("this path is not for {method} but for {allow}"))
}

async fn refuse(request: Request, refusal: Refusal) -> Response {
    body::discard(request.into_body()).await;
    refusal.into_response()
}

/// The route's name in metrics and logs; never a path that a client made up.
fn route_of(path: &str) -> &'static str {
    match path {
        "/v1/models" => "/v1/models",
        "/v1/chat/completions" => "/v1/chat/completions",
        "/v1/completions" => "/v1/completions",
        "/v1/embeddings" => "/v1/embeddings",
        "/v1/network" => "/v1/network",
        "/v1/quotes" => "/v1/quotes",
        "/v1/top-ups" => "/v1/top-ups",
        "/v1/parameters" => "/v1/parameters",
        "/v1/tenants" => "/v1/tenants",
        "/health" => "/health",
        "/metrics" => "/metrics",
        _ if path.starts_with("/v1/models/") => "/v1/models/{id}",
        _ if path.starts_with("/log/") => "/log/{file}",
        _ if path.starts_with("/v1/receipts/") && path.ends_with("/publish") => "/v1/receipts/{id}/publish",
        _ if path.starts_with("/v1/receipts/") => "/v1/receipts/{id}",
        _ if path.starts_with("/v1/tasks/") => "/v1/tasks/{id}/why",
        _ if path.starts_with("/v1/nodes/") => "/v1/nodes/{id}/why",
        _ => "other",
    }
}

/// Names and counts every request. What went well is in metrics, decisions and receipts: a line for each would cost as much as the decision.
async fn observe<B: Backend>(State(app): Shared<B>, request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let route = route_of(request.uri().path());
    let method = request.method().clone();
    let given = given_id(request.headers());
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    app.metrics.answered(route, status);
    let receipt = response.headers().get(RECEIPT).and_then(|id| id.to_str().ok()).unwrap_or("");
    // A repeated answer has the receipt of the first.
    let is_new = !response.headers().contains_key(REPLAYED);
    let request_id = given.unwrap_or_else(|| new_id(if is_new { receipt } else { "" }));
    let header_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
    let request_id_text = request_id.to_str().unwrap_or("");
    let is_looked_at = matches!(route, "/health" | "/metrics" | "/log/{file}");
    match response.status().is_success() {
        true => tracing::debug!(request_id = request_id_text, %method, route, status, receipt, header_us, "answered"),
        false if is_looked_at => tracing::debug!(%method, route, status, header_us, "not answered"),
        false => {
            tracing::info!(request_id = request_id_text, %method, route, status, receipt, header_us, "not answered")
        }
    }
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

fn given_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_CHARS_MAX).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    headers.get(REQUEST_ID).filter(sane).cloned()
}

// That of the task, if there is one.
fn new_id(receipt: &str) -> HeaderValue {
    let text = match receipt {
        "" => format!("req-{}", fresh_task().unwrap_or(TaskId([0; 16]))),
        receipt => ["req-", receipt].concat(),
    };
    HeaderValue::from_str(&text).expect("hexadecimal digits")
}

// Six bytes of milliseconds, so that what is stored about tasks of one time lies together, and ten of chance.
pub(crate) fn fresh_task() -> Result<TaskId, Refusal> {
    let mut bytes = [0; 16];
    let (time, chance) = bytes.split_at_mut(6);
    time.copy_from_slice(&(ol_drive::clock::now().0 / 1_000).to_be_bytes()[2..]);
    getrandom::fill(chance).map_err(|_| Refusal::new(Kind::Internal, "the system has no randomness"))?;
    Ok(TaskId(bytes))
}

fn unauthorized(message: &str) -> Refusal {
    Refusal::new(Kind::Unauthorized, message)
}

fn key_of(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers
        .get(AUTHORIZATION)
        .ok_or_else(|| unauthorized("no API key: send it as `Authorization: Bearer ol-...`"))?;
    value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim())
        .ok_or_else(|| unauthorized("the header `Authorization` must be `Bearer` and an API key"))
}

/// Whose request this is.
fn authenticate<B: Backend>(backend: &B, headers: &HeaderMap) -> Result<Tenant, Refusal> {
    backend.authenticate(key_of(headers)?).ok_or_else(|| unauthorized("this API key is not known here"))
}

fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn models<B: Backend>(State(app): Shared<B>, headers: HeaderMap) -> Result<Response, Refusal> {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<ModelObject<'a>>,
    }
    authenticate(&*app.backend, &headers)?;
    let models = app.backend.models();
    let list = List { object: "list", data: models.iter().map(ModelObject::of).collect() };
    Ok(json_response(StatusCode::OK, answer::json(&list)))
}

async fn model<B: Backend>(
    State(app): Shared<B>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    authenticate(&*app.backend, &headers)?;
    let models = app.backend.models();
    let model = models.iter().find(|model| model.id == id);
    let model = model.ok_or_else(|| Refusal::new(Kind::NotFound, "there is no model of this name"))?;
    Ok(json_response(StatusCode::OK, answer::json(&ModelObject::of(model))))
}

// Public, as it is all in the log.
async fn network<B: Backend>(State(app): Shared<B>) -> Response {
    let NetworkInfo { genesis, epoch, parameters } = app.backend.network();
    let object = json!({
        "object": "network", "network": genesis.network().to_string(), "gateway": genesis.gateway.to_string(),
        "owner": genesis.owner.to_string(), "issuer": genesis.issuer.to_string(), "epoch": epoch.0,
        "parameters": hex(&parameters.to_bytes()),
    });
    json_response(StatusCode::OK, answer::json(&object))
}

async fn instruction<B: Backend>(
    State(app): Shared<B>,
    Extension(Visitor(address)): Extension<Visitor>,
    request: Request,
) -> Result<Response, Refusal> {
    if let Err(refusal) = limit_visitor(&app, address) {
        body::discard(request.into_body()).await;
        return Err(refusal);
    }
    let path = request.uri().path().to_owned();
    instruct::take(&*app.backend, &path, request.into_body(), app.body).await?;
    Ok(json_response(StatusCode::OK, answer::json(&json!({ "object": "instruction", "status": "taken" }))))
}

// Whose receipt is asked for, if it may be.
fn holder<B: Backend>(app: &App<B>, id: &str, headers: &HeaderMap) -> Result<(Tenant, TaskId), Refusal> {
    let tenant = authenticate(&*app.backend, headers)?;
    let limited = |refusal| {
        app.metrics.refused("receipts");
        refusal
    };
    app.limits.take_receipt(&tenant, Instant::now()).map_err(limited)?;
    Ok((tenant, id.parse().map_err(|_| no_receipt())?))
}

fn no_receipt() -> Refusal {
    Refusal::new(Kind::NoSuchPath, "you have no receipt of this id")
}

async fn publish<B: Backend>(
    State(app): Shared<B>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (tenant, task) = holder(&app, &id, &headers)?;
    match app.backend.publish(tenant.id, task).await {
        true => {
            let taken = json!({"id": task.to_string(), "object": "receipt.publication", "status": "taken"});
            Ok(json_response(StatusCode::ACCEPTED, answer::json(&taken)))
        }
        false => Err(Refusal::new(
            Kind::Superseded,
            "there is nothing to publish: the answer was not refuted by the referee with its node's own variant, or is public already, or it is too long ago to cost its node anything",
        )),
    }
}

async fn receipt<B: Backend>(
    State(app): Shared<B>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (tenant, task) = holder(&app, &id, &headers)?;
    let state = match app.backend.receipt(tenant.id, task).await {
        ReceiptState::Unknown => return Err(no_receipt()),
        ReceiptState::Pruned => {
            return Err(Refusal::new(Kind::Gone, "receipts as old as this id are not kept any more: they were pruned"));
        }
        ReceiptState::Pending => json!({"id": task.to_string(), "object": "receipt", "status": "pending"}),
        ReceiptState::Ready { receipt, trust } => {
            json!({"id": task.to_string(), "object": "receipt", "status": "ready", "trust": trust, "receipt": receipt})
        }
    };
    Ok(json_response(StatusCode::OK, answer::json(&state)))
}

async fn quotes<B: Backend>(State(app): Shared<B>, request: Request) -> Result<Response, Refusal> {
    let (parts, incoming) = request.into_parts();
    let admitted = authenticate(&*app.backend, &parts.headers).and_then(|tenant| {
        let limited = app.limits.take_request(&tenant, Instant::now());
        limited.and_then(|()| check_media_type(&parts.headers)).map(|()| tenant)
    });
    let tenant = match admitted {
        Ok(tenant) => tenant,
        Err(refusal) => {
            body::discard(incoming).await;
            return Err(refusal);
        }
    };
    let body = body::read(incoming, app.body).await?;
    let quote = app.backend.quote(quote::parse(tenant.id, &body)?).await?;
    Ok(json_response(StatusCode::OK, answer::json(&QuoteObject::of(&quote))))
}

async fn why_task<B: Backend>(
    State(app): Shared<B>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let no_task = |_| Refusal::new(Kind::NoSuchPath, "a task's id has 32 hexadecimal digits: that of its receipt");
    let tenant = match app.backend.is_operator(key_of(&headers)?) {
        true => None,
        false => {
            let tenant = authenticate(&*app.backend, &headers)?;
            app.limits.take_receipt(&tenant, Instant::now()).inspect_err(|_| app.metrics.refused("receipts"))?;
            Some(tenant.id)
        }
    };
    let why = app.backend.why_task(tenant, id.parse().map_err(no_task)?).await?;
    Ok(json_response(StatusCode::OK, answer::json(&why)))
}

async fn why_node<B: Backend>(
    State(app): Shared<B>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if !app.backend.is_operator(key_of(&headers)?) {
        return Err(unauthorized(
            "this is for the gateway's operator: `openledger why` finds the key in the gateway's folder",
        ));
    }
    let no_node = |_| Refusal::new(Kind::NoSuchPath, "a node's id has 64 hexadecimal digits");
    let why = app.backend.why_node(id.parse().map_err(no_node)?).await?;
    Ok(json_response(StatusCode::OK, answer::json(&why)))
}

// What anyone may ask without a key.
fn limit_visitor<B>(app: &App<B>, address: IpAddr) -> Result<(), Refusal> {
    app.visitors.take_file(address, Instant::now()).map_err(|(limit, refusal)| {
        app.metrics.refused(limit.name());
        refusal
    })
}

// Of C2SP tlog-tiles. What is under a checkpoint never changes; a tile that is not full is soon of no use.
async fn log<B: Backend>(
    State(app): Shared<B>,
    Extension(Visitor(address)): Extension<Visitor>,
    Path(path): Path<String>,
) -> Result<Response, Refusal> {
    limit_visitor(&app, address)?;
    let none = || Refusal::new(Kind::NoSuchPath, "the log has no such file under its latest checkpoint");
    let file = match path.as_str() {
        "checkpoint" => LogFile::Checkpoint,
        path => LogFile::Tile(Tile::parse(path).ok_or_else(none)?),
    };
    let (kind, keep) = match file {
        LogFile::Checkpoint => ("text/plain; charset=utf-8", CHECKPOINT_KEPT),
        LogFile::Tile(tile) if tile.is_full() => ("application/octet-stream", FULL_TILE_KEPT),
        LogFile::Tile(_) => ("application/octet-stream", PART_TILE_KEPT),
    };
    let bytes = app.backend.log(file).await?.ok_or_else(none)?;
    Ok(([(CONTENT_TYPE, kind), (CACHE_CONTROL, keep)], bytes).into_response())
}

async fn health<B: Backend>(State(app): Shared<B>) -> Response {
    let health = app.backend.health();
    let status = match (health.live, health.ready) {
        (true, true) => "ok",
        (true, false) => "not ready",
        (false, _) => "not live",
    };
    let code = if health.live && health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": status, "live": health.live, "ready": health.ready, "nodes": health.nodes, "reason": health.reason,
    });
    json_response(code, answer::json(&body))
}

async fn metrics<B: Backend>(State(app): Shared<B>) -> Response {
    let mut text = app.metrics.render();
    text.push_str(&app.backend.metrics());
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}

/// A request for work, by a known tenant.
async fn work<B: Backend>(app: Arc<App<B>>, api: Api, request: Request) -> Response {
    let arrived = Instant::now();
    let (parts, incoming) = request.into_parts();
    let tenant = match authenticate(&*app.backend, &parts.headers) {
        Ok(tenant) => tenant,
        Err(refusal) => {
            body::discard(incoming).await;
            return refusal.into_response();
        }
    };
    let mut response = match admit(&app, &tenant, api, &parts.headers, incoming).await {
        Ok(Admitted::Repeated(kept)) => repeat(kept),
        Ok(Admitted::Fresh(fresh)) => perform(&app, *fresh, arrived).await.unwrap_or_else(IntoResponse::into_response),
        Err(refusal) => refusal.into_response(),
    };
    app.limits.write_headers(&tenant, Instant::now(), response.headers_mut());
    response
}

/// What to do with a request.
enum Admitted {
    Repeated(Kept),
    Fresh(Box<Fresh>),
}

/// A checked request within its tenant's limits.
struct Fresh {
    request: Parsed,
    submission: Submission,
    reservation: Reservation,
    slot: Option<Slot>,
}

async fn admit<B: Backend>(
    app: &App<B>,
    tenant: &Tenant,
    api: Api,
    headers: &HeaderMap,
    incoming: Body,
) -> Result<Admitted, Refusal> {
    if let Err(refusal) = app.limits.take_request(tenant, Instant::now()).and_then(|()| check_media_type(headers)) {
        body::discard(incoming).await;
        return Err(refusal);
    }
    let body = body::read(incoming, app.body).await?;
    let mut request = Parsed::parse(api, &body)?;
    // What headers say is part of what is asked.
    let mut said: Vec<(&str, &[u8])> = Vec::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix("x-openledger-") {
            said.push((name, value.as_bytes()));
            let value = value.to_str().map_err(|_| {
                Refusal::invalid(format!("x-openledger-{name}"), format!("`x-openledger-{name}` must be plain text"))
            })?;
            request.policy.add_header(name, value)?;
        }
    }
    let request_digest = digest(Domain::Request, &[&body]);
    let slot = match idempotency_key(headers)? {
        None => None,
        Some(key) => {
            said.sort_unstable();
            let api = [api as u8];
            let mut asked: Vec<&[u8]> = vec![b"idempotent", &api, &request_digest.0];
            asked.extend(said.iter().flat_map(|(name, value)| [name.as_bytes(), value]));
            let claimed = digest(Domain::Request, &asked);
            match app.answers.claim(tenant.id, key, claimed, Instant::now())? {
                Claim::Answered(kept) => return Ok(Admitted::Repeated(kept)),
                Claim::New(slot) => Some(slot),
            }
        }
    };
    let reservation = app.limits.reserve(tenant, estimate(&request, body.len()), Instant::now())?;
    let submission = Submission {
        tenant: tenant.id,
        task: fresh_task()?,
        model: request.model.clone(),
        quantisation: request.policy.quantisation.clone(),
        canonical: request.canonical(),
        payload: std::mem::replace(&mut request.payload, Payload::Text(String::new())),
        generate: request.generate.clone(),
        request_digest,
        body_bytes: body.len(),
        deadline: request.policy.deadline,
        max_price: request.policy.max_price,
        quote: request.policy.quote.clone(),
        public: request.policy.public.unwrap_or(false),
        min_trust_ppm: request.policy.min_trust,
        place: request.policy.place()?,
        tier: request.policy.tier.unwrap_or_default(),
    };
    Ok(Admitted::Fresh(Box::new(Fresh { request, submission, reservation, slot })))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_json = |value: &HeaderValue| {
        let kind = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
        kind.eq_ignore_ascii_case("application/json")
    };
    match headers.get(CONTENT_TYPE) {
        Some(value) if !is_json(value) => {
            Err(Refusal::new(Kind::WrongMediaType, "the header `Content-Type` must be `application/json`"))
        }
        _ => Ok(()),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=KEY_CHARS_MAX).contains(&key.len()));
    key.map(Some).ok_or_else(|| {
        let message = format!("the header `Idempotency-Key` must have 1 to {KEY_CHARS_MAX} plain characters");
        Refusal::invalid("Idempotency-Key", message)
    })
}

fn estimate(request: &Parsed, body_bytes: usize) -> u64 {
    let output = request.generate.as_ref().map_or(0, |generate| generate.max_tokens.map_or(OUTPUT_ESTIMATE, u64::from));
    (body_bytes as u64).div_ceil(BYTES_PER_TOKEN) + output
}

fn repeat(kept: Kept) -> Response {
    let mut response = Response::new(Body::from(kept.body));
    *response.headers_mut() = kept.headers;
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

async fn perform<B: Backend>(app: &App<B>, fresh: Fresh, arrived: Instant) -> Result<Response, Refusal> {
    let Fresh { request, submission, reservation, slot } = fresh;
    let task_id = submission.task;
    let logprobs = request.generate.as_ref().is_some_and(|generate| generate.top_logprobs.is_some());
    let keeps_back = submission.min_trust_ppm.is_some();
    let running = app.backend.submit(submission).await?;
    let mut sent = Sent::new(Arc::clone(&app.backend), task_id);
    let mut task = Task::new(running, reservation, Arc::clone(&app.metrics), app.stall, arrived);
    let head = Head::new(request.api, task_id, request.model, logprobs);
    match request.delivery {
        Delivery::Stream { usage } => match deliver::stream(head, task, sent, usage, slot, keeps_back).await {
            Ok(response) => Ok(response),
            Err((refusal, sent)) => Ok(refuse_task(&refusal, task_id, sent)),
        },
        Delivery::Whole => {
            let vectors = Vectors { encoding: request.encoding, dimensions: request.dimensions };
            match deliver::whole(&head, &mut task, vectors, &mut sent).await {
                Ok((headers, body)) => Ok(success(headers, body, slot, sent)),
                Err(refusal) => Ok(refuse_task(&refusal, task_id, sent)),
            }
        }
    }
}

fn success<B: Backend>(headers: HeaderMap, body: Bytes, slot: Option<Slot>, sent: Sent<B>) -> Response {
    if let Some(slot) = slot {
        slot.answer(Kept { headers: headers.clone(), body: body.clone() }, Instant::now());
    }
    let mut response = Response::new(Whole::body(body, sent));
    *response.headers_mut() = headers;
    response
}

/// The refusal of a task that was taken on: its receipt is named and its body reported like any other.
fn refuse_task<B: Backend>(refusal: &Refusal, task: TaskId, sent: Sent<B>) -> Response {
    let body = Bytes::from(refusal.to_json());
    let mut response = refusal.clone().into_response().map(|_| Whole::body(body, sent));
    let receipt = HeaderValue::from_str(&task.to_string()).expect("hexadecimal digits");
    response.headers_mut().insert(RECEIPT, receipt);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_later_tasks_come_later_and_share_no_chance() {
        let id = || fresh_task().unwrap_or_else(|_| panic!("no randomness"));
        let first = id();
        std::thread::sleep(Duration::from_millis(2));
        let second = id();
        assert!(first < second, "{first} {second}");
        assert_ne!(first.0[6..], second.0[6..]);
    }
}
