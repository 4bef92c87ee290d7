//! Vectors of the sampler: a changed line is a change of the sampler version.

use ol_protocol::prf::{Noise, Seed};
use ol_protocol::sampler::{Sampling, likeliest, log_prob, log_prob_byte, margin, pick};

const VECTORS: &str = include_str!("vectors/sampler.hex");
const TOLERANCE: f32 = 0.05;

/// Logits that need no arithmetic beyond one exact conversion: words as signed numbers of 16 bits, over 4096.
fn logits(count: u32, case: u32) -> Vec<f32> {
    let noise = Noise::new(&Seed([0xa5; 32]), case);
    (0..count).map(|v| f32::from((noise.word(v) >> 16) as u16 as i16) / 4096.0).collect()
}

fn settings(case: u32) -> Sampling {
    Sampling {
        temperature: [0.0, 0.25, 0.75, 1.0, 1.5][case as usize % 5],
        top_p: [1.0, 0.875, 0.5, 0.0][case as usize % 4],
        top_k: [0, 1, 7, 40][case as usize / 2 % 4],
        min_p: [0.0, 0.0, 0.0625, 1.0][case as usize / 3 % 4],
    }
}

/// Case, vocabulary, settings, seed byte, step, token, another token, its margin, log-probability of both and a byte.
fn lines() -> String {
    let mut out = String::new();
    for case in 0..120 {
        let (vocabulary, t) = (40 + case * 13, case * 7);
        let (logits, sampling, seed) = (logits(vocabulary, case), settings(case), Seed([case as u8; 32]));
        let id = pick(&logits, &sampling, &seed, t);
        let other = likeliest(&logits, 12)[case as usize % 12];
        let margin = margin(&logits, &sampling, &seed, t, other, TOLERANCE);
        let own = log_prob(&logits, id);
        let bytes: String = sampling.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        out += &format!(
            "{case:02x} {vocabulary:04x} {bytes} {t:08x} {id:08x} {other:08x} {:08x} {:08x} {:02x}\n",
            margin.to_bits(),
            own.to_bits(),
            log_prob_byte(own)
        );
    }
    out
}

#[test]
fn choices_margins_and_log_probabilities_have_the_committed_bits() {
    assert_eq!(lines(), VECTORS, "\n{}", lines());
}
