//! Mutual TLS between the processes of a cluster: both ends show a certificate of the cluster's
//! own authority, and a certificate says by its URI names what its holder may be.
//!
//! TLS 1.3 only. A certificate must carry the cluster's DNS name, so that one of another cluster
//! is refused even if both were made by the same authority. What the URI names mean is the
//! business of the layer above. Certificates are exchanged without a restart: connections that
//! are open go on, new ones use the new certificate.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{TlsError, certificates, provider};
use crate::net::{Stream, StreamKind};

/// A process's certificate and whom it trusts. Cheap to clone; clones change together.
#[derive(Clone)]
pub struct MutualTls(Rc<Inner>);

struct Inner {
    /// The DNS name every member's certificate carries.
    name: String,
    configs: RefCell<Configs>,
    generation: Cell<u64>,
}

#[derive(Clone)]
struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl MutualTls {
    /// From the authorities trusted, the own chain (leaf first) and its key, all PEM. `name` is
    /// the DNS name that the certificates of all members carry.
    ///
    /// # Errors
    /// What is unusable: a mistake of configuration.
    pub fn new(name: &str, ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> Result<MutualTls, TlsError> {
        if ServerName::try_from(name.to_owned()).is_err() {
            return Err(TlsError::ServerName(name.to_owned()));
        }
        let configs = RefCell::new(Configs::new(name, ca_pem, cert_pem, key_pem)?);
        Ok(MutualTls(Rc::new(Inner { name: name.to_owned(), configs, generation: Cell::new(0) })))
    }

    /// Uses other certificates from now on. On an error the present ones stay.
    ///
    /// # Errors
    /// As of [`MutualTls::new`].
    pub fn replace(&self, ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        let configs = Configs::new(&self.0.name, ca_pem, cert_pem, key_pem)?;
        self.0.configs.replace(configs);
        self.0.generation.set(self.0.generation.get() + 1);
        Ok(())
    }

    /// Rises with each [`MutualTls::replace`].
    pub fn generation(&self) -> u64 {
        self.0.generation.get()
    }

    /// Shakes hands as the server. Answers the stream inside TLS and the URI names of the other
    /// end's certificate.
    ///
    /// # Errors
    /// The other end has no certificate of the cluster, or went away.
    pub async fn accept(&self, stream: Stream) -> Result<(Stream, Vec<String>), TlsError> {
        let server = self.0.configs.borrow().server.clone();
        let (peer, local) = (stream.peer.clone(), stream.local.clone());
        let inside = TlsAcceptor::from(server)
            .accept(stream)
            .await
            .map_err(|source| TlsError::Handshake { peer: peer.clone(), source })?;
        let leaf = inside.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = self.member_names(leaf, &peer)?;
        Ok((Stream { kind: StreamKind::Tls(Box::new(TlsStream::Server(inside))), peer, local }, names))
    }

    /// Shakes hands as a client. Answers the stream inside TLS and the URI names of the other
    /// end's certificate.
    ///
    /// # Errors
    /// The other end has no certificate of the cluster, refuses ours, or went away. With TLS 1.3
    /// a refusal of ours may show only at the first read.
    pub async fn connect(&self, stream: Stream) -> Result<(Stream, Vec<String>), TlsError> {
        let client = self.0.configs.borrow().client.clone();
        let (peer, local) = (stream.peer.clone(), stream.local.clone());
        let name = ServerName::try_from(self.0.name.clone()).map_err(|_| TlsError::ServerName(self.0.name.clone()))?;
        let inside = TlsConnector::from(client)
            .connect(name, stream)
            .await
            .map_err(|source| TlsError::Handshake { peer: peer.clone(), source })?;
        let leaf = inside.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = self.member_names(leaf, &peer)?;
        Ok((Stream { kind: StreamKind::Tls(Box::new(TlsStream::Client(inside))), peer, local }, names))
    }

    /// The URI names of a verified certificate, if it is a member's.
    fn member_names(&self, leaf: Option<&CertificateDer<'_>>, peer: &str) -> Result<Vec<String>, TlsError> {
        let refused = |why: &str| TlsError::Handshake {
            peer: peer.to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::PermissionDenied, why.to_owned()),
        };
        let leaf = leaf.ok_or_else(|| refused("it shows no certificate"))?;
        let parsed =
            webpki::EndEntityCert::try_from(leaf).map_err(|error| refused(&format!("its certificate: {error}")))?;
        let name = ServerName::try_from(self.0.name.as_str()).map_err(|_| TlsError::ServerName(self.0.name.clone()))?;
        parsed
            .verify_is_valid_for_subject_name(&name)
            .map_err(|_| refused("its certificate is not of this cluster"))?;
        Ok(parsed.valid_uri_names().map(str::to_owned).collect())
    }
}

impl Configs {
    fn new(name: &str, ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> Result<Configs, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_pem)? {
            roots.add(certificate).map_err(TlsError::Config)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(cert_pem)?;
        // A certificate of another cluster is a mistake to tell now, not at each connection.
        let leaf = webpki::EndEntityCert::try_from(&chain[0]).map_err(|error| TlsError::Pem(error.to_string()))?;
        let server_name = ServerName::try_from(name).map_err(|_| TlsError::ServerName(name.to_owned()))?;
        leaf.verify_is_valid_for_subject_name(&server_name)
            .map_err(|_| TlsError::Pem(format!("the certificate is not made for {name}")))?;
        let key = || PrivateKeyDer::from_pem_slice(key_pem).map_err(|failure| TlsError::Pem(failure.to_string()));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|failure| TlsError::Pem(failure.to_string()))?;
        let versions = [&rustls::version::TLS13];
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions)
            .map_err(TlsError::Config)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(TlsError::Config)?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions)
            .map_err(TlsError::Config)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(TlsError::Config)?;
        // A resumed session would answer for certificates that were exchanged since.
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Configs { server: Arc::new(server), client: Arc::new(client) })
    }
}
