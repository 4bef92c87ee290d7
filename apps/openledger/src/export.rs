//! `openledger ledger payouts` and `openledger ledger export`: what a gateway's log says, for other programs.

use crate::inspect::credits;
use crate::logging::say;
use crate::prune;
use anyhow::Context as _;
use ol_ledger::{Account, Payout, Summary};
use ol_protocol::commitment::Finish;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, AuditOutcome, Record, Ruling};
use ol_protocol::{NetworkId, id};
use ol_roles::Settler;
use ol_store::{Read, records};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The forms in which a payments provider takes payouts.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated values, a line each, after a line of names.
    Csv,
    /// One JSON object a line.
    Json,
}

/// Which payouts, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct PayoutArgs {
    /// The first epoch.
    #[arg(long, value_name = "EPOCH", default_value_t = 0)]
    from: u64,
    /// The last epoch.
    #[arg(long, value_name = "EPOCH", default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
    /// How to write them.
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// A new file; standard output without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Writes payouts as a provider takes them. Each has an id of its own for good, so that a provider can refuse a second one.
trait Adapter {
    fn begin(&self, out: &mut dyn Write) -> std::io::Result<()>;
    fn payout(&self, out: &mut dyn Write, network: NetworkId, payout: &Payout) -> std::io::Result<()>;
}

struct Csv;
struct Json;

impl Adapter for Csv {
    fn begin(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "payout,network,epoch,kind,owner,micro_credits,credits")
    }

    fn payout(&self, out: &mut dyn Write, network: NetworkId, payout: &Payout) -> std::io::Result<()> {
        let (kind, owner) = payee(&payout.account);
        let amount = payout.amount.0;
        let name = name(network, payout);
        writeln!(out, "{name},{network},{},{kind},{owner},{amount},{}", payout.epoch, credits(i128::from(amount)))
    }
}

impl Adapter for Json {
    fn begin(&self, _: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }

    fn payout(&self, out: &mut dyn Write, network: NetworkId, payout: &Payout) -> std::io::Result<()> {
        let (kind, owner) = payee(&payout.account);
        let object = json!({
            "payout": name(network, payout), "network": network.to_string(), "epoch": payout.epoch.0, "kind": kind,
            "owner": owner, "micro_credits": payout.amount.0,
        });
        writeln!(out, "{object}")
    }
}

fn payee(account: &Account) -> (&'static str, String) {
    match account {
        Account::Operator(id) => ("operator", id.to_string()),
        Account::Gateway(id) => ("gateway", id.to_string()),
        Account::Data(id) => ("data", id.to_string()),
        Account::Model(id) => ("model", id.to_string()),
        Account::Issuer
        | Account::Tenant(_)
        | Account::Pending
        | Account::Escrow(_)
        | Account::Verification
        | Account::Reserve => unreachable!("nobody is paid out from {}", account.name()),
    }
}

// Network, epoch and account name a payout.
fn name(network: NetworkId, payout: &Payout) -> String {
    let (kind, owner) = payee(&payout.account);
    let parts = [&network.0[..], &payout.epoch.0.to_le_bytes(), kind.as_bytes(), owner.as_bytes()];
    id::hex(&digest(Domain::Payout, &parts).0[..16])
}

