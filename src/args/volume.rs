//! `bixi volume ...`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Access, ChangeArgs, Output, ReadArgs};

/// What `--encrypt` means when it says no more.
const DEFAULT_CIPHER: &str = "aes-256-xts";

/// `bixi volume ...`.
#[derive(Subcommand)]
pub enum VolumeCommand {
    /// Make a volume; it takes space as it is written
    Create {
        /// Its name
        name: String,
        /// How large it is, like 10G; may be left out with --from-snapshot
        #[arg(long, value_name = "SIZE", required_unless_present = "from_snapshot")]
        size: Option<String>,
        /// copies:N or ec:K+M; by default the cluster's
        #[arg(long, value_name = "POLICY")]
        redundancy: Option<String>,
        /// Encrypt it, by a key of its own: aes-256-xts, which is meant when none is said, or sm4-xts. A clone is
        /// encrypted as what it is made of
        #[arg(long, value_name = "CIPHER", num_args = 0..=1, default_missing_value = DEFAULT_CIPHER,
              conflicts_with = "from_snapshot")]
        encrypt: Option<String>,
        /// Reads as this snapshot does, and is written apart from it
        #[arg(long, value_name = "VOLUME@SNAPSHOT")]
        from_snapshot: Option<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List volumes
    #[command(visible_alias = "ls")]
    List(ReadArgs),
    /// Show a volume: its size, what it takes, its snapshots
    Status {
        /// Its name
        name: String,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Make a volume larger; who has it attached sees that when it connects anew
    Resize {
        /// Its name
        name: String,
        /// How large it is to be, like 20G
        #[arg(long, value_name = "SIZE")]
        size: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Give a volume that nobody has attached another name
    Rename {
        /// Its name
        name: String,
        /// Its name from now on
        to: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Delete a volume that nobody has attached with all it holds, or a snapshot (VOLUME@SNAPSHOT)
    #[command(visible_alias = "rm")]
    Delete {
        /// The volume, or VOLUME@SNAPSHOT
        name: String,
        /// Yes, for good
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Keep a volume as it is now under a name; who writes to it is not held up
    Snapshot {
        /// What it is called
        #[arg(value_name = "VOLUME@SNAPSHOT")]
        name: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Make a volume that nobody has attached what it was at a snapshot; what was written since is gone
    Rollback {
        /// The volume and what it becomes
        #[arg(value_name = "VOLUME@SNAPSHOT")]
        name: String,
        /// Yes, what was written since may go
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Make a volume that reads as a snapshot does, and is written apart from it
    Clone {
        /// What it is made of
        #[arg(value_name = "VOLUME@SNAPSHOT")]
        from: String,
        /// The new volume
        name: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Limit what a volume's clients may ask for; it holds at once. Without limits it has none
    Qos {
        /// Its name
        name: String,
        /// Requests a second
        #[arg(long, value_name = "COUNT", default_value_t = 0)]
        iops: u64,
        /// Bytes a second, like 100M
        #[arg(long, value_name = "SIZE")]
        bandwidth: Option<String>,
        /// Seconds for which unused room is kept
        #[arg(long, value_name = "SECONDS", default_value_t = 1)]
        burst: u32,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Serve a volume to a virtual machine of this host, over a socket file, until stopped; prints `ready`
    Attach(AttachArgs),
    /// Write a snapshot to a file, or what has changed since an earlier one
    Export(ExportArgs),
    /// Make a volume of a disk image, or apply a file of changes to one
    Import(ImportArgs),
}

/// How a disk lies in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ImageFormat {
    /// As it is, with holes
    Raw,
    /// QEMU's
    Qcow2,
}

/// `bixi volume export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// What is written
    #[arg(value_name = "VOLUME@SNAPSHOT")]
    pub name: String,
    /// Where to
    #[arg(long = "out", short = 'o', value_name = "FILE")]
    pub out: PathBuf,
    /// Only what has changed since this earlier snapshot of the same volume; needs qcow2, whose backing file
    /// is then the earlier one (qemu-img rebase -u)
    #[arg(long, value_name = "VOLUME@SNAPSHOT")]
    pub since: Option<String>,
    /// How it lies in the file
    #[arg(long, value_enum, default_value_t = ImageFormat::Raw)]
    pub format: ImageFormat,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Where the server is.
    #[command(flatten)]
    pub access: Access,
}

/// `bixi volume import`.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// A raw or qcow2 image
    pub file: PathBuf,
    /// The volume that is made
    pub name: String,
    /// copies:N or ec:K+M; by default the cluster's
    #[arg(long, value_name = "POLICY", conflicts_with = "onto")]
    pub redundancy: Option<String>,
    /// Encrypt the volume that is made: aes-256-xts, which is meant when none is said, or sm4-xts
    #[arg(long, value_name = "CIPHER", num_args = 0..=1, default_missing_value = DEFAULT_CIPHER, conflicts_with = "onto")]
    pub encrypt: Option<String>,
    /// Apply the file to a volume that is there: what the image does not hold stays as it is
    #[arg(long)]
    pub onto: bool,
    /// How the disk lies in the file; by default what its first bytes show
    #[arg(long, value_enum)]
    pub format: Option<ImageFormat>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `bixi volume attach`.
#[derive(Args, Clone, Debug)]
pub struct AttachArgs {
    /// The volume, or VOLUME@SNAPSHOT to read only
    pub name: String,
    /// Serve it by vhost-user-blk on this socket file
    #[arg(long, value_name = "SOCKET", required_unless_present = "nbd_unix", conflicts_with = "nbd_unix")]
    pub vhost_user: Option<PathBuf>,
    /// Serve it by NBD on this socket file
    #[arg(long, value_name = "SOCKET")]
    pub nbd_unix: Option<PathBuf>,
    /// Memory for what is read again, like 256M
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub cache: String,
    /// Where the server is.
    #[command(flatten)]
    pub access: Access,
}
