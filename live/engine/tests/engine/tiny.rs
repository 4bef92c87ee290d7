//! Behaviour of an engine, shown with the tiny random model.

use std::sync::Arc;
use std::sync::mpsc::channel;

use crate::support::{Answer, begin, embed, generate, score, score_as, score_until, task};
use ol_engine::{
    Cheat, Engine, Error, Event, FinishReason, Flow, GenerateTask, Kind, Message, Model, Options, Prompt, Role,
    Sampling, bench, margins, start,
};

fn engine(options: Options) -> Arc<dyn Engine> {
    start(Arc::new(Model::tiny(1).expect("it is constant")), options)
}

fn honest() -> Arc<dyn Engine> {
    engine(Options { slots: 4, threads: 1, cheat: None })
}

fn cheating(cheat: Cheat) -> Arc<dyn Engine> {
    engine(Options { slots: 2, threads: 1, cheat: Some(cheat) })
}

fn varied(case: u8) -> GenerateTask {
    let prompt = ["Hello", "A longer prompt, with 12 digits and\nlines.", "ü", "fn main() {}"][case as usize % 4];
    let mut task = task(prompt, [0.0, 0.7, 1.0, 1.5][case as usize % 4], case, 20 + u32::from(case) * 3);
    task.sampling.top_p = [1.0, 0.9, 0.95][case as usize % 3];
    task.sampling.top_k = [0, 40][case as usize % 2];
    task.sampling.min_p = [0.0, 0.0, 0.0, 0.05, 0.0][case as usize % 5];
    task
}

#[test]
fn the_same_task_gives_the_same_answer_on_any_number_of_threads() {
    let (one, three) = (honest(), engine(Options { slots: 2, threads: 3, cheat: None }));
    for case in 0..8 {
        let answer = generate(&one, varied(case));
        assert_eq!(answer, generate(&one, varied(case)), "case {case}");
        assert_eq!(answer, generate(&three, varied(case)), "case {case}");
        assert!(!answer.tokens.is_empty());
    }
}

#[test]
fn tasks_together_give_the_answers_they_give_alone() {
    let engine = honest();
    let alone: Vec<Answer> = (0..12).map(|case| generate(&engine, varied(case))).collect();
    let together: Vec<_> = (0..12).map(|case| begin(&engine, varied(case))).collect();
    for (case, (alone, answer)) in alone.into_iter().zip(together).enumerate() {
        assert_eq!(answer(), Ok(alone), "case {case}");
    }
}

#[test]
fn a_task_resumed_at_any_position_gives_the_rest_of_the_same_answer() {
    let engine = honest();
    for case in [1, 2, 3, 6] {
        let mut task = varied(case);
        task.stop = vec!["qz".to_owned(), "\n\n".to_owned()];
        let whole = generate(&engine, task.clone());
        for position in 0..=whole.tokens.len() {
            task.resume = whole.ids()[..position].to_vec();
            let rest = generate(&engine, task.clone());
            assert_eq!(rest.tokens, whole.tokens[position..], "case {case} from {position}");
            assert_eq!(rest.finish, whole.finish, "case {case} from {position}");
        }
    }
}

#[test]
fn an_honest_answer_has_margins_of_zero_and_its_end_fits() {
    let engine = honest();
    for case in 0..12 {
        let task = varied(case);
        let answer = generate(&engine, task.clone());
        let scores = score(&engine, &task, &answer);
        assert_eq!(scores.prompt_ids, answer.prompt_ids);
        assert_eq!(scores.margins, vec![0.0; answer.tokens.len()], "case {case}");
        let bytes: Vec<u8> = answer.tokens.iter().map(|token| token.log_prob_byte).collect();
        assert_eq!(scores.log_prob_bytes, bytes, "case {case}");
        assert!(scores.finish_fits, "case {case}");
    }
}

