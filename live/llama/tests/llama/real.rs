//! The engine over a real llama-server: `python3` with xllamacpp, and the model in the folder that OPENLEDGER_MODELS names.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;

use ol_engine::{
    Engine, Error, Event, FinishReason, Flow, GenerateTask, Message, Model, Outline, Prompt, Role, Sampling,
};

use crate::support::{Answer, begin, generate, options, refusal, score, start, task, tiny};

/// What the questions are about.
const SUBJECTS: [&str; 6] = ["a lighthouse", "tides", "the Roman roads", "bees", "Köln im Winter", "emoji 😀 and 🎉"];

fn model() -> PathBuf {
    let folder = std::env::var_os("OPENLEDGER_MODELS").map(PathBuf::from);
    folder.expect("OPENLEDGER_MODELS names the folder of models").join("smollm2-135m-instruct-q4_1.gguf")
}

fn outline() -> Outline {
    Outline::open_gguf(&model()).expect("a good file")
}

fn embedded() -> Arc<dyn Engine> {
    ol_engine::start(Arc::new(Model::open_gguf(&model()).expect("a good file")), ol_engine::Options::default())
}

/// A server that ends with its handle.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// With `numerics` as server.py knows them.
    fn start(slots: u32, numerics: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server.py");
        let mut child = Command::new("python3")
            .args([script, model().to_str().unwrap(), &slots.to_string(), numerics])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3");
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("http://"), "xllamacpp is installed for python3");
        Self { child, address: address.trim().to_owned() }
    }

    fn engine(&self, slots: u32) -> Arc<dyn Engine> {
        start(outline(), &options(&self.address, slots))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn question(case: usize, sampling: Sampling, max_tokens: u32) -> GenerateTask {
    let content = format!("Write a few sentences about {}.", SUBJECTS[case % SUBJECTS.len()]);
    let prompt = Prompt::Chat(vec![Message { role: Role::User, content }]);
    GenerateTask { prompt, sampling, ..task("", 0.0, case as u8, max_tokens) }
}

fn sampling(temperature: f32, top_p: f32) -> Sampling {
    Sampling { temperature, top_p, ..Sampling::GREEDY }
}

#[test]
#[ignore = "needs the downloaded models and xllamacpp"]
fn a_real_server_gives_what_the_embedded_engine_gives() {
    let server = Server::start(2, "exact");
    let (ours, theirs) = (server.engine(2), embedded());
    let (mut agreeing, mut steps) = (0, 0);
    for case in 0..SUBJECTS.len() {
        let question = question(case, sampling(0.0, 1.0), 40);
        let (a, b) = (generate(&ours, question.clone()), generate(&theirs, question.clone()));
        assert_eq!(a.prompt_ids, b.prompt_ids);
        agreeing += a.ids().iter().zip(b.ids()).take_while(|(a, b)| **a == *b).count();
        steps += b.tokens.len();
        println!("{:?}\n{:?}", a.text(), b.text());
    }
    println!("{agreeing} of {steps} greedy tokens agree up to the first that differs");
    assert!(2 * agreeing > steps);
    let asked =
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital is Paris.";
    let answer = generate(&ours, task(asked, 0.0, 0, 40));
    assert_eq!((answer.finish.reason, answer.tokens.last().unwrap().text.as_str()), (FinishReason::Stop, ""));
}

#[test]
#[ignore = "needs the downloaded models and xllamacpp"]
fn a_real_servers_output_is_decided_by_the_seed_resumes_and_stops() {
    let server = Server::start(1, "exact");
    let engine = server.engine(4);
    assert_eq!(engine.slots(), 1);
    let mut question = question(1, sampling(1.0, 0.9), 32);
    let whole = generate(&engine, question.clone());
    assert_eq!(generate(&engine, question.clone()).ids(), whole.ids());
    question.resume = whole.ids()[..10].to_vec();
    assert_eq!(generate(&engine, question.clone()).ids(), whole.ids()[10..]);
    let text = whole.text();
    let word = text.split(' ').nth(6).unwrap().to_owned();
    (question.resume, question.stop) = (Vec::new(), vec![word.clone()]);
    let stopped = generate(&engine, question);
    assert_eq!(stopped.text(), text[..text.find(&word).unwrap()]);
    assert_eq!(stopped.finish.reason, FinishReason::StopString);
}

#[test]
#[ignore = "needs the downloaded models and xllamacpp"]
fn pieces_of_characters_are_sampled_like_any_other_token() {
    let server = Server::start(1, "exact");
    let engine = server.engine(1);
    let answer = generate(&engine, task("Repeat: 😀😀😀😀😀😀😀😀😀😀", 0.0, 0, 12));
    println!("{:?}", answer.text());
    assert!(answer.text().contains('😀'));
}

#[test]
#[ignore = "needs the downloaded models and xllamacpp"]
fn a_real_server_with_another_file_is_refused() {
    let server = Server::start(1, "exact");
    let found = refusal(tiny(), &options(&server.address, 1));
    assert!(found.contains("has loaded another model: 49152 token ids against the 259 of the file"), "{found}");
}

#[test]
#[ignore = "needs the downloaded models and xllamacpp"]
fn a_real_server_killed_in_mid_stream_fails_the_task() {
    let server = Server::start(1, "exact");
    let engine = server.engine(1);
    let (sender, events) = channel();
    let mut server = Some(server);
    let sink = move |event| {
        if matches!(event, Event::Tokens(_)) {
            drop(server.take());
        }
        if sender.send(event).is_ok() { Flow::Continue } else { Flow::Stop }
    };
    engine.generate(question(0, sampling(0.0, 1.0), 40), Box::new(sink));
    let last = events.iter().last().unwrap();
    assert_eq!(last, Event::Failed(Error::Server));
    assert_eq!(begin(&engine, question(1, sampling(0.0, 1.0), 4))().err(), Some(Error::Server));
}

/// Margins of honest answers, checked by the embedded engine on the same file.
fn margins(server: &Server, auditor: &Arc<dyn Engine>, sampling: Sampling, answers: usize) -> Vec<f32> {
    let engine = server.engine(4);
    let pending: Vec<_> = (0..answers)
        .map(|case| {
            let question = question(case, sampling, 64);
            (question.clone(), begin(&engine, question))
        })
        .collect();
    let found = pending.into_iter().flat_map(|(question, pending)| {
        let answer: Answer = pending().expect("the task is possible");
        let scores = score(auditor, &question, &answer, 0.1);
        assert!(scores.finish_fits);
        scores.margins
    });
    let mut found: Vec<f32> = found.collect();
    found.sort_by(f32::total_cmp);
    found
}

#[test]
#[ignore = "needs the downloaded models and xllamacpp"]
fn honest_margins_of_a_real_server_are_small() {
    let answers = std::env::var("LLAMA_ANSWERS").map_or(2, |count| count.parse().unwrap());
    let auditor = embedded();
    for numerics in ["exact", "default"] {
        let server = Server::start(4, numerics);
        for (temperature, top_p) in [(0.0, 1.0), (0.7, 1.0), (1.0, 1.0), (1.0, 0.9)] {
            let found = margins(&server, &auditor, sampling(temperature, top_p), answers);
            let quantile = |share: f64| found[(share * (found.len() - 1) as f64) as usize];
            let share = |over: f32| found.iter().filter(|margin| **margin > over).count() as f64 / found.len() as f64;
            println!(
                "{numerics} T {temperature} top-p {top_p}: {} tokens, {:.4} over 0, {:.4} over 0.1; \
                 p50 {:.4} p99 {:.4} p99.9 {:.4} max {:.4}",
                found.len(),
                share(0.0),
                share(0.1),
                quantile(0.5),
                quantile(0.99),
                quantile(0.999),
                quantile(1.0),
            );
            assert!(quantile(0.5) == 0.0 && share(0.0) < 0.1, "{numerics} {temperature} {top_p}");
        }
    }
}
