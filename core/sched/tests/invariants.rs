//! What must hold after every step of random sequences: seeded, each seed a sequence of its own.

use ol_protocol::prf::philox;
use ol_protocol::{NodeId, TaskId, TenantId, Timestamp, TokenCount, VariantId};
use ol_sched::{Entry, Offers, Queue};
use std::collections::{BTreeMap, BTreeSet};

const SEEDS: u32 = 20;
const STEPS: u32 = 3_000;

struct Random {
    seed: u32,
    index: u32,
}

impl Random {
    fn new(seed: u32) -> Self {
        Self { seed, index: 0 }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.index += 1;
        philox([self.seed, 0], [self.index, 0, 0, 0])[0] % bound
    }
}

/// The plainest account of grants: what each connection granted and was sent.
#[derive(Default, Clone, Copy)]
struct Account {
    total: u64,
    sent: u64,
    finished: u64,
}

#[derive(Default)]
struct Books {
    joined: BTreeMap<NodeId, bool>,
    accounts: BTreeMap<(NodeId, VariantId), Account>,
}

impl Books {
    fn free(&self, node: NodeId, variant: VariantId) -> u64 {
        let account = self.accounts.get(&(node, variant)).copied().unwrap_or_default();
        if self.joined.get(&node) == Some(&false) { account.total - account.sent } else { 0 }
    }

    fn close(&mut self, node: NodeId) {
        self.joined.remove(&node);
        self.accounts.retain(|&(of, _), _| of != node);
    }
}

fn step(random: &mut Random, offers: &mut Offers, books: &mut Books, at: &str) {
    let node = NodeId([random.below(6) as u8; 32]);
    let variant = VariantId([random.below(3) as u8; 32]);
    match random.below(20) {
        0 => {
            offers.join(node);
            books.close(node);
            books.joined.insert(node, false);
        }
        1 => {
            offers.leave(node);
            books.close(node);
        }
        2 if random.below(4) == 0 => {
            offers.drain(node);
            books.joined.entry(node).and_modify(|draining| *draining = true);
        }
        2..=7 => {
            let before = books.accounts.get(&(node, variant)).copied().unwrap_or_default();
            let total = (before.total + u64::from(random.below(6))).saturating_sub(1);
            let allowed = books.joined.contains_key(&node);
            assert_eq!(offers.grant(node, variant, total).is_ok(), allowed, "{at}");
            if allowed {
                books.accounts.insert((node, variant), Account { total: total.max(before.total), ..before });
            }
        }
        8 if random.below(2) == 0 => {
            let total = u64::from(random.below(40));
            offers.withdraw(node, variant, total);
            books.accounts.entry((node, variant)).and_modify(|of| of.total = of.total.min(total.max(of.sent)));
        }
        8..=14 => {
            let free = books.free(node, variant);
            assert_eq!(offers.spend(node, variant).is_some(), free > 0, "{at}");
            if free > 0 {
                books.accounts.entry((node, variant)).and_modify(|account| account.sent += 1);
            }
        }
        _ => {
            offers.finish(node, variant);
            let account = books.accounts.entry((node, variant)).or_default();
            account.finished = (account.finished + 1).min(account.sent);
        }
    }
}

#[test]
fn no_sequence_of_grants_and_spends_passes_what_was_granted() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let (mut offers, mut books) = (Offers::default(), Books::default());
        for index in 0..STEPS {
            let at = format!("seed {seed} step {index}");
            step(&mut random, &mut offers, &mut books, &at);
            check_offers(&offers, &books, &at);
        }
    }
}

fn check_offers(offers: &Offers, books: &Books, at: &str) {
    assert_eq!(offers.nodes(), books.joined.len(), "{at}");
    for variant in (0..3).map(|byte| VariantId([byte; 32])) {
        let expected: BTreeMap<NodeId, u64> =
            books.joined.keys().map(|&node| (node, books.free(node, variant))).filter(|&(_, free)| free > 0).collect();
        assert_eq!(offers.candidates(variant).collect::<BTreeMap<_, _>>(), expected, "{at}");
        assert_eq!(offers.candidates(variant).count(), expected.len(), "a node is listed twice, {at}");
        let in_flight: u64 =
            books.accounts.iter().filter(|((_, of), _)| *of == variant).map(|(_, a)| a.sent - a.finished).sum();
        assert_eq!(offers.supply(variant).in_flight, in_flight, "{at}");
    }
    for &node in books.joined.keys() {
        let in_flight: u64 =
            books.accounts.iter().filter(|((of, _), _)| *of == node).map(|(_, a)| a.sent - a.finished).sum();
        assert_eq!(offers.in_flight(node), in_flight, "{at}");
    }
}

