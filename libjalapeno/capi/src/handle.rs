//! Handles: kind, generation and index in 64 bits, looked up at every call.
//!
//! A slot's state is one atomic word {open, calls inside}. A call enters by adding one to it and
//! leaves by taking one away, so a lookup costs two atomic additions on the object's own cache line
//! and no lock. Closing clears `open`, waits until the calls inside have left, and takes the object
//! out; a slot's next object has the next generation, and so another handle.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::status::Failure;

const INDEX_BITS: u32 = 20;
const GENERATION_BITS: u32 = 36;

const OPEN: u64 = 1 << 63;
const INSIDE: u64 = OPEN - 1;

/// How long a close waits for other threads' calls to leave; they are bounded themselves.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// The kind of a handle; the high byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `jal_device`.
    Device = 0xD1,
    /// `jal_session`.
    Session = 0xD2,
    /// `jal_buffer`.
    Buffer = 0xD3,
    /// `jal_queue`.
    Queue = 0xD4,
    /// `jal_fence`.
    Fence = 0xD5,
    /// `jal_graph`.
    Graph = 0xD6,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Device => "jal_device",
            Self::Session => "jal_session",
            Self::Buffer => "jal_buffer",
            Self::Queue => "jal_queue",
            Self::Fence => "jal_fence",
            Self::Graph => "jal_graph",
        }
    }

    fn of(handle: u64) -> Option<Self> {
        [
            Self::Device,
            Self::Session,
            Self::Buffer,
            Self::Queue,
            Self::Fence,
            Self::Graph,
        ]
        .into_iter()
        .find(|&kind| u64::from(kind as u8) == handle >> 56)
    }
}

// What a lookup touches shares no cache line with another object, and an index is a shift.
#[repr(C, align(128))]
struct Slot<T> {
    state: AtomicU64,
    /// The handle of the object that is here, or of the next one.
    handle: AtomicU64,
    parent: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

/// All objects of one kind: at most `CHUNK` x `CHUNKS`, powers of two. One chunk is found without
/// looking where it is.
pub struct Registry<T, const CHUNK: usize = 1024, const CHUNKS: usize = 1024> {
    kind: Kind,
    chunks: [AtomicPtr<Slot<T>>; CHUNKS],
    free: Mutex<Free>,
}

struct Free {
    list: Vec<u32>,
    next: u32,
}

impl<T, const CHUNK: usize, const CHUNKS: usize> std::fmt::Debug for Registry<T, CHUNK, CHUNKS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

// SAFETY: a slot's value is written before `OPEN` is set with release, read only between enter and
// leave, and taken only by the closer that found nobody inside; T itself may cross threads.
unsafe impl<T: Send + Sync, const CHUNK: usize, const CHUNKS: usize> Sync
    for Registry<T, CHUNK, CHUNKS>
{
}

/// A call inside an object; leaves when dropped.
#[derive(Debug)]
pub struct Inside<'a, T> {
    slot: &'a Slot<T>,
}

impl<T> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<T> Deref for Inside<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the slot was open when this call was counted in, so the value is there, and it is
        // not taken before the count is back.
        unsafe { (*self.slot.value.get()).assume_init_ref() }
    }
}

impl<T> Drop for Inside<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.slot.state.fetch_sub(1, Ordering::Release);
    }
}

impl<T, const CHUNK: usize, const CHUNKS: usize> Registry<T, CHUNK, CHUNKS> {
    const INDEX: u64 = (CHUNK * CHUNKS - 1) as u64;

