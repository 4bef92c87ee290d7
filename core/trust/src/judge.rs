//! What an audit says: the auditor's measurements held against what the node committed to.

use crate::suspicion::{Odds, Suspicion};
use ol_protocol::calibration;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::parameters::AuditRule;
use ol_protocol::record::Ruling;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{Epoch, Micros};

/// Largest deviation of an embedding's cosine from 1, in millionths. Rounding in f32 over a few hundred dimensions and
/// other batch shapes moves it by some 1 in 10^6; another text, model or coarser weights by 1 in 100 and more. The limit
/// lies between, a thousand times above the first.
pub const EMBEDDING_DEVIATION_MICRO_MAX: u32 = 1_000;

/// What came of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// By itself the result may be what the node committed to.
    Fits {
        /// How much likelier such margins are with a cheat, in millionths.
        odds_micro: u64,
    },
    /// It is not what the node committed to.
    Failed(Fault),
    /// The auditor measured something else: another network or other output than the commitment's; or nobody measured what honest
    /// answers look like to its variant. It blames nobody, so that no one can be framed with content they did not commit to; another audit may follow. A
    /// gateway checks the output that ends a task against what it relayed before it countersigns, so there a node can't
    /// get here by committing to something else. What an attempt that broke off committed to, nobody else has seen.
    Mismatched,
}

/// What a node did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It answered another prompt, or with another template or other sampling parameters.
    OtherPrompt,
    /// It sampled with another seed.
    OtherSeed,
    /// It claimed other token counts.
    WrongCount,
    /// The text does not end where it says, or not for the reason it gives.
    WrongEnd,
    /// The model would not have chosen a token, or computes another vector.
    Margin {
        /// The verdict's worst margin, or for embeddings the worst deviation of a cosine from 1, in millionths.
        worst_micro: u32,
    },
}

impl Fault {
    /// Whether the content that the node itself committed to shows it, to anyone who runs its variant. That it was given another prompt
    /// or seed, only the gateway says.
    pub const fn is_refutation(&self) -> bool {
        match self {
            Self::WrongCount | Self::WrongEnd | Self::Margin { .. } => true,
            Self::OtherPrompt | Self::OtherSeed => false,
        }
    }

    /// The words that people see.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::OtherPrompt => "other prompt or sampling parameters",
            Self::OtherSeed => "other seed",
            Self::WrongCount => "wrong token count",
            Self::WrongEnd => "wrong end of the text",
            Self::Margin { .. } => "tokens or vectors that the variant does not give",
        }
    }
}

/// What is known of a node when an audit of its result ends.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The bets against it.
    pub suspicion: Suspicion,
    /// Whether an auditor found the result bad before.
    pub is_accused: bool,
    /// What members of the same panel voted before.
    pub votes: Votes,
    /// Now.
    pub epoch: Epoch,
    /// How long one is.
    pub epoch_length: Micros,
}

/// Votes of a panel's members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Votes {
    /// For the node.
    pub clean: u8,
    /// Against it.
    pub bad: u8,
}

/// What a judgement means, coming from that level; nothing where it blames nobody and settles nothing. Only the referee's word, and that of two members
/// of a panel, is against a node; and who is accused is cleared by these alone, or a second friend would silence every accuser. An answer that
/// fits fails nevertheless if with it the node's answers taken together are those of a cheat.
pub fn ruling(judgement: Judgement, level: Level, known: &Known) -> Option<Ruling> {
    let is_bad = match judgement {
        Judgement::Fits { odds_micro } => known.suspicion.after(odds_micro, known.epoch, known.epoch_length).convicts(),
        Judgement::Failed(_) => true,
        Judgement::Mismatched => return None,
    };
    // Of three, the second of one opinion decides.
    let Votes { clean, bad } = known.votes;
    match (level, is_bad) {
        (Level::Referee, true) => Some(Ruling::Failed),
        (Level::Referee, false) => Some(Ruling::Passed),
        (Level::CrossAudit, true) => Some(Ruling::Accused),
        (Level::CrossAudit, false) => (!known.is_accused).then_some(Ruling::Passed),
        (Level::Panel, true) => Some(if bad == 1 { Ruling::Failed } else { Ruling::VotedAgainst }),
        (Level::Panel, false) => Some(if clean == 1 { Ruling::Passed } else { Ruling::VotedFor }),
    }
}

