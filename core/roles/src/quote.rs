//! A price that a gateway holds for a tenant for a while, whatever it posts meanwhile. The quote itself holds the terms, under a
//! tag that only the gateway can make: it keeps nothing of it, and honours it after a restart too.

use alloc::vec::Vec;
use ol_protocol::bytes::{Reader, Writer};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::{Digest, MicroCredits, Micros, Price, Region, TenantId, Timestamp, VariantId};

/// How long a quote holds: enough for a program or a person to decide in, and too short to speculate on.
pub const LIFE: Micros = Micros::from_secs(60);

/// Length of a sealed quote in bytes: the version, its terms and the tag.
pub const BYTES: usize = 1 + 16 + 32 + Region::BYTES + 8 + 8 + 8 + 32;

/// Version of these bytes.
const VERSION: u8 = 2;

/// Quotes of before named no region.
const WITHOUT_REGION: u8 = 1;

/// What a gateway holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Who may name it.
    pub tenant: TenantId,
    /// What computes the answers.
    pub variant: VariantId,
    /// The only region in which it computes them; prices may differ by it.
    pub region: Option<Region>,
    /// What they are charged at.
    pub price: Price,
    /// When it ends.
    pub expires: Timestamp,
}

/// Why a quote does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is none, or not this tenant's: who guesses does not learn which.
    #[error("this gateway gave this account no such quote: ask for one with POST /v1/quotes")]
    Unknown,
    /// Its time is over.
    #[error("the quote expired {} s ago: ask for another with POST /v1/quotes", .ago.0.div_ceil(1_000_000))]
    Expired {
        /// How long it has been over.
        ago: Micros,
    },
}

impl Quote {
    /// A quote that holds from now on.
    pub const fn new(
        now: Timestamp,
        tenant: TenantId,
        variant: VariantId,
        region: Option<Region>,
        price: Price,
    ) -> Self {
        Self { tenant, variant, region, price, expires: now.after(LIFE) }
    }

    /// The terms and their tag.
    pub fn seal(&self, master: &[u8; 32]) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION).raw(&self.tenant.0).raw(&self.variant.0);
        Region::write(self.region, &mut w);
        w.u64(self.price.prompt_per_million.0).u64(self.price.output_per_million.0).u64(self.expires.0);
        let mut bytes = w.finish();
        let tag = tag(master, &bytes);
        bytes.extend_from_slice(&tag.0);
        bytes
    }

    /// What sealed bytes say, whoever made them.
    pub fn terms(bytes: &[u8]) -> Option<Self> {
        let (body, _) = bytes.split_last_chunk::<32>()?;
        Self::read(body)
    }

    /// What [`Quote::seal`] made with the same key, if it holds now for this tenant.
    pub fn open(bytes: &[u8], master: &[u8; 32], now: Timestamp, tenant: TenantId) -> Result<Self, Error> {
        let (body, said) = bytes.split_last_chunk::<32>().filter(|_| bytes.len() <= BYTES).ok_or(Error::Unknown)?;
        let differs = said.iter().zip(tag(master, body).0).fold(0, |acc, (a, b)| acc | (a ^ b));
        let quote = Self::read(body).filter(|quote| differs == 0 && quote.tenant == tenant).ok_or(Error::Unknown)?;
        match now < quote.expires {
            true => Ok(quote),
            false => Err(Error::Expired { ago: now.since(quote.expires) }),
        }
    }

    fn read(body: &[u8]) -> Option<Self> {
        let mut r = Reader::new(body);
        let version = r.u8().ok().filter(|version| (WITHOUT_REGION..=VERSION).contains(version))?;
        let (tenant, variant) = (TenantId(r.array().ok()?), VariantId(r.array().ok()?));
        let region = if version == WITHOUT_REGION { None } else { Region::read(&mut r).ok()? };
        let (prompt, output) = (MicroCredits(r.u64().ok()?), MicroCredits(r.u64().ok()?));
        let expires = Timestamp(r.u64().ok()?);
        r.finish().ok()?;
        let price = Price { prompt_per_million: prompt, output_per_million: output };
        Some(Self { tenant, variant, region, price, expires })
    }
}

fn tag(master: &[u8; 32], body: &[u8]) -> Digest {
    digest(Domain::Task, &[b"quote", master, body])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: [u8; 32] = [9; 32];
    const TENANT: TenantId = TenantId([1; 16]);
    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn quote() -> Quote {
        let price = Price { prompt_per_million: MicroCredits(2), output_per_million: MicroCredits(8) };
        Quote::new(NOW, TENANT, VariantId([2; 32]), "eu-north".parse().ok(), price)
    }

    #[test]
    fn a_quote_holds_for_its_life_and_no_longer() {
        let sealed = quote().seal(&MASTER);
        assert_eq!(sealed.len(), BYTES);
        let open = |now| Quote::open(&sealed, &MASTER, now, TENANT);
        let last = Timestamp(NOW.after(LIFE).0 - 1);
        assert_eq!((open(NOW), open(last)), (Ok(quote()), Ok(quote())));
        assert_eq!(Quote::terms(&sealed), Some(quote()));
        assert_eq!(open(NOW.after(LIFE)), Err(Error::Expired { ago: Micros(0) }));
        let late = open(NOW.after(Micros::from_secs(61))).map_err(|error| alloc::string::ToString::to_string(&error));
        assert_eq!(late, Err("the quote expired 1 s ago: ask for another with POST /v1/quotes".into()));
    }

    #[test]
    fn a_quote_of_before_there_were_regions_holds_anywhere() {
        let Quote { tenant, variant, price, expires, .. } = quote();
        let mut w = Writer::new();
        w.u8(WITHOUT_REGION).raw(&tenant.0).raw(&variant.0);
        w.u64(price.prompt_per_million.0).u64(price.output_per_million.0).u64(expires.0);
        let body = w.finish();
        let sealed = [&body[..], &tag(&MASTER, &body).0].concat();
        let known = Quote { region: None, ..quote() };
        assert_eq!(Quote::open(&sealed, &MASTER, NOW, TENANT), Ok(known));
        assert_eq!(Quote::terms(&sealed), Some(known));
    }

    // The attacks: another tenant names it, another gateway's is brought here, terms are changed.
    #[test]
    fn a_quote_is_no_other_tenants_or_gateways_and_not_to_be_changed() {
        let sealed = quote().seal(&MASTER);
        assert_eq!(Quote::open(&sealed, &MASTER, NOW, TenantId([2; 16])), Err(Error::Unknown));
        assert_eq!(Quote::open(&sealed, &[8; 32], NOW, TENANT), Err(Error::Unknown));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(Quote::open(&changed, &MASTER, NOW, TENANT), Err(Error::Unknown), "byte {at}");
            assert_eq!(Quote::open(&sealed[..at], &MASTER, NOW, TENANT), Err(Error::Unknown), "{at} bytes");
        }
        let longer = [&sealed[..], &[0]].concat();
        assert_eq!(Quote::open(&longer, &MASTER, NOW, TENANT), Err(Error::Unknown));
        // Nor does an order open as one, nor the other way round.
        assert_eq!(crate::order::Order::open(&sealed, &MASTER), None);
    }
}
