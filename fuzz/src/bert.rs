//! Writes the smallest files of an encoder that load.

/// Width of everything: one head.
const WIDTH: usize = 16;
/// Ids, and positions.
const VOCABULARY: usize = 5;
const POSITIONS: usize = 8;

/// A `config.json`.
pub(crate) const CONFIG: &str = r#"{"hidden_size":16,"intermediate_size":16,"num_attention_heads":1,"num_hidden_layers":1,"vocab_size":5,"max_position_embeddings":8,"layer_norm_eps":1e-12,"hidden_act":"gelu","position_embedding_type":"absolute"}"#;

/// A `tokenizer.json` of whole words and their parts, as BERT's.
pub(crate) const WORDS: &str = r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":1,"content":"[CLS]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"[CLS]":{"id":"[CLS]","ids":[1],"tokens":["[CLS]"]}}},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,"[CLS]":1,"h":2,"##i":3,"you":4}}}"###;

/// The same with merges of bytes, and with pieces of words by their likelihood.
pub(crate) const BYTES: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"h":0,"i":1,"hi":2},"merges":["h i"]}}"#;
pub(crate) const PIECES: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"always","split":true},"post_processor":null,"decoder":null,"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["_h",-1.5],["i",-2.0]],"byte_fallback":false}}"#;

/// A `model.safetensors`.
pub(crate) fn weights() -> Vec<u8> {
    let mut tensors = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![VOCABULARY, WIDTH]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, WIDTH]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, WIDTH]),
    ];
    let own = ["query", "key", "value"].map(|part| format!("encoder.layer.0.attention.self.{part}"));
    let dense = ["attention.output", "intermediate", "output"].map(|part| format!("encoder.layer.0.{part}.dense"));
    for name in own.iter().chain(&dense) {
        tensors.push((format!("{name}.weight"), vec![WIDTH, WIDTH]));
        tensors.push((format!("{name}.bias"), vec![WIDTH]));
    }
    for name in ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"] {
        tensors.push((format!("{name}.LayerNorm.weight"), vec![WIDTH]));
        tensors.push((format!("{name}.LayerNorm.bias"), vec![WIDTH]));
    }
    file(&tensors)
}

fn file(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let (mut header, mut end) = (Vec::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        header.push(format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
    }
    let header = format!("{{{}}}", header.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    (0..end / 4).for_each(|index| bytes.extend((index as f32 * 0.37).sin().to_le_bytes()));
    bytes
}
