//! What was seen to pass, and must from then on: `tests/ggml/pinned`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Numbers by `kind name`: passed cases of an operation, 1 for a row that must be OK, splits of a graph.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pinned(pub BTreeMap<String, u64>);

const HEAD: &str = "\
# What `make test-ggml` passed, and passes from now on: more or less of it is a failure.
# `BLESS=1 make test-ggml` writes this file anew. `op`: the cases of test-backend-ops that passed.
# `arch`: the rows of test-llama-archs that were OK. `splits`: pieces into which llama.cpp cuts a graph.
";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("pinned")
}

impl Pinned {
    /// The tree's file; one that is not there pins nothing.
    pub fn read() -> Result<Self, String> {
        let text = std::fs::read_to_string(path()).unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, count) = line
                .rsplit_once(' ')
                .and_then(|(name, count)| Some((name, count.parse().ok()?)))
                .ok_or_else(|| format!("tests/ggml/pinned: no count in \"{line}\""))?;
            if all.insert(name.to_owned(), count).is_some() {
                return Err(format!("tests/ggml/pinned: {name} twice"));
            }
        }
        Ok(Self(all))
    }

    /// Writes the tree's file.
    pub fn bless(&self) -> Result<(), String> {
        std::fs::write(path(), self.text()).map_err(|why| format!("write tests/ggml/pinned: {why}"))
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (name, count) in &self.0 {
            // A String takes whatever is written.
            let _ = writeln!(text, "{name} {count}");
        }
        text
    }

    /// Whether what was found is what was pinned; anything is while they are pinned anew.
    pub fn holds(&self, name: &str, found: u64) -> Result<(), String> {
        let pinned = self.0.get(name).copied().unwrap_or(0);
        if std::env::var_os("BLESS").is_some() {
            return Ok(());
        }
        if found == pinned {
            return Ok(());
        }
        let hint = if found > pinned {
            "; BLESS=1 pins them"
        } else {
            ""
        };
        Err(format!("{found} passed, {pinned} are pinned{hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Pinned;

    #[test]
    fn what_is_written_is_read_and_only_equal_numbers_hold() {
        let pinned = Pinned::parse("# words\narch llama Dense 1\nop ADD 143\n").unwrap();
        assert_eq!(Pinned::parse(&pinned.text()).unwrap(), pinned);
        assert_eq!(pinned.holds("op ADD", 143), Ok(()));
        assert!(pinned.holds("op ADD", 142).is_err());
        assert!(pinned.holds("op ADD", 144).unwrap_err().contains("BLESS"));
        assert!(pinned.holds("op MUL", 1).is_err());
        assert_eq!(pinned.holds("op MUL", 0), Ok(()));
    }

    #[test]
    fn lines_without_a_count_and_names_that_stand_twice_are_refused() {
        assert!(Pinned::parse("op ADD many").is_err());
        assert!(Pinned::parse("op").is_err());
        assert!(Pinned::parse("op ADD 1\nop ADD 2").is_err());
    }
}
