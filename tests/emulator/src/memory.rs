//! Memory as the card sees it: one address space of host memory and HBM. Host interface 2.

use std::sync::atomic::Ordering;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::limits::{HBM_BASE, IOVA_LAST};

use crate::hbm::Hbm;
use crate::host::{Host, Refusal, Stretch};
use crate::span::Span;
use crate::trouble::Trouble;

/// Bytes moved between two looks at deadlines and resets.
pub const STEP_BYTES: u64 = 4 << 20;

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To read.
    Read,
    /// To write.
    Write,
}

/// A piece of a range that is in one place.
#[derive(Clone, Copy, Debug)]
pub enum Piece {
    /// Memory.
    Mapped(Span),
    /// HBM that nobody stored into yet: its offset and bytes. Only for reads.
    Untouched(u64, u64),
    /// Host memory that is only reached through the host: IOVA and bytes.
    Relayed(u64, u64),
}

impl Piece {
    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Mapped(span) => span.bytes() as u64,
            Self::Untouched(_, bytes) | Self::Relayed(_, bytes) => *bytes,
        }
    }

    /// The part from `offset` on, at most `bytes` long.
    #[must_use]
    pub fn part(&self, offset: u64, bytes: u64) -> Self {
        let rest = self.bytes().saturating_sub(offset).min(bytes);
        match *self {
            Self::Mapped(span) => Self::Mapped(span.part(
                usize::try_from(offset).unwrap_or(usize::MAX),
                usize::try_from(rest).unwrap_or(usize::MAX),
            )),
            Self::Untouched(at, _) => Self::Untouched(at + offset, rest),
            Self::Relayed(at, _) => Self::Relayed(at + offset, rest),
        }
    }
}

/// The address space.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// Device memory.
    pub hbm: &'a Hbm,
    /// Host memory.
    pub host: &'a dyn Host,
}

