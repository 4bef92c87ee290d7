//! A gateway's order for a task, sealed to itself: it travels to the node with the assignment and comes back with the
//! batch, so that a gateway that lost its memory still knows whom to charge, and for how much at most. The node can't read it: from the
//! tenant, or from whether the content may become public, it could tell which results cost escrow.

use ol_protocol::bytes::{Error, Reader, Writer};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::{Digest, Epoch, MicroCredits, NodeId, Price, Region, TaskId, TenantId, TokenCount, VariantId};

/// Longest sealed order, in bytes.
pub const ORDER_BYTES_MAX: usize = 256;

/// What a gateway wants to remember of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The epoch that the attempt belongs to.
    pub epoch: Epoch,
    /// Which run of the gateway gave it: one that has forgotten the task in this run has settled it.
    pub boot: u64,
    /// The task.
    pub task: TaskId,
    /// The attempt, from 0.
    pub attempt: u8,
    /// The node that was to do it.
    pub node: NodeId,
    /// The variant that was to compute it.
    pub variant: VariantId,
    /// Who pays.
    pub tenant: TenantId,
    /// Salted digest of the request's bytes.
    pub request: Digest,
    /// The posted price.
    pub price: Price,
    /// Bound on prompt tokens, from the request's bytes.
    pub prompt_tokens_max: TokenCount,
    /// Bound on output tokens.
    pub output_tokens_max: TokenCount,
    /// How many output tokens earlier attempts had delivered.
    pub resumed_from: TokenCount,
    /// Whether the tenant lets the content become public.
    pub public: bool,
    /// The only region that the tenant lets it be computed in.
    pub region: Option<Region>,
}

impl Order {
    /// A keyed digest of the canonical bytes, which only the gateway can make, and the bytes under a mask that follows from it. All orders are
    /// equally long. Nine hashes of a few blocks.
    pub fn seal(&self, master: &[u8; 32]) -> alloc::vec::Vec<u8> {
        let body = self.body();
        let tag = tag(master, &body);
        let mut w = Writer::new();
        w.raw(&tag.0).raw(&masked(master, &tag.0, &body));
        w.finish()
    }

    /// Opens what [`Order::seal`] made with the same key, now or when it used no mask; `None` for anything else.
    pub fn open(bytes: &[u8], master: &[u8; 32]) -> Option<Self> {
        if bytes.len() > ORDER_BYTES_MAX {
            return None;
        }
        let (said, body) = bytes.split_at_checked(32)?;
        // Both sides are digests under a secret key: a node learns nothing from the time that a comparison takes that
        // would bring it nearer to a forgery than 2^-256 a try, but a fixed-time one costs nothing.
        let is_ours = |body: &[u8]| said.iter().zip(tag(master, body).0).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0;
        let unmasked = masked(master, said, body);
        [unmasked.as_slice(), body].into_iter().find(|body| is_ours(body)).and_then(|body| Self::parse(body).ok())
    }

    fn body(&self) -> alloc::vec::Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.epoch.0)
            .u64(self.boot)
            .raw(&self.task.0)
            .u8(self.attempt)
            .raw(&self.node.0)
            .raw(&self.variant.0)
            .raw(&self.tenant.0);
        w.raw(&self.request.0).u64(self.price.prompt_per_million.0).u64(self.price.output_per_million.0);
        w.u32(self.prompt_tokens_max.0).u32(self.output_tokens_max.0).u32(self.resumed_from.0);
        w.u8(u8::from(self.public));
        Region::write(self.region, &mut w);
        w.finish()
    }

    fn parse(body: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(body);
        let order = Self {
            epoch: Epoch(r.u64()?),
            boot: r.u64()?,
            task: TaskId(r.array()?),
            attempt: r.u8()?,
            node: NodeId(r.array()?),
            variant: VariantId(r.array()?),
            tenant: TenantId(r.array()?),
            request: Digest(r.array()?),
            price: Price { prompt_per_million: MicroCredits(r.u64()?), output_per_million: MicroCredits(r.u64()?) },
            prompt_tokens_max: TokenCount(r.u32()?),
            output_tokens_max: TokenCount(r.u32()?),
            resumed_from: TokenCount(r.u32()?),
            public: false,
            region: None,
        };
        // Orders of before there were public ones, or regions, are shorter: they may come back after an upgrade.
        let (public, region) = match r.rest() {
            [] => (false, None),
            [public @ 0..=1] => (*public == 1, None),
            [public @ 0..=1, region @ ..] => {
                let mut r = Reader::new(region);
                let region = Region::read(&mut r)?;
                r.finish()?;
                (*public == 1, region)
            }
            more => return Err(Error::Long { extra: more.len() }),
        };
        Ok(Self { public, region, ..order })
    }
}

