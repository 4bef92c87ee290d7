//! Requests: from a body to a checked task. Nothing that a client asks for is silently ignored.

use ol_protocol::bytes::Writer;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::region::ParseError;
use ol_protocol::sampler::{Sampling, TEMPERATURE_MAX};
use ol_protocol::{Digest, MicroCredits, Micros, Region};
use ol_sched::{Tier, Where};
use serde_json::Value;

use crate::backend::{Generate, Message, Payload, Role};
use crate::json::{self, Fields, wrong};
use crate::refusal::Refusal;
use crate::trivial;

/// Stop strings of a request.
const STOPS_MAX: usize = 4;
/// Length of a stop string: they are held back from the stream while they may still match.
const STOP_BYTES_MAX: usize = 256;
/// Alternatives for each token of a chat.
const TOP_LOGPROBS_MAX: u64 = 20;
/// Alternatives for each token of a text completion.
const TEXT_LOGPROBS_MAX: u64 = 5;
/// Texts of one embeddings request.
const TEXTS_MAX: usize = 256;
/// Longest output that a text completion gets without `max_tokens`, as in the interface this follows.
const TEXT_TOKENS_DEFAULT: u32 = 16;
/// Longest wait that a client may set: a day.
const DEADLINE_MS_MAX: u64 = 86_400_000;

/// Longest id of a quote: twice what they have now.
const QUOTE_CHARS_MAX: usize = 320;

/// Which resource was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Api {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
    /// `/v1/embeddings`.
    Embeddings,
}

/// How the vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As JSON numbers.
    Float,
    /// Little-endian f32 in base64.
    Base64,
}

/// How the answer is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece.
    Whole,
    /// As events.
    Stream {
        /// With a last event for the usage.
        usage: bool,
    },
}

/// A checked request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) api: Api,
    pub(crate) model: String,
    pub(crate) payload: Payload,
    pub(crate) generate: Option<Generate>,
    pub(crate) delivery: Delivery,
    pub(crate) encoding: Encoding,
    /// Refused unless it is what the model gives.
    pub(crate) dimensions: Option<usize>,
    pub(crate) policy: Policy,
}

/// What may serve the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) quantisation: Option<String>,
    pub(crate) deadline: Option<Micros>,
    pub(crate) max_price: Option<MicroCredits>,
    pub(crate) public: Option<bool>,
    /// In millionths.
    pub(crate) min_trust: Option<u32>,
    pub(crate) region: Option<Region>,
    pub(crate) prefer_region: Option<Region>,
    pub(crate) tier: Option<Tier>,
    /// The id of a quote whose price is to be charged.
    pub(crate) quote: Option<String>,
}

impl Request {
    /// Reads a body.
    pub(crate) fn parse(api: Api, body: &[u8]) -> Result<Self, Refusal> {
        let mut fields = json::object(body)?;
        let request = match api {
            Api::Chat => chat(&mut fields)?,
            Api::Text => text(&mut fields)?,
            Api::Embeddings => embeddings(&mut fields)?,
        };
        trivial::accept(api, fields)?;
        Ok(request)
    }

    /// Digest of model, payload and sampling: the same however the body spells it, streamed or not.
    pub(crate) fn canonical(&self) -> Digest {
        let mut w = Writer::new();
        w.bytes(self.model.as_bytes());
        match &self.payload {
            Payload::Chat(messages) => {
                w.u8(0).u32(messages.len() as u32);
                for message in messages {
                    w.u8(message.role as u8).bytes(message.content.as_bytes());
                }
            }
            Payload::Text(text) => {
                w.u8(1).bytes(text.as_bytes());
            }
            Payload::Embed(texts) => {
                w.u8(2).u32(texts.len() as u32);
                for text in texts {
                    w.bytes(text.as_bytes());
                }
            }
        }
        if let Some(generate) = &self.generate {
            w.raw(&generate.sampling.to_bytes());
        }
        digest(Domain::Request, &[b"canonical", &w.finish()])
    }
}

fn chat(fields: &mut Fields) -> Result<Request, Refusal> {
    let model = model(fields)?;
    let messages = messages(fields.required("messages")?)?;
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX)?;
    if top.is_some() && !wanted {
        return Err(Refusal::invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
    }
    let top_logprobs = wanted.then(|| top.unwrap_or(0) as u8);
    let newer = max_tokens(fields, "max_completion_tokens")?;
    let max_tokens = match (newer, max_tokens(fields, "max_tokens")?) {
        (Some(newer), Some(older)) if newer != older => {
            let message = "`max_tokens` and `max_completion_tokens` must not differ";
            return Err(Refusal::invalid("max_completion_tokens", message));
        }
        (newer, older) => newer.or(older),
    };
    let generate = generate(fields, max_tokens, top_logprobs)?;
    finish(fields, Api::Chat, model, Payload::Chat(messages), Some(generate))
}

