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
    observers: Vec<u32>,
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
    pid: u32,
    role: Role,
}

/// The processes that have a role at a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// The owner's.
    pub owner: Option<u32>,
    /// The observers', one for each connection.
    pub observers: Vec<u32>,
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
            Role::Observer => taken.observers.push(pid),
            Role::Exclusive if taken.owner.is_some() || !taken.observers.is_empty() => {
                return None;
            }
            Role::Owner if taken.owner.is_some() => return None,
            Role::Owner | Role::Exclusive => taken.owner = Some((pid, role)),
        }
        Some(Seat {
            roles: self.clone(),
            pid,
            role,
        })
    }

    /// Who has a role.
    #[must_use]
    pub fn clients(&self) -> Clients {
        let taken = self.taken();
        Clients {
            owner: taken.owner.map(|(pid, _)| pid),
            observers: taken.observers.clone(),
        }
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
            Role::Observer => {
                let ours = taken.observers.iter().position(|&pid| pid == self.pid);
                ours.map(|at| taken.observers.swap_remove(at));
            }
            Role::Owner | Role::Exclusive => taken.owner = None,
        }
    }
}
