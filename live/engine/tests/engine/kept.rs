//! What is kept of ended tasks changes no answer, and is nobody else's.

use std::sync::Arc;
use std::sync::mpsc::channel;

use crate::support::{Answer, begin, generate, score, task};
use ol_engine::{Cheat, Engine, Event, Flow, GenerateTask, Message, Model, Options, Prompt, Role, Scope, Seed, start};

const OURS: Scope = Scope([1; 16]);
const THEIRS: Scope = Scope([2; 16]);

fn engine(slots: u32, threads: u32) -> Arc<dyn Engine> {
    start(Arc::new(Model::tiny(1).expect("it is constant")), Options { slots, threads, cheat: None })
}

/// Random numbers, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn ids(&mut self, count: u64) -> Vec<u32> {
        (0..count).map(|_| self.below(256) as u32).collect()
    }
}

fn of_ids(ids: Vec<u32>, seed: u8, max_tokens: u32) -> GenerateTask {
    GenerateTask {
        prompt: Prompt::Tokens(ids),
        seed: Seed([seed; 32]),
        top_logprobs: 5,
        ..task("", [0.0, 0.7, 1.0, 1.5][usize::from(seed % 4)], seed, max_tokens)
    }
}

fn within(task: &GenerateTask, scope: Scope) -> GenerateTask {
    GenerateTask { scope: Some(scope), ..task.clone() }
}

/// The answer without what it says of residency, which is all that may differ.
fn bare(answer: Answer) -> Answer {
    Answer { resident_tokens: 0, ..answer }
}

/// A prompt that begins as one of those before did, cut anywhere, or one of its own.
fn related(random: &mut Random, before: &[Vec<u32>]) -> Vec<u32> {
    let mut ids = match random.below(5) {
        0 => Vec::new(),
        _ if before.is_empty() => Vec::new(),
        _ => {
            let whole = &before[random.below(before.len() as u64) as usize];
            whole[..random.below(whole.len() as u64 + 1) as usize].to_vec()
        }
    };
    let more = 1 + random.below(150);
    ids.extend(random.ids(more));
    ids.truncate(600);
    ids
}

#[test]
fn an_answer_from_what_is_kept_is_that_of_a_cold_start_to_the_bit() {
    let (cold, warm) = (engine(4, 1), engine(4, 1));
    for seed in 1..=4_u64 {
        let (mut random, mut before, mut resident) = (Random(seed), Vec::new(), 0);
        for case in 0..40_u8 {
            let mut asked = of_ids(related(&mut random, &before), case, 1 + random.below(20) as u32);
            let whole = generate(&cold, asked.clone());
            if random.below(3) == 0 {
                let position = random.below(whole.tokens.len() as u64) as usize;
                asked.resume = whole.ids()[..position].to_vec();
            }
            let found = generate(&warm, within(&asked, OURS));
            resident += found.resident_tokens;
            assert!(found.resident_tokens <= whole.prompt_ids.len() as u32, "seed {seed}, case {case}");
            let mut expected = whole.clone();
            expected.tokens.drain(..asked.resume.len());
            assert_eq!(bare(found), bare(expected), "seed {seed}, case {case}");
            before.push([whole.prompt_ids.clone(), whole.ids()].concat());
        }
        assert!(resident > 500, "seed {seed}: {resident} tokens were there");
    }
}

#[test]
fn tasks_together_that_share_what_is_kept_give_the_answers_of_cold_starts() {
    let cold = engine(4, 1);
    for (slots, threads) in [(4, 1), (3, 3)] {
        let warm = engine(slots, threads);
        let (mut random, mut before, mut resident) = (Random(77), Vec::new(), 0);
        for round in 0..8_u8 {
            let tasks: Vec<GenerateTask> = (0..8)
                .map(|case| of_ids(related(&mut random, &before), round * 8 + case, 1 + random.below(24) as u32))
                .collect();
            let scope = |case: usize| if case.is_multiple_of(3) { THEIRS } else { OURS };
            let together: Vec<_> =
                tasks.iter().enumerate().map(|(case, task)| begin(&warm, within(task, scope(case)))).collect();
            for (task, answer) in tasks.iter().zip(together) {
                let (found, expected) = (answer().expect("it is possible"), generate(&cold, task.clone()));
                resident += found.resident_tokens;
                before.push([expected.prompt_ids.clone(), expected.ids()].concat());
                assert_eq!(bare(found), bare(expected), "round {round} with {slots} slots");
            }
        }
        assert!(resident > 500, "{resident} tokens were there");
    }
}

