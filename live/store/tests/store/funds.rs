//! What the issuer sold, shared by gateways: every micro-credit is taken once.

use crate::log::{close, genesis, key, network, owner};
use crate::server::{Database, sql};
use ol_protocol::record::Record;
use ol_protocol::top_up::{Funded, Slice, TopUp};
use ol_protocol::{GatewayId, MicroCredits, OwnerId, TenantId};
use ol_store::{Error, Identity, PostgresFunds, PostgresReader, PostgresStore, Refusal, Server, Store as _, fsck};
use std::collections::BTreeMap;
use tempfile::TempDir;

const TENANT: TenantId = TenantId([3; 16]);

struct Place {
    database: Database,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { database: Database::new(), folder: tempfile::tempdir().expect("a folder") }
    }

    fn server(&self) -> Server {
        self.database.url().parse().expect("a URL")
    }

    // The funds of a gateway, whose log has begun.
    fn gateway(&self, n: u8) -> PostgresFunds {
        let gateway = GatewayId(key(n).public());
        let sealed = self.folder.path().join(n.to_string());
        let mut store =
            PostgresStore::open(&self.server(), &sealed, Identity { network: None, gateway }).expect("opened");
        store.append(&[Record::Genesis(genesis().of(gateway, &owner()))]).expect("begun");
        PostgresFunds::open(&self.server(), gateway).expect("opened")
    }
}

fn top_up(serial: u64, amount: u64) -> TopUp {
    TopUp::issue(&key(2), network(), OwnerId(owner().public()), TENANT, MicroCredits(amount), serial)
}

