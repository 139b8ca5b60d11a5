//! A device in memory that notes what it was asked and can be held back.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use client::volume::VolumeError;
use futures_util::future::LocalBoxFuture;
use tokio::sync::Semaphore;

use crate::device::{Device, Run};

/// What was done, with sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Did {
    Read(u64),
    Write(u64),
    Clear(u64, u64),
    Flush,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    did: Vec<Did>,
    /// Requests that came, whether done or held back.
    came: usize,
    is_read_only: bool,
    is_failing: bool,
}

/// Clones share everything, also between threads.
#[derive(Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    gate: Arc<Semaphore>,
}

impl Disk {
    pub fn new(len: usize) -> Disk {
        let state = State { bytes: vec![0; len], ..State::default() };
        Disk { state: Arc::new(Mutex::new(state)), gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS / 2)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Nothing is done before it is let through.
    pub fn hold(&self) {
        self.gate.forget_permits(usize::MAX >> 4);
    }

    /// So many more requests are done.
    pub fn let_through(&self, count: usize) {
        self.gate.add_permits(count);
    }

    pub fn resize(&self, len: usize) {
        self.state().bytes.resize(len, 0);
    }

    pub fn set_read_only(&self) {
        self.state().is_read_only = true;
    }

    pub fn set_failing(&self) {
        self.state().is_failing = true;
    }

    pub fn bytes(&self, start: usize, len: usize) -> Vec<u8> {
        self.state().bytes[start..start + len].to_vec()
    }

    pub fn did(&self) -> Vec<Did> {
        self.state().did.clone()
    }

    /// Waits until so many requests have come.
    pub fn wait_for(&self, came: usize) {
        while self.state().came < came {
            std::thread::yield_now();
        }
    }

    pub fn came(&self) -> usize {
        self.state().came
    }

    async fn pass(&self) -> Result<(), VolumeError> {
        self.state().came += 1;
        self.gate.acquire().await.unwrap().forget();
        match self.state().is_failing {
            true => Err(VolumeError::Damaged("on purpose".into())),
            false => Ok(()),
        }
    }
}

impl Device for Disk {
    fn size(&self) -> u64 {
        self.state().bytes.len() as u64
    }

    fn read(&self, start: u64, len: u64) -> LocalBoxFuture<'_, Result<Bytes, VolumeError>> {
        Box::pin(async move {
            self.pass().await?;
            let mut state = self.state();
            state.did.push(Did::Read(start / 512));
            Ok(Bytes::copy_from_slice(&state.bytes[start as usize..(start + len) as usize]))
        })
    }

    fn write(&self, start: u64, data: Bytes) -> LocalBoxFuture<'_, Result<(), VolumeError>> {
        Box::pin(async move {
            self.pass().await?;
            let mut state = self.state();
            state.did.push(Did::Write(start / 512));
            state.bytes[start as usize..start as usize + data.len()].copy_from_slice(&data);
            Ok(())
        })
    }

    fn clear(&self, start: u64, len: u64) -> LocalBoxFuture<'_, Result<(), VolumeError>> {
        Box::pin(async move {
            self.pass().await?;
            let mut state = self.state();
            state.did.push(Did::Clear(start / 512, len / 512));
            state.bytes[start as usize..(start + len) as usize].fill(0);
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), VolumeError> {
        self.state().did.push(Did::Flush);
        Ok(())
    }

    fn status(&self, _start: u64, len: u64) -> LocalBoxFuture<'_, Result<Vec<Run>, VolumeError>> {
        Box::pin(async move { Ok(vec![Run { len, is_hole: false }]) })
    }

    fn is_read_only(&self) -> bool {
        self.state().is_read_only
    }
}
