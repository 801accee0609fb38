//! The timeline fence: a 64-bit value in host memory that only rises. Host interface 6.6.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::buffer::HostBuffer;
use crate::error::{Error, Result};
use crate::ring::first_word;
use crate::units::DeviceAddr;

/// Looks before a waiter sleeps between looks.
const LOOKS: u32 = 2000;
/// Shortest and longest sleep between looks: no interrupt tells of a fence.
const NAP: Duration = Duration::from_micros(20);
const NAP_MOST: Duration = Duration::from_millis(1);

/// A timeline fence; SIGNAL and WAIT packets name its address. Thread-safe.
#[derive(Debug)]
pub struct Fence {
    buffer: HostBuffer,
    ended: AtomicBool,
}

impl Fence {
    pub(crate) fn new(buffer: HostBuffer, initial: u64) -> Result<Self> {
        let fence = Self {
            buffer,
            ended: AtomicBool::new(false),
        };
        fence.word()?.store(initial, Ordering::Release);
        Ok(fence)
    }

    fn word(&self) -> Result<&AtomicU64> {
        self.buffer.check()?;
        first_word(self.buffer.memory()).ok_or(Error::Closed { what: "the fence" })
    }

    /// As packets name it.
    #[must_use]
    pub fn address(&self) -> DeviceAddr {
        self.buffer.address()
    }

    /// Its value now.
    ///
    /// # Errors
    /// `Forked`, `Lost`.
    pub fn value(&self) -> Result<u64> {
        Ok(self.word()?.load(Ordering::Acquire))
    }

    /// Raises it from the host; a lower value does nothing.
    ///
    /// # Errors
    /// `Closed` after `end`, `Forked`, `Lost`.
    pub fn signal(&self, value: u64) -> Result<()> {
        self.check_open()?;
        self.word()?.fetch_max(value, Ordering::AcqRel);
        Ok(())
    }

    /// Waits until it is at least `value`; a zero timeout looks once, `None` waits without end.
    ///
    /// # Errors
    /// `Late`; `Closed` when `end` comes before the value; `Lost`, `Forked`.
    pub fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<()> {
        let begin = Instant::now();
        let mut looks = 0;
        let mut nap = NAP;
        loop {
            if self.value()? >= value {
                return Ok(());
            }
            self.check_open()?;
            let mut left = Duration::MAX;
            if let Some(timeout) = timeout {
                left = timeout.saturating_sub(begin.elapsed());
                if left.is_zero() {
                    return Err(Error::Late {
                        what: "the fence",
                        after: timeout,
                    });
                }
            }
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(nap.min(left));
                nap = (nap * 2).min(NAP_MOST);
                looks = LOOKS;
            }
        }
    }

    /// Ends it for every thread of this process: waits return `Closed` within a millisecond, and
    /// it takes no more signals from the host. The device may still use it: its memory goes when
    /// the fence is dropped and no packet names it. May be called from any thread, and again.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn check_open(&self) -> Result<()> {
        if self.ended.load(Ordering::Acquire) {
            return Err(Error::Closed { what: "the fence" });
        }
        Ok(())
    }

    /// Frees it.
    ///
    /// # Errors
    /// `InUse` while an unfinished packet names it; the fence comes back as it was.
    pub fn try_free(self) -> std::result::Result<(), (Self, Error)> {
        let Self { buffer, ended } = self;
        buffer
            .try_free()
            .map_err(|(buffer, error)| (Self { buffer, ended }, error))
    }
}
