//! Answers as clients read them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ol_protocol::{Price, TaskId};
use serde::Serialize;

use crate::backend::{Finished, ModelInfo, Reason, TokenLogProb, Work};
use crate::request::{Api, Encoding};

/// What a short answer takes, so that it is written without growing.
const JSON_BYTES: usize = 768;
/// What stands for a log-probability below all numbers.
const LOG_PROB_FLOOR: f32 = -9_999.0;

/// What all pieces of one answer share.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) api: Api,
    /// Ends with the task's.
    pub(crate) id: String,
    pub(crate) task: TaskId,
    pub(crate) created: u64,
    pub(crate) model: String,
    /// Log-probabilities were asked for.
    pub(crate) logprobs: bool,
}

impl Head {
    pub(crate) fn new(api: Api, task: TaskId, model: String, logprobs: bool) -> Self {
        let prefix = match api {
            Api::Chat => "chatcmpl",
            Api::Text => "cmpl",
            Api::Embeddings => "embd",
        };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        Self { api, id: format!("{prefix}-{task}"), task, created, model, logprobs }
    }

    const fn object(&self, whole: bool) -> &'static str {
        match (self.api, whole) {
            (Api::Chat, true) => "chat.completion",
            (Api::Chat, false) => "chat.completion.chunk",
            (Api::Text, _) => "text_completion",
            (Api::Embeddings, _) => "list",
        }
    }

    /// A whole chat completion or text completion.
    pub(crate) fn whole(&self, text: &str, logprobs: &[TokenLogProb], finished: &Finished) -> Vec<u8> {
        let content = match self.api {
            Api::Chat => Content::Message(ChatMessage { role: "assistant", content: text, refusal: None }),
            Api::Text | Api::Embeddings => Content::Text(text),
        };
        let choice = self.choice(content, logprobs, 0, Some(finished.reason));
        self.write(true, &[choice], Some(Some(Usage::of(finished))), Some(self.evidence(finished)))
    }

    /// The first chunk of a chat: who speaks.
    pub(crate) fn opening(&self, usage: bool) -> Vec<u8> {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        let choice = self.choice(Content::Delta(delta), &[], 0, None);
        self.write(false, &[choice], usage.then_some(None), None)
    }

    /// A chunk of text; `offset` is the number of characters before it.
    pub(crate) fn delta(&self, text: &str, logprobs: &[TokenLogProb], offset: usize, usage: bool) -> Vec<u8> {
        let choice = self.choice(self.piece(Some(text)), logprobs, offset, None);
        self.write(false, &[choice], usage.then_some(None), None)
    }

    /// The chunk that says why the text ended and what stands behind it.
    pub(crate) fn ending(&self, finished: &Finished, usage: bool) -> Vec<u8> {
        let choice = self.choice(self.piece(None), &[], 0, Some(finished.reason));
        self.write(false, &[choice], usage.then_some(None), Some(self.evidence(finished)))
    }

    /// The chunk that only has the usage.
    pub(crate) fn usage(&self, finished: &Finished) -> Vec<u8> {
        self.write(false, &[], Some(Some(Usage::of(finished))), None)
    }

    /// The vectors of an embeddings request.
    pub(crate) fn vectors(&self, finished: &Finished, encoding: Encoding) -> Vec<u8> {
        let data = finished.vectors.iter().enumerate().map(|(index, vector)| Embedding {
            object: "embedding",
            index,
            embedding: match encoding {
                Encoding::Float => Vector::Float(vector),
                Encoding::Base64 => Vector::Base64(base64_of(vector)),
            },
        });
        json(&EmbeddingList {
            object: "list",
            data: data.collect(),
            model: &self.model,
            usage: EmbeddingUsage { prompt_tokens: finished.prompt_tokens, total_tokens: finished.prompt_tokens },
            openledger: self.evidence(finished),
        })
    }

    fn evidence<'a>(&'a self, finished: &'a Finished) -> Evidence<'a> {
        Evidence {
            receipt: &self.id[self.id.len() - 2 * size_of::<TaskId>()..],
            trust: finished.trust,
            assurance: finished.assurance,
            price: PriceObject::of(finished.price),
            charge_micro_credits: finished.charge.0,
            node: &finished.node,
            region: &finished.region,
            attempts: finished.attempts,
        }
    }

    fn piece<'a>(&self, text: Option<&'a str>) -> Content<'a> {
        match self.api {
            Api::Chat => Content::Delta(Delta { role: None, content: text }),
            Api::Text | Api::Embeddings => Content::Text(text.unwrap_or_default()),
        }
    }

    fn choice<'a>(
        &self,
        content: Content<'a>,
        logprobs: &'a [TokenLogProb],
        offset: usize,
        reason: Option<Reason>,
    ) -> Choice<'a> {
        let logprobs = (self.logprobs && !logprobs.is_empty()).then(|| match self.api {
            Api::Chat => LogProbs::chat(logprobs),
            Api::Text | Api::Embeddings => LogProbs::text(logprobs, offset),
        });
        let finish_reason = reason.map(|reason| match reason {
            Reason::Stop => "stop",
            Reason::Length => "length",
        });
        let (mut message, mut delta, mut text) = (None, None, None);
        match content {
            Content::Message(whole) => message = Some(whole),
            Content::Delta(more) => delta = Some(more),
            Content::Text(more) => text = Some(more),
        }
        Choice { index: 0, message, delta, text, logprobs, finish_reason }
    }

    fn write(
        &self,
        whole: bool,
        choices: &[Choice<'_>],
        usage: Option<Option<Usage>>,
        openledger: Option<Evidence<'_>>,
    ) -> Vec<u8> {
        let object = self.object(whole);
        json(&Completion {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
            openledger,
        })
    }
}

