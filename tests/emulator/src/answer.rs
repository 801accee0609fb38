//! An answer: what a command gives, or the errno that refuses it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A reply's parts, and a descriptor.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its fixed part.
    pub head: Vec<u8>,
    /// What follows.
    pub data: Vec<u8>,
    /// What goes along.
    pub file: Option<OwnedFd>,
}

/// A reply or a refusal.
pub type Answered = Result<Answer, Errno>;

impl Answer {
    /// A reply that is one structure.
    #[must_use]
    pub fn of(head: &(impl IntoBytes + Immutable)) -> Self {
        Self {
            head: head.as_bytes().to_vec(),
            ..Self::default()
        }
    }
}

/// A message's structure, and what follows it.
///
/// # Errors
/// EINVAL when it is cut short.
pub fn parse<T: FromBytes>(body: &[u8]) -> Result<(T, &[u8]), Errno> {
    T::read_from_prefix(body).map_err(|_| Errno::EINVAL)
}

/// A message that is one structure and nothing else.
///
/// # Errors
/// EINVAL when it is shorter or longer.
pub fn exactly<T: FromBytes>(body: &[u8]) -> Result<T, Errno> {
    T::read_from_bytes(body).map_err(|_| Errno::EINVAL)
}
