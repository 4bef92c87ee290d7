//! Balances from the log, computed a second time by other code than the ledger's, in the simplest way: everything is
//! kept, nothing is cached.

use crate::bets;
use crate::config::Broken;
use ol_ledger::{Account, Ledger};
use ol_protocol::calibration::Calibration;
use ol_protocol::commitment::Finish;
use ol_protocol::genesis::Genesis;
use ol_protocol::parameters::{AuditRule, Parameters, Split};
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record};
use ol_protocol::seal::Seal;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{Digest, Epoch, NodeId, OperatorId, Timestamp, VariantId};
use ol_trust::draw::{self, Chance};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
struct Item {
    receipt: Receipt,
    root: Digest,
    leaf: u16,
    chance: Chance,
    // Whether an audit ended, and against the node.
    found: Option<bool>,
    cleared: bool,
    // Whether it passed, and an honest node is not likelier to have such margins.
    doubtful: bool,
    // The nodes whose word that it is good, or bad, was not the referee's.
    praised_by: Option<(NodeId, OperatorId)>,
    blamed_by: Option<(NodeId, OperatorId)>,
    // Those of its last panel, what they sealed, and how each voted: whether it is bad, and by which odds.
    panel: Vec<(Seal, Option<(bool, u128)>)>,
    // The month in which they sealed, and the odds of the node's answers until then.
    before: (u64, Vec<u128>),
    // What held when it was charged, and what was set aside for its audit.
    split: Split,
    aside: i128,
}

#[derive(Debug, Clone, Default)]
struct Known {
    receipts: u64,
    clean: u32,
    failed: u32,
    suspect: bool,
    // How much likelier a cheat had its answers' margins, since its last fault in this month.
    odds: Vec<u128>,
    month: u64,
}

#[derive(Debug)]
struct Lot {
    node: NodeId,
    operator: OperatorId,
    amount: i128,
    free_at: Timestamp,
    free_after: u64,
}

impl Known {
    // How often a result of a node of this kind is audited.
    fn chance(&self, rule: &AuditRule, floor: u64) -> Chance {
        let watched = bets::worth(&self.odds) >= 20 << 32;
        if self.suspect || watched || self.receipts < u64::from(rule.newcomer_tasks) {
            return Chance::ALWAYS;
        }
        let after_faults = if self.failed == 0 { 0 } else { self.trial() * 1_000_000 / u64::from(self.clean) };
        Chance::per_million(after_faults.max(floor).min(1_000_000) as u32)
    }

    // Clean audits in a row after the last of its faults while all its results are audited.
    fn trial(&self) -> u64 {
        32 << (self.failed - 1).min(16)
    }
}

/// The other books.
#[derive(Debug)]
pub struct Books {
    genesis: Genesis,
    rules: Parameters,
    later: Vec<(Epoch, Parameters)>,
    balances: BTreeMap<Account, i128>,
    nodes: BTreeMap<(NodeId, VariantId), Known>,
    paid_receipts: BTreeMap<NodeId, u64>,
    arriving: Vec<Receipt>,
    // Receipts that are not settled; those of the open epoch in their order.
    items: BTreeMap<AttemptId, Item>,
    fresh: Vec<AttemptId>,
    ever: BTreeSet<AttemptId>,
    // Commitments of earlier epochs earn nothing.
    oldest: u64,
    lots: Vec<Lot>,
    calibrations: BTreeMap<(VariantId, VariantId), Calibration>,
    // Whose content shows that it is not what the variant gives; and who loses what it has in escrow at the next close.
    exposed: BTreeMap<AttemptId, (NodeId, OperatorId)>,
    ruined: BTreeSet<(NodeId, OperatorId)>,
    // Private and public receipts of the open epoch, and how many of a million were public before.
    seen: [u64; 2],
    public_before: u64,
    // By variant: what a result cost in the epochs before, and each of the open one.
    costs: BTreeMap<VariantId, (u64, Vec<u64>)>,
    // Share of the last four thousand receipts or so that may become public, in 2^-32.
    open: u64,
    counted: u64,
    // What settled receipts came to, and what the network's own did.
    settled: i128,
    own: i128,
    epoch: u64,
}

