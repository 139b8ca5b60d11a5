//! `bixi`: one program for everything. Arguments in `args.rs`; what talks to a running server in
//! `cli/`; what is a server in `server.rs` and `dev.rs`.

mod args;
mod bench_disk;
mod cli;
mod dev;
mod node;
mod server;

fn main() {
    std::process::exit(cli::main());
}
