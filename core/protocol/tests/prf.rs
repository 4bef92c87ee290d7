//! Vectors of the pseudo-random function: a changed line is a change of the sampler version.

use ol_protocol::prf::{Noise, Seed};

const VECTORS: &str = include_str!("vectors/prf.hex");

fn seed(salt: u32) -> Seed {
    Seed(core::array::from_fn(|index| (salt.wrapping_mul(37) as u8).wrapping_add(index as u8)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seed, step, id, word, bits of the Gumbel noise.
fn lines() -> String {
    let mut out = String::new();
    for case in 0..24_u32 {
        let seed = if case == 0 { Seed::default() } else { seed(case) };
        let (t, v) = (case * case * 1_000_003, [0, 1, 2, 3, 4, 49_151, 128_255, u32::MAX][case as usize % 8]);
        let noise = Noise::new(&seed, t);
        let (word, gumbel) = (noise.word(v), noise.gumbel(v).to_bits());
        out += &format!("{} {t:08x} {v:08x} {word:08x} {gumbel:016x}\n", hex(&seed.0));
    }
    out
}

#[test]
fn noise_has_the_committed_bits() {
    assert_eq!(lines(), VECTORS, "\n{}", lines());
}
