//! Parameters that are not supported: accepted where their value asks for nothing, else refused by name.

use serde_json::Value;

use crate::json::{self, Fields, unknown, wrong};
use crate::refusal::Refusal;
use crate::request::Api;

/// Requests about trust that are understood and not offered yet.
pub(crate) const POLICY_UNSUPPORTED: [&str; 3] = ["variant", "assurance", "confidential"];

/// Which values of a parameter ask for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harmless {
    /// None but null.
    Null,
    /// Any string: it names the client's user and by its definition changes no answer.
    AnyText,
    /// Zero.
    Zero,
    /// One.
    One,
    /// `false`.
    False,
    /// An empty array, object or string.
    Empty,
    /// One of these strings.
    Words(&'static [&'static str]),
    /// `{"type": "text"}`.
    TextFormat,
    /// `["text"]`.
    TextOnly,
}

impl Harmless {
    fn covers(self, value: &Value) -> bool {
        match self {
            Self::Null => false,
            Self::AnyText => value.is_string(),
            Self::Zero => value.as_f64() == Some(0.0),
            Self::One => value.as_u64() == Some(1),
            Self::False => value == &Value::Bool(false),
            Self::Empty => match value {
                Value::Array(values) => values.is_empty(),
                Value::Object(members) => members.is_empty(),
                Value::String(text) => text.is_empty(),
                Value::Null | Value::Bool(_) | Value::Number(_) => false,
            },
            Self::Words(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Self::TextFormat => value == &serde_json::json!({"type": "text"}),
            Self::TextOnly => value == &serde_json::json!(["text"]),
        }
    }
}

/// Refuses what is left of a request, but for values that ask for nothing.
pub(crate) fn accept(api: Api, fields: Fields) -> Result<(), Refusal> {
    refuse_rest(fields, |name| parameter(api, name))
}

/// Refuses what is left of a message, but for what official clients send back of an answer.
pub(crate) fn accept_message(fields: Fields) -> Result<(), Refusal> {
    refuse_rest(fields, |name| match name {
        "tool_calls" | "annotations" => Some(Harmless::Empty),
        "name" | "refusal" | "function_call" | "audio" | "tool_call_id" => Some(Harmless::Null),
        _ => None,
    })
}

/// A parameter that is understood and not offered.
pub(crate) fn unsupported(name: &str) -> Refusal {
    let shown = json::shown(name);
    Refusal::invalid(shown, format!("`{shown}` is not supported"))
}

fn refuse_rest(fields: Fields, rule: impl Fn(&str) -> Option<Harmless>) -> Result<(), Refusal> {
    let (path, rest) = fields.rest();
    for (member, value) in rest {
        let name = if path.is_empty() { member.clone() } else { format!("{path}.{member}") };
        match rule(&member) {
            None => return Err(unknown(&name)),
            Some(_) if value.is_null() => {}
            Some(harmless) if harmless.covers(&value) => {}
            Some(Harmless::AnyText) => return Err(wrong(&name, "a string", &value)),
            Some(Harmless::One) => return Err(Refusal::invalid(&*name, format!("`{name}` must be 1"))),
            Some(_) => return Err(unsupported(&name)),
        }
    }
    Ok(())
}

fn parameter(api: Api, name: &str) -> Option<Harmless> {
    match (api, name) {
        (_, "user") => Some(Harmless::AnyText),
        (Api::Chat | Api::Text, "n") => Some(Harmless::One),
        (Api::Chat | Api::Text, "frequency_penalty" | "presence_penalty") => Some(Harmless::Zero),
        (Api::Chat | Api::Text, "logit_bias") => Some(Harmless::Empty),
        (Api::Text, "best_of") => Some(Harmless::One),
        (Api::Text, "echo") => Some(Harmless::False),
        (Api::Text, "suffix") => Some(Harmless::Empty),
        (Api::Chat, "store") => Some(Harmless::False),
        (Api::Chat, "metadata" | "tools" | "functions") => Some(Harmless::Empty),
        (Api::Chat, "tool_choice" | "function_call") => Some(Harmless::Words(&["none"])),
        (Api::Chat, "response_format") => Some(Harmless::TextFormat),
        (Api::Chat, "modalities") => Some(Harmless::TextOnly),
        (Api::Chat, "service_tier") => Some(Harmless::Words(&["auto", "default"])),
        (
            Api::Chat,
            "audio"
            | "parallel_tool_calls"
            | "prediction"
            | "prompt_cache_key"
            | "prompt_cache_retention"
            | "reasoning_effort"
            | "safety_identifier"
            | "verbosity"
            | "web_search_options",
        ) => Some(Harmless::Null),
        _ => None,
    }
}
