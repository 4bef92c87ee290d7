//! What issuer and owner tell a running gateway: money, parameters, tenants.

use super::handle::{Handle, Shared, lock};
use super::message::Message;
use super::start::known;
use crate::backend::Instruction;
use crate::refusal::{Kind, Refusal};
use ol_protocol::Timestamp;
use ol_protocol::parameters::ParameterChange;
use ol_protocol::tenant::TenantEntry;
use ol_protocol::top_up::TopUp;
use ol_store::{Job, Read, Tenant};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::sync::oneshot;

/// Who is told whether an order of the issuer is in the log, or why the ledger refuses it.
pub(super) type Told = oneshot::Sender<Result<(), ol_ledger::Error>>;

impl Handle {
    /// Carries an instruction out; on the disk when it returns.
    pub(super) async fn carry(&self, instruction: Instruction) -> Result<(), Refusal> {
        match instruction {
            Instruction::TopUp(top_up) => self.top_up(top_up).await,
            Instruction::Parameters(change) => {
                self.check(change.network, change.issuer.0, self.shared.genesis.issuer.0)?;
                self.change(change).await
            }
            Instruction::Tenant(entry) => self.enter(entry).await,
        }
    }

    fn check(&self, network: ol_protocol::NetworkId, signer: [u8; 32], expected: [u8; 32]) -> Result<(), Refusal> {
        if network != self.shared.network {
            return Err(invalid(format!("this is for network {network}, the gateway is of {}", self.shared.network)));
        }
        if signer != expected {
            return Err(Refusal::new(Kind::Forbidden, "signed by somebody else than this gateway listens to"));
        }
        Ok(())
    }

    async fn top_up(&self, top_up: TopUp) -> Result<(), Refusal> {
        self.check(top_up.network, top_up.issuer.0, self.shared.genesis.issuer.0)?;
        let here = self.shared.genesis.owner;
        if top_up.owner != here {
            return Err(invalid(format!("this is for gateways of owner {}, this one is of {here}", top_up.owner)));
        }
        top_up.verify().map_err(|cause| Refusal::new(Kind::Forbidden, cause.to_string()))?;
        if self.shared.funds.is_none() {
            return self.told(|answer| Message::TopUp { top_up: Box::new(top_up), answer }).await;
        }
        let shared = Arc::clone(&self.shared);
        let add = move || shared.funds.as_ref().map_or(Ok(false), |funds| lock(funds).add(&top_up));
        match blocking(add).await?.map_err(|error| unwritten(&error))? {
            true => Ok(()),
            false => Err(Refusal::new(Kind::Superseded, "this top-up is a replay: it was taken before")),
        }
    }

    async fn change(&self, change: ParameterChange) -> Result<(), Refusal> {
        self.told(|answer| Message::Change { change: Box::new(change), answer }).await
    }

    async fn told(&self, message: impl FnOnce(Told) -> Message) -> Result<(), Refusal> {
        let (answer, told) = oneshot::channel();
        let stopped = || Refusal::new(Kind::ShuttingDown, "the gateway is shutting down");
        if !self.tell(message(answer)).await {
            return Err(stopped());
        }
        told.await.map_err(|_| stopped())?.map_err(|error| match error {
            ol_ledger::Error::Replayed { .. } | ol_ledger::Error::ChangeLate { .. } => {
                Refusal::new(Kind::Superseded, error.to_string())
            }
            other => invalid(other.to_string()),
        })
    }

    async fn enter(&self, entry: TenantEntry) -> Result<(), Refusal> {
        self.check(entry.network, entry.owner.0, self.shared.genesis.owner.0)?;
        entry.verify().map_err(|cause| Refusal::new(Kind::Forbidden, cause.to_string()))?;
        if [self.shared.genesis.own_tenant(), self.shared.genesis.gateway_tenant()].contains(&entry.tenant) {
            return Err(Refusal::new(
                Kind::Forbidden,
                "this tenant is the network or the gateway itself: nobody asks in its name",
            ));
        }
        if self.issued(&entry).await?.is_some_and(|known| known >= entry.issued_at) {
            return Err(superseded(&entry));
        }
        let (shared, told) = (Arc::clone(&self.shared), entry.clone());
        let row = blocking(move || write(&shared, &told)).await??;
        // Another entry may have come in between, here or at another gateway: the later one holds.
        if self.issued(&entry).await? != Some(entry.issued_at) {
            return Err(superseded(&entry));
        }
        let mut keys = self.shared.keys.write().unwrap_or_else(PoisonError::into_inner);
        self.shared.entered.fetch_add(1, Ordering::SeqCst);
        keys.replace(ol_protocol::Digest(row.key_hash), known(&row, self.shared.rates));
        Ok(())
    }

    // When the tenant's entry that holds was issued.
    async fn issued(&self, entry: &TenantEntry) -> Result<Option<Timestamp>, Refusal> {
        let tenant = entry.tenant;
        let find = move |read: &dyn Read| {
            let all = read.tenants()?;
            Ok(all.into_iter().find(|known| known.tenant == tenant).map(|known| known.created))
        };
        let gone = || Refusal::new(Kind::Internal, "the gateway failed on this");
        self.shared.questions.ask(find).await.ok_or_else(gone)?.map_err(|error| unwritten(&error))
    }
}

fn superseded(entry: &TenantEntry) -> Refusal {
    let message =
        format!("an entry of this tenant holds that was issued later than {}, or at the same time", entry.issued_at.0);
    Refusal::new(Kind::Superseded, message)
}

fn write(shared: &Shared, entry: &TenantEntry) -> Result<Tenant, Refusal> {
    let row = Tenant {
        tenant: entry.tenant,
        name: entry.name.clone(),
        key_hash: entry.key.map_or_else(|| locked(entry), |key| key.0),
        created: entry.issued_at,
        requests_per_minute: Some(entry.requests_per_minute).filter(|limit| *limit > 0),
        tokens_per_minute: Some(entry.tokens_per_minute).filter(|limit| *limit > 0),
    };
    let job = Job { tenants: vec![row.clone()], ..Job::default() };
    shared.committer.commit(job).map_err(|error| unwritten(&error))?;
    Ok(row)
}

// A digest that is no key's: who has it may not ask. Each tenant's is another, as no two may have one.
fn locked(entry: &TenantEntry) -> [u8; 32] {
    ol_protocol::digest::digest(ol_protocol::digest::Domain::Tenant, &[&entry.tenant.0]).0
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let gone = |_| Refusal::new(Kind::Internal, "the gateway failed on this");
    tokio::task::spawn_blocking(work).await.map_err(gone)
}

fn invalid(message: String) -> Refusal {
    Refusal::new(Kind::Invalid { param: Some("signed".into()) }, message)
}

fn unwritten(error: &ol_store::Error) -> Refusal {
    match error {
        ol_store::Error::Refused(refusal @ ol_store::Refusal::Serial { .. }) => {
            Refusal::new(Kind::Superseded, refusal.to_string())
        }
        ol_store::Error::Refused(refusal) => invalid(refusal.to_string()),
        other => {
            tracing::error!(error = %other, "an instruction can't be written");
            let message = "the gateway's database can't be written now";
            Refusal::new(Kind::Overloaded { retry_after: ol_protocol::Micros::from_secs(5) }, message)
        }
    }
}