fn text(fields: &mut Fields) -> Result<Request, Refusal> {
    let model = model(fields)?;
    let prompt = prompt(fields.required("prompt")?)?;
    let top_logprobs = fields.integer("logprobs", 0, TEXT_LOGPROBS_MAX)?.map(|top| top as u8);
    let max_tokens = max_tokens(fields, "max_tokens")?.unwrap_or(TEXT_TOKENS_DEFAULT);
    let generate = generate(fields, Some(max_tokens), top_logprobs)?;
    finish(fields, Api::Text, model, Payload::Text(prompt), Some(generate))
}

fn embeddings(fields: &mut Fields) -> Result<Request, Refusal> {
    let model = model(fields)?;
    let texts = inputs(fields.required("input")?)?;
    let encoding = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(_) => {
            return Err(Refusal::invalid("encoding_format", "`encoding_format` must be `float` or `base64`"));
        }
    };
    let dimensions = fields.integer("dimensions", 1, u64::from(u32::MAX))?.map(|count| count as usize);
    let policy = policy(fields)?;
    let payload = Payload::Embed(texts);
    Ok(Request {
        api: Api::Embeddings,
        model,
        payload,
        generate: None,
        delivery: Delivery::Whole,
        encoding,
        dimensions,
        policy,
    })
}

fn finish(
    fields: &mut Fields,
    api: Api,
    model: String,
    payload: Payload,
    generate: Option<Generate>,
) -> Result<Request, Refusal> {
    let delivery = delivery(fields)?;
    let policy = policy(fields)?;
    Ok(Request { api, model, payload, generate, delivery, encoding: Encoding::Float, dimensions: None, policy })
}

pub(crate) fn model(fields: &mut Fields) -> Result<String, Refusal> {
    match fields.required("model")? {
        Value::String(name) if !name.is_empty() => Ok(name),
        Value::String(_) => Err(Refusal::invalid("model", "`model` must not be empty")),
        other => Err(wrong("model", "a string", &other)),
    }
}

pub(crate) fn max_tokens(fields: &mut Fields, member: &str) -> Result<Option<u32>, Refusal> {
    Ok(fields.integer(member, 1, u64::from(u32::MAX))?.map(|count| count as u32))
}

fn generate(fields: &mut Fields, max_tokens: Option<u32>, top_logprobs: Option<u8>) -> Result<Generate, Refusal> {
    let sampling = Sampling {
        temperature: fields.number("temperature", TEMPERATURE_MAX)?.unwrap_or(1.0),
        top_p: fields.number("top_p", 1.0)?.unwrap_or(1.0),
        top_k: fields.integer("top_k", 0, u64::from(u32::MAX))?.unwrap_or(0) as u32,
        min_p: fields.number("min_p", 1.0)?.unwrap_or(0.0),
    };
    let stop = fields.take("stop").map_or(Ok(Vec::new()), stops)?;
    Ok(Generate { sampling, max_tokens, stop, top_logprobs, client_seed: fields.seed("seed")? })
}

fn stops(value: Value) -> Result<Vec<String>, Refusal> {
    let values = match value {
        Value::Array(values) => values,
        text @ Value::String(_) => vec![text],
        other => return Err(wrong("stop", "a string or an array of strings", &other)),
    };
    if values.len() > STOPS_MAX {
        let message = format!("`stop` must have at most {STOPS_MAX} strings, not {}", values.len());
        return Err(Refusal::invalid("stop", message));
    }
    values
        .into_iter()
        .map(|value| match value {
            Value::String(text) if (1..=STOP_BYTES_MAX).contains(&text.len()) => Ok(text),
            Value::String(_) => {
                Err(Refusal::invalid("stop", format!("a string of `stop` must have 1 to {STOP_BYTES_MAX} bytes")))
            }
            other => Err(wrong("stop", "a string or an array of strings", &other)),
        })
        .collect()
}

