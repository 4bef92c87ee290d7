//! What must hold, whatever happens.

use crate::config::{Broken, OfRegion, Report};
use crate::content::Content;
use crate::conversation::Conversation;
use crate::engine::work;
use crate::host::Kind;
use crate::world::{World, tenant};
use ol_ledger::Account;
use ol_protocol::record::{AttemptId, AuditOutcome, Record, Ruling};
use ol_protocol::verdict::Level;
use ol_protocol::{Epoch, Micros, NodeId, TaskId, TenantId, Timestamp};
use ol_roles::gateway::event::{Finished, Refusal};
use ol_sched::{Tier, Where};
use std::collections::BTreeMap;

/// What is known of a task, whatever the gateway says.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) arrived: Timestamp,
    pub(crate) prompt: u32,
    // Where the model ends the text, and the request's limit.
    pub(crate) answer: u32,
    pub(crate) max: u32,
    pub(crate) tenant: TenantId,
    pub(crate) conversation: Option<Conversation>,
    // Whether its content may become public.
    pub(crate) public: bool,
    // Where it came from, and where it may be computed.
    pub(crate) home: u32,
    pub(crate) place: Where,
    pub(crate) tier: Tier,
    pub(crate) content: Content,
    pub(crate) attempts: u32,
    // Whether another than an honest node had it, and a hostile one.
    pub(crate) foreign: bool,
    pub(crate) hostile: bool,
    ends: u32,
    answered: bool,
    // Whether its answer is kept back, and whether an audit of it passed.
    pub(crate) waits: bool,
    pub(crate) passed: bool,
    pub(crate) gone: bool,
    pub(crate) interrupted: bool,
    pub(crate) forgotten: bool,
}

impl Facts {
    pub(crate) fn new(arrived: Timestamp, [prompt, answer, max]: [u32; 3], tenant: TenantId, public: bool) -> Self {
        Self {
            arrived,
            prompt,
            answer,
            max,
            tenant,
            conversation: None,
            public,
            home: 0,
            place: Where::Anywhere,
            tier: Tier::Standard,
            content: Content::default(),
            attempts: 0,
            foreign: false,
            hostile: false,
            ends: 0,
            answered: false,
            waits: false,
            passed: false,
            gone: false,
            interrupted: false,
            forgotten: false,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ends > 0 || self.gone || self.interrupted
    }

    fn times_ended(&self) -> u32 {
        self.ends + u32::from(self.gone) + u32::from(self.interrupted)
    }

    pub(crate) fn wrong(&self, task: TaskId, what: &'static str) -> Broken {
        Broken::Tokens { task: task.short(), what }
    }
}

// How a request ended: where it was answered and after how long, if it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    arrived: Timestamp,
    home: u32,
    answer: Option<(u32, Micros)>,
}

// What a task's receipts charge in all.
#[derive(Debug, Clone, Copy, Default)]
struct Charged {
    prompt: u32,
    output: u32,
}

impl World {
    pub(crate) fn finished(&mut self, task: TaskId, finished: &Finished) -> Result<(), Broken> {
        self.report.finished += 1;
        let now = self.now;
        let facts = self.ended(task)?;
        (facts.answered, facts.waits) = (true, finished.waits);
        let whole = facts.answer.min(facts.max);
        if facts.content.count() != finished.output_tokens.0 {
            return Err(facts.wrong(task, "charged for another number of tokens than was relayed"));
        }
        if !facts.hostile && (facts.content.count() != whole || finished.prompt_tokens.0 != facts.prompt) {
            return Err(facts.wrong(task, "ended early or late"));
        }
        if !facts.foreign && facts.content.foreign_after(0) != 0 {
            return Err(facts.wrong(task, "tokens of somebody else"));
        }
        let took = now.since(facts.arrived);
        let should = work(facts.prompt, whole);
        let (tier, ended) = (facts.tier, Ended { arrived: facts.arrived, home: facts.home, answer: None });
        self.latencies.push(took);
        self.stretches.push(took.0 * 100 / should.0.max(1));
        self.answers.push((now, took));
        let there = self.places.get(&finished.node).map_or(0, |place| self.hosts[*place].region);
        self.report.tiers[tier as usize].iter_mut().for_each(|count| *count += 1);
        self.ended.push(Ended { answer: Some((there, took)), ..ended });
        Ok(())
    }

    /// As `refused`, which counts what was admitted and got no answer though its client waited.
    pub(crate) fn turned_away(&mut self, task: TaskId, refusal: &Refusal) -> Result<(), Broken> {
        let is_lost = match refusal {
            Refusal::Deadline | Refusal::Attempts { .. } | Refusal::Invalid => 1,
            Refusal::Busy(_) | Refusal::Impossible(_) | Refusal::Budget(_) | Refusal::Unconfirmed { .. } => 0,
        };
        self.report.lost += is_lost;
        if let Some(facts) = self.tasks.get(&task) {
            self.report.tiers[facts.tier as usize][0] += is_lost;
            self.ended.push(Ended { arrived: facts.arrived, home: facts.home, answer: None });
        }
        self.refused(task)
    }