    /// An empty registry.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS],
            free: Mutex::new(Free {
                list: Vec::new(),
                next: 0,
            }),
        }
    }

    /// Takes an object in, below the handle `parent` (0: none).
    pub fn insert(&self, value: T, parent: u64) -> Result<u64, Failure> {
        let index = {
            let mut free = self.free.lock().unwrap_or_else(|e| e.into_inner());
            match free.list.pop() {
                Some(index) => index,
                None if free.next as usize >= CHUNK * CHUNKS => {
                    return Err(Failure::too_many(self.kind.name(), CHUNK * CHUNKS));
                }
                None => {
                    let index = free.next;
                    if (index as usize).is_multiple_of(CHUNK) {
                        self.grow(index as usize / CHUNK);
                    }
                    free.next += 1;
                    index
                }
            }
        };
        let Some(slot) = self.slot(u64::from(index)) else {
            return Err(Failure::too_many(self.kind.name(), CHUNK * CHUNKS));
        };
        // SAFETY: the index came from the free list, so this slot is neither open nor occupied and
        // nobody else writes it.
        unsafe { (*slot.value.get()).write(value) };
        slot.parent.store(parent, Ordering::Relaxed);
        slot.state.fetch_or(OPEN, Ordering::Release);
        Ok(slot.handle.load(Ordering::Relaxed))
    }

    /// Enters the object behind a handle.
    #[inline]
    pub fn enter(&self, handle: u64) -> Result<Inside<'_, T>, Failure> {
        self.enter_quickly(handle)
            .ok_or_else(|| self.refuse(handle))
    }

    /// `enter` without a call on its way; `None`: `enter` says why.
    #[inline(always)]
    pub fn enter_quickly(&self, handle: u64) -> Option<Inside<'_, T>> {
        let slot = self.slot(handle)?;
        let state = slot.state.fetch_add(1, Ordering::Acquire);
        // Counted in from here on; out again on refusal.
        let inside = Inside { slot };
        if state & OPEN != 0 && slot.handle.load(Ordering::Relaxed) == handle {
            return Some(inside);
        }
        None
    }

    /// Takes the object out: no call enters any more, `interrupt` ends the waits inside, and when
    /// all have left, `close` has the object; if it gives it back, the handle is as it was.
    pub fn remove<E>(
        &self,
        handle: u64,
        interrupt: impl Fn(&T),
        close: impl FnOnce(T) -> Result<(), (T, E)>,
    ) -> Result<Result<(), E>, Failure> {
        let inside = self.enter(handle)?;
        let slot = inside.slot;
        if slot.state.fetch_and(!OPEN, Ordering::AcqRel) & OPEN == 0 {
            return Err(self.refuse(handle)); // somebody else closes it already
        }
        let until = Instant::now() + LEAVE_TIME;
        while slot.state.load(Ordering::Acquire) & INSIDE > 1 {
            interrupt(&inside);
            if Instant::now() > until {
                slot.state.fetch_or(OPEN, Ordering::Release);
                return Err(Failure::still_inside(self.kind.name()));
            }
            std::thread::yield_now();
        }
        drop(inside);
        // SAFETY: `OPEN` is clear and was cleared by this call, so no other call can be given the
        // value (late ones that count in and out again look at the state only), and none is inside.
        let value = unsafe { (*slot.value.get()).assume_init_read() };
        match close(value) {
            Ok(()) => {
                let index = handle & Self::INDEX;
                // The next object here has the next generation; 36 bits of them do not come round.
                let next = (handle >> INDEX_BITS).wrapping_add(1) & ((1 << GENERATION_BITS) - 1);
                slot.handle
                    .store(self.handle(index, next), Ordering::Relaxed);
                let mut free = self.free.lock().unwrap_or_else(|e| e.into_inner());
                if let Ok(index) = u32::try_from(index) {
                    free.list.push(index);
                }
                Ok(Ok(()))
            }
            Err((value, error)) => {
                // SAFETY: as above: this call is the only one that may touch the value.
                unsafe { (*slot.value.get()).write(value) };
                slot.state.fetch_or(OPEN, Ordering::Release);
                Ok(Err(error))
            }
        }
    }

    /// The handles of all open objects below `parent`.
    pub fn children(&self, parent: u64) -> Vec<u64> {
        self.open(|slot| slot.parent.load(Ordering::Relaxed) == parent)
    }

    /// The handles of all open objects.
    pub fn all(&self) -> Vec<u64> {
        self.open(|_| true)
    }

    fn open(&self, wanted: impl Fn(&Slot<T>) -> bool) -> Vec<u64> {
        let count = self.free.lock().unwrap_or_else(|e| e.into_inner()).next;
        (0..count)
            .filter_map(|index| {
                let slot = self.slot(u64::from(index))?;
                let state = slot.state.load(Ordering::Acquire);
                (state & OPEN != 0 && wanted(slot)).then(|| slot.handle.load(Ordering::Relaxed))
            })
            .collect()
    }

    fn handle(&self, index: u64, generation: u64) -> u64 {
        u64::from(self.kind as u8) << 56 | generation << INDEX_BITS | index
    }

    /// The slot that a handle's, or a bare, index names. The handle itself is compared later.
    #[inline(always)]
    fn slot(&self, handle: u64) -> Option<&Slot<T>> {
        #[expect(clippy::cast_possible_truncation, reason = "masked")]
        let index = (handle & Self::INDEX) as usize;
        let chunk = self.chunks[index / CHUNK].load(Ordering::Acquire);
        let chunk = NonNull::new(chunk)?;
        // SAFETY: a chunk was leaked by `grow` with all its slots made, and is never freed.
        Some(unsafe { chunk.add(index % CHUNK).as_ref() })
    }

    fn grow(&self, chunk: usize) {
        let slots: Box<[Slot<T>]> = (0..CHUNK)
            .map(|at| Slot {
                state: AtomicU64::new(0),
                handle: AtomicU64::new(self.handle((chunk * CHUNK + at) as u64, 1)),
                parent: AtomicU64::new(0),
                value: UnsafeCell::new(MaybeUninit::uninit()),
            })
            .collect();
        let first = Box::leak(slots).as_mut_ptr();
        self.chunks[chunk].store(first, Ordering::Release);
    }

    #[cold]
    fn refuse(&self, handle: u64) -> Failure {
        let found = match Kind::of(handle) {
            None if handle == 0 => "zero",
            None => "no handle of this library",
            Some(kind) if kind != self.kind => kind.name(),
            Some(_) => "closed, or never given out",
        };
        Failure::handle(self.kind.name(), found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    fn closed<T>(registry: &Registry<T>, handle: u64) -> bool {
        matches!(
            registry.remove(handle, |_| (), |_| Ok::<(), (T, ())>(())),
            Ok(Ok(()))
        )
    }

    #[test]
    fn a_closed_handle_stays_stale_when_its_index_is_used_again() {
        let registry = Registry::<_>::new(Kind::Queue);
        let first = registry.insert(1, 0).unwrap();
        assert_eq!(*registry.enter(first).unwrap(), 1);
        assert!(closed(&registry, first));
        assert!(!closed(&registry, first), "closed twice");
        let second = registry.insert(2, 0).unwrap();
        assert_eq!(first & 0xFFFFF, second & 0xFFFFF, "the index is used again");
        assert!(registry.enter(first).is_err());
        assert_eq!(*registry.enter(second).unwrap(), 2);
    }

    #[test]
    fn random_values_and_other_kinds_are_refused() {
        let registry = Registry::<_>::new(Kind::Queue);
        let good = registry.insert((), 0).unwrap();
        for bad in [
            0,
            1,
            u64::MAX,
            good ^ 1 << 56,
            good ^ 1 << 20,
            good ^ 1,
            good ^ 1 << 55,
        ] {
            assert!(registry.enter(bad).is_err(), "{bad:#x}");
        }
        assert!(registry.enter(good).is_ok());
    }

    #[test]
    fn a_close_that_fails_leaves_the_handle_as_it_was() {
        let registry = Registry::<_>::new(Kind::Buffer);
        let handle = registry.insert(7, 0).unwrap();
        assert_eq!(
            registry
                .remove(handle, |_| (), |v| Err((v, "busy")))
                .unwrap(),
            Err("busy")
        );
        assert_eq!(*registry.enter(handle).unwrap(), 7);
    }

    #[test]
    fn many_threads_enter_and_close_and_each_object_is_dropped_once() {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let dropped = Arc::new(AtomicUsize::new(0));
        let registry = Registry::<_>::new(Kind::Fence);
        for round in 0..200 {
            let handle = registry.insert(Counted(dropped.clone()), 9).unwrap();
            assert_eq!(registry.children(9), vec![handle]);
            std::thread::scope(|scope| {
                let closers: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            for _ in 0..50 {
                                let _ = registry.enter(handle);
                            }
                            closed(&registry, handle)
                        })
                    })
                    .collect();
                let closed = closers
                    .into_iter()
                    .filter(|_| true)
                    .map(|c| c.join().unwrap());
                assert_eq!(closed.filter(|&c| c).count(), 1, "closed once");
            });
            assert_eq!(dropped.load(Ordering::Relaxed), round + 1);
        }
    }

    #[test]
    fn a_close_ends_the_wait_of_a_call_inside() {
        let registry = Registry::<_>::new(Kind::Queue);
        let handle = registry.insert(AtomicUsize::new(0), 0).unwrap();
        std::thread::scope(|scope| {
            let entered = Arc::new(AtomicUsize::new(0));
            let told = entered.clone();
            let (registry, entered) = (&registry, entered);
            scope.spawn(move || {
                let inside = registry.enter(handle).unwrap();
                told.store(1, Ordering::Release);
                while inside.load(Ordering::Acquire) == 0 {
                    std::thread::yield_now();
                }
            });
            while entered.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            let wake = |v: &AtomicUsize| v.store(1, Ordering::Release);
            registry
                .remove(handle, wake, |_| Ok::<(), (AtomicUsize, ())>(()))
                .unwrap()
                .unwrap();
        });
    }
}