fn delivery(fields: &mut Fields) -> Result<Delivery, Refusal> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(options) = fields.take("stream_options") else {
        return Ok(if stream { Delivery::Stream { usage: false } } else { Delivery::Whole });
    };
    if !stream {
        return Err(Refusal::invalid("stream_options", "`stream_options` needs `stream` to be true"));
    }
    let mut options = Fields::of(options, "stream_options".to_owned())?;
    let usage = options.boolean("include_usage")?.unwrap_or(false);
    options.finish()?;
    Ok(Delivery::Stream { usage })
}

pub(crate) fn policy(fields: &mut Fields) -> Result<Policy, Refusal> {
    let Some(value) = fields.take("openledger") else { return Ok(Policy::default()) };
    let mut fields = Fields::of(value, "openledger".to_owned())?;
    let policy = Policy {
        quantisation: fields.string("quantisation")?,
        deadline: fields.integer("deadline_ms", 1, DEADLINE_MS_MAX)?.map(Micros::from_millis),
        max_price: fields.integer("max_price", 0, u64::MAX)?.map(MicroCredits),
        public: fields.boolean("public")?,
        min_trust: match fields.number("min_trust", 1.0)? {
            Some(value) => Some(min_trust(&fields.name("min_trust"), f64::from(value))?),
            None => None,
        },
        region: named(&mut fields, "region", region)?,
        prefer_region: named(&mut fields, "prefer_region", region)?,
        tier: named(&mut fields, "tier", tier)?,
        quote: match fields.string("quote")? {
            Some(id) => Some(quote(&fields.name("quote"), &id)?),
            None => None,
        },
    };
    for member in trivial::POLICY_UNSUPPORTED {
        if fields.take(member).is_some() {
            return Err(trivial::unsupported(&fields.name(member)));
        }
    }
    fields.finish()?;
    Ok(policy)
}

fn named<T>(
    fields: &mut Fields,
    member: &str,
    parse: fn(&str, &str) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    let name = fields.name(member);
    fields.string(member)?.map(|value| parse(&name, &value)).transpose()
}

fn region(name: &str, value: &str) -> Result<Region, Refusal> {
    value.parse().map_err(|error: ParseError| Refusal::invalid(name, format!("`{name}`: {error}")))
}

fn tier(name: &str, value: &str) -> Result<Tier, Refusal> {
    let [two, three] = Tier::PROMISES.map(Tier::name);
    let wrong = || Refusal::invalid(name, format!("`{name}` must be `standard`, `{two}` or `{three}`"));
    Tier::named(value).ok_or_else(wrong)
}

impl Policy {
    /// Where the request may be computed.
    pub(crate) fn place(&self) -> Result<Where, Refusal> {
        match (self.region, self.prefer_region) {
            (None, None) => Ok(Where::Anywhere),
            (Some(region), None) => Ok(Where::Only(region)),
            (None, Some(region)) => Ok(Where::Preferably(region)),
            (Some(_), Some(_)) => {
                let message = "`openledger.region` allows no other region: leave `openledger.prefer_region` out";
                Err(Refusal::invalid("openledger.prefer_region", message))
            }
        }
    }

    /// Adds one `x-openledger-*` header; `name` is what follows the prefix.
    pub(crate) fn add_header(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let header = format!("x-openledger-{name}");
        let number =
            |min: u64, max: u64| {
                value.parse::<u64>().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
                    Refusal::invalid(&*header, format!("`{header}` must be an integer from {min} to {max}"))
                })
            };
        match name {
            "quantisation" => settle(&mut self.quantisation, value.to_owned(), &header),
            "deadline-ms" => settle(&mut self.deadline, Micros::from_millis(number(1, DEADLINE_MS_MAX)?), &header),
            "public" => {
                let public = value
                    .parse()
                    .map_err(|_| Refusal::invalid(&*header, format!("`{header}` must be true or false")))?;
                settle(&mut self.public, public, &header)
            }
            "min-trust" => {
                let value: f64 = value.parse().unwrap_or(f64::NAN);
                settle(&mut self.min_trust, min_trust(&header, value)?, &header)
            }
            "region" => settle(&mut self.region, region(&header, value)?, &header),
            "prefer-region" => settle(&mut self.prefer_region, region(&header, value)?, &header),
            "tier" => settle(&mut self.tier, tier(&header, value)?, &header),
            "quote" => settle(&mut self.quote, quote(&header, value)?, &header),
            "max-price" => settle(&mut self.max_price, MicroCredits(number(0, u64::MAX)?), &header),
            _ => Err(trivial::unsupported(&header)),
        }
    }
}

