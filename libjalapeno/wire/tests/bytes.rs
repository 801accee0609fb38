//! Layouts against bytes written by hand from the protocol's document.

use jalapeno_wire as wire;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn a_region_read_of_four_bytes_is_these_thirty_two() {
    let header = wire::Header {
        id: 0x1234,
        command: wire::command::REGION_READ,
        bytes: 32,
        flags: wire::TYPE_COMMAND,
        error: 0,
    };
    let access = wire::RegionAccess {
        offset: 0x84,
        region: 0,
        count: 4,
    };
    #[rustfmt::skip]
    let by_hand = [
        0x34, 0x12,  9, 0,  32, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0, // id, command, size, flags, error
        0x84, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0,  4, 0, 0, 0,       // offset, region, count
    ];
    assert_eq!([header.as_bytes(), access.as_bytes()].concat(), by_hand);
}

#[test]
fn an_error_reply_carries_its_flag_and_errno() {
    #[rustfmt::skip]
    let by_hand = [7, 0,  2, 0,  16, 0, 0, 0,  0x21, 0, 0, 0,  22, 0, 0, 0];
    let header = wire::Header::read_from_bytes(&by_hand).unwrap();
    assert_eq!(header.command, wire::command::DMA_MAP);
    assert_eq!(header.flags & wire::FLAGS_TYPE, wire::TYPE_REPLY);
    assert_ne!(header.flags & wire::FLAG_ERROR, 0);
    assert_eq!(header.error, 22);
}

#[test]
fn a_map_is_argsz_flags_offset_address_size() {
    #[rustfmt::skip]
    let by_hand = [
        32, 0, 0, 0,  3, 0, 0, 0,
        0, 0x10, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 1, 0, 0, 0,
        0, 0, 0x20, 0, 0, 0, 0, 0,
    ];
    let map = wire::DmaMap::read_from_bytes(&by_hand).unwrap();
    assert_eq!(
        map,
        wire::DmaMap {
            argsz: 32,
            flags: wire::DMA_READABLE | wire::DMA_WRITABLE,
            offset: 0x1000,
            address: 1 << 32,
            bytes: 2 << 20,
        }
    );
}

#[test]
fn region_info_with_one_sparse_area_is_sixty_four_bytes() {
    #[rustfmt::skip]
    let by_hand = [
        64, 0, 0, 0,  0x0F, 0, 0, 0,  2, 0, 0, 0,  32, 0, 0, 0, // argsz, flags, index, cap_offset
        0, 0, 4, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,        // size, offset
        1, 0,  1, 0,  0, 0, 0, 0,                               // sparse mmap, version 1, last
        1, 0, 0, 0,  0, 0, 0, 0,                                // one area
        0, 0x10, 0, 0, 0, 0, 0, 0,  0, 0x20, 0, 0, 0, 0, 0, 0,  // offset, size
    ];
    let (info, rest) = wire::RegionInfo::read_from_prefix(&by_hand).unwrap();
    let all = wire::REGION_READABLE | wire::REGION_WRITABLE | wire::REGION_MMAP | wire::REGION_CAPS;
    assert_eq!(
        (info.argsz, info.flags, info.index, info.cap_offset),
        (64, all, 2, 32)
    );
    assert_eq!(info.bytes, 256 << 10);
    let (cap, rest) = wire::CapHeader::read_from_prefix(rest).unwrap();
    assert_eq!(
        cap,
        wire::CapHeader {
            id: wire::CAP_SPARSE_MMAP,
            version: 1,
            next: 0
        }
    );
    let (sparse, rest) = wire::SparseMmap::read_from_prefix(rest).unwrap();
    assert_eq!(sparse.areas, 1);
    let area = wire::SparseArea::read_from_bytes(rest).unwrap();
    assert_eq!(
        area,
        wire::SparseArea {
            offset: 0x1000,
            bytes: 0x2000
        }
    );
}

#[test]
fn set_irqs_is_twenty_bytes_without_padding() {
    let set = wire::SetIrqs {
        argsz: 20,
        flags: wire::SET_DATA_EVENTFD | wire::SET_ACTION_TRIGGER,
        index: wire::IRQ_MSIX,
        start: 1,
        count: 3,
    };
    #[rustfmt::skip]
    let by_hand = [20, 0, 0, 0,  0x24, 0, 0, 0,  2, 0, 0, 0,  1, 0, 0, 0,  3, 0, 0, 0];
    assert_eq!(set.as_bytes(), by_hand);
}
