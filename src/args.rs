//! The command line: names, flags, defaults, environment. No behaviour.
//!
//! Sizes take k, M, G as binary units. Flags win over the environment, the environment over files.

mod bench;
mod bucket;
mod volume;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::bench::*;
pub use self::bucket::*;
pub use self::volume::*;

/// A distributed storage engine: one pool of disks, S3 in front.
#[derive(Parser)]
#[command(name = "bixi", version, about, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Subcommand)]
pub enum Command {
    /// Run everything in one process on the given directories
    Server(ServerArgs),
    /// Run a whole cluster of processes on this machine's loopback
    Dev(DevArgs),
    /// Show whether the cluster is safe, fast and how full
    Status(ReadArgs),
    /// Compare what disks hold with what the metadata says; ends with 1 if they differ
    Fsck(ReadArgs),
    /// Make, list and delete buckets
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Copy, list, show and remove objects (remote names are s3://BUCKET/KEY)
    #[command(subcommand)]
    Object(ObjectCommand),
    /// Make, list and delete access keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// List, add, drain, replace and remove disks
    #[command(subcommand)]
    Disk(DiskCommand),
    /// List and drain nodes: the processes that disks belong to
    Node(NodeArgs),
    /// Make, list, resize and delete volumes: block devices for machines
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Show what the cluster would move now, and why
    Plan(ReadArgs),
    /// Ask whether disks or nodes can be removed at once, now, without losing data or the metadata's
    /// majority; ends with 1 if not
    SafeToRemove(SafeArgs),
    /// Estimate how likely the cluster as it stands loses data within a year
    Durability(DurabilityArgs),
    /// Look after a cluster of several processes
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Check configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Measure a running server, or this machine
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Look at stored bytes; the server need not run
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Print completions for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// `bixi server DIR [DIR...]`.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Directories to store in; absent ones are made. Several give redundancy among them
    #[arg(required_unless_present = "config", value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Where S3 is served
    #[arg(long, value_name = "HOST:PORT", env = "BIXI_S3_ADDR", default_value = "127.0.0.1:9000")]
    pub s3_addr: String,
    /// Where health, metrics and the admin API are served
    #[arg(long, value_name = "HOST:PORT", env = "BIXI_ADMIN_ADDR", default_value = "127.0.0.1:9001")]
    pub admin_addr: String,
    /// Where volumes are served to NBD clients, each by its name; without it none are
    #[arg(long, value_name = "HOST:PORT", env = "BIXI_NBD_ADDR")]
    pub nbd_addr: Option<String>,
    /// Where the other nodes of the cluster reach this one, by mutual TLS; remembered. Without it nothing
    /// internal listens
    #[arg(long, value_name = "HOST:PORT", env = "BIXI_INTERNAL_ADDR")]
    pub internal_addr: Option<String>,
    /// copies:N or ec:K+M; by default by the number of directories
    #[arg(long, value_name = "POLICY", env = "BIXI_REDUNDANCY")]
    pub redundancy: Option<String>,
    /// A TOML file; flags and environment win over it
    #[arg(long, value_name = "FILE", env = "BIXI_CONFIG")]
    pub config: Option<PathBuf>,
    /// Certificate chain in PEM: serve S3 with TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve NBD inside TLS only (STARTTLS), with the certificate of --tls-cert
    #[arg(long, requires = "tls_cert", requires = "nbd_addr")]
    pub nbd_tls: bool,
    /// Let only NBD clients in that show a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", requires = "nbd_tls")]
    pub nbd_client_ca: Option<PathBuf>,
    /// The file with the root key, which volumes' keys are wrapped by (one line of 64 hex digits; made if the cluster
    /// is founded by this start). Without it it lies in the directories, beside the data
    #[arg(long, value_name = "FILE", env = "BIXI_ROOT_KEY")]
    pub root_key: Option<PathBuf>,
    /// Within how many days everything at rest is read once to find rot (0: not at all)
    #[arg(long, value_name = "DAYS", env = "BIXI_SCRUB_DAYS", default_value_t = crate::node::chunks::SCRUB_DAYS)]
    pub scrub_days: f64,
    /// For how many days a bucket that was deleted with its objects can be restored, unless its
    /// deletion says otherwise
    #[arg(long, value_name = "DAYS", env = "BIXI_TRASH_DAYS", default_value_t = crate::node::doors::TRASH_DAYS)]
    pub trash_days: f64,
    /// Domain under which BUCKET.DOMAIN is a bucket; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    pub s3_domain: Vec<String>,
    /// text or json, on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "BIXI_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// `bixi dev --data DIR`.
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Where the cluster lives; the same directory brings the same cluster back
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Metaservers: 1 or 3
    #[arg(long, default_value_t = 3)]
    pub meta: u32,
    /// Chunkservers
    #[arg(long, default_value_t = 6)]
    pub chunk: u32,
    /// Zones that metaservers and chunkservers are dealt out to in turn; data then survives the loss of
    /// any zone, if there are enough
    #[arg(long, value_name = "N")]
    pub zones: Option<u32>,
    /// copies:N or ec:K+M; by default by the number of chunkservers
    #[arg(long, value_name = "POLICY")]
    pub redundancy: Option<String>,
    /// Where S3 is served; a free port by default
    #[arg(long, value_name = "HOST:PORT")]
    pub s3_addr: Option<String>,
    /// Where health, metrics and the admin API are served; a free port by default
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_addr: Option<String>,
    /// Where volumes are exported by NBD; a free port by default
    #[arg(long, value_name = "HOST:PORT")]
    pub nbd_addr: Option<String>,
}

/// `bixi node ...`; with `--spec` one process of a `bixi dev` cluster, started by it.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct NodeArgs {
    /// The file that says what this process is
    #[arg(long, value_name = "FILE", hide = true, required = true)]
    pub spec: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
}

