//! How often a node's results are audited, from what its audits said.

use crate::draw::Chance;
use crate::suspicion::Suspicion;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ol_protocol::bytes::{self, Reader, Writer};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::parameters::AuditRule;
use ol_protocol::{Digest, Epoch, MicroCredits, Micros, NodeId, VariantId};

/// Clean audits in a row after its first fault until not every result of a node is audited; each further fault doubles them.
/// With n clean audits since, of which the first K were of every result, a result is then audited with chance K / n: a
/// cheat gets n / K bad results through before its next fault, after some n^2 / 2K + K / 2 good ones, eight and more for each
/// bad one.
const REDEEMING_AUDITS: u32 = 32;

/// Most doublings, so that the count stays inside its type.
const DOUBLINGS_MAX: u32 = 16;

/// Which part of the audit rate a private result gets where others are public: the rest goes to those, whose faults cost escrow.
const PRIVATE_PART: u64 = 4;

/// Which part of the usual chance the cheapest results keep.
const CHEAP_PART: u32 = 4;

/// How much of the share of public results, and of the mean charge, is an epoch's own: one in so many.
const SMOOTHING: u64 = 8;

/// How many results the share of public ones is taken over that escrow goes by: more than pay is held for.
const OPEN_MEMORY: u64 = 4_096;

/// Of a variant's charges in a snapshot.
const CHARGES_BYTES: usize = 32 + 3 * 8;

const MILLION: u64 = 1_000_000;

/// Version of the bytes.
const SNAPSHOT_VERSION: u16 = 1;

/// Bits of a standing's flags. A standing without suspicion is written as before there was any.
const SUSPECT: u8 = 1;
const SUSPICION: u8 = 2;

/// How an audit of a result ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    /// The result is what the node committed to.
    Passed,
    /// Nothing is wrong with it by itself, but an honest node is not likelier to have such margins than a cheat.
    Unclear,
    /// It is not.
    Failed,
    /// The gateway lost the payload, or nobody measured in time what honest answers look like: says nothing about the node.
    Unauditable,
}

/// What is known of a node in a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Clean audits since the last failed one.
    pub clean: u32,
    /// Failed audits.
    pub failed: u32,
    /// Receipts.
    pub tasks: u64,
    /// Whether it failed and has not made up for it yet: all its results are audited.
    pub suspect: bool,
    /// The epoch of the last failed audit.
    pub failed_in: Option<Epoch>,
    /// What its audited answers, taken together, say against it.
    pub suspicion: Suspicion,
}

/// A result, as far as it decides how likely it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Whose it is.
    pub node: NodeId,
    /// What computed it.
    pub variant: VariantId,
    /// Whether its content may become public.
    pub public: bool,
    /// What it costs.
    pub charge: MicroCredits,
    /// Whether the tenant pays for its audit.
    pub with_audit: bool,
}

/// What results of a variant cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Charges {
    // Of the epochs before, in micro-credits.
    mean: u64,
    // Of this one.
    sum: u64,
    count: u64,
}

impl Charges {
    fn close(&mut self) {
        let (sum, count) = (core::mem::take(&mut self.sum), core::mem::take(&mut self.count));
        if let Some(mean) = sum.checked_div(count) {
            let smoothed =
                (u128::from(self.mean) * u128::from(SMOOTHING - 1) + u128::from(mean)) / u128::from(SMOOTHING);
            self.mean = if self.mean == 0 { mean } else { smoothed as u64 };
        }
    }
}

/// Why bytes are no snapshot of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// They can't be read.
    #[error("the snapshot can't be read")]
    Bytes(#[from] bytes::Error),
    /// A policy would have written other bytes.
    #[error("the snapshot is not in canonical form")]
    NotCanonical,
}

/// The standings of all nodes, fed with the log in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    standings: BTreeMap<(NodeId, VariantId), Standing>,
    // Share of the results of the last epochs that may become public, in millionths; and how many there are in this one.
    public_ppm: u32,
    public: u64,
    all: u64,
    charges: BTreeMap<VariantId, Charges>,
    // Share of the last thousands of results that evidence can take escrow for, in 2^-32, and how many these are.
    open_share: u64,
    open_seen: u64,
}

impl Policy {
    /// Knows nobody yet.
    pub const fn new() -> Self {
        Self {
            standings: BTreeMap::new(),
            public_ppm: 0,
            public: 0,
            all: 0,
            charges: BTreeMap::new(),
            open_share: 0,
            open_seen: 0,
        }
    }

