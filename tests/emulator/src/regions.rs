//! Regions: what a client is told of them, what it maps, and its accesses to the rest.

use jalapeno_wire as wire;
use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::answer::{Answer, Answered, exactly, parse};
use crate::pci::Effect;
use crate::session::Session;
use crate::stream::TRANSFER_MAX;

impl Session {
    /// A region's size; 0: there is no such region.
    fn region_bytes(&self, region: u32) -> u64 {
        match region {
            wire::REGION_CONFIG => crate::pci::BYTES as u64,
            bar => {
                let bars = self.shared.function.bars();
                bars.get(bar as usize).copied().unwrap_or(0)
            }
        }
    }

    /// Whether the client may look at a region at all. Doorbells and window are the owner's.
    fn sees(&self, region: u32) -> bool {
        self.owns() || matches!(region, 0 | wire::REGION_CONFIG)
    }

    /// DEVICE_GET_REGION_INFO.
    pub(crate) fn region_info(&self, body: &[u8]) -> Answered {
        let (ask, _) = parse::<wire::RegionInfo>(body)?;
        if ask.argsz < 32 || ask.index >= wire::PCI_REGIONS {
            return Err(Errno::EINVAL);
        }
        let bytes = self.region_bytes(ask.index);
        let mut info = wire::RegionInfo {
            argsz: 32,
            index: ask.index,
            bytes,
            ..Default::default()
        };
        if bytes == 0 || !self.sees(ask.index) {
            return Ok(Answer::of(&info));
        }
        info.flags = wire::REGION_READABLE;
        if self.owns() {
            info.flags |= wire::REGION_WRITABLE;
        }
        let function = &self.shared.function;
        let whole;
        let (file, areas) = match ask.index {
            0 => (self.page.file(), self.page.areas()),
            bar => match function.backing(bar) {
                Some(backing) => {
                    info.offset = backing.offset;
                    whole = [backing.area];
                    (backing.file, &whole[..])
                }
                None => return Ok(Answer::of(&info)),
            },
        };
        if areas.last().is_none_or(|(at, length)| at + length > bytes) {
            return Ok(Answer::of(&info)); // a BAR too short for them
        }
        let file = Some(file.try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
        info.flags |= wire::REGION_MMAP;
        if areas == [(0, bytes)] {
            return Ok(Answer {
                file,
                ..Answer::of(&info)
            });
        }
        info.flags |= wire::REGION_CAPS;
        let data = sparse(areas);
        info.argsz += u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        // Also in the short answer: QEMU 11.1 refuses a region that has capabilities at 0.
        info.cap_offset = 32;
        let data = match ask.argsz < info.argsz {
            true => Vec::new(),
            false => data,
        };
        Ok(Answer {
            data,
            file,
            ..Answer::of(&info)
        })
    }

    /// REGION_READ, into `small` where that is large enough. Nothing is allocated there.
    pub(crate) fn read_region<'a>(
        &self,
        body: &[u8],
        small: &'a mut [u8],
        large: &'a mut Vec<u8>,
    ) -> Result<(wire::RegionAccess, &'a [u8]), Errno> {
        let access = exactly::<wire::RegionAccess>(body)?;
        self.check(&access)?;
        if !self.sees(access.region) {
            return Err(Errno::EPERM);
        }
        let count = access.count as usize;
        let data = if count <= small.len() {
            &mut small[..count]
        } else {
            large.resize(count, 0);
            large.as_mut_slice()
        };
        if access.region == wire::REGION_CONFIG {
            let at = usize::try_from(access.offset).map_err(|_| Errno::EINVAL)?;
            if !self.shared.slot.read_config(at, data) {
                return Err(Errno::EINVAL);
            }
        } else {
            let function = &self.shared.function;
            function.read(access.region, access.offset, data);
        }
        Ok((access, data))
    }

    /// REGION_WRITE.
    pub(crate) fn write_region(&self, body: &[u8]) -> Answered {
        let (access, data) = parse::<wire::RegionAccess>(body)?;
        self.check(&access)?;
        if data.len() != access.count as usize {
            return Err(Errno::EINVAL);
        }
        if access.region == wire::REGION_CONFIG {
            let at = usize::try_from(access.offset).map_err(|_| Errno::EINVAL)?;
            match self.shared.slot.write_config(at, data) {
                Some(Effect::Reset) => self.reset(),
                Some(Effect::None) => {}
                None => return Err(Errno::EINVAL),
            }
        } else {
            let function = &self.shared.function;
            function.write(access.region, access.offset, data);
        }
        Ok(Answer::of(&access))
    }

    /// Whether an access is to a region that is there, inside it, and not too large.
    fn check(&self, access: &wire::RegionAccess) -> Result<(), Errno> {
        let bytes = self.region_bytes(access.region);
        let end = access.offset.checked_add(u64::from(access.count));
        let inside = bytes > 0 && end.is_some_and(|end| end <= bytes);
        if inside && access.count as usize <= TRANSFER_MAX {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }
}

/// The capability that names the areas that can be mapped.
fn sparse(areas: &[(u64, u64)]) -> Vec<u8> {
    let cap = wire::CapHeader {
        id: wire::CAP_SPARSE_MMAP,
        version: 1,
        next: 0,
    };
    let sparse = wire::SparseMmap {
        areas: u32::try_from(areas.len()).unwrap_or_default(),
        reserved: 0,
    };
    let mut bytes = [cap.as_bytes(), sparse.as_bytes()].concat();
    for &(offset, length) in areas {
        let area = wire::SparseArea {
            offset,
            bytes: length,
        };
        bytes.extend_from_slice(area.as_bytes());
    }
    bytes
}
