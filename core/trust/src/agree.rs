//! Whether a prover's and an auditor's log-probabilities come from the same computation.

/// Furthest that two bytes for one token may lie apart. Engines of one variant differ by some 1e-5 nats, under a quarter
/// of a step at most, so honest bytes are equal or neighbours by rounding; one more step is left for numerics of nearly
/// equal floats in other batch shapes.
const STEPS_MAX: u8 = 2;

/// One position in so many may lie further apart: where two floats fall on both sides of a steep part of the scale, near
/// probability 1, the bytes can differ by more though the logits hardly do.
const POSITIONS_PER_OUTLIER: usize = 100;

/// Whether two strings of log-probability bytes agree: equally long, and within two steps at all positions but at most
/// one in a hundred (rounded down: below a hundred tokens at all of them). Two empty strings agree.
pub fn agree(prover: &[u8], auditor: &[u8]) -> bool {
    let outliers = prover.iter().zip(auditor).filter(|(a, b)| a.abs_diff(**b) > STEPS_MAX).count();
    prover.len() == auditor.len() && outliers <= prover.len() / POSITIONS_PER_OUTLIER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_bytes_agree() {
        assert!(agree(&[10, 20, 255, 0], &[12, 18, 253, 2]));
        assert!(!agree(&[10, 20, 255, 0], &[13, 20, 255, 0]));
        assert!(agree(&[], &[]));
    }

    #[test]
    fn one_in_a_hundred_may_lie_further_apart() {
        let mut other = [100; 200];
        other[3] = 0;
        other[9] = 255;
        assert!(agree(&[100; 200], &other));
        assert!(!agree(&[100; 199], &other[..199]));
        other[50] = 0;
        assert!(!agree(&[100; 200], &other));
    }

    #[test]
    fn strings_of_other_lengths_never_agree() {
        assert!(!agree(&[1, 2], &[1, 2, 3]));
        assert!(!agree(&[1], &[]));
    }
}
