//! The reference: what the CPU decodes with the trained model, and whether a card said the same.

use crate::decode::{WORDS, decode, plain};
use crate::logits::{excused, read};
use crate::root::Root;

/// The CPU's tokens, and its logits at each place.
#[derive(Debug)]
pub struct Reference {
    /// Where `decode` finds the tokens to follow.
    pub file: String,
    tokens: Vec<usize>,
    logits: Vec<f32>,
}

/// What a card said, as far as it was right.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Beginnings: one, and one more for each "again".
    pub attempts: usize,
    /// Tokens of all attempts.
    pub tokens: usize,
    /// Tokens of the last attempt.
    pub last: usize,
    /// Tokens that are not the CPU's, but the other of its two best, which are near.
    pub near: usize,
}

impl Reference {
    /// Decodes on the CPU.
    pub fn make(root: &Root, tokens: u32) -> Result<Self, String> {
        let (file, logits) = (root.file("reference"), root.file("reference-logits"));
        let (model, tokens) = (plain(root)?, tokens.to_string());
        let said = decode(root, None, &[&model, &tokens, "logits", &logits])?;
        said.success().map_err(|why| format!("on the CPU: {why}"))?;
        std::fs::write(&file, &said.out).map_err(|why| format!("write {file}: {why}"))?;
        let told = attempts(&said.out)?.concat();
        let logits = read(&logits)?;
        if told.len().to_string() != tokens || logits.len() != told.len() * WORDS {
            return Err(format!("the CPU told {} tokens", told.len()));
        }
        Ok(Self {
            file,
            tokens: told,
            logits,
        })
    }

    /// Whether each token that was told is the CPU's at its place, or excused, as few are.
    pub fn judge(&self, out: &str) -> Result<Judged, String> {
        let attempts = attempts(out)?;
        let mut judged = Judged {
            attempts: attempts.len(),
            last: attempts.last().map_or(0, Vec::len),
            ..Judged::default()
        };
        for (number, attempt) in attempts.iter().enumerate() {
            let places = self.tokens.iter().zip(self.logits.chunks(WORDS));
            if attempt.len() > self.tokens.len() {
                return Err(format!("{} tokens, more than asked for", attempt.len()));
            }
            judged.tokens += attempt.len();
            for (place, (token, (right, logits))) in attempt.iter().zip(places).enumerate() {
                if token == right {
                    continue;
                }
                if !excused(logits, *token) {
                    return Err(format!(
                        "token {token} at place {place} of attempt {number}, where the CPU says {right}"
                    ));
                }
                judged.near += 1;
            }
        }
        if judged.near * 100 > judged.tokens {
            return Err(format!(
                "{} of {} tokens are not the CPU's best",
                judged.near, judged.tokens
            ));
        }
        Ok(judged)
    }
}

/// The tokens told, anew after each line "again".
fn attempts(out: &str) -> Result<Vec<Vec<usize>>, String> {
    let mut all = vec![Vec::new()];
    for line in out.lines() {
        if line == "again" {
            all.push(Vec::new());
        } else if let Some(token) = line.strip_prefix("token ") {
            let token = token.parse().map_err(|_| format!("no token: {line}"))?;
            if let Some(attempt) = all.last_mut() {
                attempt.push(token);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::{Judged, Reference};
    use crate::decode::WORDS;

    fn reference() -> Reference {
        let mut logits = vec![0.0; 3 * WORDS];
        (logits[7], logits[WORDS + 8], logits[2 * WORDS + 9]) = (5.0, 5.0, 5.0);
        logits[2 * WORDS + 10] = 4.999_99;
        Reference {
            file: String::new(),
            tokens: vec![7, 8, 9],
            logits,
        }
    }

    #[test]
    fn every_attempt_begins_as_the_reference_does() {
        let out =
            "token 7\ntoken 8\nagain\nmemory 2 1 1\ntoken 7\ntoken 8\ntoken 9\nagain\ntoken 7\n";
        let wanted = Judged {
            attempts: 3,
            tokens: 6,
            last: 1,
            near: 0,
        };
        assert_eq!(reference().judge(out), Ok(wanted));
        assert_eq!(reference().judge("").unwrap().tokens, 0);
    }

    #[test]
    fn a_wrong_token_of_any_attempt_is_noticed() {
        assert!(reference().judge("token 7\ntoken 9\n").is_err());
        assert!(reference().judge("token 7\nagain\ntoken 8\n").is_err());
        assert!(reference().judge("token 7\ntoken x\n").is_err());
        let more = "token 7\ntoken 8\ntoken 9\ntoken 9\n";
        assert!(reference().judge(more).is_err());
    }

    #[test]
    fn near_tokens_are_excused_but_few() {
        let once = "token 7\ntoken 8\ntoken 10\n";
        assert!(reference().judge(once).unwrap_err().contains("1 of 3"));
        let many = "token 7\ntoken 8\ntoken 9\nagain\n".repeat(40) + once;
        assert_eq!(reference().judge(&many).unwrap().near, 1);
    }
}
