//! Intervals of 95 % for counts and means.

/// Halvings of an interval: more than a double has digits.
const HALVINGS: u32 = 60;

/// Upper bound of a Poisson mean of which `seen` were counted: one at which so few have a chance of 5 %.
pub(super) fn poisson_max(seen: u64) -> f64 {
    let too_likely = |mean: f64| (0..=seen).map(|k| poisson(k, mean)).sum::<f64>() > 0.05;
    crossing(0.0, 10.0 + 3.0 * seen as f64, too_likely)
}

/// Clopper and Pearson's interval of a share, `seen` of `all`; [0, 1] of none.
///
/// Source: C. Clopper, E. Pearson, Biometrika 26(4), 1934.
pub fn share(seen: u64, all: u64) -> [f64; 2] {
    let below = |share: f64, most: u64| (0..=most).map(|k| binomial(k, all, share)).sum::<f64>();
    let low = if seen == 0 { 0.0 } else { crossing(0.0, 1.0, |share| 1.0 - below(share, seen - 1) < 0.025) };
    let high = if seen == all { 1.0 } else { crossing(0.0, 1.0, |share| below(share, seen) > 0.025) };
    [low, high]
}

/// Mean and its interval by the normal distribution; the values are independent.
pub(super) fn mean(values: &[f64]) -> (f64, [f64; 2]) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>();
    let reach = 1.96 * libm::sqrt(squares / (n - 1.0).max(1.0) / n);
    (mean, [mean - reach, mean + reach])
}

/// The middle of the values; the upper one of two.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

// Where a condition ends that holds up to some value.
fn crossing(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        *(if holds(middle) { &mut low } else { &mut high }) = middle;
    }
    high
}

fn poisson(k: u64, mean: f64) -> f64 {
    libm::exp(k as f64 * libm::log(mean) - mean - libm::lgamma(k as f64 + 1.0))
}

fn binomial(k: u64, all: u64, share: f64) -> f64 {
    let (k, all) = (k as f64, all as f64);
    let ways = libm::lgamma(all + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(all - k + 1.0);
    libm::exp(ways + k * libm::log(share) + (all - k) * libm::log1p(-share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-4
    }

    #[test]
    fn bounds_are_those_of_the_tables() {
        assert!(is_near(poisson_max(0), 2.99573) && is_near(poisson_max(3), 7.75366));
        let [low, high] = share(0, 20);
        assert!(low == 0.0 && is_near(high, 0.16843), "{high}");
        let [low, high] = share(5, 20);
        assert!(is_near(low, 0.08657) && is_near(high, 0.49105), "{low} {high}");
        assert!(is_near(share(20, 20)[0], 0.83157) && share(20, 20)[1] == 1.0);
    }

    #[test]
    fn a_mean_has_its_spread() {
        let (middle, [low, high]) = mean(&[1.0, 2.0, 3.0, 4.0]);
        assert!(is_near(middle, 2.5) && is_near(high - low, 2.0 * 1.96 * 0.645_497));
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(Vec::new())), (Some(2.0), None));
    }
}
