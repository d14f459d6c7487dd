//! What the server needs for HTTPS, from files: its certificate, and, where clients are to show theirs, whose are good. Knows no connection.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::assemble::Failure;
use crate::config::Tls;

/// The settings of TLS.
pub(crate) fn server(files: &Tls) -> Result<Arc<ServerConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        Some(path) => builder.with_client_cert_verifier(clients(path, provider)?),
        None => builder.with_no_client_auth(),
    };
    let certificates = all(&files.certificates, "certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| match error {
        PemError::NoItemsFound => format!("{} holds no private key", files.key.display()),
        error => unusable(&files.key, &error),
    })?;
    let mut server = builder.with_single_cert(certificates, key).map_err(|error| unusable(&files.certificates, &error))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

/// Lets in only who shows a certificate that one of a file's signed and none of its revocation lists names.
fn clients(path: &Path, provider: Arc<rustls::crypto::CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in all::<CertificateDer<'_>>(path, "certificate")? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    let revoked: Vec<CertificateRevocationListDer<'_>> = found(path)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(revoked);
    // An authority of the file that revoked nothing need not say so.
    let builder = builder.only_check_end_entity_revocation().allow_unknown_revocation_status();
    Ok(builder.build().map_err(|error| unusable(path, &error))?)
}

/// What there is of one kind in a file, at least one.
fn all<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>, Failure> {
    let found = found(path)?;
    if found.is_empty() { Err(format!("{} holds no {what}: it must be PEM", path.display()).into()) } else { Ok(found) }
}

fn found<T: PemObject>(path: &Path) -> Result<Vec<T>, Failure> {
    Ok(T::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|error| unusable(path, &error))?)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn unusable(path: &Path, error: &dyn Display) -> String {
    format!("{} cannot be used: {error}", path.display())
}
