//! Models, opened once and shared by all engines of a process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::attention::Heads;
use crate::bert::{self, Bert};
use crate::frontend::Frontend;
use crate::gguf::Header;
use crate::kernel::{LANES, Panels};
use crate::llama::{Layer, Llama, Rotation, Shape};
use crate::load::{self, Error};
use crate::quant::dequantise;
use crate::safetensors::Tensors;
use crate::tokenizer::FileTokenizer;
use crate::variant::{Kind, Variant};

/// Numerics of all models here: every product one chain of fused multiply-adds in f32, weights dequantised to f32.
pub const NUMERICS: &str = "embedded-f32/1";
/// Context beyond which caches of a few sequences fill a small machine's memory.
const CONTEXT_MAX: u64 = 8192;
/// Rows of a matrix that one thread dequantises at a time.
const ROWS: usize = 256;

/// A model with its tokenizer.
#[derive(Debug)]
pub struct Model {
    pub(crate) variant: Variant,
    pub(crate) body: Body,
}

/// What a model does, with what it needs for that.
#[derive(Debug)]
pub(crate) enum Body {
    Text(Box<TextModel>),
    Vectors(Box<VectorModel>),
}

/// A model that continues text.
#[derive(Debug)]
pub(crate) struct TextModel {
    pub(crate) net: Llama,
    pub(crate) frontend: Frontend,
}

/// A model that turns text into vectors.
#[derive(Debug)]
pub(crate) struct VectorModel {
    pub(crate) net: Bert,
    pub(crate) reader: Reader,
}

/// How an encoder's texts become ids.
#[derive(Clone, Debug)]
pub(crate) enum Reader {
    /// By the model's own file.
    File(Arc<FileTokenizer>),
    /// One id per byte, between two marks.
    Bytes,
}

impl Reader {
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, crate::task::Error> {
        match self {
            Self::File(tokenizer) => tokenizer.encode(text),
            Self::Bytes => Ok([256].into_iter().chain(text.bytes().map(u32::from)).chain([257]).collect()),
        }
    }
}

impl Model {
    /// What this model is.
    #[must_use]
    pub const fn variant(&self) -> &Variant {
        &self.variant
    }

    /// The same model under another public name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.variant.name = name.to_owned();
        self
    }

    /// Opens a GGUF file of the Llama architecture; its name gives the model's name.
    ///
    /// # Errors
    /// Says what is wrong with a file that is corrupt, cut off, or of a kind not supported.
    pub fn open_gguf(path: &Path) -> Result<Self, Error> {
        Self::from_gguf(&name_of(path), &load::read(path)?)
    }

    /// The model of a whole GGUF file.
    ///
    /// # Errors
    /// As [`Model::open_gguf`].
    pub fn from_gguf(name: &str, file: &[u8]) -> Result<Self, Error> {
        let (weights, body) = rayon::join(|| Sha256::digest(file).into(), || text_model(file));
        let (body, quantisation) = body?;
        let variant = Variant {
            name: name.to_owned(),
            weights,
            quantisation,
            numerics: NUMERICS.to_owned(),
            kind: Kind::Generate,
            context_tokens: body.net.shape.context as u32,
            vocabulary: body.net.shape.vocabulary as u32,
        };
        Ok(Self { variant, body: Body::Text(Box::new(body)) })
    }

    /// Opens a folder with `model.safetensors`, `tokenizer.json` and `config.json`, or the first of these files.
    ///
    /// # Errors
    /// Says what is wrong with files that are missing, corrupt, cut off, or of a kind not supported.
    pub fn open_bert(path: &Path) -> Result<Self, Error> {
        let folder =
            if path.is_dir() { path.to_path_buf() } else { path.parent().map_or_else(PathBuf::new, Path::to_path_buf) };
        let config = load::read(&folder.join("config.json"))?;
        let config = bert::Config::from_bytes(&config)?;
        let weights = load::read(&if path.is_dir() { folder.join("model.safetensors") } else { path.to_path_buf() })?;
        vector_model(&name_of(&folder), &config, &weights, || load::read(&folder.join("tokenizer.json")))
    }

    /// The model of such whole files.
    ///
    /// # Errors
    /// As [`Model::open_bert`].
    pub fn from_bert(name: &str, files: &BertFiles<'_>) -> Result<Self, Error> {
        let config = bert::Config::from_bytes(files.config)?;
        vector_model(name, &config, files.weights, || Ok(files.tokenizer))
    }
}

