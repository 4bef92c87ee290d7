//! Where a task's sampling seed and salt come from, so that neither node nor gateway can choose the noise.

use crate::digest::{Domain, digest};
use crate::id::{Digest, Salt, TaskId, TenantId};
use crate::prf::Seed;
use crate::unit::Epoch;

/// The gateway's secret of an epoch that enters the seeds of requests without a client seed. Sealed before the epoch.
pub fn nonce_secret(master: &[u8; 32], epoch: Epoch) -> [u8; 32] {
    digest(Domain::Nonce, &[master, &epoch.0.to_le_bytes()]).0
}

/// The gateway's contribution to the seed of its `counter`-th request of an epoch.
pub fn nonce(secret: &[u8; 32], counter: u64) -> [u8; 32] {
    digest(Domain::Nonce, &[secret, b"request", &counter.to_le_bytes()]).0
}

/// Which noise a task gets. With a client seed the nonce plays no part: the same request gives the same text.
pub fn derive(tenant: &TenantId, client_seed: Option<u64>, request: &Digest, nonce: &[u8; 32]) -> Seed {
    let parts = match client_seed {
        Some(seed) => digest(Domain::Seed, &[b"client", &tenant.0, &seed.to_le_bytes(), &request.0]),
        None => digest(Domain::Seed, &[b"gateway", &tenant.0, nonce, &request.0]),
    };
    Seed(parts.0)
}

/// The salt of a task's digests, from a secret of the gateway.
pub fn salt(master: &[u8; 32], task: &TaskId) -> Salt {
    Salt(digest(Domain::Salt, &[master, &task.0]).0)
}

/// What a commitment says of the seed.
pub fn seed_digest(salt: &Salt, seed: &Seed) -> Digest {
    digest(Domain::Seed, &[&salt.0, &seed.0])
}
