//! Nodes that cheat in answers: what each earns, and when it is found, under the gateways' own draws, bets and rulings.

use super::cheat::{Cheat, Court, Next, Seen, ransom};
use super::measured::{Kind, Verifier};
use super::{COMPUTE, Cost, Row, Setting, WherePublic, interval, round};
use crate::random::{Random, Use};
use ol_protocol::parameters::{AuditRule, Parameters};
use ol_protocol::record::Ruling;
use ol_protocol::seal::PANEL;
use ol_protocol::verdict::Level;
use ol_protocol::{Epoch, Micros, NodeId, Timestamp};
use ol_sched::{Breaker, Reason};
use ol_trust::honesty::{OWN_PPM, held_tasks};
use ol_trust::judge::{Known, Votes};
use ol_trust::policy::floors;
use ol_trust::suspicion::ODDS_ONE;
use ol_trust::{Chance, Fault, Finding, Judgement, Odds, Standing, Suspicion, ruling};
use std::collections::VecDeque;

/// Time of a task: 74 tokens, the mean of what was measured, at 37 a second.
const TASK: Micros = Micros::from_secs(2);

/// Length of an epoch.
const EPOCH: Micros = Micros::from_secs(60);

/// Shares of the tasks that may become public: accounts are kept for each. The first is what `income_vs_honest` is stated for; the second is what the network's own
/// tasks come to where tenants let nothing become public.
const PUBLIC: [f64; 5] = [0.0, OWN_PPM as f64 / 1e6, 0.02, 0.2, 1.0];

/// What audits see of a million cheats of the default model, by its calibration.
const SEEN_PPM: u32 = 855_000;

/// Length class of the answers: lengths are not modelled.
const LENGTH_CLASS: usize = 2;

/// Every cheat in answers under both verifiers, the honest first.
pub(super) fn compare(setting: &Setting, progress: &mut dyn FnMut()) -> Vec<Row> {
    let mut rows = Vec::new();
    for cheat in Cheat::ALL {
        for verifier in [Verifier::SameVariant, Verifier::OtherVariant] {
            rows.push(row(setting, cheat, verifier));
            progress();
        }
    }
    rows
}

/// One of them.
pub(super) fn row(setting: &Setting, cheat: Cheat, verifier: Verifier) -> Row {
    let stream = (cheat as u64) << 33 | u64::from(verifier == Verifier::OtherVariant) << 32;
    let odds = Odds::new(&verifier.calibration());
    let random = Random::new(setting.seed ^ stream, Use::Adversaries);
    let mut market =
        Market { cheat, verifier, odds, ends: Timestamp(0).after(Micros::from_secs(setting.span_s)), random };
    let operators = if cheat == Cheat::Honest { setting.honest } else { setting.operators };
    let lives: Vec<Life> = (0..operators).map(|_| market.live()).collect();
    // What an honest operator gets in the same time: its audits cost it nothing.
    let honest = (setting.span_s * 1_000_000 / TASK.0) as f64 * (1.0 - COMPUTE);
    summary(cheat, verifier, &lives, honest)
}

fn summary(cheat: Cheat, verifier: Verifier, lives: &[Life], honest: f64) -> Row {
    let sum = |of: fn(&Life) -> u64| lives.iter().map(of).sum::<u64>();
    let (tasks, cheated) = (sum(|life| life.tasks), sum(|life| life.cheated));
    let accounts = PUBLIC.iter().enumerate().map(|(account, share)| {
        let ratios: Vec<f64> = lives.iter().map(|life| life.income[account] / honest).collect();
        let (income, interval) = interval::mean(&ratios);
        WherePublic {
            share: *share,
            income_vs_honest: round(income),
            income_vs_honest_interval_95: interval.map(round),
            profits: interval[0] > 1.0,
        }
    });
    let mut where_public: Vec<WherePublic> = accounts.collect();
    let private = where_public.remove(0);
    let found: Vec<[u64; 2]> = lives.iter().filter_map(|life| life.found).collect();
    let began = lives.iter().filter(|life| life.cheated > 0).count() as u64;
    let p50 = |at: usize| interval::median(found.iter().map(|found| found[at] as f64).collect());
    let never = began - found.len() as u64;
    let share = interval::share(never, began);
    let per_1000 = |count: u64| round(count as f64 * 1e3 / tasks.max(1) as f64);
    let is_honest = cheat == Cheat::Honest;
    let gained: f64 = lives.iter().map(|life| life.gained).sum();
    Row {
        adversary: cheat.name(),
        verifier: Some(verifier),
        what: cheat.what(),
        gain_per_task: (cheated > 0).then(|| round(gained / cheated as f64)),
        found_after_tasks_p50: p50(0),
        found_after_audits_p50: p50(1),
        never_found_pct: (began > 0).then(|| round(never as f64 * 100.0 / began as f64)),
        never_found_pct_interval_95: (began > 0).then(|| share.map(|share| round(share * 100.0))),
        income_vs_honest: private.income_vs_honest,
        income_vs_honest_interval_95: private.income_vs_honest_interval_95,
        profits: private.profits,
        where_public,
        cost_to_honest: Cost {
            audits_per_1000_tasks: per_1000(sum(|life| life.audits)),
            wrong_results_per_1000_tasks: per_1000(sum(|life| life.stood)),
            wrongly_failed: is_honest.then(|| sum(|life| life.wrongly_failed)),
            wrongly_failed_ppm_max_95: is_honest
                .then(|| round(interval::poisson_max(sum(|life| life.wrongly_failed)) * 1e6 / tasks as f64)),
            delay_s_mean: 0.0,
        },
        limits: cheat.limits(),
    }
}

