//! Files of models: whoever runs a node gives any path, and takes files from strangers.

use crate::{Heap, Target, bert, gguf};
use ol_engine::{
    BertFiles, Engine, Event, Flow, GenerateTask, Message, Model, Options, Prompt, Role, Sampling, Seed, start,
};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Weights are widened eightfold and laid out once more; an engine has room to compute in, and angles of all positions.
const WEIGHTS: Heap = Heap { fixed: 64 << 20, per_byte: 64 };
/// What a tokenizer builds from its description: patterns, tries, caches.
const TOKENIZER: Heap = Heap { fixed: 64 << 20, per_byte: 512 };
/// A template that loops prints until its steps are used up.
const TEMPLATE: Heap = Heap { fixed: 512 << 20, per_byte: 512 };

/// The targets.
pub const TARGETS: [Target; 5] = [
    Target { name: "gguf", seeds: ggufs, read: read_gguf, heap: WEIGHTS },
    Target { name: "chat-template", seeds: templates, read: read_template, heap: TEMPLATE },
    Target { name: "safetensors", seeds: || vec![bert::weights()], read: read_safetensors, heap: WEIGHTS },
    Target { name: "bert-config", seeds: || vec![bert::CONFIG.into()], read: read_config, heap: WEIGHTS },
    Target { name: "tokenizer", seeds: tokenizers, read: read_tokenizer, heap: TOKENIZER },
];

/// Tokens of an answer.
const TOKENS: u32 = 2;

fn ggufs() -> Vec<Vec<u8>> {
    [gguf::Q4_1, gguf::Q8_0].map(|format| gguf::model(format, "{{ messages[0]['content'] }}")).to_vec()
}

fn read_gguf(file: &[u8]) {
    if let Ok(model) = Model::from_gguf("m", file) {
        answer(model);
    }
}

fn templates() -> Vec<Vec<u8>> {
    [
        "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m.content | trim }}{% endfor %}{% if add_generation_prompt %}{{ bos_token }}{% endif %}",
        "{% set ns = namespace(a='') %}{% for m in messages[1:] %}{% set ns.a = ns.a ~ m.content.strip().upper() %}{% endfor %}{{ ns.a[:9] }}",
        "{% macro f(x) %}{{ x.replace('a', 'b').split(' ') | join('-') }}{% endmacro %}{{ f(messages[0].content) }}{{ raise_exception('no') }}",
    ]
    .map(|template| template.as_bytes().to_vec())
    .to_vec()
}

fn read_template(bytes: &[u8]) {
    let Ok(template) = str::from_utf8(bytes) else { return };
    read_gguf(&gguf::model(gguf::Q4_1, template));
}

fn read_safetensors(weights: &[u8]) {
    read_bert(&BertFiles { config: bert::CONFIG.as_bytes(), weights, tokenizer: bert::WORDS.as_bytes() });
}

fn read_config(config: &[u8]) {
    read_bert(&BertFiles { config, weights: &bert::weights(), tokenizer: bert::WORDS.as_bytes() });
}

fn tokenizers() -> Vec<Vec<u8>> {
    [bert::WORDS, bert::BYTES, bert::PIECES].map(|text| text.as_bytes().to_vec()).to_vec()
}

fn read_tokenizer(tokenizer: &[u8]) {
    read_bert(&BertFiles { config: bert::CONFIG.as_bytes(), weights: &bert::weights(), tokenizer });
}

fn options() -> Options {
    Options { slots: 1, threads: 1, cheat: None }
}

// A model that opens answers or says why it can't, with ids that it has.
fn answer(model: Model) {
    let vocabulary = model.variant().vocabulary;
    let engine = start(Arc::new(model), options());
    let (sender, events) = channel();
    let messages = vec![Message { role: Role::User, content: "hi <u>you".to_owned() }];
    let task = GenerateTask {
        prompt: Prompt::Chat(messages),
        sampling: Sampling { temperature: 0.7, top_p: 0.9, ..Sampling::GREEDY },
        seed: Seed([7; 32]),
        max_tokens: TOKENS,
        stop: Vec::new(),
        top_logprobs: 1,
        resume: Vec::new(),
        scope: None,
    };
    engine.generate(task, Box::new(move |event| if sender.send(event).is_ok() { Flow::Continue } else { Flow::Stop }));
    loop {
        match events.recv().expect("every task ends with a result") {
            Event::Started { prompt_ids, .. } => {
                assert!(prompt_ids.iter().all(|id| *id < vocabulary), "an id of nothing")
            }
            Event::Tokens(tokens) => assert!(tokens.iter().all(|token| token.id < vocabulary), "an id of nothing"),
            Event::Finished(finish) => return assert!(finish.output_tokens <= TOKENS, "more than was asked for"),
            Event::Failed(_) => return,
        }
    }
}

fn read_bert(files: &BertFiles<'_>) {
    let Ok(model) = Model::from_bert("m", files) else { return };
    let vocabulary = model.variant().vocabulary;
    let engine: Arc<dyn Engine> = start(Arc::new(model), options());
    let (sender, results) = channel();
    let done = move |result| sender.send(result).expect("it is waited for");
    engine.embed(vec!["hi you".to_owned(), "\u{e9}".to_owned()], Box::new(done));
    if let Ok(found) = results.recv().expect("every task ends with a result") {
        assert_eq!(found.vectors.len(), 2, "another number of vectors");
        assert!(found.tokens.iter().flatten().all(|id| *id < vocabulary), "an id of nothing");
    }
}
