//! Whether a prover's and an auditor's log-probabilities come from the same computation.

use crate::draw;
use ol_protocol::TokenCount;
use ol_protocol::verdict::Level;

/// One position in so many may lie further apart than the steps that were measured, which 99 in a hundred honest ones do not: four times as
/// many, and one more.
const POSITIONS_PER_OUTLIER: usize = 25;

/// Whether an auditor of this level shows by its log-probability bytes that it computed what the prover did. Who decides about an
/// accusation is held against all that any draw may reach, who audits at first against what it scored.
pub fn agrees(level: Level, prover: &[u8], auditor: &[u8], steps: u8) -> bool {
    match level {
        Level::Referee | Level::Panel => agree_throughout(prover, auditor, steps),
        Level::CrossAudit => agree(prover, auditor, steps),
    }
}

/// Whether two strings of log-probability bytes agree: equally long, and within so many steps at all positions but one, and one more in
/// each 25. Two empty strings agree.
fn agree(prover: &[u8], auditor: &[u8], steps: u8) -> bool {
    let outliers = prover.iter().zip(auditor).filter(|(a, b)| a.abs_diff(**b) > steps).count();
    prover.len() == auditor.len() && outliers <= 1 + prover.len() / POSITIONS_PER_OUTLIER
}

/// Whether they agree as far as any draw may reach: then who scored less and had others did not compute, and nobody is made to look so by a few bytes that
/// are hidden in the many.
fn agree_throughout(prover: &[u8], auditor: &[u8], steps: u8) -> bool {
    let tokens = TokenCount(u32::try_from(prover.len()).unwrap_or(u32::MAX));
    let mut ends = draw::reaches(tokens).map(|end| end.0 as usize);
    prover.len() == auditor.len() && ends.all(|end| agree(&prover[..end], &auditor[..end], steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_bytes_agree() {
        assert!(agree(&[10, 20, 255, 0], &[12, 18, 253, 2], 2));
        assert!(agree(&[10, 20, 255, 0], &[90, 20, 255, 0], 2), "one lies apart");
        assert!(!agree(&[10, 20, 255, 0], &[13, 23, 255, 0], 2));
        assert!(agree(&[10, 20, 255, 0], &[13, 23, 255, 0], 3));
        assert!(agree(&[], &[], 0));
    }

    #[test]
    fn strange_bytes_at_the_front_are_not_hidden_among_many() {
        let mut framing = [100; 160];
        (0..5).for_each(|at| framing[at] = 0);
        assert!(agree(&framing, &[100; 160], 2));
        assert!(!agree(&framing[..32], &[100; 32], 2));
        assert!(!agree_throughout(&framing, &[100; 160], 2));
        assert!(agree_throughout(&[100; 160], &[100; 160], 2) && agree_throughout(&[], &[], 2));
        assert!(!agree_throughout(&[100; 160], &[100; 150], 2));
        let by = |level| agrees(level, &framing, &[100; 160], 2);
        assert_eq!([Level::Referee, Level::Panel, Level::CrossAudit].map(by), [false, false, true]);
    }

    #[test]
    fn one_in_twenty_five_may_lie_further_apart() {
        let mut other = [100; 50];
        (0..3).for_each(|at| other[at] = 0);
        assert!(agree(&[100; 50], &other, 2));
        assert!(!agree(&[100; 49], &other[..49], 2));
    }

    #[test]
    fn who_made_the_bytes_up_is_seen() {
        // The most likely guess for every byte.
        let honest: [u8; 64] = core::array::from_fn(|at| (at * 37 % 256) as u8);
        assert!(!agree(&honest, &[100; 64], 20));
    }

    #[test]
    fn strings_of_other_lengths_never_agree() {
        assert!(!agree(&[1, 2], &[1, 2, 3], 2));
        assert!(!agree(&[1], &[], 2));
    }
}