// What became of one operator. Money in parts of a task's pay.
#[derive(Debug, Default)]
struct Life {
    income: [f64; PUBLIC.len()],
    // By cheating, over the honest way to do the same tasks.
    gained: f64,
    tasks: u64,
    audits: u64,
    cheated: u64,
    // Cheated results that did not fail.
    stood: u64,
    wrongly_failed: u64,
    // Tasks and audits since it began to cheat.
    exposed: [u64; 2],
    found: Option<[u64; 2]>,
}

// A key with the history that the gateway has of it.
#[derive(Debug)]
struct Identity {
    node: NodeId,
    standing: Standing,
    tasks: u64,
    // Honest tasks since it was caught.
    since_caught: Option<u64>,
    // Pay in escrow.
    escrow: [VecDeque<f64>; PUBLIC.len()],
    held: [u32; PUBLIC.len()],
}

impl Life {
    fn pay(&mut self, mut amount: impl FnMut(usize) -> f64) {
        self.income.iter_mut().enumerate().for_each(|(account, income)| *income += amount(account));
    }
}

struct Market {
    cheat: Cheat,
    verifier: Verifier,
    odds: Odds,
    ends: Timestamp,
    random: Random,
}

impl Market {
    fn live(&mut self) -> Life {
        let mut life = Life::default();
        let mut breaker = Breaker::default();
        let mut named = 0;
        let mut identities: Vec<Identity> = (0..self.cheat.identities()).map(|_| Identity::new(&mut named)).collect();
        let (mut now, mut turn) = (Timestamp(0), 0);
        while now < self.ends {
            turn = (turn + 1) % identities.len();
            let free = |at: &usize| breaker.quarantined(identities[*at].node, now).is_none();
            let Some(at) = (turn..identities.len()).chain(0..turn).find(free) else {
                now = breaker.next_deadline(now).unwrap_or(self.ends);
                continue;
            };
            now = now.after(TASK);
            let node = identities[at].node;
            breaker.succeeded(node, now);
            if self.task(&mut identities[at], &mut life, now) {
                breaker.failed(node, Reason::Wrong, now);
            }
            match self.cheat.next(identities[at].since_caught) {
                Next::Stay => {}
                Next::Leave => {
                    life.pay(|account| -identities[at].locked(account));
                    identities[at] = Identity::new(&mut named);
                }
                Next::Ransom { nodes } => {
                    life.pay(|account| -ransom(nodes, f64::from(identities[at].held[account])));
                    identities[at] = Identity::new(&mut named);
                }
            }
        }
        life
    }

