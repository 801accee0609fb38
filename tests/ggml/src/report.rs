//! The report: one line a case, and the count that `make test` reads.

/// Cases added up, and told as they end.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    /// A case that held, with its figures, or did not, with the reason.
    pub fn case(&mut self, name: &str, outcome: Result<String, String>) {
        match outcome {
            Ok(words) => {
                self.passed += 1;
                println!("ok {name}: {words}");
            }
            Err(why) => {
                self.failed += 1;
                println!("FAIL ggml: {name}: {why}");
            }
        }
    }

    /// A case that could not run.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        println!("skip ggml: {name}: {why}");
    }

    /// The last line. Whether all is well: nothing failed, and something ran or was skipped.
    pub fn close(mut self) -> bool {
        if self.passed + self.failed + self.skipped == 0 {
            self.case("cases", Err("not a single one ran".to_owned()));
        }
        println!(
            "ggml: {} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        self.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn a_report_without_a_case_is_a_failure() {
        assert!(!Report::default().close());
        let mut report = Report::default();
        report.case("a", Ok("1".to_owned()));
        assert!(report.close());
        let mut report = Report::default();
        report.case("a", Ok("1".to_owned()));
        report.case("b", Err("no".to_owned()));
        assert!(!report.close());
        let mut report = Report::default();
        report.skip("a", "no root");
        assert!(report.close());
    }
}