fn id(receipt: &Receipt) -> AttemptId {
    AttemptId { task: receipt.commitment.task, attempt: receipt.commitment.attempt }
}

impl Books {
    /// With nothing in them.
    pub fn new(genesis: &Genesis) -> Self {
        Self {
            genesis: genesis.clone(),
            rules: genesis.parameters,
            later: Vec::new(),
            balances: BTreeMap::new(),
            nodes: BTreeMap::new(),
            paid_receipts: BTreeMap::new(),
            arriving: Vec::new(),
            items: BTreeMap::new(),
            fresh: Vec::new(),
            ever: BTreeSet::new(),
            oldest: 0,
            lots: Vec::new(),
            calibrations: BTreeMap::new(),
            exposed: BTreeMap::new(),
            ruined: BTreeSet::new(),
            seen: [0; 2],
            public_before: 0,
            costs: BTreeMap::new(),
            open: 0,
            counted: 0,
            settled: 0,
            own: 0,
            epoch: 0,
        }
    }

    /// Takes the next record of the log.
    pub fn take(&mut self, record: &Record) {
        match record {
            Record::Genesis(_) => {}
            Record::TopUp(slice) => {
                self.shift(Account::Issuer, Account::Tenant(slice.top_up.tenant), i128::from(slice.amount.0));
            }
            Record::Receipt(receipt) => self.arriving.push(receipt.clone()),
            Record::Batch(batch) => {
                for (leaf, receipt) in (0u16..).zip(std::mem::take(&mut self.arriving)) {
                    self.arrive(receipt, batch.header.root, leaf);
                }
            }
            Record::Audit { subject, outcome } => self.found(*subject, outcome),
            Record::Close(close) => self.close(close),
            Record::Parameters(change) => self.later.push((change.from, change.parameters)),
            Record::Calibration(calibration) => {
                self.calibrations.insert((calibration.prover, calibration.verifier), calibration.clone());
            }
            Record::Sealed { subject, seals } => {
                // Who may not sit has no seat here, and the accounts would differ.
                let sits = |seal: &Seal| {
                    let clean = self.nodes.get(&(seal.auditor, seal.variant)).map_or(0, |known| known.clean);
                    seals.iter().filter(|other| other.operator == seal.operator).count() == 1 && clean > 0
                };
                let all_sit = seals.iter().all(sits);
                if let Some(item) = self.items.get_mut(subject).filter(|item| !item.cleared && all_sit) {
                    let of = &item.receipt.commitment;
                    let is_concerned = |seal: &Seal| {
                        seal.operator == of.operator || item.blamed_by.is_some_and(|(_, by)| by == seal.operator)
                    };
                    if seals.iter().any(is_concerned) {
                        return;
                    }
                    let known = self.nodes.entry((of.node, of.variant)).or_default();
                    item.before = (known.month, known.odds.clone());
                    item.panel = seals.iter().map(|seal| (seal.clone(), None)).collect();
                }
            }
            Record::Evidence(evidence) => self.ruined.extend(self.exposed.remove(&evidence.subject)),
        }
    }

    fn shift(&mut self, from: Account, to: Account, amount: i128) {
        *self.balances.entry(from).or_default() -= amount;
        *self.balances.entry(to).or_default() += amount;
    }

    fn balance(&self, account: &Account) -> i128 {
        self.balances.get(account).copied().unwrap_or(0)
    }

