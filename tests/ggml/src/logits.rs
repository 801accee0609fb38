//! Logits of two runs over the same tokens, place by place.

/// Two logits that lie closer are as good as equal: either may be the greatest.
pub const NEAR: f32 = 1e-4;

/// What a comparison found.
#[derive(Debug, Default, PartialEq)]
pub struct Compared {
    /// Places.
    pub places: usize,
    /// Places where another token is the best, although the reference's two best are not near.
    pub differing: Vec<usize>,
    /// Places where another token is the best, and they are.
    pub near: usize,
    /// The furthest that a logit lies from the reference's.
    pub furthest: f32,
}

/// Compares `other` with `reference`, `words` logits a place.
pub fn compare(reference: &[f32], other: &[f32], words: usize) -> Result<Compared, String> {
    if reference.is_empty()
        || reference.len() != other.len()
        || !reference.len().is_multiple_of(words)
    {
        return Err(format!(
            "{} and {} logits of {words} words",
            reference.len(),
            other.len()
        ));
    }
    let mut found = Compared::default();
    for (place, (a, b)) in reference.chunks(words).zip(other.chunks(words)).enumerate() {
        found.places += 1;
        for (a, b) in a.iter().zip(b) {
            let distance = (a - b).abs();
            if !distance.is_finite() {
                return Err(format!("place {place}: {a} and {b}"));
            }
            found.furthest = found.furthest.max(distance);
        }
        let (best, first, second) = two_best(a);
        if two_best(b).0 != best {
            if first - second <= NEAR {
                found.near += 1;
            } else {
                found.differing.push(place);
            }
        }
    }
    Ok(found)
}

/// The first of the greatest, it and the next.
fn two_best(logits: &[f32]) -> (usize, f32, f32) {
    let (mut at, mut first, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (index, &logit) in logits.iter().enumerate() {
        if logit > first {
            (at, first, second) = (index, logit, first);
        } else if logit > second {
            second = logit;
        }
    }
    (at, first, second)
}

/// The floats of a file that `decode` wrote.
pub fn read(path: &str) -> Result<Vec<f32>, String> {
    let bytes = std::fs::read(path).map_err(|why| format!("read {path}: {why}"))?;
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("{path}: {} bytes are no floats", bytes.len()));
    }
    Ok(floats
        .iter()
        .map(|four| f32::from_le_bytes(*four))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn another_token_is_excused_only_where_the_references_two_best_are_near() {
        let reference = [1.0, 0.0, 5.0, 5.000_05, 1.0, 2.0];
        let other = [1.0, 0.0, 5.000_06, 5.0, 2.0, 1.0];
        let found = compare(&reference, &other, 2).unwrap();
        assert_eq!((found.places, found.near), (3, 1));
        assert_eq!(found.differing, [2]);
        assert_eq!(found.furthest, 1.0);
    }

    #[test]
    fn nothing_to_compare_and_what_is_no_number_are_failures() {
        assert!(compare(&[], &[], 2).is_err());
        assert!(compare(&[1.0, 2.0], &[1.0], 2).is_err());
        assert!(compare(&[1.0, 2.0], &[f32::NAN, 2.0], 2).is_err());
    }
}
