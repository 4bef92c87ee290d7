//! The head of a gateway's log: a C2SP checkpoint in a signed note, so that standard transparency-log tools read it.
//!
//! Source: C2SP tlog-checkpoint and signed-note, https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note.

use crate::id::{Digest, NetworkId};
use crate::key::{SecretKey, Signature, verify_raw};
use crate::unit::Epoch;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sha2::{Digest as _, Sha256};

/// Longest note that is read, in bytes.
pub const NOTE_BYTES_MAX: usize = 4_096;

// The signature type of ed25519 in a signed note.
const ALGORITHM_ED25519: u8 = 1;

/// Why a note is not a checkpoint of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not the text form of a checkpoint.
    #[error("not a checkpoint: {0}")]
    Form(&'static str),
    /// Another log's.
    #[error("a checkpoint of another log")]
    Origin,
    /// No signature of the key holds.
    #[error("no signature of the gateway's key over the checkpoint holds")]
    Signature,
}

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The network, part of the log's origin.
    pub network: NetworkId,
    /// The gateway's public key, part of the log's origin.
    pub gateway: [u8; 32],
    /// How many records the log has.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Digest,
    /// The last epoch whose close is in it.
    pub epoch: Epoch,
    /// Accounts after that close.
    pub state: Digest,
    /// Digest of the draw secret of the next epoch.
    pub draw_seal: Digest,
    /// Digest of the nonce secret of the next epoch.
    pub nonce_seal: Digest,
}

impl Checkpoint {
    /// The log's name: network and gateway, shortened.
    pub fn origin(&self) -> String {
        origin(&self.network, &self.gateway)
    }

    /// The text that is signed.
    pub fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\nepoch {}\nstate {}\ndraw-seal {}\nnonce-seal {}\n",
            self.origin(),
            self.size,
            base64(&self.root.0),
            self.epoch,
            self.state,
            self.draw_seal,
            self.nonce_seal
        )
    }

    /// The signed note.
    pub fn sign(&self, key: &SecretKey) -> String {
        let (text, name) = (self.text(), self.origin());
        let signature = key.sign_raw(text.as_bytes());
        let mut signed = Vec::from(key_hash(&name, &key.public()));
        signed.extend_from_slice(&signature.0);
        format!("{text}\n\u{2014} {name} {}\n", base64(&signed))
    }

    /// Reads a note and checks the gateway's signature; other signatures, such as witnesses', are passed over.
    pub fn open(note: &str, network: NetworkId, gateway: [u8; 32]) -> Result<Self, Error> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(Error::Form("longer than 4 KiB"));
        }
        let at = note.rfind("\n\n").ok_or(Error::Form("no signatures"))?;
        let (text, signatures) = (&note[..=at], &note[at + 2..]);
        let checkpoint = Self::parse(text, network, gateway)?;
        let name = checkpoint.origin();
        let signatures = signatures.strip_suffix('\n').ok_or(Error::Form("the last line has no end"))?;
        let lines: Option<Vec<&str>> = signatures.split('\n').map(|line| line.strip_prefix("\u{2014} ")).collect();
        let lines = lines.ok_or(Error::Form("a line that is no signature"))?;
        let holds = lines.into_iter().any(|line| {
            line.strip_prefix(name.as_str())
                .and_then(|rest| rest.strip_prefix(' '))
                .and_then(unbase64)
                .is_some_and(|bytes| signature_holds(&bytes, &name, &gateway, text))
        });
        if holds { Ok(checkpoint) } else { Err(Error::Signature) }
    }

    fn parse(text: &str, network: NetworkId, gateway: [u8; 32]) -> Result<Self, Error> {
        let mut lines = text.lines();
        let mut line = |what| lines.next().ok_or(Error::Form(what));
        if line("no origin")? != origin(&network, &gateway) {
            return Err(Error::Origin);
        }
        let size = number(line("no size")?).ok_or(Error::Form("the size is no number"))?;
        let root = unbase64(line("no root")?)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Digest)
            .ok_or(Error::Form("the root is not 32 bytes in base64"))?;
        let mut field = |name: &'static str| -> Result<&str, Error> {
            line(name)?.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')).ok_or(Error::Form(name))
        };
        let epoch = number(field("epoch")?).map(Epoch).ok_or(Error::Form("epoch"))?;
        let mut digest = |name: &'static str| field(name)?.parse::<Digest>().map_err(|_| Error::Form(name));
        let (state, draw_seal, nonce_seal) = (digest("state")?, digest("draw-seal")?, digest("nonce-seal")?);
        let checkpoint = Self { network, gateway, size, root, epoch, state, draw_seal, nonce_seal };
        // One checkpoint has one text: whatever else parsed would be signed bytes that nobody wrote.
        if checkpoint.text() == text { Ok(checkpoint) } else { Err(Error::Form("not in canonical form")) }
    }
}

fn origin(network: &NetworkId, gateway: &[u8; 32]) -> String {
    format!("openledger/{}/{}", crate::id::hex(&network.0[..8]), crate::id::hex(&gateway[..8]))
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    (digits && !text.is_empty()).then(|| text.parse().ok()).flatten()
}

// First four bytes of SHA-256(name, newline, algorithm, key), as signed-note says.
fn key_hash(name: &str, key: &[u8; 32]) -> [u8; 4] {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([b'\n', ALGORITHM_ED25519]);
    hash.update(key);
    let full: [u8; 32] = hash.finalize().into();
    [full[0], full[1], full[2], full[3]]
}

fn signature_holds(bytes: &[u8], name: &str, key: &[u8; 32], text: &str) -> bool {
    let Some((hash, signature)) = bytes.split_at_checked(4) else { return false };
    let Ok(signature) = signature.try_into() else { return false };
    hash == key_hash(name, key) && verify_raw(key, text.as_bytes(), &Signature(signature))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for i in 0..4 {
            let digit = (bits >> (18 - 6 * i)) & 63;
            text.push(if i <= chunk.len() { ALPHABET[digit as usize] as char } else { '=' });
        }
    }
    text
}

/// Reads standard base64 with padding; `None` for anything that [`base64`] would not have written.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let stripped = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(stripped.len() * 3 / 4);
    for chunk in stripped.as_bytes().chunks(4) {
        let mut bits: u32 = 0;
        for (i, letter) in chunk.iter().enumerate() {
            let digit = ALPHABET.iter().position(|a| a == letter)?;
            bits |= u32::try_from(digit).ok()? << (18 - 6 * i);
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    (base64(&bytes) == text).then_some(bytes)
}
