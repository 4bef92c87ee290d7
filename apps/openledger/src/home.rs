//! A data folder: who lives in it, and their keys.

use anyhow::{Context as _, bail};
use ol_gateway::ApiKey;
use ol_protocol::TenantId;
use ol_protocol::certificate::Certificate;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::parameters::Parameters;
use ol_protocol::{GatewayId, IssuerId, Micros, NetworkId, NodeId, OperatorId, OwnerId};
use ol_store::keyfile;
use std::path::{Path, PathBuf};

/// The folder of a network's keys and ledger below the data folder.
pub(crate) const NETWORK: &str = "network";

/// A folder of keys and databases.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// The folder, made if it isn't there.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the data folder {}", path.display()))?;
        Ok(Self(path.to_path_buf()))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A folder in it.
    pub(crate) fn sub(&self, name: &str) -> anyhow::Result<Self> {
        Self::open(&self.0.join(name))
    }

    /// A key of a name, made at first use.
    pub(crate) fn key(&self, name: &str) -> anyhow::Result<SecretKey> {
        let path = self.0.join(format!("{name}.key"));
        keyfile::load_or_create(&path).with_context(|| format!("the key {}", path.display()))
    }

    /// A secret of a name, made at first use.
    pub(crate) fn secret(&self, name: &str) -> anyhow::Result<[u8; 32]> {
        let path = self.0.join(format!("{name}.secret"));
        keyfile::secret_file(&path).with_context(|| format!("the secret {}", path.display()))
    }

    /// The key of a tenant that lives here: the same at every start.
    pub(crate) fn api_key(&self, name: &str) -> anyhow::Result<ApiKey> {
        Ok(ApiKey::from_secret(&self.secret(&format!("tenant-{name}"))?))
    }

    /// The key with which this folder's gateway is asked about any task and node: the same at every start.
    pub(crate) fn operator_key(&self) -> anyhow::Result<ApiKey> {
        Ok(ApiKey::from_secret(&self.secret("operator")?))
    }

    /// The same of a gateway that began here.
    pub(crate) fn existing_operator_key(&self) -> anyhow::Result<ApiKey> {
        let path = self.0.join("operator.secret");
        anyhow::ensure!(path.exists(), "{} is not there: it is made when the gateway starts", path.display());
        self.operator_key()
    }

    /// The parameters of a new network of the keys here.
    pub(crate) fn genesis(&self, epoch: Micros) -> anyhow::Result<Genesis> {
        let gateway = GatewayId(self.key("gateway")?.public());
        let genesis = Genesis {
            issuer: IssuerId(self.key("issuer")?.public()),
            referee: NodeId(self.key("referee")?.public()),
            referee_operator: OperatorId(self.key("referee-operator")?.public()),
            born_at: ol_drive::clock::now(),
            epoch,
            parameters: Parameters::DEFAULT,
            gateway,
            owner: OwnerId([0; 32]),
            signature: Signature([0; 64]),
        };
        Ok(genesis.of(gateway, &self.key("gateway-owner")?))
    }

    /// A node's key and its operator's certificate for it.
    pub(crate) fn identity(&self, node: &str, operator: &str, network: NetworkId) -> anyhow::Result<Identity> {
        let (key, owner) = (self.key(node)?, self.key(operator)?);
        let certificate = Certificate::issue(&owner, network, NodeId(key.public()), ol_drive::clock::now());
        Ok(Identity { key, certificate })
    }

    /// A folder in it that must be there.
    pub(crate) fn existing(&self, name: &str) -> anyhow::Result<Self> {
        let path = self.0.join(name);
        anyhow::ensure!(path.is_dir(), "no network began in {}: give the gateway's --data-dir", self.0.display());
        Ok(Self(path))
    }

    /// Whether a key of a name is there.
    pub(crate) fn has_key(&self, name: &str) -> bool {
        self.0.join(format!("{name}.key")).exists()
    }

    /// A key that must be there.
    pub(crate) fn existing_key(&self, name: &str) -> anyhow::Result<SecretKey> {
        let path = self.0.join(format!("{name}.key"));
        anyhow::ensure!(path.exists(), "{} is not there: who has this key signs", path.display());
        self.key(name)
    }

    /// The first record of this folder's gateway in a network that others began.
    pub(crate) fn joining(&self, first: Genesis) -> anyhow::Result<Genesis> {
        self.existing_key("gateway-owner")
            .context("other gateways use this database: copy gateway-owner.key of the first")?;
        self.founding(first)
    }

    /// The first record of a gateway of this folder's owner in a network that others began.
    pub(crate) fn founding(&self, first: Genesis) -> anyhow::Result<Genesis> {
        Ok(first.of(GatewayId(self.key("gateway")?.public()), &self.key("gateway-owner")?))
    }

    /// The folder of a network that begins or began here.
    pub(crate) fn network(&self) -> anyhow::Result<Self> {
        let home = self.sub(NETWORK)?;
        home.claim("a gateway")?;
        Ok(home)
    }

    /// The referee of the network that began here, and its own folder.
    pub(crate) fn referee(&self, network: NetworkId) -> anyhow::Result<(Self, Identity)> {
        let keys = Self(self.0.join(NETWORK));
        if !keys.0.join("referee.key").exists() {
            bail!("no network began in {}: give the gateway's --data-dir", self.0.display());
        }
        let identity = keys.identity("referee", "referee-operator", network)?;
        Ok((keys.sub("referee")?, identity))
    }

    /// Refuses a folder that another kind of process uses.
    pub(crate) fn claim(&self, what: &str) -> anyhow::Result<()> {
        let path = self.0.join("kind");
        match std::fs::read_to_string(&path) {
            Ok(found) if found.trim() == what => Ok(()),
            // An empty file is left by a start that had no room to write more, or no power.
            Ok(found) if !found.trim().is_empty() => bail!(
                "{} holds {} and can't be used for {what}: give another folder with --data-dir",
                self.0.display(),
                found.trim()
            ),
            Ok(_) | Err(_) => std::fs::write(&path, format!("{what}\n")).with_context(|| {
                format!("cannot write {}: is the disk full, or the folder read-only?", path.display())
            }),
        }
    }
}

/// Who a node is.
pub(crate) struct Identity {
    /// Its key.
    pub(crate) key: SecretKey,
    /// Its operator's word.
    pub(crate) certificate: Certificate,
}

/// The account of a tenant by the name that the gateway's owner gave it.
pub(crate) fn tenant_id(network: NetworkId, name: &str) -> TenantId {
    let full = digest(Domain::Task, &[b"tenant", &network.0, name.as_bytes()]).0;
    let mut id = [0; 16];
    id.copy_from_slice(&full[..16]);
    TenantId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_kind_of_process_and_a_claim_that_was_cut_short_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("kind"), "").unwrap();
        home.claim("a node").unwrap();
        home.claim("a node").unwrap();
        let refused = home.claim("a gateway").unwrap_err().to_string();
        assert!(refused.contains("holds a node"), "{refused}");
    }
}
