//! Decision records: numbered without gaps, titled by their number, in three parts.

use super::Finding;
use super::tree::{File, Tree};

const FOLDER: &str = "docs/adr/";
const PARTS: [&str; 3] = ["## Context", "## Decision", "## What gets worse"];

/// Checks the names, numbers and parts of all records.
pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let records = tree.files.iter().filter(|file| file.path.starts_with(FOLDER));
    for (index, file) in records.enumerate() {
        let number = format!("{:04}", index + 1);
        let name = &file.path[FOLDER.len()..];
        if !well_named(name, &number) {
            findings.push(at(file, format!("expected {number}-name.md here"), "number records from 0001 without gaps"));
        }
        if !file.text.starts_with(&format!("# {number}: ")) {
            findings.push(at(
                file,
                "the title doesn't fit".into(),
                "start with `# NNNN: title`, the number as in the name",
            ));
        }
        for part in PARTS.into_iter().filter(|part| !file.text.lines().any(|line| line == *part)) {
            findings.push(at(file, format!("no `{part}`"), "a record has context, decision, and what gets worse"));
        }
    }
}

fn well_named(name: &str, number: &str) -> bool {
    let words =
        name.strip_prefix(number).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| rest.strip_suffix(".md"));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    words.is_some_and(|words| !words.is_empty() && words.chars().all(plain))
}

fn at(file: &File, what: String, remedy: &'static str) -> Finding {
    Finding { path: file.path.clone(), line: 1, what, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(records: &[(&str, &str)]) -> Vec<String> {
        let file = |(name, text): &(&str, &str)| File { path: format!("{FOLDER}{name}"), text: (*text).into() };
        let mut findings = Vec::new();
        check(&Tree { files: records.iter().map(file).collect(), packages: Vec::new() }, &mut findings);
        findings.into_iter().map(|finding| finding.what).collect()
    }

    const ONE: &str = "# 0001: One\n\n## Context\n\n## Decision\n\n## What gets worse\n";

    #[test]
    fn a_row_of_records_is_quiet() {
        let two = ONE.replace("0001", "0002");
        assert_eq!(faults(&[("0001-one.md", ONE), ("0002-two.md", &two)]), [""; 0]);
    }

    #[test]
    fn gaps_doubles_titles_and_missing_parts_are_named() {
        let three = ONE.replace("0001", "0003");
        let gap = ["expected 0002-name.md here", "the title doesn't fit"];
        assert_eq!(faults(&[("0001-one.md", ONE), ("0003-three.md", &three)]), gap);
        assert_eq!(faults(&[("0001-a.md", ONE), ("0001-b.md", ONE)]), gap);
        assert_eq!(faults(&[("0001-One.md", ONE)]), ["expected 0001-name.md here"]);
        assert_eq!(faults(&[("0001-one.md", "# 0001: One\n## Context\n## Decision\n")]), ["no `## What gets worse`"]);
    }
}
