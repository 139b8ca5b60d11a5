//! Rules of the house that no compiler knows; there are no lists of exceptions.
//!
//! - `floors`: a crate depends only on crates of strictly lower floors;
//! - `doors`: a foreign package is named only where its door is;
//! - `sources`: every file opens with a module header, holds no unfinished code, is not too long;
//! - `reach`: every source file is reached from a program or a library.
//!
//! `workspace` reads the tree, `syntax` cuts a source file into tokens; the rules are pure.

mod workspace;

mod syntax;

mod floors;

mod doors;

mod sources;

mod reach;

use std::fmt;
use std::path::Path;

use workspace::Workspace;

/// What one rule found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Whether it fails the check.
    is_error: bool,
    /// Path from the root of the workspace, with `:line` where that helps.
    place: String,
    text: String,
}

impl Finding {
    fn error(place: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding { is_error: true, place: place.into(), text: text.into() }
    }

    fn warning(place: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding { is_error: false, place: place.into(), text: text.into() }
    }
}

/// All findings, sorted by severity and place.
#[derive(Debug)]
pub struct Report {
    findings: Vec<Finding>,
    files: usize,
}

impl Report {
    /// Whether no finding is an error.
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| !finding.is_error)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let severity = if finding.is_error { "error" } else { "warning" };
            writeln!(formatter, "{severity}: {}: {}", finding.place, finding.text)?;
        }
        let errors = self.findings.iter().filter(|finding| finding.is_error).count();
        let warnings = self.findings.len() - errors;
        writeln!(formatter, "tidy: {} files, {errors} errors, {warnings} warnings", self.files)
    }
}

/// Reads the workspace below `root` and applies every rule.
pub fn run(root: &Path) -> Result<Report, workspace::LoadError> {
    let workspace = Workspace::load(root)?;
    let mut findings = Vec::new();
    floors::check(&workspace, &mut findings);
    doors::check(&workspace, &mut findings);
    sources::check(&workspace, &mut findings);
    reach::check(&workspace, &mut findings);
    findings.sort();
    Ok(Report { findings, files: workspace.members.iter().map(|member| member.sources.len()).sum() })
}

#[cfg(test)]
mod tests;
