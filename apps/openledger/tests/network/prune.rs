//! A gateway whose log is older than what it keeps: pruned while it runs, and everything still works or says why not.

use crate::http::chat;
use crate::instructions::database;
use crate::process::{Gateway, Node, eventually, run};
use ol_protocol::batch::{BatchHeader, CountersignedBatch, SignedBatch};
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::merkle::{Frontier, leaf_hash, root};
use ol_protocol::parameters::{AuditRule, Parameters};
use ol_protocol::receipt::{Charge, Receipt};
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record};
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::{
    AuditId, Digest, Epoch, GatewayId, IssuerId, MicroCredits, Micros, NodeId, OperatorId, OwnerId, Price, TaskId,
    TenantId, Timestamp, TokenCount, VariantId, seed,
};
use ol_roles::Settler;
use ol_roles::settler::Reveal;
use ol_store::{
    Facts, Identity, Job, Note, Options, PostgresFunds, PostgresStore, Snapshot, SqliteStore, Store, keyfile,
};
use ol_trust::draw;
use std::path::Path;
use std::sync::Arc;

/// Receipts stay for an hour of epochs: here, for 1,800 of them.
const EPOCH_SECONDS: u64 = 2;
const EPOCHS: u64 = 1_900;

/// The first epochs have a batch each, and so has one in the middle.
const BUSY: u64 = 90;
const MIDDLE: u64 = 500;
const BATCH: u64 = 4;

/// A log as a gateway leaves it after an hour and some minutes, made without waiting.
struct History {
    key: SecretKey,
    master: [u8; 32],
    node: SecretKey,
    genesis: Genesis,
    tenant: TenantId,
    settler: Settler,
    tree: Frontier,
    first: Vec<Record>,
    jobs: Vec<Arc<Job>>,
    batches: u64,
    /// The epochs after which there is a snapshot.
    snapshots: [u64; 3],
}

