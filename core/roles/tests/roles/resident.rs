//! Conversations that go on where their earlier turns are held.

use crate::world::{Assigned, Bench, PROMPT, assigned, commitment, finished, node, submission};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::{Digest, Micros, NodeId, TokenCount};
use ol_roles::gateway::event::{Input, Submission};
use ol_sched::Prefix;

// The turns of a conversation up to one of them, each of ten tokens more.
fn conversation(number: u8, turns: u8) -> Vec<Prefix> {
    let digest = |turn| Digest([number.wrapping_mul(16) + turn; 32]);
    (1..=turns).map(|turn| Prefix { digest: digest(turn), tokens: TokenCount(10 * u32::from(turn)) }).collect()
}

fn turn(task: u8, prefixes: Vec<Prefix>) -> Submission {
    Submission { prefixes, ..submission(task) }
}

fn begin(bench: &mut Bench, submission: Submission) -> Assigned {
    assigned(&bench.feed(Input::Submitted(submission))).expect("a node is free")
}

fn says(to: &Assigned, prompt: u32, resident: u32) -> Input {
    let [prompt_tokens, resident_tokens] = [prompt, resident].map(TokenCount);
    Input::Started { node: to.node, attempt: to.attempt, prompt_tokens, resident_tokens }
}

// A network of measured nodes with two slots each, all alike; node 10 answered the first turn of each of these conversations.
fn answered(nodes: u8, conversations: std::ops::Range<u8>) -> Bench {
    let mut bench = Bench::new();
    for n in 10..10 + nodes {
        bench.join(n);
        let to = bench.assign(100 + n);
        assert_eq!(to.node, node(n), "a newcomer goes first");
        answer(&mut bench, &to, 0);
        if n == 10 {
            for number in conversations.clone() {
                bench.grant(n);
                let to = begin(&mut bench, turn(130 + number, conversation(number, 1)));
                answer(&mut bench, &to, 0);
            }
        }
        bench.grant(n);
        bench.grant(n);
    }
    bench
}

// Each prompt token takes 2 ms, each token of the answer 10.
fn answer(bench: &mut Bench, to: &Assigned, resident: u32) {
    bench.feed(says(to, PROMPT, resident));
    bench.wait(Micros(u64::from(PROMPT - resident) * 2_000 + 20_000));
    for count in 1..=10 {
        bench.progress(to, count, 1);
        bench.wait(Micros(10_000));
    }
    bench.done(&commitment(to, 10, Finish::EndOfText));
    bench.feed(Input::Responded { task: to.attempt.task, response: Digest([0x72; 32]) });
}

#[test]
fn the_next_turn_goes_to_the_node_that_answered_the_last() {
    for number in 0..8 {
        let mut bench = answered(6, 0..8);
        let to = begin(&mut bench, turn(1, conversation(number, 2)));
        assert_eq!(to.node, node(10), "conversation {number}");
    }
    // Of what nobody answered, nothing is known: the draw decides.
    let mut bench = answered(6, 0..8);
    let of_strangers: Vec<NodeId> = (1..6).map(|n| begin(&mut bench, turn(n, conversation(9, n))).node).collect();
    assert!(of_strangers.iter().any(|of| *of != node(10)), "{of_strangers:?}");
}

#[test]
fn nobody_waits_for_a_warm_node() {
    let mut bench = answered(2, 0..1);
    let first = begin(&mut bench, turn(1, conversation(0, 2)));
    let second = begin(&mut bench, turn(2, conversation(0, 2)));
    let third = begin(&mut bench, turn(3, conversation(0, 2)));
    assert_eq!(first.node, node(10));
    // Busy with one, it costs more than the other, which is idle: and then it has no slot at all.
    assert!([second.node, third.node].contains(&node(11)));
}

