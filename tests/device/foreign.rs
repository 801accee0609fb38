//! Devices that are not ours, or are not well: what is never done to them. And a scrub that fails.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use jalapeno::device::{Device, Role, Scrub};
use jalapeno::error::{Code, Result};
use jalapeno::transport::{
    Area, BarMapping, CONFIG_REGION, Description, HostRange, Protection, Transport,
};
use jalapeno::units::Iova;
use jalapeno::{HostOptions, Session};
use jalapeno_hw::reg::Register;
use jalapeno_hw::regs::{FeaturesOffered, Magic, ScrubCount, ScrubStatus};
use jalapeno_tests::{board, name};

/// What a read of a place gives instead: region, offset, bytes.
type Lie = (u32, u64, Vec<u8>);

/// A card behind a transport that lies at some places and keeps what was asked of it.
#[derive(Debug)]
struct Liar {
    real: Arc<dyn Transport>,
    said: Description,
    lies: Mutex<Vec<Lie>>,
    written: Mutex<Vec<(u32, u64, Vec<u8>)>>,
    read: Mutex<Vec<(u32, u64)>>,
}

impl Liar {
    fn before(real: &Arc<dyn Transport>, lies: Vec<Lie>) -> Arc<Self> {
        let mut said = real.describe().clone();
        said.mappable[0].clear(); // every access to a register comes this way
        Arc::new(Self {
            real: Arc::clone(real),
            said,
            lies: Mutex::new(lies),
            written: Mutex::default(),
            read: Mutex::default(),
        })
    }

    fn open(self: &Arc<Self>) -> Result<Arc<Device>> {
        let transport = Arc::clone(self) as Arc<dyn Transport>;
        Device::open_transport(transport, "0000:01:00.0".into(), Role::Compute)
    }

    /// Bus mastering, turned on and off in this order.
    fn mastering(&self) -> Vec<bool> {
        let written = self.written.lock().unwrap();
        let commands = written
            .iter()
            .filter(|(region, offset, _)| (*region, *offset) == (CONFIG_REGION, 4));
        commands.map(|(_, _, bytes)| bytes[0] & 4 != 0).collect()
    }
}

impl Transport for Liar {
    fn describe(&self) -> &Description {
        &self.said
    }
    fn map_bar(&self, bar: u32, area: Area, writable: bool) -> Result<Arc<dyn BarMapping>> {
        self.real.map_bar(bar, area, writable)
    }
    fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<()> {
        self.read.lock().unwrap().push((region, offset));
        for (at, first, bytes) in self.lies.lock().unwrap().iter() {
            if (*at, *first) == (region, offset) && bytes.len() == into.len() {
                into.copy_from_slice(bytes);
                return Ok(());
            }
        }
        self.real.read(region, offset, into)
    }
    fn write(&self, region: u32, offset: u64, from: &[u8]) -> Result<()> {
        let kept = (region, offset, from.to_vec());
        self.written.lock().unwrap().push(kept);
        self.real.write(region, offset, from)
    }
    fn map_dma(&self, iova: Iova, range: HostRange<'_>, protection: Protection) -> Result<()> {
        self.real.map_dma(iova, range, protection)
    }
    fn unmap_dma(&self, iova: Iova, bytes: u64) -> Result<()> {
        self.real.unmap_dma(iova, bytes)
    }
    fn set_vectors(&self, first: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        self.real.set_vectors(first, eventfds)
    }
    fn reset(&self) -> Result<()> {
        self.real.reset()
    }
    fn lost_fd(&self) -> Option<OwnedFd> {
        self.real.lost_fd()
    }
    fn is_lost(&self) -> bool {
        self.real.is_lost()
    }
}

/// The way to a board that nobody has open.
fn way(board: &jalapeno_emulator::board::Board) -> Arc<dyn Transport> {
    let device = Device::open(&name(board), Role::Compute).unwrap();
    Arc::clone(device.transport())
}

fn word(offset: u32, value: u32) -> Lie {
    (0, offset.into(), value.to_le_bytes().to_vec())
}

#[test]
fn a_device_of_other_ids_is_not_written_to_and_its_bars_are_not_looked_at() {
    let board = board();
    let real = way(&board);
    for ids in [
        [0x86, 0x80, 0x01, 0x00],
        [0xA0, 0xA1, 0x02, 0x00],
        [0xFF; 4],
    ] {
        let liar = Liar::before(&real, vec![(CONFIG_REGION, 0, ids.to_vec())]);
        let error = liar.open().unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{error}");
        assert!(error.to_string().contains("0000:01:00.0"), "{error}");
        let told = format!("{:02x}{:02x}:{:02x}{:02x}", ids[1], ids[0], ids[3], ids[2]);
        assert!(error.to_string().contains(&told), "{error}");
        assert_eq!(*liar.written.lock().unwrap(), [], "nothing was written");
        assert_eq!(*liar.read.lock().unwrap(), [(CONFIG_REGION, 0)]);
    }
}

#[test]
fn a_device_that_is_no_jalapeno_behind_its_ids_never_masters_the_bus() {
    let board = board();
    let real = way(&board);
    let liar = Liar::before(&real, vec![word(Magic::OFFSET, 0x1234_5678)]);
    let error = liar.open().unwrap_err();
    assert_eq!(error.code(), Code::Protocol, "{error}");
    assert!(!liar.mastering().contains(&true), "{:?}", liar.mastering());
}

