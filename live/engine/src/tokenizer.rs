//! From text to token ids and back, built from what a model file says about its tokenizer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Library};

use crate::gguf::{Header, Value};
use crate::load;
use crate::task::Error;

/// Token types of GGUF that stand for themselves: control and user-defined.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// Control tokens that end an output even if the file doesn't name them so.
const ENDS: [&str; 6] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>"];
/// How Llama 3 cuts text into words; ggml-org/llama.cpp, src/llama-vocab.cpp, pre-tokenizer llama-bpe.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut before merges apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// GPT-2's words; digits one by one.
    SmolLm,
    /// GPT-2's words.
    Gpt2,
    /// Llama 3's words.
    Llama3,
}

impl Cut {
    fn from_name(name: &str) -> Result<Self, load::Error> {
        match name {
            "smollm" => Ok(Self::SmolLm),
            "gpt-2" | "default" => Ok(Self::Gpt2),
            "llama-bpe" | "llama3" => Ok(Self::Llama3),
            other => Err(load::Error::Unsupported { what: "pre-tokenizer", found: other.to_owned() }),
        }
    }

    fn steps(self) -> Result<Vec<PreTokenizerWrapper>, load::Error> {
        Ok(match self {
            Self::SmolLm => vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()],
            Self::Gpt2 => vec![ByteLevel::new(false, false, true).into()],
            Self::Llama3 => {
                let pattern = SplitPattern::Regex(LLAMA_3.to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(broken)?;
                vec![split.into(), ByteLevel::new(false, false, false).into()]
            }
        })
    }
}

fn broken(error: tokenizers::Error) -> load::Error {
    load::Error::Tokenizer { detail: error.to_string() }
}

/// What a byte-level tokenizer is made of.
pub(crate) struct Parts<'a> {
    pub(crate) tokens: &'a [String],
    pub(crate) merges: &'a [String],
    /// Ids of tokens that stand for themselves and give no text.
    pub(crate) control: Vec<u32>,
    /// Ids of tokens that stand for themselves and give their text.
    pub(crate) literal: Vec<u32>,
    /// Ids that end an output, as far as the file says.
    pub(crate) ends: Vec<u32>,
    /// Put before plain text.
    pub(crate) begin: Option<u32>,
    pub(crate) add_begin: bool,
    pub(crate) cut: Cut,
}

/// A byte-level BPE tokenizer.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    library: Library,
    /// The bytes of each id; none for control tokens.
    bytes: Vec<Box<[u8]>>,
    ends: Vec<u32>,
    begin: Option<u32>,
    add_begin: bool,
}

impl Tokenizer {
    /// The tokenizer that the metadata of a GGUF file describes.
    pub(crate) fn from_gguf(header: &Header) -> Result<Self, load::Error> {
        let model = header.text("tokenizer.ggml.model")?.unwrap_or("missing");
        if model != "gpt2" {
            return Err(load::Error::Unsupported { what: "tokenizer", found: model.to_owned() });
        }
        let tokens = header.texts("tokenizer.ggml.tokens")?;
        let last = (tokens.len() as u64).saturating_sub(1);
        let id = |key: &str| match header.value(key) {
            None => Ok(None),
            Some(_) => header.whole(key, 0..=last).map(|id| Some(id as u32)),
        };
        let begin = id("tokenizer.ggml.bos_token_id")?;
        let ends = [id("tokenizer.ggml.eos_token_id")?, id("tokenizer.ggml.eot_token_id")?];
        let add_begin = header.flag_or("tokenizer.ggml.add_bos_token", false)?;
        Self::new(&Parts {
            tokens,
            merges: header.texts("tokenizer.ggml.merges")?,
            control: of_type(header, CONTROL),
            literal: of_type(header, USER_DEFINED),
            ends: ends.into_iter().flatten().collect(),
            begin,
            add_begin,
            cut: Cut::from_name(header.text("tokenizer.ggml.pre")?.unwrap_or("default"))?,
        })
    }

    /// A tokenizer of these parts.
    pub(crate) fn new(parts: &Parts<'_>) -> Result<Self, load::Error> {
        let vocabulary: Vocab = parts.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();
        let merges: Merges = parts.merges.iter().map(|merge| pair(merge)).collect::<Result<_, _>>()?;
        let ignore_merges = parts.cut == Cut::Llama3;
        let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(ignore_merges).build();
        let mut library = Library::new(model.map_err(broken)?);
        library.with_pre_tokenizer(Some(Sequence::new(parts.cut.steps()?)));
        let text = |id: &u32| parts.tokens[*id as usize].clone();
        let special = parts.control.iter().map(|id| AddedToken::from(text(id), true));
        library.add_special_tokens(special).map_err(broken)?;
        let literal = parts.literal.iter().map(|id| AddedToken::from(text(id), false).normalized(false));
        library.add_tokens(literal).map_err(broken)?;
        let mut bytes: Vec<Box<[u8]>> = parts.tokens.iter().map(|token| token_bytes(token)).collect();
        parts.control.iter().for_each(|id| bytes[*id as usize] = Box::default());
        parts.literal.iter().for_each(|id| bytes[*id as usize] = text(id).into_bytes().into());
        let mut ends = parts.ends.clone();
        ends.extend(parts.control.iter().filter(|id| ENDS.contains(&text(id).as_str())));
        Ok(Self { library, bytes, ends, begin: parts.begin, add_begin: parts.add_begin })
    }

