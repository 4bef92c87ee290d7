//! Measures what honest answers of one engine look like to another, and what those of cheats do: a referee's calibration.

use crate::content;
use ol_engine::pair::{self, Plan};
use ol_engine::{Engine, Kind};
use ol_protocol::calibration::{self, Calibration, Counts, LENGTHS, MARGIN_CLIP_MICRO};
use ol_protocol::key::Signature;
use ol_protocol::{NetworkId, NodeId, Timestamp, TokenCount};
use std::sync::Arc;

/// Within so much of a truncation's boundary a token counts as the prover needs it, in nats, where both engines compute alike.
const TOLERANCE_SAME: f32 = 0.05;

/// The same where they don't: eight-bit activations move log-probabilities by up to a quarter of a nat.
const TOLERANCE_OTHER: f32 = 0.25;

/// Texts of cheats that nobody measured, in each bin of deviations but the first. Fewer would leave odds under 1 where a hundred and fifty texts were measured.
const UNKNOWN_CHEATS: u32 = 3;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Honest answers, or texts.
    pub honest: u32,
    /// Answers of each cheat.
    pub of_each_cheat: u32,
    /// Longest answer.
    pub tokens_max: u32,
}

impl Size {
    /// What a referee measures by itself of a variant that nobody measured: for 135 million parameters some ten minutes of one CPU.
    pub const BRIEF: Self = Self { honest: 150, of_each_cheat: 6, tokens_max: 48 };

    /// All answers.
    pub const fn answers(&self, cheats: usize) -> u32 {
        self.honest + self.of_each_cheat * cheats as u32
    }
}

/// Why a pair can't be calibrated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An engine could not do a task.
    #[error("an engine failed")]
    Engine(#[from] ol_engine::Error),
    /// The engines don't do the same kind of work, or have other token ids.
    #[error("prover and verifier have other kinds of work or other vocabularies: they can't be compared")]
    Unlike,
    /// Not even honest answers pass.
    #[error(
        "{answers} of the honest answers end where the verifier does not confirm an end: prover and verifier tokenise or stop in other ways"
    )]
    Ends {
        /// How many.
        answers: u32,
    },
    /// The same arithmetic gave other numbers.
    #[error(
        "an engine of this machine does not repeat its own numbers: a margin of {micro} millionths of a nat where there must be none"
    )]
    Unstable {
        /// The largest margin.
        micro: u32,
    },
}

/// A margin, deviation or other distance in millionths, rounded up; what is no number is the largest.
pub fn micro(distance: f32) -> u32 {
    let micro = (f64::from(distance) * 1e6).ceil();
    if micro < f64::from(u32::MAX) { micro.max(0.0) as u32 } else { u32::MAX }
}

/// The sum of margins in millionths of a nat as a verdict states it: each clipped.
pub fn clipped_sum_micro(margins: &[f32]) -> u64 {
    margins.iter().map(|margin| u64::from(micro(*margin).min(MARGIN_CLIP_MICRO))).sum()
}

/// Engines that claim to be another, each made when its turn comes: some hold weights of their own.
pub type Cheats<'a> = dyn Iterator<Item = Arc<dyn Engine>> + 'a;

/// Measures a pair of engines. The cheats claim to be the prover. The calibration names no network or referee yet, and is not signed.
/// Takes minutes to hours; `progress` hears how many answers are done.
pub fn calibrate(
    prover: &dyn Engine,
    verifier: &dyn Engine,
    cheats: &mut Cheats<'_>,
    size: Size,
    now: Timestamp,
    progress: &mut dyn FnMut(u32),
) -> Result<Calibration, Error> {
    let (of, by) = (prover.variant(), verifier.variant());
    if (of.kind, of.vocabulary) != (by.kind, by.vocabulary) {
        return Err(Error::Unlike);
    }
    let (prover_id, verifier_id) = (content::variant(of).id(), content::variant(by).id());
    let is_same = prover_id == verifier_id;
    let tolerance = if is_same { TOLERANCE_SAME } else { TOLERANCE_OTHER };
    let measured = match of.kind {
        Kind::Generate => text(prover, verifier, cheats, size, tolerance, progress)?,
        Kind::Embed => vectors(prover, verifier, cheats, size, progress)?,
    };
    if is_same && measured.worst_micro > micro(TOLERANCE_SAME) {
        return Err(Error::Unstable { micro: measured.worst_micro });
    }
    Ok(Calibration {
        network: NetworkId([0; 32]),
        referee: NodeId([0; 32]),
        prover: prover_id,
        verifier: verifier_id,
        measured_at: now,
        tolerance_micro: micro(tolerance),
        log_prob_steps: measured.steps,
        lengths: measured.lengths,
        signature: Signature([0; 64]),
    })
}

