//! The reactor's side: requests go to the device, each in a task of its own, and end in any order.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use platform::Platform;
use tokio::sync::mpsc::UnboundedReceiver;

use super::request::{Command, Request};
use super::shared::Shared;
use super::wire::status;
use crate::device::Device;

/// How often the device's size is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Carries requests out until no more can come.
pub async fn run(platform: Platform, device: Rc<dyn Device>, mut requests: UnboundedReceiver<Request>) {
    while let Some(request) = requests.recv().await {
        let device = Rc::clone(&device);
        platform.tasks().spawn(async move { carry_out(&*device, request).await });
    }
}

/// Notes when the device has another size, until nobody has it any more. A frontend is told once its guest has
/// used the device for a while: while it starts, it cannot always listen.
pub async fn watch(platform: Platform, device: Weak<dyn Device>, shared: Arc<Shared>) {
    let mut was_in_use = false;
    while let Some(device) = device.upgrade() {
        shared.note_size(device.size(), was_in_use);
        was_in_use = shared.is_in_use();
        drop(device);
        platform.clock().sleep(LOOK).await;
    }
}

async fn carry_out(device: &dyn Device, request: Request) {
    let is_inside = |start: u64, len: u64| start.checked_add(len).is_some_and(|end| end <= device.size());
    let Request { command, pending } = request;
    let done = match command {
        Command::Read { start, len } if is_inside(start, len) => match device.read(start, len).await {
            Ok(data) if data.len() as u64 == len => return pending.answer(status::OK, &data),
            Ok(data) => Err(format!("{} bytes read instead of {len}", data.len())),
            Err(error) => Err(error.to_string()),
        },
        Command::Write { start, data } if is_inside(start, data.len() as u64) => {
            device.write(start, data).await.map_err(|error| error.to_string())
        }
        Command::Flush => device.flush().map_err(|error| error.to_string()),
        Command::Clear(ranges) if ranges.iter().all(|(start, len)| is_inside(*start, *len)) => {
            clear(device, ranges).await.map_err(|error| error.to_string())
        }
        _ => Err("beyond the end".to_owned()),
    };
    if let Err(error) = &done {
        tracing::debug!(error, "request failed");
    }
    pending.answer(if done.is_ok() { status::OK } else { status::IOERR }, &[]);
}

async fn clear(device: &dyn Device, ranges: Vec<(u64, u64)>) -> Result<(), client::volume::VolumeError> {
    for (start, len) in ranges.into_iter().filter(|(_, len)| *len > 0) {
        device.clear(start, len).await?;
    }
    Ok(())
}
