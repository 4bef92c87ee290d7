//! What issuer and owner sign, handed to a running gateway; and several gateways of one owner on one database.

use crate::http::{Api, chat};
use crate::process::{Ended, Gateway, Node, eventually, openledger, run};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

// The owner's command against a gateway.
pub(crate) fn told(gateway: &Gateway, folder: &Path, args: &[&str]) -> Ended {
    let to = format!("http://{}", gateway.address);
    run(&[args, &["--to", &to, "--data-dir", folder.to_str().unwrap()]].concat())
}

pub(crate) fn good(ended: Ended) -> String {
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    ended.out
}

pub(crate) fn key_in(out: &str) -> String {
    out.lines().find_map(|line| line.strip_prefix("API key")).unwrap().trim().to_owned()
}

#[test]
fn a_tenant_is_entered_buys_credits_asks_and_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let key = key_in(&good(told(&gateway, &gateway.folder, &["tenant", "add", "alice"])));
    let alice = Api::new(gateway.address, &key);
    let ask = || alice.chat(&chat("hello", 8, 1));
    assert_eq!(ask().status, 429, "no credits yet");

    let buy = ["issue", "top-up", "--tenant", "alice", "--credits", "0.5", "--serial", "7"];
    good(told(&gateway, &gateway.folder, &buy));
    ask().good();
    let again = told(&gateway, &gateway.folder, &buy);
    assert!(again.complaint().contains("replay"), "{}", again.err);

    // Whoever else has a network can't make money or tenants here.
    let other = Gateway::start(&folder.path().join("other"), &[]);
    let owner = gateway.api().get("/v1/network").json()["owner"].as_str().unwrap().to_owned();
    for args in [&buy[..], &["tenant", "add", "mallory"]] {
        let astray = told(&gateway, &other.folder, args);
        assert!(astray.complaint().contains("the gateway says that it is of owner"), "{}", astray.err);
        let forged = told(&gateway, &other.folder, &[args, &["--owner", &owner]].concat());
        assert!(forged.complaint().contains("somebody else"), "{}", forged.err);
    }
    // Another key works from now on, and only that.
    let key = key_in(&good(told(&gateway, &gateway.folder, &["tenant", "add", "alice"])));
    assert_eq!(ask().status, 401);
    Api::new(gateway.address, &key).chat(&chat("hello", 8, 1)).good();
    good(told(&gateway, &gateway.folder, &["tenant", "remove", "alice"]));
    assert_eq!(Api::new(gateway.address, &key).chat(&chat("hello", 8, 1)).status, 401);
    gateway.fsck();
}

#[test]
fn parameters_change_by_a_tenth_and_from_a_later_epoch_on() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let set = |more: &[&str]| told(&gateway, &gateway.folder, &[&["issue", "parameters"], more].concat());
    let large = set(&["--set", "audit.rate_ppm=5000"]);
    assert!(large.complaint().contains("audit"), "{}", large.err);
    let before = gateway.api().get("/v1/network").json()["parameters"].clone();
    good(set(&["--set", "audit.rate_ppm=9500", "--set", "payout.threshold_micro_credits=1100000"]));
    eventually("the new parameters", || {
        (gateway.api().get("/v1/network").json()["parameters"] != before).then_some(())
    });
    let late = set(&["--set", "audit.rate_ppm=9750", "--from", "1"]);
    assert!(late.complaint().contains("the earliest is"), "{}", late.err);
    let epoch = gateway.api().get("/v1/network").json()["epoch"].as_u64().unwrap();
    eventually("the next epoch", || {
        (gateway.api().get("/v1/network").json()["epoch"].as_u64().unwrap() > epoch + 1).then_some(())
    });
    gateway.fsck();
}

