//! Shows how far a long copy has come: a bar on a terminal, a line every 10 s elsewhere; always on
//! standard error.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use platform::Platform;
use platform::clock::Instant;
use types::size::format_size;

/// Time between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// One command's progress in bytes and files.
pub struct Progress {
    platform: Platform,
    bar: Option<ProgressBar>,
    bytes: Cell<u64>,
    bytes_in_all: Cell<u64>,
    files: Cell<u64>,
    last_line: Cell<Instant>,
}

impl Progress {
    /// Starts at nothing of nothing.
    pub fn start(platform: &Platform) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let template = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {msg}";
            bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress {
            platform: platform.clone(),
            bar,
            bytes: Cell::new(0),
            bytes_in_all: Cell::new(0),
            files: Cell::new(0),
            last_line: Cell::new(platform.clock().now()),
        }
    }

    /// More has been found to do.
    pub fn expect(&self, bytes: u64) {
        self.bytes_in_all.set(self.bytes_in_all.get() + bytes);
        if let Some(bar) = &self.bar {
            bar.set_length(self.bytes_in_all.get());
        }
    }

    /// Bytes have been copied.
    pub fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        if let Some(bar) = &self.bar {
            bar.set_position(self.bytes.get());
            return;
        }
        let now = self.platform.clock().now();
        if now.saturating_since(self.last_line.get()) >= LINE_EVERY {
            self.last_line.set(now);
            let (done, all) = (format_size(self.bytes.get()), format_size(self.bytes_in_all.get()));
            eprintln!("{done} of {all}, {} files done", self.files.get());
        }
    }

    /// A file is complete.
    pub fn file_done(&self, name: &str) {
        self.files.set(self.files.get() + 1);
        if let Some(bar) = &self.bar {
            bar.set_message(super::output::printable(name));
        }
    }

    /// Files completed.
    pub fn files(&self) -> u64 {
        self.files.get()
    }

    /// Bytes copied.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