/// The files of an encoder, read whole.
#[derive(Clone, Copy, Debug)]
pub struct BertFiles<'a> {
    /// `config.json`.
    pub config: &'a [u8],
    /// `model.safetensors`.
    pub weights: &'a [u8],
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
}

// The tokenizer is read last: a wrong file of weights is named before a missing tokenizer.
fn vector_model<T: AsRef<[u8]>>(
    name: &str,
    config: &bert::Config,
    file: &[u8],
    tokenizer: impl FnOnce() -> Result<T, Error>,
) -> Result<Model, Error> {
    let (weights, net) = rayon::join(
        || Sha256::digest(file).into(),
        || Tensors::parse(file).and_then(|tensors| Bert::load(config, &tensors)),
    );
    let (net, tokenizer) = (net?, FileTokenizer::from_bytes(tokenizer()?.as_ref())?);
    if tokenizer.vocabulary() > config.vocab_size {
        return Err(Error::invalid("size of the tokenizer's vocabulary", tokenizer.vocabulary().to_string()));
    }
    let variant = Variant {
        name: name.to_owned(),
        weights,
        quantisation: "F32".to_owned(),
        numerics: NUMERICS.to_owned(),
        kind: Kind::Embed,
        context_tokens: net.context() as u32,
        vocabulary: config.vocab_size as u32,
    };
    let body = Body::Vectors(Box::new(VectorModel { net, reader: Reader::File(Arc::new(tokenizer)) }));
    Ok(Model { variant, body })
}

/// A public model id from a path: the stem in lower case without the number type.
pub(crate) fn name_of(path: &Path) -> String {
    let stem = if path.extension().is_some_and(|end| end == "gguf") { path.file_stem() } else { path.file_name() };
    let name = stem.map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let types = ["f32", "f16", "q8_0", "q4_0", "q4_1"];
    let cut = types.iter().find_map(|kind| name.strip_suffix(kind)?.strip_suffix(['-', '.', '_']));
    let name = cut.unwrap_or(&name);
    if name.is_empty() { "model".to_owned() } else { name.to_owned() }
}

fn text_model(file: &[u8]) -> Result<(TextModel, String), Error> {
    let header = Header::parse(file)?;
    let frontend = || Frontend::from_gguf(&header);
    let net = || Source { file, header: &header }.llama(shape(&header)?);
    let (frontend, net) = rayon::join(frontend, net);
    let model = TextModel { frontend: frontend?, net: net? };
    Ok((model, header.main_format().name().to_owned()))
}

/// Sizes from the metadata, each within what memory and positions allow.
pub(crate) fn shape(header: &Header) -> Result<Shape, Error> {
    let size = |key: &str, limit: u64| header.whole(&format!("llama.{key}"), 1..=limit).map(|size| size as usize);
    let (width, queries) = (size("embedding_length", 65_536)?, size("attention.head_count", 1024)?);
    let keys = header.whole_or("llama.attention.head_count_kv", queries as u64, 1..=queries as u64)? as usize;
    let default = (width / queries) as u64;
    let head = header.whole_or("llama.attention.key_length", default, 1..=1024)? as usize;
    if !queries.is_multiple_of(keys) || !head.is_multiple_of(LANES) {
        let found = format!("{queries} x {head} with {keys} key heads");
        return Err(Error::Unsupported { what: "attention of heads", found });
    }
    let rotated = header.whole_or("llama.rope.dimension_count", head as u64, 2..=head as u64)? as usize;
    if !rotated.is_multiple_of(2) || header.whole_or("llama.expert_count", 0, 0..=1024)? > 0 {
        return Err(Error::Unsupported { what: "layer", found: "with experts or odd rotation".to_owned() });
    }
    Ok(Shape {
        vocabulary: header.texts("tokenizer.ggml.tokens")?.len(),
        width,
        inner: size("feed_forward_length", 1 << 20)?,
        layers: size("block_count", 1024)?,
        heads: Heads { queries, keys, width: head },
        context: header.whole("llama.context_length", 1..=u64::from(u32::MAX))?.min(CONTEXT_MAX) as usize,
        epsilon: header.real_or("llama.attention.layer_norm_rms_epsilon", 1e-5)? as f32,
        rotated,
    })
}

