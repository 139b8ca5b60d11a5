//! The disks that are kept decoded are those of the state.

use std::collections::BTreeMap;
use std::rc::Rc;

use proto::members::DrainDisks;
use proto::meta::{Body, RegisterSession};
use proto::rows::DiskRow;
use types::ids::DiskId;

use super::{World, story};
use crate::apply::txn::Txn;

impl World {
    fn stored(&self) -> BTreeMap<u64, DiskRow> {
        let txn = Txn::new(self.server.replica().store());
        let row = |disk| txn.get::<DiskRow>(&proto::keys::disk(DiskId(disk))).expect("state");
        (1..=9).filter_map(|disk| Some((disk, row(disk)?))).collect()
    }
}

#[test]
fn disks_are_decoded_again_when_one_changes_and_only_then() {
    story(|world| async move {
        let before = world.server.disks().expect("disks");
        assert_eq!(*before, world.stored());
        let session = RegisterSession { name: "other".into(), nonce: 6 };
        world.server.propose_own(Body::RegisterSession(session)).await.expect("session");
        assert!(Rc::ptr_eq(&before, &world.server.disks().expect("disks")), "no disk has changed");
        for draining in [true, false] {
            let drain = DrainDisks { disks: vec![1], draining };
            world.server.propose_own(Body::DrainDisks(drain)).await.expect("drain");
            let now = world.server.disks().expect("disks");
            assert_eq!((&*now, now[&1].draining), (&world.stored(), draining));
        }
    });
}
