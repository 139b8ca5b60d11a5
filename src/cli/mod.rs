//! The command line's behaviour: runs a command, prints, and turns what happened into an exit code.
//!
//! Leaves to others: the servers themselves (`server.rs`, `dev.rs`) and measuring the machine
//! (`bench_disk.rs`). Invariants: results on standard output, everything else on standard error;
//! a closed standard output ends quietly; no escape codes unless it is a terminal.

// A person's files and environment are what a command works on; no cluster's decisions hang on them.
#![allow(clippy::disallowed_methods)]

pub mod failure;
pub mod output;

pub mod credentials;
pub mod session;

pub mod bucket;
pub mod cluster;
pub mod disk;
pub mod durability;
pub mod fsck;
pub mod key;
pub mod node;
pub mod plan;
pub mod safety;
pub mod status;
pub mod trash;
pub mod volume;
mod volume_attach;
mod volume_image;

pub mod download;
pub mod listing;
pub mod object;
pub mod progress;
pub mod upload;

pub mod bench_limits;
pub mod bench_s3;
pub mod bench_volume;
pub mod lean;
pub mod lean_nbd;

pub mod config;
pub mod debug;

use std::future::Future;
use std::io::IsTerminal;

use clap::{CommandFactory, Parser};
use platform::Platform;
use tracing_subscriber::EnvFilter;

use self::failure::Failure;
use crate::args::{
    BenchCommand, Cli, ClusterCommand, Command, ConfigCommand, DebugCommand, LogFormat, NodeArgs, Output,
};
use crate::{bench_disk, dev, server};

/// Runs the command of this process' arguments; gives its exit code.
pub fn main() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are printed on standard output and are no mistakes.
            let _ = error.print();
            return if error.use_stderr() { failure::USAGE } else { 0 };
        }
    };
    start_log(match &cli.command {
        Command::Server(args) => args.log_format,
        _ => LogFormat::Text,
    });
    match run(cli.command) {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("bixi: {}", failure.message);
            }
            failure.exit_code
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Server(args) => server::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Node(NodeArgs { spec: Some(spec), .. }) => dev::run_node(&spec),
        Command::Node(NodeArgs { command: Some(command), .. }) => {
            with_platform(|platform| node::run(platform, command))
        }
        Command::Node(_) => Err(Failure::usage("say what to do: bixi node list|drain|undrain")),
        Command::Disk(command) => with_platform(|platform| disk::run(platform, command)),
        Command::Volume(command) => with_platform(|platform| volume::run(platform, command)),
        Command::Plan(args) => with_platform(|platform| plan::run(platform, args)),
        Command::Durability(args) => with_platform(|platform| durability::run(platform, args)),
        Command::SafeToRemove(args) => with_platform(|platform| safety::run(platform, args)),
        Command::Status(args) => with_platform(|platform| status::run(platform, args)),
        Command::Fsck(args) => with_platform(|platform| fsck::run(platform, args)),
        Command::Bucket(command) => with_platform(|platform| bucket::run(platform, command)),
        Command::Object(command) => with_platform(|platform| object::run(platform, command)),
        Command::Key(command) => with_platform(|platform| key::run(platform, command)),
        Command::Cluster(ClusterCommand::RotateCertificates(args)) => dev::certificates::rotate(args),
        Command::Cluster(command) => with_platform(|platform| cluster::run(platform, command)),
        Command::Config(ConfigCommand::Check { file, output }) => config::check(file, output),
        Command::Bench(BenchCommand::S3(args)) => with_platform(|platform| bench_s3::run(platform, args)),
        Command::Bench(BenchCommand::Volume(args)) => with_platform(|platform| bench_volume::run(platform, args)),
        Command::Bench(BenchCommand::Disk { dir, output }) => with_platform(|platform| async move {
            let done = bench_disk::run(platform, &dir, output == Output::Json).await;
            done.map_err(|error| Failure::caused("cannot measure the disk", &error))
        }),
        Command::Debug(DebugCommand::Records { dir, request, output }) => debug::records(&dir, request, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "bixi", &mut script);
            output::print_bytes(&script)
        }
    }
}

fn with_platform<F: Future<Output = Result<(), Failure>>>(make: impl FnOnce(Platform) -> F) -> Result<(), Failure> {
    platform::run(make)
}

/// Logs go to standard error; BIXI_LOG filters them (`info`, `debug`, `s3_gateway=debug`...).
fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("BIXI_LOG").unwrap_or_else(|_| EnvFilter::new("warn,bixi=info"));
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
