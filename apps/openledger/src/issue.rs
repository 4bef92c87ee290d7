//! `openledger issue` and `openledger tenant`: what the issuer and the gateways' owner sign, and a gateway takes over HTTP.

use crate::client::Client;
use crate::config::Role;
use crate::flags;
use crate::home::{Home, NETWORK, tenant_id};
use crate::logging::say;
use anyhow::{Context as _, bail, ensure};
use ol_gateway::ApiKey;
use ol_protocol::bytes::Reader;
use ol_protocol::id::{hex, unhex_all};
use ol_protocol::key::Signature;
use ol_protocol::parameters::{ParameterChange, Parameters};
use ol_protocol::tenant::{NAME_BYTES_MAX, TenantEntry};
use ol_protocol::top_up::TopUp;
use ol_protocol::{Epoch, MicroCredits, Micros, NetworkId, OwnerId, TenantId};
use std::process::ExitCode;
use std::str::FromStr;

/// Sign top-ups and changes of parameters with the issuer's key, and hand them to a gateway.
#[derive(Debug, clap::Args)]
pub(crate) struct IssueArgs {
    #[command(subcommand)]
    what: Issue,
}

#[derive(Debug, clap::Subcommand)]
enum Issue {
    /// Sell credits to a tenant.
    TopUp {
        /// The tenant's name.
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// How much, in credits; down to millionths.
        #[arg(long, value_name = "CREDITS", value_parser = credits)]
        credits: MicroCredits,
        /// Above those of the tenant's top-ups so far; the same again changes nothing [default: the time in microseconds].
        #[arg(long, value_name = "NUMBER")]
        serial: Option<u64>,
        #[command(flatten)]
        to: To,
    },
    /// Change parameters from an epoch on, each by a tenth at most.
    Parameters {
        /// The first epoch that it holds for [default: the one after the open one].
        #[arg(long, value_name = "EPOCH")]
        from: Option<u64>,
        /// A parameter and its new value; may be repeated.
        #[arg(long, value_name = "NAME=VALUE", required = true)]
        set: Vec<Setting>,
        #[command(flatten)]
        to: To,
    },
}

/// Say who may ask the gateways of one owner.
#[derive(Debug, clap::Args)]
pub(crate) struct TenantArgs {
    #[command(subcommand)]
    what: Entry,
}

#[derive(Debug, clap::Subcommand)]
enum Entry {
    /// Enter a tenant, or give one another key; prints the key, once.
    Add {
        /// What people call it.
        #[arg(value_name = "NAME")]
        name: String,
        /// Requests in a minute [default: what the gateway gives everyone].
        #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
        requests_per_minute: u32,
        /// Tokens, prompt and output together, in a minute [default: what the gateway gives everyone].
        #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
        tokens_per_minute: u32,
        #[command(flatten)]
        to: To,
    },
    /// Take a tenant's key back; its credits stay.
    Remove {
        /// What people call it.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        to: To,
    },
}

/// Which gateway is told, and where the keys are.
#[derive(Debug, clap::Args)]
struct To {
    /// The gateway's API [default: http:// and the configured `listen`].
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The owner whose gateways it is for, where `gateway-owner.key` isn't in the folder: who asks a gateway alone signs what
    /// that says.
    #[arg(long, value_name = "ID")]
    owner: Option<OwnerId>,
    #[command(flatten)]
    common: flags::Common,
}

// A gateway, and what it says of its network.
struct Gateway {
    client: Client,
    runtime: tokio::runtime::Runtime,
    home: Home,
    network: NetworkId,
    owner: OwnerId,
    epoch: Epoch,
    parameters: Parameters,
}

/// Runs `openledger issue`.
pub(crate) fn issue(args: &IssueArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        Issue::TopUp { tenant, credits, serial, to } => top_up(&to.ask()?, tenant, *credits, *serial),
        Issue::Parameters { from, set, to } => parameters(&to.ask()?, *from, set),
    }
}

