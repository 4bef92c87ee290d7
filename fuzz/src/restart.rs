//! What a gateway restarts from. Its own files, but a disk can change any byte of them.

use crate::history::{records, reveal};
use crate::{Heap, Target};
use ol_ledger::Ledger;
use ol_protocol::parameters::AuditRule;
use ol_protocol::{MicroCredits, NodeId, Timestamp, VariantId};
use ol_roles::Settler;
use ol_trust::Policy;
use ol_trust::policy::Work;

/// Maps of small entries.
const MAPS: Heap = Heap { fixed: 256 << 10, per_byte: 64 };

/// The targets.
pub const TARGETS: [Target; 3] = [
    Target { name: "ledger", seeds: || vec![records().1.ledger().to_bytes()], read: read_ledger, heap: MAPS },
    Target { name: "policy", seeds: policies, read: read_policy, heap: MAPS },
    Target { name: "settler", seeds: || vec![records().1.to_bytes()], read: read_settler, heap: MAPS },
];

fn policies() -> Vec<Vec<u8>> {
    let (records, _) = records();
    let mut policy = Policy::new();
    for record in &records {
        if let ol_protocol::record::Record::Receipt(receipt) = record {
            policy.record(&AuditRule::DEFAULT, &work(receipt.commitment.node, receipt.commitment.variant));
        }
    }
    vec![Policy::new().to_bytes(), policy.to_bytes()]
}

fn work(node: NodeId, variant: VariantId) -> Work {
    Work { node, variant, public: true, charge: MicroCredits(u64::MAX), with_audit: false }
}

fn read_ledger(bytes: &[u8]) {
    let Ok(mut ledger) = Ledger::from_bytes(bytes) else { return };
    assert_eq!(ledger.to_bytes(), bytes, "two forms of one ledger");
    let _ = ledger.close(ledger.open_epoch(), Timestamp(u64::MAX), u32::MAX, &[]);
}

fn read_policy(bytes: &[u8]) {
    let Ok(mut policy) = Policy::from_bytes(bytes) else { return };
    assert_eq!(policy.to_bytes(), bytes, "two forms of one policy");
    let known: Vec<_> = policy.standings().map(|(node, variant, _)| (node, variant)).collect();
    policy.close();
    for (node, variant) in known {
        policy.record(&AuditRule::DEFAULT, &work(node, variant));
        let _ = policy.chance(&AuditRule::DEFAULT, &work(node, variant));
        policy.find(node, variant, ol_trust::Finding::Passed, ol_protocol::Epoch(1));
        policy.find(node, variant, ol_trust::Finding::Failed, ol_protocol::Epoch(u64::MAX));
    }
}

fn read_settler(bytes: &[u8]) {
    let Ok(mut settler) = Settler::from_bytes(bytes) else { return };
    assert_eq!(settler.to_bytes(), bytes, "two forms of one settler");
    let _ = settler.close(Timestamp(u64::MAX), &reveal());
}
