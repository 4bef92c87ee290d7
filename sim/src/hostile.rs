//! What a hostile node sends: frames that break the protocol, and frames that only look right.

use crate::config::Broken;
use crate::content::Maker;
use crate::gate::Up;
use crate::host::{Kept, Kind, seal};
use crate::world::{Event, VARIANT, World};
use ol_protocol::batch::SignedBatch;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::key::Signature;
use ol_protocol::record::AttemptId;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, Digest, Epoch, Micros, TaskId, TokenCount};
use ol_roles::node::FailCode;

/// How often a hostile node does something.
const PAUSE: Micros = Micros::from_millis(150);

/// Who makes what a hostile node sends by itself.
const NOISE: Maker = Maker::MAX;

impl World {
    /// A hostile node does one bad thing.
    pub(crate) fn misbehave(&mut self, place: usize) -> Result<(), Broken> {
        if self.now >= self.ends() {
            return Ok(());
        }
        self.agenda.plan(self.now.after(PAUSE), Event::Hostile { place });
        if self.hosts[place].kind == Kind::Hostile && self.hosts[place].link == self.hosts[place].gateway_link {
            let frame = self.bad_frame(place);
            self.send_up(place, frame);
        }
        Ok(())
    }

    fn bad_frame(&mut self, place: usize) -> Up {
        let attempt = self.some_attempt(place);
        let number = self.chances.hostile.below(600) as u32;
        match self.chances.hostile.below(12) {
            0 => Up::Tokens { attempt, count: TokenCount(number), added: TokenCount(number % 40), maker: NOISE },
            1 => Up::Started { attempt, prompt: TokenCount(number), resident: TokenCount(number % 50) },
            2 => Up::Grant { total: u64::from(number % 7) },
            3 => Up::Grant { total: u64::MAX - u64::from(number) },
            4 => Up::Refuse { attempt, code: FailCode::Overloaded, grant: self.hosts[place].granted },
            5 => Up::Done { commitment: self.forged(place, attempt), grant: self.hosts[place].granted },
            6 => Up::Verdict { verdict: self.slander(place), agrees: number.is_multiple_of(2) },
            7 => Up::AuditRefused { audit: AuditId([number as u8; 16]) },
            8 => Up::Batch(self.again(place)),
            9 => Up::Batch(self.renumbered(place)),
            10 => Up::Sealed { seal: seal(&self.slander(place)) },
            _ => self.unordered(place, attempt),
        }
    }

    // One of its own, if it has any, or anybody's.
    fn some_attempt(&mut self, place: usize) -> AttemptId {
        let own: Vec<AttemptId> = self.hosts[place].orders.keys().copied().collect();
        let index = self.chances.hostile.below(own.len() + 1);
        let tasks = self.tasks.len();
        let other = self.chances.hostile.below(tasks.max(1));
        let task = self.tasks.keys().nth(other).copied().unwrap_or(TaskId([0; 16]));
        let attempt = self.chances.hostile.below(3) as u8;
        own.get(index).copied().unwrap_or(AttemptId { task, attempt })
    }

    fn forged(&mut self, place: usize, attempt: AttemptId) -> Commitment {
        let host = &self.hosts[place];
        Commitment {
            network: self.genesis.network(),
            gateway: self.genesis.gateway,
            node: host.id,
            operator: host.operator,
            task: attempt.task,
            attempt: attempt.attempt,
            epoch: Epoch(self.chances.hostile.below(9) as u64),
            variant: VARIANT,
            sampler_version: 1,
            prompt: Digest([1; 32]),
            seed: Digest([2; 32]),
            output: Digest([3; 32]),
            log_probs: Digest([4; 32]),
            finish: Finish::EndOfText,
            prompt_tokens: TokenCount(self.chances.hostile.word()),
            output_tokens: TokenCount(self.chances.hostile.word()),
            resumed_from: TokenCount(self.chances.hostile.word()),
            first_token: Micros(u64::MAX),
            total: Micros(0),
        }
    }

    fn slander(&mut self, place: usize) -> Verdict {
        let any = AuditId([self.chances.hostile.word() as u8; 16]);
        let host = &self.hosts[place];
        // Of what it audits, or sits about in a panel, if there is anything.
        let own: Vec<AuditId> = host.evidence.keys().chain(host.sealed.keys()).copied().collect();
        let audit = own.get(self.chances.hostile.below(own.len() + 1)).copied().unwrap_or(any);
        let level = [Level::CrossAudit, Level::Panel, Level::Referee][self.chances.hostile.below(3)];
        Verdict {
            network: self.genesis.network(),
            audit,
            auditor: host.id,
            operator: host.operator,
            level,
            variant: VARIANT,
            prompt: Digest([1; 32]),
            seed: Digest([2; 32]),
            output: Digest([3; 32]),
            log_probs: Digest([4; 32]),
            prompt_tokens: TokenCount(1),
            output_tokens: TokenCount(1),
            scored_tokens: TokenCount(1),
            worst_margin_micro: u32::MAX,
            margin_sum_micro: u64::MAX,
            finish_fits: false,
            signature: Signature([0; 64]),
        }
    }

    // The oldest batch on its disk, or one out of sequence.
    fn again(&mut self, place: usize) -> Kept {
        let kept = self.hosts[place].old.clone();
        kept.unwrap_or_else(|| self.renumbered(place))
    }

    // An old batch under the next number: everything in it was paid already.
    fn renumbered(&mut self, place: usize) -> Kept {
        let node = self.hosts[place].id;
        let sequence = self.gateway.as_ref().map_or(0, |gateway| gateway.next_batch(&node));
        let skip = u64::from(self.chances.hostile.happens(0.3));
        let (commitments, orders) = match &self.hosts[place].old {
            Some(kept) => (kept.batch.commitments.clone(), kept.orders.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let header = self.hosts[place].header(sequence + skip, Epoch(0), &commitments);
        Kept { batch: SignedBatch { header, commitments, signature: Signature([0; 64]) }, orders, outputs: Vec::new() }
    }

    fn unordered(&mut self, place: usize, attempt: AttemptId) -> Up {
        let commitments = vec![self.forged(place, attempt)];
        let node = self.hosts[place].id;
        let sequence = self.gateway.as_ref().map_or(0, |gateway| gateway.next_batch(&node));
        let header = self.hosts[place].header(sequence, Epoch(0), &commitments);
        let batch = SignedBatch { header, commitments, signature: Signature([0; 64]) };
        Up::Batch(Kept { batch, orders: vec![vec![7; 200]], outputs: Vec::new() })
    }
}