#[test]
fn the_next_turn_of_a_conversation_computes_what_is_new() {
    let engine = engine(2, 1);
    let say = |role, content: &str| Message { role, content: content.to_owned() };
    let mut messages = vec![say(Role::System, "Answer in one line."), say(Role::User, "What is a harbour for?")];
    let ask = |messages: &[Message]| GenerateTask {
        prompt: Prompt::Chat(messages.to_vec()),
        ..within(&task("", 1.0, 3, 24), OURS)
    };
    let first = generate(&engine, ask(&messages));
    assert_eq!(first.resident_tokens, 0);
    messages.extend([say(Role::Assistant, &first.text()), say(Role::User, "And in winter?")]);
    let second = generate(&engine, ask(&messages));
    // All that the model has seen: the last token of an answer is chosen and not read.
    let seen = first.prompt_ids.len() + first.tokens.len() - 1;
    assert_eq!(second.resident_tokens as usize, seen);
    // Asked once more: all but the token after which the answer begins.
    let again = generate(&engine, ask(&messages));
    assert_eq!(again.resident_tokens as usize, second.prompt_ids.len() - 1);
    assert_eq!(bare(again), bare(second));
}

#[test]
fn no_scope_sees_what_another_asked_and_none_is_a_scope_of_its_own() {
    let engine = engine(2, 1);
    let asked = of_ids(Random(5).ids(200), 1, 4);
    let resident = |task: GenerateTask| generate(&engine, task).resident_tokens;
    assert_eq!(resident(within(&asked, OURS)), 0);
    // The attack: another tenant asks the same, and times the answer.
    assert_eq!(resident(within(&asked, THEIRS)), 0);
    assert_eq!(resident(asked.clone()), 0);
    assert_eq!(resident(asked.clone()), 0);
    assert_eq!(resident(within(&asked, OURS)), 199);
}

#[test]
fn a_check_neither_uses_nor_leaves_anything() {
    let engine = engine(2, 1);
    let asked = of_ids(Random(6).ids(150), 2, 12);
    let answer = generate(&engine, asked.clone());
    let scores = score(&engine, &asked, &answer);
    assert_eq!(generate(&engine, within(&asked, OURS)).resident_tokens, 0);
    // The same figures whether anything is kept or not.
    assert_eq!(score(&engine, &asked, &answer), scores);
    assert_eq!(scores.margins, vec![0.0; answer.tokens.len()]);
}

#[test]
fn a_task_that_was_cancelled_leaves_what_it_computed() {
    let engine = engine(2, 1);
    let asked = within(&of_ids(Random(7).ids(100), 3, 50), OURS);
    let (sender, receiver) = channel();
    let sink = move |event| {
        let is_token = matches!(event, Event::Tokens(_));
        sender.send(()).expect("the test waits");
        if is_token { Flow::Stop } else { Flow::Continue }
    };
    engine.generate(asked.clone(), Box::new(sink));
    // The sink is gone when the sequence is.
    while receiver.recv().is_ok() {}
    assert_eq!(generate(&engine, asked).resident_tokens, 99);
}

#[test]
fn a_refused_start_leaves_what_was_kept() {
    let engine = engine(2, 1);
    let asked = within(&of_ids(Random(8).ids(100), 4, 3), OURS);
    generate(&engine, asked.clone());
    engine.generate(asked.clone(), Box::new(|_| Flow::Stop));
    assert_eq!(generate(&engine, asked).resident_tokens, 99);
}

#[test]
fn what_was_not_used_for_the_longest_time_goes_first() {
    let engine = engine(1, 1);
    // Half of the room of a million weights holds about a thousand tokens of the tiny model.
    let tasks: Vec<GenerateTask> =
        (0..12).map(|case| within(&of_ids(Random(90 + case).ids(200), case as u8, 1), OURS)).collect();
    let resident = |case: usize| generate(&engine, tasks[case].clone()).resident_tokens;
    (0..4).for_each(|case| assert_eq!(resident(case), 0));
    assert_eq!(resident(0), 199);
    (4..8).for_each(|case| assert_eq!(resident(case), 0));
    assert_eq!([resident(7), resident(1)], [199, 0]);
}

#[test]
fn a_cheat_says_of_its_prompt_no_more_than_there_is() {
    let model = Arc::new(Model::tiny(1).expect("it is constant"));
    for cheat in Cheat::ALL {
        let engine = start(model.clone(), Options { slots: 1, threads: 1, cheat: Some(cheat) });
        for case in 0..3 {
            let asked = within(&task("Tell me", 0.0, case, 4), OURS);
            let answer = generate(&engine, asked);
            assert!(answer.resident_tokens as usize <= answer.prompt_ids.len(), "{cheat:?}");
        }
    }
}
