//! Repository chores: `cargo xtask tidy` checks what the compiler can't, `cargo xtask ci` runs CI's stages in place.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is its purpose")]

mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask tidy | cargo xtask ci [STAGE...]   (stages: bash .ci/run --list)";

/// The stages of `.ci/run` that install and download nothing.
const CI_STAGES: [&str; 4] = ["fmt", "lint", "tests", "tidy"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tidy"] => run_tidy(),
        ["ci"] => run_ci(&CI_STAGES),
        ["ci", stages @ ..] => run_ci(stages),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run_tidy() -> ExitCode {
    let tree = match tidy::Tree::read(&root()) {
        Ok(tree) => tree,
        Err(error) => {
            eprintln!("tidy: {error}");
            return ExitCode::from(2);
        }
    };
    let findings = tidy::check(&tree);
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} files, {} packages, {} findings", tree.files.len(), tree.packages.len(), findings.len());
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_ci(stages: &[&str]) -> ExitCode {
    match Command::new("bash").arg(".ci/run").args(stages).current_dir(root()).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ci: cannot run bash: {error}");
            ExitCode::from(2)
        }
    }
}

/// The repository's root: the folder above this package's.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a package of the workspace lies below its root")
        .to_path_buf()
}