    fn arrive(&mut self, receipt: Receipt, root: Digest, leaf: u16) {
        let commitment = &receipt.commitment;
        let is_audited = receipt.charge.tenant != self.genesis.gateway_tenant();
        let floor = self.by_cost(self.floor(receipt.charge.public), &receipt);
        // What can't earn any more, or costs nothing, counts for nothing.
        let (of, amount) = (id(&receipt), receipt.charge.amount.0);
        let is_new = !self.ever.contains(&of) && !self.items.contains_key(&of);
        let in_time = (self.oldest..=self.epoch).contains(&commitment.epoch.0);
        let counts = is_audited && (!self.rules.audit.deterrent || (is_new && in_time && amount > 0));
        if counts && self.rules.audit.by_charge {
            self.costs.entry(commitment.variant).or_default().1.push(receipt.charge.amount.0);
        }
        if counts && self.rules.audit.deterrent {
            self.counted += 1;
            let of = self.counted.min(4_096);
            self.open = self.open - self.open / of + u64::from(receipt.charge.public) * ((1 << 32) / of);
        }
        let known = self.nodes.entry((commitment.node, commitment.variant)).or_default();
        let chance = match receipt.charge.with_audit {
            _ if !is_audited => Chance::NEVER,
            true => Chance::ALWAYS,
            false => known.chance(&self.rules.audit, floor),
        };
        self.seen[usize::from(receipt.charge.public)] += u64::from(counts);
        known.receipts += u64::from(counts);
        let id = id(&receipt);
        if !self.items.contains_key(&id) {
            let split = self.rules.split;
            let aside = match receipt.charge.with_audit {
                true => i128::from(receipt.charge.amount.0) * i128::from(self.rules.audit.pay_bp) / 10_000,
                false => 0,
            };
            let (found, cleared, doubtful, praised_by, blamed_by) = (None, false, false, None, None);
            let (panel, before) = (Vec::new(), (0, Vec::new()));
            let item = Item {
                receipt,
                root,
                leaf,
                chance,
                found,
                cleared,
                doubtful,
                praised_by,
                blamed_by,
                panel,
                before,
                split,
                aside,
            };
            self.items.insert(id, item);
            self.fresh.push(id);
        }
    }

    // Of an unblemished node: in all as many audits as the rule says, a quarter of them for the private if the public are enough for the rest.
    fn floor(&self, public: bool) -> u64 {
        let (rate, of_public) = (u64::from(self.rules.audit.rate_ppm), self.public_before);
        if of_public == 0 || of_public == 1_000_000 {
            return rate;
        }
        let left = (rate - rate / 4) * 1_000_000 / of_public;
        match (public, rate / 4 + left <= 1_000_000) {
            (true, true) => rate / 4 + left,
            (false, true) => rate / 4,
            (true, false) => 1_000_000,
            (false, false) => (rate.saturating_sub(of_public) * 1_000_000 / (1_000_000 - of_public)).min(rate),
        }
    }

    // What costs twice as much as usual is drawn twice as often, and nothing less than a quarter as often.
    fn by_cost(&self, floor: u64, receipt: &Receipt) -> u64 {
        match self.costs.get(&receipt.commitment.variant) {
            Some((usual, _)) if self.rules.audit.by_charge && *usual > 0 => {
                let parts = u128::from(floor) * u128::from(receipt.charge.amount.0) / u128::from(*usual);
                (parts.min(1_000_000) as u64).max(floor / 4)
            }
            Some(_) | None => floor,
        }
    }

