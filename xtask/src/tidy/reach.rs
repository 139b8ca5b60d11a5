//! No dead files: every source is a target's root or is reached from one through `mod` lines.
//!
//! Modules lie where their names say; `#[path]` is refused, because it breaks that.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::syntax::{Token, is_word, matches};
use super::workspace::{Member, Source, Workspace};

/// Reports files that no target reaches.
pub fn check(workspace: &Workspace, findings: &mut Vec<Finding>) {
    for member in &workspace.members {
        let reached = reached(member);
        for source in &member.sources {
            if !reached.contains(source.path.as_str()) {
                findings.push(Finding::error(&source.path, "no `mod` line leads here: a dead file"));
            }
            for position in 0..source.tokens.len() {
                let begins = |at: usize, text: &str| matches(&source.tokens, position + at, text);
                if begins(0, "[") && begins(1, "path") && begins(2, "=") {
                    let place = format!("{}:{}", source.path, source.tokens[position].line);
                    findings.push(Finding::error(place, "`#[path]`: modules lie where their names say"));
                }
            }
        }
    }
}

fn reached(member: &Member) -> BTreeSet<&str> {
    let by_path: BTreeMap<&str, &Source> = member.sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<(&Source, bool)> =
        member.sources.iter().filter(|source| is_root(member, &source.path)).map(|source| (source, true)).collect();
    while let Some((source, is_root)) = open.pop() {
        if !reached.insert(source.path.as_str()) {
            continue;
        }
        let folder = child_folder(&source.path, is_root);
        for module in modules(&source.tokens) {
            for candidate in [format!("{folder}/{module}.rs"), format!("{folder}/{module}/mod.rs")] {
                if let Some(child) = by_path.get(candidate.trim_start_matches('/')) {
                    open.push((child, false));
                }
            }
        }
    }
    reached
}

/// Whether Cargo builds a target from the file.
fn is_root(member: &Member, path: &str) -> bool {
    let inner = if member.folder == "." { path } else { &path[member.folder.len() + 1..] };
    let parts: Vec<&str> = inner.split('/').collect();
    let is_found = matches!(
        parts[..],
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests" | "benches" | "examples", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
    );
    is_found || member.named_targets.iter().any(|target| target == path)
}

/// Folder in which the modules that a file declares lie.
fn child_folder(path: &str, is_root: bool) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if is_root || name == "mod.rs" {
        return folder.to_string();
    }
    format!("{folder}/{}", name.trim_end_matches(".rs"))
}

/// The modules that a file declares (`mod a;`), with the inline modules around them: `a/b`.
fn modules(tokens: &[Token]) -> Vec<String> {
    let mut found = Vec::new();
    // One entry per open brace: the inline module it opens, if it opens one.
    let mut braces: Vec<Option<&str>> = Vec::new();
    let mut opening = None;
    for (position, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => braces.push(opening.take()),
            "}" => {
                braces.pop();
            }
            "mod" if tokens.get(position + 1).is_some_and(|name| is_word(&name.text)) => {
                let name = tokens[position + 1].text.as_str();
                if matches(tokens, position + 2, ";") {
                    let around = braces.iter().flatten().copied();
                    found.push(around.chain([name]).collect::<Vec<_>>().join("/"));
                } else if matches(tokens, position + 2, "{") {
                    opening = Some(name);
                }
            }
            _ => {}
        }
    }
    found
}