    /// The chance that a node's next result is drawn: ask before [`Policy::record`]. What may become public is drawn more often, what may
    /// not less, and all together as often as the rule says: a fault is found as soon either way, as no node can tell them apart, and of
    /// those that are found more cost escrow. Where the rule weighs by charge, a result is drawn in proportion to what it costs as compared with the variant's
    /// others, so that nobody gains by cheating in the dearest only. Whose audit the tenant pays is drawn for certain.
    pub fn chance(&self, rule: &AuditRule, work: &Work) -> Chance {
        if work.with_audit {
            return Chance::ALWAYS;
        }
        let floors = floors(rule.rate_ppm, self.public_ppm);
        let floor = if work.public { floors.public } else { floors.private };
        let mean = self.charges.get(&work.variant).filter(|_| rule.by_charge).map_or(0, |charges| charges.mean);
        self.standing(work.node, work.variant).chance(rule, by_charge(floor, work.charge, mean))
    }

    /// Counts a result.
    pub fn record(&mut self, rule: &AuditRule, work: &Work) {
        self.standings.entry((work.node, work.variant)).or_default().record();
        self.public = self.public.saturating_add(u64::from(work.public));
        self.all = self.all.saturating_add(1);
        if rule.by_charge {
            let charges = self.charges.entry(work.variant).or_default();
            charges.sum = charges.sum.saturating_add(work.charge.0);
            charges.count = charges.count.saturating_add(1);
        }
        if rule.deterrent {
            self.open_seen = OPEN_MEMORY.min(self.open_seen + 1);
            self.open_share -= self.open_share / self.open_seen;
            self.open_share += if work.public { (1 << 32) / self.open_seen } else { 0 };
        }
    }

    /// Ends an epoch.
    pub fn close(&mut self) {
        let (public, all) = (core::mem::take(&mut self.public), core::mem::take(&mut self.all));
        if all > 0 {
            let share = u128::from(public) * u128::from(MILLION) / u128::from(all);
            let before = u64::from(self.public_ppm);
            self.public_ppm = ((before * (SMOOTHING - 1) + share as u64) / SMOOTHING) as u32;
        }
        self.charges.values_mut().for_each(Charges::close);
    }

    /// Share of the results of the last epochs that may become public, in millionths.
    pub const fn public_ppm(&self) -> u32 {
        self.public_ppm
    }

    /// Share of the last four thousand results or so that may become public, in millionths: what deters over as long as pay is held, where
    /// [`Policy::public_ppm`] follows the epochs. It stands still where the network does not see to it that honesty pays.
    pub const fn open_ppm(&self) -> u32 {
        ((self.open_share * MILLION) >> 32) as u32
    }

    /// Counts the end of an audit.
    pub fn find(&mut self, node: NodeId, variant: VariantId, finding: Finding, now: Epoch) {
        match finding {
            Finding::Unauditable => {}
            Finding::Passed | Finding::Unclear | Finding::Failed => {
                self.standings.entry((node, variant)).or_default().find(finding, now);
            }
        }
    }

    /// Weighs the margins of an audited answer that fits by itself: how much likelier they are with a cheat, in millionths.
    pub fn weigh(&mut self, node: NodeId, variant: VariantId, odds_micro: u64, now: Epoch, epoch_length: Micros) {
        let standing = self.standings.entry((node, variant)).or_default();
        standing.suspicion = standing.suspicion.after(odds_micro, now, epoch_length);
    }

    /// Begins the weighing anew: the node was convicted.
    pub fn convict(&mut self, node: NodeId, variant: VariantId) {
        self.standings.entry((node, variant)).or_default().suspicion = Suspicion::NONE;
    }

    /// What is known of a node in a variant.
    pub fn standing(&self, node: NodeId, variant: VariantId) -> Standing {
        self.standings.get(&(node, variant)).copied().unwrap_or_default()
    }