fn claim(funds: &mut PostgresFunds, amount: u64, booked: Option<&Slice>) -> Option<Slice> {
    let booked = booked.map(|slice| Funded { serial: slice.top_up.serial, end: slice.end().expect("a part") });
    funds.claim(TENANT, MicroCredits(amount), booked).expect("asked")
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn parts_are_taken_in_order_and_one_whose_answer_was_lost_is_given_again() {
    let place = Place::new();
    let (mut first, mut second) = (place.gateway(10), place.gateway(11));
    assert_eq!(claim(&mut first, 10, None), None);
    assert!(first.add(&top_up(5, 100)).expect("added"));
    assert!(second.add(&top_up(9, 30)).expect("added"));
    let part = |serial, whole, from, amount| {
        Some(Slice { top_up: top_up(serial, whole), from: MicroCredits(from), amount: MicroCredits(amount) })
    };
    let one = claim(&mut first, 40, None);
    assert_eq!(one, part(5, 100, 0, 40));
    assert_eq!(claim(&mut first, 90, None), one, "it was not booked");
    let two = claim(&mut second, 50, None);
    assert_eq!(two, part(5, 100, 40, 50));
    let three = claim(&mut first, 40, one.as_ref());
    assert_eq!(three, part(5, 100, 90, 10), "what is left of it");
    assert_eq!(claim(&mut second, 40, two.as_ref()), part(9, 30, 0, 30));
    assert_eq!(claim(&mut first, 1, three.as_ref()), None);
    // A process that begins anew, with a log that has the first part only.
    let mut again = PostgresFunds::open(&place.server(), GatewayId(key(10).public())).expect("opened");
    assert_eq!(claim(&mut again, 40, one.as_ref()), three);
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn a_top_up_counts_once_and_in_order() {
    let place = Place::new();
    let mut funds = place.gateway(10);
    assert!(funds.add(&top_up(5, 100)).expect("added"));
    assert!(!funds.add(&top_up(5, 100)).expect("there already"));
    for (serial, amount) in [(5, 101), (4, 100), (0, 1)] {
        let refused = funds.add(&top_up(serial, amount)).expect_err("refused");
        assert!(matches!(refused, Error::Refused(Refusal::Serial { last: 5, .. })), "{refused}");
    }
    let refused = funds.add(&top_up(u64::MAX, 1)).expect_err("refused");
    assert!(matches!(refused, Error::Refused(Refusal::Range { .. })), "{refused}");
    let mut all = Vec::new();
    while let Some(slice) = claim(&mut funds, 60, all.last()) {
        all.push(slice);
    }
    assert_eq!(all.iter().map(|slice| slice.amount.0).collect::<Vec<_>>(), [60, 40]);
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn gateways_that_claim_at_once_take_each_micro_credit_once() {
    let place = Place::new();
    let mut gateways: Vec<PostgresFunds> = (10..14).map(|n| place.gateway(n)).collect();
    let sold: BTreeMap<u64, u64> = (1..=12).map(|serial| (serial, 500 + serial * 37)).collect();
    for (serial, amount) in &sold {
        gateways[0].add(&top_up(*serial, *amount)).expect("added");
    }
    let mut taken: Vec<Slice> = std::thread::scope(|scope| {
        let claims: Vec<_> = gateways
            .iter_mut()
            .zip(1..)
            .map(|(funds, step)| {
                scope.spawn(move || {
                    let mut mine: Vec<Slice> = Vec::new();
                    for round in 0.. {
                        let Some(slice) = claim(funds, 1 + (round * step) % 29, mine.last()) else { break };
                        mine.push(slice);
                    }
                    mine
                })
            })
            .collect();
        claims.into_iter().flat_map(|claims| claims.join().expect("no panic")).collect()
    });
    taken.sort_by_key(|slice| (slice.top_up.serial, slice.from));
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for slice in &taken {
        let end = ends.entry(slice.top_up.serial).or_default();
        assert_eq!(slice.from.0, *end, "a gap or an overlap in top-up {}", slice.top_up.serial);
        *end += slice.amount.0;
    }
    assert_eq!(ends, sold);
}

// Findings of a log with a part of a top-up, after something was done to the database.
fn damaged(damage: &str) -> Vec<String> {
    let place = Place::new();
    let mut funds = place.gateway(10);
    assert!(funds.add(&top_up(5, 100)).expect("added"));
    let slice = claim(&mut funds, 40, None).expect("a part");
    let gateway = GatewayId(key(10).public());
    let sealed = place.folder.path().join("10");
    let identity = Identity { network: None, gateway };
    let mut store = PostgresStore::open(&place.server(), &sealed, identity).expect("opened");
    let done = store.append(&[Record::TopUp(slice), close(0)]).expect("appended");
    store.append(&(0..20).map(close).collect::<Vec<_>>()).expect("appended");
    assert_eq!(done.size, 3);
    drop(store);
    sql(&place.database.url(), damage);
    let reader = PostgresReader::open(&place.server(), &sealed, gateway).expect("opened");
    fsck(&reader).iter().map(ToString::to_string).collect()
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn damage_of_every_kind_is_named() {
    assert_eq!(damaged("SELECT 1"), Vec::<String>::new());
    for (damage, words) in [
        (
            "UPDATE openledger.records SET bytes = bytes || 'x' WHERE position = 1",
            ["record 1: its leaf", "record 1 can't be read"],
        ),
        ("DELETE FROM openledger.records WHERE position = 2", ["records 2 to 2 are missing"; 2]),
        ("UPDATE openledger.nodes SET hash = decode(repeat('00', 32), 'hex')", ["the hash at level 4"; 2]),
        ("UPDATE openledger.top_ups SET claimed = 41", ["top-up 5 of tenant"; 2]),
        (
            "UPDATE openledger.slices SET amount = 50",
            ["top-up 5 of tenant", "record 1: missing or wrong in the index slices"],
        ),
        (
            "INSERT INTO openledger.slices SELECT gateway, tenant, serial, 10, 5 FROM openledger.slices",
            ["top-up 5 of tenant"; 2],
        ),
        ("INSERT INTO openledger.batches SELECT number, '', 7, 7 FROM openledger.gateways", ["1 rows of batches"; 2]),
    ] {
        let found = damaged(damage);
        assert!(words.iter().all(|word| found.iter().any(|said| said.contains(word))), "{damage}: {found:?}");
    }
}
