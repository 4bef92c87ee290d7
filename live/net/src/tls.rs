//! TLS 1.3 with raw public keys (RFC 7250): each end proves that it holds its ed25519 key. No certificates, no
//! validity dates, no TLS 1.2, no resumption.

use ol_protocol::key::SecretKey;
use ol_protocol::{GatewayId, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring::{default_provider, sign::any_eddsa_type};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};
use std::sync::Arc;

// HTTP/2, so that a server of another kind on the same port is told apart in the handshake.
const ALPN: &[u8] = b"h2";

// SubjectPublicKeyInfo of ed25519 up to the key, RFC 8410 section 4.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

// PKCS #8 of ed25519 up to the secret, RFC 8410 section 7.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A server that proved another key than the one it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway's key is {got}, not {expected}")]
pub(crate) struct WrongKey {
    pub(crate) expected: GatewayId,
    pub(crate) got: GatewayId,
}

/// How a gateway shakes hands: any node with a key may come.
pub(crate) fn server(key: &SecretKey) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver = AlwaysResolvesServerRawPublicKeys::new(certified(key)?);
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(AnyNode(default_provider())))
        .with_cert_resolver(Arc::new(resolver));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// How a node shakes hands with the gateway of its ticket, and no other.
pub(crate) fn client(key: &SecretKey, gateway: GatewayId) -> Result<Arc<ClientConfig>, rustls::Error> {
    let resolver = AlwaysResolvesClientRawPublicKeys::new(certified(key)?);
    let verifier = OneGateway { gateway, provider: default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver));
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The node whose key a completed handshake proved.
pub(crate) fn proven_node(connection: &rustls::ServerConnection) -> Option<NodeId> {
    public_key(connection.peer_certificates()?.first()?).map(NodeId)
}

fn certified(key: &SecretKey) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let secret = [PKCS8_PREFIX.as_slice(), &key.to_bytes()].concat();
    let signer = any_eddsa_type(&PrivatePkcs8KeyDer::from(secret))?;
    let public = [SPKI_PREFIX.as_slice(), &key.public()].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], signer)))
}

fn public_key(spki: &[u8]) -> Option<[u8; 32]> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

fn verify(
    provider: &CryptoProvider,
    message: &[u8],
    spki: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
    verify_tls13_signature_with_raw_key(message, &spki, signed, &provider.signature_verification_algorithms)
}

const TLS12: rustls::Error = rustls::Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired);
const NOT_A_KEY: rustls::Error = rustls::Error::InvalidCertificate(CertificateError::BadEncoding);

#[derive(Debug)]
struct AnyNode(CryptoProvider);

impl ClientCertVerifier for AnyNode {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        public_key(end_entity).map(|_| ClientCertVerified::assertion()).ok_or(NOT_A_KEY)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(&self.0, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct OneGateway {
    gateway: GatewayId,
    provider: CryptoProvider,
}

impl ServerCertVerifier for OneGateway {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let got = public_key(end_entity).map(GatewayId).ok_or(NOT_A_KEY)?;
        if got == self.gateway {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::Other(OtherError(Arc::new(WrongKey { expected: self.gateway, got }))))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