/// Runs `openledger ledger payouts`.
pub(crate) fn payouts(reader: &dyn Read, args: &PayoutArgs) -> anyhow::Result<ExitCode> {
    let adapter: &dyn Adapter = match args.format {
        Format::Csv => &Csv,
        Format::Json => &Json,
    };
    let found = settled_payouts(reader, args.from..=args.to)?;
    let network = reader.network()?.context("the log is empty")?;
    deliver(args.out.as_deref(), |out| {
        adapter.begin(out)?;
        Ok(found.iter().try_for_each(|payout| adapter.payout(out, network, payout))?)
    })?;
    if let Some(path) = &args.out {
        let sum: i128 = found.iter().map(|payout| i128::from(payout.amount.0)).sum();
        say(format!("{} payouts, {} credits in all, are in {}", found.len(), credits(sum), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn settled_payouts(reader: &dyn Read, epochs: RangeInclusive<u64>) -> anyhow::Result<Vec<Payout>> {
    let mut payouts = Vec::new();
    fold(reader, |_, _, _, summary| {
        let closed = summary.into_iter().flat_map(|summary| &summary.payouts);
        payouts.extend(closed.filter(|payout| epochs.contains(&payout.epoch.0)).copied());
        Ok(())
    })?;
    Ok(payouts)
}

// Folds the whole log, or what was not pruned of it; tells of each record after the genesis, with its index and what it settled if it is a close.
fn fold(
    reader: &dyn Read,
    mut taken: impl FnMut(&Settler, u64, &Record, Option<&Summary>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut settler, first) = prune::begin(reader)?;
    for found in records(reader, first..reader.size()?) {
        let (index, record) = found?;
        let wrong = || format!("record {index} does not follow: openledger ledger fsck says more");
        match &mut settler {
            None => settler = Some(Settler::begin(&record).with_context(wrong)?),
            Some(settler) => {
                let summary = settler.apply(&record).with_context(wrong)?;
                taken(settler, index, &record, summary.as_ref())?;
            }
        }
    }
    Ok(())
}

/// What to export, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// A new file; standard output without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const COLUMNS: &str = "record,task,attempt,epoch,tenant,node,operator,variant,finish,prompt_tokens,output_tokens,\
                       prompt_price,output_price,micro_credits,audit,state";

struct Row {
    index: u64,
    receipt: Receipt,
    audit: &'static str,
    state: &'static str,
}

/// Runs `openledger ledger export`: all receipts as comma-separated values. The columns are in docs/operate/run-a-gateway.md.
pub(crate) fn export(reader: &dyn Read, args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let mut rows = Rows::default();
    deliver(args.out.as_deref(), |out| {
        writeln!(out, "{COLUMNS}")?;
        fold(reader, |settler, index, record, summary| {
            rows.take(settler, index, record, summary.is_some());
            Ok(rows.write_settled(out)?)
        })?;
        Ok(rows.write_rest(out)?)
    })?;
    if let Some(path) = &args.out {
        say(format!("{} receipts are in {}", rows.written, path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

// Receipts in the log's order. Those in front of the first that is not settled are written and forgotten.
#[derive(Default)]
struct Rows {
    waiting: VecDeque<Row>,
    written: usize,
    // Where the receipts of the open epoch, and held ones, are among all.
    open: BTreeMap<AttemptId, usize>,
}

impl Rows {
    fn take(&mut self, settler: &Settler, index: u64, record: &Record, is_close: bool) {
        match record {
            Record::Receipt(receipt) => {
                let id = AttemptId { task: receipt.commitment.task, attempt: receipt.commitment.attempt };
                let place = self.written + self.waiting.len();
                // A second receipt of an attempt is never charged.
                let state = if self.open.contains_key(&id) { "refused" } else { "open" };
                self.open.entry(id).or_insert(place);
                self.waiting.push_back(Row { index, receipt: receipt.clone(), audit: "none", state });
            }
            Record::Audit { subject, outcome } => {
                let place = self.open.get(subject).copied();
                if let Some(row) = place.and_then(|place| self.waiting.get_mut(place - self.written)) {
                    // The first end of an audit is final.
                    row.audit = if row.audit == "none" { audited(settler, *subject, outcome) } else { row.audit };
                }
            }
            Record::Genesis(_)
            | Record::TopUp(_)
            | Record::Batch(_)
            | Record::Close(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_)
            | Record::Sealed { .. } => {}
        }
        if is_close {
            self.close(settler);
        }
    }

    fn close(&mut self, settler: &Settler) {
        let held: BTreeSet<AttemptId> = settler.unsettled().map(|(id, _)| *id).collect();
        let refused: BTreeSet<AttemptId> = settler.refused().iter().copied().collect();
        for (id, place) in std::mem::take(&mut self.open) {
            let Some(row) = self.waiting.get_mut(place - self.written) else { continue };
            row.state = match row.audit {
                _ if refused.contains(&id) => "refused",
                _ if held.contains(&id) => "held",
                "failed" => "refunded",
                _ => "settled",
            };
            if row.state == "held" {
                self.open.insert(id, place);
            }
        }
    }

    fn write_settled(&mut self, out: &mut dyn Write) -> std::io::Result<()> {
        while let Some(row) = self.waiting.pop_front_if(|row| !matches!(row.state, "open" | "held")) {
            write_row(out, &row)?;
            self.written += 1;
        }
        Ok(())
    }

    fn write_rest(&mut self, out: &mut dyn Write) -> std::io::Result<()> {
        for row in self.waiting.drain(..) {
            write_row(out, &row)?;
            self.written += 1;
        }
        Ok(())
    }
}

// An accusation is not the end of an audit, nor is a vote that does not decide.
fn audited(settler: &Settler, subject: AttemptId, outcome: &AuditOutcome) -> &'static str {
    let AuditOutcome::Verdict { verdict, ruling } = outcome else { return "unauditable" };
    match settler.ruling_of(subject, verdict, *ruling) {
        Some(ruling @ (Ruling::Passed | Ruling::Failed)) => ruling.name(),
        Some(Ruling::Accused | Ruling::VotedFor | Ruling::VotedAgainst | Ruling::Unstated) | None => "none",
    }
}

fn write_row(out: &mut dyn Write, row: &Row) -> std::io::Result<()> {
    let (c, charge) = (&row.receipt.commitment, &row.receipt.charge);
    let finish = match c.finish {
        Finish::EndOfText => "end",
        Finish::StopString => "stop",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
        Finish::Embedded => "embedded",
    };
    write!(out, "{},{},{},{},{},", row.index, c.task, c.attempt, c.epoch, charge.tenant)?;
    write!(out, "{},{},{},{finish},", c.node, c.operator, c.variant)?;
    write!(out, "{},{},", charge.prompt_tokens.0, charge.output_tokens.0)?;
    write!(out, "{},{},", charge.price.prompt_per_million.0, charge.price.output_per_million.0)?;
    writeln!(out, "{},{},{}", charge.amount.0, row.audit, row.state)
}

// To a new file, complete or not at all, or to standard output.
fn deliver(path: Option<&Path>, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let Some(path) = path else {
        let mut out = BufWriter::new(std::io::stdout().lock());
        write(&mut out)?;
        return Ok(out.flush()?);
    };
    let shown = path.display();
    let there = || format!("cannot make {shown}: if it exists, name another file, so that nothing is paid from two");
    let file = File::create_new(path).with_context(there)?;
    let mut out = BufWriter::new(file);
    let done = write(&mut out).and_then(|()| Ok(out.flush()?)).and_then(|()| Ok(out.get_ref().sync_all()?));
    if let Err(error) = done {
        // Half a file must not be taken for a whole one.
        drop(std::fs::remove_file(path));
        return Err(error).with_context(|| format!("cannot write {shown}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::{Epoch, GatewayId, MicroCredits, OperatorId};

    const NETWORK: NetworkId = NetworkId([0xab; 32]);

    fn written(adapter: &dyn Adapter, payout: &Payout) -> String {
        let mut bytes = Vec::new();
        adapter.begin(&mut bytes).expect("written");
        adapter.payout(&mut bytes, NETWORK, payout).expect("written");
        String::from_utf8(bytes).expect("text")
    }

    fn payout(epoch: u64, account: Account) -> Payout {
        Payout { epoch: Epoch(epoch), account, amount: MicroCredits(1_234_567) }
    }

    #[test]
    fn both_forms_name_a_payout_alike_and_say_what_it_is() {
        let operator = payout(7, Account::Operator(OperatorId([1; 32])));
        let csv = written(&Csv, &operator);
        let (names, line) = csv.split_once('\n').expect("two lines");
        let fields: BTreeMap<&str, &str> = names.split(',').zip(line.trim_end().split(',')).collect();
        let json: serde_json::Value = serde_json::from_str(&written(&Json, &operator)).expect("JSON");
        assert_eq!((fields["kind"], fields["micro_credits"], fields["credits"]), ("operator", "1234567", "1.234567"));
        assert_eq!((fields["epoch"], fields["owner"]), ("7", "01".repeat(32).as_str()));
        for name in ["payout", "network", "kind", "owner"] {
            assert_eq!(json[name], fields[name], "{name}");
        }
        assert_eq!((json["epoch"].as_u64(), json["micro_credits"].as_u64()), (Some(7), Some(1_234_567)));
    }

    #[test]
    fn payouts_of_another_epoch_account_or_network_have_other_names() {
        let of = |epoch, account| name(NETWORK, &payout(epoch, account));
        let (operator, gateway) = (Account::Operator(OperatorId([1; 32])), Account::Gateway(GatewayId([1; 32])));
        let elsewhere = name(NetworkId([1; 32]), &payout(1, operator));
        let names = BTreeSet::from([of(1, operator), of(2, operator), of(1, gateway), elsewhere]);
        assert_eq!(names.len(), 4);
        assert_eq!(of(1, operator), of(1, operator));
    }
}
