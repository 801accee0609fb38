//! Stories of arenas over a host that keeps books of what it maps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{FIRST, PLACE_MOST};
use crate::dma::{DmaSpace, DmaUse, HostMemory, HostOptions, Pages};
use crate::error::{Code, Result};
use crate::transport::Protection;

mod books;

use books::Books;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn allocate(space: &Arc<DmaSpace>, bytes: u64) -> Result<HostMemory> {
    HostMemory::allocate(space, bytes, HostOptions::default())
}

fn many(space: &Arc<DmaSpace>, count: usize, bytes: u64) -> Vec<HostMemory> {
    let one = |number| {
        allocate(space, bytes).unwrap_or_else(|error| panic!("{number} of {count}: {error}"))
    };
    (0..count).map(one).collect()
}

fn nothing_is_left(space: &DmaSpace, books: &Books) {
    let DmaUse {
        maps,
        bytes,
        arenas,
        coalesced,
        spare,
        ..
    } = space.usage();
    assert_eq!((maps, bytes, arenas, coalesced, spare), (0, 0, 0, 0, 0));
    assert_eq!(books.count(), 0);
}

/// Buffers that lie apart, each with what was written into it, for host and device.
fn are_apart(books: &Books, live: &[HostMemory], page: u64) {
    for (number, memory) in live.iter().enumerate() {
        assert_eq!(memory.iova().0 % page, 0);
        let mark = u32::try_from(number).unwrap().to_le_bytes();
        let length = usize::try_from(memory.bytes()).unwrap();
        let bytes: Vec<u8> = mark.iter().copied().cycle().take(length).collect();
        memory.write(0, &bytes).unwrap();
    }
    for (number, memory) in live.iter().enumerate() {
        let mark = u32::try_from(number).unwrap().to_le_bytes();
        let seen = books.seen(memory);
        assert!(
            seen.iter().eq(mark.iter().cycle().take(seen.len())),
            "{number}"
        );
    }
}

#[test]
fn below_half_of_the_limit_every_buffer_has_its_mapping_and_its_guard() {
    let books = Books::limited(8);
    let space = books.space();
    let live = many(&space, 4, 64 * KIB);
    assert_eq!((books.count(), space.usage().arenas), (4, 0));
    let next = allocate(&space, 64 * KIB).unwrap();
    let usage = space.usage();
    assert_eq!((usage.maps, usage.arenas, usage.coalesced), (5, 1, 1));
    assert_eq!(usage.bytes, 4 * 64 * KIB + FIRST);
    assert_eq!(usage.spare, FIRST - 64 * KIB);
    drop(live);
    // There are mappings again, so the next one has one of its own, though the arena has room.
    let alone = allocate(&space, 64 * KIB).unwrap();
    assert_eq!((space.usage().maps, space.usage().coalesced), (2, 1));
    drop((alone, next));
    nothing_is_left(&space, &books);
}

#[test]
fn many_times_the_limit_fit_side_by_side_and_no_byte_is_shared() {
    for (needs_file, page) in [(false, 4 * KIB), (true, 4 * KIB), (false, 64 * KIB)] {
        let books = Books::with(|about| {
            (about.needs_file, about.page_bytes) = (needs_file, page);
        });
        let space = books.space();
        let sizes = [1, 4096, 5000, 60 * KIB, 64 * KIB, 100_000, PLACE_MOST];
        let mut live = Vec::new();
        for number in 0..160 {
            live.push(allocate(&space, sizes[number % 7]).unwrap());
            assert!(space.usage().maps <= 8);
        }
        assert_eq!(space.usage().maps, books.count());
        assert_eq!(space.usage().coalesced, 156);
        for memory in &live {
            let align = memory.bytes().next_power_of_two().clamp(page, 2 * MIB);
            assert_eq!(memory.iova().0 % align, 0, "aligned to its size");
            assert_ne!(memory.pages(), Pages::Callers);
        }
        are_apart(&books, &live, page);
        drop(live);
        nothing_is_left(&space, &books);
    }
}

#[test]
fn a_place_that_is_used_again_is_zeroed() {
    let books = Books::limited(8);
    let space = books.space();
    let mut live = many(&space, 300, 64 * KIB);
    are_apart(&books, &live, 4 * KIB);
    let arenas = space.usage().arenas;
    for round in 0..500 {
        let gone = live.swap_remove((round * 7) % live.len());
        drop(gone);
        let bytes = [4 * KIB, 64 * KIB, 24 * KIB][round % 3];
        let memory = allocate(&space, bytes).unwrap();
        assert!(books.seen(&memory).iter().all(|&byte| byte == 0), "{round}");
        memory
            .write(0, &vec![0xFF; usize::try_from(bytes).unwrap()])
            .unwrap();
        live.push(memory);
    }
    assert!(space.usage().arenas <= arenas, "places are used again");
    are_apart(&books, &live, 4 * KIB);
    drop(live);
    nothing_is_left(&space, &books);
}