    pub(crate) fn refused(&mut self, task: TaskId) -> Result<(), Broken> {
        self.report.refused += 1;
        // An answer that was kept back is not given after all.
        if self.tasks.get_mut(&task).is_some_and(|facts| std::mem::take(&mut facts.waits)) {
            self.report.unconfirmed += 1;
            return Ok(());
        }
        self.ended(task).map(|_| ())
    }

    pub(crate) fn released(&mut self, task: TaskId) -> Result<(), Broken> {
        self.report.confirmed += 1;
        let may = self.tasks.get_mut(&task).is_some_and(|facts| std::mem::take(&mut facts.waits) && facts.passed);
        match may {
            true => Ok(()),
            false => Err(Broken::Unexpected("an answer goes out that did not wait, or whose audit did not pass")),
        }
    }

    fn ended(&mut self, task: TaskId) -> Result<&mut Facts, Broken> {
        let Some(facts) = self.tasks.get_mut(&task) else { return Err(Broken::Unexpected("an unknown task ended")) };
        facts.ends += 1;
        match facts.times_ended() {
            1 => Ok(facts),
            times => Err(Broken::Ends { task: task.short(), times }),
        }
    }

    pub(crate) fn audited(&mut self, node: &NodeId, passed: Option<bool>) -> Result<(), Broken> {
        self.report.audits += 1;
        let Some(place) = self.places.get(node).copied() else { return Err(Broken::Unexpected("audit of nobody")) };
        let distrusted = self.gateway.iter().flat_map(|gateway| gateway.distrusted());
        let mut honest = distrusted.filter_map(|node| self.places.get(&node).copied());
        if let Some(node) = honest.find(|place| self.hosts[*place].kind == Kind::Honest) {
            return Err(Broken::Honest { node, why: "is not asked for audits any more" });
        }
        match passed {
            Some(true) => {}
            None => self.report.unauditable += 1,
            Some(false) => {
                self.report.audits_failed += 1;
                self.hosts[place].caught = true;
                if matches!(self.hosts[place].kind, Kind::Honest | Kind::Referee) {
                    self.report.honest_sanctioned += 1;
                    return Err(Broken::Honest { node: place, why: "failed an audit" });
                }
            }
        }
        Ok(())
    }

    /// After the gateway settled an epoch: its books, and what it lets its tenants spend.
    pub(crate) fn closed(&mut self) -> Result<(), Broken> {
        self.report.epochs += 1;
        let Some(gateway) = &self.gateway else { return Ok(()) };
        let ledger = gateway.settler().ledger();
        ledger.check()?;
        let totals = ledger.totals();
        self.report.charged = totals.charged.0;
        (self.report.audit_pay, self.report.paid_out) = (totals.audits.0, totals.paid_out.0);
        for index in 0..self.config.tenants {
            let (id, available) = (tenant(index), gateway.available(tenant(index)).0);
            let balance = ledger.balance(&Account::Tenant(id));
            if i128::from(available) > balance {
                return Err(Broken::Budget { tenant: id.short(), available, balance });
            }
        }
        let epoch = gateway.settler().epoch();
        self.tell_epoch(epoch);
        Ok(())
    }

    fn tell_epoch(&mut self, epoch: Epoch) {
        for place in 0..self.hosts.len() {
            self.send_down(place, crate::host::Down::Epoch { epoch });
        }
    }

    /// What is still open; empty at rest.
    pub(crate) fn unrest(&self) -> String {
        let Some(gateway) = &self.gateway else { return "the gateway is away".into() };
        if gateway.active() > 0 || gateway.auditing() > 0 {
            return format!("{} tasks run, {} audits", gateway.active(), gateway.auditing());
        }
        let node = self.hosts.iter().enumerate().find_map(|(place, host)| Some((place, host.unrest()?)));
        if let Some((place, why)) = node {
            return format!("node {place}: {why}");
        }
        let writing = !self.log.is_idle();
        if writing { "the log is being written".into() } else { String::new() }
    }

    /// The checks at the end, and the report.
    pub(crate) fn conclude(&mut self) -> Result<(), Broken> {
        self.check_ends()?;
        self.check_receipts()?;
        self.check_charges()?;
        self.check_standings()?;
        let restarted = self.log.restart()?.0;
        if restarted.digest() != self.log.replica().digest() {
            return Err(Broken::Unexpected("the log replayed gives another state"));
        }
        self.fill();
        Ok(())
    }

