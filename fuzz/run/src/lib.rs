//! libFuzzer for one target: `FUZZ_TARGET=NAME PROGRAM FOLDER [-max_total_time=SECONDS]`, as `fuzz/run/all` starts it. The
//! target's own seeds are put into the folder `FUZZ_SEEDS`, if there is such a variable; `FUZZ_TARGET=list` prints names.
//!
//! Each program holds some of the targets: libFuzzer goes over the counters of all code that was linked after each input,
//! which for a parser of core would take a hundred times what the parser does.

use std::alloc::System;
use std::path::Path;
use std::sync::OnceLock;

use cap::Cap;
use ol_fuzz::Target;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

static TARGET: OnceLock<&'static Target> = OnceLock::new();

/// Chooses the target.
///
/// # Panics
/// There is no such target here, or its seeds can't be written.
pub fn begin(targets: &[&'static [Target]]) {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target, or is `list`");
    let mut targets = targets.iter().copied().flatten();
    if name == "list" {
        targets.for_each(|target| println!("{}", target.name));
        std::process::exit(0);
    }
    let target = targets.find(|target| target.name == name).expect("FUZZ_TARGET names a target of this program");
    if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
        write_seeds(target, Path::new(&folder));
    }
    TARGET.set(target).expect("it is chosen once");
    watch_panics();
}

fn write_seeds(target: &Target, folder: &Path) {
    for (number, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed).expect("the folder can be written");
    }
}

// A panic of a library that the product catches is no finding; any other is, on whatever thread.
fn watch_panics() {
    drop(std::panic::take_hook());
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/tokenizers-")) {
            // The words for it need memory too.
            let _ = HEAP.set_limit(usize::MAX);
            print(panic);
            std::process::abort();
        }
    }));
}

/// Reads an input. What passes the limit on memory ends the process, and libFuzzer keeps the input.
///
/// # Panics
/// Something does not hold.
pub fn read(input: &[u8]) {
    let target = TARGET.get().expect("it was chosen");
    let limit = HEAP.allocated() + target.heap.bytes(input.len());
    HEAP.set_limit(limit).expect("it is above what is in use");
    (target.read)(input);
    HEAP.set_limit(usize::MAX).expect("it is above what is in use");
}
