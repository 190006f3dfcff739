//! TLS towards upstreams. Each tenant has a configuration of its own, because session tickets live in it: a ticket
//! shared between tenants would let one ride on, and be recognised by, the other's sessions.

use std::{collections::HashMap, io, sync::Arc};

use parking_lot::Mutex;
use rustls::{CertificateError, ClientConfig, RootCertStore, client::Resumption, pki_types::ServerName};
use tokio::{net::TcpStream, sync::OnceCell};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::DialError;
use crate::{
    ids::TenantId,
    outbound::{Origin, TransportError},
};

/// Sessions one tenant keeps for resumption.
const SESSIONS: usize = 256;
/// Tenants whose configuration is kept; beyond it all are made anew when needed.
const TENANTS: usize = 4_096;

/// The TLS configurations of all tenants.
pub(crate) struct Tls {
    roots: OnceCell<Arc<RootCertStore>>,
    tenants: Mutex<HashMap<TenantId, Arc<ClientConfig>>>,
}

impl Tls {
    /// With these roots, or the system's.
    pub(crate) fn new(roots: Option<Arc<RootCertStore>>) -> Self {
        Self { roots: OnceCell::new_with(roots), tenants: Mutex::default() }
    }

    /// Shakes hands. HTTP/2 is offered first, then HTTP/1.1.
    pub(crate) async fn connect(
        &self,
        tenant: &TenantId,
        origin: &Origin,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let error = |why: String, certificate| {
            let host = origin.authority().to_string();
            TransportError::Tls { host, why, certificate }
        };
        let name = ServerName::try_from(origin.host.to_string())
            .map_err(|invalid| DialError::Hopeless(error(invalid.to_string(), false)))?;
        let config = self.config(tenant).await.map_err(|why| DialError::Failed(error(why, false)))?;
        TlsConnector::from(config).connect(name, stream).await.map_err(|failure| {
            // What is wrong with a certificate now is so a second later.
            let certificate = is_certificate(&failure);
            let error = error(in_words(&failure), certificate);
            if certificate { DialError::Hopeless(error) } else { DialError::Failed(error) }
        })
    }

    async fn config(&self, tenant: &TenantId) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.tenants.lock().get(tenant) {
            return Ok(Arc::clone(config));
        }
        // Reading the system's store takes tens of milliseconds, off the runtime's threads.
        let load = || async { tokio::task::spawn_blocking(system_roots).await.map_err(|error| error.to_string()) };
        let roots = self.roots.get_or_try_init(load).await?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(Arc::clone(roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let mut tenants = self.tenants.lock();
        if tenants.len() >= TENANTS {
            tenants.clear();
        }
        Ok(Arc::clone(tenants.entry(tenant.clone()).or_insert_with(|| Arc::new(config))))
    }
}

/// What failed, for people: of what the platform says about a certificate its own words.
fn in_words(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            format!("invalid peer certificate: {}", words_of(&format!("{:?}", other.0)))
        }
        _ => error.to_string(),
    }
}

/// `CaUsedAsEndEntity` as words: "ca used as end entity".
fn words_of(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && words.ends_with(|last: char| last.is_ascii_lowercase()) {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

/// Whether a handshake failed for the certificate that the peer showed.
fn is_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

/// The system's roots; where it has none (a bare container), those of Mozilla that come with the program.
pub(crate) fn system_roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a root certificate of the system could not be read");
    }
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    tracing::debug!(added, ignored, "root certificates read");
    Arc::new(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("not shown")]
    struct CaUsedAsEndEntity;

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_in_words() {
        let other = CertificateError::Other(rustls::OtherError(Arc::new(CaUsedAsEndEntity)));
        let error = io::Error::other(rustls::Error::InvalidCertificate(other));
        assert_eq!(in_words(&error), "invalid peer certificate: ca used as end entity");
        let error = io::Error::other(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert_eq!(in_words(&error), "invalid peer certificate: UnknownIssuer");
    }
}
