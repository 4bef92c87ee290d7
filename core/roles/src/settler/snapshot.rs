//! A settler's state as bytes: to restart from, and for the digest that a close states.

use super::{Calibrated, Candidate, Fault, Open, Settler};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ol_ledger::{Auditor, Ledger};
use ol_protocol::bytes::{Reader, Writer};
use ol_protocol::calibration::Calibration;
use ol_protocol::commitment::Commitment;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::AttemptId;
use ol_protocol::{Digest, Epoch, NodeId, OperatorId, Region, TenantId, VariantId};
use ol_trust::Odds;
use ol_trust::draw::Chance;
use ol_trust::policy::Policy;

/// Bits of a snapshot's flags.
const SEALS: u8 = 1;
const REFUTED: u8 = 2;
const CONCEALED: u8 = 4;
const PANELS: u8 = 8;

/// Bits of a held receipt's flags.
const ACCUSED: u8 = 1;
const PUBLIC: u8 = 2;
const WITH_AUDIT: u8 = 4;
/// Its region follows.
const IN_REGION: u8 = 8;

impl Settler {
    /// Digest of everything that decides the future. Meaningful right after a close.
    pub fn digest(&self) -> Digest {
        let (ledger, policy, held) = (self.ledger.digest(), self.policy.digest(), self.held_bytes());
        let (calibrations, refuted, concealed) =
            (self.calibration_bytes(), self.refuted_bytes(), self.concealed_bytes());
        let panels = self.panel_bytes();
        let parts: [&[u8]; 7] = [&ledger.0, &policy.0, &held, &calibrations, &refuted, &concealed, &panels];
        // Logs without the last ones are older than those are, and state digests without them.
        let count = parts.iter().rposition(|part| !part.is_empty()).map_or(3, |last| (last + 1).max(3));
        digest(Domain::State, &parts[..count])
    }

