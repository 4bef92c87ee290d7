//! What tidy looks at: the text files that git knows or would add, and the packages of the workspace.

use serde::Deserialize;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// A text file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Path below the root, with `/`.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
}

/// A package of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its folder below the root, such as `core/sched`.
    pub(crate) folder: String,
    /// What its manifest depends on.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One entry of a manifest's dependency tables.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// `None` for an ordinary one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
    /// Whether default features are on.
    pub(crate) uses_default_features: bool,
    /// Features asked for.
    pub(crate) features: Vec<String>,
}

impl Dependency {
    /// Whether only tests, examples and benches use it.
    pub(crate) fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

/// Files and packages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    /// Text files, sorted by path.
    pub(crate) files: Vec<File>,
    /// Packages, in the order of the workspace.
    pub(crate) packages: Vec<Package>,
}

/// Why the tree can't be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    what: &'static str,
    why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

impl Tree {
    /// Reads the repository at `root`, with git and cargo.
    pub(crate) fn read(root: &Path) -> Result<Self, Unreadable> {
        let listed = output(root, "git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
        let mut files: Vec<File> = listed.split('\0').filter_map(|path| text_file(root, path)).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let metadata = output(root, "cargo", &["metadata", "--format-version", "1", "--no-deps"])?;
        let metadata: Metadata = serde_json::from_str(&metadata)
            .map_err(|error| Unreadable { what: "cargo metadata", why: error.to_string() })?;
        let packages = metadata.packages.into_iter().map(|package| package.below(root)).collect();
        Ok(Self { files, packages })
    }

    /// The file at a path.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The workspace's package of a name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }
}

impl MetadataPackage {
    fn below(self, root: &Path) -> Package {
        let manifest = Path::new(&self.manifest_path);
        let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root).ok()).unwrap_or(manifest);
        Package { folder: folder.display().to_string(), name: self.name, dependencies: self.dependencies }
    }
}

impl Package {
    /// The path of its manifest.
    pub(crate) fn manifest(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }
}

fn output(root: &Path, program: &'static str, arguments: &[&str]) -> Result<String, Unreadable> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .output()
        .map_err(|error| Unreadable { what: program, why: error.to_string() })?;
    if !output.status.success() {
        return Err(Unreadable { what: program, why: String::from_utf8_lossy(&output.stderr).into_owned() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

// A listed file that was deleted, a link to a folder or a binary file is not text.
fn text_file(root: &Path, path: &str) -> Option<File> {
    let text = std::fs::read_to_string(root.join(path)).ok()?;
    Some(File { path: path.to_owned(), text })
}