/// Runs `openledger tenant`.
pub(crate) fn tenant(args: &TenantArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        Entry::Add { name, requests_per_minute, tokens_per_minute, to } => {
            let (gateway, key) = (to.ask()?, ApiKey::generate()?);
            let entry = gateway.entry(name)?;
            let entry = TenantEntry {
                key: Some(key.digest()),
                requests_per_minute: *requests_per_minute,
                tokens_per_minute: *tokens_per_minute,
                ..entry
            };
            gateway.enter(entry)?;
            say(format!("tenant   {name}, account {}", tenant_id(gateway.network, name)));
            say(format!("API key  {}", key.expose()));
            say("it is kept nowhere but here: store it now. Credits come with `openledger issue top-up`");
        }
        Entry::Remove { name, to } => {
            let gateway = to.ask()?;
            gateway.enter(gateway.entry(name)?)?;
            say(format!("{name} may not ask any more"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn top_up(gateway: &Gateway, name: &str, amount: MicroCredits, serial: Option<u64>) -> anyhow::Result<ExitCode> {
    let tenant = gateway.tenant(name)?;
    let serial = serial.unwrap_or(ol_drive::clock::now().0);
    let issuer = gateway.key("issuer")?;
    let top_up = TopUp::issue(&issuer, gateway.network, gateway.owner, tenant, amount, serial);
    gateway.send("/v1/top-ups", &top_up.to_bytes()).with_context(|| {
        format!("if it isn't known whether {name} got it, repeat this with --serial {serial}: it counts once")
    })?;
    say(format!("{name} has {} more, top-up {serial}", crate::inspect::credits(i128::from(amount.0))));
    Ok(ExitCode::SUCCESS)
}

fn parameters(gateway: &Gateway, from: Option<u64>, set: &[Setting]) -> anyhow::Result<ExitCode> {
    let from = from.map_or(gateway.epoch.next(), Epoch);
    let mut wanted = gateway.parameters;
    for setting in set {
        setting.apply(&mut wanted)?;
    }
    wanted.check()?;
    wanted.check_step(&gateway.parameters)?;
    let before = described(&gateway.parameters);
    for (now, before) in described(&wanted).iter().zip(&before) {
        let mark = if now == before { "" } else { "  <- was " };
        let was = if now == before { "" } else { before.rsplit(' ').next().unwrap_or_default() };
        say(format!("{now}{mark}{was}"));
    }
    let change = ParameterChange::issue(&gateway.key("issuer")?, gateway.network, from, wanted);
    gateway.send("/v1/parameters", &change.to_bytes())?;
    let set: Vec<String> = set.iter().map(|setting| format!("{} = {}", setting.name, setting.value)).collect();
    say(format!("from epoch {from} on: {}", set.join(", ")));
    Ok(ExitCode::SUCCESS)
}

impl To {
    fn ask(&self) -> anyhow::Result<Gateway> {
        let config = flags::load(Role::Gateway, &self.common, None, None, None, None)?;
        let base = self.to.clone().unwrap_or_else(|| format!("http://{}", config.listen));
        ensure!(base.starts_with("http://"), "{base} is no http:// address: give the gateway's with --to");
        let client = Client::to(base.trim_end_matches('/').trim_end_matches("/v1"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(client.get("/v1/network"));
        let said =
            answer.and_then(|answer| answer.json()).with_context(|| format!("cannot ask the gateway at {base}"))?;
        let text = |name: &str| said[name].as_str().with_context(|| format!("the gateway at {base} names no {name}"));
        let home = Home::open(&config.data_dir)?.existing(NETWORK)?;
        let owner = text("owner")?.parse()?;
        self.check_owner(&home, owner)?;
        let bytes = unhex_all(text("parameters")?).context("the gateway's parameters can't be read")?;
        Ok(Gateway {
            network: text("network")?.parse()?,
            owner,
            epoch: Epoch(said["epoch"].as_u64().context("the gateway names no epoch")?),
            parameters: Parameters::read(&mut Reader::new(&bytes))?,
            home,
            client,
            runtime,
        })
    }
}

impl To {
    // Money is signed for whom the person means, not for whom a gateway says it is of.
    fn check_owner(&self, home: &Home, said: OwnerId) -> anyhow::Result<()> {
        let expected = match self.owner {
            Some(owner) => owner,
            None => {
                OwnerId(home.existing_key("gateway-owner").context("name the gateways' owner with --owner")?.public())
            }
        };
        ensure!(said == expected, "the gateway says that it is of owner {said}, not of {expected}");
        Ok(())
    }
}

impl Gateway {
    fn key(&self, name: &str) -> anyhow::Result<ol_protocol::key::SecretKey> {
        self.home.existing_key(name)
    }

    fn tenant(&self, name: &str) -> anyhow::Result<TenantId> {
        ensure!(!name.is_empty() && name.len() <= NAME_BYTES_MAX, "a name has 1 to {NAME_BYTES_MAX} bytes");
        Ok(tenant_id(self.network, name))
    }

    // Of a tenant without a key.
    fn entry(&self, name: &str) -> anyhow::Result<TenantEntry> {
        Ok(TenantEntry {
            network: self.network,
            owner: self.owner,
            tenant: self.tenant(name)?,
            name: name.to_owned(),
            key: None,
            requests_per_minute: 0,
            tokens_per_minute: 0,
            issued_at: ol_drive::clock::now(),
            signature: Signature([0; 64]),
        })
    }

    fn enter(&self, entry: TenantEntry) -> anyhow::Result<()> {
        self.send("/v1/tenants", &entry.signed(&self.key("gateway-owner")?).to_bytes())
    }

    fn send(&self, path: &str, signed: &[u8]) -> anyhow::Result<()> {
        let body = serde_json::json!({ "signed": hex(signed) }).to_string().into_bytes();
        let answer = self.runtime.block_on(self.client.post(path, body))?;
        answer.json().context("the gateway does not take it").map(drop)
    }
}

// All that is signed, as the gateway's word for what holds is in it.
fn described(parameters: &Parameters) -> Vec<String> {
    let Parameters { split, audit, escrow, payout } = parameters;
    let all: [(&str, u64); 14] = [
        ("split.node_bp", split.node_bp.into()),
        ("split.verification_bp", split.verification_bp.into()),
        ("split.reserve_bp", split.reserve_bp.into()),
        ("split.gateway_bp", split.gateway_bp.into()),
        ("audit.newcomer_tasks", audit.newcomer_tasks.into()),
        ("audit.rate_ppm", audit.rate_ppm.into()),
        ("audit.by_charge", audit.by_charge.into()),
        ("audit.deterrent", audit.deterrent.into()),
        ("audit.margin_micro_max", audit.margin_micro_max.into()),
        ("audit.cross_audit_operators_min", audit.cross_audit_operators_min.into()),
        ("audit.pay_bp", audit.pay_bp.into()),
        ("escrow.hold_seconds", escrow.hold.0 / 1_000_000),
        ("escrow.tasks", escrow.tasks.into()),
        ("payout.threshold_micro_credits", payout.threshold.0),
    ];
    all.iter().map(|(name, value)| format!("{name:<34} {value}")).collect()
}

/// A parameter and its new value.
#[derive(Debug, Clone)]
struct Setting {
    name: String,
    value: u64,
}

impl FromStr for Setting {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, value) = text.split_once('=').context("expected NAME=VALUE")?;
        let value = value.parse().with_context(|| format!("{value} is no whole number"))?;
        let setting = Self { name: name.to_owned(), value };
        setting.apply(&mut Parameters::DEFAULT.clone())?;
        Ok(setting)
    }
}

impl Setting {
    // The names are those of docs/protocol/log.md.
    fn apply(&self, parameters: &mut Parameters) -> anyhow::Result<()> {
        let Parameters { split, audit, escrow, payout } = parameters;
        match self.name.as_str() {
            "split.node_bp" => split.node_bp = self.narrow()?,
            "split.verification_bp" => split.verification_bp = self.narrow()?,
            "split.reserve_bp" => split.reserve_bp = self.narrow()?,
            "split.gateway_bp" => split.gateway_bp = self.narrow()?,
            "audit.newcomer_tasks" => audit.newcomer_tasks = self.narrow()?,
            "audit.rate_ppm" => audit.rate_ppm = self.narrow()?,
            "audit.by_charge" => {
                ensure!(self.value <= 1, "audit.by_charge is 0, all results alike, or 1, the dear more often");
                audit.by_charge = self.value == 1;
            }
            "audit.deterrent" => {
                ensure!(
                    self.value <= 1,
                    "audit.deterrent is 0, or 1: escrow as honesty needs it, and tasks of the network's own"
                );
                audit.deterrent = self.value == 1;
            }
            "audit.margin_micro_max" => audit.margin_micro_max = self.narrow()?,
            "audit.cross_audit_operators_min" => audit.cross_audit_operators_min = self.narrow()?,
            "audit.pay_bp" => audit.pay_bp = self.narrow()?,
            "escrow.hold_seconds" => escrow.hold = Micros(self.value.checked_mul(1_000_000).context("too long")?),
            "escrow.tasks" => escrow.tasks = self.narrow()?,
            "payout.threshold_micro_credits" => payout.threshold = MicroCredits(self.value),
            other => bail!(
                "there is no parameter {other}; there are split.node_bp, split.verification_bp, split.reserve_bp, \
                 split.gateway_bp, audit.newcomer_tasks, audit.rate_ppm, audit.by_charge, audit.deterrent, \
                 audit.margin_micro_max, audit.cross_audit_operators_min, audit.pay_bp, escrow.hold_seconds, escrow.tasks, \
                 payout.threshold_micro_credits"
            ),
        }
        Ok(())
    }

    fn narrow<T: TryFrom<u64>>(&self) -> anyhow::Result<T> {
        T::try_from(self.value).map_err(|_| anyhow::anyhow!("{} is too large for {}", self.value, self.name))
    }
}

fn credits(text: &str) -> anyhow::Result<MicroCredits> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_amount = !whole.is_empty() && part.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    ensure!(is_amount, "expected an amount such as 25 or 0.5, with six decimals at most");
    let micro = format!("{whole}{part:0<6}").parse().ok().filter(|micro| (1..=i64::MAX as u64).contains(micro));
    Ok(MicroCredits(micro.context("more than nothing, and less than nine million million")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        let read = |text: &str| credits(text).ok().map(|amount| amount.0);
        assert_eq!(read("25"), Some(25_000_000));
        assert_eq!(read("0.5"), Some(500_000));
        assert_eq!(read("1.000001"), Some(1_000_001));
        for wrong in ["", "0", ".5", "1.0000001", "1,5", "-1", "1e3", "1.2.3", "9999999999999"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_setting_names_a_parameter_and_fits_it() {
        let mut parameters = Parameters::DEFAULT;
        "audit.rate_ppm=7".parse::<Setting>().unwrap().apply(&mut parameters).unwrap();
        "escrow.hold_seconds=60".parse::<Setting>().unwrap().apply(&mut parameters).unwrap();
        assert_eq!((parameters.audit.rate_ppm, parameters.escrow.hold), (7, Micros::from_secs(60)));
        for wrong in ["audit.rate", "audit.rate=1", "split.node_bp=70000", "escrow.tasks=many"] {
            assert!(wrong.parse::<Setting>().is_err(), "{wrong}");
        }
    }
}
