//! Events: what the library said to the log, kept for those who look.

use std::sync::{Mutex, Once, PoisonError};

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
static LISTENS: Once = Once::new();

struct Listener;

impl log::Log for Listener {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("jalapeno") && metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) && !record.target().starts_with("jalapeno_emulator") {
            let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
            said.push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Listens to the library's warnings and errors from now on.
pub fn listen() {
    LISTENS.call_once(|| {
        log::set_logger(&Listener).expect("nobody else listens");
        log::set_max_level(log::LevelFilter::Warn);
    });
}

/// What was said since the last call.
#[must_use]
pub fn take() -> Vec<String> {
    std::mem::take(&mut SAID.lock().unwrap_or_else(PoisonError::into_inner))
}
