//! What honest answers of each variant look like: shipped for the default models, measured here for others, kept in a folder.

use crate::home::Home;
use anyhow::{Context as _, ensure};
use ol_engine::Engine;
use ol_node::calibrate::{Size, calibrate};
use ol_node::dial::Teller;
use ol_protocol::calibration::{BINS, Calibration, Counts, LENGTHS, SETTINGS};
use ol_protocol::id::hex;
use ol_protocol::key::Signature;
use ol_protocol::{NetworkId, NodeId, Timestamp, VariantId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Measured on the models that are fetched by default; docs/bench says how.
const SHIPPED: &str = include_str!("calibrations.json");

/// The folder of those measured here, in a data folder.
const FOLDER: &str = "calibrations";

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 65_536;

/// A calibration as a file holds it: what names no network yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// For people: what was measured against what.
    about: String,
    prover: String,
    verifier: String,
    measured_at_us: u64,
    tolerance_micro_nats: u32,
    log_prob_steps: u8,
    lengths: [Answers; LENGTHS],
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answers {
    honest: [[u32; BINS]; SETTINGS],
    cheats: [u32; BINS],
}

impl File {
    fn new(about: String, of: &Calibration) -> Self {
        Self {
            about,
            prover: of.prover.to_string(),
            verifier: of.verifier.to_string(),
            measured_at_us: of.measured_at.0,
            tolerance_micro_nats: of.tolerance_micro,
            log_prob_steps: of.log_prob_steps,
            lengths: of.lengths.map(|Counts { honest, cheats }| Answers { honest, cheats }),
        }
    }

    fn read(&self) -> anyhow::Result<Calibration> {
        let id = |text: &str| text.parse::<VariantId>().map_err(|_| anyhow::anyhow!("{text:?} is no variant's id"));
        Ok(Calibration {
            network: NetworkId([0; 32]),
            referee: NodeId([0; 32]),
            prover: id(&self.prover)?,
            verifier: id(&self.verifier)?,
            measured_at: Timestamp(self.measured_at_us),
            tolerance_micro: self.tolerance_micro_nats,
            log_prob_steps: self.log_prob_steps,
            lengths: self.lengths.map(|Answers { honest, cheats }| Counts { honest, cheats }),
            signature: Signature([0; 64]),
        })
    }
}

/// The calibrations of a data folder, and those shipped; of each pair the latest.
pub(crate) fn load(data: &Home) -> anyhow::Result<Vec<Calibration>> {
    let shipped: Vec<File> = serde_json::from_str(SHIPPED).context("the shipped calibrations")?;
    let mut all: Vec<Calibration> = shipped.iter().map(File::read).collect::<Result<_, _>>()?;
    let folder = data.sub(FOLDER)?;
    for entry in std::fs::read_dir(folder.path()).with_context(|| format!("{}", folder.path().display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            all.push(open(&path).with_context(|| {
                format!(
                    "{} is no calibration: measure it again with openledger calibrate, or remove it",
                    path.display()
                )
            })?);
        }
    }
    all.sort_by_key(|of| (of.prover, of.verifier, of.measured_at));
    all.reverse();
    all.dedup_by_key(|of| (of.prover, of.verifier));
    Ok(all)
}

fn open(path: &PathBuf) -> anyhow::Result<Calibration> {
    ensure!(std::fs::metadata(path)?.len() <= FILE_BYTES_MAX, "it is longer than {FILE_BYTES_MAX} bytes");
    serde_json::from_slice::<File>(&std::fs::read(path)?)?.read()
}

/// Keeps one, and says where.
pub(crate) fn keep(data: &Home, about: String, of: &Calibration) -> anyhow::Result<PathBuf> {
    let name = format!("{}-{}.json", hex(&of.prover.0[..8]), hex(&of.verifier.0[..8]));
    let folder = data.sub(FOLDER)?;
    let (path, new) = (folder.path().join(&name), folder.path().join(format!("{name}.new")));
    let text = serde_json::to_string(&File::new(about, of))?;
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}: is the disk full?", path.display()))?;
    Ok(path)
}

/// What people are told that a calibration is of.
pub(crate) fn about(prover: &dyn Engine, verifier: &dyn Engine) -> String {
    let name = |of: &ol_engine::Variant| format!("{} {} by {}", of.name, of.quantisation, of.numerics);
    format!("{}, scored by {}", name(prover.variant()), name(verifier.variant()))
}

/// An engine, and cheats that claim to be it.
pub(crate) struct Subject {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) cheats: Box<dyn ExactSizeIterator<Item = Arc<dyn Engine>> + Send>,
}

/// Measures what a running referee serves and nobody measured, on a thread of its own, and tells the referee. The engines are of that
/// thread's own: they wait for no one, and no one for them.
pub(crate) fn fill(
    data: Home,
    known: &[Calibration],
    teller: Teller,
    subjects: impl FnOnce() -> Vec<Subject> + Send + 'static,
) {
    let known: Vec<(VariantId, VariantId)> = known.iter().map(|of| (of.prover, of.verifier)).collect();
    let work = move || {
        for Subject { engine, mut cheats } in subjects() {
            let variant = ol_node::content::variant(engine.variant()).id();
            if known.contains(&(variant, variant)) {
                continue;
            }
            let about = about(engine.as_ref(), engine.as_ref());
            tracing::info!(about, "measuring what honest answers look like: until then audits wait");
            let began = Instant::now();
            let now = ol_drive::clock::now();
            match calibrate(engine.as_ref(), engine.as_ref(), &mut cheats, Size::BRIEF, now, &mut |_| {}) {
                Ok(measured) => {
                    tracing::info!(about, seconds = began.elapsed().as_secs(), "measured: audits begin");
                    if let Err(error) = keep(&data, about, &measured) {
                        tracing::warn!(%error, "a calibration is not kept: it will be measured again");
                    }
                    if !teller.calibrated(measured) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(about, %error, "nothing is audited: honest answers could not be measured")
                }
            }
        }
    };
    if std::thread::Builder::new().name("calibrate".to_owned()).spawn(work).is_err() {
        tracing::error!("the system gives no thread to measure honest answers with: nothing new is audited");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(at: u64) -> Calibration {
        Calibration {
            network: NetworkId([0; 32]),
            referee: NodeId([0; 32]),
            prover: VariantId([0xaa; 32]),
            verifier: VariantId([0xbb; 32]),
            measured_at: Timestamp(at),
            tolerance_micro: 5,
            log_prob_steps: 6,
            lengths: [Counts { honest: [[7; BINS]; SETTINGS], cheats: [8; BINS] }; LENGTHS],
            signature: Signature([0; 64]),
        }
    }

    #[test]
    fn what_was_kept_is_loaded_beside_what_is_shipped() {
        let folder = tempfile::tempdir().unwrap();
        let data = Home::open(folder.path()).unwrap();
        let shipped = load(&data).unwrap();
        keep(&data, "a test".into(), &measured(1)).unwrap();
        keep(&data, "a test".into(), &measured(2)).unwrap();
        let all = load(&data).unwrap();
        assert_eq!(all.len(), shipped.len() + 1);
        assert!(all.contains(&measured(2)));
    }

    #[test]
    fn a_file_that_is_no_calibration_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let data = Home::open(folder.path()).unwrap();
        let path = keep(&data, "a test".into(), &measured(1)).unwrap();
        for text in ["", "{}", "[]", &"x".repeat(70_000)] {
            std::fs::write(&path, text).unwrap();
            let said = format!("{:#}", load(&data).unwrap_err());
            assert!(said.contains("openledger calibrate") && said.contains(".json"), "{said}");
        }
    }
}