    /// Ids of a rendered conversation, which names its control tokens itself.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.library.encode_fast(text, false).map_err(|_| Error::Tokenise)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of plain text: with the beginning that the model wants, and never none.
    pub(crate) fn encode_text(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = self.encode(text)?;
        if let Some(begin) = self.begin.or(self.ends.first().copied())
            && ((self.add_begin && ids.first() != Some(&begin)) || ids.is_empty())
        {
            ids.insert(0, begin);
        }
        Ok(ids)
    }

    /// The bytes that an id adds to the output.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], |bytes| bytes)
    }

    /// Whether an id ends the output.
    pub(crate) fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The first id that ends an output.
    pub(crate) fn end(&self) -> Option<u32> {
        self.ends.first().copied()
    }
}

/// Ids of one token type.
fn of_type(header: &Header, kind: i64) -> Vec<u32> {
    let Some(Value::Wholes(types)) = header.value("tokenizer.ggml.token_type") else { return Vec::new() };
    let count = header.texts("tokenizer.ggml.tokens").map_or(0, <[String]>::len);
    (0..).zip(types).take(count).filter(|(_, found)| **found == kind).map(|(id, _)| id).collect()
}

fn pair(merge: &str) -> Result<(String, String), load::Error> {
    let (left, right) = merge.split_once(' ').ok_or_else(|| load::Error::invalid("a merge", merge))?;
    Ok((left.to_owned(), right.to_owned()))
}

/// The bytes of a byte-level token: printable Latin-1 stands for itself, the other bytes for 256 and up.
fn token_bytes(token: &str) -> Box<[u8]> {
    let mut out = Vec::with_capacity(token.len());
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.into()
}

const fn is_own_letter(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ 0..=255 => u8::try_from(code).ok().filter(|byte| is_own_letter(*byte)),
        code => (0..=255).filter(|byte| !is_own_letter(*byte)).nth(code as usize - 256),
    }
}

/// The letter that stands for a byte; the reverse of [`token_bytes`].
pub(crate) fn letter_of(byte: u8) -> char {
    if is_own_letter(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|other| !is_own_letter(*other)).count() as u32;
    char::from_u32(256 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// What the library makes of a stranger's file; `None` if it panics, as it does over some that are damaged.
fn guarded<T>(ask: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(ask)).ok()
}

/// A tokenizer as its own JSON file describes it, for models that only read.
#[derive(Debug)]
pub(crate) struct FileTokenizer(Library);

impl FileTokenizer {
    /// The tokenizer of a `tokenizer.json`; its padding and truncation are switched off.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, load::Error> {
        let read = || {
            let mut library = Library::from_bytes(bytes)?;
            library.with_padding(None).with_truncation(None)?;
            Ok(Self(library))
        };
        guarded(read).unwrap_or_else(|| Err("it is not of the form expected".into())).map_err(broken)
    }

    /// Ids with the marks that the model expects around a text.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = guarded(|| self.0.encode_fast(text, true)).ok_or(Error::Tokenise)?;
        Ok(encoding.map_err(|_| Error::Tokenise)?.get_ids().to_vec())
    }

    /// Number of ids.
    pub(crate) fn vocabulary(&self) -> usize {
        self.0.get_vocab_size(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_stand_for_all_bytes() {
        for byte in 0..=255 {
            assert_eq!(*token_bytes(&letter_of(byte).to_string()), [byte]);
        }
        assert_eq!((letter_of(b' '), letter_of(b'\n'), letter_of(b'A')), ('Ġ', 'Ċ', 'A'));
    }

    #[test]
    fn a_damaged_file_is_refused_though_the_library_panics_over_it() {
        let files: [&[u8]; 1] = [b"{\"version\":\"1.0\",\"decoder\":{\"type\":\"WordPiece\",\"cle\xff\":true}}"];
        for file in files {
            assert!(FileTokenizer::from_bytes(file).is_err(), "{}", String::from_utf8_lossy(file));
        }
    }

    #[test]
    fn a_file_that_names_a_mark_it_does_not_have_gives_no_ids() {
        let file = br#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"decoder":null,
            "post_processor":{"type":"TemplatoProcessing","single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},
                {"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}}],
                "special_tokens":{"[CLR]":{"id":"[CLS]","ids":[1],"tokens":["[CLS]"]}}},
            "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"-",
                "max_input_chars_per_word":100,"vocab":{"[UNK]":0,"[CLS]":1}}}"#;
        assert_eq!(FileTokenizer::from_bytes(file).unwrap().encode("hi"), Err(Error::Tokenise));
    }
}
