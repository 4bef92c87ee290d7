//! Tasks of the network's own.

use crate::http::chat;
use crate::process::{eventually, run};
use crate::up::{Up, up};

#[test]
fn where_nothing_becomes_public_the_network_asks_for_tasks_of_its_own_and_pays_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("network");
    std::fs::create_dir_all(&home).unwrap();
    let prompts = home.join("own-prompts.jsonl");
    std::fs::write(&prompts, "{\"messages\": []}\n").unwrap();
    let refused = run(&crate::up::args(&up(folder.path(), &["--once"])));
    assert!(!refused.status.success() && refused.err.contains("line 1 of "), "{}", refused.err);
    std::fs::write(&prompts, "{\"messages\": [{\"role\": \"user\", \"content\": \"how are ports made?\"}]}\n").unwrap();
    let network = Up::start(folder.path(), &[]);
    // What settled receipts brought for audits pays for them: long prompts cost the most.
    let long = "ports ".repeat(300);
    (0..100).for_each(|seed| drop(network.api.chat(&chat(&long, 1, seed)).good()));
    let folder = folder.path().to_str().unwrap();
    let mut seed = 100;
    // Two in a thousand are followed by one.
    let settled = eventually("a task of the network's own that was settled", || {
        (0..100).for_each(|_| {
            seed += 1;
            network.api.chat(&chat("hello", 1, seed)).good();
        });
        // The first may come so soon that its share is not small yet.
        let is_small = |it: &serde_json::Value| it["public_share"].as_f64().is_some_and(|share| share < 0.005);
        Some(run(&["ledger", "honesty", "--json", "--data-dir", folder]).json())
            .filter(|it| it["own_micro_credits"] != 0 && is_small(it))
    });
    let metrics = network.api.get("/metrics").text();
    assert!(!metrics.contains("openledger_tasks_own_total 0\n"), "{metrics}");
    assert!(settled["public_share"].as_f64().unwrap() > 0.0, "{settled}");
    // So small a share asks for more escrow than the rule says.
    assert!((181..=1_800).contains(&settled["held_tasks"].as_u64().unwrap()), "{settled}");
    let fsck = run(&["ledger", "fsck", "--data-dir", folder]);
    assert!(fsck.status.success(), "{}{}", fsck.out, fsck.err);
}