    /// All that is known, by node, then variant.
    pub fn standings(&self) -> impl Iterator<Item = (NodeId, VariantId, Standing)> + '_ {
        self.standings.iter().map(|((node, variant), standing)| (*node, *variant, *standing))
    }

    /// Digest of everything that decides the next draws.
    pub fn digest(&self) -> Digest {
        digest(Domain::State, &[b"policy", &self.to_bytes()])
    }

    /// Everything that [`Policy::from_bytes`] needs.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(SNAPSHOT_VERSION).u64(self.standings.len() as u64);
        for ((node, variant), standing) in &self.standings {
            w.raw(&node.0).raw(&variant.0);
            standing.write(&mut w);
        }
        // Logs without public results, or chances by charge, are older than those are, and state digests without them.
        if (self.public_ppm, self.public, self.all, self.open_seen) != (0, 0, 0, 0) || !self.charges.is_empty() {
            w.u32(self.public_ppm).u64(self.public).u64(self.all);
        }
        for (variant, charges) in &self.charges {
            w.raw(&variant.0).u64(charges.mean).u64(charges.sum).u64(charges.count);
        }
        if self.open_seen != 0 {
            w.u64(self.open_share).u64(self.open_seen);
        }
        w.finish()
    }

    /// Restores a policy with the same digest.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut r = Reader::new(bytes);
        match r.u16()? {
            SNAPSHOT_VERSION => {}
            other => return Err(bytes::Error::Unknown { what: "snapshot version", value: u64::from(other) }.into()),
        }
        let standings = read_standings(&mut r)?;
        let mut policy = Self { standings, ..Self::new() };
        let rest = r.rest();
        if !rest.is_empty() {
            let mut r = Reader::new(rest);
            (policy.public_ppm, policy.public, policy.all) = (r.u32()?, r.u64()?, r.u64()?);
            let (charges, open) = r.rest().as_chunks::<CHARGES_BYTES>();
            policy.charges = read_charges(charges)?;
            if !open.is_empty() {
                let mut r = Reader::new(open);
                (policy.open_share, policy.open_seen) = (r.u64()?, r.u64()?);
                r.finish()?;
            }
        }
        let can_be = policy.open_share <= 1 << 32
            && policy.open_seen <= OPEN_MEMORY
            && u64::from(policy.public_ppm) <= MILLION
            && policy.public <= policy.all;
        if can_be && policy.to_bytes() == bytes { Ok(policy) } else { Err(RestoreError::NotCanonical) }
    }
}

impl Standing {
    /// The chance that the next receipt is drawn. Newcomers, suspects and who is watched always are, the others at the floor, but who
    /// failed before is drawn more often until many clean audits speak for it.
    pub fn chance(&self, rule: &AuditRule, floor_ppm: u32) -> Chance {
        if self.suspect || self.suspicion.is_watched() || self.tasks < u64::from(rule.newcomer_tasks) {
            return Chance::ALWAYS;
        }
        let redeeming = if self.failed > 0 { redeeming_audits(self.failed) } else { 0 };
        let ppm = u64::from(redeeming) * 1_000_000 / u64::from(self.clean.max(1));
        Chance::per_million(floor_ppm.max(u32::try_from(ppm).unwrap_or(u32::MAX)))
    }

    /// Without one audit that was counted: a result's own is weighed apart.
    pub fn without(self, finding: Finding) -> Self {
        match finding {
            Finding::Passed => Self { clean: self.clean.saturating_sub(1), ..self },
            Finding::Failed => Self { failed: self.failed.saturating_sub(1), ..self },
            Finding::Unclear | Finding::Unauditable => self,
        }
    }

    /// Counts a receipt.
    pub fn record(&mut self) {
        self.tasks = self.tasks.saturating_add(1);
    }

    /// Counts the end of an audit. A fault makes the node a suspect; 32 clean audits in a row, or 64, 128 and so on after
    /// further faults, end that. What is unclear or can't be audited changes nothing here.
    pub fn find(&mut self, finding: Finding, now: Epoch) {
        match finding {
            Finding::Unclear | Finding::Unauditable => {}
            Finding::Passed => {
                self.clean = self.clean.saturating_add(1);
                self.suspect = self.suspect && self.clean < redeeming_audits(self.failed);
            }
            Finding::Failed => {
                let failed = self.failed.saturating_add(1);
                *self = Self { clean: 0, failed, suspect: true, failed_in: Some(now), ..*self };
            }
        }
    }