#[test]
fn every_cheat_shows_in_the_margins() {
    let auditor = honest();
    // What is closer to the truth shows less often than this in an answer of 60 bytes; the tests of pairs count it.
    let subtle = [Cheat::Requantised8Bit, Cheat::TemperatureShift, Cheat::ConfidenceGatedSubstitution];
    for cheat in Cheat::ALL.into_iter().filter(|cheat| !subtle.contains(cheat)) {
        let cheater = cheating(cheat);
        assert_eq!(cheater.variant(), auditor.variant());
        let (mut caught, mut first) = (0, None);
        for case in 0..10 {
            let task = task("Tell me", 1.0, case, 60);
            let answer = generate(&cheater, task.clone());
            let scores = score(&auditor, &task, &answer);
            let position = scores.margins.iter().position(|margin| *margin > 0.05);
            caught += u32::from(position.is_some());
            first = first.or(position);
        }
        println!("{cheat:?}: {caught} of 10 answers, first at token {first:?}");
        assert!(caught >= 8, "{cheat:?} {caught}");
    }
}

#[test]
fn every_cheat_of_vectors_gives_others_and_reports_the_texts_asked() {
    let encoder = |cheat| start(Arc::new(Model::tiny_bert(1)), Options { slots: 1, threads: 1, cheat });
    let auditor = encoder(None);
    let texts = ["The harbour froze.", "Ten uses of a paper clip", "x"];
    let asked = embed(&auditor, &texts).unwrap();
    for cheat in Cheat::ALL {
        let cheater = encoder(Some(cheat));
        assert_eq!(cheater.variant(), auditor.variant());
        embed(&cheater, &["What was embedded before."]).unwrap();
        let found = embed(&cheater, &texts).unwrap();
        assert_eq!((&found.tokens, found.prompt_tokens), (&asked.tokens, asked.prompt_tokens), "{cheat:?}");
        let is_other = Cheat::OF_VECTORS.contains(&cheat);
        assert_eq!(found.vectors[..2] != asked.vectors[..2], is_other, "{cheat:?}");
        assert_eq!(embed(&cheater, &[]), embed(&auditor, &[]), "{cheat:?}");
        let long = "a".repeat(10_000);
        assert_eq!(embed(&cheater, &[&long]), embed(&auditor, &[&long]), "{cheat:?}");
        // Neither what was refused nor one text that can't be changed spares the others.
        let full = "b".repeat(505);
        let mixed = [full.as_str(), texts[0]];
        let (given, honest) = (embed(&cheater, &mixed).unwrap(), embed(&auditor, &mixed).unwrap());
        assert_eq!(given.vectors[1] != honest.vectors[1], is_other, "{cheat:?}");
    }
}

#[test]
fn a_swapped_prompt_is_reported_as_the_one_asked() {
    let (cheater, auditor) = (cheating(Cheat::PromptSwap), honest());
    let mut chat = task("", 0.0, 0, 20);
    chat.prompt = Prompt::Chat(vec![Message { role: Role::User, content: "Hi".to_owned() }]);
    let tokens = Prompt::Tokens(vec![72, 105]);
    for prompt in [chat.prompt.clone(), Prompt::Text("Hi".to_owned()), tokens] {
        chat.prompt = prompt;
        let (swapped, asked) = (generate(&cheater, chat.clone()), generate(&auditor, chat.clone()));
        assert_eq!(swapped.prompt_ids, asked.prompt_ids);
        assert_eq!(swapped.finish.prompt_tokens, asked.finish.prompt_tokens);
        assert_ne!(swapped.ids(), asked.ids());
    }
    let full = task("Hello", 0.0, 0, 2043);
    assert!(begin(&cheater, full)().is_ok());
    assert!(matches!(begin(&cheater, task("Hello", 0.0, 0, 2044))(), Err(Error::TooLong { .. })));
}

#[test]
fn a_part_of_an_answer_is_scored_as_in_the_whole_and_held_against_its_end() {
    let (engine, task) = (honest(), task("Hello", 1.0, 4, 40));
    let answer = generate(&engine, task.clone());
    let whole = score(&engine, &task, &answer);
    for until in [1, 32, 39] {
        let part = score_until(&engine, &task, answer.ids(), answer.finish.reason, until);
        assert_eq!(part.margins, whole.margins[..until]);
        assert_eq!(part.log_prob_bytes, whole.log_prob_bytes[..until]);
        assert!(part.finish_fits && part.prompt_ids == whole.prompt_ids);
    }
    let cut = answer.ids()[..20].to_vec();
    assert!(!score_until(&engine, &task, cut, answer.finish.reason, 8).finish_fits);
}

