//! Holds docs/messages.md to the structs: name, number, type and meaning of every field that is
//! stored or sent. `UPDATE=1` writes the page anew; what stands between a heading and its first
//! message is kept.

const PAGE: &str = include_str!("../../docs/messages.md");
const PAGE_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/messages.md");

/// Which section of the page tells of which source.
const SECTIONS: [(&str, &str); 9] = [
    ("## Rows of the metadata", include_str!("../src/rows.rs")),
    ("## Checkpoint of a store", include_str!("../src/checkpoint.rs")),
    ("## Requests and answers", include_str!("../src/service.rs")),
    ("## Messages to chunkservers", include_str!("../src/chunk.rs")),
    ("## Commands and plans of the metaserver", include_str!("../src/meta.rs")),
    ("## Queries of the metaserver", include_str!("../src/query.rs")),
    ("## Disks and nodes that come and go", include_str!("../src/members.rs")),
    ("## Buckets in the trash", include_str!("../src/trash.rs")),
    ("## Volumes", include_str!("../src/volume.rs")),
];

#[test]
#[expect(clippy::disallowed_methods, reason = "UPDATE=1 writes the page")]
fn every_field_on_the_page_is_as_the_code_has_it() {
    let mut page = String::new();
    for (number, part) in split_at_headings(PAGE).into_iter().enumerate() {
        let Some(index) = number.checked_sub(1) else {
            page.push_str(part);
            continue;
        };
        let (heading, source) = SECTIONS[index];
        assert!(part.starts_with(heading), "section {number} should be {heading:?}");
        page.push_str(part.find("\n**").map_or(part, |end| &part[..end + 1]));
        page.push_str(&blocks(source));
        page.push('\n');
    }
    let page = format!("{}\n", page.trim_end());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PAGE_PATH, &page).expect("write the page");
    }
    let differs = page.lines().zip(PAGE.lines()).position(|(new, old)| new != old);
    let line = differs.unwrap_or(page.lines().count().min(PAGE.lines().count()));
    assert!(
        page == PAGE,
        "docs/messages.md line {}: {:?} should be {:?}; UPDATE=1 writes it",
        line + 1,
        PAGE.lines().nth(line),
        page.lines().nth(line)
    );
}

fn split_at_headings(page: &str) -> Vec<&str> {
    let starts = std::iter::once(0).chain(page.match_indices("\n## ").map(|(at, _)| at + 1));
    let starts: Vec<usize> = starts.chain([page.len()]).collect();
    starts.windows(2).map(|pair| &page[pair[0]..pair[1]]).collect()
}

/// A block of the page for each message and oneof of a source file.
fn blocks(source: &str) -> String {
    let (mut out, mut docs, mut attribute) = (Vec::new(), Vec::new(), String::new());
    let mut table: Option<Table> = None;
    let code = source.split("#[cfg(test)]").next().unwrap_or(source);
    for line in code.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.trim());
        } else if line.starts_with("#[derive(") {
            attribute.clear();
            table = (line.contains("Message") || line.contains("Oneof")).then(|| Table::new(line.contains("Oneof")));
        } else if let Some(rest) = line.strip_prefix("#[prost(") {
            attribute = rest.trim_end_matches(")]").to_owned();
        } else if let Some(name) = line.strip_prefix("pub struct ").or(line.strip_prefix("pub enum "))
            && let Some(table) = &mut table
        {
            table.name = name.trim_end_matches([' ', '{', '}']).to_owned();
            table.docs = std::mem::take(&mut docs).join(" ");
            if line.ends_with("{}") {
                out.push(std::mem::take(table).text());
            }
        } else if line == "}" {
            out.extend(table.take().filter(|table| !table.name.is_empty()).map(Table::text));
            docs.clear();
        } else if !attribute.is_empty()
            && let Some(table) = &mut table
        {
            table.rows.push(row(&std::mem::take(&mut attribute), line, &std::mem::take(&mut docs).join(" ")));
        } else if !line.starts_with("#[") {
            docs.clear();
        }
    }
    out.join("\n")
}

#[derive(Default)]
struct Table {
    name: String,
    docs: String,
    is_oneof: bool,
    rows: Vec<String>,
}

impl Table {
    fn new(is_oneof: bool) -> Table {
        Table { is_oneof, ..Table::default() }
    }

    fn text(self) -> String {
        let colon = if self.docs.is_empty() { "" } else { ": " };
        let mut text = format!("**{}**{colon}{}\n\n", self.name, plain(&self.docs));
        if self.rows.is_empty() {
            return text + "No fields.\n";
        }
        let kind = if self.is_oneof { "message" } else { "type" };
        text.push_str(&format!("| field | name | {kind} | meaning |\n|---|---|---|---|\n"));
        text.push_str(&self.rows.concat());
        text
    }
}

/// `attribute`: what stands in `#[prost(...)]`; `line`: the field or variant itself.
fn row(attribute: &str, line: &str, docs: &str) -> String {
    let words: Vec<&str> = attribute.split(", ").collect();
    let tag = words.iter().find_map(|word| word.strip_prefix("tag = ")).map_or("", |tag| tag.trim_matches('"'));
    let (name, rust_type) = match line.strip_prefix("pub ").and_then(|field| field.split_once(": ")) {
        Some((name, rust_type)) => (name, rust_type.trim_end_matches(',')),
        None => line.split_once('(').map_or((line, ""), |(name, inner)| (name, inner.trim_end_matches("),"))),
    };
    let last = rust_type.rsplit("::").next().unwrap_or(rust_type);
    let inner = last.trim_start_matches("Option<").trim_start_matches("Vec<").trim_end_matches('>');
    let kind = match words[0].split(" = ").next().unwrap_or_default() {
        "message" => inner.to_owned(),
        "oneof" => format!("one of {inner}"),
        _ if rust_type == "Bytes" && line.ends_with("),") => "Bytes".to_owned(),
        scalar => scalar.to_owned(),
    };
    let many = ["repeated", "optional"].into_iter().find(|word| words.contains(word)).map(|word| format!("{word} "));
    format!("| {tag} | {name} | {}{kind} | {} |\n", many.unwrap_or_default(), plain(docs)).replace("|  |", "| |")
}

/// Links of rustdoc mean nothing on the page.
fn plain(docs: &str) -> String {
    docs.replace("[`", "`").replace("`]", "`")
}