fn entry(random: &mut Random, index: u32) -> Entry {
    let mut task = [0; 16];
    task[..4].copy_from_slice(&index.to_le_bytes());
    Entry {
        task: TaskId(task),
        tenant: TenantId([random.below(5) as u8; 16]),
        want: VariantId([random.below(2) as u8; 32]).into(),
        cost: TokenCount(1 + random.below(1_000)),
        deadline: Timestamp(u64::from(index + random.below(2_000))),
    }
}

#[test]
fn a_queue_loses_and_repeats_nothing() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut queue = Queue::default();
        let mut waiting: BTreeMap<TaskId, Entry> = BTreeMap::new();
        for index in 0..STEPS {
            let at = format!("seed {seed} step {index}");
            match random.below(8) {
                0..=3 => {
                    let entry = entry(&mut random, index);
                    assert_eq!(queue.push(entry), Ok(()), "{at}");
                    waiting.insert(entry.task, entry);
                }
                4 | 5 => {
                    let variant = VariantId([random.below(2) as u8; 32]);
                    let next = queue.peek_for(variant).copied();
                    let popped = queue.pop_for(variant);
                    assert_eq!(popped, next, "{at}");
                    let oldest = popped.and_then(|entry| waiting.remove(&entry.task));
                    assert_eq!(popped, oldest, "{at}");
                    let some_wait = waiting.values().any(|entry| entry.want == variant.into());
                    assert!(popped.is_some() || !some_wait, "{at}");
                }
                6 => {
                    let mut task = [0; 16];
                    task[..4].copy_from_slice(&random.below(index + 1).to_le_bytes());
                    assert_eq!(queue.remove(TaskId(task)), waiting.remove(&TaskId(task)), "{at}");
                }
                _ => {
                    let now = Timestamp(u64::from(index));
                    let expired: BTreeSet<TaskId> = queue.expire(now).into_iter().collect();
                    let due = waiting.values().filter(|entry| entry.deadline <= now).map(|entry| entry.task);
                    assert_eq!(expired, due.collect(), "{at}");
                    waiting.retain(|_, entry| entry.deadline > now);
                }
            }
            assert_eq!(queue.len(), waiting.len(), "{at}");
            assert_eq!(queue.next_deadline(), waiting.values().map(|entry| entry.deadline).min(), "{at}");
        }
        let left: usize = (0..2).map(|byte| std::iter::from_fn(|| queue.pop_for(VariantId([byte; 32]))).count()).sum();
        assert_eq!((left, queue.len()), (waiting.len(), 0), "seed {seed}");
    }
}

/// While both of two tenants wait, the tokens that they were served differ by at most their largest tasks' sum
/// (Goyal et al. 1996, theorem 1): over every stretch of time, so over the spread of the running difference.
#[test]
fn tenants_that_keep_waiting_are_served_equal_tokens() {
    const TENANTS: u32 = 4;
    // Tenants of small, middling and large tasks.
    const COST_MAX: [u32; TENANTS as usize] = [20, 200, 1_000, 4_000];
    let variant = VariantId([0; 32]);
    let mut widest = 0.0_f64;
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut queue = Queue::default();
        let mut served = [0_i64; TENANTS as usize];
        let mut spread = BTreeMap::new();
        let mut pushed = 0;
        for index in 0..STEPS {
            while (0..TENANTS).any(|of| queue.waiting_of(TenantId([of as u8; 16])) < 2) {
                let of = random.below(TENANTS);
                if queue.waiting_of(TenantId([of as u8; 16])) > 20 {
                    continue;
                }
                let cost = TokenCount(1 + random.below(COST_MAX[of as usize]));
                pushed += 1;
                let tenant = TenantId([of as u8; 16]);
                assert_eq!(
                    queue.push(Entry { tenant, want: variant.into(), cost, ..entry(&mut Random::new(0), pushed) }),
                    Ok(())
                );
            }
            let popped = queue.pop_for(variant).expect("all tenants wait");
            served[usize::from(popped.tenant.0[0])] += i64::from(popped.cost.0);
            for a in 0..TENANTS as usize {
                for b in 0..a {
                    let difference = served[a] - served[b];
                    let (low, high) = spread.entry((a, b)).or_insert((0, 0));
                    (*low, *high) = (difference.min(*low), difference.max(*high));
                    let bound = i64::from(COST_MAX[a] + COST_MAX[b]);
                    assert!(*high - *low <= bound, "seed {seed} step {index}: {a} and {b} differ by {low} to {high}");
                    widest = widest.max((*high - *low) as f64 / bound as f64);
                }
            }
        }
    }
    println!("widest spread over {SEEDS} seeds: {widest:.3} of the bound");
}
