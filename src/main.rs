//! `bixi`: one program for everything. Arguments in `args.rs`; what talks to a running server in
//! `cli/`; what is a server in `server.rs` and `dev.rs`.

mod args;
mod bench_disk;
mod cli;
mod dev;
mod node;
mod server;

/// A request makes and drops some hundred small things: a tenth less of the processor's time than with glibc's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    std::process::exit(cli::main());
}
