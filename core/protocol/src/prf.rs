//! Counter-based pseudo-random function behind sampling noise: any value of any step without the ones before it.
//!
//! Source: J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011 (Philox4x32, 10 rounds);
//! known-answer vectors of Random123. The derivation of key and counter is docs/protocol/sampling.md, section 1.

/// Rounds of Philox.
const ROUNDS: usize = 10;
/// Multipliers of Philox4x32 (Salmon et al. 2011, table 2).
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Weyl constants of the key schedule (golden ratio, sqrt(3) - 1).
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The seed of one task: 32 bytes, each of which changes the noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed(pub [u8; 32]);

impl Seed {
    /// The word `index` (0 to 7), little-endian.
    fn word(&self, index: usize) -> u32 {
        let at = index * 4;
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

/// Philox4x32-10: four pseudo-random words of a key and a counter.
#[inline]
#[must_use]
pub const fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let mut k = key;
    let mut c = counter;
    let mut round = 0;
    while round < ROUNDS {
        let a = MULTIPLIERS[0] as u64 * c[0] as u64;
        let b = MULTIPLIERS[1] as u64 * c[2] as u64;
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
        round += 1;
    }
    c
}

/// The uniform number in (0, 1) of a word: (x + 0.5) / 2^32, exact in f64.
#[inline]
#[must_use]
pub fn uniform(word: u32) -> f64 {
    (f64::from(word) + 0.5) * (1.0 / 4_294_967_296.0)
}

/// The noise of one step `t` of a task; index `v` is a token id.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    key: [u32; 2],
    tail: [u32; 2],
    step: u32,
}

impl Noise {
    /// The noise of step `t` under `seed`.
    #[must_use]
    pub fn new(seed: &Seed, t: u32) -> Self {
        let head = [seed.word(2), seed.word(3), seed.word(4), seed.word(5)];
        let [a, b, c, d] = philox([seed.word(0), seed.word(1)], head);
        Self { key: [a ^ seed.word(6), b ^ seed.word(7)], tail: [c, d], step: t }
    }

    /// The words of the ids `4 * index` to `4 * index + 3`, from one call of Philox.
    #[inline]
    #[must_use]
    pub const fn block(&self, index: u32) -> [u32; 4] {
        philox(self.key, [index, self.step, self.tail[0], self.tail[1]])
    }

    /// The word of id `v`.
    #[must_use]
    pub const fn word(&self, v: u32) -> u32 {
        self.block(v / 4)[(v % 4) as usize]
    }

    /// u(seed, t, v) in (0, 1).
    #[must_use]
    pub fn uniform(&self, v: u32) -> f64 {
        uniform(self.word(v))
    }

    /// Standard Gumbel noise -ln(-ln u) of id `v`, with the pinned `libm`.
    #[must_use]
    pub fn gumbel(&self, v: u32) -> f64 {
        gumbel(self.word(v))
    }
}

/// Standard Gumbel noise -ln(-ln u) of a word, in f64 with the pinned `libm`.
#[must_use]
pub fn gumbel(word: u32) -> f64 {
    -libm::log(-libm::log(uniform(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox([0xa409_3822, 0x299f_31d0], pi), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn every_byte_of_the_seed_and_every_index_changes_the_word() {
        let base = Noise::new(&Seed::default(), 3).word(5);
        for index in 0..32 {
            let mut seed = Seed::default();
            seed.0[index] = 1;
            assert_ne!(Noise::new(&seed, 3).word(5), base, "byte {index}");
        }
        assert_ne!(Noise::new(&Seed::default(), 4).word(5), base);
        assert_ne!(Noise::new(&Seed::default(), 3).word(6), base);
    }

    #[test]
    fn uniform_numbers_stay_inside_the_open_interval() {
        assert!(uniform(0) > 0.0);
        assert!(uniform(u32::MAX) < 1.0);
        assert!(gumbel(0).is_finite() && gumbel(u32::MAX).is_finite());
    }

    #[test]
    fn gumbel_noise_has_the_mean_and_variance_of_its_distribution() {
        let noise = Noise::new(&Seed([7; 32]), 0);
        let n = 100_000;
        let (mut sum, mut square) = (0.0, 0.0);
        for v in 0..n {
            let g = noise.gumbel(v);
            sum += g;
            square += g * g;
        }
        let mean = sum / f64::from(n);
        let variance = square / f64::from(n) - mean * mean;
        // Mean is Euler's constant, variance pi^2 / 6; five standard errors.
        assert!((mean - 0.577_216).abs() < 0.021, "{mean}");
        assert!((variance - 1.644_934).abs() < 0.06, "{variance}");
    }
}
