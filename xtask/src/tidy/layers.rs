//! Which package may depend on which: the layers of the workspace, and core's closed list of outside packages.

use super::Finding;
use super::tree::{Dependency, Package, Tree};

/// Edges inside core. The domain crates don't know each other; `roles` combines them.
const CORE_EDGES: [(&str, &[&str]); 5] = [
    ("ol-protocol", &[]),
    ("ol-sched", &["ol-protocol"]),
    ("ol-trust", &["ol-protocol"]),
    ("ol-ledger", &["ol-protocol"]),
    ("ol-roles", &["ol-protocol", "ol-sched", "ol-trust", "ol-ledger"]),
];

/// Edges among the live crates: the two ends of a stream use what is below them, and never each other; an engine whose
/// arithmetic is elsewhere uses the embedded one's text.
const LIVE_EDGES: [(&str, &[&str]); 3] = [
    ("ol-gateway", &["ol-drive", "ol-net", "ol-store", "ol-finality"]),
    ("ol-node", &["ol-drive", "ol-net", "ol-store", "ol-engine"]),
    ("ol-llama", &["ol-engine"]),
];

/// Outside packages that core may use: all work without std.
const CORE_OUTSIDE: [&str; 4] = ["sha2", "ed25519-dalek", "libm", "thiserror"];

/// Outside packages that core's tests may use beyond those.
const CORE_TESTS_OUTSIDE: [&str; 1] = ["proptest"];

const CORE_REMEDY: &str =
    "core knows ol-protocol below the domain crates and nothing else; combine domains in ol-roles";
const LIVE_REMEDY: &str =
    "wire live crates together in apps/openledger, or add the edge to the table in xtask/src/tidy/layers.rs";
const DRIVER_REMEDY: &str = "live and sim are two drivers of one core; move what both need into core";
const LIST_REMEDY: &str = "core's list of outside packages is closed; do it in a driver, or write a decision record";
const STD_REMEDY: &str = "core is no_std: default-features = false and no std feature";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Core,
    Live,
    Sim,
    App,
    Fuzz,
    Chore,
    Elsewhere,
}

/// Checks every edge of every package.
pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for package in &tree.packages {
        if layer(package) == Layer::Elsewhere {
            let what = format!("package {} lies in no layer", package.name);
            findings.push(finding(
                tree,
                package,
                "name",
                what,
                "packages live in core, live, sim, apps, fuzz or xtask",
            ));
        }
        for dependency in &package.dependencies {
            if let Some((what, remedy)) = fault(tree, package, dependency) {
                findings.push(finding(tree, package, &dependency.name, what, remedy));
            }
        }
    }
}

fn fault(tree: &Tree, package: &Package, dependency: &Dependency) -> Option<(String, &'static str)> {
    let edge = || format!("{} depends on {}", package.name, dependency.name);
    match tree.package(&dependency.name) {
        Some(target) => refusal(package, target, dependency).map(|remedy| (edge(), remedy)),
        None if layer(package) == Layer::Core => outside_core(dependency).map(|remedy| (edge(), remedy)),
        None => None,
    }
}

// Why an edge between two packages of the workspace is not allowed. Tests of a live crate may use any other live crate.
fn refusal(package: &Package, target: &Package, dependency: &Dependency) -> Option<&'static str> {
    match (layer(package), layer(target)) {
        (_, Layer::Chore) | (Layer::Chore, _) => Some("xtask stands alone"),
        (_, Layer::App) => Some("nothing depends on an app; move what is shared into a crate below"),
        (_, Layer::Fuzz) => Some("nothing depends on the fuzz targets; move what is shared into a crate below"),
        (Layer::Core, Layer::Core) => (!listed(&CORE_EDGES, package, target)).then_some(CORE_REMEDY),
        (Layer::Core, _) => Some(CORE_REMEDY),
        (Layer::Live, Layer::Sim) | (Layer::Sim, Layer::Live) => Some(DRIVER_REMEDY),
        (Layer::Live, Layer::Live) if dependency.is_dev() => None,
        (Layer::Live, Layer::Live) => (!listed(&LIVE_EDGES, package, target)).then_some(LIVE_REMEDY),
        (Layer::Live | Layer::Sim | Layer::App | Layer::Fuzz | Layer::Elsewhere, _) => None,
    }
}

fn outside_core(dependency: &Dependency) -> Option<&'static str> {
    let name = dependency.name.as_str();
    if dependency.is_dev() && CORE_TESTS_OUTSIDE.contains(&name) {
        return None;
    }
    if !CORE_OUTSIDE.contains(&name) {
        return Some(LIST_REMEDY);
    }
    // libm's only default feature picks instructions with the same results.
    let std = (dependency.uses_default_features && name != "libm") || dependency.features.iter().any(|f| f == "std");
    (std && !dependency.is_dev()).then_some(STD_REMEDY)
}

fn listed(table: &[(&str, &[&str])], package: &Package, target: &Package) -> bool {
    table.iter().any(|(from, to)| *from == package.name && to.contains(&target.name.as_str()))
}

fn layer(package: &Package) -> Layer {
    match package.folder.split('/').next() {
        Some("core") => Layer::Core,
        Some("live") => Layer::Live,
        Some("sim") => Layer::Sim,
        Some("apps") => Layer::App,
        Some("fuzz") => Layer::Fuzz,
        Some("xtask") => Layer::Chore,
        _ => Layer::Elsewhere,
    }
}

