//! `openledger node claims`: what a gateway signed for this node, held against the gateway's log.

use crate::config::Role;
use crate::home::Home;
use crate::inspect::credits;
use crate::logging::say;
use crate::verify::log;
use crate::verify::source::Source;
use crate::{flags, node};
use anyhow::Context as _;
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::bytes::Reader;
use ol_protocol::record::Record;
use ol_protocol::{NetworkId, NodeId};
use ol_store::{KeptBatch, OutboxReader, Peer};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Check that a gateway's log has every batch that the gateway signed for this node.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the log is: http://HOST:PORT/log, or a folder with its tiles.
    #[arg(value_name = "LOG")]
    source: String,
    /// The network: the last part of the ticket that the node joined with.
    #[arg(long, value_name = "ID")]
    network: NetworkId,
    #[command(flatten)]
    common: flags::Common,
}

// What the log says of the node.
#[derive(Default)]
struct Logged {
    batches: BTreeMap<u64, CountersignedBatch>,
    receipts: u64,
    charged: i128,
}

/// Runs `openledger node claims`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = flags::load(Role::Node, &args.common, None, None, None, None)?;
    let path = Home::open(&config.data_dir)?.path().join(node::FOLDER).join("outbox.db");
    anyhow::ensure!(path.exists(), "no node has run in {}: name its --data-dir", config.data_dir.display());
    let outbox = OutboxReader::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let id = outbox.node()?.with_context(|| format!("{} names no node", path.display()))?;
    let source = Source::new(&args.source)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut logged = Logged::default();
    let mut held = 0;
    let asked = log::Asked { network: Some(args.network), ..log::Asked::default() };
    let follow = log::follow(&source, &asked, |follower, record| {
        logged.take(id, record);
        let escrow = ol_ledger::Account::Escrow(id);
        held = follower.settler().balance(&escrow);
        Ok(())
    });
    let (follower, head) = runtime.block_on(follow).context("the log does NOT hold")?;
    let peer = Peer { network: args.network, gateway: follower.settler().genesis().gateway };
    let outcome = compare(&outbox.batches(peer)?, &logged.batches)?;
    let Outcome { found, unsigned, later, missing } = &outcome;
    say(format!("node      {id}"));
    say(format!("log       holds, up to epoch {}", head.checkpoint.epoch));
    say(format!("ok      {found} batches that the gateway signed are in the log as it signed them"));
    if *later > 0 {
        say(format!("open    {later} batches that it signed are later than the log's checkpoint"));
    }
    if *unsigned > 0 {
        say(format!("open    {unsigned} batches wait for its signature: the node sends them again"));
    }
    for sequence in missing {
        say(format!("WRONG   batch {sequence}: the gateway signed it, and the log has another or none in its place"));
    }
    let charged = credits(logged.charged);
    say(format!("{} receipts of this node in the log, charged {charged} credits in all", logged.receipts));
    say(format!("{} credits are in escrow", credits(held)));
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Logged {
    fn take(&mut self, id: NodeId, record: &Record) {
        match record {
            Record::Batch(batch) if batch.header.node == id => {
                self.batches.insert(batch.header.sequence, batch.clone());
            }
            Record::Receipt(receipt) if receipt.commitment.node == id => {
                self.receipts += 1;
                self.charged += i128::from(receipt.charge.amount.0);
            }
            Record::Genesis(_)
            | Record::TopUp(_)
            | Record::Receipt(_)
            | Record::Batch(_)
            | Record::Audit { .. }
            | Record::Close(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_)
            | Record::Sealed { .. } => {}
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    found: usize,
    // Without the gateway's signature.
    unsigned: usize,
    // After the last of the node's batches in the log.
    later: usize,
    // Signed, and not in the log as signed.
    missing: Vec<u64>,
}

fn compare(kept: &[KeptBatch], logged: &BTreeMap<u64, CountersignedBatch>) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let last = logged.keys().next_back();
    for KeptBatch { sequence, countersigned } in kept {
        let Some(bytes) = countersigned else {
            outcome.unsigned += 1;
            continue;
        };
        let signed = CountersignedBatch::read(&mut Reader::new(bytes))
            .with_context(|| format!("the gateway's answer to batch {sequence} can't be read"))?;
        match logged.get(sequence) {
            Some(found) if *found == signed => outcome.found += 1,
            None if last.is_none_or(|last| sequence > last) => outcome.later += 1,
            Some(_) | None => outcome.missing.push(*sequence),
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::batch::BatchHeader;
    use ol_protocol::key::{SecretKey, Signature};
    use ol_protocol::{Digest, Epoch, GatewayId, OperatorId};

    fn signed(sequence: u64, receipts_root: u8) -> CountersignedBatch {
        let key = SecretKey::from_bytes(&[1; 32]);
        let header = BatchHeader {
            network: NetworkId([2; 32]),
            gateway: GatewayId(key.public()),
            node: NodeId([3; 32]),
            operator: OperatorId([4; 32]),
            sequence,
            epoch: Epoch(1),
            count: 1,
            root: Digest([5; 32]),
        };
        CountersignedBatch::sign(&key, header, Signature([6; 64]), Digest([receipts_root; 32]))
    }

    fn entry(sequence: u64, signed: Option<&CountersignedBatch>) -> KeptBatch {
        KeptBatch { sequence, countersigned: signed.map(CountersignedBatch::to_bytes) }
    }

    #[test]
    fn a_batch_that_the_gateway_left_out_or_changed_is_missed_and_a_later_one_is_not() {
        let all: Vec<CountersignedBatch> = (0..5).map(|sequence| signed(sequence, 7)).collect();
        let mut kept: Vec<KeptBatch> = all.iter().map(|batch| entry(batch.header.sequence, Some(batch))).collect();
        kept.push(entry(5, None));
        // The log has 0 as it was, another 1, not 2, and 3.
        let logged = BTreeMap::from([(0, all[0].clone()), (1, signed(1, 8)), (3, all[3].clone())]);
        let outcome = compare(&kept, &logged).expect("readable");
        assert_eq!(outcome, Outcome { found: 2, unsigned: 1, later: 1, missing: vec![1, 2] });
        let damaged = [KeptBatch { sequence: 0, countersigned: Some(vec![1; 20]) }];
        assert!(compare(&damaged, &logged).is_err());
        assert_eq!(compare(&kept[..1], &BTreeMap::new()).expect("readable").later, 1);
    }
}