/// `bixi node ...`.
#[derive(Subcommand)]
pub enum NodeCommand {
    /// List nodes
    #[command(visible_alias = "ls")]
    List(ReadArgs),
    /// Move everything off all disks of a node
    Drain {
        /// Its name in `bixi node list`
        name: String,
        #[command(flatten)]
        wait: WaitArgs,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Take all disks of a node back into use
    Undrain {
        /// Its name in `bixi node list`
        name: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// `bixi disk ...`. Disks are named by their numbers in `bixi disk list`.
#[derive(Subcommand)]
pub enum DiskCommand {
    /// List disks
    #[command(visible_alias = "ls")]
    List(ReadArgs),
    /// Take a new directory into the pool of a running node, now and at every start
    Add {
        /// The directory, on the node's machine
        dir: PathBuf,
        /// The node it belongs to; needed if there are several
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        node: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Move everything off disks; no new data goes there
    Drain {
        /// Its number
        #[arg(required = true, value_name = "ID")]
        disks: Vec<u64>,
        #[command(flatten)]
        wait: WaitArgs,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Take drained disks back into use
    Undrain {
        /// Its number
        #[arg(required = true, value_name = "ID")]
        disks: Vec<u64>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Add a directory in a disk's place, and drain that disk
    Replace {
        /// Number of the disk that goes
        #[arg(value_name = "ID")]
        disk: u64,
        /// The new directory, on the machine of the disk's node
        dir: PathBuf,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Take a drained disk out of the pool for good
    Remove {
        /// Its number
        #[arg(value_name = "ID")]
        disk: u64,
        /// It will not come back: what lies there is rebuilt elsewhere from the rest
        #[arg(long, requires = "yes")]
        lost: bool,
        /// With --lost: yes, I mean it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// Whether a command waits for what it has begun.
#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// Return when nothing is left there, telling how far it is
    #[arg(long)]
    pub wait: bool,
}

/// `bixi safe-to-remove`.
#[derive(Args, Clone, Debug)]
pub struct SafeArgs {
    /// `disk ID` or `node NAME`, as many as shall go together
    #[arg(required = true, num_args = 2.., value_name = "KIND NAME")]
    pub what: Vec<String>,
    /// Where the server is.
    #[command(flatten)]
    pub access: Access,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// `bixi durability`.
#[derive(Args, Clone, Debug)]
pub struct DurabilityArgs {
    /// Disks that fail for good in a year, of a hundred
    #[arg(long, default_value_t = 2.0, value_name = "PERCENT")]
    pub disk_failures_percent: f64,
    /// Nodes that are gone for good in a year, of a hundred
    #[arg(long, default_value_t = 0.5, value_name = "PERCENT")]
    pub node_failures_percent: f64,
    /// What one node rebuilds in a second
    #[arg(long, default_value_t = 64.0, value_name = "MIB")]
    pub repair_mib_per_s: f64,
    /// From a failure to the beginning of the repair
    #[arg(long, default_value_t = 10.0, value_name = "MINUTES")]
    pub notice_minutes: f64,
    /// Where the server is.
    #[command(flatten)]
    pub access: Access,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How log lines look.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people
    Text,
    /// For machines
    Json,
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// For people
    Table,
    /// For machines: JSON and nothing else on standard output
    Json,
}

/// How a command finds the server and who it is.
#[derive(Args, Clone, Debug)]
pub struct Access {
    /// Where the server's admin API is
    #[arg(long, value_name = "HOST:PORT", env = "BIXI_ADMIN_ADDR", default_value = "127.0.0.1:9001")]
    pub admin_addr: String,
    /// File with access_key= and secret_key= lines
    #[arg(long, value_name = "FILE", env = "BIXI_CREDENTIALS", default_value = "./data/credentials")]
    pub credentials: PathBuf,
    /// Certificates in PEM to trust when S3 is served with TLS
    #[arg(long, value_name = "FILE", env = "BIXI_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

/// A command that only reads.
#[derive(Args, Clone, Debug)]
pub struct ReadArgs {
    /// Where the server is.
    #[command(flatten)]
    pub access: Access,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// A command that changes something.
#[derive(Args, Clone, Debug)]
pub struct ChangeArgs {
    /// Where the server is.
    #[command(flatten)]
    pub access: Access,
    /// Say what would be done and do nothing (exit code 8 if anything would change)
    #[arg(long)]
    pub dry_run: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// `bixi cluster ...`.
#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Make directories the first node of a cluster that others can join; they may hold data already,
    /// with the server stopped
    Init {
        /// Directories of the node
        #[arg(required = true, value_name = "DIR")]
        dirs: Vec<PathBuf>,
        #[command(flatten)]
        node: NodeDescription,
    },
    /// Print a token by which a machine can join, for a day; only the first node can
    Token {
        /// For how long it serves
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=30))]
        days: u64,
        /// Where the server is.
        #[command(flatten)]
        access: Access,
    },
    /// Make empty directories a node of a running cluster; start it with `bixi server DIR...`
    Join {
        /// What `bixi cluster token` printed, or - to read it from standard input
        token: String,
        /// Directories of the node
        #[arg(required = true, value_name = "DIR")]
        dirs: Vec<PathBuf>,
        #[command(flatten)]
        node: NodeDescription,
    },
    /// Take a drained node out of the cluster for good
    Remove {
        /// Its name in `bixi node list`
        name: String,
        /// It will not come back: what lies there is rebuilt elsewhere from the rest
        #[arg(long, requires = "yes")]
        lost: bool,
        /// With --lost: yes, I mean it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// End an upgrade: raise the feature level to what this version knows; older versions are shut out from
    /// then on
    Finalize {
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Change the redundancy of new data; what is there and has less is laid out anew behind it
    SetRedundancy {
        /// copies:N or ec:K+M
        policy: String,
        /// Yes, also if data then survives fewer losses than now
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Give every process of a `bixi dev` cluster a new certificate, without a restart
    RotateCertificates(RotateArgs),
}

/// What a node is called and where it stands.
#[derive(Args, Clone, Debug)]
pub struct NodeDescription {
    /// Where the other nodes reach it, by mutual TLS
    #[arg(long, value_name = "HOST:PORT", env = "BIXI_INTERNAL_ADDR")]
    pub internal_addr: String,
    /// Its name, unique in the cluster; by default the machine's
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The zone it stands in (give all nodes of a cluster one, or none)
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
    pub zone: String,
    /// The rack it stands in (the same)
    #[arg(long, value_name = "RACK", default_value = "", hide_default_value = true)]
    pub rack: String,
}

/// `bixi cluster rotate-certificates`.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// The directory of `bixi dev`
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Exchange the certificate authority too (takes half a minute)
    #[arg(long)]
    pub authority: bool,
    /// Say what would be done and do nothing (exit code 8 if anything would change)
    #[arg(long)]
    pub dry_run: bool,
}

/// `bixi key ...`.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a key for a user; its secret is shown once
    Create {
        /// Whom it belongs to; buckets belong to users
        #[arg(long)]
        user: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List keys, without secrets
    #[command(visible_alias = "ls")]
    List(ReadArgs),
    /// Delete a key
    Delete {
        /// Its public half
        access_key: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// `bixi config ...`.
#[derive(Subcommand)]
pub enum ConfigCommand {
    /// List every error of a file at once
    Check {
        /// The file; BIXI_CONFIG or ./bixi.toml by default
        file: Option<PathBuf>,
        /// How to print
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

/// `bixi debug ...`.
#[derive(Subcommand)]
pub enum DebugCommand {
    /// List the records of a data directory: what each holds and which request wrote it
    Records {
        /// A directory of `bixi server`, or of a chunkserver
        dir: PathBuf,
        /// Only records of this request (an x-amz-request-id)
        #[arg(long, value_name = "ID", value_parser = parse_request)]
        request: Option<u64>,
        /// How to print; json prints one object a line
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

fn parse_request(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| "a request id is 16 hex digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_manual_parses() {
        for line in [
            "bixi server a b c --s3-addr 127.0.0.1:1 --admin-addr 127.0.0.1:2 --redundancy ec:4+2",
            "bixi dev --data d --meta 3 --chunk 6 --redundancy ec:4+2",
            "bixi status --output json",
            "bixi fsck --output json",
            "bixi bucket create b --admin-addr h:1 --credentials f",
            "bixi bucket delete b --with-objects --yes --keep-days 0.5",
            "bixi bucket trash --output json",
            "bixi bucket trash list",
            "bixi bucket restore b --as c",
            "bixi bucket purge 5:3 --yes --dry-run",
            "bixi object cp -r a s3://b/c",
            "bixi object ls",
            "bixi key create --user u --output json",
            "bixi disk list --output json",
            "bixi disk add d --node n",
            "bixi disk drain 3 4 --wait",
            "bixi disk undrain 3",
            "bixi disk replace 3 d --dry-run",
            "bixi disk remove 3",
            "bixi disk remove 3 --lost --yes",
            "bixi node list",
            "bixi node drain n",
            "bixi node undrain n",
            "bixi node --spec f",
            "bixi cluster init a b --internal-addr h:1 --name n --zone z --rack r",
            "bixi cluster token --days 2",
            "bixi cluster join T a b --internal-addr h:1",
            "bixi cluster remove n",
            "bixi cluster remove n --lost --yes",
            "bixi cluster set-redundancy ec:4+2 --dry-run",
            "bixi cluster set-redundancy copies:1 --yes",
            "bixi cluster finalize --dry-run",
            "bixi plan --output json",
            "bixi safe-to-remove disk 3 node n --output json",
            "bixi config check f",
            "bixi bench s3 --op put --size 4k -c 16 --secs 5 --output json",
            "bixi bench s3 --op get --size 1M -c 8 --cold",
            "bixi bench disk d",
            "bixi debug records d --request 00000000000000AB --output json",
            "bixi completions bash",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "bixi disk remove 3 --lost",
            "bixi bucket delete b --keep-days 3",
            "bixi node",
            "bixi safe-to-remove disk",
            "bixi server",
            "bixi statsu",
            "bixi status --outptu json",
            "bixi bench s3 --op put --size 4x",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
