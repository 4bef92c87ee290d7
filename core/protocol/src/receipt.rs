//! A receipt: what the node committed to, and what the gateway charged for it.

use crate::bytes::{Error, Reader, Writer};
use crate::commitment::Commitment;
use crate::id::{Digest, TenantId};
use crate::region::Region;
use crate::unit::{MicroCredits, Price, TokenCount};
use alloc::vec::Vec;

/// Bits of the byte that ends a receipt with a mark. One without any is written as before there were marks.
const PUBLIC: u8 = 1;
const WITH_AUDIT: u8 = 2;
/// After it stands the region.
const IN_REGION: u8 = 4;

/// The gateway's part of a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Who pays.
    pub tenant: TenantId,
    /// Salted digest of the request's bytes as the tenant sent them.
    pub request: Digest,
    /// Salted digest of the response's bytes as the tenant received them; for an attempt that another one continued,
    /// of nothing.
    pub response: Digest,
    /// Prompt tokens charged: 0 for all attempts but one, so that a task's prompt is paid once by its tenant.
    pub prompt_tokens: TokenCount,
    /// Output tokens charged.
    pub output_tokens: TokenCount,
    /// The posted price.
    pub price: Price,
    /// The amount: the price of these tokens, rounded up.
    pub amount: MicroCredits,
    /// Whether the tenant lets the content become public if the result is refuted.
    pub public: bool,
    /// Whether the tenant pays for an audit of it: it is drawn for certain, scored whole, and the auditor's pay is in its price.
    pub with_audit: bool,
    /// The only region that the tenant lets it be computed in. Only there is it audited, or by the referee.
    pub region: Option<Region>,
}

impl Charge {
    /// Length of the canonical bytes without marks.
    pub const BYTES: usize = 16 + 2 * 32 + 2 * 4 + 3 * 8;

    fn write(&self, w: &mut Writer) {
        w.raw(&self.tenant.0).raw(&self.request.0).raw(&self.response.0);
        w.u32(self.prompt_tokens.0).u32(self.output_tokens.0);
        w.u64(self.price.prompt_per_million.0).u64(self.price.output_per_million.0).u64(self.amount.0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            tenant: TenantId(r.array()?),
            request: Digest(r.array()?),
            response: Digest(r.array()?),
            prompt_tokens: TokenCount(r.u32()?),
            output_tokens: TokenCount(r.u32()?),
            price: Price { prompt_per_million: MicroCredits(r.u64()?), output_per_million: MicroCredits(r.u64()?) },
            amount: MicroCredits(r.u64()?),
            public: false,
            with_audit: false,
            region: None,
        })
    }
}

/// One attempt's commitment with its charge: one leaf of the gateway's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The node's part.
    pub commitment: Commitment,
    /// The gateway's part.
    pub charge: Charge,
}

impl Receipt {
    /// Length of the canonical bytes; with a mark they are one byte longer, with a region [`Region::BYTES`] more.
    pub const BYTES: usize = Commitment::BYTES + Charge::BYTES;

    /// Whether the amount is the price of the tokens charged, and no more tokens are charged than the node counted.
    pub fn charge_fits(&self) -> bool {
        let (charge, commitment) = (&self.charge, &self.commitment);
        charge.price.charge(charge.prompt_tokens, charge.output_tokens) == Some(charge.amount)
            && charge.prompt_tokens <= commitment.prompt_tokens
            && charge.output_tokens <= commitment.added_tokens()
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.commitment.to_bytes());
        self.charge.write(&mut w);
        let Charge { public, with_audit, region, .. } = self.charge;
        let marks =
            u8::from(public) * PUBLIC + u8::from(with_audit) * WITH_AUDIT + u8::from(region.is_some()) * IN_REGION;
        if marks != 0 {
            w.u8(marks);
        }
        if region.is_some() {
            Region::write(region, &mut w);
        }
        w.finish()
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let (commitment, mut charge) = (Commitment::read(&mut r)?, Charge::read(&mut r)?);
        let (marks, mut rest) = match r.rest() {
            [] => (0, Reader::new(&[])),
            [marks @ 1..=7, rest @ ..] => (*marks, Reader::new(rest)),
            [other, ..] => return Err(Error::Unknown { what: "mark of a receipt", value: u64::from(*other) }),
        };
        (charge.public, charge.with_audit) = (marks & PUBLIC != 0, marks & WITH_AUDIT != 0);
        if marks & IN_REGION != 0 {
            charge.region = Some(Region::read(&mut rest)?.ok_or(Error::Text)?);
        }
        rest.finish()?;
        Ok(Self { commitment, charge })
    }
}
