//! A device that a test plays by hand: a queue over heap memory, and the device's side of it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jalapeno_hw::faults::{FAULT_PHASE, FaultCode, FaultRecord};
use jalapeno_hw::packets::{HEADER_VALID, Opcode, Packet, header};
use zerocopy::IntoBytes;

use crate::error::{Error, Result};
use crate::irq::Vectors;
use crate::lane::{Control, Identity, Lane};
use crate::ledger::End;
use crate::mmio::{Bar, Doorbell};
use crate::queue::Queue;
use crate::ring::Rings;
use crate::ring::heap::Heap;
use crate::transport::{Area, BarMapping, Description, HostRange, Protection, Transport};
use crate::units::Iova;
use crate::waker::Waker;

pub(crate) const NUMBER: u32 = 3;
pub(crate) const GENERATION: u64 = 7;

/// Doorbell pages on the heap, and nothing else.
#[derive(Debug)]
struct Stage {
    about: Description,
    doorbells: Heap,
    /// Vectors that the host gives, beside those that it says the function has.
    gives: u32,
}

#[derive(Debug)]
struct StageBar(Heap);

impl BarMapping for StageBar {
    fn base(&self) -> NonNull<u8> {
        crate::ring::Pinned::at(&self.0)
    }
    fn bytes(&self) -> usize {
        crate::ring::Pinned::bytes(&self.0)
    }
}

impl Transport for Stage {
    fn describe(&self) -> &Description {
        &self.about
    }
    fn map_bar(&self, _: u32, _: Area, _: bool) -> Result<Arc<dyn BarMapping>> {
        Ok(Arc::new(StageBar(self.doorbells.clone())))
    }
    fn read(&self, _: u32, _: u64, into: &mut [u8]) -> Result<()> {
        into.fill(0);
        Ok(())
    }
    fn write(&self, _: u32, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn map_dma(&self, _: Iova, _: HostRange<'_>, _: Protection) -> Result<()> {
        Ok(())
    }
    fn unmap_dma(&self, _: Iova, _: u64) -> Result<()> {
        Ok(())
    }
    fn set_vectors(&self, first: u32, _: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        match first < self.gives {
            true => Ok(()),
            false => Err(Error::Unsupported {
                what: format!("vector {first}"),
            }),
        }
    }
    fn reset(&self) -> Result<()> {
        Ok(())
    }
    fn lost_fd(&self) -> Option<OwnedFd> {
        None
    }
    fn is_lost(&self) -> bool {
        false
    }
}

/// What the library asked of the played device's registers.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) kicks: AtomicU64,
    pub(crate) lost: AtomicBool,
    pub(crate) stale: AtomicBool,
    /// Registers do not answer.
    pub(crate) hangs: AtomicBool,
    /// What a kick does.
    pub(crate) on_kick: Mutex<Option<(Heap, u64)>>,
}

impl Control for Asked {
    fn kick(&self, queue: u32) -> Result<()> {
        assert_eq!(queue, NUMBER);
        self.kicks.fetch_add(1, Ordering::SeqCst);
        if let Some((answers, word)) = self.on_kick.lock().unwrap().take() {
            answers.word(0).store(word, Ordering::SeqCst);
        }
        Ok(())
    }
    fn check(&self) -> Result<()> {
        while self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if self.stale.load(Ordering::SeqCst) {
            return Err(Error::Stale { what: "the device" });
        }
        Ok(())
    }
    fn over(&self) -> Option<End> {
        self.lost
            .load(Ordering::SeqCst)
            .then_some(End::Lost("played"))
    }
}

/// The device's side.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) ring: Heap,
    pub(crate) answers: Heap,
    pub(crate) doorbells: Heap,
    pub(crate) asked: Arc<Asked>,
    pub(crate) vectors: Arc<Vectors>,
    pub(crate) waker: Arc<Waker>,
    pub(crate) errors_log2: u32,
    pub(crate) records: u64,
}

/// A host that permits these addresses and so many mappings, and no device.
pub(crate) fn host(iova_ranges: Vec<(u64, u64)>, maps_limit: usize) -> Arc<dyn Transport> {
    Arc::new(Stage {
        about: Description {
            iova_ranges,
            maps_limit,
            ..about()
        },
        doorbells: Heap::new(4096),
        gives: 1,
    })
}

/// A host whose IOMMU has pages of this size.
pub(crate) fn host_with_pages(page_bytes: u64) -> Arc<dyn Transport> {
    Arc::new(Stage {
        about: Description {
            iova_ranges: vec![(0, u64::MAX >> 16)],
            maps_limit: 8,
            page_bytes,
            ..about()
        },
        doorbells: Heap::new(4096),
        gives: 1,
    })
}

/// A host that says it has so many vectors and gives fewer.
pub(crate) fn host_with_vectors(vectors: u32, gives: u32) -> Arc<dyn Transport> {
    Arc::new(Stage {
        about: Description { vectors, ..about() },
        doorbells: Heap::new(4096),
        gives,
    })
}

fn about() -> Description {
    Description {
        backend: "played",
        name: "stage".into(),
        bars: [0; 6],
        mappable: Default::default(),
        vectors: 1,
        iova_ranges: Vec::new(),
        maps_limit: 1,
        page_bytes: 4096,
        needs_file: false,
        pins: false,
        pins_per_user: false,
        hidden_for: Duration::ZERO,
        owner_pid: None,
    }
}

/// A queue of 2^depth packets and 2^errors records, and the device to play.
pub(crate) fn play(depth_log2: u32, errors_log2: u32, delivers: bool) -> (Queue, Played) {
    let vectors = Arc::new(Vectors::open(&stage(&Heap::new(4096)), 1).unwrap());
    let waker = Waker::new(vectors.get(0).unwrap(), None).unwrap();
    play_by(
        vectors,
        Arc::new(waker),
        (depth_log2, errors_log2),
        delivers,
    )
}

