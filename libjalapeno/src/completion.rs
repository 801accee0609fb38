//! A completion: one job's end, as the consumer is told.

use jalapeno_hw::faults::FaultCode;

use crate::error::Code;
use crate::ledger::{End, Outcome};
use crate::units::Seq;

/// How a job ended; the numbers are the C ABI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// It succeeded.
    Done = 0,
    /// It failed; `Completion::code` says why.
    Fault = -(Code::Fault as i32),
    /// It never ran: one before it failed, or a reset or close came first.
    Cancelled = -(Code::Cancelled as i32),
    /// The device went away before it was done.
    Lost = -(Code::Lost as i32),
    /// The device was reset before it was done.
    Stale = -(Code::Stale as i32),
    /// The device broke the specification before it was done.
    Protocol = -(Code::Protocol as i32),
}

/// One job's end, as `Completions::reap` delivers it. The layout is the C ABI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Completion {
    /// The packet's sequence number.
    pub seq: Seq,
    /// The packet's cookie.
    pub cookie: u64,
    /// How it ended.
    pub status: Status,
    /// The fault's code (known or not) for `Status::Fault`; else 0.
    pub code: u32,
}

impl Completion {
    /// What an array for `reap` starts with.
    pub const EMPTY: Self = Self {
        seq: Seq(0),
        cookie: 0,
        status: Status::Done,
        code: 0,
    };

    pub(crate) fn new(seq: u64, cookie: u64, outcome: &Outcome) -> Self {
        let (status, code) = match outcome {
            Outcome::Done => (Status::Done, 0),
            Outcome::Failed(fault) => (
                Status::Fault,
                fault.code.map_or_else(|raw| raw, FaultCode::code),
            ),
            Outcome::Cancelled | Outcome::Ended(End::Closed) => (Status::Cancelled, 0),
            Outcome::Ended(End::Lost(_)) => (Status::Lost, 0),
            Outcome::Ended(End::Stale) => (Status::Stale, 0),
            Outcome::Ended(End::Quarantined((code, _))) => (Status::Protocol, code.code()),
        };
        Self {
            seq: Seq(seq),
            cookie,
            status,
            code,
        }
    }
}
