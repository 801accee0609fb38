//! Errors: what was tried, on what, why it failed, and what to do.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use jalapeno_hw::faults::{Action, FaultCode, FaultRecord, Scope};
use jalapeno_hw::packets::Opcode;

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Stable numbers of errors; the C ABI returns them negated. A number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum Code {
    /// An argument is wrong; nothing was done.
    Invalid = 1,
    /// No such device, file or socket.
    NotFound = 2,
    /// The process may not.
    Permission = 3,
    /// Somebody else holds it.
    Busy = 4,
    /// A queue is full: reap, then try again.
    Again = 5,
    /// The time given ran out.
    Timeout = 6,
    /// The device is gone, or stopped answering.
    Lost = 7,
    /// The device was reset: open it again.
    Stale = 8,
    /// A job failed; the fault says why.
    Fault = 9,
    /// The job was cancelled because one before it failed, or by a reset.
    Cancelled = 10,
    /// The queue stopped at a failed job: acknowledge it first.
    Stopped = 11,
    /// Memory, or a limit on it, does not suffice.
    Memory = 12,
    /// Library and device, or header and library, do not fit.
    Version = 13,
    /// This device or system cannot.
    Unsupported = 14,
    /// The device or its emulator broke the specification.
    Protocol = 15,
    /// The handle belongs to the process this one was forked from.
    Forked = 16,
    /// The operating system refused.
    Io = 17,
    /// The device needs a reset.
    NeedsReset = 18,
    /// The handle is unknown, closed, or of another kind.
    Handle = 19,
    /// A fault inside the library; the call did nothing it could undo.
    Internal = 20,
    /// The host wants the device back: give it back.
    Wanted = 21,
}

impl Code {
    /// The name scripts may rely on.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Permission => "permission",
            Self::Busy => "busy",
            Self::Again => "again",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Stale => "stale",
            Self::Fault => "fault",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
            Self::Memory => "memory",
            Self::Version => "version",
            Self::Unsupported => "unsupported",
            Self::Protocol => "protocol",
            Self::Forked => "forked",
            Self::Io => "io",
            Self::NeedsReset => "needs-reset",
            Self::Handle => "handle",
            Self::Internal => "internal",
            Self::Wanted => "wanted",
        }
    }
}

/// A fault record that was validated: what failed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The catalogue's code, or the raw number where it is unknown.
    pub code: std::result::Result<FaultCode, u32>,
    /// The record as the device wrote it (copied once).
    pub record: FaultRecord,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Ok(code) => write!(f, "{}: {}", code.name(), code.row().meaning.trim())?,
            Err(raw) => write!(f, "unknown fault {raw:#06x}")?,
        }
        if self.record.address != 0 {
            write!(f, " (address {:#x})", self.record.address)?;
        }
        let inside = self.record.detail[3];
        if inside != 0 && self.record.opcode != Opcode::Indirect.code() {
            write!(f, " (packet {} of its graph, from 0)", inside - 1)?;
        }
        Ok(())
    }
}