struct Measured {
    lengths: [Counts; LENGTHS],
    worst_micro: u32,
    steps: u8,
}

fn text(
    prover: &dyn Engine,
    verifier: &dyn Engine,
    cheats: &mut Cheats<'_>,
    size: Size,
    tolerance: f32,
    progress: &mut dyn FnMut(u32),
) -> Result<Measured, Error> {
    let mut lengths = [Counts::default(); LENGTHS];
    let plan = |answers, seed| Plan { answers, tokens_max: size.tokens_max, seed };
    let honest = pair::observe(prover, verifier, &plan(size.honest, 0), tolerance, progress)?;
    let ends = honest.iter().filter(|answer| !answer.finish_fits).count();
    if ends > 0 {
        return Err(Error::Ends { answers: ends as u32 });
    }
    for (number, answer) in honest.iter().enumerate() {
        for (class, bin) in observations(number, &answer.margins) {
            lengths[class].honest[answer.settings as usize][bin] += 1;
        }
    }
    let worst_micro = honest.iter().flat_map(|answer| &answer.margins).map(|margin| micro(*margin)).max().unwrap_or(0);
    let mut done = size.honest;
    for (cheat, seed) in cheats.zip(1..) {
        let mut heard = |answers| progress(done + answers);
        let answers = pair::observe(cheat.as_ref(), verifier, &plan(size.of_each_cheat, seed), tolerance, &mut heard)?;
        for (number, answer) in answers.iter().enumerate() {
            observations(number, &answer.margins).for_each(|(class, bin)| lengths[class].cheats[bin] += 1);
        }
        done += size.of_each_cheat;
    }
    let mut steps: Vec<u8> = honest.into_iter().flat_map(|answer| answer.byte_steps).collect();
    Ok(Measured { lengths, worst_micro, steps: steps_of(&mut steps) })
}

// The furthest of 99 in a hundred, and never so near that rounding alone could pass it.
fn steps_of(steps: &mut [u8]) -> u8 {
    steps.sort_unstable();
    let at = steps.len() * 99 / 100;
    steps.get(at).copied().unwrap_or(0).max(2)
}

// One prefix of an answer in each class of lengths that it reaches: the whole answer in its own.
fn observations(number: usize, margins: &[f32]) -> impl Iterator<Item = (usize, usize)> + '_ {
    const FIRSTS: [usize; LENGTHS] = [1, 8, 32, 128];
    let class_of = |length: usize| calibration::length_class(TokenCount(u32::try_from(length).unwrap_or(u32::MAX)));
    (0..LENGTHS).filter(|class| margins.len() >= FIRSTS[*class]).map(move |class| {
        let is_own = class_of(margins.len()) == class;
        let room = FIRSTS.get(class + 1).map_or(1, |next| next - FIRSTS[class]);
        // 5 has no factor in common with any room: all lengths come equally often.
        let length = if is_own { margins.len() } else { FIRSTS[class] + number * 5 % room };
        let mean = clipped_sum_micro(&margins[..length]).div_ceil(length as u64);
        (class, calibration::bin(mean))
    })
}

