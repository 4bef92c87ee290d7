//! Modelled engines: a prefill, then tokens in frames; slower where more runs at once, now and then for no reason.

use crate::config::{BreachOfPromise, Broken};
use crate::content;
use crate::gate::Up;
use crate::host::{Host, Job};
use crate::world::{Event, World};
use ol_protocol::commitment::Finish;
use ol_protocol::record::AttemptId;
use ol_protocol::{Digest, Micros, Timestamp, TokenCount};
use ol_roles::node::{FailCode, Input, Work};

/// Tokens of one frame; the first has one, which the prefill gives.
const CHUNK: u32 = 4;

/// What a token is worth as work, wherever it is computed: the mean of the nodes that are not slow.
const PREFILL: Micros = Micros(450);
const DECODE: Micros = Micros(5_000);

/// How long an engine stands still whose next frame is to cross the gateway's decision.
const STALL: Micros = Micros(19_950_000);
const STALL_JITTER: usize = 200_000;

/// Longer than any client waits.
const FOREVER: Micros = Micros::from_secs(86_400);

/// An attempt that an engine has.
#[derive(Debug)]
pub(crate) struct Run {
    job: Job,
    stopped: bool,
    began: bool,
    // How many times slower than its node is in the mean.
    slowness: f64,
    // After how many tokens it stands still, and for how long.
    pause: Option<(u32, Micros)>,
    phase: Phase,
}

// A prefill, or the tokens of a frame.
#[derive(Debug, Clone, Copy)]
struct Phase {
    began: Timestamp,
    takes: Micros,
    work: Micros,
}

impl Phase {
    fn done_by(&self, now: Timestamp) -> Micros {
        let share = now.since(self.began).0 as f64 / self.takes.0.max(1) as f64;
        Micros((self.work.0 as f64 * share.min(1.0)) as u64)
    }
}

/// The work of a prompt and an answer, each computed once.
pub(crate) fn work(prompt: u32, answer: u32) -> Micros {
    decoded(prefilled(prompt), answer.saturating_sub(1))
}

fn prefilled(tokens: u32) -> Micros {
    Micros(PREFILL.0 * u64::from(tokens))
}

fn decoded(before: Micros, tokens: u32) -> Micros {
    Micros(before.0 + DECODE.0 * u64::from(tokens))
}

impl Host {
    // How much longer everything takes now.
    fn slowness(&self, crowding: f64) -> f64 {
        let (running, engines) = (self.runs.len(), self.engines.max(1) as usize);
        let shared = (running as f64 / engines as f64).max(1.0);
        self.slow as f64 * (1.0 + crowding * running.min(engines).saturating_sub(1) as f64) * shared
    }

    /// What runs ends here, done or not.
    pub(crate) fn abandon_runs(&mut self, now: Timestamp) {
        for run in std::mem::take(&mut self.runs).into_values().filter(|run| !run.stopped) {
            self.worked.0 += run.phase.done_by(now).0;
        }
    }
}

impl World {
    /// Tasks of these lengths a second that all nodes together can answer.
    pub(crate) fn capacity(&self, lengths: [u32; 2]) -> f64 {
        self.hosts.iter().map(|host| self.capacity_of(host, lengths)).sum()
    }

    pub(crate) fn capacity_of(&self, host: &Host, [prompt, answer]: [u32; 2]) -> f64 {
        let micros = host.prefill.0 * u64::from(prompt) + host.decode.0 * u64::from(answer.saturating_sub(1));
        let slots = f64::from(host.engines);
        let crowded = 1.0 + self.config.fleet.crowding * (slots - 1.0).max(0.0);
        slots * 1e6 / (micros as f64 * host.slow as f64 * crowded)
    }

    pub(crate) fn start_run(&mut self, place: usize, attempt: AttemptId) -> Result<(), Broken> {
        let Some(job) = self.hosts[place].jobs.remove(&attempt) else {
            return Err(Broken::Unexpected("a node starts what it was not given"));
        };
        let fleet = self.config.fleet;
        let engines = &mut self.chances.engines;
        let slowness = if fleet.jitter > 0.0 { libm::exp(fleet.jitter * engines.normal()) } else { 1.0 };
        let pause = engines
            .happens(fleet.pauses.0)
            .then(|| (engines.below(job.answer.min(job.max) as usize) as u32, engines.span(fleet.pauses.1)));
        let (prompt, tokens) = (TokenCount(job.prompt), job.prompt + job.content.count());
        let host = &mut self.hosts[place];
        let held = job.conversation.map_or(0, |number| host.held.of(number)).min(job.prompt.saturating_sub(1));
        let tokens = tokens - held;
        let phase = Phase { began: self.now, takes: Micros(0), work: Micros(0) };
        host.runs.insert(attempt, Run { job, stopped: false, began: false, slowness, pause, phase });
        let takes = Micros(host.prefill.0 * u64::from(tokens));
        self.begin_phase(place, attempt, takes, prefilled(tokens));
        self.report.prompt_tokens += u64::from(prompt.0);
        self.report.resident_tokens += u64::from(held);
        self.send_up(place, Up::Started { attempt, prompt, resident: TokenCount(held) });
        Ok(())
    }

