//! `openledger ledger`: what a gateway's log says.

use crate::export::{self, ExportArgs, PayoutArgs};
use crate::home::Home;
use crate::honesty::{self, HonestyArgs};
use crate::logging::say;
use crate::verify::mirror;
use crate::{backup, config::Role, flags, gateway, prune, restore};
use anyhow::Context as _;
use ol_gateway::driver::start::SEALED_KEY;
use ol_gateway::driver::start::settle;
use ol_ledger::Account;
use ol_protocol::GatewayId;
use ol_protocol::record::Record;
use ol_roles::Settler;
use ol_sim::Books;
use ol_store::{PostgresReader, Pruned, Read, Server, Snapshot, SqliteReader, Tables};
use std::path::PathBuf;
use std::process::ExitCode;

/// Look into a gateway's ledger.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Every account and what is on it, as of the last settled epoch.
    Balances(Place),
    /// The settled epochs.
    Epochs(Place),
    /// The receipts, newest last.
    Receipts {
        #[command(flatten)]
        place: Place,
        /// Show at most this many of the newest.
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        last: usize,
    },
    /// What was paid out, for a payments provider.
    Payouts {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        args: PayoutArgs,
    },
    /// All receipts, as comma-separated values.
    Export {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        args: ExportArgs,
    },
    /// Whether honesty pays: for each role and variant, how often results are audited and how often they would have to be.
    Honesty {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        args: HonestyArgs,
    },
    /// Check every record, proof and signature of the log, and the books.
    Fsck(Place),
    /// Copy the log to a file, also while the gateway runs.
    Backup(backup::Args),
    /// Delete old receipts, batches and audits that nothing needs any more, also while the gateway runs.
    Prune(prune::Args),
    /// Put a backup into a data folder.
    Restore(restore::Args),
    /// Keep a second copy of a gateway's public log in a folder, checked; run it again to bring it up to date.
    Mirror(mirror::Args),
}

/// Whose ledger, and where it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    common: flags::Common,
    #[command(flatten)]
    ledger: flags::Ledger,
}

/// Runs `openledger ledger`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Balances(place) => balances(open(place)?.read()),
        What::Epochs(place) => epochs(open(place)?.read()),
        What::Receipts { place, last } => receipts(open(place)?.read(), *last),
        What::Payouts { place, args } => export::payouts(open(place)?.read(), args),
        What::Export { place, args } => export::export(open(place)?.read(), args),
        What::Honesty { place, args } => honesty::tell(&settle(open(place)?.read())?, args),
        What::Fsck(place) => fsck(&open(place)?),
        What::Backup(args) => backup::run(args),
        What::Prune(args) => prune::run(args),
        What::Restore(args) => restore::run(args),
        What::Mirror(args) => mirror::run(args),
    }
}

/// A ledger that exists, and where it is.
pub(crate) enum Opened {
    /// In a file.
    File { reader: SqliteReader, path: PathBuf },
    /// On a database server; `key` is the file of the key that opens what is sealed.
    Server { reader: PostgresReader, server: Server, gateway: GatewayId, key: PathBuf },
}

impl Opened {
    /// Asks it.
    pub(crate) fn read(&self) -> &dyn Read {
        match self {
            Self::File { reader, .. } => reader,
            Self::Server { reader, .. } => reader,
        }
    }

    /// How many records the oldest snapshot that is kept covers.
    pub(crate) fn oldest_snapshot(&self) -> Result<Option<u64>, ol_store::Error> {
        let snapshots = match self {
            Self::File { reader, .. } => reader.snapshots(),
            Self::Server { reader, .. } => reader.snapshots(),
        };
        Ok(snapshots?.into_iter().map(|(_, size)| size).min())
    }
}

