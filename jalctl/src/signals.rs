//! Signals that ask a command to end: noted, so that it ends in order.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};

use crate::exit::Problem;

/// The signal that asked us to end; 0: none yet.
static ASKED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    ASKED.store(signal, Ordering::Relaxed);
}

/// From now on they are noted, and waits end.
pub fn listen() -> Result<(), Problem> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::empty(), // waits are to be interrupted
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores one atomic, which is async-signal-safe.
        unsafe { signal::sigaction(signal, &action) }
            .map_err(|error| Problem::failure(format!("catch {signal}: {error}"), "report this"))?;
    }
    Ok(())
}

/// The one that came last; 0: none.
pub fn asked() -> i32 {
    ASKED.load(Ordering::Relaxed)
}
