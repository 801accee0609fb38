//! Logits of two runs over the same tokens, place by place.

/// Two logits that lie closer are as good as equal: either may be the greatest.
pub const NEAR: f32 = 1e-4;

/// What a comparison found.
#[derive(Debug, Default, PartialEq)]
pub struct Compared {
    /// Places.
    pub places: usize,
    /// Places where another token is the best, without excuse.
    pub differing: Vec<usize>,
    /// Places where the second of the reference's two best is the best, and they are near.
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
        let chosen = two_best(b)[0].0;
        if two_best(a)[0].0 != chosen {
            if excused(a, chosen) {
                found.near += 1;
            } else {
                found.differing.push(place);
            }
        }
    }
    Ok(found)
}

impl Compared {
    /// Whether no place differs, and those that are excused are few: one in a hundred.
    pub fn held(&self) -> Result<(), String> {
        if self.differing.is_empty() && self.near * 100 <= self.places {
            return Ok(());
        }
        Err(format!(
            "other tokens at {:?}, and at {} of {} places where the CPU's two best are near",
            self.differing, self.near, self.places
        ))
    }
}

/// Whether a token may stand where the reference's logits have another one: it is one of their two
/// best, and those are near.
pub fn excused(reference: &[f32], token: usize) -> bool {
    let [first, second] = two_best(reference);
    first.1 - second.1 <= NEAR && (token == first.0 || token == second.0)
}

/// The two greatest, each with its place; of equal ones the first.
fn two_best(logits: &[f32]) -> [(usize, f32); 2] {
    let mut best = [(0, f32::NEG_INFINITY); 2];
    for (index, &logit) in logits.iter().enumerate() {
        if logit > best[0].1 {
            best = [(index, logit), best[0]];
        } else if logit > best[1].1 {
            best[1] = (index, logit);
        }
    }
    best
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
    use super::{Compared, compare, excused};

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
    fn a_third_token_is_not_excused_by_two_that_are_near() {
        let logits = [5.0, 5.000_05, 4.999_99];
        assert!(excused(&logits, 0) && excused(&logits, 1));
        assert!(!excused(&logits, 2));
        assert!(!excused(&[5.0, 5.001], 0));
    }

    #[test]
    fn many_excused_places_are_a_failure() {
        let found = |near| Compared {
            places: 1000,
            near,
            ..Compared::default()
        };
        assert!(found(10).held().is_ok());
        assert!(found(11).held().is_err());
    }

    #[test]
    fn nothing_to_compare_and_what_is_no_number_are_failures() {
        assert!(compare(&[], &[], 2).is_err());
        assert!(compare(&[1.0, 2.0], &[1.0], 2).is_err());
        assert!(compare(&[1.0, 2.0], &[f32::NAN, 2.0], 2).is_err());
    }
}
