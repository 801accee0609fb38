//! Memory: what the IOMMU lets the card reach, and what it does not.

use std::ptr::NonNull;

use jalapeno::dma::HostMemory;
use jalapeno::error::{Error, Fault};
use jalapeno::hw::packets::{Opcode, Packet};
use jalapeno::transport::Protection;
use jalapeno::{HostOptions, Queue, QueueOptions, Session};

use crate::{SOON, device, packet, session};

/// The fault that a packet ends with.
fn fault_of(session: &Session, packet: &Packet) -> Fault {
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    fault_on(&mut queue, packet)
}

/// The fault that a packet ends with, on a queue whose own memory is mapped already.
fn fault_on(queue: &mut Queue, packet: &Packet) -> Fault {
    let last = queue.submit_one(packet).expect("submitted");
    match queue.completions().wait(last, Some(SOON)) {
        Err(Error::Fault(fault)) => *fault,
        other => panic!("{other:?} is no fault"),
    }
}

pub fn addresses_lie_in_what_the_kernel_permits(card: &str) -> String {
    let device = device(card);
    let ranges = device.transport().describe().iova_ranges.clone();
    // Around the window for interrupts, on a PC.
    assert!(ranges.len() > 1, "{ranges:x?}");
    let dma = device.dma().expect("owned");
    let mut kept = Vec::new();
    for bytes in [4096, 3 << 20, 1 << 20, 65536, 16 << 20] {
        let memory = HostMemory::allocate(dma, bytes, HostOptions::default()).expect("memory");
        let (first, last) = (memory.iova().0, memory.iova().0 + bytes - 1);
        let inside = |&(low, high): &(u64, u64)| low <= first && last <= high;
        assert!(
            ranges.iter().any(inside),
            "{first:#x} is outside {ranges:x?}"
        );
        kept.push(memory);
    }
    format!("{ranges:x?}")
}

pub fn a_budget_is_told_before_the_first_mapping(card: &str) -> String {
    let device = device(card);
    let dma = device.dma().expect("owned");
    let (limit, before) = (dma.usage().maps_limit, dma.usage().maps);
    dma.fits(1024, 1 << 30).expect("1 TiB in buffers of 1 GiB");
    dma.fits(1 << 16, 2 << 20)
        .expect("128 GiB in buffers of 2 MiB");
    match dma.fits(1 << 20, 4 << 20) {
        Ok(()) => assert!(limit > 1 << 20, "{limit}"),
        Err(error) => assert!(error.to_string().contains(&limit.to_string()), "{error}"),
    }
    assert_eq!(dma.usage().maps, before, "it only asked");
    format!("1 TiB in 1024 buffers of {limit} there can be")
}

pub fn an_unmapped_address_is_a_fault_with_that_address(card: &str) -> String {
    let session = session(card);
    let host = session
        .host_memory(4096, HostOptions::default())
        .expect("host memory");
    let there = session.device_memory(4096).expect("device memory");
    let guard = host.address().0 + 4096;
    let fault = fault_of(
        &session,
        &packet(Opcode::Copy, [guard, there.address().0, 64, 0, 0]),
    );
    assert_eq!(fault.record.address, guard);
    fault.to_string()
}

pub fn memory_that_was_let_go_cannot_be_reached(card: &str) -> String {
    let session = session(card);
    let there = session.device_memory(4096).expect("device memory");
    let host = session
        .host_memory(4096, HostOptions::default())
        .expect("host memory");
    let was = host.address().0;
    // Before the address is free: the queue's rings would take it.
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    drop(host);
    let fault = fault_on(
        &mut queue,
        &packet(Opcode::Copy, [there.address().0, was, 64, 0, 0]),
    );
    assert_eq!(fault.record.address, was);
    fault.to_string()
}

pub fn a_read_only_map_refuses_writes(card: &str) -> String {
    let session = session(card);
    let options = HostOptions {
        protection: Protection::Read,
        ..HostOptions::default()
    };
    let host = session.host_memory(4096, options).expect("host memory");
    host.memory().write(0, &[0x5A; 4096]).expect("written");
    let fault = fault_of(
        &session,
        &packet(Opcode::Fill, [host.address().0, 4096, u64::MAX, 0, 0]),
    );
    assert_eq!(fault.record.address, host.address().0);
    let mut bytes = [0; 4096];
    host.memory().read(0, &mut bytes).expect("read");
    assert_eq!(bytes, [0x5A; 4096], "memory is unchanged");
    fault.to_string()
}

pub fn private_memory_of_the_application_can_be_registered(card: &str) -> String {
    let session = session(card);
    let layout = std::alloc::Layout::from_size_align(8192, 4096).expect("a layout");
    // SAFETY: the layout is not empty.
    let at = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
    // SAFETY: the memory lives until after the buffer is gone, and is looked at by volatile reads.
    let buffer = unsafe { session.register(at, 8192, Protection::ReadWrite) }.expect("registered");
    let mut queue = session.queue(QueueOptions::default()).expect("a queue");
    let fill = packet(
        Opcode::Fill,
        [buffer.address().0, 8192, 0x1122_3344_5566_7788, 0, 0],
    );
    let last = queue.submit_one(&fill).expect("submitted");
    queue.completions().wait(last, Some(SOON)).expect("done");
    // SAFETY: inside the allocation, aligned to 8.
    let word = unsafe { at.add(8184).cast::<u64>().read_volatile() };
    assert_eq!(word, 0x1122_3344_5566_7788);
    drop(buffer);
    drop(queue);
    drop(session);
    // SAFETY: allocated above with this layout, and nobody uses it any more.
    unsafe { std::alloc::dealloc(at.as_ptr(), layout) };
    "private memory, without a file behind it".into()
}
