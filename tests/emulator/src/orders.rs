//! Orders: what a running emulator is told on its input, a line each, and answers, a line each.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use jalapeno_hw::regs::ResetLevel;

use crate::card::Card;
use crate::faults;

/// Longest that a reset takes, a scrub in it.
const RESET: Duration = Duration::from_secs(60);

/// Does what a line says: `fault NAME@N`, `calm`, or `reset`, by which somebody else resets the device.
///
/// # Errors
/// Why it is not done.
pub fn obey(card: &Arc<Card>, line: &str) -> Result<(), String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("fault", order) => card.injector.arm(order.parse::<faults::Order>()?),
        ("calm", "") => card.injector.calm(),
        ("reset", "") => {
            let begun = card.begin_reset(ResetLevel::Device, 0);
            let number = begun.ok_or("reset: another is under way")?;
            if !card.wait_for(number, RESET) {
                return Err(format!("the reset did not end within {RESET:?}"));
            }
        }
        _ => {
            return Err(format!(
                "`{line}` is no order: fault NAME@N, calm or reset; --list-faults names the faults"
            ));
        }
    }
    Ok(())
}

/// Obeys each line of `from` and answers it on `to`, until its end: `done LINE`, or `refused WHY`.
pub fn take(card: &Arc<Card>, from: impl BufRead, mut to: impl Write) {
    for line in from.lines().map_while(Result::ok) {
        let answer = match obey(card, line.trim()) {
            Ok(()) => format!("done {}", line.trim()),
            Err(why) => format!("refused {}", why.replace('\n', " ")),
        };
        // Nobody may be reading: serving matters more than saying so.
        let _ = writeln!(to, "{answer}").and_then(|()| to.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::faults::Fault;
    use crate::identity::Options;

    #[test]
    fn orders_are_obeyed_and_nonsense_is_answered() {
        let options = Options {
            hbm_bytes: 1 << 20,
            ..Options::default()
        };
        let board = Board::start(options).unwrap();
        let card = board.card();
        let mut said = Vec::new();
        let orders = "fault loses-doorbell@3\nfault nonsense\nfault hangs@0\nreset\nlaunch\n";
        take(card, orders.as_bytes(), &mut said);
        assert!(!card.injector.is_calm());
        let said = String::from_utf8(said).unwrap();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[0], "done fault loses-doorbell@3");
        assert!(
            lines[1].starts_with("refused no fault is called"),
            "{lines:?}"
        );
        assert!(lines[2].starts_with("refused `0` is not a count"));
        assert_eq!(lines[3], "done reset");
        assert!(lines[4].starts_with("refused `launch` is no order"));
        assert_eq!(board.counters().generation, 2);
        take(card, "calm\n".as_bytes(), Vec::new());
        assert!(card.injector.is_calm());
        assert!(!card.injector.is_active(Fault::DoorbellLost));
    }
}