/// A file and its header.
struct Source<'a> {
    file: &'a [u8],
    header: &'a Header,
}

impl Source<'_> {
    fn llama(&self, shape: Shape) -> Result<Llama, Error> {
        let (width, vocabulary) = (shape.width, shape.vocabulary);
        let embedding = Arc::new(self.matrix(&[("token_embd.weight", vocabulary)], width)?);
        let own = self.header.has_tensor("output.weight");
        let head =
            if own { Arc::new(self.matrix(&[("output.weight", vocabulary)], width)?) } else { embedding.clone() };
        let layers = (0..shape.layers).into_par_iter().map(|index| self.layer(&shape, index).map(Arc::new));
        Ok(Llama {
            layers: layers.collect::<Result<_, _>>()?,
            rotation: Arc::new(self.rotation(&shape)?),
            norm: self.values("output_norm.weight", 1, width)?,
            shape,
            embedding,
            head,
        })
    }

    fn layer(&self, shape: &Shape, index: usize) -> Result<Layer, Error> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (width, heads) = (shape.width, shape.heads);
        let (q, k, v, gate, up) = (name("attn_q"), name("attn_k"), name("attn_v"), name("ffn_gate"), name("ffn_up"));
        let qkv = [(q.as_str(), heads.query_width()), (&k, heads.key_width()), (&v, heads.key_width())];
        Ok(Layer {
            attention_norm: self.values(&name("attn_norm"), 1, width)?,
            qkv: self.matrix(&qkv, width)?,
            output: self.matrix(&[(&name("attn_output"), width)], heads.query_width())?,
            inner_norm: self.values(&name("ffn_norm"), 1, width)?,
            gate_up: self.matrix(&[(&gate, shape.inner), (&up, shape.inner)], width)?,
            down: self.matrix(&[(&name("ffn_down"), width)], shape.inner)?,
        })
    }

    fn rotation(&self, shape: &Shape) -> Result<Rotation, Error> {
        let scaling = self.header.text("llama.rope.scaling.type")?.unwrap_or("none");
        let divisor = match scaling {
            "none" => 1.0,
            "linear" => self.header.real_or("llama.rope.scaling.factor", 1.0)?,
            other => return Err(Error::Unsupported { what: "rotation scaling", found: other.to_owned() }),
        };
        let has_factors = self.header.has_tensor("rope_freqs.weight");
        let factors = has_factors.then(|| self.values("rope_freqs.weight", 1, shape.rotated / 2)).transpose()?;
        let base = self.header.real_or("llama.rope.freq_base", 10_000.0)?;
        Ok(Rotation::new(shape, base, divisor, factors.as_deref()))
    }

    /// Several tensors of the same row length, one after the other.
    fn matrix(&self, parts: &[(&str, usize)], columns: usize) -> Result<Panels, Error> {
        let mut values = Vec::new();
        for (name, rows) in parts {
            values.extend(self.values(name, *rows, columns)?);
        }
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        Ok(Panels::pack(rows, columns, &values))
    }

    fn values(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>, Error> {
        let tensor = self.header.tensor(name, rows, columns)?;
        let mut out = vec![0.0; rows * columns];
        let bytes = &self.file[tensor.bytes.clone()];
        out.par_chunks_mut(columns * ROWS)
            .zip(bytes.par_chunks(bytes.len() / rows * ROWS))
            .for_each(|(out, bytes)| dequantise(tensor.format, bytes, out));
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_paths_without_number_types() {
        let names = ["/m/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct-q4_1.gguf", "all-minilm-l6-v2", "/"];
        let expected = ["smollm2-135m-instruct", "smollm2-135m-instruct", "all-minilm-l6-v2", "model"];
        assert_eq!(names.map(|name| name_of(Path::new(name))), expected);
    }
}
