//! Marks: what the cards count between two lines of a guest's report.
//!
//! `MARK name begin` · `MARK name end MOST words`, MOST being the number of socket messages that
//! there may have been, or `any`, where the number is for information. The guest waits after each for
//! the answer `SEEN`, so that what follows is not counted with it.

use std::collections::BTreeMap;
use std::io;

use crate::card::Card;

/// The intervals that are open.
#[derive(Debug, Default)]
pub struct Marks {
    open: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Marks {
    /// What the guest is told once a mark has been counted.
    pub const SEEN: &[u8] = b"SEEN\n";

    /// Whether a line of the report is a mark, which waits for its answer.
    pub fn is_one(line: &str) -> bool {
        line.starts_with("MARK ")
    }

    /// Takes a line of a machine with these cards; the end of an interval is a case, which it gives
    /// as the report reads it.
    pub fn line(&mut self, line: &str, cards: &[Card]) -> Option<String> {
        let rest = line.trim_end().strip_prefix("MARK ")?;
        let mut words = rest.splitn(4, ' ');
        let name = words.next()?;
        let told = match (words.next(), words.next()) {
            (Some("begin"), None) => match count(cards) {
                Ok(counts) => {
                    self.open.insert(name.to_owned(), counts);
                    return None;
                }
                Err(why) => Err(why.to_string()),
            },
            (Some("end"), Some(most)) => {
                let words = words.next().unwrap_or_default();
                self.end(name, most, words, cards)
            }
            _ => Err(format!("no mark is written so: {line}")),
        };
        Some(match told {
            Ok(words) => format!("CASE messages-{name} pass {words}"),
            Err(why) => format!("CASE messages-{name} fail {why}"),
        })
    }

    fn end(
        &mut self,
        name: &str,
        most: &str,
        words: &str,
        cards: &[Card],
    ) -> Result<String, String> {
        let before = self.open.remove(name).ok_or("it never began")?;
        let now = count(cards).map_err(|why| why.to_string())?;
        let grown: Vec<(String, u64)> = now
            .into_iter()
            .map(|(command, count)| {
                let then = before.get(&command).copied().unwrap_or(0);
                (command, count - then)
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        let sum: u64 = grown.iter().map(|(_, count)| count).sum();
        let told = format!("{sum} messages {grown:?}, {words}");
        match most.parse::<u64>() {
            Ok(most) if sum > most => Err(format!("{told}: at most {most} were to be")),
            Err(_) if most != "any" => Err(format!("{most} is no number")),
            _ => Ok(told),
        }
    }
}

fn count(cards: &[Card]) -> io::Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for card in cards {
        for (command, count) in card.messages()? {
            *all.entry(command).or_default() += count;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::Marks;

    #[test]
    fn an_interval_has_a_beginning_and_a_number_or_is_a_failure() {
        let mut marks = Marks::default();
        let mut case = |line: &str| marks.line(line, &[]).unwrap_or_default();
        assert_eq!(case("CASE a pass"), "");
        assert!(case("MARK a end 0").contains("fail it never began"));
        assert_eq!(case("MARK a begin"), "");
        assert!(case("MARK a end few").contains("fail few is no number"));
        assert_eq!(case("MARK a begin"), "");
        assert!(case("MARK a end 0 20 jobs").contains("a pass 0 messages [], 20 jobs"));
        assert!(case("MARK a").contains("fail no mark"));
    }
}