#[test]
fn instructions_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let api = gateway.api();
    for path in ["/v1/top-ups", "/v1/parameters", "/v1/tenants"] {
        for (body, word) in [
            ("", "JSON"),
            ("{}", "signed"),
            (r#"{"signed": 5}"#, "signed"),
            (r#"{"signed": "zz"}"#, "hexadecimal"),
            (r#"{"signed": "00"}"#, "bytes"),
            (r#"{"signed": "", "more": 1}"#, "nothing"),
        ] {
            let answer = api.try_send("POST", path, body.as_bytes()).unwrap();
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(answer.status == 400 && message.contains(word), "{path} {body}: {} {message}", answer.status);
        }
        assert_eq!(api.try_send("POST", path, &[b' '; 5_000]).unwrap().status, 413);
        assert_eq!(api.get(path).status, 405);
    }
}

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database of its own in the server of `OPENLEDGER_POSTGRES`.
pub(crate) fn database() -> String {
    let server = std::env::var("OPENLEDGER_POSTGRES").expect("OPENLEDGER_POSTGRES names a server");
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let name = format!("network_{}_{number}", std::process::id());
    let done = std::process::Command::new("psql").args([&server, "-qc", &format!("CREATE DATABASE {name}")]).status();
    assert!(done.expect("psql runs").success());
    let (start, _) = server.rsplit_once('/').expect("a URL");
    format!("{start}/{name}")
}

fn on(database: &str) -> impl Fn(&[&str]) -> Ended {
    let database = database.to_owned();
    move |args| {
        let mut command = openledger(args);
        command.env("OPENLEDGER_STORE", &database);
        crate::process::finish(command)
    }
}

// What the log says of an account, in micro-credits, over all of its kind.
fn balance(out: &str, kind: &str) -> i64 {
    let amount = |line: &str| line.rsplit(' ').next().unwrap().replace('.', "").parse::<i64>().unwrap();
    out.lines().filter(|line| line.split(' ').next() == Some(kind)).map(amount).sum()
}

const DEAR: [&str; 2] = ["--output-price", "8000000000"];

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn gateways_of_one_owner_share_tenants_and_credits_and_overspend_nothing() {
    let (folder, database) = (tempfile::tempdir().unwrap(), database());
    let first = Gateway::start(&folder.path().join("first"), &[&DEAR[..], &["--store", &database]].concat());
    // Who joins has the owner's key, and nothing else of the first.
    let keys = folder.path().join("second/network");
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::copy(first.folder.join("network/gateway-owner.key"), keys.join("gateway-owner.key")).unwrap();
    let second = Gateway::start(&folder.path().join("second"), &[&DEAR[..], &["--store", &database]].concat());
    let nodes = [&first, &second]
        .map(|gateway| Node::join(&gateway.ticket, &folder.path().join(format!("node-{}", gateway.address.port()))));
    let key = key_in(&good(told(&first, &first.folder, &["tenant", "add", "alice"])));
    good(told(&second, &first.folder, &["issue", "top-up", "--tenant", "alice", "--credits", "4"]));
    eventually("the tenant at the other gateway", || {
        (Api::new(second.address, &key).get("/v1/models").status == 200).then_some(())
    });
    for gateway in [&first, &second] {
        eventually("a node with room", || (gateway.metric("nodes_ready") == 1).then_some(()));
    }

    // Both are asked by several clients until both say that nothing is left.
    let charged: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = [&first, &second, &first, &second]
            .iter()
            .enumerate()
            .map(|(client, gateway)| {
                let api = Api::new(gateway.address, &key);
                scope.spawn(move || spend(&api, client as u64))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(charged > 3_000_000 && charged <= 4_000_000, "{charged}");

    // Settled, the two logs come to what was sold, and what was asked for is paid.
    let ask = on(&database);
    let (mut sold, mut left) = (0, 0);
    for gateway in [&first, &second] {
        eventually("everything in the log", || (gateway.metric("tokens_unsettled") == 0).then_some(()));
        let epoch = gateway.metric("epoch");
        eventually("its close", || (gateway.metric("epoch") > epoch + 1).then_some(()));
        let data_dir = gateway.folder.to_str().unwrap();
        let out = good(ask(&["ledger", "balances", "--data-dir", data_dir]));
        sold -= balance(&out, "issuer");
        left += balance(&out, "tenant");
        let checked = ask(&["ledger", "fsck", "--data-dir", data_dir]);
        assert!(checked.status.success() && checked.out.contains(" 0 faults"), "{}{}", checked.out, checked.err);
    }
    assert_eq!(sold, 4_000_000);
    assert_eq!(left, 4_000_000 - i64::try_from(charged).unwrap());
    drop(nodes);

    // Somebody else's gateway has no place there.
    let stranger = folder.path().join("stranger");
    let refused = ask(&["gateway", "--data-dir", stranger.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert!(refused.complaint().contains("gateway-owner.key"), "{}", refused.err);
}

// Asks until the credits are gone, and says what it was charged.
fn spend(api: &Api, client: u64) -> u64 {
    let mut charged = 0;
    let mut refusals = 0;
    for number in 0.. {
        let answer = api.chat(&chat("spend it", 24, client * 10_000 + number));
        if answer.status == 200 {
            charged += answer.json()["openledger"]["charge_micro_credits"].as_u64().unwrap();
            refusals = 0;
            continue;
        }
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(answer.status == 429 && message.contains("micro-credits"), "{} {message}", answer.status);
        refusals += 1;
        // Money that others have reserved may come back once more.
        if refusals > 3 {
            return charged;
        }
        std::thread::sleep(std::time::Duration::from_millis(1_100));
    }
    unreachable!("numbers don't end")
}