/// What stands behind an answer.
#[derive(Debug, Serialize)]
pub(crate) struct Evidence<'a> {
    receipt: &'a str,
    trust: f64,
    assurance: &'static str,
    price: PriceObject,
    charge_micro_credits: u64,
    node: &'a str,
    region: &'a str,
    attempts: u32,
}

/// A price in micro-credits.
#[derive(Debug, Serialize)]
pub(crate) struct PriceObject {
    prompt_micro_credits_per_million: u64,
    output_micro_credits_per_million: u64,
}

impl PriceObject {
    pub(crate) const fn of(price: Price) -> Self {
        Self {
            prompt_micro_credits_per_million: price.prompt_per_million.0,
            output_micro_credits_per_million: price.output_per_million.0,
        }
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    openledger: Option<Evidence<'a>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<ChatMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Option<LogProbs<'a>>,
    finish_reason: Option<&'static str>,
}

enum Content<'a> {
    Message(ChatMessage<'a>),
    Delta(Delta<'a>),
    Text(&'a str),
}

#[derive(Serialize)]
struct ChatMessage<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<&'static str>,
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl Usage {
    const fn of(finished: &Finished) -> Self {
        Self {
            prompt_tokens: finished.prompt_tokens,
            completion_tokens: finished.output_tokens,
            total_tokens: finished.prompt_tokens as u64 + finished.output_tokens as u64,
            prompt_tokens_details: PromptDetails { cached_tokens: finished.cached_tokens },
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum LogProbs<'a> {
    Chat {
        content: Vec<ChatLogProb<'a>>,
        refusal: Option<&'static str>,
    },
    Text {
        tokens: Vec<&'a str>,
        token_logprobs: Vec<f32>,
        top_logprobs: Vec<BTreeMap<&'a str, f32>>,
        text_offset: Vec<usize>,
    },
}

#[derive(Serialize)]
struct ChatLogProb<'a> {
    #[serde(flatten)]
    token: Alternative<'a>,
    top_logprobs: Vec<Alternative<'a>>,
}

#[derive(Serialize)]
struct Alternative<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> LogProbs<'a> {
    fn chat(tokens: &'a [TokenLogProb]) -> Self {
        let content = tokens.iter().map(|token| ChatLogProb {
            token: Alternative::of(&token.text, token.log_prob),
            top_logprobs: token.top.iter().map(|(text, log_prob)| Alternative::of(text, *log_prob)).collect(),
        });
        Self::Chat { content: content.collect(), refusal: None }
    }

    fn text(tokens: &'a [TokenLogProb], mut offset: usize) -> Self {
        let top = |token: &'a TokenLogProb| {
            token.top.iter().map(|(text, log_prob)| (text.as_str(), finite(*log_prob))).collect()
        };
        let text_offset = tokens.iter().map(|token| {
            let at = offset;
            offset += token.text.chars().count();
            at
        });
        Self::Text {
            text_offset: text_offset.collect(),
            tokens: tokens.iter().map(|token| token.text.as_str()).collect(),
            token_logprobs: tokens.iter().map(|token| finite(token.log_prob)).collect(),
            top_logprobs: tokens.iter().map(top).collect(),
        }
    }
}

impl<'a> Alternative<'a> {
    fn of(text: &'a str, log_prob: f32) -> Self {
        Self { token: text, logprob: finite(log_prob), bytes: text.as_bytes() }
    }
}

/// JSON has no infinities.
fn finite(log_prob: f32) -> f32 {
    if log_prob.is_finite() { log_prob.max(LOG_PROB_FLOOR) } else { LOG_PROB_FLOOR }
}

#[derive(Serialize)]
struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: EmbeddingUsage,
    openledger: Evidence<'a>,
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Float(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

/// A model as clients read it.
#[derive(Serialize)]
pub(crate) struct ModelObject<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    openledger: ModelFacts<'a>,
}

#[derive(Serialize)]
struct ModelFacts<'a> {
    work: &'static str,
    context_tokens: u32,
    quantisation: &'a str,
    assurance: &'static str,
    price: PriceObject,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    region_prices: BTreeMap<&'a str, PriceObject>,
    regions: &'a BTreeMap<String, u32>,
}

impl<'a> ModelObject<'a> {
    pub(crate) fn of(model: &'a ModelInfo) -> Self {
        let work = match model.work {
            Work::Generate => "generate",
            Work::Embed => "embed",
        };
        let openledger = ModelFacts {
            work,
            context_tokens: model.context_tokens,
            quantisation: &model.quantisation,
            assurance: model.assurance,
            price: PriceObject::of(model.price),
            region_prices: model
                .region_prices
                .iter()
                .map(|(region, price)| (&**region, PriceObject::of(*price)))
                .collect(),
            regions: &model.regions,
        };
        Self { id: &model.id, object: "model", created: model.created, owned_by: &model.owned_by, openledger }
    }
}

/// A value as JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(JSON_BYTES);
    serde_json::to_writer(&mut bytes, value).expect("keys are strings and numbers are finite");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_holds_little_endian_floats() {
        assert_eq!(base64_of(&[1.0, -2.5]), "AACAPwAAIMA=");
    }

    #[test]
    fn infinities_become_numbers() {
        assert_eq!([f32::NEG_INFINITY, f32::NAN, -1.5, -1e9].map(finite), [-9_999.0, -9_999.0, -1.5, -9_999.0]);
    }
}