/// Opens the ledger, whether or not its gateway runs.
pub(crate) fn open(place: &Place) -> anyhow::Result<Opened> {
    let config = flags::load(Role::Gateway, &place.common, Some(&place.ledger), None, None, None)?;
    let folder = config.data_dir.join(crate::home::NETWORK);
    if let Some(server) = gateway::server(&config)? {
        let key = Home::open(&config.data_dir)?.existing(crate::home::NETWORK)?.existing_key("gateway")?;
        let sealed = folder.join(SEALED_KEY);
        let gateway = GatewayId(key.public());
        let reader = PostgresReader::open(&server, &sealed, gateway)
            .with_context(|| format!("cannot open the ledger in {}", server.place()))?;
        return Ok(Opened::Server { reader, server, gateway, key: sealed });
    }
    let path = folder.join("gateway.db");
    anyhow::ensure!(
        path.exists(),
        "no ledger in {}: start a gateway there first, or name its folder with --data-dir, or its database with --store",
        config.data_dir.display()
    );
    let reader = SqliteReader::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Opened::File { reader, path })
}

/// An amount as people read it.
pub(crate) fn credits(micro: i128) -> String {
    let sign = if micro < 0 { "-" } else { "" };
    let micro = micro.unsigned_abs();
    format!("{sign}{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

fn balances(reader: &dyn Read) -> anyhow::Result<ExitCode> {
    let settler = settle(reader)?;
    say(format!("{:<14} {:<66} {:>20}", "account", "whose", "credits"));
    for (account, balance) in settler.ledger().balances() {
        let (kind, whose) = match account {
            Account::Issuer => ("issuer", String::new()),
            Account::Tenant(id) => ("tenant", id.to_string()),
            Account::Pending => ("pending", String::new()),
            Account::Escrow(id) => ("escrow", format!("node {id}")),
            Account::Operator(id) => ("operator", id.to_string()),
            Account::Verification => ("verification", String::new()),
            Account::Reserve => ("reserve", String::new()),
            Account::Gateway(id) => ("gateway", id.to_string()),
            Account::Data(id) => ("data owner", id.to_string()),
            Account::Model(id) => ("model owner", id.to_string()),
        };
        say(format!("{kind:<14} {whose:<66} {:>20}", credits(balance)));
    }
    say(format!("the open epoch is {}", settler.epoch()));
    Ok(ExitCode::SUCCESS)
}

fn epochs(reader: &dyn Read) -> anyhow::Result<ExitCode> {
    say(format!("{:>8}  {:>10}  {:<16}  checkpoint", "epoch", "record", "state"));
    for record in ol_store::records(reader, prune::first(reader)?..reader.size()?) {
        let (index, record) = record?;
        if let Record::Close(close) = record {
            let signed = reader.checkpoint(close.epoch)?.map_or("not signed yet", |_| "signed");
            say(format!("{:>8}  {index:>10}  {:<16}  {signed}", close.epoch.0, &close.state.to_string()[..16]));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn receipts(reader: &dyn Read, last: usize) -> anyhow::Result<ExitCode> {
    let mut shown = std::collections::VecDeque::new();
    for record in ol_store::records(reader, prune::first(reader)?..reader.size()?) {
        let (index, record) = record?;
        if let Record::Receipt(receipt) = record {
            if shown.len() == last {
                shown.pop_front();
            }
            shown.push_back((index, receipt));
        }
    }
    say(format!(
        "{:>8}  {:<32}  {:>7}  {:<8}  {:>6}  {:>6}  {:>12}",
        "record", "task", "attempt", "node", "prompt", "output", "credits"
    ));
    for (index, receipt) in shown {
        let (c, charge) = (&receipt.commitment, &receipt.charge);
        say(format!(
            "{index:>8}  {:<32}  {:>7}  {:<8}  {:>6}  {:>6}  {:>12}",
            c.task.to_string(),
            c.attempt,
            c.node.short(),
            charge.prompt_tokens.0,
            charge.output_tokens.0,
            credits(i128::from(charge.amount.0))
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with a log and its books.
pub(crate) fn faults(reader: &impl Tables) -> anyhow::Result<Vec<String>> {
    Ok(check(reader)?.faults)
}

struct Checked {
    faults: Vec<String>,
    pruned: Option<Pruned>,
    size: u64,
}

// All of one moment: a gateway may go on writing.
fn check<T: Tables>(reader: &T) -> anyhow::Result<Checked> {
    let (findings, rest) =
        ol_store::fsck_then(reader, |reader| anyhow::Ok((books(reader)?, reader.pruned()?, reader.size()?)));
    let mut faults: Vec<String> = findings.iter().map(ToString::to_string).collect();
    match rest {
        Ok((books, pruned, size)) => {
            faults.extend(books);
            Ok(Checked { faults, pruned, size })
        }
        // What was found before says more than that nothing more can be asked.
        Err(error) if faults.is_empty() => Err(error),
        Err(error) => {
            faults.push(format!("the rest can't be checked: {error:#}"));
            Ok(Checked { faults, pruned: None, size: 0 })
        }
    }
}

fn fsck(opened: &Opened) -> anyhow::Result<ExitCode> {
    let Checked { faults, pruned, size } = match opened {
        Opened::File { reader, .. } => check(reader),
        Opened::Server { reader, .. } => check(reader),
    }?;
    for fault in &faults {
        say(format!("WRONG   {fault}"));
    }
    if let Some(Pruned { before, epoch, .. }) = pruned {
        say(format!(
            "pruned  records before {before}: only their hashes were checked, and the books from epoch {epoch} on"
        ));
    }
    say(format!("{size} records checked, {} faults", faults.len()));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

// The accounts three times: from the latest snapshot, from the whole log, and from the whole log by other code.
fn books(reader: &dyn Read) -> anyhow::Result<Option<String>> {
    let whole = match fold(reader)? {
        Ok(settler) => settler,
        Err(fault) => return Ok(Some(fault)),
    };
    let short = match settle(reader) {
        Ok(settler) => settler,
        Err(error) => return Ok(Some(format!("the latest snapshot: {error}"))),
    };
    if short.digest() != whole.digest() {
        return Ok(Some("the latest snapshot is not what the log comes to".into()));
    }
    Ok(whole.ledger().check().err().map(|fault| format!("the books: {fault}")))
}

fn fold(reader: &dyn Read) -> anyhow::Result<Result<Settler, String>> {
    if let Some(base) = reader.base()? {
        return Ok(fold_from(reader, &base));
    }
    let mut both: Option<(Settler, Books)> = None;
    for found in ol_store::records(reader, 0..reader.size()?) {
        // What can't be read was named already.
        let Ok((index, record)) = found else { return Ok(Err("the books: not every record can be read".into())) };
        let Some((settler, books)) = &mut both else {
            match Settler::begin(&record) {
                Ok(settler) => {
                    let books = Books::new(settler.genesis());
                    both = Some((settler, books));
                }
                Err(fault) => return Ok(Err(format!("record {index}: {fault}"))),
            }
            continue;
        };
        let closed = match settler.apply(&record) {
            Ok(closed) => closed,
            Err(fault) => return Ok(Err(format!("record {index}: {fault}"))),
        };
        books.take(&record);
        if let Some(Err(broken)) = closed.map(|_| books.compare(settler.ledger())) {
            return Ok(Err(format!("record {index}: computed a second time, {broken}")));
        }
    }
    Ok(both.map(|(settler, _)| settler).ok_or_else(|| "the log is empty".into()))
}

// The rest of a pruned log. The other code's books begin with the log's beginning, which is gone.
fn fold_from(reader: &dyn Read, base: &Snapshot) -> Result<Settler, String> {
    let books = |fault: &dyn std::fmt::Display| format!("the books: {fault}");
    let mut settler = Settler::from_bytes(&base.bytes).map_err(|fault| books(&fault))?;
    let size = reader.size().map_err(|error| books(&error))?;
    for found in ol_store::records(reader, base.size..size) {
        let (index, record) = found.map_err(|error| books(&error))?;
        settler.apply(&record).map_err(|fault| format!("record {index}: {fault}"))?;
    }
    Ok(settler)
}
