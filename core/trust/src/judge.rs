//! What an audit says: the auditor's measurements held against what the node committed to.

use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::parameters::AuditRule;
use ol_protocol::verdict::{Level, Verdict};

/// Largest deviation of an embedding's cosine from 1, in millionths. Rounding in f32 over a few hundred dimensions and
/// other batch shapes moves it by some 1 in 10^6; another text, model or coarser weights by 1 in 100 and more. The limit
/// lies between, a thousand times above the first.
pub const EMBEDDING_DEVIATION_MICRO_MAX: u32 = 1_000;

/// What came of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The result is what the node committed to.
    Clean,
    /// It is not.
    Failed(Fault),
    /// The auditor measured something else: another network, another variant or other output than the commitment's. It
    /// blames nobody, so that no one can be framed with content they did not commit to; another audit may follow. A
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

/// What an audit's end means for a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// It is what its node committed to.
    Passed,
    /// It is not.
    Failed,
    /// An auditor says that it is not: the referee has to look.
    Accused,
    /// Nothing follows.
    Void,
}

/// What a judgement means, coming from that level, of a result that was accused before or not. Only the referee's word is against a
/// node; and who is accused is cleared by the referee alone, or a second friend would silence every accuser.
pub const fn ruling(judgement: Judgement, level: Level, is_accused: bool) -> Ruling {
    match (judgement, level) {
        (Judgement::Clean, Level::CrossAudit | Level::Panel) if is_accused => Ruling::Void,
        (Judgement::Clean, _) => Ruling::Passed,
        (Judgement::Failed(_), Level::Referee) => Ruling::Failed,
        (Judgement::Failed(_), Level::CrossAudit | Level::Panel) => Ruling::Accused,
        (Judgement::Mismatched, _) => Ruling::Void,
    }
}

/// Judges an attempt by a verdict whose signature was checked. The auditor scores the tokens that the attempt added,
/// not inherited ones, which are another node's. An embedding has no output tokens, so only its prompt is counted.
pub fn judge(rule: &AuditRule, commitment: &Commitment, verdict: &Verdict) -> Judgement {
    let committed = (commitment.network, commitment.variant, commitment.output);
    if committed != (verdict.network, verdict.variant, verdict.output) {
        return Judgement::Mismatched;
    }
    fault(rule, commitment, verdict).map_or(Judgement::Clean, Judgement::Failed)
}

fn fault(rule: &AuditRule, commitment: &Commitment, verdict: &Verdict) -> Option<Fault> {
    if commitment.prompt != verdict.prompt {
        return Some(Fault::OtherPrompt);
    }
    if commitment.seed != verdict.seed {
        return Some(Fault::OtherSeed);
    }
    if !counts_fit(commitment, verdict) {
        return Some(Fault::WrongCount);
    }
    let worst_micro = verdict.worst_margin_micro;
    if worst_micro > limit(rule, commitment.finish) {
        return Some(Fault::Margin { worst_micro });
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
            inherited && commitment.added_tokens() == verdict.scored_tokens
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
            scored_tokens: TokenCount(15),
            worst_margin_micro: 50_000,
            margin_sum_micro: 60_000,
            finish_fits: true,
            signature: Signature([0; 64]),
        }
    }

    fn judged(finish: Finish, change: impl FnOnce(&mut Verdict)) -> Judgement {
        let mut verdict = verdict();
        change(&mut verdict);
        judge(&RULE, &commitment(finish), &verdict)
    }

    #[test]
    fn what_was_committed_to_is_clean_up_to_the_margin() {
        assert_eq!(judged(Finish::EndOfText, |_| {}), Judgement::Clean);
        let worse = judged(Finish::EndOfText, |v| v.worst_margin_micro += 1);
        assert_eq!(worse, Judgement::Failed(Fault::Margin { worst_micro: 50_001 }));
    }

    #[test]
    fn only_the_referee_is_against_a_node_and_clears_who_is_accused() {
        let failed = Judgement::Failed(Fault::OtherSeed);
        for level in [Level::CrossAudit, Level::Panel] {
            assert_eq!(ruling(Judgement::Clean, level, false), Ruling::Passed);
            assert_eq!(ruling(Judgement::Clean, level, true), Ruling::Void);
            assert_eq!(ruling(failed, level, false), Ruling::Accused);
        }
        for is_accused in [false, true] {
            assert_eq!(ruling(Judgement::Clean, Level::Referee, is_accused), Ruling::Passed);
            assert_eq!(ruling(failed, Level::Referee, is_accused), Ruling::Failed);
            assert_eq!(ruling(Judgement::Mismatched, Level::Referee, is_accused), Ruling::Void);
        }
    }

    #[test]
    fn other_content_than_was_committed_to_blames_nobody() {
        let changes: [fn(&mut Verdict); 3] =
            [|v| v.output = Digest([0; 32]), |v| v.variant = VariantId([0; 32]), |v| v.network = NetworkId([0; 32])];
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
        assert_eq!(judged(Finish::Length, |v| v.scored_tokens.0 -= 1), failed(Fault::WrongCount));
        assert_eq!(judged(Finish::Length, |v| v.finish_fits = false), failed(Fault::WrongEnd));
    }

    #[test]
    fn more_inherited_than_there_is_is_a_wrong_count() {
        let commitment = Commitment { resumed_from: TokenCount(21), ..commitment(Finish::Length) };
        let verdict = Verdict { scored_tokens: TokenCount(0), ..verdict() };
        assert_eq!(judge(&RULE, &commitment, &verdict), Judgement::Failed(Fault::WrongCount));
    }

    #[test]
    fn the_end_of_a_cancelled_attempt_is_not_checked() {
        assert_eq!(judged(Finish::Cancelled, |v| v.finish_fits = false), Judgement::Clean);
    }

    #[test]
    fn an_embedding_has_its_own_limit_and_no_output_tokens() {
        let deviation = |micro| {
            judged(Finish::Embedded, |v| {
                v.scored_tokens = TokenCount(0);
                v.worst_margin_micro = micro;
            })
        };
        assert_eq!(deviation(1_000), Judgement::Clean);
        assert_eq!(deviation(1_001), Judgement::Failed(Fault::Margin { worst_micro: 1_001 }));
    }
}
