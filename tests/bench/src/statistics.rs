//! Statistics of repeated measurements.
use gateway_tests_kit::random::Random;

/// Returns the median; NaN if there are no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Returns minimum and maximum.
pub fn extremes(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

/// Returns the 95 % confidence interval of the median, by the percentile bootstrap (Efron 1979) with 2,000
/// samples.
pub fn confidence(values: &[f64], random: &mut Random) -> (f64, f64) {
    const SAMPLES: usize = 2000;
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut medians: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let sample: Vec<f64> = values.iter().map(|_| random.pick(values)).collect();
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[SAMPLES / 40], medians[SAMPLES - 1 - SAMPLES / 40])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn confidence_interval_holds_the_median_and_narrows_with_more_values() {
        let mut random = Random::new(1);
        let mut values =
            |count: usize| -> Vec<f64> { (0..count).map(|_| random.below(1000) as f64).collect() };
        let (few, many) = (values(10), values(1000));
        let width = |values: &[f64]| {
            let (low, high) = confidence(values, &mut Random::new(2));
            assert!(low <= median(values) && median(values) <= high);
            high - low
        };
        assert!(width(&many) < width(&few) / 2.0);
    }
}