    fn check_ends(&self) -> Result<(), Broken> {
        if self.tasks.values().any(|facts| facts.waits) {
            return Err(Broken::Unexpected("an answer is kept back for ever"));
        }
        let wrong = self.tasks.iter().find(|(_, facts)| facts.times_ended() != 1);
        wrong.map_or(Ok(()), |(task, facts)| Err(Broken::Ends { task: task.short(), times: facts.times_ended() }))
    }

    // What an honest node signed and had on its disk is in the log once, and nothing else of it is.
    fn check_receipts(&self) -> Result<(), Broken> {
        for host in self.hosts.iter().filter(|host| host.kind != Kind::Hostile) {
            for &AttemptId { task, attempt } in &host.signed {
                let times = self.log.times(&AttemptId { task, attempt });
                if times != 1 {
                    return Err(Broken::Receipt { task: task.short(), attempt, times });
                }
            }
        }
        Ok(())
    }

    // What the log's receipts charge, by task, but for what the gateway pays itself.
    fn charged(&self) -> BTreeMap<TaskId, Charged> {
        let gateway = self.log.replica().gateway_tenant();
        let mut charged: BTreeMap<TaskId, Charged> = BTreeMap::new();
        for record in self.log.records() {
            if let Record::Receipt(receipt) = record
                && receipt.charge.tenant != gateway
            {
                let of = charged.entry(receipt.commitment.task).or_default();
                of.prompt += receipt.charge.prompt_tokens.0;
                of.output += receipt.charge.output_tokens.0;
            }
        }
        charged
    }

    // A task's prompt is charged once, its output at most as far as it was relayed; of an answer that one node gave,
    // exactly. Only a gateway that lost its memory takes a node's word, within the order.
    fn check_charges(&mut self) -> Result<(), Broken> {
        let charged = self.charged();
        let is_more = |(task, of): &(&TaskId, &Charged)| {
            let facts = self.tasks.get(*task).filter(|facts| !facts.hostile && self.config.restart_at.is_none());
            facts.is_some_and(|facts| of.prompt > facts.prompt || of.output > facts.content.count())
        };
        self.report.paid_twice = charged.iter().filter(is_more).count() as u64;
        for (task, facts) in
            self.tasks.iter().filter(|(_, f)| !f.hostile && self.config.restart_at.is_none() && !f.interrupted)
        {
            let Charged { prompt, output } = charged.get(task).copied().unwrap_or_default();
            if prompt > facts.prompt {
                return Err(facts.wrong(*task, "the prompt is charged twice"));
            }
            if output > facts.content.count() {
                return Err(facts.wrong(*task, "more is charged than was relayed"));
            }
            let is_calm = self.config.churn_per_minute == 0.0 && self.config.fleet.region_lost_at.is_none();
            let one = facts.answered && facts.attempts == 1 && is_calm;
            if one && !facts.forgotten {
                return Err(facts.wrong(*task, "its content is kept for nothing"));
            }
            if one && (prompt, output) != (facts.prompt, facts.content.count()) {
                return Err(facts.wrong(*task, "a whole answer is not charged in full"));
            }
        }
        Ok(())
    }

    fn check_standings(&self) -> Result<(), Broken> {
        let replica = self.log.replica();
        for (place, host) in self.hosts.iter().enumerate().filter(|(_, h)| h.kind == Kind::Honest) {
            if replica.standing(host.id, crate::world::VARIANT).failed > 0 {
                return Err(Broken::Honest { node: place, why: "a failed audit stands against it" });
            }
        }
        Ok(())
    }

    // Work of engines beyond one prefill of each answered prompt and one decode of its answer.
    fn extra_work_pct(&self) -> f64 {
        let worked: u64 = self.hosts.iter().map(|host| host.worked.0).sum();
        let answered = self.tasks.values().filter(|facts| facts.answered);
        let useful: u64 = answered.map(|facts| work(facts.prompt, facts.content.count()).0).sum();
        let share = worked as f64 / useful.max(1) as f64 - 1.0;
        (share * 1e5).round() / 1e3
    }

    // The first tenth of the time is the start's.
    fn goodput(&self) -> f64 {
        let (from, to) = (Timestamp(self.ends().0 / 10), self.ends());
        let count = self.answers.iter().filter(|(at, _)| (from..to).contains(at)).count();
        (count as f64 * 1e9 / to.since(from).0.max(1) as f64).round() / 1e3
    }

