//! How fast the public log may be read, by one address and by all: whoever reads it has no key.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{Bucket, limited};
use crate::refusal::Refusal;

/// Files of the log that one address may read in a minute: a log of 380,000 records at once, and 50 files a second
/// after that.
const FILES_PER_MINUTE: u32 = 3_000;
/// Files of the log that all together may read in a minute. A tile of records and one of hashes take 1.2 ms each on
/// average, docs/bench/2026-11-fuzzing.md: that is a quarter of a core.
const FILES_PER_MINUTE_ALL: u32 = 12_000;
/// Addresses that are told apart: some 2 MB. Whoever comes beyond them shares what one address has.
const ADDRESSES_MAX: usize = 16_384;
/// Time between two searches for addresses that are quiet again.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor(pub(crate) IpAddr);

/// Which limit refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// That of the address.
    Address,
    /// That of all together.
    All,
}

impl Limit {
    /// Its name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Address => "log-address",
            Self::All => "log-all",
        }
    }
}

/// The buckets of all addresses that read lately.
#[derive(Debug)]
pub(crate) struct Visitors(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    all: Bucket,
    addresses: BTreeMap<IpAddr, Bucket>,
    // Of the addresses that found no room.
    others: Bucket,
    swept: Instant,
}

impl Visitors {
    pub(crate) fn new(now: Instant) -> Self {
        let (all, others) = (Bucket::full(FILES_PER_MINUTE_ALL, now), Bucket::full(FILES_PER_MINUTE, now));
        Self(Mutex::new(Buckets { all, addresses: BTreeMap::new(), others, swept: now }))
    }

    /// Counts one file; a refusal counts for nothing.
    pub(crate) fn take_file(&self, address: IpAddr, now: Instant) -> Result<(), (Limit, Refusal)> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let for_all = |wait| (Limit::All, limited("files of the log by all together", FILES_PER_MINUTE_ALL, wait));
        let for_one = |wait| (Limit::Address, limited("files of the log from one address", FILES_PER_MINUTE, wait));
        buckets.all.fill(FILES_PER_MINUTE_ALL, now);
        buckets.all.check(1.0).map_err(for_all)?;
        let own = buckets.of(network(address), now);
        own.fill(FILES_PER_MINUTE, now);
        own.take(1.0).map_err(for_one)?;
        buckets.all.take(1.0).map_err(for_all)
    }
}

impl Buckets {
    fn of(&mut self, address: IpAddr, now: Instant) -> &mut Bucket {
        if !self.addresses.contains_key(&address) {
            if self.addresses.len() >= ADDRESSES_MAX {
                self.sweep(now);
            }
            if self.addresses.len() >= ADDRESSES_MAX {
                return &mut self.others;
            }
        }
        self.addresses.entry(address).or_insert_with(|| Bucket::full(FILES_PER_MINUTE, now))
    }

    // An address whose bucket is full again is the same as one that never came.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP_PAUSE {
            return;
        }
        self.swept = now;
        self.addresses.retain(|_, bucket| {
            bucket.fill(FILES_PER_MINUTE, now);
            !bucket.is_full()
        });
    }
}

/// What one visitor has: an address of version 4, and of version 6 the 64 bits that a provider gives to one customer.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    fn taken(visitors: &Visitors, address: IpAddr, now: Instant) -> u32 {
        (0..FILES_PER_MINUTE_ALL + 1).take_while(|_| visitors.take_file(address, now).is_ok()).count() as u32
    }

    #[test]
    fn one_address_has_its_share_and_no_more_until_it_is_refilled() {
        let now = Instant::now();
        let visitors = Visitors::new(now);
        assert_eq!(taken(&visitors, address(1), now), FILES_PER_MINUTE);
        let (limit, refusal) = visitors.take_file(address(1), now).unwrap_err();
        assert_eq!(limit, Limit::Address);
        assert_eq!(refusal.message, "more than 3000 files of the log from one address in a minute; try again in 20ms");
        assert_eq!(visitors.take_file(address(2), now), Ok(()));
        assert_eq!(visitors.take_file(address(1), now + Duration::from_millis(21)), Ok(()));
    }

    #[test]
    fn all_together_have_a_limit_too_and_a_refusal_takes_nothing() {
        let now = Instant::now();
        let visitors = Visitors::new(now);
        let all: u32 = (0..5).map(|number| taken(&visitors, address(number), now)).sum();
        assert_eq!(all, FILES_PER_MINUTE_ALL);
        assert_eq!(visitors.take_file(address(9), now).unwrap_err().0, Limit::All);
        let later = now + Duration::from_secs(30);
        assert_eq!(taken(&visitors, address(9), later), FILES_PER_MINUTE);
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn a_flood_of_addresses_finds_a_bounded_table_and_newcomers_share() {
        let now = Instant::now();
        let visitors = Visitors::new(now);
        let known = ADDRESSES_MAX as u32;
        for number in 0..known + FILES_PER_MINUTE {
            let mut buckets = visitors.0.lock().unwrap();
            assert_eq!(buckets.of(address(number), now).take(1.0), Ok(()));
        }
        let addresses = || visitors.0.lock().unwrap().addresses.len();
        assert_eq!(addresses(), ADDRESSES_MAX);
        assert_eq!(visitors.take_file(address(u32::MAX), now).unwrap_err().0, Limit::Address);
        assert_eq!(visitors.take_file(address(1), now), Ok(()));
        assert_eq!(visitors.take_file(address(u32::MAX), now + Duration::from_secs(61)), Ok(()));
        assert_eq!(addresses(), 1);
    }
}