    fn found(&mut self, subject: AttemptId, outcome: &AuditOutcome) {
        let against = match outcome {
            AuditOutcome::Verdict { verdict, .. } => Some(verdict),
            AuditOutcome::Unauditable { .. } => None,
        };
        let rule = self.rules.audit;
        let referee = self.genesis.referee;
        if let Some(vote) = against.filter(|verdict| verdict.level == Level::Panel) {
            return self.voted(subject, vote);
        }
        let Some(item) = self.items.get_mut(&subject).filter(|item| !item.cleared) else { return };
        // A verdict over something else, or in the referee's name by another, is none.
        let is_over = |verdict: &Verdict| {
            let of = &item.receipt.commitment;
            (verdict.network, verdict.output) == (of.network, of.output)
                && self.calibrations.contains_key(&(of.variant, verdict.variant))
                && (verdict.level == Level::Referee) == (verdict.auditor == referee)
        };
        if against.is_some_and(|verdict| !is_over(verdict)) {
            return;
        }
        match against {
            None => item.cleared = true,
            Some(verdict) => {
                let of = &item.receipt.commitment;
                let months = self.epoch * self.genesis.epoch.0 / (30 * 24 * 3_600_000_000);
                let known = self.nodes.entry((of.node, of.variant)).or_default();
                if known.month != months {
                    (known.month, known.odds) = (months, Vec::new());
                }
                let claims = is_bad(&item.receipt, verdict, rule.margin_micro_max);
                let odds = bets::odds(&self.calibrations[&(of.variant, verdict.variant)], &item.receipt, verdict);
                known.odds.push(odds);
                let bad = claims || bets::worth(&known.odds) >= 1_000 << 32;
                // Only what ends an audit is counted, and after a fault everything begins anew.
                let ends = verdict.level == Level::Referee || (!bad && item.blamed_by.is_none());
                match (ends, bad) {
                    (true, true) => known.odds.clear(),
                    (true, false) => item.doubtful = odds >= 1_000_000,
                    (false, _) => drop(known.odds.pop()),
                }
                let by = (verdict.auditor, verdict.operator);
                let asked = (of.prompt, of.seed, of.variant) == (verdict.prompt, verdict.seed, verdict.variant);
                if claims
                    && asked
                    && (item.receipt.charge.public || rule.deterrent)
                    && verdict.level == Level::Referee
                    && of.finish != Finish::Embedded
                {
                    self.exposed.insert(subject, (of.node, of.operator));
                }
                // Only the referee's word is against anyone.
                match (bad, verdict.level == Level::Referee) {
                    // Once blamed, only the referee clears.
                    (false, false) if item.blamed_by.is_some() => {}
                    (true, false) => item.blamed_by = item.blamed_by.or(Some(by)),
                    (bad, by_referee) => {
                        item.cleared = true;
                        item.found = Some(bad);
                        item.praised_by = (!by_referee).then_some(by);
                    }
                }
            }
        }
    }

    // Two of three decide, by the odds that both state at least; each who was of that opinion is paid.
    fn voted(&mut self, subject: AttemptId, verdict: &Verdict) {
        let Some(item) = self.items.get_mut(&subject) else { return };
        let of = &item.receipt.commitment;
        let Some(calibration) = self.calibrations.get(&(of.variant, verdict.variant)) else { return };
        let seat = item.panel.iter().position(|(seal, vote)| vote.is_none() && seal.is_of(verdict));
        let (Some(seat), true) = (seat, (verdict.network, verdict.output) == (of.network, of.output)) else { return };
        if verdict.scored_tokens < of.added_tokens().min(verdict.output_tokens) {
            return;
        }
        let months = self.epoch * self.genesis.epoch.0 / (30 * 24 * 3_600_000_000);
        let known = self.nodes.entry((of.node, of.variant)).or_default();
        if known.month != months {
            (known.month, known.odds) = (months, Vec::new());
        }
        let odds = bets::odds(calibration, &item.receipt, verdict);
        let before = Some(&item.before.1).filter(|_| item.before.0 == months);
        let mut with_it = before.cloned().unwrap_or_default();
        with_it.push(odds);
        let bad =
            is_bad(&item.receipt, verdict, self.rules.audit.margin_micro_max) || bets::worth(&with_it) >= 1_000 << 32;
        item.panel[seat].1 = Some((bad, odds));
        let same: Vec<u128> =
            item.panel.iter().filter_map(|(_, vote)| vote.filter(|v| v.0 == bad)).map(|v| v.1).collect();
        if item.cleared || same.len() != 2 {
            return;
        }
        (item.cleared, item.found) = (true, Some(bad));
        if bad {
            known.odds.clear();
        } else {
            let least = same[0].min(same[1]);
            known.odds.push(least);
            item.doubtful = least >= 1_000_000;
        }
    }

