//! Roles: one owner, any number of observers, and what each leaves behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::server::Function;
use crate::slot::Slot;

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one owner.
    Owner,
    /// The one owner, and nobody watches.
    Exclusive,
    /// A reader.
    Observer,
}

impl Role {
    /// Whether it owns the card.
    #[must_use]
    pub const fn owns(self) -> bool {
        matches!(self, Self::Owner | Self::Exclusive)
    }
}

#[derive(Debug, Default)]
struct Taken {
    owner: Option<(u32, Role)>,
    observers: usize,
}

/// Who has which role at a card.
#[derive(Debug)]
pub struct Roles {
    function: Arc<dyn Function>,
    slot: Arc<Slot>,
    taken: Mutex<Taken>,
}

/// A role that somebody has; dropping it gives the role back.
#[derive(Debug)]
pub struct Seat {
    roles: Arc<Roles>,
    role: Role,
}

impl Roles {
    /// Nobody has a role at this card.
    #[must_use]
    pub fn new(function: Arc<dyn Function>, slot: Arc<Slot>) -> Arc<Self> {
        Arc::new(Self {
            function,
            slot,
            taken: Mutex::default(),
        })
    }

    /// Takes a role; `None`: the card has an owner, or one that wants nobody to watch.
    #[must_use]
    pub fn take(self: &Arc<Self>, pid: u32, role: Role) -> Option<Seat> {
        let mut taken = self.taken();
        let exclusive = matches!(taken.owner, Some((_, Role::Exclusive)));
        match role {
            Role::Observer if exclusive => return None,
            Role::Observer => taken.observers += 1,
            Role::Exclusive if taken.owner.is_some() || taken.observers > 0 => return None,
            Role::Owner if taken.owner.is_some() => return None,
            Role::Owner | Role::Exclusive => taken.owner = Some((pid, role)),
        }
        Some(Seat {
            roles: self.clone(),
            role,
        })
    }

    /// The owner's process.
    #[must_use]
    pub fn owner_pid(&self) -> Option<u32> {
        self.taken().owner.map(|(pid, _)| pid)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Which role it is.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let roles = &self.roles;
        if self.role.owns() {
            // First the engine is stopped, then its memory goes, then somebody else may own it.
            roles.function.reset();
            roles.slot.vacate();
        }
        let mut taken = roles.taken();
        match self.role {
            Role::Observer => taken.observers = taken.observers.saturating_sub(1),
            Role::Owner | Role::Exclusive => taken.owner = None,
        }
    }
}
