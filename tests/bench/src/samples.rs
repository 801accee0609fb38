//! Samples: what was measured several times, as least, median and most.

use serde::Serialize;

/// Least, median and most of several samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The least.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// The most.
    pub max: f64,
    /// How many there were.
    pub count: usize,
}

/// Sums samples up.
///
/// # Errors
/// When there is none.
pub fn summary(samples: &[f64]) -> Result<Summary, String> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.last()) {
        (Some(&min), Some(&max)) => Ok(Summary {
            min,
            median: median(&sorted),
            max,
            count: sorted.len(),
        }),
        _ => Err("no sample was taken".into()),
    }
}

/// The median of a few samples; 0 of none.
pub fn p50(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    median(samples)
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => (value + sorted[middle - 1]) / 2.0,
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let sum = summary(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            (sum.min, sum.median, sum.max, sum.count),
            (1.0, 2.5, 4.0, 4)
        );
        assert_eq!(p50(&mut [9.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn no_sample_is_no_figure() {
        assert!(summary(&[]).is_err());
    }
}
