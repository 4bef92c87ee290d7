//! Writes the smallest GGUF files that load.

/// Sizes of the model.
const WIDTH: u64 = 32;
const VOCABULARY: u64 = 6;
/// Formats of tensors: number, and bytes for 32 elements.
const F32: (u32, u64) = (0, 128);
pub(crate) const Q4_1: (u32, u64) = (3, 20);
pub(crate) const Q8_0: (u32, u64) = (8, 34);

#[derive(Default)]
struct File {
    entries: Vec<Vec<u8>>,
    places: Vec<u8>,
    tensors: u64,
    data: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl File {
    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.entries.push([&string(key), &kind.to_le_bytes()[..], value].concat());
    }

    fn list(&mut self, key: &str, kind: u32, items: &[Vec<u8>]) {
        let head = [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes()].concat();
        self.entry(key, 9, &[head, items.concat()].concat());
    }

    fn tensor(&mut self, name: &str, sizes: &[u64], (format, block): (u32, u64)) {
        self.places.extend(string(name));
        self.places.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| self.places.extend(size.to_le_bytes()));
        self.places.extend(format.to_le_bytes());
        self.places.extend((self.data.len() as u64).to_le_bytes());
        self.tensors += 1;
        let bytes = sizes.iter().product::<u64>() / 32 * block;
        self.data.resize((self.data.len() as u64 + bytes).next_multiple_of(32) as usize, 0x3c);
    }

    fn bytes(self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(self.tensors.to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        out.extend(self.entries.concat());
        out.extend(self.places);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(self.data);
        out
    }
}

/// A model of one layer whose matrices have this format, with a template for chats.
pub(crate) fn model(format: (u32, u64), template: &str) -> Vec<u8> {
    let mut file = File::default();
    file.entry("general.architecture", 8, &string("llama"));
    for (key, value) in [
        ("block_count", 1_u32),
        ("context_length", 16),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", WIDTH as u32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        file.entry(&format!("llama.{key}"), 4, &value.to_le_bytes());
    }
    describe_tokens(&mut file);
    file.entry("tokenizer.chat_template", 8, &string(template));
    file.tensor("token_embd.weight", &[WIDTH, VOCABULARY], format);
    file.tensor("output_norm.weight", &[WIDTH], F32);
    for (part, rows) in [
        ("attn_q", 32),
        ("attn_k", 16),
        ("attn_v", 16),
        ("attn_output", 32),
        ("ffn_gate", 32),
        ("ffn_up", 32),
        ("ffn_down", 32),
    ] {
        file.tensor(&format!("blk.0.{part}.weight"), &[WIDTH, rows], format);
    }
    for part in ["attn_norm", "ffn_norm"] {
        file.tensor(&format!("blk.0.{part}.weight"), &[WIDTH], F32);
    }
    file.bytes()
}

fn describe_tokens(file: &mut File) {
    file.entry("tokenizer.ggml.model", 8, &string("gpt2"));
    file.entry("tokenizer.ggml.pre", 8, &string("smollm"));
    file.list("tokenizer.ggml.tokens", 8, &["h", "i", "hi", "<s>", "</s>", "<u>"].map(string));
    file.list("tokenizer.ggml.merges", 8, &[string("h i")]);
    file.list("tokenizer.ggml.token_type", 5, &[1, 1, 1, 3, 3, 4].map(|kind: i32| kind.to_le_bytes().to_vec()));
    file.entry("tokenizer.ggml.bos_token_id", 4, &3_u32.to_le_bytes());
    file.entry("tokenizer.ggml.eos_token_id", 4, &4_u32.to_le_bytes());
}