    // The end of the last second after the loss in which more than one answer in twenty took more than three times the median
    // before it.
    fn restored_after_ms(&self) -> Option<u64> {
        let lost_at = self.config.fleet.region_lost_at?;
        let mut before: Vec<Micros> =
            self.answers.iter().filter(|(at, _)| *at < lost_at).map(|(_, took)| *took).collect();
        before.sort_unstable();
        let limit = Micros(before.get(before.len() / 2)?.0 * 3);
        let mut seconds: BTreeMap<u64, [u64; 2]> = BTreeMap::new();
        // The last answers of all come alone.
        let while_asked = lost_at..self.ends();
        for (at, took) in self.answers.iter().filter(|(at, _)| while_asked.contains(at)) {
            let [all, late] = seconds.entry(at.since(lost_at).0 / 1_000_000).or_default();
            (*all, *late) = (*all + 1, *late + u64::from(*took > limit));
        }
        let bad = seconds.iter().rev().find(|(_, [all, late])| late * 20 > *all);
        Some(bad.map_or(0, |(second, _)| (second + 1) * 1_000))
    }

    // What came of each region in each third of the time.
    fn of_regions(&self) -> Vec<OfRegion> {
        if self.config.demand.home.is_none() {
            return Vec::new();
        }
        let thirds = (0..3_u32).flat_map(|third| (0..self.config.regions).map(move |region| (third, region)));
        thirds.map(|(third, region)| self.of_region(third, region)).collect()
    }

    fn of_region(&self, third: u32, region: u32) -> OfRegion {
        let span = self.ends().0 / 3;
        let of_third = |at: Timestamp| at.0 / span.max(1) == u64::from(third);
        let asked: Vec<&Ended> =
            self.ended.iter().filter(|ended| ended.home == region && of_third(ended.arrived)).collect();
        let mut answers: Vec<(u32, Micros)> = asked.iter().filter_map(|ended| ended.answer).collect();
        answers.sort_unstable_by_key(|(_, took)| *took);
        let at = |percent: usize| answers.get(answers.len() * percent / 100).map_or(0, |(_, took)| took.0 / 1_000);
        let share = |part: usize, of: usize| ((part as f64 / of.max(1) as f64) * 1e4).round() / 1e4;
        let lengths = self.config.demand.lengths.unwrap_or([60, 100]);
        let hosts = || self.hosts[..self.config.nodes as usize].iter().filter(|host| host.region == region);
        let could = hosts().map(|host| self.capacity_of(host, lengths)).sum::<f64>() * span as f64 / 1e6;
        let slots: u64 = hosts().map(|host| u64::from(host.slots)).sum();
        let busy: u64 = hosts().map(|host| host.busy[third as usize].0).sum();
        OfRegion {
            third,
            region,
            asked: (asked.len() as f64 / could.max(1.0) * 1e3).round() / 1e3,
            utilisation: ((busy as f64 / (slots * span).max(1) as f64) * 1e3).round() / 1e3,
            p50_ms: at(50),
            p99_ms: at(99),
            spilled: share(answers.iter().filter(|(there, _)| *there != region).count(), answers.len()),
            refused: share(asked.len() - answers.len(), asked.len()),
        }
    }

    fn fill(&mut self) {
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_unstable();
        let at = |percent: usize| latencies.get(latencies.len() * percent / 100).map_or(0, |Micros(m)| m / 1_000);
        let mut stretches = std::mem::take(&mut self.stretches);
        stretches.sort_unstable();
        let stretched =
            |percent: usize| stretches.get(stretches.len() * percent / 100).map_or(0.0, |times| *times as f64 / 100.0);
        let caught = self.hosts.iter().filter(|host| host.kind == Kind::Cheater && host.caught).count();
        let counters = self.gateway.as_ref().map(|gateway| *gateway.counters()).unwrap_or_default();
        let logged = |of: fn(&Record) -> bool| self.log.records().iter().filter(|record| of(record)).count() as u64;
        let receipts = logged(|record| matches!(record, Record::Receipt(_)));
        let panels_failed = logged(|record| {
            let Record::Audit { outcome: AuditOutcome::Verdict { verdict, ruling }, .. } = record else { return false };
            verdict.level == Level::Panel && *ruling == Ruling::Failed
        });
        let slashed = logged(|record| matches!(record, Record::Evidence(_)));
        self.report = Report {
            ended_after_seconds: self.now.0 as f64 / 1e6,
            failed_over: counters.failed_over,
            raced: counters.raced,
            borne: counters.borne,
            moved: counters.moved,
            extra_work_pct: self.extra_work_pct(),
            regions: self.of_regions(),
            goodput: self.goodput(),
            restored_after_ms: self.restored_after_ms(),
            escalated: counters.escalated,
            panels: counters.panels,
            panels_failed,
            receipts,
            slashed,
            cheaters_caught: caught as u64,
            latency_p50_ms: at(50),
            latency_p99_ms: at(99),
            stretch_p50: stretched(50),
            stretch_p99: stretched(99),
            digest: self.trace.value(),
            ..std::mem::take(&mut self.report)
        };
    }
}
