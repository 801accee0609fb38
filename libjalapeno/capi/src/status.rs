//! Statuses: what a call returns, and what this thread can ask about its last failure.

use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::fmt::{self, Display, Write};
use std::num::NonZeroI32;

use jalapeno::{Code, Error};

/// Success.
pub const OK: i32 = 0;

/// A call's failure: its status. What happened and what to do were kept for this thread when it was
/// made, without an allocation, so that a full queue costs no more than it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(NonZeroI32);

impl Failure {
    /// Keeps a failure for this thread to ask about.
    #[cold]
    fn new(code: Code, detail: impl Display, hint: &str) -> Self {
        // A thread that is being torn down has no storage left: the status alone must do.
        let _ = LAST.try_with(|last| {
            if let Ok(mut last) = last.try_borrow_mut() {
                last.detail.set(detail);
                last.hint.set(hint);
            }
        });
        // Codes start at 1.
        Self(NonZeroI32::new(-(code as i32)).unwrap_or(NonZeroI32::MIN))
    }

    /// An argument is wrong.
    #[cold]
    #[must_use]
    pub fn invalid(detail: impl Display) -> Self {
        Self::new(Code::Invalid, detail, "")
    }

    /// A pointer that must not be null is.
    #[cold]
    #[must_use]
    pub fn null(argument: &str) -> Self {
        Self::invalid(format_args!("{argument} is null"))
    }

    /// There is nothing to give.
    #[cold]
    #[must_use]
    pub fn not_found(detail: &str) -> Self {
        Self::new(Code::NotFound, detail, "")
    }

    /// A handle is not what the call takes.
    #[cold]
    pub(crate) fn handle(wanted: &str, found: &str) -> Self {
        Self::new(
            Code::Handle,
            format_args!("the {wanted} handle is {found}"),
            "use a handle after it was made and before it, or its parent, is closed",
        )
    }

    /// Whether the handle was at fault.
    pub(crate) fn is_handle(self) -> bool {
        self.status() == -(Code::Handle as i32)
    }

    /// This device or system cannot.
    #[cold]
    pub(crate) fn unsupported(detail: &str) -> Self {
        Self::new(Code::Unsupported, detail, "")
    }

    #[cold]
    pub(crate) fn too_many(kind: &str, most: usize) -> Self {
        Self::new(
            Code::Memory,
            format_args!("no {kind} handle is left ({most} are open)"),
            "close handles that are not used any more",
        )
    }

    #[cold]
    pub(crate) fn still_inside(kind: &str) -> Self {
        Self::new(
            Code::Busy,
            format_args!("other threads' calls did not leave the {kind} within 5 s"),
            "let the calls that use it end first",
        )
    }

    #[cold]
    pub(crate) fn panicked(what: &str) -> Self {
        Self::new(
            Code::Internal,
            format_args!("a fault inside the library: {what}"),
            "please report it with what the program did",
        )
    }

    /// Its status.
    #[must_use]
    pub fn status(self) -> i32 {
        self.0.get()
    }
}

impl From<Error> for Failure {
    #[cold]
    fn from(error: Error) -> Self {
        let hint = error.hint().unwrap_or_default();
        Self::new(error.code(), &error, &hint)
    }
}

/// A text of bounded length, always zero-terminated.
struct Text([u8; 1024]);

impl Text {
    const EMPTY: Self = Self([0; 1024]);

    fn set(&mut self, what: impl Display) {
        let mut pen = Pen {
            text: self,
            length: 0,
        };
        // What does not fit is cut off.
        let _ = write!(pen, "{what}");
        let end = pen.length;
        self.0[end] = 0;
    }

    fn as_ptr(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }
}

struct Pen<'a> {
    text: &'a mut Text,
    length: usize,
}

impl fmt::Write for Pen<'_> {
    fn write_str(&mut self, words: &str) -> fmt::Result {
        for letter in words.chars() {
            let letter = if letter == '\0' { '?' } else { letter };
            let room = &mut self.text.0[self.length..1023];
            if room.len() < letter.len_utf8() {
                return Err(fmt::Error);
            }
            self.length += letter.encode_utf8(room).len();
        }
        Ok(())
    }
}

struct Last {
    detail: Text,
    hint: Text,
}

thread_local! {
    static LAST: RefCell<Last> = const {
        RefCell::new(Last { detail: Text::EMPTY, hint: Text::EMPTY })
    };
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
        -21 => c"the host wants the device back",
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
        for code in 0..=21 {
            assert!(seen.insert(words(-code)), "{code}");
        }
        assert_eq!(words(-22), c"unknown status");
        assert_eq!(words(1), c"unknown status");
    }

    #[test]
    fn a_long_detail_is_cut_at_a_letter_and_a_zero_in_it_is_shown() {
        let text = |what: &str| {
            let mut text = Text::EMPTY;
            text.set(what);
            CStr::from_bytes_until_nul(&text.0)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(text(&"ñ".repeat(2000)), "ñ".repeat(511));
        assert_eq!(text("a\0b"), "a?b");
        assert_eq!(text(""), "");
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
