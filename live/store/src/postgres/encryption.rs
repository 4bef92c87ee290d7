//! How connections to a server are encrypted: what the URL says of it, and the certificates that a server is held against.

use crate::error::Error;
use percent_encoding::percent_decode_str;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// What a URL asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Nothing: it depends on where the server is.
    Default,
    Off,
    On {
        /// The file of the authorities' certificates, if not those that this machine knows.
        authorities: Option<PathBuf>,
    },
}

/// Takes what is said of encryption out of a URL: the client's parser knows no file of certificates, and modes that we
/// don't offer.
pub(super) fn take(url: &str) -> Result<(String, Encryption), Error> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Error::Scheme);
    }
    let Some((start, query)) = url.split_once('?') else { return Ok((url.to_owned(), Encryption::Default)) };
    let (mut mode, mut authorities, mut rest) = (None, None, Vec::new());
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value),
            Some(("sslrootcert", value)) => {
                let file = percent_decode_str(value).decode_utf8().map_err(|_| Error::Encryption)?;
                authorities = Some(PathBuf::from(file.as_ref()));
            }
            _ => rest.push(pair),
        }
    }
    let encryption = match (mode, authorities) {
        (None, None) => Encryption::Default,
        (Some("disable"), None) => Encryption::Off,
        (None | Some("require" | "verify-full"), authorities) => Encryption::On { authorities },
        (Some(_), _) => return Err(Error::Encryption),
    };
    let rest = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    Ok((format!("{start}{rest}"), encryption))
}

/// What shakes hands with a server that proves its name by one of the authorities in the file, or of this machine.
pub(super) fn connector(authorities: Option<&Path>) -> Result<MakeRustlsConnect, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what both versions need")
        .with_root_certificates(roots(authorities)?)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn roots(authorities: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(file) = authorities else {
        // Some of a machine's may be unreadable, or in forms that nobody uses any more.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(Error::NoAuthorities) } else { Ok(roots) };
    };
    let failed = |cause| Error::Certificates { file: file.into(), cause: Arc::new(cause) };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(failed)?;
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() { Err(Error::NoCertificate { file: file.into() }) } else { Ok(roots) }
}