/// What went wrong. The variants that the path of a command can give allocate nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{tried} {on}: {source}")]
    Io {
        /// The verb, such as "map".
        tried: &'static str,
        /// The file, socket or range.
        on: String,
        /// Why.
        source: io::Error,
    },
    /// No such device.
    #[error("no device {name}: {why}")]
    NotFound {
        /// The name as given.
        name: String,
        /// What was looked at.
        why: String,
    },
    /// The process may not.
    #[error("{tried} {on}: permission denied")]
    Permission {
        /// The verb.
        tried: &'static str,
        /// The file.
        on: String,
        /// What to do.
        hint: String,
    },
    /// A card has not the driver that it should have, or could not be given to it or back.
    #[error("{what}")]
    Binding {
        /// The kind of error.
        code: Code,
        /// What was tried, why it failed, and how the card was left.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Somebody else holds the device.
    #[error("{on} is in use{}", holder.map_or(String::new(), |pid| format!(" by process {pid}")))]
    Busy {
        /// The device.
        on: String,
        /// Who holds it, where that can be known.
        holder: Option<u32>,
    },
    /// A buffer, queue or fence still serves a job.
    #[error("{what} is in use by a job that is not done")]
    InUse {
        /// What.
        what: &'static str,
    },
    /// A buffer is mapped for another card.
    #[error("{what} is mapped for another card")]
    Peered {
        /// What.
        what: &'static str,
    },
    /// An argument is wrong; nothing was done.
    #[error("{what}")]
    Invalid {
        /// Which argument, its value, and what it should be.
        what: String,
    },
    /// Library and device do not fit.
    #[error("{what}: found {found}, need {needed}")]
    Version {
        /// Whose version.
        what: &'static str,
        /// What was found.
        found: String,
        /// What is needed.
        needed: String,
    },
    /// This device or system cannot.
    #[error("not supported: {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The queue is full.
    #[error("the queue is full: wait for a job, then submit again")]
    Full,
    /// The time given ran out.
    #[error("{what} not done after {after:?}")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The device is gone.
    #[error("device lost: {why}")]
    Lost {
        /// How it was noticed.
        why: &'static str,
    },
    /// The host wants the device back while a job of it is awaited.
    #[error("the host wants the device back: it is being unbound, removed or unplugged")]
    Wanted,
    /// The device was reset since this was made.
    #[error("{what} belongs to a device generation that a reset ended")]
    Stale {
        /// What.
        what: &'static str,
    },
    /// A job failed.
    #[error("job {seq} of queue {queue} failed: {fault}", seq = .0.record.sequence, queue = .0.record.queue, fault = .0)]
    Fault(Box<Fault>),
    /// The job never ran, because one before it failed or by a reset.
    #[error("the job was cancelled")]
    Cancelled,
    /// The queue stopped at a failed job.
    #[error("the queue stopped at a failed job: acknowledge it, then submit again")]
    Stopped,
    /// Memory, or a limit on it, does not suffice.
    #[error("{what}: needs {needed} bytes, has {have}")]
    Memory {
        /// What was wanted.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        have: u64,
        /// What to do.
        hint: String,
    },
    /// The device or its emulator broke the specification; the queue is quarantined.
    #[error("the device broke the specification: {what}")]
    Protocol {
        /// The catalogue's code for it.
        code: FaultCode,
        /// What it did.
        what: String,
    },
    /// This handle belongs to the process this one was forked from.
    #[error("opened before fork(): the child process must open the device itself")]
    Forked,
    /// It was closed, maybe by another thread.
    #[error("{what} was closed")]
    Closed {
        /// What.
        what: &'static str,
    },
    /// The device needs a reset.
    #[error("the device needs a reset: {why}")]
    NeedsReset {
        /// Why.
        why: &'static str,
    },
}

/// The verb of `Error::no_vector`.
const TAKE_VECTOR: &str = "take an interrupt vector for";

impl Error {
    /// The host has not one interrupt vector for this function.
    pub(crate) fn no_vector(on: String) -> Self {
        Self::Io {
            tried: TAKE_VECTOR,
            on,
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        }
    }

