//! Farewells: what a writer has to tell the metaserver about chunks it is done with.
//!
//! A chunk given up is to be sealed, a chunk nobody will name again is also released. Nothing waits
//! for it, so it is asked behind the writers' backs, a few chunks at once and each as often as it
//! takes. A chunk that cannot be sealed yet (a shard does not answer, no leader) waits without
//! taking a place: the others go on meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use platform::Platform;
use tokio::sync::{Semaphore, mpsc};
use types::ids::ChunkId;

use crate::meta::{MetaClient, MetaError};

/// Chunks asked for at once.
const AT_ONCE: usize = 8;
/// Pause before a chunk is asked for again: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What became of one try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tried {
    /// Done, or not to be done any more.
    Over,
    /// Try again.
    Later,
}

type Try = Pin<Box<dyn Future<Output = Tried>>>;

/// A chunk, the session it was granted to, and whether it is released.
type Farewell = (u64, u64, bool);

struct Inner {
    platform: Platform,
    /// One try to seal (chunk, session), and to release it if asked.
    ask: Box<dyn Fn(u64, u64, bool) -> Try>,
    room: Semaphore,
    /// Chunks under way, and whether they are released by now.
    pending: RefCell<BTreeMap<u64, bool>>,
}

/// The farewells of a process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Farewells(mpsc::UnboundedSender<Farewell>);

impl Farewells {
    /// Told to the metaserver `meta` speaks to.
    pub(super) fn new(meta: MetaClient) -> Farewells {
        let platform = meta.platform().clone();
        Farewells::over(platform, move |chunk, session, release| {
            Box::pin(try_once(meta.clone(), chunk, session, release))
        })
    }

    fn over(platform: Platform, ask: impl Fn(u64, u64, bool) -> Try + 'static) -> Farewells {
        let (sender, queue) = mpsc::unbounded_channel();
        let inner = Rc::new(Inner {
            platform: platform.clone(),
            ask: Box::new(ask),
            room: Semaphore::new(AT_ONCE),
            pending: RefCell::new(BTreeMap::new()),
        });
        platform.tasks().spawn(inner.listen(queue));
        Farewells(sender)
    }

    /// Has `chunk`, granted to `session`, sealed; with `release` no later commit names it. May be
    /// called while the process ends.
    pub(super) fn say(&self, chunk: u64, session: u64, release: bool) {
        // The receiver is gone only when the process is.
        let _ = self.0.send((chunk, session, release));
    }
}

impl Inner {
    async fn listen(self: Rc<Inner>, mut queue: mpsc::UnboundedReceiver<Farewell>) {
        while let Some((chunk, session, release)) = queue.recv().await {
            if let Some(released) = self.pending.borrow_mut().get_mut(&chunk) {
                *released |= release;
                continue;
            }
            self.pending.borrow_mut().insert(chunk, release);
            let this = Rc::clone(&self);
            self.platform.tasks().spawn(async move { this.see_through(chunk, session).await });
        }
    }

    async fn see_through(&self, chunk: u64, session: u64) {
        let mut pause = PAUSE_MIN;
        loop {
            let release = self.pending.borrow().get(&chunk).copied().unwrap_or(false);
            let tried = {
                // Never closed. Whoever has tried in vain stands at the end of the line again.
                let Ok(_place) = self.room.acquire().await else { return };
                (self.ask)(chunk, session, release).await
            };
            if tried == Tried::Over {
                let mut pending = self.pending.borrow_mut();
                // Released while the seal was under way: that is still to be told.
                if pending.get(&chunk) == Some(&release) {
                    pending.remove(&chunk);
                    return;
                }
                continue;
            }
            self.platform.clock().sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

async fn try_once(meta: MetaClient, chunk: u64, session: u64, release: bool) -> Tried {
    // When the session ends, the leader seals and releases by itself.
    if meta.session() != session {
        return Tried::Over;
    }
    match meta.seal(chunk, release).await {
        Ok(_) => Tried::Over,
        Err(MetaError::Failed(failure)) if failure.class == proto::service::class::GIVE_UP => Tried::Over,
        Err(error) => {
            tracing::debug!(chunk = %ChunkId(chunk), %error, "chunk is not sealed yet");
            Tried::Later
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use platform::sim::{SimOptions, Simulation};

    use super::{AT_ONCE, Farewells, Tried};

    type Asked = Rc<RefCell<Vec<(u64, bool)>>>;

    /// Farewells to a metaserver that takes a second for each try and never seals odd chunks.
    fn farewells(simulation: &Simulation) -> (Farewells, Asked) {
        let platform = simulation.platform();
        let asked = Asked::default();
        let (log, clock) = (Rc::clone(&asked), platform.clock().clone());
        let farewells = Farewells::over(platform, move |chunk, _, release| {
            let (log, clock) = (Rc::clone(&log), clock.clone());
            Box::pin(async move {
                log.borrow_mut().push((chunk, release));
                clock.sleep(Duration::from_secs(1)).await;
                if chunk % 2 == 1 { Tried::Later } else { Tried::Over }
            })
        });
        (farewells, asked)
    }

    #[test]
    fn chunks_that_cannot_be_sealed_do_not_hold_back_others() {
        let simulation = Simulation::new(1, SimOptions::default());
        let (farewells, asked) = farewells(&simulation);
        let clock = simulation.platform().clock().clone();
        let story = async move {
            for chunk in 0..10 * AT_ONCE as u64 {
                farewells.say(chunk * 2 + 1, 1, false);
            }
            clock.sleep(Duration::from_secs(60)).await;
            farewells.say(2, 1, true);
            clock.sleep(Duration::from_secs(12)).await;
            assert!(asked.borrow().contains(&(2, true)), "{:?}", asked.borrow().len());
            // And none of those that wait is forgotten.
            asked.borrow_mut().clear();
            clock.sleep(Duration::from_secs(12)).await;
            for chunk in 0..10 * AT_ONCE as u64 {
                assert!(asked.borrow().iter().any(|(asked, _)| *asked == chunk * 2 + 1), "chunk {chunk}");
            }
        };
        simulation.run(story, Duration::from_secs(600)).expect("story ends");
    }

    #[test]
    fn release_that_comes_during_the_seal_is_told_too() {
        let simulation = Simulation::new(1, SimOptions::default());
        let (farewells, asked) = farewells(&simulation);
        let clock = simulation.platform().clock().clone();
        let story = async move {
            farewells.say(2, 1, false);
            clock.sleep(Duration::from_millis(500)).await;
            farewells.say(2, 1, true);
            clock.sleep(Duration::from_secs(5)).await;
            assert_eq!(*asked.borrow(), [(2, false), (2, true)]);
            farewells.say(2, 1, true);
            clock.sleep(Duration::from_secs(5)).await;
            assert_eq!(asked.borrow().len(), 3);
        };
        simulation.run(story, Duration::from_secs(600)).expect("story ends");
    }
}
