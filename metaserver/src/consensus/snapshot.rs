//! Snapshots: a leader copies its state into pages, a follower fetches them and puts them in place
//! of its own, atomically. A crash in the middle leaves the old state.

use std::time::Duration;

use bytes::Bytes;
use platform::planted::PlantedBug;
use proto::keys;
use proto::service::{Answer, Request};
use raft::prelude::{Message, Snapshot};
use types::ids::StoreId;

use super::replica::{Core, Image, Input, Replica};
use super::start::{applied_key, encode_applied, encode_life, life_key};
use crate::store::StoreFault;

/// Bytes of a page of a snapshot.
const PAGE_BYTES: usize = 512 << 10;
/// How long a follower waits for a page, and how often it asks for it: less than what makes an
/// offer quiet, and enough for a page over a line of a megabit a second.
const PAGE_WAIT: Duration = Duration::from_secs(5);
const PAGE_ASKS_MAX: usize = 3;
/// An offer that no page follows for so long is made anew: its frame is lost, or its answer.
const OFFER_QUIET: Duration = Duration::from_secs(8);
/// The longest that the pages of one snapshot may take.
pub(super) const OFFER_MAX: Duration = Duration::from_secs(1800);

impl Replica {
    /// A page of the snapshot at `index` that this replica has offered.
    pub fn snapshot_page(&self, index: u64, page: usize) -> Option<Bytes> {
        self.0.pages_asked.set(self.0.pages_asked.get() + 1);
        let core = self.0.core.borrow();
        core.image.as_ref().filter(|image| image.index == index)?.pages.get(page).cloned()
    }

    /// Copies the state into pages that followers fetch.
    pub(super) fn make_snapshot(&self, core: &mut Core) {
        let mut pages = Vec::new();
        let mut page = Vec::new();
        let forgets = self.0.platform.planted(PlantedBug::SnapshotWithoutSessions);
        let scanned = self.0.store.scan(&[], None, &mut |key, value| {
            if forgets && matches!(key.first(), Some(&keys::table::SESSION | &keys::table::OUTCOME)) {
                return true;
            }
            push_row(&mut page, key, value);
            if page.len() >= PAGE_BYTES {
                pages.push(Bytes::from(std::mem::take(&mut page)));
            }
            true
        });
        if let Err(error) = scanned {
            tracing::error!(%error, "snapshot could not be made");
            return;
        }
        pages.push(Bytes::from(page));
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = core.applied;
        metadata.term = core.applied_term;
        *metadata.mut_conf_state() = core.mem.0.borrow().conf_state.clone();
        snapshot.data = (pages.len() as u64).to_be_bytes().to_vec();
        core.image = Some(Image { index: core.applied, pages });
        core.mem.0.borrow_mut().snapshot = Some(snapshot);
    }

    /// Waits for the answer to an offer of a snapshot, which comes when the follower has its pages;
    /// as long as pages are asked for.
    pub(super) async fn is_offer_taken<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> bool {
        let mut call = std::pin::pin!(call);
        loop {
            let asked = self.0.pages_asked.get();
            match self.0.platform.clock().timeout(OFFER_QUIET, &mut call).await {
                Ok(answer) => return answer.is_ok(),
                Err(_elapsed) if self.0.pages_asked.get() == asked => {
                    self.0.platform.reached("offer of a snapshot made anew");
                    return false;
                }
                Err(_elapsed) => {}
            }
        }
    }

    /// A leader offers a snapshot: fetch its pages, then let Raft see the message. Refused while
    /// another one is being fetched.
    pub(super) async fn fetch_snapshot(&self, message: Message) -> bool {
        if self.0.fetching.replace(true) {
            return false;
        }
        let fetching = Fetching(self);
        let pages = self.fetch_pages(&message).await;
        drop(fetching);
        let Some(pages) = pages else { return false };
        self.0.fetched.borrow_mut().insert(message.get_snapshot().get_metadata().index, pages);
        self.0.core.borrow_mut().inbox.push_back(Input::Messages(vec![message]));
        self.0.work.notify_one();
        true
    }

    async fn fetch_pages(&self, message: &Message) -> Option<Vec<Bytes>> {
        let snapshot = message.get_snapshot();
        let index = snapshot.get_metadata().index;
        let count = u64::from_be_bytes(snapshot.data.as_slice().try_into().ok()?);
        let address = self.0.core.borrow().members.get(&message.from).cloned()?;
        let mut pages = Vec::new();
        for page in 0..count {
            pages.push(self.fetch_page(&address, StoreId(message.from), index, page).await?);
        }
        self.0.platform.reached("snapshot fetched");
        Some(pages)
    }