    fn close(&mut self, close: &Close) {
        let mut borne = Vec::new();
        for id in std::mem::take(&mut self.fresh) {
            let Some(item) = self.items.remove(&id) else { continue };
            let drawn = draw::drawn(&close.draw_secret, &item.root, item.leaf, item.chance);
            let (charge, commitment) = (&item.receipt.charge, &item.receipt.commitment);
            let tenant = self.payer(&item.receipt);
            let is_own = tenant == Account::Verification;
            let amount = i128::from(charge.amount.0);
            let price = charge.price.charge(charge.prompt_tokens, charge.output_tokens);
            let sound = price == Some(charge.amount)
                && charge.prompt_tokens <= commitment.prompt_tokens
                && charge.output_tokens <= commitment.added_tokens()
                && (self.oldest..=close.epoch.0).contains(&commitment.epoch.0);
            let is_funded = self.balance(&tenant) >= amount
                && (!is_own || (charge.public && self.own + amount <= self.settled / 500));
            if charge.tenant == self.genesis.gateway_tenant() {
                borne.extend(sound.then_some(item.receipt));
                continue;
            }
            let paid = sound && is_funded && self.ever.insert(id);
            if paid {
                self.own += if is_own { amount } else { 0 };
                self.shift(tenant, Account::Pending, amount);
                let cleared = item.cleared || !drawn;
                let found = item.found.filter(|_| drawn);
                self.items.insert(id, Item { cleared, found, ..item });
            }
        }
        // Findings count in the order of ids, as a faulty one between good ones begins a node's redemption anew.
        let done = self.items.extract_if(.., |_, item| item.cleared).map(|(_, item)| item).collect();
        let own = Account::Gateway(self.genesis.gateway);
        let before = self.balance(&own);
        self.settle(done, close.at);
        let share = self.balance(&own) - before;
        let mut left = share / 2;
        for receipt in &borne {
            left -= self.bear(receipt, left, close.at);
        }
        self.ruin();
        self.release(close.at);
        self.pay_out();
        let [private, public] = std::mem::take(&mut self.seen);
        if let Some(now) = (public * 1_000_000).checked_div(private + public) {
            self.public_before = (7 * self.public_before + now) / 8;
        }
        for (usual, fresh) in self.costs.values_mut().filter(|(_, fresh)| !fresh.is_empty()) {
            let now = fresh.iter().sum::<u64>() / fresh.len() as u64;
            *usual = if *usual == 0 { now } else { (7 * *usual + now) / 8 };
            fresh.clear();
        }
        let next = close.epoch.next();
        self.epoch = next.0;
        if let Some((_, rules)) = self.later.iter().find(|(from, _)| *from == next) {
            self.rules = *rules;
        }
        let kept_us = self.rules.escrow.hold.0.max(3_600_000_000);
        self.oldest = self.oldest.max(next.0.saturating_sub(kept_us.div_ceil(self.genesis.epoch.0)));
    }

