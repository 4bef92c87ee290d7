//! Faults of the PostgreSQL server that a gateway keeps its log in, and of the way to it.

use super::random::Random;
use super::world::World;
use super::{Struck, within};
use crate::http::Api;
use crate::proxy::Proxy;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest a gateway may take to say how it is, whatever its log's server does.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);

/// Longest until it says that its server is away or stands still: half of what it waits for an answer.
const TOLD_LIMIT: Duration = Duration::from_secs(30);

/// Answers that clients must have while the server stands still.
const MEANWHILE: usize = 5;

/// How a start without a server is refused.
const AWAY: [&str; 2] = ["Connection refused", "the database system is"];

/// Asks a gateway again and again how it is.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Duration, BTreeSet<String>)>,
}

impl Watch {
    fn start(api: Api) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut longest, mut reasons) = (Duration::ZERO, BTreeSet::new());
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                // A gateway that was killed says nothing.
                if let Ok(health) = api.try_send("GET", "/health", b"") {
                    longest = longest.max(began.elapsed());
                    reasons.extend(health.json()["reason"].as_str().map(str::to_owned));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            (longest, reasons)
        });
        Self { stop, thread }
    }

    // It never kept anyone waiting; the reasons that it gave.
    fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let (longest, reasons) = self.thread.join().unwrap();
        assert!(longest < HEALTH_LIMIT, "the gateway took {longest:?} to say how it is");
        reasons
    }
}

fn reason(api: &Api) -> Option<String> {
    api.get("/health").json()["reason"].as_str().map(str::to_owned)
}

// It says what is wrong.
fn is_told(api: &Api, word: &str) {
    assert!(within(TOLD_LIMIT, || reason(api).is_some_and(|it| it.contains(word))), "it says {:?}", reason(api));
}

// Not all: who loses a task gets none for a while.
fn some_nodes(random: &mut Random) -> Vec<usize> {
    let count = random.between(0, 3) as usize;
    random.shuffled(&[0, 1, 2])[..count].to_vec()
}

fn lose_answers(world: &mut World, to: &[usize], are_lost: bool) {
    to.iter().for_each(|at| world.nodes()[*at].proxy.lose_answers(are_lost));
}

/// All of its processes, once or twice.
pub(super) fn server_killed(world: &mut World, random: &mut Random) -> Struck {
    away(world, random, super::cluster::Cluster::kill)
}

/// In order.
pub(super) fn server_restarted(world: &mut World, random: &mut Random) -> Struck {
    away(world, random, super::cluster::Cluster::end)
}

fn away(world: &mut World, random: &mut Random, end: fn(&mut super::cluster::Cluster)) -> Struck {
    let traffic = world.begin(random);
    let watch = Watch::start(world.gateway.api());
    let mut told = Vec::new();
    for _ in 0..random.between(1, 3) {
        random.pause(2_000);
        // They will send again what the gateway has, and it can't look it up.
        let cut = some_nodes(random);
        lose_answers(world, &cut, true);
        random.pause(1_500);
        end(world.cluster());
        lose_answers(world, &cut, false);
        cut.iter().for_each(|at| world.nodes()[*at].proxy.cut());
        // A short absence need not be noticed.
        let is_long = random.one_in(2);
        if is_long {
            is_told(&world.gateway.api(), "postgres://");
        }
        random.pause(1_000);
        world.cluster().again();
        told.push(format!("told {is_long}, nodes cut off {cut:?}"));
    }
    watch.end();
    (traffic, Vec::new(), told.join("; "))
}

/// It stands still, and clients don't.
pub(super) fn server_slow(world: &mut World, random: &mut Random) -> Struck {
    let traffic = world.begin(random);
    let watch = Watch::start(world.gateway.api());
    random.pause(2_000);
    let still = Duration::from_millis(random.between(2_000, 10_000));
    let is_long = random.one_in(2);
    world.cluster().stop();
    let began = Instant::now();
    let cut = some_nodes(random);
    cut.iter().for_each(|at| world.nodes()[*at].proxy.cut());
    traffic.more(MEANWHILE);
    if is_long {
        is_told(&world.gateway.api(), "has not been written for");
    }
    std::thread::sleep(still.saturating_sub(began.elapsed()));
    world.cluster().go_on();
    watch.end();
    (traffic, Vec::new(), format!("for {:.1?}, told {is_long}, nodes cut off {cut:?}", began.elapsed()))
}

/// The connections are cut at random moments, some after answers were lost on the way.
pub(super) fn server_cut_off(world: &mut World, random: &mut Random) -> Struck {
    let line = Proxy::to(world.cluster().address());
    let direct = world.store_at(&line.address.to_string());
    let traffic = world.begin(random);
    let watch = Watch::start(world.gateway.api());
    let (mut cuts, mut deaf) = (0, 0);
    for _ in 0..random.between(3, 9) {
        random.pause(800);
        let is_deaf = random.one_in(2);
        if is_deaf {
            line.lose_answers(true);
            random.pause(300);
        }
        line.cut();
        line.lose_answers(false);
        cuts += 1;
        deaf += u32::from(is_deaf);
    }
    watch.end();
    // The round ends over this line; the next one begins without.
    world.gateway.store = Some(direct);
    (traffic, Vec::new(), format!("{cuts} times, {deaf} with answers lost"))
}

/// The gateway is killed while its server is away or stands still.
pub(super) fn gateway_killed_meanwhile(world: &mut World, random: &mut Random) -> Struck {
    let traffic = world.begin(random);
    random.pause(2_000);
    let is_still = random.one_in(2);
    let word = if is_still {
        world.cluster().stop();
        random.pause(2_000);
        world.kill_gateway();
        // The server has yet to notice that the gateway's sessions are over.
        world.cluster().go_on();
        "the server stood still"
    } else {
        world.cluster().kill();
        random.pause(2_000);
        world.kill_gateway();
        world.refused(world.gateway.command_again(&[]), &AWAY);
        world.cluster().again();
        "the server was killed"
    };
    world.gateway.again();
    (traffic, Vec::new(), word.into())
}

/// A gateway with the same keys begins, on the same folder and on a copy of it.
pub(super) fn second_gateway(world: &mut World, random: &mut Random) -> Struck {
    let traffic = world.begin(random);
    let watch = Watch::start(world.gateway.api());
    random.pause(1_000);
    let copy = world.folder.join("copy");
    let is_copied = random.one_in(2);
    let folder = if is_copied { world.copy_gateway(&copy) } else { world.gateway.folder.clone() };
    world.refused(world.gateway_at(&folder), &["runs in another process"]);
    if is_copied {
        std::fs::remove_dir_all(copy).unwrap();
    }
    let reasons = watch.end();
    assert!(reasons.is_empty(), "the first gateway says {reasons:?}");
    (traffic, Vec::new(), format!("a copy of the folder {is_copied}"))
}