/// Judges an attempt by a verdict whose signature was checked, with the odds of its pair of variants if those were measured. The auditor
/// scores the first of the tokens that the attempt added, or all, not inherited ones, which are another node's. An embedding has no output
/// tokens, so only its prompt is counted.
///
/// Where prover and auditor are of one variant their arithmetic is the same, and one margin above the rule's limit fails.
pub fn judge(rule: &AuditRule, odds: Option<&Odds>, commitment: &Commitment, verdict: &Verdict) -> Judgement {
    let same_variant = commitment.variant == verdict.variant;
    if (commitment.network, commitment.output) != (verdict.network, verdict.output) {
        return Judgement::Mismatched;
    }
    let Some(odds) = odds else { return Judgement::Mismatched };
    if let Some(fault) = fault(commitment, verdict) {
        return Judgement::Failed(fault);
    }
    let worst_micro = verdict.worst_margin_micro;
    if same_variant && worst_micro > limit(rule, commitment.finish) {
        return Judgement::Failed(Fault::Margin { worst_micro });
    }
    Judgement::Fits { odds_micro: odds_of(odds, commitment, verdict) }
}

fn odds_of(odds: &Odds, commitment: &Commitment, verdict: &Verdict) -> u64 {
    match commitment.finish {
        Finish::Embedded => odds.of(0, calibration::bin(verdict.worst_margin_micro.into())),
        Finish::EndOfText | Finish::StopString | Finish::Length | Finish::Cancelled => {
            let scored = verdict.scored_tokens;
            let mean = verdict.margin_sum_micro.div_ceil(u64::from(scored.0.max(1)));
            odds.of(calibration::length_class(scored), calibration::bin(mean))
        }
    }
}

fn fault(commitment: &Commitment, verdict: &Verdict) -> Option<Fault> {
    if commitment.prompt != verdict.prompt {
        return Some(Fault::OtherPrompt);
    }
    if commitment.seed != verdict.seed {
        return Some(Fault::OtherSeed);
    }
    if !counts_fit(commitment, verdict) {
        return Some(Fault::WrongCount);
    }
    // A cancelled attempt stops wherever it was: its end says nothing.
    let ends = commitment.finish == Finish::Cancelled || verdict.finish_fits;
    (!ends).then_some(Fault::WrongEnd)
}

fn counts_fit(commitment: &Commitment, verdict: &Verdict) -> bool {
    let inherited = commitment.resumed_from <= commitment.output_tokens;
    let output = match commitment.finish {
        Finish::Embedded => true,
        Finish::EndOfText | Finish::StopString | Finish::Length | Finish::Cancelled => {
            inherited && commitment.added_tokens() == verdict.output_tokens
        }
    };
    output && commitment.prompt_tokens == verdict.prompt_tokens
}

