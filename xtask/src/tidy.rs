//! What a machine can check of the conventions and the compiler doesn't: layers, determinism of core, words, shape.

mod crates;
mod layers;
mod mask;
mod records;
mod source;
mod tree;
mod words;

pub(crate) use tree::Tree;

use std::fmt;

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path below the root.
    pub(crate) path: String,
    /// Line from 1.
    pub(crate) line: usize,
    /// What is there.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.what, self.remedy)
    }
}

/// Every finding in the tree, in order of path and line.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    layers::check(tree, &mut findings);
    crates::check(tree, &mut findings);
    records::check(tree, &mut findings);
    for file in &tree.files {
        words::check(file, &mut findings);
        if file.path.ends_with(".rs") {
            source::check(file, &mut findings);
        }
    }
    findings.sort();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_place_fault_and_remedy() {
        let finding = Finding { path: "a/b.rs".into(), line: 3, what: "a fault".into(), remedy: "mend it" };
        assert_eq!(finding.to_string(), "a/b.rs:3: a fault: mend it");
    }
}