    fn settle(&mut self, done: Vec<Item>, at: Timestamp) {
        let mut earned: BTreeMap<(NodeId, OperatorId), (i128, u64)> = BTreeMap::new();
        let mut audits: BTreeMap<(NodeId, OperatorId), i128> = BTreeMap::new();
        for item in done {
            let (charge, commitment) = (&item.receipt.charge, &item.receipt.commitment);
            let amount = i128::from(charge.amount.0);
            if let Some(failed) = item.found {
                if failed || !item.doubtful {
                    self.judge((commitment.node, commitment.variant), failed);
                }
                let owed = if failed { item.blamed_by } else { item.praised_by };
                let panel = item.panel.iter().filter(|(_, vote)| vote.is_some_and(|(bad, _)| bad == failed));
                let panel = panel.map(|(seal, _)| (seal.auditor, seal.operator));
                for auditor in owed.into_iter().chain(panel) {
                    *audits.entry(auditor).or_default() += amount * i128::from(self.rules.audit.pay_bp) / 10_000;
                }
            }
            if item.found == Some(true) {
                self.shift(Account::Pending, self.payer(&item.receipt), amount);
                continue;
            }
            self.settled += amount;
            let split = item.split;
            let share = |bp: u16| (amount - item.aside) * i128::from(bp) / 10_000;
            let (node, audits, gateway) = (share(split.node_bp), share(split.verification_bp), share(split.gateway_bp));
            self.shift(Account::Pending, Account::Escrow(commitment.node), node);
            self.shift(Account::Pending, Account::Verification, audits + item.aside);
            self.shift(Account::Pending, Account::Gateway(self.genesis.gateway), gateway);
            self.shift(Account::Pending, Account::Reserve, amount - item.aside - node - audits - gateway);
            let of = earned.entry((commitment.node, commitment.operator)).or_default();
            of.0 += node;
            of.1 += u64::from(amount > 0);
        }
        for (auditor, owed) in audits {
            let first = owed.min(self.balance(&Account::Verification));
            let second = (owed - first).min(self.balance(&Account::Reserve));
            self.shift(Account::Verification, Account::Escrow(auditor.0), first);
            self.shift(Account::Reserve, Account::Escrow(auditor.0), second);
            earned.entry(auditor).or_default().0 += first + second;
        }
        for ((node, _), (_, receipts)) in &earned {
            *self.paid_receipts.entry(*node).or_default() += receipts;
        }
        let held = self.held();
        for ((node, operator), (amount, _)) in earned {
            let free_after = self.paid_receipts.get(&node).copied().unwrap_or(0) + held;
            let free_at = at.after(self.rules.escrow.hold);
            self.lots.push(Lot { node, operator, amount, free_at, free_after });
        }
    }

    // The gateway's own money, up to half of what the epoch brought it: its share of such a payment it keeps.
    fn bear(&mut self, receipt: &Receipt, left: i128, at: Timestamp) -> i128 {
        let (charge, commitment) = (&receipt.charge, &receipt.commitment);
        let (amount, own) = (i128::from(charge.amount.0), Account::Gateway(self.genesis.gateway));
        if amount == 0 || charge.with_audit || amount > left || !self.ever.insert(id(receipt)) {
            return 0;
        }
        self.settled += amount;
        let part = |bp: u16| amount * i128::from(bp) / 10_000;
        let [node, audits, kept] =
            [self.rules.split.node_bp, self.rules.split.verification_bp, self.rules.split.gateway_bp].map(part);
        self.shift(own, Account::Escrow(commitment.node), node);
        self.shift(own, Account::Verification, audits);
        self.shift(own, Account::Reserve, amount - node - audits - kept);
        let free_after = self.paid_receipts.get(&commitment.node).copied().unwrap_or(0) + self.held();
        let free_at = at.after(self.rules.escrow.hold);
        let (node_id, operator) = (commitment.node, commitment.operator);
        self.lots.push(Lot { node: node_id, operator, amount: node, free_at, free_after });
        amount
    }

    fn payer(&self, receipt: &Receipt) -> Account {
        let tenant = receipt.charge.tenant;
        if tenant == self.genesis.own_tenant() { Account::Verification } else { Account::Tenant(tenant) }
    }