#[test]
fn a_node_that_left_or_says_that_it_has_nothing_is_like_any_other() {
    let goes_home = |then: fn(&mut Bench, u8)| {
        let is_home = |number: &u8| {
            let mut bench = answered(6, 0..8);
            then(&mut bench, *number);
            begin(&mut bench, turn(1 + number, conversation(*number, 2))).node == node(10)
        };
        (0..8).filter(is_home).count()
    };
    assert_eq!(goes_home(|_, _| {}), 8);
    let after_its_return = goes_home(|bench, _| {
        bench.feed(Input::NodeLeft { node: node(10) });
        bench.join(10);
        // It is measured anew, as a newcomer is.
        let to = bench.assign(90);
        answer(bench, &to, 0);
        bench.grant(10);
        bench.grant(10);
    });
    assert!(after_its_return < 6, "{after_its_return}");
    let after_its_word = goes_home(|bench, number| {
        let to = begin(bench, turn(50, conversation(number, 2)));
        bench.feed(says(&to, PROMPT, 0));
        bench.feed(Input::ClientGone { task: to.attempt.task });
        bench.grant(10);
    });
    assert!(after_its_word < 6, "{after_its_word}");
}

#[test]
fn what_a_node_says_it_held_is_told_and_not_charged_less() {
    let charge = |resident: u32| {
        let mut bench = answered(1, 0..1);
        let to = begin(&mut bench, turn(1, conversation(0, 2)));
        bench.feed(says(&to, PROMPT, resident));
        bench.progress(&to, 3, 3);
        let ended = finished(&bench.done(&commitment(&to, 3, Finish::EndOfText))).expect("it ends");
        assert_eq!(ended.resident_tokens, TokenCount(resident));
        (ended.prompt_tokens, ended.charge)
    };
    assert_eq!(charge(PROMPT), charge(0));
}

#[test]
fn a_node_that_says_it_held_more_than_the_prompt_has_loses_the_task() {
    let mut bench = answered(2, 0..1);
    let to = begin(&mut bench, turn(1, conversation(0, 2)));
    let next = assigned(&bench.feed(says(&to, PROMPT, PROMPT + 1))).expect("the other node takes it");
    assert_ne!(next.node, to.node);
    assert_eq!(bench.gateway.counters().wrong_counts, 1);
}

// A prompt of 400 tokens in a conversation, of which an answer before left nearly all behind.
const LONG: u32 = 400;

fn long(task: u8) -> Submission {
    let prefixes = vec![Prefix { digest: Digest([0xc0; 32]), tokens: TokenCount(490) }];
    Submission { prompt_tokens_max: TokenCount(500), ..turn(task, prefixes) }
}

// As `answer`, of a long prompt; a pass takes as long as eleven tokens.
fn answer_long(bench: &mut Bench, to: &Assigned, says_resident: u32, computed: u64) {
    bench.feed(says(to, LONG, says_resident));
    bench.wait(Micros(computed * 2_000 + 20_000));
    for count in 1..=10 {
        bench.progress(to, count, 1);
        bench.wait(Micros(10_000));
    }
    bench.done(&Commitment { prompt_tokens: TokenCount(LONG), ..commitment(to, 10, Finish::EndOfText) });
    bench.feed(Input::Responded { task: to.attempt.task, response: Digest([0x72; 32]) });
    bench.grant(to.node.0[0]);
}

#[test]
fn a_warm_answer_does_not_make_its_node_pass_for_fast() {
    // Answers that begin at once, all from one node, which says why, or that it held nothing: either way tasks of others go to both.
    for says_so in [true, false] {
        let mut bench = Bench::new();
        for n in [11, 10] {
            bench.join(n);
            let to = begin(&mut bench, long(100 + n));
            assert_eq!(to.node, node(n), "a newcomer goes first");
            answer_long(&mut bench, &to, 0, u64::from(LONG));
        }
        for n in 0..20 {
            let to = begin(&mut bench, long(50 + n));
            assert_eq!(to.node, node(10), "answer {n}");
            answer_long(&mut bench, &to, if says_so { LONG - 1 } else { 0 }, 11);
        }
        let strangers: Vec<NodeId> = (1..9)
            .map(|n| {
                let to = begin(&mut bench, Submission { prefixes: Vec::new(), ..long(n) });
                bench.feed(Input::ClientGone { task: to.attempt.task });
                bench.grant(to.node.0[0]);
                to.node
            })
            .collect();
        assert!(strangers.contains(&node(11)), "says so {says_so}: {strangers:?}");
    }
}
