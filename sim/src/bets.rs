//! What a node's audited answers say together, computed a second time from the list of all of them.

use ol_protocol::calibration::{Calibration, bin, length_class};
use ol_protocol::commitment::Finish;
use ol_protocol::receipt::Receipt;
use ol_protocol::verdict::Verdict;

/// How much likelier a cheat has an answer's margins, in millionths.
pub(crate) fn odds(calibration: &Calibration, receipt: &Receipt, verdict: &Verdict) -> u128 {
    let (class, mean) = match receipt.commitment.finish {
        Finish::Embedded => (0, u64::from(verdict.worst_margin_micro)),
        _ => {
            let tokens = u64::from(verdict.scored_tokens.0).max(1);
            (length_class(verdict.scored_tokens), verdict.margin_sum_micro.div_ceil(tokens))
        }
    };
    let (counts, at) = (&calibration.lengths[class], bin(mean));
    let sum = |counts: &[u32]| counts.iter().map(|count| u128::from(*count)).sum::<u128>();
    if counts.honest.iter().any(|honest| sum(honest) == 0) {
        return 1_000_000;
    }
    let cheats = sum(&counts.cheats);
    let over = counts.honest.iter().map(|honest| {
        let (all, here) = (sum(honest), u64::from(honest[at]));
        let bound = u128::from(here + (here * 169).isqrt().div_ceil(4) + 7).min(all).max(1);
        (u128::from(counts.cheats[at]) * 2 + 1) * all * 1_000_000 / ((cheats * 2 + counts.cheats.len() as u128) * bound)
    });
    over.min().unwrap_or(0)
}

/// What three bets against a node came to that made these answers within a month, the first opened at the first, in parts of 2^32.
pub(crate) fn worth(odds: &[u128]) -> u128 {
    let one: u128 = 1 << 32;
    let bet = |parts: u128| {
        odds.iter().zip(1u128..).fold(0, |bet: u128, (odds, number)| {
            let factor = 1_000_000 - 1_000_000 / parts + odds / parts;
            ((bet + one / (number * (number + 1))) * factor / 1_000_000).min(u128::from(u64::MAX))
        })
    };
    bet(1) / 3 + bet(8) / 3 + bet(64) / 3
}