#[test]
fn an_opening_that_fails_half_way_turns_bus_mastering_off_again() {
    let board = board();
    let real = way(&board);
    // Identified, and then its doorbells are too few.
    let mut liar = Liar::before(&real, Vec::new());
    Arc::get_mut(&mut liar).unwrap().said.bars[2] = 0;
    let error = liar.open().unwrap_err();
    assert_eq!(error.code(), Code::Protocol, "{error}");
    assert!(error.to_string().contains("BAR2 has 0 bytes"), "{error}");
    assert_eq!(liar.mastering().last(), Some(&false));
    assert!(liar.mastering().contains(&true), "it was on before");
}

#[test]
fn a_bar_shorter_than_the_specification_is_said_with_both_lengths() {
    let board = board();
    let real = way(&board);
    for bytes in [0, 4096, 32 << 10] {
        let mut liar = Liar::before(&real, Vec::new());
        Arc::get_mut(&mut liar).unwrap().said.bars[0] = bytes;
        let error = liar.open().unwrap_err();
        assert_eq!(error.code(), Code::Protocol, "{error}");
        let told = format!("BAR0 has {bytes} bytes; the interface needs");
        assert!(error.to_string().contains(&told), "{error}");
    }
}

#[test]
fn a_scrub_that_fails_or_proves_nothing_hands_out_no_hbm_until_one_succeeds() {
    let board = board();
    let real = way(&board);
    let count = vec![word(ScrubCount::OFFSET, 7), word(ScrubCount::OFFSET + 4, 0)];
    let cases = [
        (vec![word(ScrubStatus::OFFSET, 3)], Code::NeedsReset),
        (vec![word(ScrubStatus::OFFSET, 0)], Code::NeedsReset),
        (count, Code::Protocol),
    ];
    for (lies, code) in cases {
        let liar = Liar::before(&real, lies);
        let device = liar.open().expect("it opens: it may want a reset");
        let error = Session::new(&device).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(device.hbm().unwrap_err().code(), code);
        liar.lies.lock().unwrap().clear();
        let session = Session::new(&device).expect("after a good one");
        assert!(matches!(device.scrub(), Ok(Scrub::Done { .. })));
        drop(session.device_memory(4096).unwrap());
    }
}

#[test]
fn a_card_that_cannot_scrub_says_so_and_works() {
    let board = board();
    let real = way(&board);
    let offered = Liar::before(&real, Vec::new()).open().unwrap();
    let offered = offered.info().features_offered & !2;
    let low = u32::try_from(offered & u64::from(u32::MAX)).unwrap();
    let liar = Liar::before(&real, vec![word(FeaturesOffered::OFFSET, low)]);
    let device = liar.open().unwrap();
    assert_eq!(device.scrub().unwrap(), Scrub::NotOffered);
    drop(Session::new(&device).unwrap().device_memory(4096).unwrap());
}

#[test]
fn memory_that_could_not_be_unmapped_from_a_lost_card_is_never_given_to_another() {
    /// Unmapping fails, and an error of the link was told.
    #[derive(Debug)]
    struct Broken(Arc<Liar>, std::sync::atomic::AtomicBool);
    impl Transport for Broken {
        fn describe(&self) -> &Description {
            self.0.describe()
        }
        fn map_bar(&self, bar: u32, area: Area, writable: bool) -> Result<Arc<dyn BarMapping>> {
            self.0.map_bar(bar, area, writable)
        }
        fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<()> {
            self.0.read(region, offset, into)
        }
        fn write(&self, region: u32, offset: u64, from: &[u8]) -> Result<()> {
            self.0.write(region, offset, from)
        }
        fn map_dma(&self, iova: Iova, range: HostRange<'_>, how: Protection) -> Result<()> {
            self.0.map_dma(iova, range, how)
        }
        fn unmap_dma(&self, iova: Iova, bytes: u64) -> Result<()> {
            match self.is_lost() {
                true => Err(jalapeno::Error::Lost { why: "played" }),
                false => self.0.unmap_dma(iova, bytes),
            }
        }
        fn set_vectors(&self, first: u32, fds: &[Option<BorrowedFd<'_>>]) -> Result<()> {
            self.0.set_vectors(first, fds)
        }
        fn reset(&self) -> Result<()> {
            self.0.reset()
        }
        fn lost_fd(&self) -> Option<OwnedFd> {
            None
        }
        fn is_lost(&self) -> bool {
            self.1.load(std::sync::atomic::Ordering::SeqCst)
        }
    }
    // A kernel holds the card: it needs no file. And one where another process does.
    for needs_file in [false, true] {
        let board = board();
        let real = way(&board);
        let mut liar = Liar::before(&real, Vec::new());
        Arc::get_mut(&mut liar).unwrap().said.needs_file = needs_file;
        let broken = Arc::new(Broken(Arc::clone(&liar), false.into()));
        let transport = Arc::clone(&broken) as Arc<dyn Transport>;
        let device = Device::open_transport(transport, "played".into(), Role::Compute).unwrap();
        let dma = Arc::clone(device.dma().unwrap());
        let memory =
            jalapeno::dma::HostMemory::allocate(&dma, 4096, HostOptions::default()).unwrap();
        let at = memory.ptr();
        memory.write(0, b"still there").unwrap();
        broken.1.store(true, std::sync::atomic::Ordering::SeqCst);
        drop(memory);
        let maps = dma.usage().maps;
        assert_eq!(maps, usize::from(!needs_file), "needs_file {needs_file}");
        if !needs_file {
            // SAFETY: kept mapped for good, which is what this is about.
            assert_eq!(unsafe { at.read_volatile() }, b's');
            drop(device);
            // Bus mastering goes off all the same: the card may be there.
            assert_eq!(liar.mastering().last(), Some(&false));
        }
    }
}