impl History {
    fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let key = |name: &str| keyfile::load_or_create(&folder.join(format!("{name}.key"))).unwrap();
        let genesis = Genesis {
            issuer: IssuerId(key("issuer").public()),
            referee: NodeId(key("referee").public()),
            referee_operator: OperatorId(key("referee-operator").public()),
            born_at: Timestamp(ol_drive::clock::now().0 - EPOCHS * EPOCH_SECONDS * 1_000_000),
            epoch: Micros::from_secs(EPOCH_SECONDS),
            // Nothing is drawn: an open audit would keep what came after it.
            parameters: Parameters {
                audit: AuditRule { newcomer_tasks: 0, rate_ppm: 0, ..AuditRule::DEFAULT },
                ..Parameters::DEFAULT
            },
            gateway: GatewayId(key("gateway").public()),
            owner: OwnerId([0; 32]),
            signature: Signature([0; 64]),
        }
        .of(GatewayId(key("gateway").public()), &key("gateway-owner"));
        let mut tenant = [0; 16];
        let name = digest(Domain::Task, &[b"tenant", &genesis.network().0, b"owner"]);
        tenant.copy_from_slice(&name.0[..16]);
        let mut history = Self {
            key: key("gateway"),
            master: keyfile::secret_file(&folder.join("gateway.secret")).unwrap(),
            node: SecretKey::from_bytes(&[100; 32]),
            settler: Settler::new(genesis.clone()).unwrap(),
            tenant: TenantId(tenant),
            genesis,
            tree: Frontier::new(),
            first: Vec::new(),
            jobs: Vec::new(),
            batches: 0,
            snapshots: [EPOCHS - 3, EPOCHS - 2, EPOCHS - 1],
        };
        let (network, owner) = (history.genesis.network(), history.genesis.owner);
        let top_up = TopUp::issue(&key("issuer"), network, owner, history.tenant, MicroCredits(100_000_000), 1);
        let top_up = Slice::whole(top_up);
        history.settler.top_up(&top_up).unwrap();
        history.first = vec![Record::Genesis(history.genesis.clone()), Record::TopUp(top_up)];
        history.push(history.first.clone(), Job::default());
        history
    }

    fn push(&mut self, records: Vec<Record>, job: Job) {
        for record in &records {
            self.tree.append(record.leaf());
        }
        self.jobs.push(Arc::new(Job { records, ..job }));
    }

    fn at(&self, epoch: Epoch) -> Timestamp {
        Timestamp(self.genesis.born_at.0 + (epoch.0 + 1) * EPOCH_SECONDS * 1_000_000)
    }

    // Ids begin with the time.
    fn task(&self, epoch: Epoch, number: u64) -> TaskId {
        let mut id = [number as u8; 16];
        id[..6].copy_from_slice(&(self.at(epoch).0 / 1_000).to_be_bytes()[2..]);
        TaskId(id)
    }

    fn receipt(&self, task: TaskId) -> Receipt {
        let tokens = TokenCount(10);
        let price = Price { prompt_per_million: MicroCredits(1_000_000), output_per_million: MicroCredits(1_000_000) };
        let commitment = Commitment {
            network: self.genesis.network(),
            gateway: self.genesis.gateway,
            node: NodeId(self.node.public()),
            operator: OperatorId(self.node.public()),
            task,
            attempt: 0,
            epoch: self.settler.epoch(),
            variant: VariantId([4; 32]),
            sampler_version: 1,
            prompt: Digest([5; 32]),
            seed: Digest([6; 32]),
            output: Digest([7; 32]),
            log_probs: Digest([8; 32]),
            finish: Finish::Length,
            prompt_tokens: tokens,
            output_tokens: tokens,
            resumed_from: TokenCount(0),
            first_token: Micros(1),
            total: Micros(2),
        };
        let amount = price.charge(tokens, tokens).unwrap();
        let (request, response) = (Digest([9; 32]), Digest([10; 32]));
        let tenant = self.tenant;
        let charge = Charge {
            tenant,
            request,
            response,
            prompt_tokens: tokens,
            output_tokens: tokens,
            price,
            amount,
            public: false,
            with_audit: false,
            region: None,
        };
        Receipt { commitment, charge }
    }

    fn batch(&mut self, epoch: Epoch) {
        let receipts: Vec<Receipt> = (0..BATCH).map(|number| self.receipt(self.task(epoch, number))).collect();
        let header = BatchHeader {
            network: self.genesis.network(),
            gateway: self.genesis.gateway,
            node: NodeId(self.node.public()),
            operator: OperatorId(self.node.public()),
            sequence: self.batches,
            epoch,
            count: 0,
            root: Digest([0; 32]),
        };
        let commitments = receipts.iter().map(|receipt| receipt.commitment.clone()).collect();
        let SignedBatch { header, signature, .. } = SignedBatch::sign(&self.node, header, commitments);
        let leaves: Vec<Digest> = receipts.iter().map(|receipt| leaf_hash(&receipt.to_bytes())).collect();
        self.settler.batch(header.root, &receipts);
        let batch = CountersignedBatch::sign(&self.key, header, signature, root(&leaves));
        let facts = |receipt: &Receipt| Facts { task: receipt.commitment.task, bytes: b"{}".to_vec() };
        let job = Job { facts: receipts.iter().map(facts).collect(), ..Job::default() };
        self.push(receipts.into_iter().map(Record::Receipt).chain([Record::Batch(batch)]).collect(), job);
        self.batches += 1;
    }

    // Of a result that nothing has drawn.
    fn pretend_an_audit(&mut self, epoch: Epoch) {
        let subject = AttemptId { task: self.task(epoch, 2), attempt: 0 };
        let outcome = AuditOutcome::Unauditable { audit: AuditId([1; 16]) };
        self.settler.audit(subject, &outcome).unwrap();
        self.push(vec![Record::Audit { subject, outcome }], Job::default());
    }

    fn close(&mut self) {
        let epoch = self.settler.epoch();
        let secrets = |epoch| (draw::secret(&self.master, epoch), seed::nonce_secret(&self.master, epoch));
        let ((draw_secret, nonce_secret), next) = (secrets(epoch), secrets(epoch.next()));
        let (draw_seal, nonce_seal) = (draw::seal(&next.0), draw::seal(&next.1));
        let reveal = Reveal { draw_secret, nonce_secret, next_draw_seal: draw_seal, next_nonce_seal: nonce_seal };
        let at = self.at(epoch);
        self.settler.close(at, &reveal).unwrap();
        let state = self.settler.digest();
        let close = Close {
            epoch,
            at,
            draw_secret,
            nonce_secret,
            next_draw_seal: draw_seal,
            next_nonce_seal: nonce_seal,
            state,
        };
        self.push(vec![Record::Close(close)], Job::default());
        let (network, gateway) = (self.genesis.network(), self.genesis.gateway.0);
        let (size, root) = (self.tree.size(), self.tree.root());
        let text = Checkpoint { network, gateway, size, root, epoch, state, draw_seal, nonce_seal }.sign(&self.key);
        let snapshot =
            self.snapshots.contains(&epoch.0).then(|| Snapshot { epoch, size, bytes: self.settler.to_bytes() });
        self.jobs.push(Arc::new(Job { checkpoint: Some(Note { epoch, size, text }), snapshot, ..Job::default() }));
    }

    fn write(mut self, store: &mut impl Store) -> Self {
        for epoch in (0..EPOCHS).map(Epoch) {
            if epoch.0 < BUSY || epoch.0 == MIDDLE {
                self.batch(epoch);
            }
            if epoch.0 == MIDDLE {
                self.pretend_an_audit(epoch);
            }
            self.close();
        }
        for done in store.commit(&std::mem::take(&mut self.jobs)) {
            done.unwrap();
        }
        self
    }

    fn identity(&self) -> Identity {
        Identity { network: Some(self.genesis.network()), gateway: self.genesis.gateway }
    }
}

