//! What Rust files don't contain: in core nothing that depends on machine or run, nowhere unfinished or unsafe code.

use super::Finding;
use super::mask;
use super::tree::File;
use super::words::holds_word;

/// Lines of a file without its tests. The longest file that is still one concept has some 600.
const LINES_MAX: usize = 800;

/// Methods of floats whose last bits depend on the platform's mathematical library.
const FLOAT_METHODS: [&str; 19] = [
    "ln", "ln_1p", "log2", "log10", "exp", "exp2", "exp_m1", "sqrt", "cbrt", "powf", "powi", "sin", "cos", "tan",
    "tanh", "hypot", "atan2", "mul_add", "sin_cos",
];

/// Words that core doesn't use, and what it uses instead.
const CORE_WORDS: [(&str, &str); 7] = [
    ("std::", "core is no_std: use core:: or alloc::"),
    ("HashMap", "its order differs from run to run: use BTreeMap"),
    ("HashSet", "its order differs from run to run: use BTreeSet"),
    ("Instant", "core has no clock: take a Timestamp as an argument"),
    ("SystemTime", "core has no clock: take a Timestamp as an argument"),
    ("thread_rng", "core has no ambient randomness: take a seed as an argument"),
    ("getrandom", "core has no ambient randomness: take a seed as an argument"),
];

/// Checks one Rust file. Generated code is its generator's business.
pub(crate) fn check(file: &File, findings: &mut Vec<Finding>) {
    if file.text.lines().take(3).any(|line| line.contains("@generated")) {
        return;
    }
    let code = mask::code(&file.text);
    let shipped = mask::shipped(&file.text);
    check_everywhere(file, &code, findings);
    check_length(file, &shipped, findings);
    if file.path.starts_with("core/") && file.path.contains("/src/") {
        check_core(file, &shipped, findings);
        if file.path.starts_with("core/ledger/") {
            check_integers(file, &shipped, findings);
        }
    }
}

fn check_everywhere(file: &File, code: &str, findings: &mut Vec<Finding>) {
    for (index, line) in code.lines().enumerate() {
        let mut report = |what: &str, remedy| {
            findings.push(Finding { path: file.path.clone(), line: index + 1, what: what.into(), remedy });
        };
        for name in ["todo", "unimplemented", "dbg"].into_iter().filter(|name| calls_macro(line, name)) {
            report(&format!("calls {name}!"), "finish it or take it out");
        }
        let plain: String = line.split_whitespace().collect();
        if plain.contains("#[allow(") || plain.contains("#![allow(") {
            report("an allow attribute", "mend the cause, or use #[expect(lint, reason = \"...\")]");
        }
        if holds_word(line, "unsafe") {
            report("unsafe code", "find a safe way; a crate that must have it is a decision record");
        }
    }
}

