//! Cuts Rust sources into the tokens the rules look at, and finds the paths named in them.
//!
//! Comments, strings, characters and lifetimes vanish, so that a rule never sees a word of prose.
//! Not a parser: macros' bodies are read as if they were code.

/// A word or a sign of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// An identifier, `::`, a number, or one sign.
    pub text: String,
    /// Counts from 1.
    pub line: usize,
}

/// A path such as `std::fs::read`, with the line it begins on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    pub segments: Vec<String>,
    pub line: usize,
    /// Whether it stands in a `use`.
    pub is_import: bool,
}

/// All tokens of `text`.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut cursor = Cursor { rest: text, line: 1 };
    let mut found = Vec::new();
    while let Some(first) = cursor.rest.chars().next() {
        let line = cursor.line;
        let len = token_len(cursor.rest, first);
        let token = cursor.take(len);
        if !is_prose(token, first) {
            found.push(Token { text: token.trim_start_matches("r#").to_string(), line });
        }
    }
    found
}

/// All paths that `tokens` name, imports unfolded: `use a::{b, c::d}` names `a::b` and `a::c::d`.
pub fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut position = 0;
    while position < tokens.len() {
        if tokens[position].text == "use" && begins_import(tokens, position) {
            position = import(tokens, position + 1, &[], &mut found);
            continue;
        }
        let start = position;
        let mut segments = Vec::new();
        while position < tokens.len() && is_word(&tokens[position].text) {
            segments.push(tokens[position].text.clone());
            if !matches(tokens, position + 1, "::") {
                break;
            }
            position += 2;
        }
        if segments.len() > 1 && !follows_path(tokens, start) {
            found.push(NamedPath { segments, line: tokens[start].line, is_import: false });
        }
        position = position.max(start) + 1;
    }
    found
}

/// Whether the token at `position` is `text`.
pub fn matches(tokens: &[Token], position: usize, text: &str) -> bool {
    tokens.get(position).is_some_and(|token| token.text == text)
}

/// Whether `text` is an identifier or keyword.
pub fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

struct Cursor<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> &'a str {
        let (token, rest) = self.rest.split_at(len);
        self.line += token.matches('\n').count();
        self.rest = rest;
        token
    }
}

fn is_prose(token: &str, first: char) -> bool {
    first.is_whitespace()
        || token.starts_with("//")
        || token.starts_with("/*")
        || token.ends_with(['"', '\''])
        || token.starts_with('\'')
        || token.contains('"')
}

/// Length in bytes of the token at the beginning of `rest`, whose first character is `first`.
fn token_len(rest: &str, first: char) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_len(rest);
    }
    if let Some(len) = string_len(rest) {
        return len;
    }
    if first == '\'' {
        return quote_len(rest);
    }
    if rest.starts_with("::") {
        return 2;
    }
    if let Some(raw) = rest.strip_prefix("r#") {
        return 2 + word_len(raw);
    }
    if first.is_alphanumeric() || first == '_' {
        return word_len(rest);
    }
    first.len_utf8()
}

fn word_len(rest: &str) -> usize {
    rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0;
    let mut position = 0;
    while position < rest.len() {
        let here = &rest.as_bytes()[position..];
        if here.starts_with(b"/*") {
            depth += 1;
            position += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                return position;
            }
        } else {
            position += 1;
        }
    }
    rest.len()
}

/// Length of a string literal of any kind, or `None` if none begins here.
fn string_len(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|rest| {
            let rest = if prefix.ends_with('r') { rest.trim_start_matches('#') } else { rest };
            rest.starts_with('"')
        })
    })?;
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let inside = hashes + 1;
        let len = body[inside..].find(&end).map_or(body.len(), |found| inside + found + end.len());
        return Some(prefix.len() + len);
    }
    Some(prefix.len() + escaped_len(body, '"'))
}

/// Length of a literal that begins with `quote` and ends at the next one not escaped.
fn escaped_len(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (position, character) in body.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            found if found == quote => return position + 1,
            _ => {}
        }
    }
    body.len()
}

/// Length of a character literal or of a lifetime.
fn quote_len(rest: &str) -> usize {
    let mut inside = rest.chars().skip(1);
    let (first, second) = (inside.next(), inside.next());
    match (first, second) {
        (Some('\\'), _) => escaped_len(rest, '\''),
        (Some(first), Some('\'')) => 2 + first.len_utf8(),
        _ => 1 + word_len(&rest[1..]),
    }
}

/// `use` also stands in the bounds of captured lifetimes (`use<'a>`), which import nothing.
fn begins_import(tokens: &[Token], position: usize) -> bool {
    !matches(tokens, position + 1, "<")
}

/// Whether the word at `start` goes on a path that began before (`self.a::b` or `<T>::b`).
fn follows_path(tokens: &[Token], start: usize) -> bool {
    let before = |distance: usize| start.checked_sub(distance).map(|position| tokens[position].text.as_str());
    match before(1) {
        Some("::") => before(2).is_some_and(|text| is_word(text) || text == ">"),
        Some(".") => true,
        _ => false,
    }
}

/// Reads one tree of an import and returns the position behind it.
fn import(tokens: &[Token], mut position: usize, prefix: &[String], found: &mut Vec<NamedPath>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens.get(position).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(position) {
        match token.text.as_str() {
            "::" => position += 1,
            "{" => {
                position += 1;
                while position < tokens.len() && !matches(tokens, position, "}") {
                    position = import(tokens, position, &segments, found);
                    position += usize::from(matches(tokens, position, ","));
                }
                return position + 1;
            }
            "as" => {
                position += 2;
                break;
            }
            text if is_word(text) || text == "*" => {
                segments.push(text.to_string());
                position += 1;
            }
            _ => break,
        }
    }
    if segments.len() > prefix.len() {
        found.push(NamedPath { segments, line, is_import: true });
        return position;
    }
    // Not an import after all: step over the token, so that reading goes on.
    position + usize::from(!matches(tokens, position, "}"))
}

#[cfg(test)]
mod tests {
    use super::{paths, tokens};

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    fn named(text: &str) -> Vec<String> {
        paths(&tokens(text)).into_iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn comments_strings_and_characters_are_not_tokens() {
        assert_eq!(words("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
        assert_eq!(words(r##"a "b \" c" r#"d " e"# b"f" br"g" 'h' '\'' b"i" j"##), ["a", "j"]);
        assert_eq!(words("fn f<'a>(x: &'a str) {}"), words("fn f< >(x: & str) {}"));
        assert_eq!(words("r#type 0x1f é"), ["type", "0x1f", "é"]);
        assert_eq!(words("match c { '\"' => 1, '/' => 2 }").len(), 11);
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let last = tokens("/*\n\n*/ \"\n\" x").pop().unwrap();
        assert_eq!((last.text.as_str(), last.line), ("x", 4));
    }

    #[test]
    fn imports_unfold() {
        assert_eq!(
            named("pub(crate) use a::{b, c::{self, d as e}, f::*};\nuse g; use ::h::i;"),
            ["a::b", "a::c::self", "a::c::d", "a::f::*", "g", "h::i"]
        );
    }

    #[test]
    fn paths_begin_where_they_begin() {
        assert_eq!(
            named("let x = a::b::c(d); e.f::<g::H>(); <T as i::J>::k(); ::l::m!(); #[n::o]"),
            ["a::b::c", "g::H", "i::J", "l::m", "n::o"]
        );
        assert_eq!(named("fn f() -> impl Iterator + use<'a> { p::q }"), ["p::q"]);
    }
}
