//! S3's five checksum kinds and what a request announces about them. Pure.

use http::HeaderMap;
use types::checksum::CrcKind;

use crate::errors::{Code, S3Error, S3Result};

/// A kind of checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChecksumKind {
    /// IEEE 802.3.
    Crc32,
    /// Castagnoli.
    Crc32c,
    /// NVMe's 64 bits.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// All kinds, in the order AWS lists them.
pub const KINDS: [ChecksumKind; 5] =
    [ChecksumKind::Crc32, ChecksumKind::Crc32c, ChecksumKind::Crc64Nvme, ChecksumKind::Sha1, ChecksumKind::Sha256];

/// The checksum covers the whole object.
pub const FULL_OBJECT: &str = "FULL_OBJECT";
/// The checksum is one of the parts' checksums.
pub const COMPOSITE: &str = "COMPOSITE";

impl ChecksumKind {
    /// `CRC32`..., as it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            ChecksumKind::Crc32 => "CRC32",
            ChecksumKind::Crc32c => "CRC32C",
            ChecksumKind::Crc64Nvme => "CRC64NVME",
            ChecksumKind::Sha1 => "SHA1",
            ChecksumKind::Sha256 => "SHA256",
        }
    }

    /// The header it travels in.
    pub fn header(self) -> &'static str {
        match self {
            ChecksumKind::Crc32 => "x-amz-checksum-crc32",
            ChecksumKind::Crc32c => "x-amz-checksum-crc32c",
            ChecksumKind::Crc64Nvme => "x-amz-checksum-crc64nvme",
            ChecksumKind::Sha1 => "x-amz-checksum-sha1",
            ChecksumKind::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The element it travels in.
    pub fn element(self) -> &'static str {
        match self {
            ChecksumKind::Crc32 => "ChecksumCRC32",
            ChecksumKind::Crc32c => "ChecksumCRC32C",
            ChecksumKind::Crc64Nvme => "ChecksumCRC64NVME",
            ChecksumKind::Sha1 => "ChecksumSHA1",
            ChecksumKind::Sha256 => "ChecksumSHA256",
        }
    }

    /// Its length in bytes.
    pub fn size(self) -> usize {
        match self {
            ChecksumKind::Crc32 | ChecksumKind::Crc32c => 4,
            ChecksumKind::Crc64Nvme => 8,
            ChecksumKind::Sha1 => 20,
            ChecksumKind::Sha256 => 32,
        }
    }

    /// As a CRC, if it is one: only those can be combined over parts.
    pub fn crc(self) -> Option<CrcKind> {
        match self {
            ChecksumKind::Crc32 => Some(CrcKind::Crc32),
            ChecksumKind::Crc32c => Some(CrcKind::Crc32c),
            ChecksumKind::Crc64Nvme => Some(CrcKind::Crc64Nvme),
            ChecksumKind::Sha1 | ChecksumKind::Sha256 => None,
        }
    }

    /// By its name, in any case.
    pub fn by_name(name: &str) -> Option<ChecksumKind> {
        KINDS.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// By its header, in any case.
    pub fn by_header(header: &str) -> Option<ChecksumKind> {
        KINDS.into_iter().find(|kind| kind.header().eq_ignore_ascii_case(header))
    }
}

/// What a request announces about its body's checksum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The kind, if there is one.
    pub kind: Option<ChecksumKind>,
    /// Its raw value, if it came in a header.
    pub value: Option<Vec<u8>>,
    /// It will come in the trailer.
    pub in_trailer: bool,
}

/// Reads `x-amz-checksum-*`, `x-amz-trailer` and `x-amz-sdk-checksum-algorithm`.
pub fn announced(headers: &HeaderMap) -> S3Result<Announced> {
    let mut found = Announced::default();
    for kind in KINDS {
        for value in headers.get_all(kind.header()) {
            if found.kind.replace(kind).is_some() {
                return Err(several());
            }
            let text = value.to_str().unwrap_or("");
            found.value = Some(decode(kind, text).ok_or_else(|| invalid(kind))?);
        }
    }
    for value in headers.get_all("x-amz-trailer") {
        for name in value.to_str().unwrap_or("").split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let Some(kind) = ChecksumKind::by_header(name) else {
                return Err(S3Error::new(
                    Code::InvalidRequest,
                    "The value specified in the x-amz-trailer header is not supported",
                ));
            };
            if found.kind.replace(kind).is_some() {
                return Err(several());
            }
            found.in_trailer = true;
        }
    }
    if let Some(name) = headers.get("x-amz-sdk-checksum-algorithm") {
        let kind = named(name.to_str().unwrap_or(""))?;
        match found.kind {
            Some(known) if known == kind => {}
            Some(_) => {
                return Err(S3Error::new(
                    Code::InvalidRequest,
                    "Value for x-amz-sdk-checksum-algorithm header is invalid.",
                ));
            }
            None => {
                return Err(S3Error::new(
                    Code::InvalidRequest,
                    "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
                     headers were found.",
                ));
            }
        }
    }
    Ok(found)
}

/// A kind by the name a client gave.
pub fn named(name: &str) -> S3Result<ChecksumKind> {
    ChecksumKind::by_name(name).ok_or_else(|| {
        S3Error::new(
            Code::InvalidRequest,
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: \
             [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        )
    })
}

/// The raw bytes of a base64 value of the right length.
pub fn decode(kind: ChecksumKind, text: &str) -> Option<Vec<u8>> {
    crypto::hash::base64_decode(text.trim()).filter(|raw| raw.len() == kind.size())
}

/// A value that is not base64 of the right length.
pub fn invalid(kind: ChecksumKind) -> S3Error {
    S3Error::new(Code::InvalidRequest, format!("Value for {} header is invalid.", kind.header()))
}

/// A value that is another than the body's.
pub fn mismatch(kind: ChecksumKind) -> S3Error {
    let name = kind.name();
    S3Error::new(Code::BadDigest, format!("The {name} you specified did not match the calculated checksum."))
}

fn several() -> S3Error {
    S3Error::new(
        Code::InvalidRequest,
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
    )
}

#[cfg(test)]
mod tests {
    use super::{Announced, ChecksumKind, announced};
    use crate::errors::Code;
    use http::HeaderMap;

    fn with(pairs: &[(&'static str, &str)]) -> Result<Announced, Code> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        announced(&headers).map_err(|error| error.code)
    }

    #[test]
    fn headers_and_trailers_are_read() {
        let crc = with(&[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-sdk-checksum-algorithm", "crc32")]).unwrap();
        assert_eq!((crc.kind, crc.value), (Some(ChecksumKind::Crc32), Some(vec![0; 4])));
        let trailer = with(&[("x-amz-trailer", "x-amz-checksum-crc64nvme")]).unwrap();
        assert_eq!((trailer.kind, trailer.in_trailer), (Some(ChecksumKind::Crc64Nvme), true));
        assert_eq!(with(&[]), Ok(Announced::default()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            &[("x-amz-checksum-crc32", "bad")][..],
            &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")],
            &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32", "AAAAAA==")],
            &[("x-amz-trailer", "x-amz-meta-a")],
            &[("x-amz-sdk-checksum-algorithm", "CRC32")],
            &[("x-amz-sdk-checksum-algorithm", "SHA1"), ("x-amz-checksum-crc32", "AAAAAA==")],
            &[("x-amz-sdk-checksum-algorithm", "MD6")],
        ] {
            assert_eq!(with(bad), Err(Code::InvalidRequest), "{bad:?}");
        }
    }
}
