//! Who sent a POST form: the signature of Signature Version 4 over its policy, which must hold.

use client::object::api::{AccessKey, ObjectError};
use crypto::hash::{constant_time_eq, hex_decode, hmac_sha256};

use super::claim::{ALGORITHM, Scope};
use super::policy_document::PolicyDocument;
use super::{Authenticated, Identity, Payload, Proof, Verifier};
use crate::body::form::Fields;
use crate::dates;
use crate::errors::{Code, S3Error, S3Result, invalid_argument};

impl Verifier {
    /// Turns the fields of a form posted to `bucket` into `Authenticated`, and gives its policy,
    /// which was found to hold for the fields. Its length range is the caller's to check.
    pub async fn authenticate_form(
        &self,
        fields: &Fields,
        bucket: &str,
        now_ms: u64,
        lookup: impl AsyncFnOnce(&str) -> Result<Option<AccessKey>, ObjectError>,
    ) -> S3Result<(Authenticated, PolicyDocument)> {
        let Some(policy) = fields.get("policy") else {
            // Nobody may write into a bucket without a name.
            return Err(Code::AccessDenied.into());
        };
        if fields.get("awsaccesskeyid").is_some() || fields.get("signature").is_some() {
            return Err(S3Error::new(
                Code::InvalidRequest,
                "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
            ));
        }
        if fields.get("x-amz-security-token").is_some() {
            return Err(Code::InvalidToken.into());
        }
        let field = |name: &'static str| {
            fields.get(name).ok_or_else(|| {
                invalid_argument(
                    name,
                    "",
                    format!(
                        "Bucket POST must contain a field named '{name}'. If it is specified, please check the order \
                         of the fields."
                    ),
                )
            })
        };
        if field("x-amz-algorithm")? != ALGORITHM {
            return Err(invalid_argument("x-amz-algorithm", "", "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
        }
        let wrong = |why: String| invalid_argument("x-amz-credential", "", why);
        let scope = Scope::read(field("x-amz-credential")?, &self.region, &wrong)?;
        let date = field("x-amz-date")?;
        if dates::parse_amz_date(date).is_none() || date.get(..8) != Some(scope.date.as_str()) {
            return Err(invalid_argument("x-amz-date", date, "X-Amz-Date does not fit the scope of the credential."));
        }
        let signature = field("x-amz-signature")?;
        let key = lookup(&scope.access_key)
            .await?
            .ok_or_else(|| S3Error::from(Code::InvalidAccessKeyId).field("AWSAccessKeyId", scope.access_key.clone()))?;
        let signing_key = self.keys.derive(&key, &scope.date);
        let expected = hmac_sha256(signing_key.expose(), &[policy.as_bytes()]);
        if !hex_decode(signature).is_some_and(|given| constant_time_eq(&given, &expected)) {
            return Err(S3Error::from(Code::SignatureDoesNotMatch)
                .field("AWSAccessKeyId", scope.access_key.clone())
                .field("StringToSign", policy)
                .field("SignatureProvided", signature));
        }
        let document = PolicyDocument::read(policy)?;
        document.check(bucket, fields, now_ms)?;
        let identity = Identity { user: key.user, access_key: key.access_key, is_root: key.is_root };
        Ok((Authenticated { identity, scope: scope.text, payload: Payload::Unsigned, proof: Proof }, document))
    }
}
