//! A region's description: its size, and which areas of it can be mapped. vfio-user and the kernel
//! write the same structures.

use jalapeno_wire as wire;
use zerocopy::FromBytes;

use super::Area;

/// Most areas believed in a region.
const AREAS_MAX: u32 = 64;
/// Largest BAR believed.
const BAR_MAX: u64 = 1 << 46;

/// Checks a reply to DEVICE_GET_REGION_INFO; the error says what is wrong with it.
pub(super) fn parse(body: &[u8], bar: u32) -> Result<(wire::RegionInfo, Vec<Area>), String> {
    let (info, _) = wire::RegionInfo::read_from_prefix(body)
        .map_err(|_| "a short region description".to_owned())?;
    if info.index != bar
        || info.bytes > BAR_MAX
        || (info.bytes != 0 && !info.bytes.is_power_of_two())
    {
        return Err(format!(
            "BAR {bar} is described as region {} of {} bytes",
            info.index, info.bytes
        ));
    }
    if info.flags & wire::REGION_MMAP == 0 {
        return Ok((info, Vec::new()));
    }
    let mut areas = Vec::new();
    let mut at = info.cap_offset as usize;
    let mut sparse = false;
    // Offsets must rise, so the chain cannot loop.
    while info.flags & wire::REGION_CAPS != 0 && at != 0 {
        let rest = body
            .get(at..)
            .ok_or("a region capability beyond its message")?;
        let (cap, rest) = wire::CapHeader::read_from_prefix(rest)
            .map_err(|_| "a short region capability".to_owned())?;
        if cap.id == wire::CAP_SPARSE_MMAP {
            sparse = true;
            let (head, mut rest) = wire::SparseMmap::read_from_prefix(rest)
                .map_err(|_| "a short sparse mmap".to_owned())?;
            if head.areas > AREAS_MAX {
                return Err(format!("{} mappable areas", head.areas));
            }
            for _ in 0..head.areas {
                let (area, next) = wire::SparseArea::read_from_prefix(rest)
                    .map_err(|_| "a short sparse area".to_owned())?;
                let end = area.offset.checked_add(area.bytes);
                if end.is_none_or(|end| end > info.bytes) || (area.offset | area.bytes) % 4096 != 0
                {
                    return Err(format!(
                        "a mappable area at {:#x} of BAR {bar}",
                        area.offset
                    ));
                }
                if area.bytes > 0 {
                    areas.push(Area {
                        offset: area.offset,
                        bytes: area.bytes,
                    });
                }
                rest = next;
            }
        }
        let next = cap.next as usize;
        if next != 0 && next <= at {
            return Err("region capabilities that loop".into());
        }
        at = next;
    }
    if !sparse && info.bytes > 0 {
        areas.push(Area {
            offset: 0,
            bytes: info.bytes,
        });
    }
    Ok((info, areas))
}
