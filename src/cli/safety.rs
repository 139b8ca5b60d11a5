//! `bixi safe-to-remove disk ID|node NAME [...]`: "yes" and 0, or the reason and 1.

use platform::Platform;
use serde_json::json;

use super::failure::Failure;
use super::output::{print_json, print_line};
use super::session::Admin;
use crate::args::{Output, SafeArgs};

/// Runs the command.
pub async fn run(platform: Platform, args: SafeArgs) -> Result<(), Failure> {
    let (disks, nodes) = parsed(&args.what)?;
    let ask = json!({"disks": disks, "nodes": nodes});
    let answer = Admin::new(&platform, &args.access)?.call("POST", "/v1/safe-to-remove", Some(&ask)).await?;
    let safe = answer["safe"].as_bool().unwrap_or(false);
    let reason = answer["reason"].as_str().unwrap_or("the server does not say why");
    match args.output {
        Output::Json => print_json(&answer)?,
        Output::Table => print_line(&format!("{}: {reason}", if safe { "yes" } else { "no" }))?,
    }
    // The reason was told.
    if safe { Ok(()) } else { Err(Failure::failed("")) }
}

fn parsed(words: &[String]) -> Result<(Vec<u64>, Vec<&str>), Failure> {
    let (mut disks, mut nodes) = (Vec::new(), Vec::new());
    let mut words = words.iter();
    while let Some(kind) = words.next() {
        let name = words.next().ok_or_else(|| Failure::usage(format!("{kind} of what? write {kind} NAME")))?;
        match kind.as_str() {
            "disk" => disks.push(name.parse().map_err(|_| Failure::usage(format!("{name} is no number of a disk")))?),
            "node" => nodes.push(name.as_str()),
            _ => return Err(Failure::usage(format!("{kind} is neither disk nor node"))),
        }
    }
    Ok((disks, nodes))
}

#[cfg(test)]
mod tests {
    use super::parsed;

    #[test]
    fn disks_and_nodes_are_told_apart() {
        let of = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            parsed(&words).map(|(disks, nodes)| (disks, nodes.join(" "))).map_err(|failure| failure.exit_code)
        };
        assert_eq!(of("disk 3 node a disk 4").ok(), Some((vec![3, 4], "a".to_owned())));
        for line in ["disk x", "disk 3 node", "rack 3", "3 4"] {
            assert_eq!(of(line).err(), Some(2), "{line}");
        }
    }
}
