//! Reads the workspace: members, their manifests and their source files.
//!
//! A file belongs to the innermost member around it; the root package's own files are those that
//! lie in no other member.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::syntax::{Token, tokens};

/// Folders that hold no sources of ours.
const SKIPPED: [&str; 3] = ["target", "data", "node_modules"];

/// The workspace as far as the rules need it.
#[derive(Debug)]
pub struct Workspace {
    pub members: Vec<Member>,
}

/// One package.
#[derive(Debug)]
pub struct Member {
    /// Folder from the root, `.` for the root package. Also the name by which floors know it.
    pub folder: String,
    /// `folder/Cargo.toml`.
    pub manifest_path: String,
    pub dependencies: Vec<Dependency>,
    /// Files that the manifest names as targets, from the root of the workspace.
    pub named_targets: Vec<String>,
    pub sources: Vec<Source>,
}

/// One line of a table of dependencies (of any kind and platform).
#[derive(Debug)]
pub struct Dependency {
    /// The key in the manifest.
    pub key: String,
    /// The package behind it, if another name.
    pub package: String,
    /// Folder of the member it leads to; `None` for foreign packages.
    pub folder: Option<String>,
}

/// One `.rs` file.
#[derive(Debug)]
pub struct Source {
    /// From the root of the workspace, with `/`.
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
}

/// The tree could not be read.
#[derive(Debug)]
pub struct LoadError {
    path: PathBuf,
    cause: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path.display(), self.cause)
    }
}

impl Workspace {
    /// Reads everything below `root`.
    pub fn load(root: &Path) -> Result<Workspace, LoadError> {
        let manifest = read_manifest(&root.join("Cargo.toml"))?;
        let workspace = table(&manifest, "workspace");
        let shared = workspace.and_then(|workspace| table(workspace, "dependencies")).cloned().unwrap_or_default();
        // Packages with a workspace of their own go by the same rules.
        let listed = ["members", "exclude"].into_iter().filter_map(|list| workspace?.get(list)?.as_array());
        let mut folders: Vec<String> = listed.flatten().filter_map(Value::as_str).map(str::to_string).collect();
        if manifest.contains_key("package") {
            folders.push(".".to_string());
        }
        let mut sources = BTreeMap::new();
        for path in rust_files(root, root)? {
            let home = innermost(&folders, &path);
            let text = read(&root.join(&path))?;
            let source = Source { tokens: tokens(&text), path, text };
            sources.entry(home).or_insert_with(Vec::new).push(source);
        }
        let mut members = Vec::new();
        for folder in &folders {
            let sources = sources.remove(folder).unwrap_or_default();
            members.push(load_member(root, folder, &shared, sources)?);
        }
        Ok(Workspace { members })
    }
}

fn load_member(root: &Path, folder: &str, shared: &Table, sources: Vec<Source>) -> Result<Member, LoadError> {
    let manifest_path = join(folder, "Cargo.toml");
    let manifest = read_manifest(&root.join(&manifest_path))?;
    let mut tables = vec![&manifest];
    if let Some(platforms) = table(&manifest, "target") {
        tables.extend(platforms.values().filter_map(Value::as_table));
    }
    let mut dependencies = Vec::new();
    for holder in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (key, value) in table(holder, kind).into_iter().flatten() {
                dependencies.push(dependency(folder, key, value, shared));
            }
        }
    }
    let named_targets = named_targets(folder, &manifest);
    Ok(Member { folder: folder.to_string(), manifest_path, dependencies, named_targets, sources })
}

fn dependency(folder: &str, key: &str, value: &Value, shared: &Table) -> Dependency {
    let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
    // A path in the shared table counts from the root.
    let (value, base) = if inherits { (shared.get(key).unwrap_or(value), ".") } else { (value, folder) };
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    Dependency {
        key: key.to_string(),
        package: text("package").unwrap_or(key).to_string(),
        folder: text("path").map(|path| normal(&join(base, path))),
    }
}

fn named_targets(folder: &str, manifest: &Table) -> Vec<String> {
    let mut targets: Vec<&Value> = manifest.get("lib").into_iter().collect();
    for kind in ["bin", "test", "bench", "example"] {
        targets.extend(manifest.get(kind).and_then(Value::as_array).into_iter().flatten());
    }
    let paths = targets.into_iter().filter_map(|target| target.get("path")).filter_map(Value::as_str);
    paths.map(|path| normal(&join(folder, path))).collect()
}

/// All `.rs` files below `folder`, as sorted paths from `root`.
fn rust_files(root: &Path, folder: &Path) -> Result<Vec<String>, LoadError> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|error| failure(folder, error))?;
    for entry in entries {
        let path = entry.map_err(|error| failure(folder, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_symlink() || name.starts_with('.') || SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            found.extend(rust_files(root, &path)?);
        } else if name.ends_with(".rs") {
            let inner = path.strip_prefix(root).unwrap_or(&path);
            found.push(inner.to_string_lossy().replace('\\', "/"));
        }
    }
    found.sort();
    Ok(found)
}

fn innermost(folders: &[String], path: &str) -> String {
    let around = folders.iter().filter(|folder| path.starts_with(&format!("{folder}/")));
    around.max_by_key(|folder| folder.len()).cloned().unwrap_or_else(|| ".".to_string())
}

fn read_manifest(path: &Path) -> Result<Table, LoadError> {
    read(path)?.parse().map_err(|error| failure(path, error))
}

fn read(path: &Path) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(|error| failure(path, error))
}

fn failure(path: &Path, cause: impl fmt::Display) -> LoadError {
    LoadError { path: path.to_path_buf(), cause: cause.to_string() }
}

fn table<'a>(value: &'a Table, key: &str) -> Option<&'a Table> {
    value.get(key).and_then(Value::as_table)
}

fn join(folder: &str, path: &str) -> String {
    if folder == "." { path.to_string() } else { format!("{folder}/{path}") }
}

/// Resolves `.` and `..` in a path from the root.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_string() } else { parts.join("/") }
}
