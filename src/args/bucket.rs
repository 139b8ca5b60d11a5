//! `bixi bucket` and `bixi object`.

use clap::{Args, Subcommand, ValueEnum};

use super::{Access, ChangeArgs, ReadArgs};

/// `bixi bucket ...`.
#[derive(Subcommand)]
pub enum BucketCommand {
    /// Make a bucket
    Create {
        /// Its name, also as s3://NAME
        name: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List buckets
    #[command(visible_alias = "ls")]
    List(ReadArgs),
    /// Delete a bucket: an empty one for good, or one with all it holds into the trash
    Delete {
        /// Its name, also as s3://NAME
        name: String,
        #[command(flatten)]
        trash: TrashArgs,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List the buckets in the trash
    Trash {
        /// What to do there: list, which is also done without a word
        #[arg(value_enum, default_value_t = TrashCommand::List, hide_default_value = true)]
        what: TrashCommand,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Take a bucket out of the trash, as it was
    Restore {
        /// The name it had, or its id in the trash
        #[arg(value_name = "NAME|ID")]
        bucket: String,
        /// Give it this name
        #[arg(long = "as", value_name = "NEW")]
        new_name: Option<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Remove a bucket in the trash for good, before its time is over
    Purge {
        /// The name it had, or its id in the trash
        #[arg(value_name = "NAME|ID")]
        bucket: String,
        /// Do not ask whether it is meant
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// How a bucket with objects is deleted.
#[derive(Args, Clone, Debug)]
pub struct TrashArgs {
    /// With all it holds, into the trash (needs the root user's key)
    #[arg(long)]
    pub with_objects: bool,
    /// Do not ask whether it is meant
    #[arg(long, requires = "with_objects")]
    pub yes: bool,
    /// Days for which it can be restored; by default what the server was started with
    #[arg(long, value_name = "DAYS", requires = "with_objects")]
    pub keep_days: Option<f64>,
}

/// What `bixi bucket trash` does.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrashCommand {
    /// List
    List,
}

/// `bixi object ...`.
#[derive(Subcommand)]
pub enum ObjectCommand {
    /// Copy files to the server, from it, or between its buckets
    Cp {
        /// File, directory (with --recursive), - for standard input, or s3://BUCKET/KEY
        source: String,
        /// File, directory or s3://BUCKET/KEY; a name ending in / keeps the source's last name
        target: String,
        /// Copy everything below the source
        #[arg(long, short)]
        recursive: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List objects
    #[command(visible_alias = "list")]
    Ls {
        /// s3://BUCKET or s3://BUCKET/PREFIX; without it the buckets
        target: Option<String>,
        /// List everything below, not one level
        #[arg(long, short)]
        recursive: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Write an object to standard output
    Cat {
        /// s3://BUCKET/KEY
        source: String,
        #[command(flatten)]
        access: Access,
    },
    /// Remove an object
    #[command(visible_alias = "delete")]
    Rm {
        /// s3://BUCKET/KEY, or a prefix with --recursive
        target: String,
        /// Remove everything below the prefix
        #[arg(long, short)]
        recursive: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
}