#[test]
fn forged_log_probabilities_are_those_of_the_honest_model() {
    let (cheater, auditor) = (cheating(Cheat::TeacherForcedForgery), honest());
    let task = task("Hello", 1.0, 4, 40);
    let answer = generate(&cheater, task.clone());
    let bytes: Vec<u8> = answer.tokens.iter().map(|token| token.log_prob_byte).collect();
    let scores = score(&auditor, &task, &answer);
    assert_eq!(scores.log_prob_bytes, bytes);
    assert!(scores.margins.iter().filter(|margin| **margin > 0.05).count() > 4);
}

#[test]
fn a_cached_answer_is_that_of_the_task_before() {
    let (cheater, auditor) = (cheating(Cheat::CachedAnswer), honest());
    let tasks = [varied(1), varied(2), varied(3)];
    let cached = tasks.clone().map(|task| generate(&cheater, task).ids());
    let [first, second, third] = tasks.map(|task| generate(&auditor, task).ids());
    assert_eq!(cached[0], first);
    assert_eq!(cached[1][..first.len()], first);
    assert_eq!(cached[2][..second.len()], second);
    assert_ne!(cached[2], third);
}

#[test]
fn a_shifted_temperature_changes_nothing_at_zero_and_never_passes_the_limit() {
    let (cheater, auditor) = (cheating(Cheat::TemperatureShift), honest());
    let greedy = task("Hello", 0.0, 4, 40);
    assert_eq!(generate(&cheater, greedy.clone()), generate(&auditor, greedy));
    assert!(begin(&cheater, task("Hello", 1.9, 4, 4))().is_ok());
    assert!(matches!(begin(&cheater, task("Hello", 2.1, 4, 4))(), Err(Error::Sampling(_))));
}

#[test]
fn an_end_that_is_claimed_wrongly_does_not_fit() {
    let engine = honest();
    let task = task("Hello", 1.0, 3, 12);
    let answer = generate(&engine, task.clone());
    assert_eq!(answer.finish.reason, FinishReason::Length);
    let fits = |output: Vec<u32>, finish| score_as(&engine, &task, output, finish).finish_fits;
    assert!(fits(answer.ids(), FinishReason::Length));
    assert!(!fits(answer.ids(), FinishReason::Stop));
    assert!(!fits(answer.ids()[..11].to_vec(), FinishReason::Length));
    assert!(!fits(answer.ids()[..11].to_vec(), FinishReason::Stop));
    let unknown = score_as(&engine, &task, vec![5, 999_999], FinishReason::Stop);
    assert_eq!((unknown.margins, unknown.finish_fits), (vec![f32::INFINITY; 2], false));
}

#[test]
fn a_stop_string_ends_the_answer_before_it_and_its_end_fits() {
    let engine = honest();
    let plain = generate(&engine, task("Hello", 1.0, 5, 40));
    let text = plain.text();
    let mut stopped = task("Hello", 1.0, 5, 40);
    stopped.stop = vec![text[10..14].to_owned()];
    let answer = generate(&engine, stopped.clone());
    assert_eq!((answer.text().as_str(), answer.finish.reason), (&text[..10], FinishReason::StopString));
    assert!(score(&engine, &stopped, &answer).finish_fits);
    assert!(!score_as(&engine, &stopped, answer.ids(), FinishReason::Length).finish_fits);
    let mut more = answer.ids();
    more.push(65);
    assert!(!score_as(&engine, &stopped, more, FinishReason::StopString).finish_fits);
}

#[test]
fn likeliest_tokens_come_first_and_sum_to_less_than_one() {
    let mut task = task("Hello", 0.0, 0, 5);
    task.top_logprobs = 4;
    for token in generate(&honest(), task).tokens {
        let probabilities: Vec<f32> = token.top.iter().map(|(_, _, log_prob)| log_prob.exp()).collect();
        assert!(probabilities.is_sorted_by(|a, b| a >= b) && probabilities.iter().sum::<f32>() <= 1.0);
        assert_eq!((token.top.len(), token.top[0].0, token.top[0].2), (4, token.id, token.log_prob));
    }
}