    // Does one task and says whether it failed.
    fn task(&mut self, identity: &mut Identity, life: &mut Life, now: Timestamp) -> bool {
        let rule = AuditRule::DEFAULT;
        let chance = identity.standing.chance(&rule, rule.rate_ppm);
        let is_floor = chance == Chance::per_million(rule.rate_ppm);
        let seen = Seen { tasks: identity.tasks, chance_ppm: chance.to_ppm(), since_caught: identity.since_caught };
        let deed = self.cheat.tempted(&seen, &mut self.random);
        identity.tasks += 1;
        identity.standing.record();
        life.tasks += 1;
        life.cheated += u64::from(deed.is_some());
        life.exposed[0] += u64::from(life.cheated > 0);
        let failed = chance.takes(self.random.word()) && {
            life.audits += 1;
            life.exposed[1] += u64::from(life.cheated > 0);
            self.audit(identity, deed.map(|deed| deed.kind), life, now)
        };
        let (pay, cost, gain) = deed.map_or((1.0, COMPUTE, 0.0), |deed| (deed.pay, deed.cost(), deed.gain()));
        life.gained += gain;
        life.pay(|_| -cost);
        if failed {
            life.wrongly_failed += u64::from(deed.is_none());
            if life.cheated > 0 {
                life.found = life.found.or(Some(life.exposed));
            }
            identity.since_caught = Some(0);
            // Escrow is the referee's to take.
            if self.verifier == Verifier::SameVariant && self.cheat.court() == Court::Referee {
                self.slash(identity, life, is_floor);
            }
            return true;
        }
        life.stood += u64::from(deed.is_some());
        life.pay(|_| pay);
        identity.earn(pay);
        identity.since_caught = identity.since_caught.map(|tasks| tasks + u64::from(deed.is_none()));
        false
    }

    // Evidence, if the task may become public. What other variants find is none.
    // At the floor public tasks are drawn more often than others.
    fn slash(&mut self, identity: &mut Identity, life: &mut Life, is_floor: bool) {
        let chance = self.random.unit();
        let rate = AuditRule::DEFAULT.rate_ppm;
        life.pay(|account| {
            let share = PUBLIC[account];
            let floor = f64::from(floors(rate, (share * 1e6) as u32).public);
            let is_public = chance < if is_floor { share * floor / f64::from(rate) } else { share };
            let lost = identity.locked(account);
            if is_public {
                identity.escrow[account].clear();
            }
            if is_public { -lost } else { 0.0 }
        });
    }

    // One auditor; if it finds the result bad, who has to confirm it.
    fn audit(&mut self, identity: &mut Identity, made: Option<Kind>, life: &mut Life, now: Timestamp) -> bool {
        let court = self.cheat.court();
        let is_friend = self.random.happens(self.cheat.friends());
        // A friend reports no margins at all.
        let bin = if is_friend { 0 } else { self.verifier.bin(made, &mut self.random) };
        let odds_micro = self.odds.of(LENGTH_CLASS, bin);
        let judgement = if self.verifier.fails_at_once(bin, &mut self.random) {
            Judgement::Failed(Fault::Margin { worst_micro: u32::MAX })
        } else {
            Judgement::Fits { odds_micro }
        };
        let epoch = Epoch(now.0 / EPOCH.0);
        let suspicion = identity.standing.suspicion;
        let known = Known { suspicion, is_accused: false, votes: Votes::default(), epoch, epoch_length: EPOCH };
        let first = ruling(judgement, Level::CrossAudit, &known);
        let last = match (first, court) {
            (Some(Ruling::Accused), Court::Referee) => {
                life.audits += 1;
                ruling(judgement, Level::Referee, &Known { is_accused: true, ..known })
            }
            (Some(Ruling::Accused), Court::Panel) => {
                life.audits += PANEL as u64;
                self.panel(judgement, &known)
            }
            (other, Court::Referee | Court::Panel) => other,
        };
        let standing = &mut identity.standing;
        match last {
            Some(Ruling::Failed) => {
                standing.suspicion = Suspicion::NONE;
                standing.find(Finding::Failed, epoch);
                true
            }
            Some(Ruling::Passed) => {
                standing.suspicion = suspicion.after(odds_micro, epoch, EPOCH);
                let finding = if odds_micro >= ODDS_ONE { Finding::Unclear } else { Finding::Passed };
                standing.find(finding, epoch);
                false
            }
            Some(Ruling::Accused | Ruling::VotedFor | Ruling::VotedAgainst | Ruling::Unstated) | None => false,
        }
    }

    // The honest see what the accuser saw, a friend sees nothing.
    fn panel(&mut self, judgement: Judgement, known: &Known) -> Option<Ruling> {
        let (mut votes, mut decided) = (Votes::default(), None);
        for _ in 0..PANEL {
            let is_friend = self.random.happens(self.cheat.friends());
            let seen =
                if is_friend { Judgement::Fits { odds_micro: self.odds.of(LENGTH_CLASS, 0) } } else { judgement };
            let ruling = ruling(seen, Level::Panel, &Known { votes, ..*known })?;
            if matches!(ruling, Ruling::Failed | Ruling::VotedAgainst) {
                votes.bad += 1
            } else {
                votes.clean += 1
            }
            decided = decided.or(Some(ruling).filter(|ruling| matches!(ruling, Ruling::Failed | Ruling::Passed)));
        }
        decided
    }
}