/// A host with one vector and a page of doorbells.
fn stage(doorbells: &Heap) -> Arc<dyn Transport> {
    let bytes = 4096;
    let mut mappable: [Vec<Area>; 6] = Default::default();
    mappable[2].push(Area { offset: 0, bytes });
    Arc::new(Stage {
        about: Description {
            bars: [0, 0, bytes, 0, 0, 0],
            mappable,
            ..about()
        },
        doorbells: doorbells.clone(),
        gives: 1,
    })
}

/// As `play`; whoever waits sleeps by this waker.
fn play_by(
    vectors: Arc<Vectors>,
    waker: Arc<Waker>,
    (depth_log2, errors_log2): (u32, u32),
    delivers: bool,
) -> (Queue, Played) {
    let doorbells = Heap::new(4096);
    let ring = Heap::new(Rings::ring_bytes(depth_log2));
    let answers = Heap::new(Rings::answer_bytes(errors_log2));
    let rings = Rings::new(
        Box::new(ring.clone()),
        Box::new(answers.clone()),
        depth_log2,
        errors_log2,
    )
    .unwrap();
    let bar = Arc::new(Bar::open(&stage(&doorbells), 2, 4096, true).unwrap());
    let asked = Arc::new(Asked::default());
    let identity = Identity {
        session: 0,
        number: NUMBER,
        generation: GENERATION,
        delivers,
    };
    let lane = Lane::new(
        rings,
        identity,
        Doorbell::open(&bar, 0, 4096).unwrap(),
        Arc::clone(&asked) as Arc<dyn Control>,
    )
    .unwrap();
    let queue = Queue::new(Arc::new(lane), Arc::clone(&waker), None);
    let played = Played {
        ring,
        answers,
        doorbells,
        asked,
        vectors,
        waker,
        errors_log2,
        records: 0,
    };
    (queue, played)
}

/// A NOP with a cookie.
pub(crate) fn nop(cookie: u64) -> Packet {
    let mut packet = Packet::ZERO;
    packet.header = header(Opcode::Nop, 0);
    packet.cookie = cookie;
    packet
}

impl Played {
    /// Another queue on this one's vector.
    pub(crate) fn neighbour(&self) -> (Queue, Played) {
        let (vectors, waker) = (Arc::clone(&self.vectors), Arc::clone(&self.waker));
        play_by(vectors, waker, (2, 0), false)
    }

    /// Stores the completion word.
    pub(crate) fn word(&self, word: u64) {
        self.answers.word(0).store(word, Ordering::Release);
    }

    /// Stores the completion word with the stopped bit.
    pub(crate) fn stop(&self, completed: u64) {
        self.word(completed | 1 << 63);
    }

    pub(crate) fn interrupt(&self) {
        self.vectors.get(0).unwrap().unwrap().raise();
    }

    pub(crate) fn tail(&self) -> u64 {
        self.doorbells.word(0).load(Ordering::Acquire)
    }

    pub(crate) fn armed(&self) -> u64 {
        self.doorbells.word(1).load(Ordering::Acquire)
    }

    pub(crate) fn resume(&self) -> u64 {
        self.doorbells.word(2).load(Ordering::Acquire)
    }

    /// The header in a slot.
    pub(crate) fn header(&self, slot: usize) -> u64 {
        self.ring.word(slot * 8).load(Ordering::Acquire)
    }

    pub(crate) fn is_valid(&self, slot: usize) -> bool {
        self.header(slot) & HEADER_VALID != 0
    }

    /// A sound record of a packet, as it will stand next.
    pub(crate) fn record(&self, sequence: u64, code: FaultCode) -> FaultRecord {
        FaultRecord {
            code: code.code(),
            sequence,
            generation: GENERATION,
            queue: NUMBER,
            index: self.records,
            ..FaultRecord::ZERO
        }
    }

    /// Writes a record into the error ring: phase, CRC, first 8 bytes last.
    pub(crate) fn write_record(&mut self, mut record: FaultRecord) {
        record.flags &= !FAULT_PHASE;
        record.crc = crc32fast::hash(&record.as_bytes()[..0xF8]);
        if (self.records >> self.errors_log2) & 1 == 0 {
            record.flags |= FAULT_PHASE;
        }
        self.write_raw(&record);
    }

    /// Writes a record as it is.
    pub(crate) fn write_raw(&mut self, record: &FaultRecord) {
        let words: [u64; 32] = zerocopy::transmute!(*record);
        let slot = usize::try_from(self.records & ((1 << self.errors_log2) - 1)).unwrap();
        for at in (0..32).rev() {
            let place = self.answers.word(32 + slot * 32 + at);
            place.store(words[at], Ordering::Release);
        }
        self.records += 1;
    }

    /// Fails a packet as the specification says.
    pub(crate) fn fail(&mut self, sequence: u64, code: FaultCode) {
        let record = self.record(sequence, code);
        self.write_record(record);
        self.stop(sequence - 1);
    }

    /// Answers RESUME in a thread of its own, once.
    pub(crate) fn resume_soon(&self, after: u64) -> std::thread::JoinHandle<()> {
        let (doorbells, answers) = (self.doorbells.clone(), self.answers.clone());
        std::thread::spawn(move || {
            loop {
                let resume = doorbells.word(2).load(Ordering::Acquire);
                if resume > after {
                    answers.word(0).store(resume - 1, Ordering::Release);
                    return;
                }
                std::thread::yield_now();
            }
        })
    }
}
