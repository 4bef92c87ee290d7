//! Comparison with references made by other engines: tests/reference/make.py tells how.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::support::{embed, generate, task};
use ol_engine::{Engine, Model, Options, Prompt, start};
use serde::Deserialize;

/// Largest difference of log-probabilities to llama.cpp with the same weights in f32, in nats.
const F32_LIMIT: f32 = 1e-3;
/// The same to llama.cpp with the Q4_1 file, which rounds activations to 8 bits; measured over the 20 likeliest tokens
/// of each step: mean 0.10, max 0.73.
const Q4_1_LIMIT: f32 = 1.0;
/// Largest difference of vectors to ONNX Runtime, per element.
const VECTOR_LIMIT: f32 = 2e-6;

fn models() -> PathBuf {
    std::env::var_os("OPENLEDGER_MODELS").map(PathBuf::from).expect("OPENLEDGER_MODELS names the folder of models")
}

fn smollm2() -> Arc<dyn Engine> {
    let model = Model::open_gguf(&models().join("smollm2-135m-instruct-q4_1.gguf")).expect("a good file");
    start(Arc::new(model), Options::default())
}

fn minilm() -> Arc<dyn Engine> {
    start(Arc::new(Model::open_bert(&models().join("all-minilm-l6-v2")).expect("good files")), Options::default())
}

#[derive(Deserialize)]
struct Tokens {
    minilm: Vec<(String, Vec<u32>)>,
    smollm2: Vec<(String, Vec<u32>)>,
}

fn tokens() -> Tokens {
    serde_json::from_str(include_str!("../reference/tokens.json")).expect("the committed file")
}

#[test]
#[ignore = "needs the downloaded models"]
fn smollm2_texts_have_the_ids_that_llama_cpp_gives() {
    let engine = smollm2();
    for (text, ids) in tokens().smollm2 {
        assert_eq!(generate(&engine, task(&text, 0.0, 0, 0)).prompt_ids, ids, "{text:?}");
    }
}

#[test]
#[ignore = "needs the downloaded models"]
fn minilm_texts_have_the_ids_that_its_own_tokenizer_gives() {
    let cases = tokens().minilm;
    let texts: Vec<&str> = cases.iter().map(|(text, _)| text.as_str()).collect();
    let found = embed(&minilm(), &texts).unwrap();
    for ((text, ids), found) in cases.iter().zip(found.tokens) {
        assert_eq!(&found, ids, "{text:?}");
    }
}

#[derive(Deserialize)]
struct Case {
    prompt: Vec<u32>,
    path: Vec<u32>,
    f32: Vec<Vec<(u32, f32)>>,
    q4_1: Vec<Vec<(u32, f32)>>,
}

/// Differences of log-probabilities to a reference's likeliest tokens.
#[derive(Default)]
struct Difference {
    count: u32,
    sum: f32,
    max: f32,
}

impl Difference {
    fn add(&mut self, ours: &BTreeMap<u32, f32>, theirs: &[(u32, f32)]) {
        for (id, log_prob) in theirs {
            let difference = (ours[id] - log_prob).abs();
            self.count += 1;
            self.sum += difference;
            self.max = self.max.max(difference);
        }
    }
}

#[test]
#[ignore = "needs the downloaded models"]
fn smollm2_log_probabilities_are_those_of_llama_cpp() {
    let engine = smollm2();
    let cases: Vec<Case> = serde_json::from_str(include_str!("../reference/llama.json")).unwrap();
    let (mut wide, mut quantised, mut agreeing, mut steps) = (Difference::default(), Difference::default(), 0, 0);
    for case in cases {
        for at in 0..case.path.len() {
            let mut step = task("", 0.0, 0, 1);
            step.prompt = Prompt::Tokens([&case.prompt, &case.path[..at]].concat());
            step.top_logprobs = u8::MAX;
            let token = generate(&engine, step).tokens.remove(0);
            let ours = token.top.iter().map(|(id, _, log_prob)| (*id, *log_prob)).collect();
            wide.add(&ours, &case.f32[at]);
            quantised.add(&ours, &case.q4_1[at]);
            agreeing += u32::from(token.id == case.path[at]);
            steps += 1;
        }
    }
    println!("f32: mean {:.2e}, max {:.2e} nats", wide.sum / wide.count as f32, wide.max);
    println!("Q4_1: mean {:.2e}, max {:.2e} nats", quantised.sum / quantised.count as f32, quantised.max);
    assert_eq!(agreeing, steps);
    assert!(wide.max < F32_LIMIT, "{}", wide.max);
    assert!(quantised.max < Q4_1_LIMIT, "{}", quantised.max);
}

#[derive(Deserialize)]
struct Vector {
    text: String,
    vector: Vec<f32>,
}

#[test]
#[ignore = "needs the downloaded models"]
fn minilm_vectors_are_those_of_onnx_runtime() {
    let cases: Vec<Vector> = serde_json::from_str(include_str!("../reference/minilm.json")).unwrap();
    let texts: Vec<&str> = cases.iter().map(|case| case.text.as_str()).collect();
    let found = embed(&minilm(), &texts).unwrap().vectors;
    let pairs = cases.iter().zip(&found).flat_map(|(case, found)| case.vector.iter().zip(found));
    let max = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let cosine = |a: usize, b: usize| found[a].iter().zip(&found[b]).map(|(a, b)| a * b).sum::<f32>();
    println!("largest difference {max:.2e}; cosines {:.3} {:.3}", cosine(0, 1), cosine(0, 2));
    assert!(max < VECTOR_LIMIT, "{max}");
    assert!(cosine(0, 1) > 0.4 && cosine(0, 2) < 0.2);
}