const fn limit(rule: &AuditRule, finish: Finish) -> u32 {
    match finish {
        Finish::Embedded => EMBEDDING_DEVIATION_MICRO_MAX,
        Finish::EndOfText | Finish::StopString | Finish::Length | Finish::Cancelled => rule.margin_micro_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::key::Signature;
    use ol_protocol::{
        AuditId, Digest, Epoch, GatewayId, Micros, NetworkId, NodeId, OperatorId, TaskId, TokenCount, VariantId,
    };

    const RULE: AuditRule = AuditRule::DEFAULT;

    fn commitment(finish: Finish) -> Commitment {
        Commitment {
            network: NetworkId([1; 32]),
            gateway: GatewayId([2; 32]),
            node: NodeId([3; 32]),
            operator: OperatorId([4; 32]),
            task: TaskId([5; 16]),
            attempt: 1,
            epoch: Epoch(6),
            variant: VariantId([7; 32]),
            sampler_version: 1,
            prompt: Digest([8; 32]),
            seed: Digest([9; 32]),
            output: Digest([10; 32]),
            log_probs: Digest([11; 32]),
            finish,
            prompt_tokens: TokenCount(30),
            output_tokens: TokenCount(20),
            resumed_from: TokenCount(5),
            first_token: Micros(1),
            total: Micros(2),
        }
    }

    fn verdict() -> Verdict {
        Verdict {
            network: NetworkId([1; 32]),
            audit: AuditId([12; 16]),
            auditor: NodeId([13; 32]),
            operator: OperatorId([14; 32]),
            level: Level::Referee,
            variant: VariantId([7; 32]),
            prompt: Digest([8; 32]),
            seed: Digest([9; 32]),
            output: Digest([10; 32]),
            log_probs: Digest([15; 32]),
            prompt_tokens: TokenCount(30),
            output_tokens: TokenCount(15),
            scored_tokens: TokenCount(15),
            worst_margin_micro: 50_000,
            margin_sum_micro: 60_000,
            finish_fits: true,
            signature: Signature([0; 64]),
        }
    }

    // Honest answers have no margins, cheats' are large.
    fn odds() -> Odds {
        let honest = [[3_000, 0, 0, 0, 0, 0, 0, 0, 0, 0]; calibration::SETTINGS];
        let counts = calibration::Counts { honest, cheats: [1, 0, 0, 0, 0, 0, 0, 0, 50, 50] };
        Odds::new(&calibration::Calibration {
            network: NetworkId([1; 32]),
            referee: NodeId([13; 32]),
            prover: VariantId([7; 32]),
            verifier: VariantId([7; 32]),
            measured_at: ol_protocol::Timestamp(0),
            tolerance_micro: 0,
            log_prob_steps: 2,
            lengths: [counts; calibration::LENGTHS],
            signature: Signature([0; 64]),
        })
    }

    fn judged(finish: Finish, change: impl FnOnce(&mut Verdict)) -> Judgement {
        let mut verdict = verdict();
        change(&mut verdict);
        judge(&RULE, Some(&odds()), &commitment(finish), &verdict)
    }

    fn fits(judgement: Judgement) -> bool {
        matches!(judgement, Judgement::Fits { .. })
    }

    const NEW: Known = Known {
        suspicion: Suspicion::NONE,
        is_accused: false,
        votes: Votes { clean: 0, bad: 0 },
        epoch: Epoch(6),
        epoch_length: Micros::from_secs(60),
    };

    #[test]
    fn what_was_committed_to_is_clean_up_to_the_margin() {
        assert!(fits(judged(Finish::EndOfText, |_| {})));
        let worse = judged(Finish::EndOfText, |v| v.worst_margin_micro += 1);
        assert_eq!(worse, Judgement::Failed(Fault::Margin { worst_micro: 50_001 }));
    }

    #[test]
    fn only_the_referee_is_against_a_node_and_clears_who_is_accused() {
        let failed = Judgement::Failed(Fault::OtherSeed);
        let clean = Judgement::Fits { odds_micro: 0 };
        let accused = Known { is_accused: true, ..NEW };
        assert_eq!(ruling(clean, Level::CrossAudit, &NEW), Some(Ruling::Passed));
        assert_eq!(ruling(clean, Level::CrossAudit, &accused), None);
        assert_eq!(ruling(failed, Level::CrossAudit, &NEW), Some(Ruling::Accused));
        for known in [&NEW, &accused] {
            assert_eq!(ruling(clean, Level::Referee, known), Some(Ruling::Passed));
            assert_eq!(ruling(failed, Level::Referee, known), Some(Ruling::Failed));
            assert_eq!(ruling(Judgement::Mismatched, Level::Referee, known), None);
        }
    }

    #[test]
    fn two_of_three_members_of_a_panel_decide_and_the_third_changes_nothing() {
        let (clean, failed) = (Judgement::Fits { odds_micro: 0 }, Judgement::Failed(Fault::OtherSeed));
        let after = |judgement, clean, bad| {
            let known = Known { is_accused: true, votes: Votes { clean, bad }, ..NEW };
            ruling(judgement, Level::Panel, &known)
        };
        for (clean_before, bad_before) in [(0, 0), (0, 1), (0, 2), (2, 0)] {
            assert_eq!(after(clean, clean_before, bad_before), Some(Ruling::VotedFor));
            assert_eq!(after(failed, bad_before, clean_before), Some(Ruling::VotedAgainst));
        }
        for other in [0, 1] {
            assert_eq!(after(clean, 1, other), Some(Ruling::Passed));
            assert_eq!(after(failed, other, 1), Some(Ruling::Failed));
        }
        assert_eq!(after(Judgement::Mismatched, 1, 1), None);
    }

    #[test]
    fn answers_that_fit_one_by_one_fail_together() {
        // Margins below the limit, as no honest node has them.
        let small = |v: &mut Verdict| {
            v.worst_margin_micro = 50_000;
            v.margin_sum_micro = 15 * 500_000;
        };
        let judgement = judged(Finish::Length, small);
        let Judgement::Fits { odds_micro } = judgement else { panic!("{judgement:?}") };
        assert_eq!(ruling(judgement, Level::Referee, &NEW), Some(Ruling::Passed));
        let suspicion = NEW.suspicion.after(odds_micro, NEW.epoch, NEW.epoch_length);
        let known = Known { suspicion, ..NEW };
        assert_eq!(ruling(judgement, Level::CrossAudit, &known), Some(Ruling::Accused));
        assert_eq!(ruling(judgement, Level::Referee, &known), Some(Ruling::Failed));
    }

    #[test]
    fn without_a_calibration_nothing_follows() {
        let other = Verdict { prompt: Digest([0; 32]), worst_margin_micro: u32::MAX, ..verdict() };
        assert_eq!(judge(&RULE, None, &commitment(Finish::Length), &other), Judgement::Mismatched);
    }

    #[test]
    fn another_variant_has_no_limit_for_one_margin_but_the_same_claims() {
        let by = |change: fn(&mut Verdict)| {
            judged(Finish::Length, |v| {
                v.variant = VariantId([0; 32]);
                v.worst_margin_micro = u32::MAX;
                change(v);
            })
        };
        assert!(fits(by(|_| {})));
        assert_eq!(by(|v| v.seed = Digest([0; 32])), Judgement::Failed(Fault::OtherSeed));
    }

    #[test]
    fn other_content_than_was_committed_to_blames_nobody() {
        let changes: [fn(&mut Verdict); 2] = [|v| v.output = Digest([0; 32]), |v| v.network = NetworkId([0; 32])];
        for change in changes {
            let judgement = judged(Finish::Length, |v| {
                change(v);
                v.worst_margin_micro = u32::MAX;
                v.prompt = Digest([0; 32]);
            });
            assert_eq!(judgement, Judgement::Mismatched);
        }
    }

    #[test]
    fn each_false_claim_is_its_own_fault() {
        let failed = |fault| Judgement::Failed(fault);
        assert_eq!(judged(Finish::Length, |v| v.prompt = Digest([0; 32])), failed(Fault::OtherPrompt));
        assert_eq!(judged(Finish::Length, |v| v.seed = Digest([0; 32])), failed(Fault::OtherSeed));
        assert_eq!(judged(Finish::Length, |v| v.prompt_tokens.0 += 1), failed(Fault::WrongCount));
        assert_eq!(judged(Finish::Length, |v| v.output_tokens.0 -= 1), failed(Fault::WrongCount));
        assert_eq!(judged(Finish::Length, |v| v.finish_fits = false), failed(Fault::WrongEnd));
    }

    #[test]
    fn a_part_of_an_output_is_judged_by_its_own_length() {
        let part = |scored, sum| {
            judged(Finish::Length, move |v| {
                v.scored_tokens = TokenCount(scored);
                v.margin_sum_micro = sum;
            })
        };
        assert_eq!(part(5, 20_000), judged(Finish::Length, |v| v.margin_sum_micro = 60_000));
        assert_ne!(part(5, 60_000), part(5, 0));
        let worst = judged(Finish::Length, |v| (v.scored_tokens, v.worst_margin_micro) = (TokenCount(1), 50_001));
        assert_eq!(worst, Judgement::Failed(Fault::Margin { worst_micro: 50_001 }));
    }

    #[test]
    fn more_inherited_than_there_is_is_a_wrong_count() {
        let commitment = Commitment { resumed_from: TokenCount(21), ..commitment(Finish::Length) };
        let verdict = Verdict { output_tokens: TokenCount(0), scored_tokens: TokenCount(0), ..verdict() };
        assert_eq!(judge(&RULE, Some(&odds()), &commitment, &verdict), Judgement::Failed(Fault::WrongCount));
    }

    #[test]
    fn the_end_of_a_cancelled_attempt_is_not_checked() {
        assert!(fits(judged(Finish::Cancelled, |v| v.finish_fits = false)));
    }

    #[test]
    fn an_embedding_has_its_own_limit_and_no_output_tokens() {
        let deviation = |micro| {
            judged(Finish::Embedded, |v| {
                (v.output_tokens, v.scored_tokens) = (TokenCount(0), TokenCount(0));
                v.worst_margin_micro = micro;
            })
        };
        assert!(fits(deviation(1_000)));
        assert_eq!(deviation(1_001), Judgement::Failed(Fault::Margin { worst_micro: 1_001 }));
    }
}