    /// Bytes to restart from. Taken right after a close, when no receipt is unsettled but the held ones.
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.earned.is_empty(), "a snapshot in the middle of an epoch");
        let mut w = Writer::new();
        w.bytes(&self.genesis.to_bytes()).bytes(&self.ledger.to_bytes()).bytes(&self.policy.to_bytes());
        let (draw_seal, nonce_seal) = self.seals.unwrap_or((Digest([0; 32]), Digest([0; 32])));
        let (refuted, concealed, panels) = (self.refuted_bytes(), self.concealed_bytes(), self.panel_bytes());
        // A snapshot without anyone refuted is written as before there was evidence.
        let mut flags = u8::from(self.seals.is_some()) * SEALS;
        flags += u8::from(!refuted.is_empty()) * REFUTED + u8::from(!concealed.is_empty()) * CONCEALED;
        flags += u8::from(!panels.is_empty()) * PANELS;
        w.raw(&draw_seal.0).raw(&nonce_seal.0).u8(flags).bytes(&self.held_bytes());
        for bytes in [refuted, concealed, panels].iter().filter(|bytes| !bytes.is_empty()) {
            w.bytes(bytes);
        }
        w.raw(&self.calibration_bytes());
        w.finish()
    }

    /// Restarts from bytes of [`Settler::to_bytes`]. Bytes that no settler wrote are refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        Self::read(bytes).filter(|settler| settler.to_bytes() == bytes).ok_or(Fault::Snapshot)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let genesis = Genesis::read(&mut Reader::new(r.bytes("genesis", 4_096).ok()?)).ok()?;
        let ledger = Ledger::from_bytes(r.bytes("ledger", usize::MAX).ok()?).ok()?;
        let policy = Policy::from_bytes(r.bytes("policy", usize::MAX).ok()?).ok()?;
        let seals = (Digest(r.array().ok()?), Digest(r.array().ok()?));
        let flags = r.u8().ok()?;
        let seals = (flags & SEALS != 0).then_some(seals);
        let mut held = Reader::new(r.bytes("held receipts", usize::MAX).ok()?);
        let count = held.u64().ok()?;
        let mut open = BTreeMap::new();
        for _ in 0..count {
            let mut receipt = Receipt::from_bytes(held.raw(Receipt::BYTES).ok()?).ok()?;
            let (root, leaf) = (Digest(held.array().ok()?), held.u16().ok()?);
            // It was drawn: at which chance doesn't matter any more.
            let chance = Chance::ALWAYS;
            let id = AttemptId { task: receipt.commitment.task, attempt: receipt.commitment.attempt };
            let accuser = Auditor { node: NodeId(held.array().ok()?), operator: OperatorId(held.array().ok()?) };
            let flags = held.u8().ok()?;
            let accuser = (flags & ACCUSED != 0).then_some(accuser);
            (receipt.charge.public, receipt.charge.with_audit) = (flags & PUBLIC != 0, flags & WITH_AUDIT != 0);
            receipt.charge.region = if flags & IN_REGION == 0 { None } else { Region::read(&mut held).ok()? };
            let known = Open { accuser, ..Open::new(receipt, Candidate { root, leaf, chance }, true) };
            open.insert(id, Box::new(known));
        }
        held.finish().ok()?;
        let refuted = if flags & REFUTED == 0 { &[] } else { r.bytes("refuted commitments", usize::MAX).ok()? };
        let refuted = Self::read_refuted(refuted)?;
        let concealed = if flags & CONCEALED == 0 { &[] } else { r.bytes("concealed commitments", usize::MAX).ok()? };
        let concealed = Self::read_concealed(concealed)?;
        let panels = if flags & PANELS == 0 { &[] } else { r.bytes("panels", usize::MAX).ok()? };
        let panels = Self::read_panels(panels)?;
        let calibrations = Self::read_calibrations(r.rest())?;
        let (earned, arriving, refused) = (Vec::new(), Vec::new(), Vec::new());
        let (network, gateway_tenant) = (genesis.network(), genesis.gateway_tenant());
        Some(Self {
            genesis,
            network,
            gateway_tenant,
            ledger,
            policy,
            calibrations,
            open,
            earned,
            seals,
            arriving,
            refused,
            refuted,
            concealed,
            panels,
        })
    }

    fn read_refuted(bytes: &[u8]) -> Option<BTreeMap<AttemptId, Commitment>> {
        let read = |bytes| {
            let commitment = Commitment::from_bytes(bytes).ok()?;
            Some((AttemptId { task: commitment.task, attempt: commitment.attempt }, commitment))
        };
        bytes.chunks(Commitment::BYTES).map(read).collect()
    }

    fn read_concealed(bytes: &[u8]) -> Option<BTreeMap<AttemptId, (Commitment, TenantId, Epoch)>> {
        let read = |bytes: &[u8]| {
            let (commitment, rest) = bytes.split_at_checked(Commitment::BYTES)?;
            let commitment = Commitment::from_bytes(commitment).ok()?;
            let mut r = Reader::new(rest);
            let (tenant, refuted) = (TenantId(r.array().ok()?), Epoch(r.u64().ok()?));
            r.finish().ok()?;
            let id = AttemptId { task: commitment.task, attempt: commitment.attempt };
            Some((id, (commitment, tenant, refuted)))
        };
        bytes.chunks(Commitment::BYTES + 16 + 8).map(read).collect()
    }

    fn concealed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        for (commitment, tenant, refuted) in self.concealed.values() {
            w.raw(&commitment.to_bytes()).raw(&tenant.0).u64(refuted.0);
        }
        w.finish()
    }

    fn refuted_bytes(&self) -> Vec<u8> {
        self.refuted.values().flat_map(Commitment::to_bytes).collect()
    }

    fn read_calibrations(bytes: &[u8]) -> Option<BTreeMap<(VariantId, VariantId), Calibrated>> {
        let read = |bytes| {
            let calibration = Calibration::from_bytes(bytes).ok()?;
            let odds = Odds::new(&calibration);
            Some(((calibration.prover, calibration.verifier), Calibrated { calibration, odds }))
        };
        bytes.chunks(Calibration::BYTES).map(read).collect()
    }

    fn calibration_bytes(&self) -> Vec<u8> {
        self.calibrations.values().flat_map(|calibrated| calibrated.calibration.to_bytes()).collect()
    }

    fn held_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.open.len() as u64);
        for open in self.open.values() {
            // What follows the charge is among the flags and after them.
            w.raw(&open.receipt.to_bytes()[..Receipt::BYTES]).raw(&open.candidate.root.0).u16(open.candidate.leaf);
            let nobody = Auditor { node: NodeId([0; 32]), operator: OperatorId([0; 32]) };
            let accuser = open.accuser.unwrap_or(nobody);
            let charge = &open.receipt.charge;
            let marks = u8::from(charge.public) * PUBLIC + u8::from(charge.with_audit) * WITH_AUDIT;
            let marks = marks + u8::from(charge.region.is_some()) * IN_REGION;
            w.raw(&accuser.node.0).raw(&accuser.operator.0).u8(u8::from(open.accuser.is_some()) * ACCUSED + marks);
            if charge.region.is_some() {
                Region::write(charge.region, &mut w);
            }
        }
        w.finish()
    }
}
