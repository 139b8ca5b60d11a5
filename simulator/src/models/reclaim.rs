//! May a chunk without references be reclaimed? Its writer may be slow to commit what it appended.

use super::{Found, search};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A chunk that is sealed and unreferenced goes.
    Nothing,
    /// A commit looks whether its chunk is still there.
    ChunkLives,
    /// A chunk goes only when its session has ended, and a commit needs its session.
    Session,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    appended: bool,
    sealed: bool,
    referenced: bool,
    deleted: bool,
    session_lives: bool,
    /// Whether the commit was accepted.
    commit: Option<bool>,
}

fn model(rule: Rule, live_sessions_must_succeed: bool) -> Found {
    let initial =
        State { appended: false, sealed: false, referenced: false, deleted: false, session_lives: true, commit: None };
    let step = |state: &State, next: &mut Vec<(String, State)>| {
        let mut add = |label: &str, change: &dyn Fn(&mut State)| {
            let mut after = state.clone();
            change(&mut after);
            next.push((label.to_owned(), after));
        };
        if !state.appended && !state.sealed && state.session_lives {
            add("append is acked", &|after| after.appended = true);
        }
        if !state.sealed {
            add("metaserver seals", &|after| after.sealed = true);
        }
        if state.appended && state.commit.is_none() {
            let accepted = match rule {
                Rule::Nothing => true,
                Rule::ChunkLives => !state.deleted,
                Rule::Session => state.session_lives,
            };
            add("commit", &|after| {
                after.commit = Some(accepted);
                after.referenced = accepted;
            });
        }
        if state.session_lives {
            add("session ends", &|after| after.session_lives = false);
        }
        let may_go = rule != Rule::Session || !state.session_lives;
        if state.sealed && !state.referenced && !state.deleted && may_go {
            add("reclaim", &|after| after.deleted = true);
        }
    };
    search(initial, step, |state| {
        if state.referenced && state.deleted {
            return Some("a referenced chunk is gone".into());
        }
        let refused = state.commit == Some(false) && state.session_lives;
        (live_sessions_must_succeed && refused).then(|| "a live session lost its acked append".into())
    })
}

#[test]
fn chunk_is_reclaimed_only_when_its_session_has_ended() {
    assert!(model(Rule::Nothing, false).is_bad());
    assert!(model(Rule::ChunkLives, false).is_safe());
    assert!(model(Rule::ChunkLives, true).is_bad(), "an acked append of a live session may not be refused");
    assert!(model(Rule::Session, true).is_safe());
}
