//! `jal_set_log`: the library's log lines, to a callback of the application's.

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::{PoisonError, RwLock};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::guard::call;
use crate::status::Failure;

type Callback = extern "C" fn(c_int, *const c_char, *mut c_void);

struct Sink(RwLock<Option<(Callback, usize)>>);

static SINK: Sink = Sink(RwLock::new(None));

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Copied out, so that the callback runs with no lock held.
        let target = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some((callback, user)) = target else {
            return;
        };
        let level = match record.level() {
            Level::Error => 1,
            Level::Warn => 2,
            Level::Info => 3,
            Level::Debug | Level::Trace => 4,
        };
        let line = CString::new(record.args().to_string().replace('\0', "?")).unwrap_or_default();
        callback(level, line.as_ptr(), user as *mut c_void);
    }

    fn flush(&self) {}
}

/// `jal_set_log`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_set_log(
    level: c_int,
    callback: Option<Callback>,
    user: *mut c_void,
) -> c_int {
    call(|| {
        let filter = match level {
            1 => LevelFilter::Error,
            2 => LevelFilter::Warn,
            3 => LevelFilter::Info,
            4 => LevelFilter::Debug,
            other => {
                return Err(Failure::invalid(format!(
                    "level is {other}: use a JAL_LOG_*"
                )));
            }
        };
        *SINK.0.write().unwrap_or_else(PoisonError::into_inner) =
            callback.map(|call| (call, user as usize));
        // Fails the second time only, when it is this sink already.
        let _ = log::set_logger(&SINK);
        log::set_max_level(if callback.is_some() {
            filter
        } else {
            LevelFilter::Off
        });
        Ok(())
    })
}
