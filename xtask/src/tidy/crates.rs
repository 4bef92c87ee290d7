//! What every package has: a documented root, the workspace's lints, and in core `no_std`.

use super::Finding;
use super::mask;
use super::tree::{File, Package, Tree};

/// Checks the roots and manifests of all packages, and that every workspace forbids unsafe code.
pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for package in &tree.packages {
        check_manifest(tree, package, findings);
        check_root(tree, package, findings);
    }
    for file in tree.files.iter().filter(|file| is_workspace(file)) {
        if !holds_line(file, "unsafe_code = \"forbid\"") {
            let remedy =
                "put unsafe_code = \"forbid\" under [workspace.lints.rust], or [lints.rust] of its only package";
            findings.push(at(file.path.clone(), "unsafe code is not forbidden", remedy));
        }
    }
}

// The root's, and those of packages that are built with flags of their own.
fn is_workspace(file: &File) -> bool {
    file.path == "Cargo.toml" || (file.path.ends_with("/Cargo.toml") && holds_line(file, "[workspace]"))
}

fn holds_line(file: &File, line: &str) -> bool {
    file.text.lines().any(|found| found == line)
}

fn check_manifest(tree: &Tree, package: &Package, findings: &mut Vec<Finding>) {
    let path = package.manifest();
    let lints = tree.file(&path).is_some_and(|file| file.text.contains("[lints]\nworkspace = true"));
    if !lints {
        findings.push(at(path, "the workspace's lints are not in force", "add [lints] with workspace = true"));
    }
}

fn check_root(tree: &Tree, package: &Package, findings: &mut Vec<Finding>) {
    let roots = ["lib.rs", "main.rs"].map(|name| format!("{}/src/{name}", package.folder));
    for file in roots.iter().filter_map(|path| tree.file(path)) {
        if !file.text.starts_with("//!") {
            let remedy = "start with //! and one line that says what the crate is";
            findings.push(at(file.path.clone(), "the crate has no module doc", remedy));
        }
        let no_std = mask::shipped(&file.text).contains("#![no_std]");
        if package.folder.starts_with("core/") && !no_std {
            findings.push(at(file.path.clone(), "a core crate without #![no_std]", "add it below the module doc"));
        }
    }
}

fn at(path: String, what: &str, remedy: &'static str) -> Finding {
    Finding { path, line: 1, what: what.into(), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"ol-x\"\n\n[lints]\nworkspace = true\n";
    const ROOT: &str = "//! A crate.\n#![no_std]\n";

    fn faults(manifest: &str, root: &str, workspace: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let package = Package { name: "ol-x".into(), folder: "core/x".into(), dependencies: Vec::new() };
        let files =
            vec![file("Cargo.toml", workspace), file("core/x/Cargo.toml", manifest), file("core/x/src/lib.rs", root)];
        let mut findings = Vec::new();
        check(&Tree { files, packages: vec![package] }, &mut findings);
        findings.into_iter().map(|finding| format!("{}: {}", finding.path, finding.what)).collect()
    }

    #[test]
    fn a_whole_crate_is_quiet() {
        assert_eq!(faults(MANIFEST, ROOT, "unsafe_code = \"forbid\"\n"), [""; 0]);
    }

    #[test]
    fn each_missing_part_is_named() {
        let good = "unsafe_code = \"forbid\"\n";
        let lints = "core/x/Cargo.toml: the workspace's lints are not in force";
        assert_eq!(faults("[package]\n", ROOT, good), [lints]);
        assert_eq!(faults(MANIFEST, "#![no_std]\n", good), ["core/x/src/lib.rs: the crate has no module doc"]);
        let no_std = "core/x/src/lib.rs: a core crate without #![no_std]";
        assert_eq!(faults(MANIFEST, "//! A crate.\n// #![no_std]\n", good), [no_std]);
        assert_eq!(faults(MANIFEST, ROOT, "unsafe_code = \"warn\"\n"), ["Cargo.toml: unsafe code is not forbidden"]);
        let apart = format!("[workspace]\n{MANIFEST}");
        assert_eq!(faults(&apart, ROOT, good), ["core/x/Cargo.toml: unsafe code is not forbidden"]);
    }
}