    /// Whether there is nothing to be read right now: what the kernel module says of a card that
    /// resets, sleeps or failed.
    #[must_use]
    pub fn is_no_data(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(libc::ENODATA))
    }

    /// Its stable number.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::Io,
            Self::Binding { code, .. } => *code,
            Self::NotFound { .. } => Code::NotFound,
            Self::Permission { .. } => Code::Permission,
            Self::Busy { .. } | Self::InUse { .. } | Self::Peered { .. } => Code::Busy,
            Self::Invalid { .. } => Code::Invalid,
            Self::Version { .. } => Code::Version,
            Self::Unsupported { .. } => Code::Unsupported,
            Self::Full => Code::Again,
            Self::Late { .. } => Code::Timeout,
            Self::Lost { .. } => Code::Lost,
            Self::Stale { .. } => Code::Stale,
            Self::Fault(_) => Code::Fault,
            Self::Cancelled => Code::Cancelled,
            Self::Stopped => Code::Stopped,
            Self::Memory { .. } => Code::Memory,
            Self::Protocol { .. } => Code::Protocol,
            Self::Forked => Code::Forked,
            Self::Closed { .. } => Code::Handle,
            Self::NeedsReset { .. } => Code::NeedsReset,
            Self::Wanted => Code::Wanted,
        }
    }

    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Full | Self::Late { .. } | Self::Busy { .. } | Self::InUse { .. } => true,
            Self::Fault(fault) => {
                matches!(fault.code, Ok(code) if code.row().action == Action::Retry)
            }
            _ => false,
        }
    }

    /// What is concerned.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::Fault(fault) => fault.code.map_or(Scope::Queue, |code| code.row().scope),
            Self::Protocol { code, .. } => code.row().scope,
            Self::Lost { .. }
            | Self::Stale { .. }
            | Self::NeedsReset { .. }
            | Self::Wanted
            | Self::Busy { .. } => Scope::Device,
            Self::Full | Self::Stopped | Self::Cancelled => Scope::Queue,
            Self::Io { .. }
            | Self::Permission { .. }
            | Self::NotFound { .. }
            | Self::Memory { .. } => Scope::Host,
            _ => Scope::Client,
        }
    }

    /// What to do, for programs.
    #[must_use]
    pub fn action(&self) -> Action {
        match self {
            Self::Fault(fault) => fault
                .code
                .map_or(Action::ResetDevice, |code| code.row().action),
            Self::Protocol { code, .. } => code.row().action,
            Self::Full | Self::Late { .. } | Self::Busy { .. } | Self::InUse { .. } => {
                Action::Retry
            }
            Self::Stopped | Self::Cancelled => Action::RestartQueue,
            Self::Lost { .. } | Self::NeedsReset { .. } => Action::ResetDevice,
            Self::Version { .. } => Action::UpdateFirmware,
            _ => Action::None,
        }
    }

    /// What to do, for people; where possible the command that mends it.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Permission { hint, .. }
            | Self::Memory { hint, .. }
            | Self::Binding { hint, .. } => hint.clone().into(),
            Self::Io { tried, .. } if *tried == TAKE_VECTOR => {
                "the processors have no free interrupt \
                vector: /proc/interrupts shows who has them; unbind devices that nobody needs, or \
                give network and NVMe cards fewer queues"
                    .into()
            }
            Self::NotFound { .. } => "jalctl list shows the devices there are; \
                JALAPENO_DEVICES=vfio-user:PATH adds an emulated one"
                .into(),
            Self::Busy {
                holder: Some(pid), ..
            } => format!(
                "jalctl ps tells more of process {pid}; wait for it to end, or open the device as \
                 an observer"
            )
            .into(),
            Self::Busy { .. } => {
                "jalctl ps shows who; wait for its owner to end, or open the device as an observer"
                    .into()
            }
            Self::Peered { .. } => {
                "free the peer buffer that the other card has of it first".into()
            }
            Self::Lost { .. } => {
                "check that the card or its emulator is there, then open it again".into()
            }
            Self::Stale { .. } => "close it and open the device again".into(),
            Self::Wanted => {
                "give it back (Device::give_back, jal_device_give_back): the host waits \
                for it"
                    .into()
            }
            Self::Forked => "open the device after fork(), or use posix_spawn".into(),
            Self::Fault(fault) => match fault.code {
                Ok(code) => code.row().remedy.into(),
                Err(_) => "update the library: it does not know this fault code".into(),
            },
            Self::Protocol { code, .. } => code.row().remedy.into(),
            Self::Version { .. } => "use a library and firmware of the same major version".into(),
            Self::NeedsReset { .. } => "jalctl reset --level device".into(),
            // What the host keeps a card from: IOMMU, driver, group, module.
            Self::Unsupported { what } if what.starts_with("opening ") => {
                "jalctl doctor says what keeps this host from its cards, and what mends it".into()
            }
            _ => return None,
        })
    }
}
