//! Access keys. Secrets lie sealed in the metadata, under a key derived from the cluster secret.

use std::time::Duration;

use bytes::Bytes;
use crypto::hash::hmac_sha256;
use crypto::keys::{make_access_key, make_secret_key};
use crypto::secret::Secret;
use proto::meta::{Body as CommandBody, DeleteAccessKey, PutAccessKey};
use proto::query::{Ask, AskAccessKey, AskAll};
use proto::rows::AccessKeyRow;
use types::ids::Partition;

use super::Objects;
use super::api::{AccessKey, ObjectError};
use crate::meta::MetaError;

/// How long a key that was looked up is believed.
const CACHED: Duration = Duration::from_secs(5);
/// Keys remembered.
const CACHE_MAX: usize = 10_000;

fn sealing_key(objects: &Objects) -> [u8; 32] {
    hmac_sha256(&objects.0.meta.peers().secret(), &[b"bixi access keys v1"])
}

fn unseal(objects: &Objects, access_key: &str, row: &AccessKeyRow) -> Result<AccessKey, ObjectError> {
    let damaged = || ObjectError::Damaged(format!("secret of {access_key} cannot be opened"));
    let (nonce, sealed) = row.sealed_secret.split_first_chunk::<12>().ok_or_else(damaged)?;
    let opened =
        crypto::seal::open(&sealing_key(objects), *nonce, access_key.as_bytes(), sealed).map_err(|_| damaged())?;
    let secret = String::from_utf8(opened.expose().clone()).map_err(|_| damaged())?;
    Ok(AccessKey {
        access_key: access_key.to_owned(),
        secret_key: Secret::new(secret),
        user: row.user.clone(),
        is_root: row.is_root,
        created_ms: row.created_ms,
    })
}

impl Objects {
    /// Looks an access key up (believed for a few seconds); `None` if there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Damaged`.
    pub async fn access_key(&self, access_key: &str) -> Result<Option<AccessKey>, ObjectError> {
        let now = self.0.meta.platform().clock().now();
        if let Some((at, key)) = self.0.keys.borrow().get(access_key)
            && now.saturating_since(*at) < CACHED
        {
            return Ok(Some(key.clone()));
        }
        let ask = Ask::AccessKey(AskAccessKey { access_key: access_key.to_owned() });
        let view = self.0.meta.query(ask).await?;
        let Some(found) = view.access_keys.into_iter().next() else {
            self.0.keys.borrow_mut().remove(access_key);
            return Ok(None);
        };
        let key = unseal(self, access_key, &found.row)?;
        let mut keys = self.0.keys.borrow_mut();
        if keys.len() >= CACHE_MAX {
            keys.clear();
        }
        keys.insert(access_key.to_owned(), (now, key.clone()));
        Ok(Some(key))
    }

    /// Makes a key for a user (who need not have existed before).
    ///
    /// # Errors
    /// `Invalid` (user name), `Unavailable`.
    pub async fn create_access_key(&self, user: &str) -> Result<AccessKey, ObjectError> {
        let fine = !user.is_empty()
            && user.len() <= 64
            && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@+=,".contains(&b));
        if !fine {
            return Err(ObjectError::Invalid("user names have 1 to 64 letters, digits or -_.@+=,".into()));
        }
        self.make_key(user, false).await
    }

    /// The root key: made once, then always the same.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn root_key(&self) -> Result<AccessKey, ObjectError> {
        for _ in 0..2 {
            if let Some(root) = self.list_access_keys().await?.into_iter().find(|key| key.is_root) {
                return Ok(root);
            }
            match self.make_key("root", true).await {
                Ok(key) => return Ok(key),
                // Another process was first.
                Err(ObjectError::Invalid(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ObjectError::Unavailable("no root key could be made".into()))
    }

    async fn make_key(&self, user: &str, is_root: bool) -> Result<AccessKey, ObjectError> {
        let random = self.0.meta.platform().random();
        let (mut id, mut secret, mut nonce) = ([0; 15], [0; 30], [0; 12]);
        random.fill(&mut id);
        random.fill(&mut secret);
        random.fill(&mut nonce);
        let access_key = make_access_key(&id);
        let secret_key = make_secret_key(&secret);
        let mut sealed_secret = nonce.to_vec();
        sealed_secret.extend(crypto::seal::seal(
            &sealing_key(self),
            nonce,
            access_key.as_bytes(),
            secret_key.as_bytes(),
        ));
        let row =
            AccessKeyRow { user: user.to_owned(), sealed_secret: Bytes::from(sealed_secret), is_root, created_ms: 0 };
        let body =
            CommandBody::PutAccessKey(PutAccessKey { access_key: access_key.clone(), row, only_first_root: is_root });
        match self.0.meta.command(Partition(0), body).await {
            Ok(_) => {}
            Err(MetaError::Refused { code: proto::meta::refusal::EXISTS, text, .. }) => {
                return Err(ObjectError::Invalid(text));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(AccessKey {
            access_key,
            secret_key: Secret::new(secret_key),
            user: user.to_owned(),
            is_root,
            created_ms: self.0.meta.platform().clock().unix_ms(),
        })
    }

    /// All access keys.
    ///
    /// # Errors
    /// `Unavailable`, `Damaged`.
    pub async fn list_access_keys(&self) -> Result<Vec<AccessKey>, ObjectError> {
        let view = self.0.meta.query(Ask::AccessKeys(AskAll {})).await?;
        view.access_keys.iter().map(|found| unseal(self, &found.access_key, &found.row)).collect()
    }

    /// Removes a key; other gateways believe it for a few seconds more.
    ///
    /// # Errors
    /// `NoSuchAccessKey`, `Invalid` (the last root key).
    pub async fn delete_access_key(&self, access_key: &str) -> Result<(), ObjectError> {
        let body = CommandBody::DeleteAccessKey(DeleteAccessKey { access_key: access_key.to_owned() });
        self.0.meta.command(Partition(0), body).await?;
        self.0.keys.borrow_mut().remove(access_key);
        Ok(())
    }
}
