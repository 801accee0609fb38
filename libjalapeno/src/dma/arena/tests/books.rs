//! A host that keeps books of what it maps for the device, and refuses on request.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::dma::{DmaSpace, HostMemory};
use crate::error::{Error, Result};
use crate::played;
use crate::transport::{Area, BarMapping, Description, HostRange, Protection, Transport};
use crate::units::Iova;

/// What the host has mapped for the device.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) at: usize,
    pub(super) bytes: u64,
    pub(super) file: File,
    pub(super) protection: Protection,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) about: Description,
    pub(super) maps: Mutex<BTreeMap<u64, Map>>,
    /// Calls to map so far, the one to be refused, and how.
    pub(super) calls: AtomicUsize,
    pub(super) refuses: AtomicUsize,
    pub(super) refuses_for_memory: AtomicBool,
    pub(super) keeps: AtomicBool,
    pub(super) lost: AtomicBool,
}

impl Books {
    pub(super) fn with(change: impl FnOnce(&mut Description)) -> Arc<Self> {
        let ranges = vec![(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 48) - 1)];
        let mut about = played::host(ranges, 8).describe().clone();
        change(&mut about);
        Arc::new(Self {
            about,
            maps: Mutex::default(),
            calls: AtomicUsize::new(0),
            refuses: AtomicUsize::new(usize::MAX),
            refuses_for_memory: AtomicBool::new(false),
            keeps: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        })
    }

    pub(super) fn limited(limit: usize) -> Arc<Self> {
        Self::with(|about| about.maps_limit = limit)
    }

    pub(super) fn space(self: &Arc<Self>) -> Arc<DmaSpace> {
        let transport: Arc<dyn Transport> = Arc::clone(self) as _;
        Arc::new(DmaSpace::new(&transport, (1 << 47) - 1).unwrap())
    }

    pub(super) fn count(&self) -> usize {
        self.maps.lock().unwrap().len()
    }

    /// The bytes that the device finds at a buffer's address, by the file that was passed.
    pub(super) fn seen(&self, memory: &HostMemory) -> Vec<u8> {
        let maps = self.maps.lock().unwrap();
        let (start, map) = maps.range(..=memory.iova().0).next_back().unwrap();
        let offset = memory.iova().0 - start;
        assert!(offset + memory.bytes() <= map.bytes, "it is mapped whole");
        let at = map.at + usize::try_from(offset).unwrap();
        assert_eq!(memory.ptr().as_ptr().addr(), at, "host and device agree");
        let mut bytes = vec![0; usize::try_from(memory.bytes()).unwrap()];
        map.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

impl Transport for Books {
    fn describe(&self) -> &Description {
        &self.about
    }
    fn map_bar(&self, _: u32, _: Area, _: bool) -> Result<Arc<dyn BarMapping>> {
        unreachable!()
    }
    fn read(&self, _: u32, _: u64, _: &mut [u8]) -> Result<()> {
        unreachable!()
    }
    fn write(&self, _: u32, _: u64, _: &[u8]) -> Result<()> {
        unreachable!()
    }
    fn map_dma(&self, iova: Iova, range: HostRange<'_>, protection: Protection) -> Result<()> {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.refuses.load(Ordering::SeqCst) {
            return Err(match self.refuses_for_memory.load(Ordering::SeqCst) {
                true => Error::Memory {
                    what: "refused".into(),
                    needed: range.bytes,
                    have: 0,
                    hint: String::new(),
                },
                false => Error::Io {
                    tried: "map",
                    on: "stage".into(),
                    source: std::io::Error::from_raw_os_error(libc::EIO),
                },
            });
        }
        let (fd, offset) = range.file.unwrap();
        assert_eq!(offset, 0);
        let file = File::from(fd.try_clone_to_owned().unwrap());
        assert_eq!(file.metadata().unwrap().len(), range.bytes);
        let mut maps = self.maps.lock().unwrap();
        let below = maps.range(..iova.0 + range.bytes + self.about.page_bytes);
        let free = below.last().is_none_or(|(at, map)| at + map.bytes < iova.0);
        assert!(free, "a guard lies between mappings");
        maps.insert(
            iova.0,
            Map {
                at: range.at.as_ptr().addr(),
                bytes: range.bytes,
                file,
                protection,
            },
        );
        assert!(maps.len() <= self.about.maps_limit, "{}", maps.len());
        Ok(())
    }
    fn unmap_dma(&self, iova: Iova, bytes: u64) -> Result<()> {
        if self.keeps.load(Ordering::SeqCst) {
            return Err(Error::Invalid {
                what: "kept".into(),
            });
        }
        let gone = self.maps.lock().unwrap().remove(&iova.0);
        assert_eq!(gone.expect("it was mapped").bytes, bytes);
        Ok(())
    }
    fn set_vectors(&self, _: u32, _: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        unreachable!()
    }
    fn reset(&self) -> Result<()> {
        unreachable!()
    }
    fn lost_fd(&self) -> Option<OwnedFd> {
        None
    }
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}