fn vectors(
    prover: &dyn Engine,
    verifier: &dyn Engine,
    cheats: &mut Cheats<'_>,
    size: Size,
    progress: &mut dyn FnMut(u32),
) -> Result<Measured, Error> {
    let plan = |answers, seed| Plan { answers, tokens_max: 1, seed };
    let bin = |deviation: &f32| calibration::bin(micro(*deviation).into());
    let mut lengths = [Counts::default(); LENGTHS];
    for bin in pair::observe_vectors(prover, verifier, &plan(size.honest, 0), progress)?.iter().map(bin) {
        // No settings change a vector: what was seen holds for all.
        lengths[0].honest.iter_mut().for_each(|honest| honest[bin] += 1);
    }
    // A cheat that nobody thought of lies anywhere but where the honest are. Without it a bin that no measured cheat came to would speak for who is there.
    lengths[0].cheats[1..].fill(UNKNOWN_CHEATS);
    let mut done = size.honest;
    for (cheat, seed) in cheats.zip(1..) {
        let mut heard = |texts| progress(done + texts);
        let plan = plan(size.of_each_cheat, seed);
        let seen = pair::observe_vectors(cheat.as_ref(), verifier, &plan, &mut heard)?;
        seen.iter().map(bin).for_each(|bin| lengths[0].cheats[bin] += 1);
        done += size.of_each_cheat;
    }
    // Another limit than that of margins holds for vectors that are computed alike.
    Ok(Measured { lengths, worst_micro: 0, steps: 2 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_engine::{Cheat, Model, Options, start};
    use ol_protocol::calibration::BINS;

    const SIZE: Size = Size { honest: 48, of_each_cheat: 6, tokens_max: 40 };

    fn engine(cheat: Option<Cheat>) -> Arc<dyn Engine> {
        start(Arc::new(Model::tiny(1).unwrap()), Options { slots: 4, threads: 1, cheat })
    }

    fn measured(prover: &Arc<dyn Engine>, by: &Arc<dyn Engine>) -> Result<Calibration, Error> {
        calibrate(prover.as_ref(), by.as_ref(), &mut std::iter::empty(), SIZE, Timestamp(7), &mut |_| {})
    }

    #[test]
    fn honest_answers_have_no_margins_and_those_of_cheats_do() {
        let honest = engine(None);
        let mut cheats = [Cheat::SmallModel, Cheat::WrongSeed].into_iter().map(|cheat| engine(Some(cheat)));
        let mut heard = 0;
        let measured = calibrate(honest.as_ref(), honest.as_ref(), &mut cheats, SIZE, Timestamp(7), &mut |n| heard = n);
        let measured = measured.unwrap();
        assert_eq!((measured.measured_at, heard), (Timestamp(7), SIZE.answers(2)));
        assert_eq!((measured.prover, measured.log_prob_steps), (measured.verifier, 2));
        let first = &measured.lengths[0];
        for settings in first.honest {
            assert_eq!(settings, [16, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        let cheating: u32 = first.cheats[BINS - 3..].iter().sum();
        assert!(cheating >= 6, "{:?}", first.cheats);
    }

    #[test]
    fn engines_of_other_work_are_not_compared() {
        let vectors = start(Arc::new(Model::tiny_bert(1)), Options::default());
        assert!(matches!(measured(&engine(None), &vectors), Err(Error::Unlike)));
        let measured = measured(&vectors, &vectors).unwrap();
        assert_eq!(measured.lengths[0].honest[2].iter().sum::<u32>(), 48);
        assert_eq!(measured.lengths[0].honest[2][2..], [0; BINS - 2]);
    }

    #[test]
    fn vectors_of_cheats_lie_further_off() {
        let encoder = |cheat| start(Arc::new(Model::tiny_bert(1)), Options { slots: 1, threads: 1, cheat });
        let mut cheats = Cheat::OF_VECTORS.into_iter().map(|cheat| encoder(Some(cheat)));
        let (honest, mut heard) = (encoder(None), 0);
        let measured = calibrate(honest.as_ref(), honest.as_ref(), &mut cheats, SIZE, Timestamp(7), &mut |n| heard = n);
        let [first, rest @ ..] = measured.unwrap().lengths;
        assert_eq!(heard, SIZE.answers(Cheat::OF_VECTORS.len()));
        assert!(first.honest.iter().all(|bins| bins[0] == SIZE.honest), "{first:?}");
        let (all, far): (u32, u32) = (first.cheats.iter().sum(), first.cheats[1..].iter().sum());
        assert_eq!((all, far), (36 + 9 * UNKNOWN_CHEATS, all), "{first:?}");
        assert_eq!(rest, [Counts::default(); LENGTHS - 1]);
        // Where no honest text was nothing speaks for a node, however little was measured.
        let brief = Size { honest: Size::BRIEF.honest, ..SIZE };
        let mut cheats = Cheat::OF_VECTORS.into_iter().map(|cheat| encoder(Some(cheat)));
        let measured = calibrate(honest.as_ref(), honest.as_ref(), &mut cheats, brief, Timestamp(7), &mut |_| {});
        let odds = ol_trust::Odds::new(&measured.unwrap());
        assert!((1..BINS).all(|bin| odds.of(0, bin) > ol_trust::suspicion::ODDS_ONE), "{odds:?}");
        assert!(odds.of(0, 0) < ol_trust::suspicion::ODDS_ONE);
    }

    #[test]
    fn an_answer_counts_once_in_each_class_of_lengths_that_it_reaches() {
        let margins: Vec<f32> = (0..40).map(|at| if at < 1 { 0.5 } else { 0.0 }).collect();
        let found: Vec<(usize, usize)> = observations(3, &margins).collect();
        assert_eq!(found.iter().map(|(class, _)| *class).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(found[2].1, calibration::bin(12_500));
        assert_eq!(observations(0, &margins[..7]).count(), 1);
    }
}
