//! Statuses: what a call returns, and what this thread can ask about its last failure.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use jalapeno::{Code, Error};

/// Success.
pub const OK: i32 = 0;

/// A call's failure: a code, what happened, and what to do.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    detail: String,
    hint: String,
}

impl Failure {
    /// An argument is wrong.
    #[cold]
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self {
            code: Code::Invalid,
            detail: detail.into(),
            hint: String::new(),
        }
    }

    /// A pointer that must not be null is.
    #[cold]
    #[must_use]
    pub fn null(argument: &str) -> Self {
        Self::invalid(format!("{argument} is null"))
    }

    /// There is nothing to give.
    #[cold]
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self {
            code: Code::NotFound,
            detail: detail.into(),
            hint: String::new(),
        }
    }

    /// A handle is not what the call takes.
    #[cold]
    pub(crate) fn handle(wanted: &str, found: &str) -> Self {
        Self {
            code: Code::Handle,
            detail: format!("the {wanted} handle is {found}"),
            hint: "use a handle after it was made and before it, or its parent, is closed".into(),
        }
    }

    /// Whether the handle was at fault.
    pub(crate) fn is_handle(&self) -> bool {
        self.code == Code::Handle
    }

    /// This device or system cannot.
    #[cold]
    pub(crate) fn unsupported(detail: &str) -> Self {
        Self {
            code: Code::Unsupported,
            detail: detail.into(),
            hint: String::new(),
        }
    }

    #[cold]
    pub(crate) fn too_many(kind: &str) -> Self {
        Self {
            code: Code::Memory,
            detail: format!("no {kind} handle is left (1048576 are open)"),
            hint: "close handles that are not used any more".into(),
        }
    }

    #[cold]
    pub(crate) fn still_inside(kind: &str) -> Self {
        Self {
            code: Code::Busy,
            detail: format!("other threads' calls did not leave the {kind} within 5 s"),
            hint: "let the calls that use it end first".into(),
        }
    }

    #[cold]
    pub(crate) fn panicked(what: &str) -> Self {
        Self {
            code: Code::Internal,
            detail: format!("a fault inside the library: {what}"),
            hint: "please report it with what the program did".into(),
        }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> i32 {
        -(self.code as i32)
    }
}

impl From<Error> for Failure {
    #[cold]
    fn from(error: Error) -> Self {
        Self {
            code: error.code(),
            detail: error.to_string(),
            hint: error.hint().unwrap_or_default(),
        }
    }
}

struct Last {
    detail: CString,
    hint: CString,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::new(Last { detail: CString::default(), hint: CString::default() });
}

/// Keeps a failure for this thread to ask about, and gives its status.
#[cold]
pub(crate) fn keep(failure: Failure) -> i32 {
    let status = failure.status();
    let text = |s: String| CString::new(s.replace('\0', "?")).unwrap_or_default();
    // A thread that is being torn down has no storage left: the status alone must do.
    let _ = LAST.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = Last {
                detail: text(failure.detail),
                hint: text(failure.hint),
            };
        }
    });
    status
}

fn last(pick: impl Fn(&Last) -> *const c_char) -> *const c_char {
    LAST.try_with(|last| last.try_borrow().map_or(c"".as_ptr(), |last| pick(&last)))
        .unwrap_or(c"".as_ptr())
}

/// `jal_error_detail`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_error_detail() -> *const c_char {
    last(|last| last.detail.as_ptr())
}

/// `jal_error_hint`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_error_hint() -> *const c_char {
    last(|last| last.hint.as_ptr())
}

const fn words(status: i32) -> &'static CStr {
    match status {
        0 => c"ok",
        -1 => c"an argument is wrong",
        -2 => c"no such device",
        -3 => c"permission denied",
        -4 => c"in use",
        -5 => c"the queue is full, try again",
        -6 => c"timed out",
        -7 => c"the device is lost",
        -8 => c"stale after a device reset",
        -9 => c"the job failed",
        -10 => c"the job was cancelled",
        -11 => c"the queue is stopped",
        -12 => c"not enough memory",
        -13 => c"versions do not fit",
        -14 => c"not supported",
        -15 => c"the device broke its specification",
        -16 => c"opened before fork()",
        -17 => c"the operating system refused",
        -18 => c"the device needs a reset",
        -19 => c"bad handle",
        -20 => c"a fault inside the library",
        _ => c"unknown status",
    }
}

/// `jal_status_string`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_status_string(status: i32) -> *const c_char {
    words(status).as_ptr()
}

/// This library's version: major << 24 | minor << 16 | patch.
pub const VERSION: u32 = 1 << 16;

/// `jal_version`.
#[unsafe(no_mangle)]
pub extern "C" fn jal_version() -> u32 {
    VERSION
}

/// `jal_check_version`: before 1.0 the minor version must be the same; patches fit each other.
#[unsafe(no_mangle)]
pub extern "C" fn jal_check_version(header: u32) -> i32 {
    crate::guard::call(|| {
        if header >> 16 == VERSION >> 16 {
            return Ok(());
        }
        let text = |v: u32| format!("{}.{}.{}", v >> 24, v >> 16 & 0xFF, v & 0xFFFF);
        Err(Error::Version {
            what: "jalapeno.h against libjalapeno",
            found: text(header),
            needed: text(VERSION),
        }
        .into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_words_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for code in 0..=20 {
            assert!(seen.insert(words(-code)), "{code}");
        }
        assert_eq!(words(-21), c"unknown status");
        assert_eq!(words(1), c"unknown status");
    }

    #[test]
    fn the_version_is_the_package_s() {
        let text = format!(
            "{}.{}.{}",
            VERSION >> 24,
            VERSION >> 16 & 0xFF,
            VERSION & 0xFFFF
        );
        assert_eq!(text, env!("CARGO_PKG_VERSION"));
    }
}
