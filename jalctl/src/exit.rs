//! Exit codes, the same for ever, and the problems that end a command.

use std::process::ExitCode;

use jalapeno::{Code, Error};
use schemars::JsonSchema;
use serde::Serialize;

/// How a command ended. The numbers stand in the manual and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// Something else went wrong.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No such device.
    NoDevice = 3,
    /// The process may not.
    Permission = 4,
    /// Somebody else uses the device.
    Busy = 5,
    /// Health: look at it.
    HealthWarning = 6,
    /// Health: it is broken.
    HealthFailure = 7,
    /// The device needs a reset.
    NeedsReset = 8,
    /// The device is gone.
    Lost = 9,
    /// The time ran out.
    Timeout = 10,
    /// Versions do not fit.
    Version = 11,
    /// This device or system cannot.
    Unsupported = 12,
    /// What was done is not what is there.
    Verification = 13,
    /// Some devices failed, others did not.
    Partial = 14,
}

/// Every exit code with its words, for the manual.
pub const ALL: [(Exit, &str); 15] = [
    (Exit::Ok, "ok"),
    (Exit::Failure, "failure"),
    (Exit::Usage, "the command line is wrong"),
    (Exit::NoDevice, "no such device"),
    (Exit::Permission, "permission denied"),
    (Exit::Busy, "in use; the holder is named"),
    (Exit::HealthWarning, "health warning"),
    (Exit::HealthFailure, "health failure"),
    (Exit::NeedsReset, "the device needs a reset"),
    (Exit::Lost, "the device is lost"),
    (Exit::Timeout, "timed out"),
    (Exit::Version, "versions do not fit"),
    (Exit::Unsupported, "not supported by this device or system"),
    (Exit::Verification, "verification failed"),
    (Exit::Partial, "some devices failed; the JSON says which"),
];

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.code() {
            Code::NotFound => Self::NoDevice,
            Code::Permission => Self::Permission,
            Code::Busy => Self::Busy,
            Code::Timeout => Self::Timeout,
            Code::Lost => Self::Lost,
            Code::NeedsReset => Self::NeedsReset,
            Code::Version => Self::Version,
            Code::Unsupported => Self::Unsupported,
            _ => Self::Failure,
        }
    }
}

/// What went wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// The library's name of the error, stable: "busy", "lost", ...
    pub code: String,
    /// What was tried, on what, why it failed.
    pub message: String,
    /// The command that helps, where there is one.
    pub hint: Option<String>,
    #[serde(skip)]
    #[schemars(skip)]
    pub exit: Exit,
}

impl Problem {
    /// A mistake of the caller's.
    pub fn usage(message: impl Into<String>, hint: &str) -> Self {
        Self {
            code: "invalid".into(),
            message: message.into(),
            hint: Some(hint.into()),
            exit: Exit::Usage,
        }
    }

    /// Something else.
    pub fn failure(message: impl Into<String>, hint: &str) -> Self {
        Self {
            code: "io".into(),
            message: message.into(),
            hint: Some(hint.into()),
            exit: Exit::Failure,
        }
    }

    /// Says so on standard error.
    pub fn print(&self) {
        use std::io::Write;
        let mut err = anstream::stderr().lock();
        // Where standard error is closed, the exit code has to do.
        let _ = writeln!(err, "\x1b[1;31merror:\x1b[0m {}", clean(&self.message));
        if let Some(hint) = &self.hint {
            let _ = writeln!(err, "\x1b[1;36mhint:\x1b[0m {}", clean(hint));
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            code: error.code().name().into(),
            message: error.to_string(),
            hint: error.hint().map(Into::into),
            exit: Exit::from(&error),
        }
    }
}

/// Without control characters: names and messages may come from a device or a socket.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}