    fn write(&self, w: &mut Writer) {
        let has_suspicion = self.suspicion != Suspicion::NONE;
        let flags = u8::from(self.suspect) * SUSPECT + u8::from(has_suspicion) * SUSPICION;
        w.u32(self.clean).u32(self.failed).u64(self.tasks).u8(flags);
        w.u8(u8::from(self.failed_in.is_some())).u64(self.failed_in.map_or(0, |epoch| epoch.0));
        if has_suspicion {
            self.suspicion.write(w);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, bytes::Error> {
        let (clean, failed, tasks, flags) = (r.u32()?, r.u32()?, r.u64()?, r.u8()?);
        let (known, epoch) = (r.u8()? != 0, Epoch(r.u64()?));
        let suspicion = if flags & SUSPICION == 0 { Suspicion::NONE } else { Suspicion::read(r)? };
        let suspect = flags & SUSPECT != 0;
        Ok(Self { clean, failed, tasks, suspect, failed_in: known.then_some(epoch), suspicion })
    }
}

/// How often results are drawn of nodes that nothing speaks against, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floors {
    /// Those that may not become public.
    pub private: u32,
    /// Those that may.
    pub public: u32,
}

/// The floors that come to `rate_ppm` in the mean where `public_ppm` of the results may become public. The private one is a quarter of that, and more only
/// where even all public ones are not enough.
pub const fn floors(rate_ppm: u32, public_ppm: u32) -> Floors {
    let (rate, share) = (rate_ppm as u64, public_ppm as u64);
    if share == 0 || share >= MILLION {
        return Floors { private: rate_ppm, public: rate_ppm };
    }
    let private = rate / PRIVATE_PART;
    let public = private + (rate - private) * MILLION / share;
    if public <= MILLION {
        return Floors { private: private as u32, public: public as u32 };
    }
    // Both are below a million: the rate is above the share here.
    let private = rate.saturating_sub(share) * MILLION / (MILLION - share);
    Floors { private: if private < rate { private as u32 } else { rate_ppm }, public: MILLION as u32 }
}

/// A chance in proportion to a charge, up to certainty and down to a quarter; as it is where no mean is known.
const fn by_charge(floor_ppm: u32, charge: MicroCredits, mean: u64) -> u32 {
    if mean == 0 {
        return floor_ppm;
    }
    let ppm = floor_ppm as u128 * charge.0 as u128 / mean as u128;
    let (least, most) = (floor_ppm / CHEAP_PART, MILLION as u128);
    if ppm > most {
        MILLION as u32
    } else if (ppm as u32) < least {
        least
    } else {
        ppm as u32
    }
}

fn read_charges(chunks: &[[u8; CHARGES_BYTES]]) -> Result<BTreeMap<VariantId, Charges>, bytes::Error> {
    let read = |bytes: &[u8; CHARGES_BYTES]| {
        let mut r = Reader::new(bytes);
        let read = (VariantId(r.array()?), Charges { mean: r.u64()?, sum: r.u64()?, count: r.u64()? });
        r.finish()?;
        Ok(read)
    };
    chunks.iter().map(read).collect()
}

fn read_standings(r: &mut Reader<'_>) -> Result<BTreeMap<(NodeId, VariantId), Standing>, bytes::Error> {
    let count = r.u64()?;
    let standing = |_| Ok(((NodeId(r.array()?), VariantId(r.array()?)), Standing::read(r)?));
    (0..count).map(standing).collect()
}

// Clean audits in a row that clear a suspect.
const fn redeeming_audits(failed: u32) -> u32 {
    let doublings = failed.saturating_sub(1);
    REDEEMING_AUDITS << if doublings < DOUBLINGS_MAX { doublings } else { DOUBLINGS_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: NodeId = NodeId([1; 32]);
    const VARIANT: VariantId = VariantId([2; 32]);
    const USUAL: Chance = Chance::per_million(10_000);

    const RULE: AuditRule = AuditRule::DEFAULT;
    const ALIKE: AuditRule = AuditRule { by_charge: false, deterrent: false, ..RULE };

    fn work(public: bool) -> Work {
        Work { node: NODE, variant: VARIANT, public, charge: MicroCredits(100), with_audit: false }
    }

    fn policy(tasks: u32) -> Policy {
        let mut policy = Policy::new();
        (0..tasks).for_each(|_| policy.record(&RULE, &work(false)));
        policy
    }

    fn pass(policy: &mut Policy, times: u32) {
        (0..times).for_each(|_| policy.find(NODE, VARIANT, Finding::Passed, Epoch(2)));
    }

    #[test]
    fn the_first_tasks_in_each_variant_are_always_audited() {
        let other = VariantId([3; 32]);
        let chances: Vec<Chance> = [0, 29, 30, 31].map(|tasks| policy(tasks).chance(&RULE, &work(false))).into();
        assert_eq!(chances, [Chance::ALWAYS, Chance::ALWAYS, USUAL, USUAL]);
        assert_eq!(policy(31).chance(&RULE, &Work { variant: other, ..work(false) }), Chance::ALWAYS);
    }

    #[test]
    fn a_fault_makes_a_suspect_that_clean_audits_in_a_row_clear_by_and_by() {
        let mut policy = policy(40);
        pass(&mut policy, 3);
        policy.find(NODE, VARIANT, Finding::Failed, Epoch(1));
        let suspect = Standing {
            clean: 0,
            failed: 1,
            tasks: 40,
            suspect: true,
            failed_in: Some(Epoch(1)),
            ..Standing::default()
        };
        assert_eq!(policy.standing(NODE, VARIANT), suspect);
        assert_eq!(policy.chance(&RULE, &work(false)), Chance::ALWAYS);
        pass(&mut policy, 31);
        assert_eq!(policy.chance(&RULE, &work(false)), Chance::ALWAYS);
        pass(&mut policy, 1);
        assert!(!policy.standing(NODE, VARIANT).suspect);
        pass(&mut policy, 32);
        assert_eq!(policy.chance(&RULE, &work(false)), Chance::per_million(500_000));
        pass(&mut policy, 3_136);
        assert_eq!(policy.chance(&RULE, &work(false)), USUAL);
        policy.find(NODE, VARIANT, Finding::Failed, Epoch(3));
        pass(&mut policy, 63);
        assert!(policy.standing(NODE, VARIANT).suspect);
        pass(&mut policy, 1);
        assert!(!policy.standing(NODE, VARIANT).suspect);
    }

    #[test]
    fn public_results_are_audited_more_and_all_together_as_often() {
        let mut policy = policy(40);
        let chance = |policy: &Policy, public| policy.chance(&RULE, &work(public)).to_ppm();
        assert_eq!((chance(&policy, true), chance(&policy, false)), (10_000, 10_000));
        policy.close();
        for _ in 0..200 {
            (0..50).for_each(|n| policy.record(&RULE, &work(n == 0)));
            policy.close();
        }
        // One in fifty: 377,500 where the share is met exactly.
        assert!((19_900..=20_000).contains(&policy.public_ppm()), "{}", policy.public_ppm());
        assert!((377_000..380_000).contains(&chance(&policy, true)), "{}", chance(&policy, true));
        assert_eq!(chance(&policy, false), 2_500);
        assert_eq!(Policy::from_bytes(&policy.to_bytes()), Ok(policy));
    }

    #[test]
    fn what_can_become_public_is_remembered_for_thousands_of_results() {
        let mut policy = Policy::new();
        let give = |policy: &mut Policy, results: u32| {
            (0..results).for_each(|n| policy.record(&RULE, &work(n.is_multiple_of(100))));
        };
        give(&mut policy, 1_000);
        assert!((9_500..10_500).contains(&policy.open_ppm()), "{}", policy.open_ppm());
        give(&mut policy, 30_000);
        assert!((9_800..10_100).contains(&policy.open_ppm()), "{}", policy.open_ppm());
        let restored = Policy::from_bytes(&policy.to_bytes()).unwrap();
        assert_eq!(restored, policy);
        // Epochs without any do not end it, as they do for the share that audits go by.
        for _ in 0..100 {
            (0..4).for_each(|_| policy.record(&RULE, &work(false)));
            policy.close();
        }
        assert!(policy.open_ppm() > 8_000 && policy.public_ppm() < 100);
        let mut plain = Policy::new();
        (0..100).for_each(|_| plain.record(&AuditRule { deterrent: false, ..RULE }, &work(true)));
        assert_eq!(plain.open_ppm(), 0);
    }

    #[test]
    fn a_result_is_drawn_in_proportion_to_its_charge() {
        let mut policy = policy(40);
        policy.close();
        let costing = |charge| Work { charge: MicroCredits(charge), ..work(false) };
        let ppm = |policy: &Policy, rule, charge| policy.chance(rule, &costing(charge)).to_ppm();
        let paid = Work { with_audit: true, ..costing(10) };
        assert_eq!(policy.chance(&RULE, &paid), Chance::ALWAYS);
        let of = [0, 10, 50, 100, 1_000, 20_000, u64::MAX].map(|charge| ppm(&policy, &RULE, charge));
        assert_eq!(of, [2_500, 2_500, 5_000, 10_000, 100_000, 1_000_000, 1_000_000]);
        assert_eq!([0, 100, u64::MAX].map(|charge| ppm(&policy, &ALIKE, charge)), [10_000; 3]);
        let other = Work { variant: VariantId([7; 32]), node: NODE, ..costing(9) };
        (0..40).for_each(|_| policy.record(&RULE, &other));
        assert_eq!(policy.chance(&RULE, &other).to_ppm(), 10_000, "before anything is known of a variant's charges");
        (0..40).for_each(|_| policy.record(&RULE, &costing(900)));
        policy.close();
        // An eighth of the way from 100 to 900.
        assert_eq!(ppm(&policy, &RULE, 200), 10_000);
        assert_eq!(policy.chance(&RULE, &other).to_ppm(), 10_000);
        assert_eq!(Policy::from_bytes(&policy.to_bytes()), Ok(policy));
    }

    #[test]
    fn a_policy_that_weighs_all_alike_is_written_as_before_there_was_another() {
        let mut policy = Policy::new();
        (0..3).for_each(|_| policy.record(&ALIKE, &work(false)));
        policy.close();
        assert_eq!(policy.to_bytes().len(), 10 + 64 + 26);
    }

    #[test]
    fn floors_come_to_the_rate_in_the_mean() {
        for (rate, share) in [
            (10_000, 1),
            (10_000, 100),
            (10_000, 20_000),
            (10_000, 999_999),
            (0, 5),
            (1_000_000, 5),
            (300_000, 200_000),
        ] {
            let Floors { private, public } = floors(rate, share);
            let mean =
                (u64::from(public) * u64::from(share) + u64::from(private) * (MILLION - u64::from(share))) / MILLION;
            assert!(u64::from(rate).abs_diff(mean) <= 2, "{rate} {share}: {private} {public}");
            assert!(public >= private && public <= 1_000_000);
        }
    }

    #[test]
    fn what_cannot_be_audited_changes_nothing() {
        let mut policy = policy(1);
        let before = policy.clone();
        policy.find(NODE, VARIANT, Finding::Unauditable, Epoch(1));
        policy.find(NodeId([9; 32]), VARIANT, Finding::Unauditable, Epoch(1));
        assert_eq!(policy, before);
    }

    #[test]
    fn bytes_that_no_policy_wrote_are_refused() {
        let mut policy = Policy::new();
        (0..2).for_each(|_| policy.record(&ALIKE, &work(false)));
        let open = policy.to_bytes();
        let mut impossible = open.clone();
        let at = open.len() - 16;
        impossible[at] = 3;
        assert_eq!(Policy::from_bytes(&impossible), Err(RestoreError::NotCanonical), "more public ones than all");
        policy.close();
        let bytes = policy.to_bytes();
        assert!(Policy::from_bytes(&bytes[1..]).is_err());
        let mut two = bytes.clone();
        two[2] = 2;
        two.extend_from_slice(&bytes[10..]);
        assert_eq!(Policy::from_bytes(&two), Err(RestoreError::NotCanonical));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_restored_policy_goes_on_as_the_first_would(
            steps in prop::collection::vec((0..3u8, 0..2u8, 0..8u8, 0..9u64), 0..120), cut in 0..120usize, by_charge in any::<bool>(),
        ) {
            let rule = if by_charge { RULE } else { ALIKE };
            let mut first = Policy::new();
            let mut second = first.clone();
            for (at, (node, variant, kind, epoch)) in steps.into_iter().enumerate() {
                let (node, variant) = (NodeId([node; 32]), VariantId([variant; 32]));
                for policy in [&mut first, &mut second] {
                    match kind {
                        0 => policy.find(node, variant, Finding::Passed, Epoch(epoch)),
                        1 => policy.find(node, variant, Finding::Failed, Epoch(epoch)),
                        2 => policy.find(node, variant, Finding::Unauditable, Epoch(epoch)),
                        3 => policy.weigh(node, variant, 40_000_000, Epoch(epoch), Micros(1 << 40)),
                        4 => policy.convict(node, variant),
                        5 => policy.close(),
                        _ => policy.record(&rule, &Work { node, variant, public: kind == 6, charge: MicroCredits(epoch), with_audit: false }),
                    }
                }
                if at == cut {
                    second = Policy::from_bytes(&first.to_bytes()).unwrap();
                }
                prop_assert_eq!(first.digest(), second.digest());
                let known = first.standing(node, variant);
                let next = Work { node, variant, public: false, charge: MicroCredits(1), with_audit: false };
                let is_always = first.chance(&rule, &next) == Chance::ALWAYS;
                prop_assert!(!known.suspect || (known.failed > 0 && is_always));
            }
        }
    }
}
