//! `bixi key create|list|delete`. A secret is shown once, when its key is made.

use platform::Platform;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{print_bytes, print_json, print_line, table};
use super::session::Admin;
use crate::args::{KeyCommand, Output};

/// Runs the command.
pub async fn run(platform: Platform, command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Create { user, change } => {
            let admin = Admin::new(&platform, &change.access)?;
            if change.dry_run {
                print_line(&format!("would be created: a key for {user}"))?;
                return Err(Failure::would_change());
            }
            let made = admin.call("POST", "/v1/keys", Some(&json!({ "user": user }))).await?;
            let text = |name: &str| made[name].as_str().unwrap_or("").to_owned();
            match change.output {
                Output::Json => print_json(&json!({
                    "user": text("user"), "access_key": text("access_key"), "secret_key": text("secret_key"),
                })),
                Output::Table => print_bytes(
                    format!(
                        "# user {}; the secret is not shown again\naccess_key={}\nsecret_key={}\n",
                        text("user"),
                        text("access_key"),
                        text("secret_key")
                    )
                    .as_bytes(),
                ),
            }
        }
        KeyCommand::List(args) => {
            let found = Admin::new(&platform, &args.access)?.call("GET", "/v1/keys", None).await?;
            let keys = found["keys"].as_array().cloned().unwrap_or_default();
            match args.output {
                Output::Json => print_json(&json!({"schema": 1, "keys": keys})),
                Output::Table => print_bytes(as_table(&keys).as_bytes()),
            }
        }
        KeyCommand::Delete { access_key, change } => {
            let admin = Admin::new(&platform, &change.access)?;
            if change.dry_run {
                let found = admin.call("GET", "/v1/keys", None).await?;
                let keys = found["keys"].as_array().cloned().unwrap_or_default();
                if !keys.iter().any(|key| key["access_key"] == access_key.as_str()) {
                    return Err(Failure::not_found(format!("there is no key {access_key}")));
                }
                print_line(&format!("would be deleted: {access_key}"))?;
                return Err(Failure::would_change());
            }
            let path = format!("/v1/keys/{}", s3_gateway::uri::encode(&access_key));
            admin.call("DELETE", &path, None).await?;
            match change.output {
                Output::Json => print_json(&json!({"access_key": access_key, "state": "deleted"})),
                Output::Table => print_line(&format!("deleted key {access_key}")),
            }
        }
    }
}

fn as_table(keys: &[Value]) -> String {
    let text = |key: &Value, name: &str| key[name].as_str().unwrap_or("").to_owned();
    let created = |key: &Value| s3_gateway::dates::iso8601(key["created_ms"].as_u64().unwrap_or(0));
    let root = |key: &Value| if key["is_root"].as_bool().unwrap_or(false) { "root" } else { "" }.to_owned();
    let rows: Vec<Vec<String>> =
        keys.iter().map(|key| vec![text(key, "access_key"), text(key, "user"), root(key), created(key)]).collect();
    table(&["ACCESS KEY", "USER", "ROLE", "CREATED"], &rows)
}
