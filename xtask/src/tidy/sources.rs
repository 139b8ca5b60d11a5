//! What every source file must be: opened by a module header, finished, and no longer than one
//! sitting. And what every `select!` must be: `biased`, or its order comes from a random number.

use super::Finding;
use super::syntax::matches;
use super::workspace::{Source, Workspace};

const LINES_WARN: usize = 600;
const LINES_MAX: usize = 1100;

/// Beginnings of code that is not finished or not run.
const UNFINISHED: [&[&str]; 4] = [&["todo", "!"], &["unimplemented", "!"], &["dbg", "!"], &["#", "[", "ignore"]];

/// Reports files without header, unfinished code, long files, unordered selects.
pub fn check(workspace: &Workspace, findings: &mut Vec<Finding>) {
    for source in workspace.members.iter().flat_map(|member| &member.sources) {
        if !source.text.starts_with("//!") {
            findings.push(Finding::error(
                &source.path,
                "does not open with a module header (`//!`): what it is, what it leaves to others, its invariants",
            ));
        }
        check_tokens(source, findings);
        check_len(source, findings);
    }
}

fn check_tokens(source: &Source, findings: &mut Vec<Finding>) {
    let tokens = &source.tokens;
    let begins = |start: usize, words: &[&str]| {
        words.iter().enumerate().all(|(distance, word)| matches(tokens, start + distance, word))
    };
    for (position, token) in tokens.iter().enumerate() {
        let place = || format!("{}:{}", source.path, token.line);
        for words in UNFINISHED {
            if begins(position, words) {
                findings.push(Finding::error(place(), format!("`{}` is not finished code", words.concat())));
            }
        }
        if begins(position, &["select", "!", "{"]) && !matches(tokens, position + 3, "biased") {
            findings.push(Finding::error(place(), "`select!` without `biased;` is not deterministic"));
        }
    }
}

fn check_len(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.text.lines().count();
    let text = format!("{lines} lines: which second idea lives here?");
    if lines > LINES_MAX {
        findings.push(Finding::error(&source.path, text));
    } else if lines > LINES_WARN {
        findings.push(Finding::warning(&source.path, text));
    }
}