fn good(args: &[&str], place: &[&str]) -> String {
    let ended = run(&[args, place].concat());
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    ended.out
}

#[test]
fn a_pruned_log_settles_proves_what_is_left_and_says_what_is_gone() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("gateway");
    let network = folder.join("network");
    let history = History::new(&network);
    let mut store = SqliteStore::open(&network.join("gateway.db"), history.identity(), Options::default()).unwrap();
    let history = history.write(&mut store);
    drop(store);
    let place = ["--data-dir", folder.to_str().unwrap()];
    let copy = temporary.path().join("copy");
    let copy = copy.to_str().unwrap();
    let mut gateway = prune_and_go_on(&history, temporary.path(), &place);

    let file = temporary.path().join("backup");
    let file = file.to_str().unwrap();
    good(&["ledger", "backup", file], &place);
    gateway.process.kill();
    let ended = run(&[&["gateway", "--store", "postgres://127.0.0.1:1/none"], &place[..]].concat());
    assert!(ended.complaint().contains("begin without --store"), "{}", ended.err);
    good(&["ledger", "mirror", copy, temporary.path().join("second").to_str().unwrap()], &[]);
    std::fs::remove_file(network.join("gateway.db")).unwrap();
    let left = std::fs::read_dir(&network).unwrap().map(|entry| entry.unwrap().path());
    left.filter(|path| path.to_string_lossy().contains("gateway.db-"))
        .for_each(|path| std::fs::remove_file(path).unwrap());
    let restored = good(&["ledger", "restore", file], &place);
    assert!(restored.contains("NOT continued"), "{restored}");
    gateway.fsck();
}

