//! The chores of this repository: `cargo xtask check`, `cargo xtask fix`, `cargo xtask tidy`.
//!
//! `check` runs everything a change must pass before the tests and never writes: tidy, fmt,
//! clippy. `fix` writes what can be fixed by a machine. `tidy` alone takes well under a second.
//!
//! What it leaves to others: tests and simulation (the Makefile).

#![allow(clippy::disallowed_methods, reason = "a program of the top floor: it reads files and starts cargo")]

mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask check | fix | tidy

  check   tidy, cargo fmt --check, cargo clippy with warnings as errors; never writes
  fix     cargo clippy --fix, cargo fmt
  tidy    floors, doors, module headers, dead files, unfinished code, file lengths";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = workspace_root();
    let good = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => check(&root),
        ["fix"] => fix(&root),
        ["tidy"] => run_tidy(&root),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all three, also after one has failed, so that one run shows everything.
fn check(root: &Path) -> bool {
    let tidy = run_tidy(root);
    let format = cargo(root, &["fmt", "--all", "--check"]);
    let lints =
        cargo(root, &["clippy", "--release", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    tidy && format && lints && check_faultdev(root)
}

/// The package outside the workspace, in a directory of its own below the target directory.
fn check_faultdev(root: &Path) -> bool {
    let [flag, path] = ["--manifest-path", "tests/faultdev/Cargo.toml"];
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = target.join("faultdev").display().to_string();
    let format = cargo(root, &["fmt", flag, path, "--check"]);
    let lints = ["clippy", "--release", "--locked", flag, path, "--target-dir", &target, "--", "-D", "warnings"];
    format && cargo(root, &lints)
}

fn fix(root: &Path) -> bool {
    let lints = cargo(
        root,
        &["clippy", "--release", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"],
    );
    let format = cargo(root, &["fmt", "--all"]);
    lints && format && cargo(root, &["fmt", "--manifest-path", "tests/faultdev/Cargo.toml"])
}

fn run_tidy(root: &Path) -> bool {
    match tidy::run(root) {
        Ok(report) => {
            print!("{report}");
            report.is_good()
        }
        Err(error) => {
            eprintln!("tidy: {error}");
            false
        }
    }
}

fn cargo(root: &Path, arguments: &[&str]) -> bool {
    println!("cargo {}", arguments.join(" "));
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_this_package) {
            command.env_remove(name);
        }
    }
    match command.args(arguments).current_dir(root).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("cargo did not start: {error}");
            false
        }
    }
}

/// What cargo tells a program that it runs about the program's own package. A build script that asks for one of
/// these (ring's does) would be run again, with all that stands above it, whenever it differs from a person's shell.
fn is_of_this_package(variable: &str) -> bool {
    variable.starts_with("CARGO_MANIFEST_") || variable.starts_with("CARGO_PKG_")
}

/// The folder above this package's own. Asked of cargo when it runs: a target directory that several
/// checkouts share may hold a program that another one compiled.
fn workspace_root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map(Path::to_path_buf).unwrap_or(package)
}
