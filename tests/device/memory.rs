//! Memory: what the device may reach, for how long, and how much of it there is.

use std::ptr::NonNull;
use std::sync::Arc;

use jalapeno::device::Role;
use jalapeno::dma::{DmaUse, HostMemory, HostOptions, Pages};
use jalapeno::error::Code;
use jalapeno::transport::Protection;
use jalapeno_tests::{Shared, board, open, stage};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

#[test]
fn memory_is_zeroed_readable_writable_and_gone_from_the_device_once_dropped() {
    let stage = stage();
    let device = stage.device();
    let dma = device.dma().unwrap();
    let memory = HostMemory::allocate(dma, 5000, HostOptions::default()).unwrap();
    assert_eq!(memory.bytes(), 5000);
    assert_eq!(memory.iova().0 % 8192, 0, "aligned to its size");
    assert_eq!(memory.pages(), Pages::Small);
    let mut bytes = [1; 5000];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 5000]);
    let text = b"not a multiple of eight";
    memory.write(4977, text).unwrap();
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes[4977..], text);
    assert_eq!(bytes[..4977], [0; 4977]);
    for (offset, length) in [(4978, 23), (5000, 1), (u64::MAX, 1), (u64::MAX - 4, 8)] {
        let error = memory.read(offset, &mut bytes[..length]).unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{offset:#x}");
    }
    assert!(stage.has_regions(1));
    drop(memory);
    assert!(stage.has_regions(0));
    assert_eq!((dma.usage().maps, dma.usage().bytes), (0, 0));
}

#[test]
fn between_two_mappings_lies_a_page_that_nothing_maps() {
    let stage = stage();
    let device = stage.device();
    let dma = device.dma().unwrap();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut kept = Vec::new();
    for bytes in [4096, 1, 8192, 100_000, 4096, 3 << 20, 4096] {
        let memory = HostMemory::allocate(dma, bytes, HostOptions::default()).unwrap();
        ranges.push((
            memory.iova().0,
            memory.iova().0 + bytes.next_multiple_of(4096),
        ));
        kept.push(memory);
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 + 4096 <= pair[1].0, "{ranges:x?}");
    }
}

#[test]
fn memory_of_no_bytes_or_more_than_there_is_is_refused_and_nothing_is_left() {
    let stage = stage();
    let device = stage.device();
    let dma = device.dma().unwrap();
    for (bytes, code) in [
        (0, Code::Invalid),
        (u64::MAX, Code::Invalid),
        (u64::MAX - 4096, Code::Invalid),
        (1 << 50, Code::Memory),
    ] {
        let error = HostMemory::allocate(dma, bytes, HostOptions::default()).unwrap_err();
        assert_eq!(error.code(), code, "{bytes:#x}: {error}");
    }
    let usage = dma.usage();
    assert_eq!((usage.maps, usage.bytes), (0, 0));
    assert!(usage.maps_limit > 60_000, "{usage:?}");
    assert!(stage.has_regions(0));
}

#[test]
fn an_applications_shared_memory_is_registered_from_any_page_of_it() {
    let stage = stage();
    let device = stage.device();
    let dma = device.dma().unwrap();
    let shared = Shared::new(0x4000);
    // SAFETY: in bounds of the mapping.
    let inner = unsafe { shared.at.add(0x1000) };
    // SAFETY: the mapping outlives the registration.
    let memory =
        unsafe { HostMemory::register(dma, inner, 0x2000, Protection::ReadWrite) }.unwrap();
    assert_eq!(memory.ptr(), inner);
    assert_eq!(memory.pages(), Pages::Callers);
    memory.write(0, b"seen in the file").unwrap();
    let mut bytes = [0; 16];
    std::os::unix::fs::FileExt::read_exact_at(&shared.file, &mut bytes, 0x1000).unwrap();
    assert_eq!(&bytes, b"seen in the file");
    assert!(stage.has_regions(1));
    drop(memory);
    assert!(stage.has_regions(0));
    // SAFETY: still mapped: the library does not unmap what is the caller's.
    assert_eq!(unsafe { inner.read() }, b's');
}

#[test]
fn what_cannot_be_registered_says_why() {
    let board = board();
    let device = open(&board, Role::Compute).unwrap();
    let dma = device.dma().unwrap();
    let read_only = Shared::protected(0x1000, ProtFlags::PROT_READ);
    let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let length = 0x1000.try_into().unwrap();
    // SAFETY: a new mapping, nowhere in particular.
    let private = unsafe { mmap_anonymous(None, length, flags, MapFlags::MAP_PRIVATE) }.unwrap();
    let misaligned = NonNull::new(private.as_ptr().wrapping_byte_add(8)).unwrap();
    let nowhere = NonNull::new(std::ptr::without_provenance_mut(0x1000)).unwrap();
    for (at, bytes, code, text) in [
        (
            private.cast(),
            0x1000,
            Code::Unsupported,
            "shared mapping of a file",
        ),
        (
            misaligned.cast(),
            0x1000,
            Code::Invalid,
            "multiples of 4096",
        ),
        (private.cast(), 0x800, Code::Invalid, "multiples of 4096"),
        (private.cast(), 0, Code::Invalid, "multiples of 4096"),
        (private.cast(), !0xFFF, Code::Invalid, "multiples of 4096"),
        (nowhere, 0x1000, Code::Invalid, "nothing is mapped"),
        (read_only.at, 0x1000, Code::Invalid, "not writable"),
    ] {
        // SAFETY: refused, so never accessed.
        let error = unsafe { HostMemory::register(dma, at, bytes, Protection::ReadWrite) };
        let error = error.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    // SAFETY: the mapping outlives the registration.
    let memory = unsafe { HostMemory::register(dma, read_only.at, 0x1000, Protection::Read) };
    drop(memory.unwrap());
    // SAFETY: the mapping is this test's own.
    unsafe { munmap(private, 0x1000) }.unwrap();
    assert_eq!(board.counters().regions, 0);
}

#[test]
fn memory_outlives_the_device_it_was_made_from() {
    let stage = stage();
    let device = stage.open();
    let dma = Arc::clone(device.dma().unwrap());
    let memory = HostMemory::allocate(&dma, 4096, HostOptions::default()).unwrap();
    drop(device);
    memory.write(0, &[1; 4096]).unwrap();
    drop(memory);
    let DmaUse { maps, bytes, .. } = dma.usage();
    assert_eq!((maps, bytes), (0, 0));
}

#[test]
fn many_small_mappings_come_and_go_in_any_order() {
    use proptest::prelude::*;
    let stage = stage();
    let device = stage.device();
    let dma = device.dma().unwrap();
    let steps = prop::collection::vec((1u64..300_000, any::<prop::sample::Index>()), 1..40);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: stage.rounds(12),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&steps, |steps| {
            let mut live: Vec<HostMemory> = Vec::new();
            for (bytes, index) in steps {
                if bytes % 3 == 0 && !live.is_empty() {
                    live.swap_remove(index.index(live.len()));
                } else {
                    live.push(HostMemory::allocate(dma, bytes, HostOptions::default()).unwrap());
                }
                prop_assert_eq!(dma.usage().maps, live.len());
                prop_assert!(stage.has_regions(live.len()));
                let mut ranges: Vec<_> = live
                    .iter()
                    .map(|m| (m.iova().0, m.iova().0 + m.bytes()))
                    .collect();
                ranges.sort_unstable();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 4096 <= pair[1].0));
            }
            drop(live);
            prop_assert_eq!(dma.usage().bytes, 0);
            Ok(())
        })
        .unwrap();
}