impl Identity {
    fn new(named: &mut u64) -> Self {
        *named += 1;
        let mut id = [0; 32];
        id[..8].copy_from_slice(&named.to_le_bytes());
        Self {
            node: NodeId(id),
            standing: Standing::default(),
            tasks: 0,
            since_caught: None,
            escrow: Default::default(),
            held: PUBLIC.map(held),
        }
    }

    // As of a node that is so slow that an hour's hold is no more than the tasks that have to follow.
    fn earn(&mut self, pay: f64) {
        for (escrow, held) in self.escrow.iter_mut().zip(self.held) {
            escrow.push_back(pay);
            if escrow.len() > held as usize {
                escrow.pop_front();
            }
        }
    }

    // What only more tasks release.
    fn locked(&self, account: usize) -> f64 {
        self.escrow[account].iter().sum()
    }
}

// How many later tasks pay is held for, by the share that may become public.
fn held(share: f64) -> u32 {
    held_tasks(&Parameters::DEFAULT, (share * 1e6) as u32, SEEN_PPM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting { operators: 40, honest: 60, ..Setting::new(3) }
    }

    fn of(cheat: Cheat) -> Row {
        row(&setting(), cheat, Verifier::SameVariant)
    }

    #[test]
    fn honest_nodes_are_not_convicted() {
        for verifier in [Verifier::SameVariant, Verifier::OtherVariant] {
            let row = row(&setting(), Cheat::Honest, verifier);
            assert_eq!((row.income_vs_honest, row.cost_to_honest.wrongly_failed), (1.0, Some(0)), "{row:?}");
            // The bound from no failure in 60 times 5,000 tasks.
            assert!(row.cost_to_honest.wrongly_failed_ppm_max_95.is_some_and(|ppm| ppm < 10.1), "{row:?}");
        }
    }

    #[test]
    fn who_always_cheats_is_found_and_who_computes_less_loses() {
        for cheat in Cheat::ALWAYS {
            let row = of(cheat);
            assert_eq!(row.never_found_pct, Some(0.0), "{row:?}");
            assert!(!row.profits && row.found_after_audits_p50 <= Some(4.0), "{row:?}");
        }
    }

    #[test]
    fn fewer_bits_pass_for_honest_where_the_verifier_is_as_far_off() {
        let row = row(&setting(), Cheat::EightBit, Verifier::OtherVariant);
        assert!(row.profits && row.never_found_pct > Some(90.0), "{row:?}");
    }

    #[test]
    fn a_sleeper_is_found() {
        let row = of(Cheat::Sleeper);
        assert_eq!(row.never_found_pct, Some(0.0));
        // Median of a geometric time at 1 %: 69, times what 40 lives leave open.
        assert!(row.found_after_tasks_p50.is_some_and(|tasks| (20.0..200.0).contains(&tasks)), "{row:?}");
    }

    #[test]
    fn who_is_good_again_after_its_first_fault_keeps_what_it_gained() {
        let row = of(Cheat::Repenter);
        let [own, tenants @ ..] = &row.where_public[..] else { panic!("{row:?}") };
        assert!(row.profits && tenants.iter().all(|public| !public.profits), "{row:?}");
        // Early on there is little in escrow: the network's own tasks take a part of the gain.
        assert!(own.income_vs_honest < row.income_vs_honest, "{row:?}");
    }

    #[test]
    fn the_networks_own_tasks_cost_who_ransoms_its_escrow_more_than_it_gains() {
        let row = of(Cheat::SelfDealingInTen);
        assert!(row.profits && !row.where_public[0].profits, "{row:?}");
    }

    #[test]
    fn a_new_identity_costs_more_than_was_gained_and_a_ransomed_one_may_not() {
        assert!(!of(Cheat::Whitewasher).profits && !of(Cheat::PatientWhitewasher).profits);
        assert!(!of(Cheat::SelfDealingInHundred).profits);
    }

    #[test]
    fn colluders_lose_with_a_referee_and_less_where_a_panel_decides() {
        let [panel, referee] = [Cheat::HalfFriendsPanel, Cheat::HalfFriendsReferee].map(of);
        assert!(!panel.profits && !referee.profits, "{panel:?} {referee:?}");
        assert!(panel.income_vs_honest > 2.0 * referee.income_vs_honest, "{panel:?} {referee:?}");
        assert_eq!(referee.never_found_pct, Some(0.0));
    }
}