// Snapshots are as far apart as the log grows.
#[test]
fn no_more_is_pruned_than_the_oldest_snapshot_covers() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("gateway");
    let network = folder.join("network");
    let history = History { snapshots: [40, EPOCHS - 2, EPOCHS - 1], ..History::new(&network) };
    let mut store = SqliteStore::open(&network.join("gateway.db"), history.identity(), Options::default()).unwrap();
    drop(history.write(&mut store));
    drop(store);
    let place = ["--data-dir", folder.to_str().unwrap()];
    let pruned = good(&["ledger", "prune", "--keep-days", "0", "--no-copy"], &place);
    assert!(pruned.contains("batches and audits up to epoch 40,"), "{pruned}");
    good(&["ledger", "fsck"], &place);
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn a_log_in_a_database_server_is_pruned_as_well() {
    let (temporary, url) = (tempfile::tempdir().unwrap(), database());
    let folder = temporary.path().join("gateway");
    let history = History::new(&folder.join("network"));
    let (server, key) = (url.parse().unwrap(), folder.join("network/gateway.store.key"));
    let mut store = PostgresStore::open(&server, &key, history.identity()).unwrap();
    let history = history.write(&mut store);
    drop(store);
    let Record::TopUp(slice) = &history.first[1] else { panic!("the second record is a top-up") };
    let mut funds = PostgresFunds::open(&server, history.genesis.gateway).unwrap();
    assert!(funds.add(&slice.top_up).unwrap());
    assert_eq!(funds.claim(history.tenant, slice.amount, None).unwrap().as_ref(), Some(slice));
    let mut gateway =
        prune_and_go_on(&history, temporary.path(), &["--data-dir", folder.to_str().unwrap(), "--store", &url]);
    // Without its database it would begin another log under the same key.
    assert!(gateway.process.terminate().success());
    let ended = run(&["gateway", "--data-dir", folder.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert!(ended.complaint().contains("name it with --store"), "{}", ended.err);
    assert!(!folder.join("network/gateway.db").exists());
}

// A gateway over that history, whose log is where the options say: pruned as it runs, and begun again.
fn prune_and_go_on(history: &History, folder: &Path, place: &[&str]) -> Gateway {
    let listen = ["--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0"];
    let mut gateway = Gateway::with(&folder.join("gateway"), &[&listen, &place[2..]].concat());
    gateway.store = place.get(3).map(|url| (*url).to_owned());
    let (copy, address) = (folder.join("copy"), format!("http://{}/log", gateway.address));
    let copy = copy.to_str().unwrap();
    let (old, middle) = (history.task(Epoch(3), 1).to_string(), history.task(Epoch(MIDDLE), 1).to_string());
    let before = good(&["ledger", "balances"], place);
    assert_eq!(gateway.api().get(&format!("/v1/receipts/{old}")).json()["status"], "ready");

    let prune = ["ledger", "prune", "--keep-days", "0", "--copy", copy];
    let ended = run(&[&prune[..4], place].concat());
    assert!(ended.complaint().contains("--copy"), "{}", ended.err);
    let ended = run(&[&prune, place].concat());
    assert!(ended.complaint().contains("checkpoint"), "{}", ended.err);
    good(&["ledger", "mirror", &address, copy], &[]);
    let kept = good(&["ledger", "prune", "--keep-days", "1", "--copy", copy], place);
    assert!(kept.contains("nothing to delete"), "{kept}");
    let done = good(&prune, place);
    assert!(done.contains("batches, 0 audits and facts of 3"), "{done}");

    let gone = gateway.api().get(&format!("/v1/receipts/{old}"));
    assert_eq!((gone.status, gone.text().contains("pruned")), (410, true));
    assert_eq!(gateway.api().get(&format!("/v1/receipts/{middle}")).json()["status"], "ready");
    assert_eq!(gateway.api().get("/log/tile/entries/000").status, 410);
    assert_eq!(gateway.api().get("/log/tile/0/000").status, 200);
    assert_eq!(gateway.api().get("/log/tile/entries/002").status, 200);
    let ended = run(&["verify", "--log", &address]);
    assert!(ended.complaint().contains("name a copy of the log that was made before"), "{}", ended.err);
    assert_eq!(good(&["ledger", "balances"], place).lines().next(), before.lines().next());

    let _node = Node::join(&gateway.ticket, &folder.join("node"));
    gateway.wait_for_nodes(1);
    gateway.api().chat(&chat("hello", 4, 1)).good();
    let epoch = gateway.metric("epoch");
    eventually("two closes", || (gateway.metric("epoch") > epoch + 2).then_some(()));
    good(&["ledger", "mirror", &address, copy], &[]);
    assert!(good(&["verify", "--log", copy], &[]).ends_with("the log holds\n"));
    let draws = good(&["verify", "--log", copy, "--draws", "3"], &[]);
    assert!(draws.contains("4 receipts of epoch 3, 0 of them drawn"), "{draws}");
    let ended = run(&["verify", "--log", copy, "--draws", &MIDDLE.to_string()]);
    let pretended = format!("audited without being drawn: {}, attempt 0", history.task(Epoch(MIDDLE), 2));
    assert!(ended.complaint().contains(&pretended), "{}", ended.err);
    let ended = run(&["verify", "--log", copy, "--draws", "1000000"]);
    assert!(ended.complaint().contains("is not closed in this log yet"), "{}", ended.err);
    assert!(gateway.process.terminate().success());
    assert!(good(&["ledger", "fsck"], place).contains("pruned  records before"));
    gateway.again();
    gateway.wait_for_nodes(1);
    gateway.api().chat(&chat("hello", 4, 2)).good();
    let rows = good(&["ledger", "export"], place);
    assert!(rows.contains(&middle) && !rows.contains(&old));
    gateway
}
