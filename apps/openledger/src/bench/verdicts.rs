//! How many audits it takes until a node with such answers is convicted, by the rule of the gateways.

use ol_engine::pair::Answer;
use ol_node::calibrate::{clipped_sum_micro, micro};
use ol_protocol::calibration::{bin, length_class};
use ol_protocol::parameters::AuditRule;
use ol_protocol::prf::{Noise, Seed};
use ol_protocol::{Epoch, Micros, TokenCount};
use ol_sim::adversaries::interval::share;
use ol_trust::judge::EMBEDDING_DEVIATION_MICRO_MAX;
use ol_trust::{Odds, Suspicion, draw};
use serde_json::{Value, json};

/// Nodes that are made up of a row's answers.
const NODES: u32 = 2_000;

/// Audits after which such a node counts as not found.
const AUDITS_MAX: u32 = 300;

/// What an audit of one answer says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// It fails by itself.
    fails: bool,
    odds_micro: u64,
    tokens: u32,
}

/// How much of an answer an audit scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// All of it.
    Whole,
    /// As far as the draw says.
    Drawn,
}

impl Seen {
    /// Of a whole answer, by the rule of auditors of the same variant, and the odds of their calibration.
    pub(super) fn new(answer: &Answer, odds: &Odds) -> Self {
        Self::until(answer, odds, answer.margins.len())
    }

    fn until(answer: &Answer, odds: &Odds, count: usize) -> Self {
        let (margins, tokens) = (&answer.margins[..count], count as u32);
        let worst = margins.iter().map(|margin| micro(*margin)).max().unwrap_or(0);
        let fails = !answer.finish_fits || worst > AuditRule::DEFAULT.margin_micro_max;
        let mean = clipped_sum_micro(margins).div_ceil(u64::from(tokens.max(1)));
        Self { fails, odds_micro: odds.of(length_class(TokenCount(tokens)), bin(mean)), tokens }
    }

    /// Of the vector of one text, by the deviation of its cosine in millionths.
    pub(super) fn of_vector(deviation_micro: u32, odds: &Odds) -> Self {
        let fails = deviation_micro > EMBEDDING_DEVIATION_MICRO_MAX;
        Self { fails, odds_micro: odds.of(0, bin(deviation_micro.into())), tokens: 0 }
    }

    /// Of an answer as far as each draw may reach, each as likely.
    pub(super) fn reaches(answer: &Answer, odds: &Odds, reach: Reach) -> Vec<Self> {
        let all = answer.margins.len();
        match reach {
            Reach::Whole => vec![Self::new(answer, odds)],
            Reach::Drawn => {
                let reaches = draw::reaches(TokenCount(all as u32));
                reaches.map(|reach| Self::until(answer, odds, reach.0 as usize)).collect()
            }
        }
    }
}

/// How a row's nodes fare: each is given its answers by chance, all of them audited, each as far as one of its draws reaches.
pub(super) fn verdicts(seen: &[Vec<Seen>], uses_limit: bool) -> Value {
    let (mut audits, mut tokens, mut never) = (Vec::new(), Vec::new(), 0_u32);
    for node in 0..NODES {
        let (noise, mut scored) = (Noise::new(&Seed([0; 32]), node), 0);
        let found = audits_until((0..AUDITS_MAX).map(|audit| {
            let draws = &seen[noise.word(2 * audit) as usize % seen.len()];
            let one = draws[noise.word(2 * audit + 1) as usize % draws.len()];
            scored += one.tokens;
            Seen { fails: one.fails && uses_limit, ..one }
        }));
        match found {
            Some(count) => {
                audits.push(count);
                tokens.push(scored);
            }
            None => never += 1,
        }
    }
    let quantile = |values: &mut Vec<u32>, share: f64| {
        values.sort_unstable();
        values.get((share * values.len().saturating_sub(1) as f64).round() as usize).copied()
    };
    let mean = |values: &[u32]| {
        let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
        (!values.is_empty()).then(|| (sum / values.len() as f64 * 10.0).round() / 10.0)
    };
    json!({
        "audits_mean": mean(&audits),
        "tokens_mean": mean(&tokens),
        "audits_p50": quantile(&mut audits, 0.5),
        "audits_p90": quantile(&mut audits, 0.9),
        "tokens_p50": quantile(&mut tokens, 0.5),
        "tokens_p90": quantile(&mut tokens, 0.9),
        "not_in_300_audits_pct": f64::from(never) * 100.0 / f64::from(NODES),
    })
}

