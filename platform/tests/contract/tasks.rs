//! The contract of clock, tasks, lane and randomness.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use platform::Platform;
use platform::tasks::yield_now;

/// All of it.
pub async fn holds(platform: Platform) {
    time_passes(&platform).await;
    tasks_return_and_are_cancelled(&platform).await;
    a_dropped_handle_detaches(&platform).await;
    let doubled = platform.lane().run(|| 21 * 2).await;
    assert_eq!(doubled, 42);
    let mut bytes = [0u8; 64];
    platform.random().fill(&mut bytes);
    assert_ne!(bytes, [0; 64]);
    assert!(platform.random().below(10) < 10);
    assert!(platform.clock().unix_ms() > 1_700_000_000_000);
}

async fn time_passes(platform: &Platform) {
    let clock = platform.clock();
    let start = clock.now();
    clock.sleep(Duration::from_millis(20)).await;
    assert!(clock.now().saturating_since(start) >= Duration::from_millis(20));
    clock.sleep_until(start).await;
    clock.sleep_until(clock.now() + Duration::from_millis(5)).await;
    assert_eq!(clock.timeout(Duration::from_secs(10), async { 7 }).await, Ok(7));
    let never = std::future::pending::<()>();
    assert!(clock.timeout(Duration::from_millis(5), never).await.is_err());
}

async fn tasks_return_and_are_cancelled(platform: &Platform) {
    let handle = platform.tasks().spawn(async { "done" });
    assert_eq!(handle.await, Ok("done"));

    let dropped = Rc::new(Cell::new(false));
    let notice = SetOnDrop(dropped.clone());
    let handle = platform.tasks().spawn(async move {
        let _notice = notice;
        std::future::pending::<()>().await;
    });
    yield_now().await;
    assert!(!handle.is_finished());
    handle.abort();
    assert!(handle.await.is_err());
    assert!(dropped.get(), "an aborted future is dropped");
}

async fn a_dropped_handle_detaches(platform: &Platform) {
    let ran = Rc::new(Cell::new(0));
    for _ in 0..10 {
        let ran = ran.clone();
        drop(platform.tasks().spawn(async move {
            yield_now().await;
            ran.set(ran.get() + 1);
        }));
    }
    platform.clock().sleep(Duration::from_millis(5)).await;
    assert_eq!(ran.get(), 10);
}

struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}
