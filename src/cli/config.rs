//! The configuration file, and `bixi config check`, which lists all its errors at once.
//!
//! ```toml
//! [server]
//! dirs = ["/disk1", "/disk2", "/disk3"]
//! s3_addr = "127.0.0.1:9000"
//! admin_addr = "127.0.0.1:9001"
//! redundancy = "copies:3"
//! log_format = "text"
//!
//! [s3]                      # see s3_gateway::config::Config
//! region = "us-east-1"
//! domains = ["localhost"]
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use toml::de::{DeTable, DeValue};

use super::failure::Failure;
use super::output::{print_json, print_line};
use crate::args::Output;

/// Sections and keys there are; the structs below read them.
const SECTIONS: [(&str, &[&str]); 2] = [
    ("server", &["dirs", "s3_addr", "admin_addr", "redundancy", "tls_cert", "tls_key", "log_format"]),
    (
        "s3",
        &[
            "region",
            "domains",
            "connections_max",
            "header_timeout_s",
            "idle_timeout_s",
            "body_timeout_s",
            "memory_budget_bytes",
            "slow_request_ms",
        ],
    ),
];

/// A configuration file.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// What `bixi server` is started with.
    pub server: ServerSection,
    /// The S3 gateway.
    pub s3: s3_gateway::config::Config,
}

/// `[server]`: flags and environment win over it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    /// Directories to store in. Default: none, they must be named somewhere.
    pub dirs: Vec<PathBuf>,
    /// Where S3 is served. Default 127.0.0.1:9000.
    pub s3_addr: Option<String>,
    /// Where health, metrics and the admin API are served. Default 127.0.0.1:9001.
    pub admin_addr: Option<String>,
    /// copies:N or ec:K+M. Default: by the number of directories.
    pub redundancy: Option<String>,
    /// Certificate chain in PEM. Default: none, plain HTTP.
    pub tls_cert: Option<PathBuf>,
    /// Its private key in PEM.
    pub tls_key: Option<PathBuf>,
    /// text or json. Default text.
    pub log_format: Option<String>,
}

/// Something wrong in a file.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    text: String,
}

/// Reads a file, or says all that is wrong with it.
pub fn load(path: &Path) -> Result<FileConfig, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(format!("there is no file {}", path.display())),
        _ => Failure::failed(format!("cannot read {}: {error}", path.display())),
    })?;
    let (config, faults) = parse(&text);
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => {
            let lines: Vec<String> = faults.iter().map(|fault| shown(path, fault)).collect();
            Err(Failure::failed(lines.join("\nbixi: ")))
        }
    }
}

/// Runs `bixi config check`.
pub fn check(file: Option<PathBuf>, output: Output) -> Result<(), Failure> {
    let named = file.or_else(|| std::env::var_os("BIXI_CONFIG").map(PathBuf::from));
    let path = named.unwrap_or_else(|| PathBuf::from("bixi.toml"));
    let loaded = load(&path);
    if output == Output::Json {
        let errors: Vec<&str> = match &loaded {
            Ok(_) => Vec::new(),
            Err(failure) => failure.message.split("\nbixi: ").collect(),
        };
        print_json(&json!({"schema": 1, "file": path.display().to_string(), "errors": errors}))?;
    }
    loaded?;
    if output == Output::Table { print_line(&format!("{}: fine", path.display())) } else { Ok(()) }
}

fn shown(path: &Path, fault: &Fault) -> String {
    format!("{}:{}: {}", path.display(), fault.line, fault.text)
}

fn parse(text: &str) -> (Option<FileConfig>, Vec<Fault>) {
    let line_of = |offset: usize| 1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let line = line_of(error.span().map_or(0, |span| span.start));
            return (None, vec![Fault { line, text: error.message().to_owned() }]);
        }
    };
    let mut faults = Vec::new();
    let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    for (name, value) in table.get_ref() {
        let line = line_of(name.span().start);
        let Some((section, keys)) = SECTIONS.iter().find(|(section, _)| *section == name.get_ref().as_ref()) else {
            faults.push(Fault { line, text: unknown("section", name.get_ref(), &names) });
            continue;
        };
        let DeValue::Table(inside) = value.get_ref() else {
            faults.push(Fault { line, text: format!("{section} is a section: write [{section}]") });
            continue;
        };
        for (key, value) in inside {
            let line = line_of(key.span().start);
            if !keys.contains(&key.get_ref().as_ref()) {
                faults.push(Fault { line, text: unknown("key", key.get_ref(), keys) });
                continue;
            }
            // Each value is tried alone, so that one wrong value does not hide the next.
            let source = text.get(value.span()).unwrap_or("");
            if let Err(error) = toml::from_str::<FileConfig>(&format!("[{section}]\n{} = {source}\n", key.get_ref())) {
                faults.push(Fault { line, text: format!("{}: {}", key.get_ref(), error.message()) });
            }
        }
    }
    let config: Option<FileConfig> = if faults.is_empty() { toml::from_str(text).ok() } else { None };
    if let Some(config) = &config {
        meaning(config, &mut faults);
    }
    (config, faults)
}

/// What a value of the right kind can still get wrong.
fn meaning(config: &FileConfig, faults: &mut Vec<Fault>) {
    let mut fault = |text: String| faults.push(Fault { line: 1, text });
    for (name, addr) in [("s3_addr", &config.server.s3_addr), ("admin_addr", &config.server.admin_addr)] {
        let Some(addr) = addr else { continue };
        if !addr.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            fault(format!("{name}: {addr:?} is not HOST:PORT"));
        }
    }
    if let Some(redundancy) = &config.server.redundancy
        && let Err(error) = redundancy.parse::<types::redundancy::Redundancy>()
    {
        fault(format!("redundancy: {error}"));
    }
    if config.server.tls_cert.is_some() != config.server.tls_key.is_some() {
        fault("tls_cert and tls_key belong together".to_owned());
    }
    if let Some(format) = config.server.log_format.as_deref().filter(|format| !["text", "json"].contains(format)) {
        fault(format!("log_format: {format:?} is neither text nor json"));
    }
}

fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|known| distance(name, known));
    match nearest.filter(|nearest| distance(name, nearest) <= 3) {
        Some(nearest) => format!("unknown {kind} {name}; did you mean {nearest}?"),
        None => format!("unknown {kind} {name}; there are {}", known.join(", ")),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn all_errors_are_listed_with_line_and_nearest_name() {
        let text = "[server]\ndirs = [\"a\"]\ns3_adr = \"x\"\n[s3]\nregion = 7\nidle_timeout_s = \"x\"\n[sever]\n";
        let (config, faults) = parse(text);
        assert!(config.is_none());
        let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        let mut sorted = lines.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [3, 5, 6, 7]);
        let of = |line: usize| &faults[lines.iter().position(|l| *l == line).unwrap_or(0)].text;
        assert_eq!(of(3), "unknown key s3_adr; did you mean s3_addr?");
        assert_eq!(of(7), "unknown section sever; did you mean server?");
        assert!(of(5).starts_with("region: "));
    }

    #[test]
    fn a_right_file_has_no_faults() {
        let (config, faults) = parse("[server]\ndirs = [\"a\"]\nredundancy = \"copies:3\"\n[s3]\nregion = \"eu\"\n");
        assert_eq!(faults, []);
        assert!(config.is_some_and(|config| config.s3.region == "eu"));
        assert_eq!(parse("[server]\ns3_addr = \"9000\"\n").1.len(), 1);
        assert_eq!(parse("[server\n").1.len(), 1);
    }
}
