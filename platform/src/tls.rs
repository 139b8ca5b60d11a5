//! TLS 1.2 and 1.3 around a stream, by rustls with the ring provider.
//!
//! What it leaves to others: where certificates come from, which peers may do what. Keys and nonces come from
//! the operating system even on a simulated machine, so runs that must replay use plain streams.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::net::{Stream, StreamKind};

mod mutual;

pub use mutual::MutualTls;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The PEM text holds no usable certificate or key: a mistake of configuration.
    #[error("unusable pem: {0}")]
    Pem(String),
    /// The certificate and key do not serve: a mistake of configuration.
    #[error("unusable certificate or key")]
    Config(#[source] rustls::Error),
    /// The name is no valid server name.
    #[error("not a server name: {0}")]
    ServerName(String),
    /// The other end refused, is not who it should be, or went away.
    #[error("TLS handshake with {peer} failed: {source}")]
    Handshake {
        /// The other end.
        peer: String,
        #[source]
        source: io::Error,
    },
}

/// A server's certificate and key.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

/// Whom a client trusts.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

impl ServerTls {
    /// From a certificate chain (leaf first) and its private key, both PEM.
    pub fn from_pem(cert_pem: &[u8], key_pem: &[u8]) -> Result<ServerTls, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|failure| TlsError::Pem(failure.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?
            .with_no_client_auth()
            .with_single_cert(certificates(cert_pem)?, key)
            .map_err(TlsError::Config)?;
        Ok(ServerTls { config: Arc::new(config) })
    }
}

impl ServerTls {
    /// Lets only clients in whose certificate descends from one of `roots_pem`.
    pub fn with_client_roots(cert_pem: &[u8], key_pem: &[u8], roots_pem: &[u8]) -> Result<ServerTls, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(roots_pem)? {
            roots.add(certificate).map_err(TlsError::Config)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|failure| TlsError::Pem(failure.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|failure| TlsError::Pem(failure.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(cert_pem)?, key)
            .map_err(TlsError::Config)?;
        Ok(ServerTls { config: Arc::new(config) })
    }
}

impl ClientTls {
    /// Trusts servers whose certificate descends from one of `roots_pem`.
    pub fn with_roots_pem(roots_pem: &[u8]) -> Result<ClientTls, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(roots_pem)? {
            roots.add(certificate).map_err(TlsError::Config)?;
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(ClientTls { config: Arc::new(config) })
    }

    /// Trusts everybody: encrypted, but open to a man in the middle.
    pub fn insecure_for_tests() -> ClientTls {
        let provider = provider();
        let verifier = Arc::new(TrustAnybody { provider: provider.clone() });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the ring provider supports the default versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        ClientTls { config: Arc::new(config) }
    }
}

impl Stream {
    /// Shakes hands as the server and gives the stream inside TLS.
    pub async fn accept_tls(self, tls: &ServerTls) -> Result<Stream, TlsError> {
        let (peer, local) = (self.peer.clone(), self.local.clone());
        match TlsAcceptor::from(tls.config.clone()).accept(self).await {
            Ok(stream) => Ok(Stream { kind: StreamKind::Tls(Box::new(TlsStream::Server(stream))), peer, local }),
            Err(source) => Err(TlsError::Handshake { peer, source }),
        }
    }

    /// Shakes hands as a client of `server_name` (a host name or an IP address) and gives the stream inside TLS.
    pub async fn connect_tls(self, tls: &ClientTls, server_name: &str) -> Result<Stream, TlsError> {
        let name =
            ServerName::try_from(server_name.to_owned()).map_err(|_| TlsError::ServerName(server_name.to_owned()))?;
        let (peer, local) = (self.peer.clone(), self.local.clone());
        match TlsConnector::from(tls.config.clone()).connect(name, self).await {
            Ok(stream) => Ok(Stream { kind: StreamKind::Tls(Box::new(TlsStream::Client(stream))), peer, local }),
            Err(source) => Err(TlsError::Handshake { peer, source }),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::Pem("no certificate in it".to_owned())),
        Ok(found) => Ok(found),
        Err(failure) => Err(TlsError::Pem(failure.to_string())),
    }
}

/// Accepts any certificate, but still checks that the server holds its key.
#[derive(Debug)]
struct TrustAnybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
