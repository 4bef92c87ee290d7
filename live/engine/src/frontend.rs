//! What a model file says about text: its tokenizer, its chat template and its limits, without weights.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::gguf::{Header, Value};
use crate::load::Error as LoadError;
use crate::model::{name_of, shape};
use crate::task::{Error, Prompt};
use crate::template::Template;
use crate::tokenizer::Tokenizer;

/// Bytes at the beginning of a file that may hold its header: a vocabulary of half a million and its merges take 30 MiB.
const HEAD_BYTES_MAX: u64 = 128 << 20;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// How text becomes the ids of a model, and ids become text. Clones share everything.
#[derive(Clone, Debug)]
pub struct Frontend {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<Arc<Template>>,
    pub(crate) vocabulary: u32,
    pub(crate) context_tokens: u32,
}

impl Frontend {
    /// What the metadata of a GGUF file of the Llama architecture says.
    pub(crate) fn from_gguf(header: &Header) -> Result<Self, LoadError> {
        let architecture = header.text("general.architecture")?.unwrap_or("missing");
        if architecture != "llama" {
            return Err(LoadError::Unsupported { what: "architecture", found: architecture.to_owned() });
        }
        let shape = shape(header)?;
        let special = |key: &str| match header.value(key) {
            Some(Value::Whole(id)) => {
                let token =
                    usize::try_from(*id).ok().and_then(|id| header.texts("tokenizer.ggml.tokens").ok()?.get(id));
                token.map_or("", String::as_str)
            }
            _ => "",
        };
        let (begin, end) = (special("tokenizer.ggml.bos_token_id"), special("tokenizer.ggml.eos_token_id"));
        let template = header.text("tokenizer.chat_template")?;
        Ok(Self {
            tokenizer: Arc::new(Tokenizer::from_gguf(header)?),
            template: template.map(|source| Template::new(source, begin, end)).transpose()?.map(Arc::new),
            vocabulary: shape.vocabulary as u32,
            context_tokens: shape.context as u32,
        })
    }

    /// The same with a context of at most this many tokens.
    #[must_use]
    pub fn within(mut self, context_tokens: u32) -> Self {
        self.context_tokens = self.context_tokens.min(context_tokens);
        self
    }

    /// Number of token ids.
    #[must_use]
    pub const fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Prompt and output together.
    #[must_use]
    pub const fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// The bytes that an id adds to the output; none for ids that give no text, or that there are not.
    #[must_use]
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.tokenizer.bytes(id)
    }

    /// The ids of a text alone: nothing is put before it, and the names of control tokens are their ids.
    ///
    /// # Errors
    /// [`Error::Tokenise`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tokenizer.encode(text)
    }

    /// The ids of a prompt, at least one.
    ///
    /// # Errors
    /// What is wrong with the prompt.
    pub fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        let ids = match prompt {
            Prompt::Chat(messages) => {
                let missing = || Error::Template { detail: "the model has no chat template".to_owned() };
                self.encode(&self.template.as_ref().ok_or_else(missing)?.render(messages)?)?
            }
            Prompt::Text(text) => self.tokenizer.encode_text(text)?,
            Prompt::Tokens(ids) => ids.clone(),
        };
        self.known(&ids)?;
        if ids.is_empty() { Err(Error::Empty) } else { Ok(ids) }
    }

    /// Whether the model has all these ids.
    pub(crate) fn known(&self, ids: &[u32]) -> Result<(), Error> {
        let vocabulary = self.vocabulary;
        match ids.iter().find(|id| **id >= vocabulary) {
            Some(id) => Err(Error::UnknownToken { id: *id, vocabulary }),
            None => Ok(()),
        }
    }

    /// Whether prompt and output fit the context.
    pub(crate) fn fits(&self, prompt_tokens: usize, max_tokens: u32) -> Result<(), Error> {
        let context_tokens = self.context_tokens;
        let prompt_tokens = prompt_tokens.try_into().unwrap_or(u32::MAX);
        if u64::from(prompt_tokens) + u64::from(max_tokens) > u64::from(context_tokens) {
            return Err(Error::TooLong { prompt_tokens, max_tokens, context_tokens });
        }
        Ok(())
    }
}

/// A model file but its weights: for engines whose arithmetic is done elsewhere.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Public model id.
    pub name: String,
    /// SHA-256 of the file.
    pub weights: [u8; 32],
    /// Number type of most weights, such as `Q4_1`.
    pub quantisation: String,
    /// Bytes of all weights.
    pub tensor_bytes: u64,
    /// Tokenizer, template and limits.
    pub frontend: Frontend,
}

impl Outline {
    /// Reads a whole GGUF file of the Llama architecture once, and keeps what is not weights; its name gives the model's
    /// name.
    ///
    /// # Errors
    /// Says what is wrong with a file that is corrupt, cut off, or of a kind that no engine here can check.
    pub fn open_gguf(path: &Path) -> Result<Self, LoadError> {
        let cause = |cause| LoadError::Read { path: path.to_path_buf(), cause };
        let mut file = File::open(path).map_err(cause)?;
        let (mut head, mut digest, mut bytes) = (Vec::new(), Sha256::new(), 0_u64);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = file.read(&mut chunk).map_err(cause)?;
            if count == 0 {
                break;
            }
            digest.update(&chunk[..count]);
            let room = HEAD_BYTES_MAX.saturating_sub(bytes).min(count as u64) as usize;
            head.extend_from_slice(&chunk[..room]);
            bytes += count as u64;
        }
        let header = Header::parse_head(&head, bytes)?;
        Ok(Self {
            name: name_of(path),
            weights: digest.finalize().into(),
            quantisation: header.main_format().name().to_owned(),
            tensor_bytes: header.tensor_bytes(),
            frontend: Frontend::from_gguf(&header)?,
        })
    }

    /// The same model under another public name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }
}