#[test]
fn what_is_no_small_writable_buffer_keeps_a_mapping_of_its_own() {
    let books = Books::limited(8);
    let space = books.space();
    let _kept = many(&space, 4, 4096);
    let options = HostOptions::default;
    let read = HostOptions {
        protection: Protection::Read,
        ..options()
    };
    let guarded = HostOptions {
        guarded: true,
        ..options()
    };
    let others = [(4096, read), (4096, guarded), (2 * MIB + 1, options())];
    let others =
        others.map(|(bytes, options)| HostMemory::allocate(&space, bytes, options).unwrap());
    assert_eq!((space.usage().maps, space.usage().coalesced), (7, 0));
    for memory in &others {
        assert!(books.maps.lock().unwrap().contains_key(&memory.iova().0));
    }
    let protection = books.maps.lock().unwrap()[&others[0].iova().0].protection;
    assert_eq!(protection, Protection::Read);
    // The last mapping is an arena; then whatever wants one is refused, and what fits in it is not.
    let last = allocate(&space, 4096);
    assert_eq!(space.usage().arenas, 1, "{last:?}");
}

#[test]
fn a_full_budget_is_refused_by_count_and_small_buffers_go_on_in_what_there_is() {
    let books = Books::limited(4);
    let space = books.space();
    let mut kept = many(&space, 2, 4096);
    kept.push(allocate(&space, MIB).unwrap());
    kept.push(allocate(&space, 3 * MIB).unwrap());
    assert_eq!(space.usage().maps, 4);
    for bytes in [3 * MIB, 4 * MIB] {
        let error = allocate(&space, bytes).unwrap_err();
        assert_eq!(error.code(), Code::Memory);
        assert!(
            error.to_string().contains("4 mappings are in use"),
            "{error}"
        );
    }
    kept.extend(many(&space, 3, MIB));
    let error = allocate(&space, MIB).unwrap_err();
    assert!(
        error.to_string().contains("4 mappings are in use"),
        "{error}"
    );
    assert_eq!(books.calls.load(Ordering::SeqCst), 4, "nothing was tried");
    kept.pop();
    kept.push(allocate(&space, MIB).unwrap());
}

/// As many as `fits` promises can be had, and not one more.
#[test]
fn what_fits_is_what_can_be_had() {
    for before in [0, 3, 11] {
        for bytes in [4096, 60 * KIB, 64 * KIB, MIB + 1, 2 * MIB, 3 * MIB] {
            let books = Books::limited(7);
            let space = books.space();
            let mut live = many(&space, before, 100_000);
            // Holes in what there is.
            live.retain({
                let mut number = 0;
                move |_| {
                    number += 1;
                    number % 3 != 0
                }
            });
            let start = live.len();
            let (mut most, mut over) = (0usize, 1 << 20);
            while most + 1 < over {
                let middle = most.midpoint(over);
                match space.fits(middle, bytes) {
                    Ok(()) => most = middle,
                    Err(_) => over = middle,
                }
            }
            live.extend(many(&space, most, bytes));
            let error = allocate(&space, bytes).expect_err("it was not promised");
            assert_eq!(error.code(), Code::Memory, "{error}");
            assert!(space.fits(1, bytes).is_err());
            let more_than_mappings = live.len() - start > 7;
            assert_eq!(more_than_mappings, bytes <= PLACE_MOST, "{most} of {bytes}");
            drop(live);
            nothing_is_left(&space, &books);
        }
    }
}

#[test]
fn whichever_map_fails_all_is_unwound_and_the_next_one_works() {
    let sizes = [
        4096,
        64 * KIB,
        3 * MIB,
        2 * MIB,
        100_000,
        MIB,
        2 * MIB,
        4096,
        2 * MIB,
    ];
    for number in 0..9 {
        let books = Books::limited(8);
        let space = books.space();
        books.refuses.store(number, Ordering::SeqCst);
        let mut live = Vec::new();
        let mut refused = 0;
        for bytes in sizes {
            let before = space.usage();
            match allocate(&space, bytes) {
                Ok(memory) => live.push(memory),
                Err(error) => {
                    assert_eq!(error.code(), Code::Io, "{error}");
                    assert_eq!(space.usage(), before, "map {number}");
                    refused += 1;
                    live.push(allocate(&space, bytes).unwrap());
                }
            }
        }
        assert_eq!(
            refused,
            usize::from(number < books.calls.load(Ordering::SeqCst))
        );
        are_apart(&books, &live, 4 * KIB);
        drop(live);
        nothing_is_left(&space, &books);
    }
}

