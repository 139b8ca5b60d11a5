//! The keys of encrypted volumes: drawn and wrapped when a volume is made, unwrapped for whoever attaches it.
//!
//! Invariants: the log and the state hold wrapped keys only; a key leaves this process for a caller whose
//! certificate says that it is a door or a volume's device (`proto/src/roles.rs`); without the root key that a
//! volume's key was wrapped by nothing is answered but an error.

use std::cell::RefCell;
use std::rc::Rc;

use crypto::envelope::{NUMBER_LEN, RootKey};
use crypto::hash::hex_encode;
use crypto::seal::NONCE_LEN;
use crypto::secret::Secret;
use crypto::suite::Suite;
use proto::keys;
use proto::level;
use proto::service::{class, code};
use proto::volume::{CreateVolume, Encryption, VolumeKey, VolumeRow};
use types::ids::Partition;

use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;
use crate::apply::txn::prost_free::Row;

/// The root key of a process, once it has one. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Keyring(Rc<RefCell<Option<RootKey>>>);

impl Keyring {
    /// One that has a key, or not yet.
    pub fn new(root: Option<RootKey>) -> Keyring {
        Keyring(Rc::new(RefCell::new(root)))
    }

    /// The key.
    pub fn root(&self) -> Option<RootKey> {
        self.0.borrow().clone()
    }

    /// From now on this is the key.
    pub fn set(&self, root: RootKey) {
        *self.0.borrow_mut() = Some(root);
    }
}

fn conflict(text: String) -> Trouble {
    Trouble::new(class::GIVE_UP, code::CONFLICT, text)
}

impl MetaServer {
    fn root_key(&self) -> Result<RootKey, Trouble> {
        self.0.keyring.root().ok_or_else(|| {
            let text = "the root key is missing: volumes can be neither encrypted nor decrypted; put back the file \
                        `root-key`, or start with --root-key FILE";
            conflict(format!("{}: {text}", self.0.name))
        })
    }

    /// Draws the key of a volume that is to be encrypted, and wraps it.
    pub(super) async fn draw_key(&self, body: &mut CreateVolume) -> Result<(), Trouble> {
        let Some(asked) = &body.encryption else { return Ok(()) };
        self.needs_level(level::ENCRYPTION).await?;
        let Some(suite) = Suite::of_number(asked.suite) else {
            return Err(conflict("that cipher is unknown to this version".into()));
        };
        let root = self.root_key()?;
        if let Some(other) = self.other_root(&root)? {
            let (own, other) = (hex_encode(&root.name()), hex_encode(&other));
            let text = format!(
                "{}: the root key here is {own}, and the cluster's volumes are encrypted under {other}; start with \
                 that one",
                self.0.name
            );
            return Err(conflict(text));
        }
        let random = self.0.platform.random();
        let (mut number, mut nonce) = ([0; NUMBER_LEN], [0; NONCE_LEN]);
        random.fill(&mut number);
        random.fill(&mut nonce);
        let mut key = Secret::new(vec![0; suite.key_len()]);
        random.fill(key.expose_mut());
        // A key whose halves are the same is none; that chance is not worth a loop.
        suite.cipher(&key).map_err(|error| conflict(error.to_string()))?;
        let wrapped = root.wrap(suite, &number, nonce, &key).map_err(|error| conflict(error.to_string()))?;
        body.encryption =
            Some(Encryption { suite: suite.number(), number: number.to_vec(), root: root.name().to_vec(), wrapped });
        Ok(())
    }

    /// Another root key that a volume's key is wrapped by.
    fn other_root(&self, root: &RootKey) -> Result<Option<Vec<u8>>, Trouble> {
        let txn = Txn::new(self.0.replica.store());
        for (_, value) in txn.scan_prefix(&[keys::table::VOLUME], usize::MAX)? {
            if let Some(encryption) = VolumeRow::from_bytes(&value)?.encryption
                && encryption.root != root.name()
            {
                return Ok(Some(encryption.root));
            }
        }
        Ok(None)
    }

    /// The key of a volume, unwrapped.
    pub(super) async fn volume_key(&self, volume: u64) -> Result<VolumeKey, Trouble> {
        self.0.replica.read_barrier().await?;
        let txn = Txn::new(self.0.replica.store());
        let gone = || conflict("that volume is not there, or is not encrypted".into());
        let name = txn.get_bytes(&keys::volume_number(Partition((volume >> 48) as u16), volume))?;
        let name = name.and_then(|name| String::from_utf8(name).ok()).ok_or_else(gone)?;
        let row: VolumeRow = txn.get(&keys::volume(&name))?.ok_or_else(gone)?;
        let Encryption { suite: number, number: of, root: wanted, wrapped } = row.encryption.ok_or_else(gone)?;
        let Some(suite) = Suite::of_number(number) else {
            return Err(conflict(format!("volume {name} is encrypted by a cipher that is unknown to this version")));
        };
        let root = self.root_key()?;
        if root.name()[..] != wanted[..] {
            let (own, wanted) = (hex_encode(&root.name()), hex_encode(&wanted));
            let text = format!("volume {name} is encrypted under root key {wanted}, and {} has {own}", self.0.name);
            return Err(conflict(text));
        }
        let key = root.unwrap(suite, &of, &wrapped);
        let key = key.map_err(|_| conflict(format!("the key of volume {name} is damaged in the metadata")))?;
        Ok(VolumeKey { suite: number, number: of, key: key.expose().clone() })
    }
}
