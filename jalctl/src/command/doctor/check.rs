//! A check: one thing that doctor looked at, what it found, and the command that mends it.

use schemars::JsonSchema;
use serde::Serialize;

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing is wrong.
    Note,
    /// It works, and could be better.
    Warning,
    /// It does not work.
    Failure,
}

/// See the file's head.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Check {
    /// What was looked at; stable.
    pub check: &'static str,
    pub verdict: Verdict,
    /// What was found; stable. "ok" where nothing is amiss.
    pub code: &'static str,
    /// In words.
    pub message: String,
    /// The one command that mends it; null where nothing is to be mended.
    pub fix: Option<String>,
    /// Whether `jalctl setup --apply` mends it too.
    pub setup: bool,
    /// What there is, in `unit`; null where it is no number.
    pub have: Option<u64>,
    /// What there should be, in `unit`.
    pub need: Option<u64>,
    /// bytes or pages.
    pub unit: Option<&'static str>,
}

impl Check {
    pub fn new(
        check: &'static str,
        verdict: Verdict,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            check,
            verdict,
            code,
            message: message.into(),
            fix: None,
            setup: false,
            have: None,
            need: None,
            unit: None,
        }
    }

    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, "ok", message)
    }

    pub fn note(check: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, code, message)
    }

    pub fn warning(check: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, code, message)
    }

    pub fn failure(check: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Failure, code, message)
    }

    /// The command that mends it.
    pub fn mended_by(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// `jalctl setup` mends it too.
    pub fn by_setup(mut self) -> Self {
        self.setup = true;
        self
    }

    pub fn figures(mut self, have: u64, need: Option<u64>, unit: &'static str) -> Self {
        (self.have, self.need, self.unit) = (Some(have), need, Some(unit));
        self
    }
}