fn finding(tree: &Tree, package: &Package, key: &str, what: String, remedy: &'static str) -> Finding {
    let path = package.manifest();
    let is_entry = |line: &str| line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '.', '=']));
    let line = tree.file(&path).and_then(|file| file.text.lines().position(is_entry)).map_or(1, |at| at + 1);
    Finding { path, line, what, remedy }
}

#[cfg(test)]
mod tests {
    use super::super::tree::File;
    use super::*;

    fn package(name: &str, folder: &str, dependencies: &[&str]) -> Package {
        let dependency = |name: &&str| Dependency {
            name: (*name).into(),
            kind: None,
            uses_default_features: false,
            features: Vec::new(),
        };
        Package {
            name: name.into(),
            folder: folder.into(),
            dependencies: dependencies.iter().map(dependency).collect(),
        }
    }

    fn workspace(last: Package) -> Tree {
        let mut packages = vec![
            package("ol-protocol", "core/protocol", &[]),
            package("ol-sched", "core/sched", &["ol-protocol"]),
            package("ol-roles", "core/roles", &["ol-protocol", "ol-sched"]),
            package("ol-net", "live/net", &["ol-protocol", "tokio"]),
            package("ol-store", "live/store", &[]),
            package("ol-sim", "sim", &["ol-roles"]),
            package("openledger", "apps/openledger", &["ol-sim", "ol-net"]),
            package("ol-fuzz", "fuzz", &["ol-net", "ol-roles"]),
            package("xtask", "xtask", &["serde"]),
        ];
        packages.push(last);
        Tree { files: Vec::new(), packages }
    }

    fn faults(tree: &Tree) -> Vec<(String, &'static str)> {
        let mut findings = Vec::new();
        check(tree, &mut findings);
        findings.into_iter().map(|finding| (finding.what, finding.remedy)).collect()
    }

    #[test]
    fn each_edge_against_the_layers_is_named() {
        let planted = [
            ("ol-trust", "core/trust", "ol-sched", CORE_REMEDY),
            ("ol-trust", "core/trust", "ol-net", CORE_REMEDY),
            ("ol-trust", "core/trust", "serde", LIST_REMEDY),
            ("ol-trust", "core/trust", "proptest", LIST_REMEDY),
            ("ol-engine", "live/engine", "ol-sim", DRIVER_REMEDY),
            ("ol-engine", "live/engine", "ol-net", LIVE_REMEDY),
            ("ol-report", "sim/report", "ol-net", DRIVER_REMEDY),
            ("ol-engine", "live/engine", "xtask", "xtask stands alone"),
            (
                "ol-engine",
                "live/engine",
                "ol-fuzz",
                "nothing depends on the fuzz targets; move what is shared into a crate below",
            ),
            ("ol-fuzz-more", "fuzz/more", "xtask", "xtask stands alone"),
            (
                "ol-engine",
                "live/engine",
                "openledger",
                "nothing depends on an app; move what is shared into a crate below",
            ),
        ];
        for (name, folder, target, remedy) in planted {
            let tree = workspace(package(name, folder, &[target]));
            assert_eq!(faults(&tree), [(format!("{name} depends on {target}"), remedy)]);
        }
    }

    #[test]
    fn allowed_edges_are_quiet() {
        let gateway = package("ol-gateway", "live/gateway", &["ol-net", "ol-store", "ol-roles", "ol-protocol", "axum"]);
        assert_eq!(faults(&workspace(gateway)), []);
    }

    #[test]
    fn tests_may_use_proptest_in_core_and_any_live_crate_in_live() {
        let mut trust = package("ol-trust", "core/trust", &["proptest"]);
        trust.dependencies[0].kind = Some("dev".into());
        assert_eq!(faults(&workspace(trust)), []);
        let mut engine = package("ol-engine", "live/engine", &["ol-net"]);
        engine.dependencies[0].kind = Some("dev".into());
        assert_eq!(faults(&workspace(engine)), []);
    }

    #[test]
    fn core_takes_nothing_with_std() {
        let mut trust = package("ol-trust", "core/trust", &["sha2", "libm"]);
        trust.dependencies[0].uses_default_features = true;
        trust.dependencies[1].uses_default_features = true;
        assert_eq!(faults(&workspace(trust)), [("ol-trust depends on sha2".into(), STD_REMEDY)]);
    }

    #[test]
    fn a_package_outside_the_layers_is_named() {
        let tree = workspace(package("ol-tool", "tools/tool", &[]));
        assert_eq!(faults(&tree)[0].0, "package ol-tool lies in no layer");
    }

    #[test]
    fn the_line_is_that_of_the_dependency() {
        let mut tree = workspace(package("ol-trust", "core/trust", &["ol-sched"]));
        let text = "[package]\nname = \"ol-trust\"\n\n[dependencies]\nol-sched = { workspace = true }\n".into();
        tree.files.push(File { path: "core/trust/Cargo.toml".into(), text });
        let mut findings = Vec::new();
        check(&tree, &mut findings);
        assert_eq!((findings[0].path.as_str(), findings[0].line), ("core/trust/Cargo.toml", 5));
    }
}
