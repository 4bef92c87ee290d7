//! What is asked of a server before it is relied on: that it is there, and that its model is the file's.

use std::time::Duration;

use ol_engine::Outline;
use serde::{Deserialize, Serialize};

use crate::client;
use crate::error::Error;
use crate::steps::{Span, Steps};

/// Longest wait for an answer that takes no model.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a server that loads: 16 GiB from a slow disk.
const LOADING_LIMIT: Duration = Duration::from_secs(300);
/// How often a server that loads is asked again.
const LOADING_POLL: Duration = Duration::from_millis(500);
/// What llama-server answers while it loads.
const UNAVAILABLE: u16 = 503;
/// Words, digits, spaces, code, other scripts, a control token: what tokenizers differ in.
const TEXTS: [&str; 5] = [
    "The quick brown fox jumps over 12345 lazy dogs.",
    "   three spaces,\ttab\n\n\nlines; it's Zürich — naïve café",
    "fn main() { println!(\"{}\", x[0] + 3.14e-2); }",
    "Русский текст, 中文字符, العربية, 😀👍🏽",
    "<|im_start|>user\nHi<|im_end|>\n",
];

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Sequences that it keeps at the same time.
    pub(crate) slots: u32,
    /// Prompt and output together, of one sequence.
    pub(crate) context_tokens: u32,
}

#[derive(Deserialize)]
struct Health {}

#[derive(Deserialize)]
struct Props {
    total_slots: u32,
    default_generation_settings: Defaults,
}

#[derive(Deserialize)]
struct Defaults {
    n_ctx: u32,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    meta: Option<Meta>,
}

/// Sizes of the loaded model; a server that doesn't tell one is asked for text alone.
#[derive(Deserialize)]
struct Meta {
    n_vocab: Option<u64>,
    size: Option<u64>,
}

#[derive(Serialize)]
struct Tokenise<'a> {
    content: &'a str,
    add_special: bool,
    parse_special: bool,
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<u32>,
}

/// Waits until the server is well, and compares its model with the file's.
pub(crate) async fn server(steps: &Steps, outline: &Outline) -> Result<Server, Error> {
    let address = steps.client().base().to_owned();
    loaded(steps).await.map_err(|cause| Error::Unreachable { address: address.clone(), cause })?;
    let other = |path| {
        let address = address.clone();
        move |cause| Error::Other { address, path, cause }
    };
    let props: Props = steps.client().get("/props", ANSWER_LIMIT).await.map_err(other("/props"))?;
    let models: Models = steps.client().get("/v1/models", ANSWER_LIMIT).await.map_err(other("/v1/models"))?;
    if let Some(meta) = models.data.into_iter().find_map(|model| model.meta) {
        let vocabulary = u64::from(outline.frontend.vocabulary());
        same(&address, "token ids", meta.n_vocab, vocabulary)?;
        same(&address, "bytes of weights", meta.size, outline.tensor_bytes)?;
    }
    for text in TEXTS {
        let request = Tokenise { content: text, add_special: false, parse_special: true };
        let found = steps.client().post("/tokenize", &request, ANSWER_LIMIT).await;
        let found: Tokens = found.map_err(other("/tokenize"))?;
        if outline.frontend.encode(text).ok() != Some(found.tokens) {
            return Err(Error::OtherTokens { address, text });
        }
    }
    let ids = outline.frontend.encode(TEXTS[0]).unwrap_or_default();
    steps.next(&ids, 0, Span::First).await.map_err(other("/completion"))?;
    Ok(Server { slots: props.total_slots.max(1), context_tokens: props.default_generation_settings.n_ctx })
}

/// Waits while the server loads its model.
async fn loaded(steps: &Steps) -> Result<(), client::Error> {
    let wait = async {
        loop {
            match steps.client().get::<Health>("/health", ANSWER_LIMIT).await {
                Ok(Health {}) => return Ok(()),
                Err(client::Error::Status { status: UNAVAILABLE }) => tokio::time::sleep(LOADING_POLL).await,
                Err(error) => return Err(error),
            }
        }
    };
    let slow = |_| client::Error::Slow { limit: LOADING_LIMIT };
    tokio::time::timeout(LOADING_LIMIT, wait).await.map_err(slow)?
}

fn same(address: &str, what: &'static str, server: Option<u64>, file: u64) -> Result<(), Error> {
    match server.filter(|server| *server != file) {
        Some(server) => Err(Error::OtherModel { address: address.to_owned(), what, server, file }),
        None => Ok(()),
    }
}