fn quote(name: &str, id: &str) -> Result<String, Refusal> {
    match id.len() <= QUOTE_CHARS_MAX && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(id.to_owned()),
        false => {
            Err(Refusal::invalid(name, format!("`{name}` must be a quote's id, {QUOTE_CHARS_MAX} letters at most")))
        }
    }
}

// Nothing is ever certain.
fn min_trust(name: &str, value: f64) -> Result<u32, Refusal> {
    let ppm = (value * 1e6).round();
    match (1.0..1e6).contains(&ppm) {
        true => Ok(ppm as u32),
        false => Err(Refusal::invalid(name, format!("`{name}` must be a number above 0 and below 1"))),
    }
}

fn settle<T: PartialEq>(slot: &mut Option<T>, value: T, header: &str) -> Result<(), Refusal> {
    match slot {
        Some(present) if *present != value => {
            Err(Refusal::invalid(header, format!("`{header}` and the body's `openledger` must not differ")))
        }
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn messages(value: Value) -> Result<Vec<Message>, Refusal> {
    let Value::Array(values) = value else { return Err(wrong("messages", "an array", &value)) };
    if values.is_empty() {
        return Err(Refusal::invalid("messages", "`messages` must not be empty"));
    }
    values.into_iter().enumerate().map(|(at, value)| message(value, format!("messages[{at}]"))).collect()
}

fn message(value: Value, path: String) -> Result<Message, Refusal> {
    let mut fields = Fields::of(value, path)?;
    let role_name = fields.name("role");
    let role = match fields.required("role")? {
        Value::String(name) => match name.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" | "function" => {
                return Err(Refusal::invalid(&*role_name, format!("`{role_name}` `{name}` is not supported")));
            }
            _ => {
                let message = format!("`{role_name}` must be `system`, `developer`, `user` or `assistant`");
                return Err(Refusal::invalid(role_name, message));
            }
        },
        other => return Err(wrong(&role_name, "a string", &other)),
    };
    let content_name = fields.name("content");
    let content = content(fields.required("content")?, &content_name)?;
    trivial::accept_message(fields)?;
    Ok(Message { role, content })
}

/// Text as it is, or text parts one after the other.
fn content(value: Value, name: &str) -> Result<String, Refusal> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong(name, "a string or an array of text parts", &other)),
    };
    let mut text = String::new();
    for (at, part) in parts.into_iter().enumerate() {
        let mut part = Fields::of(part, format!("{name}[{at}]"))?;
        let type_name = part.name("type");
        match part.string("type")?.as_deref() {
            Some("text") => {}
            None => return Err(Refusal::invalid(&*type_name, format!("`{type_name}` is missing"))),
            Some(_) => return Err(Refusal::invalid(&*type_name, format!("`{type_name}` must be `text`"))),
        }
        let text_name = part.name("text");
        match part.required("text")? {
            Value::String(more) => text.push_str(&more),
            other => return Err(wrong(&text_name, "a string", &other)),
        }
        part.finish()?;
    }
    Ok(text)
}

fn prompt(value: Value) -> Result<String, Refusal> {
    let many = "`prompt` must be one string; arrays of several prompts or of token ids are not supported";
    match value {
        Value::String(text) => Ok(text),
        Value::Array(values) => match <[Value; 1]>::try_from(values) {
            Ok([Value::String(text)]) => Ok(text),
            _ => Err(Refusal::invalid("prompt", many)),
        },
        other => Err(wrong("prompt", "a string", &other)),
    }
}

fn inputs(value: Value) -> Result<Vec<String>, Refusal> {
    let values = match value {
        Value::Array(values) => values,
        text @ Value::String(_) => vec![text],
        other => return Err(wrong("input", "a string or an array of strings", &other)),
    };
    if !(1..=TEXTS_MAX).contains(&values.len()) {
        let message = format!("`input` must have 1 to {TEXTS_MAX} texts, not {}", values.len());
        return Err(Refusal::invalid("input", message));
    }
    values
        .into_iter()
        .enumerate()
        .map(|(at, value)| match value {
            Value::String(text) if !text.is_empty() => Ok(text),
            Value::String(_) => Err(Refusal::invalid("input", format!("`input[{at}]` must not be empty"))),
            Value::Number(_) | Value::Array(_) => {
                Err(Refusal::invalid("input", "token ids as `input` are not supported: send texts"))
            }
            other => Err(wrong(&format!("input[{at}]"), "a string", &other)),
        })
        .collect()
}