    // The fewest tasks in escrow at which a cheat gains nothing in the mean, up to ten times what the rule says.
    fn held(&self) -> u64 {
        let least = u64::from(self.rules.escrow.tasks);
        let open = (u128::from(self.open) * 1_000_000) >> 32;
        // Of usual answers, or of the longest whose cheats were measured.
        let class = |calibration: &Calibration| {
            let counts = [2, 3, 2, 1, 0].map(|class| calibration.lengths[class]);
            let counts = counts.into_iter().find(|counts| counts.cheats.iter().any(|n| *n > 0))?;
            let odd = |at: usize| counts.honest.iter().all(|settings| settings[at] == 0);
            let caught: u32 = (0..counts.cheats.len()).filter(|at| odd(*at)).map(|at| counts.cheats[at]).sum();
            Some(u128::from(caught) * 1_000_000 / u128::from(counts.cheats.iter().sum::<u32>()))
        };
        let seen = self.calibrations.iter().filter(|((a, b), _)| a == b).filter_map(|(_, known)| class(known)).min();
        let (true, Some(seen), 125..) = (self.rules.audit.deterrent, seen, open) else { return least };
        let rate = u128::from(self.rules.audit.rate_ppm);
        let audited = (rate / 4 + (rate - rate / 4) * 1_000_000 / open).min(1_000_000);
        let audited = if open >= 1_000_000 { rate } else { audited };
        let lost = open * audited * seen * 800_000 / 1_000_000;
        let gain = 700_000;
        let is_enough = |tasks: &u64| {
            let stake = u128::from(*tasks) * u128::from(self.rules.split.node_bp) * 100;
            lost * (stake + gain) >= gain * 10_u128.pow(18)
        };
        (least..10 * least).find(is_enough).unwrap_or(10 * least)
    }

    fn judge(&mut self, of: (NodeId, VariantId), failed: bool) {
        let known = self.nodes.entry(of).or_default();
        if failed {
            known.failed += 1;
            known.clean = 0;
            known.suspect = true;
            return;
        }
        known.clean += 1;
        if known.failed > 0 && u64::from(known.clean) >= known.trial() {
            known.suspect = false;
        }
    }

    fn ruin(&mut self) {
        for (node, operator) in std::mem::take(&mut self.ruined) {
            let (lost, kept) = std::mem::take(&mut self.lots)
                .into_iter()
                .partition::<Vec<Lot>, _>(|lot| (lot.node, lot.operator) == (node, operator));
            self.lots = kept;
            lost.iter().for_each(|lot| self.shift(Account::Escrow(node), Account::Reserve, lot.amount));
        }
    }

    fn release(&mut self, at: Timestamp) {
        let paid = &self.paid_receipts;
        let ripe = |lot: &Lot| at >= lot.free_at && paid.get(&lot.node).copied().unwrap_or(0) >= lot.free_after;
        let (ripe, lots) = std::mem::take(&mut self.lots).into_iter().partition(ripe);
        self.lots = lots;
        for lot in ripe {
            self.shift(Account::Escrow(lot.node), Account::Operator(lot.operator), lot.amount);
        }
    }

    fn pay_out(&mut self) {
        let least = i128::from(self.rules.payout.threshold.0);
        for (account, balance) in self.balances.clone() {
            let is_earned = matches!(account, Account::Operator(_) | Account::Gateway(_));
            if is_earned && balance >= least {
                self.shift(account, Account::Issuer, balance);
            }
        }
    }

    /// Holds these books against the ledger's, account by account.
    pub fn compare(&self, ledger: &Ledger) -> Result<(), Broken> {
        let theirs: BTreeMap<Account, i128> = ledger.balances().collect();
        let accounts: BTreeSet<&Account> = theirs.keys().chain(self.balances.keys()).collect();
        for account in accounts {
            let (ledger, books) = (theirs.get(account).copied().unwrap_or(0), self.balance(account));
            if ledger != books {
                return Err(Broken::Balance { account: account.name(), ledger, books });
            }
        }
        Ok(())
    }
}

// What a verdict over the committed output says.
fn is_bad(receipt: &Receipt, verdict: &Verdict, margin_max: u32) -> bool {
    let commitment = &receipt.commitment;
    let of_vectors = commitment.finish == Finish::Embedded;
    let same = commitment.prompt == verdict.prompt
        && commitment.seed == verdict.seed
        && commitment.prompt_tokens == verdict.prompt_tokens
        && (of_vectors || commitment.added_tokens() == verdict.output_tokens);
    let ended = commitment.finish == Finish::Cancelled || verdict.finish_fits;
    // Of vectors the deviation of a cosine from 1 is measured.
    let largest = if of_vectors { 1_000 } else { margin_max };
    let too_far = verdict.variant == commitment.variant && verdict.worst_margin_micro > largest;
    !same || !ended || too_far
}
