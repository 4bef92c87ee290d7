//! Limits of a gateway, each with its reason.

use ol_protocol::Micros;

/// How long a task's memory outlives its answer, waiting for the node's batch: an order that comes later carries what
/// is needed.
pub(super) const ENDED_KEPT: Micros = Micros::from_secs(600);

/// How long a batch waits for the responses of its tasks to be out. A client that reads more slowly gets receipts that
/// name no response.
pub(super) const RESPONSE_WAIT: Micros = Micros::from_secs(2);

/// Nodes that may turn out not to be trusted enough for a task before all that are free are looked at.
pub(super) const UNFIT_LOOKED_AT: usize = 8;

/// A snapshot is taken at the first close at which the log has grown by this part of the settled attempts that are remembered: each of them is
/// written four times in its hour at most, and a restart replays a quarter of an hour of the log and an epoch.
pub(super) const SNAPSHOT_SHARE: u64 = 4;

/// No snapshot is taken of more settled attempts: of 130 bytes each, they would not fit into a row of the store (1 GB). A restart replays the log
/// from the last one.
pub(super) const SNAPSHOT_ATTEMPTS_MAX: u64 = 4_000_000;

/// Time an auditor has. Scoring 2,048 tokens takes some 7 s on one CPU; audits have low priority.
pub(super) const AUDIT: Micros = Micros::from_secs(120);

/// How long a drawn result waits for the referee to measure what honest answers of its variant look like: a hundred answers of a small
/// model take some minutes on one CPU.
pub(super) const CALIBRATION: Micros = Micros::from_secs(1_800);

/// Audits that the referee has at the same time: so many that it never waits for the next, and so few that the last of
/// them begins well within its time.
pub(super) const REFEREE_AUDITS: usize = 8;

/// How long an auditor is not asked whose word on a result of its own variant the referee contradicted: the same arithmetic over the same tokens
/// leaves no room for two opinions, so it did not compute. A day, in which it earns by its own tasks only.
pub(super) const DISTRUST: Micros = Micros::from_secs(86_400);

/// Time that a panel's member has to send what it scored before: a few messages' way.
pub(super) const OPENING: Micros = Micros::from_secs(20);

/// How long an auditor is not asked that let its time pass, or whom a panel contradicted: an hour, as an overloaded node does it too, and two of a
/// panel may be wrong together.
pub(super) const SILENCE: Micros = Micros::from_secs(3_600);

/// How long an audit waits for a node with a free slot; then one that has none does it beside its tasks.
pub(super) const AUDIT_PATIENCE: Micros = Micros::from_secs(20);

/// Waiting audits that are looked at in one go: each costs a look at the nodes that may do it.
pub(super) const AUDITS_LOOKED_AT: usize = 16;

/// Free nodes that are looked at for one audit, once to twice as many: the share of each operator among so many is a few percent from its share
/// of all (1 / sqrt(512) is 4 %), and it takes no longer in a network of a hundred thousand.
pub(super) const AUDITORS_LOOKED_AT: u64 = 512;

/// When a referee that could not answer is asked again.
pub(super) const AUDIT_RETRY: Micros = Micros::from_secs(5);

/// How many tasks may wait however long it takes: a burst of one client at a small network.
pub(super) const QUEUE_FREE: u64 = 64;

/// How long a task may wait beyond these, in times of what a task takes: who waits longer is better served by another gateway, or later.
pub(super) const WAIT_SERVICES: u64 = 1;

/// What may be waited always: people don't notice it, and programs that ask again cost more.
pub(super) const WAIT_FREE: Micros = Micros::from_secs(1);

/// Waiting tasks that are looked at in one go though no free node may take them: each costs a look at the free nodes.
pub(super) const PASSED_OVER_MAX: usize = 8;
