//! Which request a task works for: one id from S3's door to the record on a disk.
//!
//! ```text
//! gateway: within(id, operation) -> Peers::call carries it -> frame -> within(id, handler) -> record
//! ```
//!
//! The id belongs to a task, not to the process: it is set while the task's future is polled and at
//! no other moment. A task that is spawned works for nobody until its future is wrapped in
//! [`carried`]; so background work draws ids of its own. Nothing is decided by an id.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;

use futures_util::future::LocalBoxFuture;
use types::ids::RequestId;

thread_local! {
    static CURRENT: Cell<Option<RequestId>> = const { Cell::new(None) };
}

/// The request the running task works for.
pub fn current() -> Option<RequestId> {
    CURRENT.get()
}

/// Runs `work` for `request`.
pub async fn within<T>(request: RequestId, mut work: LocalBoxFuture<'_, T>) -> T {
    poll_fn(|cx| during(request, || Pin::new(&mut work).poll(cx))).await
}

/// Runs plain code for `request`.
pub fn during<T>(request: RequestId, work: impl FnOnce() -> T) -> T {
    let _restore = Restore(CURRENT.replace(Some(request)));
    work()
}

/// `work`, to be spawned on behalf of the request that the running task works for, if any.
pub fn carried<'a, T: 'a>(work: impl Future<Output = T> + 'a) -> LocalBoxFuture<'a, T> {
    match current() {
        Some(request) => Box::pin(within(request, Box::pin(work))),
        None => Box::pin(work),
    }
}

/// Puts back what was there before, also when the poll unwinds.
struct Restore(Option<RequestId>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::{carried, current, within};
    use futures_util::FutureExt;
    use futures_util::future::join;
    use types::ids::RequestId;

    async fn seen_over_a_wait() -> Option<RequestId> {
        let before = current();
        platform::tasks::yield_now().await;
        assert_eq!(current(), before);
        before
    }

    #[test]
    fn a_request_belongs_to_its_task_and_to_no_other() {
        let one = within(RequestId(1), Box::pin(seen_over_a_wait()));
        let two = within(RequestId(2), Box::pin(seen_over_a_wait()));
        let mut both = Box::pin(join(one, two));
        assert!(both.as_mut().now_or_never().is_none(), "it waits once");
        assert_eq!(current(), None);
        assert_eq!(both.now_or_never(), Some((Some(RequestId(1)), Some(RequestId(2)))));
    }

    #[test]
    fn work_is_carried_to_another_task_and_the_inner_request_wins() {
        let mut spawned = None;
        let outer = within(
            RequestId(1),
            Box::pin(async {
                spawned = Some(carried(async { current() }));
                within(RequestId(2), Box::pin(async { current() })).await
            }),
        );
        assert_eq!(outer.now_or_never(), Some(Some(RequestId(2))));
        assert_eq!(spawned.and_then(FutureExt::now_or_never), Some(Some(RequestId(1))));
        assert_eq!(carried(async { current() }).now_or_never(), Some(None));
    }
}