impl Memory<'_> {
    /// Finds a range, piece by piece, and accounts for stores into HBM. Nothing is touched: a
    /// range that is not there whole fails here. Pieces are added to `into`.
    ///
    /// # Errors
    /// UNMAPPED_READ, UNMAPPED_WRITE, READ_ONLY, HBM_EXHAUSTED, BUS_MASTER_OFF or HOST_MEMORY
    /// with the first address that cannot be used.
    pub fn find(
        &self,
        address: u64,
        bytes: u64,
        intent: Intent,
        into: &mut Vec<Piece>,
    ) -> Result<(), Trouble> {
        if bytes == 0 {
            return Ok(());
        }
        if address >= HBM_BASE {
            into.push(self.find_hbm(address, bytes, intent)?);
            return Ok(());
        }
        let (mut at, mut rest) = (address, bytes);
        while rest > 0 {
            if at > IOVA_LAST {
                return Err(self.unmapped(at, intent));
            }
            let piece = match self.host.stretch(at, rest, intent == Intent::Write) {
                Ok(Stretch::Mapped(span)) => Piece::Mapped(span),
                Ok(Stretch::Relayed(count)) => Piece::Relayed(at, count.min(rest)),
                Err(refusal) => return Err(self.refused(refusal, at, intent)),
            };
            let count = piece.bytes().min(rest);
            if count == 0 {
                return Err(self.unmapped(at, intent));
            }
            into.push(piece.part(0, count));
            at += count;
            rest -= count;
        }
        Ok(())
    }

    fn find_hbm(&self, address: u64, bytes: u64, intent: Intent) -> Result<Piece, Trouble> {
        let offset = address - HBM_BASE;
        let inside = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.hbm.bytes());
        if !inside {
            let first = address.max(HBM_BASE.saturating_add(self.hbm.bytes()));
            return Err(self.unmapped(first, intent));
        }
        match intent {
            Intent::Write => self.reserve(address, bytes)?,
            Intent::Read if !self.hbm.is_resident(offset, bytes) => {
                return Ok(Piece::Untouched(offset, bytes));
            }
            Intent::Read => {}
        }
        Ok(Piece::Mapped(self.hbm.span(offset, bytes)))
    }

    /// Finds a range that is used in place; `None` where it lies in several places.
    ///
    /// # Errors
    /// As [`Memory::find`].
    pub fn whole(&self, address: u64, bytes: u64, intent: Intent) -> Result<Option<Span>, Trouble> {
        if bytes > 0
            && address <= IOVA_LAST
            && let Ok(Stretch::Mapped(span)) =
                self.host.stretch(address, bytes, intent == Intent::Write)
            && span.bytes() as u64 >= bytes
        {
            return Ok(Some(span));
        }
        let mut pieces = Vec::new();
        self.find(address, bytes, intent, &mut pieces)?;
        match pieces.as_slice() {
            [] => Ok(Some(Span::EMPTY)),
            [Piece::Mapped(span)] => Ok(Some(*span)),
            [Piece::Untouched(offset, bytes)] => {
                self.reserve(address, *bytes)?;
                Ok(Some(self.hbm.span(*offset, *bytes)))
            }
            _ => Ok(None),
        }
    }

    /// Copies bytes out of the address space.
    ///
    /// # Errors
    /// As [`Memory::find`]; nothing was copied then.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Trouble> {
        let mut pieces = Vec::new();
        self.find(address, into.len() as u64, Intent::Read, &mut pieces)?;
        let (mut at, mut rest) = (address, into);
        for piece in pieces {
            let count = usize::try_from(piece.bytes()).unwrap_or(usize::MAX);
            let (head, tail) = rest.split_at_mut(count.min(rest.len()));
            self.read_piece(piece, head)?;
            at = at.saturating_add(piece.bytes());
            rest = tail;
            if matches!(piece, Piece::Relayed(..)) {
                // The gate was open meanwhile: what was found behind it is void.
                return self.read(at, rest);
            }
        }
        Ok(())
    }

    /// Copies bytes into the address space.
    ///
    /// # Errors
    /// As [`Memory::find`]; nothing was written then.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Trouble> {
        let mut pieces = Vec::new();
        self.find(address, from.len() as u64, Intent::Write, &mut pieces)?;
        let (mut at, mut rest) = (address, from);
        for piece in pieces {
            let count = usize::try_from(piece.bytes()).unwrap_or(usize::MAX);
            let (head, tail) = rest.split_at(count.min(rest.len()));
            self.write_piece(piece, head)?;
            at = at.saturating_add(piece.bytes());
            rest = tail;
            if matches!(piece, Piece::Relayed(..)) {
                return self.write(at, rest);
            }
        }
        Ok(())
    }

    /// Stores one aligned word so that whoever sees it sees everything written before.
    ///
    /// # Errors
    /// As [`Memory::find`].
    pub fn store_word(&self, address: u64, word: u64) -> Result<(), Trouble> {
        match self.whole(address, 8, Intent::Write)? {
            Some(span) => {
                span.store(0, word, Ordering::Release);
                Ok(())
            }
            None => self.write(address, &word.to_le_bytes()),
        }
    }

    /// Reads from the beginning of a piece.
    ///
    /// # Errors
    /// HOST_MEMORY where the host does not answer.
    pub fn read_piece(&self, piece: Piece, into: &mut [u8]) -> Result<(), Trouble> {
        match piece {
            Piece::Mapped(span) => {
                span.read(0, into);
                Ok(())
            }
            Piece::Untouched(offset, _) => self
                .hbm
                .read_sparse(offset, into)
                .map_err(|_| Trouble::at(FaultCode::EccUncorrected, HBM_BASE + offset)),
            Piece::Relayed(iova, _) => self
                .host
                .read(iova, into)
                .map_err(|refusal| self.refused(refusal, iova, Intent::Read)),
        }
    }

    /// Writes to the beginning of a piece.
    ///
    /// # Errors
    /// HOST_MEMORY where the host does not answer.
    pub fn write_piece(&self, piece: Piece, from: &[u8]) -> Result<(), Trouble> {
        match piece {
            Piece::Mapped(span) => {
                span.write(0, from);
                Ok(())
            }
            Piece::Untouched(offset, _) => Err(Trouble::at(
                FaultCode::HbmExhausted,
                HBM_BASE.saturating_add(offset),
            )),
            Piece::Relayed(iova, _) => self
                .host
                .write(iova, from)
                .map_err(|refusal| self.refused(refusal, iova, Intent::Write)),
        }
    }

    /// Accounts for HBM that is about to be stored into.
    ///
    /// # Errors
    /// HBM_EXHAUSTED with the address.
    pub fn reserve(&self, address: u64, bytes: u64) -> Result<(), Trouble> {
        self.hbm
            .reserve(address.saturating_sub(HBM_BASE), bytes)
            .map_err(|_| Trouble {
                mapping: Some((HBM_BASE, self.hbm.bytes())),
                ..Trouble::at(FaultCode::HbmExhausted, address)
            })
    }

    /// The trouble of an address that nobody mapped.
    #[must_use]
    pub fn unmapped(&self, address: u64, intent: Intent) -> Trouble {
        self.refused(Refusal::Unmapped, address, intent)
    }

    /// The trouble that a refusal makes.
    #[must_use]
    pub fn refused(&self, refusal: Refusal, address: u64, intent: Intent) -> Trouble {
        let code = match (refusal, intent) {
            (Refusal::Unmapped, Intent::Read) => FaultCode::UnmappedRead,
            (Refusal::Unmapped, Intent::Write) => FaultCode::UnmappedWrite,
            (Refusal::ReadOnly, _) => FaultCode::ReadOnly,
            (Refusal::BusMasterOff, _) => FaultCode::BusMasterOff,
            (Refusal::Broken, _) => FaultCode::HostMemory,
        };
        // Far from any IOVA, HBM is what the address fell near.
        let mapping = if address > IOVA_LAST {
            Some((HBM_BASE, self.hbm.bytes()))
        } else {
            self.host.nearest(address)
        };
        Trouble {
            mapping,
            ..Trouble::at(code, address)
        }
    }
}