    async fn fetch_page(&self, address: &str, leader: StoreId, index: u64, page: u64) -> Option<Bytes> {
        for _ in 0..PAGE_ASKS_MAX {
            let ask = Request::SnapshotPage(proto::meta::SnapshotPage { index, page });
            let request = self.0.peers.new_request();
            match self.0.peers.call(address, leader, request, ask, Bytes::new(), PAGE_WAIT).await {
                Ok(reply) if matches!(reply.answer, Answer::Data(_)) => return Some(reply.payload),
                // It has another snapshot by now.
                Ok(_) => return None,
                Err(error) => tracing::debug!(%error, page, "a page of a snapshot did not come"),
            }
        }
        None
    }

    pub(super) fn install(&self, core: &mut Core, snapshot: &Snapshot) -> Result<(), StoreFault> {
        let metadata = snapshot.get_metadata();
        let fetched = std::mem::take(&mut *self.0.fetched.borrow_mut()).remove(&metadata.index);
        let Some(pages) = fetched else { return Err(StoreFault("snapshot without its pages".into())) };
        let mut rows = Vec::new();
        for page in &pages {
            rows.push(rows_of(page).ok_or_else(|| StoreFault("snapshot page is damaged".into()))?);
        }
        // Instead of the leader's rows, which may be of later entries, its own.
        let applied = encode_applied(metadata.index, metadata.term, metadata.get_conf_state());
        let own = vec![(applied_key(), applied), (life_key(), encode_life(self.0.config.raft_id, metadata.index))];
        for page in &mut rows {
            page.retain(|(key, _)| own.iter().all(|(known, _)| known != key));
        }
        rows.push(own);
        self.0.store.replace(&rows)?;
        self.disks_changed();
        self.0.platform.reached("snapshot in place");
        core.mem.0.borrow_mut().reset(metadata.index, metadata.term, metadata.get_conf_state().clone());
        core.applied = metadata.index;
        core.applied_term = metadata.term;
        core.flushed = metadata.index;
        for (key, value) in rows.iter().flatten() {
            if key.starts_with(&[keys::table::APPLIED, 1])
                && let Some(id) = keys::last_u64(key)
            {
                core.members.insert(id, String::from_utf8_lossy(value).into_owned());
            }
        }
        self.0.installed.set(self.0.installed.get() + 1);
        tracing::info!(index = metadata.index, "snapshot installed");
        Ok(())
    }
}

/// A fetch that is under way. It ends with this guard: whoever offered the snapshot may hang up, and
/// then nobody waits for the fetch to its end.
struct Fetching<'a>(&'a Replica);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.0.fetching.set(false);
    }
}

/// A row of a page: length of the key (u32), key, length of the value (u32), value.
fn push_row(page: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for bytes in [key, value] {
        page.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        page.extend_from_slice(bytes);
    }
}

fn rows_of(page: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rows = Vec::new();
    let mut rest = page;
    while !rest.is_empty() {
        let mut take = || {
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let len = u32::from_le_bytes(*len) as usize;
            let (bytes, tail) = tail.split_at_checked(len)?;
            rest = tail;
            Some(bytes.to_vec())
        };
        let key = take()?;
        let value = take()?;
        rows.push((key, value));
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::super::start::{applied_key, encode_applied, member_key};
    use super::{push_row, rows_of};
    use raft::prelude::ConfState;

    #[test]
    fn golden_bytes_of_a_snapshot_page() {
        let mut page = Vec::new();
        push_row(&mut page, b"k", b"abc");
        push_row(&mut page, b"l", b"");
        assert_eq!(page, *b"\x01\0\0\0k\x03\0\0\0abc\x01\0\0\0l\0\0\0\0");
        assert_eq!(rows_of(&page), Some(vec![(b"k".to_vec(), b"abc".to_vec()), (b"l".to_vec(), Vec::new())]));
        let cuts = (1..page.len()).filter(|len| rows_of(&page[..*len]).is_some());
        assert_eq!(cuts.collect::<Vec<_>>(), [12], "a page cut anywhere but between rows is refused");
    }

    #[test]
    fn golden_bytes_of_the_applied_row() {
        let conf = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
        let bytes = encode_applied(5, 2, &conf);
        assert_eq!(bytes, *b"\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x02\x0a\x02\x01\x02\x12\x01\x03");
        assert_eq!(applied_key(), [0xf0]);
        assert_eq!(member_key(0x0102), [0xf0, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
    }
}
