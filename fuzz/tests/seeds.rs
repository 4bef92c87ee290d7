//! Every target reads its seeds and changed copies of them, within its memory.

use std::alloc::System;

use cap::Cap;
use ol_fuzz::change::changed;
use ol_fuzz::{Target, targets};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Changed copies of each seed: files of models take a millisecond each, and all of it some seconds.
const COPIES: u32 = 100;

// Whatever is beyond the limit is not there to be had, which ends the process.
fn read(target: &Target, input: &[u8]) {
    let limit = HEAP.allocated() + target.heap.bytes(input.len());
    HEAP.set_limit(limit).expect("it is above what is in use");
    (target.read)(input);
    HEAP.set_limit(usize::MAX).expect("it is above what is in use");
}

fn check_names() {
    let names: Vec<&str> = targets().map(|target| target.name).collect();
    for (at, name) in names.iter().enumerate() {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
        assert!(!names[..at].contains(name), "{name} twice");
    }
}

// One test: what another one takes from the heap at the same time would count here.
#[test]
fn every_target_reads_its_seeds_and_changed_copies_of_them() {
    check_names();
    // The words of a panic need room too.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = HEAP.set_limit(usize::MAX);
        print(panic);
    }));
    for target in targets() {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for seed in &seeds {
            read(target, seed);
            (0..COPIES).for_each(|number| read(target, &changed(seed, number)));
        }
    }
}
