//! Signals that ask the process to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when SIGINT or SIGTERM arrives. Never returns on a simulated machine: there a process is crashed.
///
/// # Panics
/// If the operating system refuses a signal handler.
pub async fn wait_for_stop() {
    if tokio::runtime::Handle::try_current().is_err() {
        return std::future::pending().await;
    }
    let mut interrupt = signal(SignalKind::interrupt()).expect("the operating system refuses a signal handler");
    let mut terminate = signal(SignalKind::terminate()).expect("the operating system refuses a signal handler");
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
