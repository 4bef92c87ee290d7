//! One step of a sequence: ids there, log-probabilities of the likeliest tokens back.

use std::time::Duration;

use ol_engine::Frontend;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Error};

/// Tokens that the server gives a choice of. They hold nearly all of what any setting in use can choose; a step with
/// 1,000 takes the server longer, docs/bench/2026-11-llama-server.md.
pub const TOP: u32 = 256;
/// Numerics of all engines here: what the server's flags decide is calibrated, not named.
pub const NUMERICS: &str = "llama-server-top256/1";

/// Longest waits for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a step that computes a prompt.
    pub first: Duration,
    /// For any other step.
    pub next: Duration,
}

impl Default for Limits {
    /// What a gateway waits for a first token, and between tokens.
    fn default() -> Self {
        Self { first: Duration::from_secs(60), next: Duration::from_secs(20) }
    }
}

/// Added to one harmless token, so that the server always takes it.
const FORCE: f32 = 10_000.0;

/// Whether a step computes a prompt, or one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    First,
    Next,
}

#[derive(Serialize)]
struct Request<'a> {
    prompt: &'a [u32],
    id_slot: u32,
    n_predict: u32,
    n_probs: u32,
    post_sampling_probs: bool,
    cache_prompt: bool,
    temperature: f32,
    samplers: [&'static str; 1],
    logit_bias: [(u32, f32); 1],
    response_fields: [&'static str; 1],
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    completion_probabilities: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    top_logprobs: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: u32,
    logprob: f32,
}

/// What all steps on one server have in common.
#[derive(Debug)]
pub(crate) struct Steps {
    client: Client,
    limits: Limits,
    vocabulary: u32,
    /// The token that the server is made to take. The log-probabilities that it reports are those before that. Left to
    /// itself it may take a piece of a character, and then it reports none.
    forced: u32,
}

impl Steps {
    /// Steps of this model on this server.
    pub(crate) fn new(client: Client, limits: Limits, frontend: &Frontend) -> Self {
        let vocabulary = frontend.vocabulary();
        let is_letter = |id: &u32| matches!(frontend.bytes(*id), [byte] if byte.is_ascii_alphanumeric());
        Self { client, limits, vocabulary, forced: (0..vocabulary).find(is_letter).unwrap_or(0) }
    }

    /// The server.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The log-probabilities after these ids, by id; minus infinity but for the likeliest.
    pub(crate) async fn next(&self, ids: &[u32], slot: u32, span: Span) -> Result<Vec<f32>, Error> {
        let request = Request {
            prompt: ids,
            id_slot: slot,
            n_predict: 1,
            n_probs: self.count(),
            post_sampling_probs: false,
            // The server keeps the prompts of all who asked, and would answer sooner what another tenant asked before.
            cache_prompt: span == Span::Next,
            temperature: 0.0,
            samplers: ["temperature"],
            logit_bias: [(self.forced, FORCE)],
            response_fields: ["completion_probabilities"],
        };
        let limit = match span {
            Span::First => self.limits.first,
            Span::Next => self.limits.next,
        };
        let response: Response = self.client.post("/completion", &request, limit).await?;
        self.spread(response)
    }

    fn count(&self) -> u32 {
        TOP.min(self.vocabulary)
    }

    fn spread(&self, response: Response) -> Result<Vec<f32>, Error> {
        let step = response.completion_probabilities.into_iter().next().ok_or(Error::NoStep)?;
        let (found, expected) = (step.top_logprobs.len(), self.count() as usize);
        if found != expected {
            return Err(Error::Count { found, expected });
        }
        let mut log_probs = vec![f32::NEG_INFINITY; self.vocabulary as usize];
        for Entry { id, logprob } in step.top_logprobs {
            // A probability so near to 1 that it was rounded may have a logarithm above 0.
            let is_possible = logprob.is_finite() && logprob <= 1e-3;
            match log_probs.get_mut(id as usize).filter(|place| is_possible && **place == f32::NEG_INFINITY) {
                Some(place) => *place = logprob.min(0.0),
                None => return Err(Error::Impossible { id }),
            }
        }
        Ok(log_probs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(entries: &str) -> Result<Vec<f32>, Error> {
        let client = Client::new("http://127.0.0.1:1").unwrap();
        let steps = Steps { client, limits: Limits::default(), vocabulary: 3, forced: 0 };
        let text = format!(r#"{{"completion_probabilities":[{{"id":0,"top_logprobs":[{entries}]}}]}}"#);
        steps.spread(serde_json::from_str(&text).map_err(Error::Json)?)
    }

    #[test]
    fn numerics_name_the_number_of_tokens() {
        assert_eq!(ol_engine::sampled_of(NUMERICS), Some(TOP));
    }

    #[test]
    fn log_probabilities_lie_at_their_ids() {
        let found = spread(
            r#"{"id":2,"token":"a","bytes":[97],"logprob":0.0000001},{"id":0,"logprob":-20},{"id":1,"logprob":-3e38}"#,
        );
        assert_eq!(found.unwrap(), [-20.0, -3e38, 0.0]);
    }

    #[test]
    fn what_no_model_gives_is_refused() {
        let two = r#"{"id":2,"logprob":-1},{"id":0,"logprob":-2}"#;
        assert!(matches!(spread(two), Err(Error::Count { found: 2, expected: 3 })));
        for (entry, wrong) in [
            (r#"{"id":0,"logprob":-2}"#, 0),
            (r#"{"id":3,"logprob":-2}"#, 3),
            (r#"{"id":1,"logprob":0.5}"#, 1),
            (r#"{"id":1,"logprob":-1e99}"#, 1),
        ] {
            let found = spread(&format!("{two},{entry}"));
            assert!(matches!(found, Err(Error::Impossible { id }) if id == wrong), "{entry}");
        }
        assert!(matches!(spread(&format!(r#"{two},{{"id":1,"logprob":null}}"#)), Err(Error::Json(_))));
    }
}