// Audits up to the conviction, that one included.
fn audits_until(seen: impl Iterator<Item = Seen>) -> Option<u32> {
    let mut bets = Suspicion::NONE;
    for (count, one) in (1..).zip(seen) {
        bets = bets.after(one.odds_micro, Epoch(0), Micros::from_secs(60));
        if one.fails || bets.convicts() {
            return Some(count);
        }
    }
    None
}

/// Honest answers that failed by themselves or by the bets that they made together, and the interval of 95 % (Clopper and Pearson) of
/// their share.
pub(super) fn false_positives(seen: &[Seen]) -> Value {
    let mut bets = Suspicion::NONE;
    let (mut failed, mut most) = (0_u64, 0.0_f64);
    for one in seen {
        bets = bets.after(one.odds_micro, Epoch(0), Micros::from_secs(60));
        most = most.max(bets.against());
        if one.fails || bets.convicts() {
            failed += 1;
            bets = Suspicion::NONE;
        }
    }
    let answers = seen.len() as u64;
    json!({
        "answers": answers,
        "failed": failed,
        "ppm_interval_95": share(failed, answers).map(|share| (share * 1e9).round() / 1e3),
        "largest_bets": most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HONEST: Seen = Seen { fails: false, odds_micro: 10_000, tokens: 40 };

    #[test]
    fn intervals_are_exact() {
        // None of 10,000: 1 - 0.025^(1/10,000) is 368.8 in a million.
        let none = false_positives(&[HONEST; 10_000]);
        assert_eq!((none["failed"].as_u64(), none["ppm_interval_95"][0].as_f64()), (Some(0), Some(0.0)));
        assert!((none["ppm_interval_95"][1].as_f64().unwrap() - 368.8).abs() < 0.1, "{none}");
        // One of 100: 0.0253 % to 5.446 %.
        let mut one = [HONEST; 100];
        one[7].fails = true;
        let found = false_positives(&one);
        let interval = [0, 1].map(|at| found["ppm_interval_95"][at].as_f64().unwrap());
        assert!((interval[0] - 253.0).abs() < 1.0 && (interval[1] - 54_460.0).abs() < 20.0, "{interval:?}");
    }

    #[test]
    fn a_part_of_an_answer_shows_what_is_in_it() {
        let margins = (0..70).map(|at| if at == 40 { 0.9 } else { 0.0 }).collect();
        let answer = Answer {
            settings: ol_engine::pair::Settings::Greedy,
            margins,
            finish_fits: true,
            byte_steps: Vec::new(),
            generate_cpu_s: 1.0,
            score_cpu_s: 1.0,
        };
        let seen = |reach| -> Vec<(bool, u32)> {
            Seen::reaches(&answer, &Odds::NONE, reach).iter().map(|one| (one.fails, one.tokens)).collect()
        };
        assert_eq!(seen(Reach::Whole), [(true, 70)]);
        assert_eq!(seen(Reach::Drawn), [(false, 32), (true, 64), (true, 70)]);
    }

    #[test]
    fn who_fails_by_itself_is_found_at_once_and_others_by_their_odds() {
        let cheat = Seen { fails: true, odds_micro: 90_000_000, tokens: 40 };
        assert_eq!(verdicts(&[vec![cheat]], true)["audits_p50"], 1);
        assert_eq!(verdicts(&[vec![cheat]], false)["audits_p50"], 2);
        let honest = verdicts(&[vec![HONEST]], true);
        assert_eq!((honest["not_in_300_audits_pct"].as_f64(), honest["audits_p50"].as_u64()), (Some(100.0), None));
    }
}