fn calls_macro(line: &str, name: &str) -> bool {
    let call = format!("{name}!");
    line.match_indices(&call).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

// Files of tests have no limit here.
fn check_length(file: &File, shipped: &str, findings: &mut Vec<Finding>) {
    let is_test = file.path.contains("/tests/") || file.path.contains("/benches/");
    let tests = shipped.lines().zip(file.text.lines()).filter(|(s, t)| s.trim().is_empty() && !is_quiet(t)).count();
    let lines = file.text.lines().count() - tests;
    if !is_test && lines > LINES_MAX {
        let what = format!("{lines} lines without tests, over {LINES_MAX}");
        findings.push(Finding { path: file.path.clone(), line: 1, what, remedy: "it holds two concepts: split it" });
    }
}

// Blank lines and comments stay blank without being tests.
fn is_quiet(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with("//")
}

fn check_core(file: &File, shipped: &str, findings: &mut Vec<Finding>) {
    for (index, line) in shipped.lines().enumerate() {
        let mut report = |what: String, remedy| {
            findings.push(Finding { path: file.path.clone(), line: index + 1, what, remedy });
        };
        for (word, remedy) in CORE_WORDS.into_iter().filter(|(word, _)| holds_word_start(line, word)) {
            report(format!("{} in core", word.trim_end_matches(':')), remedy);
        }
        for method in FLOAT_METHODS.into_iter().filter(|method| calls_float_method(line, method)) {
            report(format!("float method {method} in core"), "its last bits differ between platforms: use libm");
        }
    }
}

// `std::` ends in no word character, so only its front is looked at.
fn holds_word_start(line: &str, word: &str) -> bool {
    match word.ends_with(':') {
        true => {
            line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        }
        false => holds_word(line, word),
    }
}

fn calls_float_method(line: &str, method: &str) -> bool {
    [format!(".{method}("), format!("f64::{method}"), format!("f32::{method}")].iter().any(|call| {
        line.match_indices(call.as_str()).any(|(at, _)| {
            let rest = &line[at + call.len()..];
            call.ends_with('(') || !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        })
    })
}

fn check_integers(file: &File, shipped: &str, findings: &mut Vec<Finding>) {
    for (index, line) in shipped.lines().enumerate() {
        if holds_word(line, "f32") || holds_word(line, "f64") || holds_float_literal(line) {
            let what = "a float in the ledger".into();
            let remedy = "settlement is integers only: MicroCredits, checked_*, and say how a division rounds";
            findings.push(Finding { path: file.path.clone(), line: index + 1, what, remedy });
        }
    }
}

// A digit, a point and a digit, but not the fields of a tuple in a tuple: `pair.0.1`.
fn holds_float_literal(line: &str) -> bool {
    let bytes = line.as_bytes();
    let digits_before = |at: usize| bytes[..at].iter().rev().take_while(|b| b.is_ascii_digit() || **b == b'_').count();
    line.match_indices('.').any(|(at, _)| {
        let front = digits_before(at);
        let before = (at - front).checked_sub(1).map(|index| bytes[index]);
        let alone = !before.is_some_and(|b| b == b'.' || b.is_ascii_alphanumeric());
        front > 0 && alone && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<(usize, String)> {
        let mut findings = Vec::new();
        check(&File { path: path.into(), text: text.into() }, &mut findings);
        findings.into_iter().map(|finding| (finding.line, finding.what)).collect()
    }

    #[test]
    fn what_core_may_not_use_is_named_at_its_line() {
        for (word, _) in CORE_WORDS {
            let text = format!("//! Doc.\nuse {word}x;\n").replace(
                &format!("{word}x"),
                &match word {
                    "std::" => "std::fmt".to_owned(),
                    word => word.to_owned(),
                },
            );
            let what = format!("{} in core", word.trim_end_matches(':'));
            assert_eq!(faults("core/sched/src/offer.rs", &text), [(2, what)]);
            assert_eq!(faults("live/net/src/lib.rs", &text), []);
        }
    }

    #[test]
    fn float_methods_are_named_in_core_and_libm_is_not() {
        for method in FLOAT_METHODS {
            let what = format!("float method {method} in core");
            assert_eq!(faults("core/trust/src/a.rs", &format!("let a = b.{method}();\n")), [(1, what.clone())]);
            assert_eq!(faults("core/trust/src/a.rs", &format!("let a = f64::{method}(b);\n")), [(1, what)]);
            assert_eq!(faults("core/trust/src/a.rs", &format!("let a = libm::{method}(b);\n")), []);
        }
    }

    #[test]
    fn tests_comments_and_strings_of_core_may_say_what_they_like() {
        let text = "// std::HashMap\nconst A: &str = \"Instant\";\n#[cfg(test)]\nmod tests {\n    use std::fmt;\n}\n";
        assert_eq!(faults("core/sched/src/offer.rs", text), []);
    }

    #[test]
    fn floats_of_every_form_are_named_in_the_ledger() {
        let float = |line| vec![(line, "a float in the ledger".to_owned())];
        assert_eq!(faults("core/ledger/src/a.rs", "fn a(b: f64) {}\n"), float(1));
        assert_eq!(faults("core/ledger/src/a.rs", "\nlet a = 1.5;\n"), float(2));
        assert_eq!(faults("core/ledger/src/a.rs", "let a = 1_000.5;\n"), float(1));
        assert_eq!(faults("core/ledger/src/a.rs", "let a = (b.0.1, 0..10, c.0);\n"), []);
        assert_eq!(faults("core/trust/src/a.rs", "let a: f64 = 1.5;\n"), []);
    }

    #[test]
    fn unfinished_and_unsafe_code_is_named_everywhere() {
        for name in ["todo", "unimplemented", "dbg"] {
            assert_eq!(faults("sim/src/a.rs", &format!("    {name}!();\n")), [(1, format!("calls {name}!"))]);
            assert_eq!(faults("sim/src/a.rs", &format!("    my_{name}!();\n")), []);
        }
        assert_eq!(faults("apps/a/src/main.rs", "#[allow(dead_code)]\n"), [(1, "an allow attribute".into())]);
        assert_eq!(faults("apps/a/src/main.rs", "#![ allow(dead_code) ]\n"), [(1, "an allow attribute".into())]);
        assert_eq!(faults("apps/a/src/main.rs", "let a = unsafe { b() };\n"), [(1, "unsafe code".into())]);
        assert_eq!(faults("apps/a/src/main.rs", "#![forbid(unsafe_code)]\n"), []);
    }

    #[test]
    fn a_long_file_is_named_and_its_tests_are_not_counted() {
        let line = "const A: u8 = 0;\n";
        let long = line.repeat(LINES_MAX + 1);
        assert_eq!(faults("sim/src/a.rs", &long), [(1, format!("{} lines without tests, over 800", LINES_MAX + 1))]);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(LINES_MAX), line.repeat(400));
        assert_eq!(faults("sim/src/a.rs", &tested), []);
        assert_eq!(faults("sim/tests/a.rs", &long), []);
    }

    #[test]
    fn generated_code_is_left_alone() {
        assert_eq!(faults("live/net/src/wire.rs", "// This file is @generated.\n#![allow(dead_code)]\n"), []);
    }
}