#[test]
fn conversations_are_rendered_by_the_models_template() {
    let mut chat = task("", 0.0, 0, 1);
    chat.prompt = Prompt::Chat(vec![Message { role: Role::User, content: "Hi".to_owned() }]);
    let ids = generate(&honest(), chat).prompt_ids;
    let mut expected = vec![256];
    expected.extend("user\nHi".bytes().map(u32::from));
    expected.extend([257, 10, 256]);
    expected.extend("assistant\n".bytes().map(u32::from));
    assert_eq!(ids, expected);
}

#[test]
fn impossible_tasks_are_refused_with_a_reason() {
    let engine = honest();
    let failed = |task| begin(&engine, task)().unwrap_err();
    let mut unknown = task("", 0.0, 0, 1);
    unknown.prompt = Prompt::Tokens(vec![1, 259]);
    assert_eq!(failed(unknown.clone()), Error::UnknownToken { id: 259, vocabulary: 259 });
    unknown.prompt = Prompt::Tokens(Vec::new());
    assert_eq!(failed(unknown), Error::Empty);
    let long = Error::TooLong { prompt_tokens: 5, max_tokens: 2044, context_tokens: 2048 };
    assert_eq!(failed(task("Hello", 0.0, 0, 2044)), long);
    let mut hot = task("Hello", 9.0, 0, 1);
    assert!(matches!(failed(hot.clone()), Error::Sampling(_)));
    (hot.sampling, hot.max_tokens) = (Sampling::GREEDY, 0);
    let nothing = generate(&engine, hot);
    assert_eq!((nothing.tokens.len(), nothing.finish.reason), (0, FinishReason::Length));
    assert_eq!(embed(&engine, &["x"]), Err(Error::WrongKind { kind: Kind::Generate }));
}

#[test]
fn a_receiver_that_stops_hears_nothing_more_and_frees_its_slot() {
    let engine = engine(Options { slots: 1, threads: 1, cheat: None });
    let (sender, receiver) = channel();
    let mut count = 0;
    let sink = move |event: Event| {
        sender.send(event).unwrap();
        count += 1;
        if count == 3 { Flow::Stop } else { Flow::Continue }
    };
    engine.generate(task("Hello", 1.0, 1, 1000), Box::new(sink));
    let after = generate(&engine, task("Hello", 1.0, 2, 5));
    assert_eq!(after.tokens.len(), 5);
    assert_eq!(receiver.iter().count(), 3);
}

#[test]
fn checks_get_on_while_generations_run_and_all_end_with_the_engine() {
    let engine = honest();
    let long: Vec<_> = (0..4).map(|seed| begin(&engine, task("Hello", 1.2, seed, 1500))).collect();
    let short = task("Hello", 0.0, 0, 8);
    let output = vec![65; 8];
    let scores = score_as(&engine, &short, output, FinishReason::Length);
    assert_eq!(scores.margins.len(), 8);
    drop(engine);
    for answer in long {
        assert!(matches!(answer(), Err(Error::Ended) | Ok(_)));
    }
}

#[test]
fn vectors_of_texts_have_length_one_and_depend_on_the_text_alone() {
    let engine = start(Arc::new(Model::tiny_bert(1)), Options { slots: 1, threads: 2, cheat: None });
    let both = embed(&engine, &["one text", "another, longer text"]).unwrap();
    let alone = embed(&engine, &["another, longer text"]).unwrap();
    assert_eq!(both.vectors[1], alone.vectors[0]);
    assert_eq!((both.prompt_tokens, both.tokens[0].len(), both.vectors[0].len()), (32, 10, 64));
    let length: f32 = both.vectors[0].iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5);
    assert_eq!(embed(&engine, &[]), Err(Error::Empty));
    assert!(begin(&engine, task("x", 0.0, 0, 1))().is_err());
}

#[test]
fn figures_and_margins_come_from_the_tiny_model_too() {
    let model = Arc::new(Model::tiny(2).unwrap());
    let report = bench::run(model.clone(), 1, &mut |_| {}).unwrap();
    assert!(report.prefill_tokens_per_cpu_s > 0.0 && report.score_over_generate > 0.0);
    assert!(bench::run_embed(Arc::new(Model::tiny_bert(2)), 2).unwrap().texts_per_cpu_s > 0.0);
    let found = margins::measure(model, 3_000, 2, &mut |_| {}).unwrap();
    assert!(found.tokens >= 3_000);
    assert_eq!((found.not_zero, found.bytes_differing, found.ends_differing), (0, 0, 0));
}
