//! `bixi bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Access, Output};

/// `bixi bench ...`.
#[derive(Subcommand)]
pub enum BenchCommand {
    /// Measure a running server through S3
    S3(BenchS3Args),
    /// Measure a volume through a running server's NBD door
    Volume(BenchVolumeArgs),
    /// Measure what this machine can do at best
    Disk {
        /// Directory on the disk to be measured
        dir: PathBuf,
        /// How to print
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

/// What `bixi bench s3` does.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BenchOperation {
    /// Write objects
    Put,
    /// Read objects of a working set
    Get,
    /// List a bucket in pages of 1000 keys
    List,
}

/// `bixi bench s3`.
#[derive(Args, Clone, Debug)]
pub struct BenchS3Args {
    /// What to measure
    #[arg(long, value_enum)]
    pub op: BenchOperation,
    /// Bytes of an object
    #[arg(long, default_value = "4k", value_parser = parse_size)]
    pub size: u64,
    /// Requests under way at once
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: u32,
    /// How long
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub secs: u64,
    /// Of get: read each object once, the first time since it was written, so that no cache of
    /// Bixi or of the kernel has it (a disk's own cache may); ends when all have been read
    #[arg(long)]
    pub cold: bool,
    /// Objects that are read or listed; by default as many as make a fair set of their size
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub objects: Option<u64>,
    /// Leave the objects of the measurement in place
    #[arg(long)]
    pub keep: bool,
    /// Where the server is.
    #[command(flatten)]
    pub access: Access,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// What `bixi bench volume` does.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeOperation {
    /// Write anywhere
    Write,
    /// Write by Zipf's law: few places take most
    Zipf,
    /// Read anywhere
    Read,
    /// Write from the start on
    SeqWrite,
    /// Read from the start on
    SeqRead,
}

impl VolumeOperation {
    /// Whether it changes the volume.
    pub fn is_write(self) -> bool {
        !matches!(self, VolumeOperation::Read | VolumeOperation::SeqRead)
    }

    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            VolumeOperation::Write => "write",
            VolumeOperation::Zipf => "zipf write",
            VolumeOperation::Read => "read",
            VolumeOperation::SeqWrite => "seq write",
            VolumeOperation::SeqRead => "seq read",
        }
    }
}

/// `bixi bench volume`.
#[derive(Args, Clone, Debug)]
pub struct BenchVolumeArgs {
    /// What to measure; by default all, in sizes of 4 KiB and 1 MiB
    #[arg(long, value_enum)]
    pub op: Option<VolumeOperation>,
    /// Bytes of a request, with --op
    #[arg(long, default_value = "4k", value_parser = parse_request_size)]
    pub size: u64,
    /// Requests under way at once, with --op
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub depth: u32,
    /// Connections that share them, at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub connections: u32,
    /// How long each figure is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub secs: u64,
    /// Size of the volume that is made for the measurement; larger than the caches for fair reads
    #[arg(long, default_value = "1g", value_parser = parse_size)]
    pub volume_size: u64,
    /// Its redundancy, `copies:N` or `ec:K+M`; the cluster's by default
    #[arg(long)]
    pub redundancy: Option<String>,
    /// Measure this volume, up to --volume-size, and lose what is in it
    #[arg(long, value_name = "VOLUME")]
    pub overwrite: Option<String>,
    /// Leave the volume of the measurement in place
    #[arg(long)]
    pub keep: bool,
    /// Where NBD is served, `HOST:PORT` or `unix:PATH`
    #[arg(long, default_value = "127.0.0.1:10809", value_name = "ADDR")]
    pub nbd: String,
    /// Where the server is.
    #[command(flatten)]
    pub access: Access,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

fn parse_request_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if (1..=32 << 20).contains(&size) { Ok(size) } else { Err("a request has 1 byte to 32 MiB".to_owned()) }
}

fn parse_size(text: &str) -> Result<u64, String> {
    types::size::parse_size(text).map_err(|error| error.to_string())
}