#[test]
fn where_the_memory_for_an_arena_is_missing_a_buffer_has_a_mapping_of_its_own() {
    let books = Books::limited(8);
    let space = books.space();
    let mut live = many(&space, 4, 4096);
    books.refuses_for_memory.store(true, Ordering::SeqCst);
    books.refuses.store(4, Ordering::SeqCst);
    live.push(allocate(&space, 4096).unwrap());
    assert_eq!((space.usage().maps, space.usage().arenas), (5, 0));
    live.push(allocate(&space, 4096).unwrap());
    assert_eq!((space.usage().maps, space.usage().arenas), (6, 1));
    drop(live);
    nothing_is_left(&space, &books);
}

#[test]
fn an_arena_that_cannot_be_unmapped_is_kept_for_good() {
    let books = Books::limited(8);
    let space = books.space();
    let own = many(&space, 4, 4096);
    let placed = many(&space, 3, 4096);
    let at = placed[2].ptr();
    placed[2].write(0, b"still there").unwrap();
    let arena = space.usage().bytes - 4 * 4096;
    books.keeps.store(true, Ordering::SeqCst);
    drop(placed);
    books.keeps.store(false, Ordering::SeqCst);
    let usage = space.usage();
    assert_eq!(
        (usage.maps, usage.bytes - 4 * 4096),
        (5, arena),
        "the host has it"
    );
    assert_eq!(
        (usage.arenas, usage.coalesced, usage.spare),
        (0, 0, 0),
        "and nobody gets it"
    );
    // SAFETY: kept mapped for good, which is what this is about.
    assert_eq!(unsafe { at.read_volatile() }, b's');
    let next = allocate(&space, 4096).unwrap();
    assert_ne!(next.ptr(), at);
    drop((own, next));
    assert_eq!((space.usage().maps, books.count()), (1, 1));
}

#[test]
fn a_server_that_is_gone_reaches_no_arena_and_a_card_that_is_lost_may() {
    for needs_file in [true, false] {
        let books = Books::with(|about| about.needs_file = needs_file);
        let space = books.space();
        let live = many(&space, 20, 4096);
        books.lost.store(true, Ordering::SeqCst);
        books.keeps.store(true, Ordering::SeqCst);
        drop(live);
        assert_eq!(space.usage().maps, if needs_file { 0 } else { 5 });
    }
}

#[test]
fn a_child_of_fork_lets_its_parents_places_be() {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    let books = Books::limited(4);
    let space = books.space();
    let mut live = many(&space, 20, 4096);
    let maps = books.count();
    let locked = space.lock(); // by a thread that is not there in the child
    // SAFETY: the child allocates nothing, takes no lock and leaves by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let refused = live[19].read(0, &mut [0; 4]).is_err();
            live.truncate(19);
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!refused)) }
        }
        ForkResult::Parent { child } => {
            drop(locked);
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
    assert_eq!(books.count(), maps);
    are_apart(&books, &live, 4 * KIB);
    drop(live);
    nothing_is_left(&space, &books);
}

#[test]
fn threads_that_race_at_the_threshold_share_no_byte() {
    let books = Books::limited(8);
    let space = books.space();
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let space = &space;
            scope.spawn(move || {
                let mut seed = u64::from(thread) + 1;
                let mut next = |most: u64| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed % most
                };
                let mut live: Vec<HostMemory> = Vec::new();
                for _ in 0..600 {
                    if next(2) == 0 && !live.is_empty() {
                        let index = usize::try_from(next(live.len() as u64)).unwrap();
                        let memory = live.swap_remove(index);
                        let mut bytes = vec![0; usize::try_from(memory.bytes()).unwrap()];
                        memory.read(0, &mut bytes).unwrap();
                        assert!(
                            bytes.iter().all(|&byte| byte == thread + 1),
                            "another wrote"
                        );
                        continue;
                    }
                    let bytes = 1 + next(200_000);
                    match allocate(space, bytes) {
                        Ok(memory) => {
                            let mut bytes = vec![1; usize::try_from(bytes).unwrap()];
                            memory.read(0, &mut bytes).unwrap();
                            assert!(bytes.iter().all(|&byte| byte == 0), "it was zeroed");
                            memory.write(0, &vec![thread + 1; bytes.len()]).unwrap();
                            live.push(memory);
                        }
                        Err(error) => assert_eq!(error.code(), Code::Memory, "{error}"),
                    }
                    if live.len() > 12 {
                        live.clear();
                    }
                }
            });
        }
    });
    nothing_is_left(&space, &books);
}
