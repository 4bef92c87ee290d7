//! One of three nodes cheats, and is found.

use crate::process::run;
use crate::up::{args, up};

fn found(cheat: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(&args(&up(folder.path(), &["--once", "--json", "--cheat", cheat])));
    let object = ended.json();
    assert!(ended.status.success(), "{object}\n{}", ended.err);
    let number = |name: &str| object[name].as_u64().unwrap();
    assert_eq!((object["cheat"].as_str(), object["verdict"].as_str()), (Some(cheat), Some("failed")));
    assert_eq!(number("honest_nodes_sanctioned"), 0);
    assert!(number("tokens_to_verdict") > 0 && number("audits_to_verdict") > 0, "{object}");
    assert!(number("refunded_micro_credits") > 0, "{object}");
    assert!(number("withheld_micro_credits") > 0, "{object}");
}

#[test]
fn a_node_with_a_smaller_model_is_found() {
    found("small-model");
}

#[test]
fn a_node_with_a_seed_of_its_own_is_found() {
    found("wrong-seed");
}

#[test]
fn a_node_with_requantised_weights_is_found() {
    found("requantised");
}

#[test]
fn a_node_that_ends_answers_early_is_found() {
    found("truncate");
}