    fn begin_phase(&mut self, place: usize, attempt: AttemptId, takes: Micros, work: Micros) {
        let fleet = self.config.fleet;
        let stalls = self.config.churn_per_minute > 0.0 && self.chances.engines.happens(fleet.stalls);
        let host = &mut self.hosts[place];
        let slowness = host.slowness(fleet.crowding);
        let Some(run) = host.runs.get_mut(&attempt) else { return };
        let mut takes = Micros((takes.0 as f64 * slowness * run.slowness) as u64);
        let count = run.job.content.count();
        if let Some((_, pause)) = run.pause.take_if(|(at, _)| *at < count + CHUNK) {
            takes = takes.saturating_add(pause);
        }
        if host.breach == Some(BreachOfPromise::StandsStill) && run.began {
            takes = FOREVER;
        }
        if stalls && run.began {
            takes = takes.saturating_add(STALL).saturating_add(Micros(self.chances.engines.below(STALL_JITTER) as u64));
        }
        run.phase = Phase { began: self.now, takes, work };
        // Which third of the time it is: what comes after the last request belongs to none.
        let third = self.now.0 * 3 / (u64::from(self.config.seconds) * 1_000_000).max(1);
        if let Some(busy) = usize::try_from(third).ok().and_then(|third| host.busy.get_mut(third)) {
            busy.0 += takes.0;
        }
        self.agenda.plan(self.now.after(takes), Event::Step { place, life: host.life, attempt });
    }

    /// The gateway took an attempt back: the engine notices at its next token.
    pub(crate) fn stop_run(&mut self, place: usize, attempt: AttemptId) {
        let crowding = self.config.fleet.crowding;
        let host = &mut self.hosts[place];
        let token = Micros((host.decode.0 as f64 * host.slowness(crowding)) as u64);
        let Some(run) = host.runs.get_mut(&attempt).filter(|run| !run.stopped) else { return };
        run.stopped = true;
        host.worked.0 += run.phase.done_by(self.now).0;
        self.agenda.plan(self.now.after(token), Event::Step { place, life: host.life, attempt });
    }

    /// The engine made a frame of tokens, or is through.
    pub(crate) fn step(&mut self, place: usize, life: u32, attempt: AttemptId) -> Result<(), Broken> {
        if self.hosts[place].life != life {
            return Ok(());
        }
        let maker = self.hosts[place].maker();
        let fails = self.chances.engines.happens(self.config.fleet.fails);
        let Some(run) = self.hosts[place].runs.get_mut(&attempt) else { return Ok(()) };
        if run.stopped {
            return self.end_run(place, attempt, fails);
        }
        let (done, target) = (run.phase.work, run.job.answer.min(run.job.max));
        let first = !std::mem::replace(&mut run.began, true);
        let frame = if first { 1 } else { CHUNK };
        let added = if fails { 0 } else { frame.min(target.saturating_sub(run.job.content.count())) };
        run.job.content.extend(added, maker);
        let count = run.job.content.count();
        self.hosts[place].worked.0 += done.0;
        if fails {
            return self.end_run(place, attempt, true);
        }
        if first {
            self.tell(place, Input::FirstToken { attempt })?;
        }
        if added > 0 {
            self.send_up(place, Up::Tokens { attempt, count: TokenCount(count), added: TokenCount(added), maker });
        }
        if count >= target {
            return self.end_run(place, attempt, false);
        }
        let next = CHUNK.min(target - count);
        let takes = Micros(self.hosts[place].decode.0 * u64::from(next));
        self.begin_phase(place, attempt, takes, decoded(Micros(0), next));
        Ok(())
    }

    fn end_run(&mut self, place: usize, attempt: AttemptId, failed: bool) -> Result<(), Broken> {
        let Some(run) = self.hosts[place].runs.remove(&attempt) else { return Ok(()) };
        if failed {
            return self.tell(place, Input::EngineFailed { attempt, code: FailCode::Internal });
        }
        let job = run.job;
        if let Some(number) = job.conversation {
            self.hosts[place].held.keep(number, job.prompt + job.content.count());
        }
        self.hosts[place].made.insert(attempt, job.content.clone());
        let whole = job.content.count() >= job.answer.min(job.max);
        let finish = match (whole, job.answer <= job.max) {
            (false, _) => Finish::Cancelled,
            (true, true) => Finish::EndOfText,
            (true, false) => Finish::Length,
        };
        let work = Work {
            prompt: content::prompt(&attempt.task),
            seed: content::seed(&attempt.task),
            output: job.content.root(&attempt.task),
            log_probs: Digest([0x6c; 32]),
            finish,
            prompt_tokens: TokenCount(job.prompt),
            output_tokens: TokenCount(job.content.count()),
        };
        self.tell(place, Input::Finished { attempt, work })
    }

    /// Slow nodes become fast, and as many others slow.
    pub(crate) fn speeds_change(&mut self) -> Result<(), Broken> {
        let Some(every) = self.config.fleet.changes_every.filter(|_| self.now < self.ends()) else { return Ok(()) };
        self.agenda.plan(self.now.after(every), Event::SpeedsChange);
        let workers = self.config.nodes as usize;
        let slow = self.hosts[..workers].iter().filter(|host| host.slow > 1).count();
        let (mut others, factor) = (Vec::new(), self.config.fleet.slow_factor);
        for (place, host) in self.hosts[..workers].iter_mut().enumerate() {
            if std::mem::replace(&mut host.slow, 1) == 1 {
                others.push(place);
            }
        }
        for _ in 0..slow.min(others.len()) {
            let place = others.swap_remove(self.chances.churn.below(others.len()));
            self.hosts[place].slow = factor;
        }
        Ok(())
    }
}