fn tag(master: &[u8; 32], body: &[u8]) -> Digest {
    digest(Domain::Task, &[b"order", master, body])
}

// The tag is another for every body, so that no two masks are the same: a synthetic initialisation vector (RFC 5297), with the
// keyed digest as its function. Masking twice gives the body back.
fn masked(master: &[u8; 32], tag: &[u8], body: &[u8]) -> alloc::vec::Vec<u8> {
    let mut bytes = body.to_vec();
    for (number, block) in (0u32..).zip(bytes.chunks_mut(32)) {
        let mask = digest(Domain::Task, &[b"order mask", master, tag, &number.to_le_bytes()]);
        block.iter_mut().zip(mask.0).for_each(|(byte, mask)| *byte ^= mask);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            epoch: Epoch(12),
            boot: 13,
            task: TaskId([1; 16]),
            attempt: 2,
            node: NodeId([3; 32]),
            variant: VariantId([4; 32]),
            tenant: TenantId([5; 16]),
            request: Digest([6; 32]),
            price: Price { prompt_per_million: MicroCredits(7), output_per_million: MicroCredits(8) },
            prompt_tokens_max: TokenCount(9),
            output_tokens_max: TokenCount(10),
            resumed_from: TokenCount(11),
            public: true,
            region: "eu-north-1".parse().ok(),
        }
    }

    #[test]
    fn an_order_opens_under_its_own_key_only() {
        let sealed = order().seal(&[9; 32]);
        assert!(sealed.len() <= ORDER_BYTES_MAX);
        assert_eq!(Order::open(&sealed, &[9; 32]), Some(order()));
        assert_eq!(Order::open(&sealed, &[8; 32]), None);
        let private = Order { public: false, ..order() };
        assert_eq!(Order::open(&private.seal(&[9; 32]), &[9; 32]), Some(private));
    }

    // The attack: a node that tells public results from private ones is honest in those only.
    #[test]
    fn an_order_does_not_show_its_node_the_tenant_or_what_may_become_public() {
        let sealed: alloc::vec::Vec<_> =
            [true, false].map(|public| Order { public, ..order() }.seal(&[9; 32])).into_iter().collect();
        assert_eq!(sealed[0].len(), sealed[1].len());
        let equal = sealed[0].iter().zip(&sealed[1]).filter(|(a, b)| a == b).count();
        assert!(equal < 12, "{equal} of {} bytes are the same", sealed[0].len());
        for bytes in &sealed {
            let same = |window: &[u8]| window.iter().all(|byte| *byte == window[0]);
            assert!(!bytes.windows(4).any(same), "an id of equal bytes shows");
        }
    }

    #[test]
    fn an_order_of_before_masks_still_opens() {
        let body = order().body();
        // Without its last bytes it is one of before there were regions, or public ones.
        let shorter = &body[..body.len() - Region::BYTES];
        for (body, public) in [(shorter, true), (&shorter[..shorter.len() - 1], false)] {
            let bytes = [&tag(&[9; 32], body).0, body].concat();
            assert_eq!(Order::open(&bytes, &[9; 32]), Some(Order { public, region: None, ..order() }));
        }
    }

    #[test]
    fn an_order_with_any_changed_byte_does_not_open() {
        let sealed = order().seal(&[9; 32]);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(Order::open(&changed, &[9; 32]), None, "byte {at}");
        }
    }
}
