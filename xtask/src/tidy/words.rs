//! Words that the repository doesn't hold, in any text file.

use super::Finding;
use super::tree::File;

/// Written by tools, and full of the registry's address.
const EXEMPT: [&str; 2] = ["Cargo.lock", "fuzz/run/Cargo.lock"];

// In two parts, so that this file doesn't hold what it forbids.
const REGISTRIES: [(&str, &str); 9] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("npmjs", ".org"),
    ("npmjs", ".com"),
    ("deb.debian", ".org"),
    ("security.debian", ".org"),
    ("ftp.debian", ".org"),
    ("debian", ".net"),
];
const LATER: [(&str, &str); 3] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")];

/// Checks every line of a file.
pub(crate) fn check(file: &File, findings: &mut Vec<Finding>) {
    if EXEMPT.contains(&file.path.as_str()) {
        return;
    }
    for (index, line) in file.text.lines().enumerate() {
        let mut report = |what: String, remedy| {
            findings.push(Finding { path: file.path.clone(), line: index + 1, what, remedy });
        };
        let lower = line.to_ascii_lowercase();
        for host in REGISTRIES.map(joined).into_iter().filter(|host| lower.contains(host)) {
            report(format!("names the registry host {host}"), "say `the package registry`; clients know their own");
        }
        for word in LATER.map(joined).into_iter().filter(|word| holds_word(line, word)) {
            report(format!("holds {word}"), "do it, or drop the thought");
        }
    }
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
pub(crate) fn holds_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside))
}

fn joined((front, back): (&str, &str)) -> String {
    format!("{front}{back}")
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
    fn each_registry_host_is_named_in_any_case() {
        for host in REGISTRIES.map(joined) {
            let text = format!("fine\nsee https://{}/x\n", host.to_uppercase());
            assert_eq!(faults("README.md", &text), [(2, format!("names the registry host {host}"))]);
        }
    }

    #[test]
    fn the_lock_file_is_exempt() {
        assert_eq!(faults("Cargo.lock", &joined(REGISTRIES[0])), []);
    }

    #[test]
    fn words_for_later_are_named_where_they_stand_alone() {
        for word in LATER.map(joined) {
            assert_eq!(faults("a.rs", &format!("// {word}: later\n")), [(1, format!("holds {word}"))]);
            assert_eq!(faults("a.rs", &format!("const {word}_LIST: u8 = 0;\n")), []);
        }
    }
}
