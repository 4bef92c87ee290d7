//! GGUF files: those that load, and those that must be refused without harm.

use std::sync::Arc;

use crate::support::{generate, task};
use ol_engine::{LoadError, Model, Options, Rounding, requantise, start};
use ol_protocol::prf::{Noise, Seed};

const WIDTH: usize = 64;
const INNER: usize = 96;
const KEYS: usize = 32;
const VOCABULARY: usize = 259;
pub(crate) const F32: u32 = 0;
const Q4_1: u32 = 3;

/// Writes GGUF files, good or bad.
#[derive(Clone, Default)]
pub(crate) struct File {
    entries: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl File {
    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.entries.push([&string(key), &kind.to_le_bytes()[..], value].concat());
    }

    pub(crate) fn number(&mut self, key: &str, value: u32) {
        self.entry(key, 4, &value.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.entry(key, 8, &string(value));
    }

    fn list(&mut self, key: &str, kind: u32, items: &[Vec<u8>]) {
        let head = [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes()].concat();
        self.entry(key, 9, &[head, items.concat()].concat());
    }

    fn tensor(&mut self, name: &str, sizes: &[usize], format: u32) {
        let noise = Noise::new(&Seed([3; 32]), self.tensors.len() as u32);
        let scale = if sizes.len() == 1 { 0.1 } else { 0.3 };
        let values: Vec<f32> = (0..sizes.iter().product::<usize>() as u32)
            .map(|v| scale * (noise.uniform(v) as f32 - 0.5) + if sizes.len() == 1 { 1.0 } else { 0.0 })
            .collect();
        let sizes = sizes.iter().map(|size| *size as u64).collect();
        self.tensors.push((name.to_owned(), sizes, format, encode(&values, format)));
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        self.entries.iter().for_each(|entry| out.extend(entry));
        let mut offset = 0_usize;
        for (name, sizes, format, data) in &self.tensors {
            out.extend(string(name));
            out.extend((sizes.len() as u32).to_le_bytes());
            sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(format.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += data.len().next_multiple_of(32);
        }
        for (_, _, _, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(data);
        }
        out
    }
}

/// The half nearest to zero from a value; tiny ones become 0.
fn half(value: f32) -> [u8; 2] {
    let (sign, magnitude) = ((value.to_bits() >> 16) & 0x8000, value.to_bits() & 0x7fff_ffff);
    let rest = if magnitude < 0x3880_0000 { 0 } else { (magnitude - 0x3800_0000) >> 13 };
    ((sign | rest) as u16).to_le_bytes()
}

/// Values in one of the formats.
fn encode(values: &[f32], format: u32) -> Vec<u8> {
    let q8_0 = |block: &[f32]| {
        let levels = block.iter().map(|value| (value * 256.0).round() as i8 as u8);
        half(1.0 / 256.0).into_iter().chain(levels).collect::<Vec<u8>>()
    };
    let (scale, low) = (half(1.0 / 64.0), half(-8.0 / 64.0));
    match format {
        1 => values.iter().flat_map(|value| half(*value)).collect(),
        2 => values.chunks(32).flat_map(|block| nibbles(block, &scale)).collect(),
        Q4_1 => values.chunks(32).flat_map(|block| nibbles(block, &[scale, low].concat())).collect(),
        8 => values.chunks(32).flat_map(q8_0).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

fn nibbles(block: &[f32], head: &[u8]) -> Vec<u8> {
    let level = |value: f32| (value * 64.0 + 8.0).round().clamp(0.0, 15.0) as u8;
    let pairs = (0..16).map(|index| level(block[index]) | level(block[index + 16]) << 4);
    head.iter().copied().chain(pairs).collect()
}

/// A small model whose matrices have this format.
pub(crate) fn model(format: u32) -> File {
    let mut file = File::default();
    file.text("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 128),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", INNER as u32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        file.number(&format!("llama.{key}"), value);
    }
    file.text("tokenizer.ggml.model", "gpt2");
    file.text("tokenizer.ggml.pre", "smollm");
    let own = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256..;
    let mut tokens: Vec<Vec<u8>> = (0..=255_u8)
        .map(|byte| if own(&byte) { byte.into() } else { others.next().expect("it is endless") })
        .map(|code: u32| string(&char::from_u32(code).expect("a letter").to_string()))
        .collect();
    tokens.extend(["<s>", "</s>", "<pad>"].map(string));
    file.list("tokenizer.ggml.tokens", 8, &tokens);
    file.list("tokenizer.ggml.merges", 8, &[]);
    let kinds: Vec<Vec<u8>> =
        (0..VOCABULARY).map(|id| if id < 256 { 1_i32 } else { 3 }.to_le_bytes().to_vec()).collect();
    file.list("tokenizer.ggml.token_type", 5, &kinds);
    file.number("tokenizer.ggml.bos_token_id", 256);
    file.number("tokenizer.ggml.eos_token_id", 257);
    file.text("tokenizer.chat_template", "{{ messages[0]['content'] }}");
    file.tensor("token_embd.weight", &[WIDTH, VOCABULARY], format);
    file.tensor("output_norm.weight", &[WIDTH], F32);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        file.tensor(&name("attn_norm"), &[WIDTH], F32);
        file.tensor(&name("attn_q"), &[WIDTH, WIDTH], format);
        file.tensor(&name("attn_k"), &[WIDTH, KEYS], format);
        file.tensor(&name("attn_v"), &[WIDTH, KEYS], format);
        file.tensor(&name("attn_output"), &[WIDTH, WIDTH], format);
        file.tensor(&name("ffn_norm"), &[WIDTH], F32);
        file.tensor(&name("ffn_gate"), &[WIDTH, INNER], format);
        file.tensor(&name("ffn_up"), &[WIDTH, INNER], format);
        file.tensor(&name("ffn_down"), &[INNER, WIDTH], format);
    }
    file
}

pub(crate) fn open(bytes: &[u8]) -> Result<Model, LoadError> {
    Model::from_gguf("small", bytes)
}

#[test]
fn files_of_every_format_load_and_agree_but_for_rounding() {
    let log_probs = |format: u32| {
        let engine = start(Arc::new(open(&model(format).bytes()).unwrap()), Options::default());
        let mut task = task("Hello", 0.0, 0, 1);
        task.top_logprobs = u8::MAX;
        let mut top = generate(&engine, task).tokens.remove(0).top;
        top.sort_by_key(|(id, _, _)| *id);
        top
    };
    let exact = log_probs(F32);
    for (format, limit) in [(1, 0.02), (8, 0.3), (2, 1.0), (Q4_1, 1.0)] {
        let found = log_probs(format);
        let shared = found.iter().filter_map(|(id, _, value)| {
            exact.iter().find(|(other, _, _)| other == id).map(|(_, _, exact)| (value - exact).abs())
        });
        let max = shared.fold(0.0, f32::max);
        assert!(max > 0.0 && max < limit, "format {format}: {max}");
    }
}

#[test]
fn a_requantised_file_opens_as_another_variant_and_stays_as_it_is_when_rounded_again() {
    let source = model(F32).bytes();
    for (rounding, name) in [(Rounding::Q8_0, "Q8_0"), (Rounding::Q4_0, "Q4_0")] {
        let written = requantise(&source, rounding).unwrap();
        let (before, after) = (open(&source).unwrap(), open(&written).unwrap());
        assert_eq!(after.variant().quantisation, name);
        assert_ne!(after.variant().weights, before.variant().weights);
        assert_eq!(requantise(&written, rounding).unwrap(), written);
    }
    assert!(requantise(&source[..source.len() - 1], Rounding::Q8_0).is_err());
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let bytes = model(Q4_1).bytes();
    for length in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        assert!(open(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn files_with_changed_bytes_never_panic() {
    let bytes = model(Q4_1).bytes();
    let header = bytes.len() - model(Q4_1).tensors.iter().map(|tensor| tensor.3.len()).sum::<usize>();
    let noise = Noise::new(&Seed([8; 32]), 0);
    for case in 0..3_000 {
        let mut changed = bytes.clone();
        for change in 0..1 + case % 3 {
            let word = noise.word(case * 4 + change);
            changed[(word >> 8) as usize % header] = [word as u8, 0, 0xff, 0x80][(word >> 4) as usize % 4];
        }
        let _ = open(&changed);
    }
}

#[test]
fn hostile_sizes_are_refused_before_anything_is_allocated() {
    let refused = |change: &dyn Fn(&mut File)| {
        let mut file = model(F32);
        change(&mut file);
        open(&file.bytes()).unwrap_err().to_string()
    };
    let with = |key: &'static str, value: u32| refused(&move |file| file.number(key, value));
    assert_eq!(with("general.alignment", 0), "general.alignment can't be 0");
    assert_eq!(with("llama.block_count", u32::MAX), "llama.block_count can't be 4294967295");
    assert_eq!(with("llama.attention.head_count", 0), "llama.attention.head_count can't be 0");
    assert_eq!(with("llama.block_count", 3), "the file has no tensor blk.2.attn_norm.weight");
    assert_eq!(refused(&|file| file.text("general.architecture", "qwen2")), "architecture qwen2 is not supported");
    assert_eq!(refused(&|file| file.text("tokenizer.ggml.pre", "odd")), "pre-tokenizer odd is not supported");
    assert_eq!(refused(&|file| file.text("tokenizer.ggml.model", "llama")), "tokenizer llama is not supported");
    assert_eq!(refused(&|file| file.tensors[0].2 = 12), "tensor type Q4_K is not supported");
    let huge = refused(&|file| file.tensors[0].1 = vec![1 << 40, 1 << 40]);
    assert!(huge.starts_with("number of elements of tensor token_embd.weight is 18446744073709551615"), "{huge}");
    let wrong = refused(&|file| file.tensors[0].1 = vec![32, 518]);
    assert_eq!(wrong, "shape of tensor token_embd.weight can't be 518 x 32, expected 259 x 64");
    let shared = refused(&|file| {
        let head = file.tensors[0].clone();
        file.tensors.extend((0..9).map(|index| (format!("more.{index}"), head.1.clone(), head.2, Vec::new())));
        // Room for the last one to end in: all of them begin where the file's own tensors end.
        file.tensors.last_mut().expect("nine").3 = head.3;
    });
    assert!(shared.starts_with("size of all tensors is "), "{shared}");
    let mut counts = model(F32).bytes();
    counts[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(open(&counts).unwrap_err().to_string(), "number of tensors is 18446744073709551615, at most 16384");
    assert_eq!(open(b"PK\x03\x04 not a model").unwrap_err().to_string(), "not a GGUF file");
}

#[test]
fn a_missing_file_names_its_path() {
    let error = Model::open_gguf(std::path::Path::new("/nowhere/model.gguf")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nowhere/model.gguf");
    let folder = tempfile::tempdir().unwrap();
    assert!(Model::open_bert(folder.path()).unwrap_err().to_string().ends_with("config.json"));
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert_eq!(Model::open_bert(folder.path()).unwrap_err().to_string(), "config.json is not the JSON expected");
}
