//! A device, opened: identity, capabilities, memory, interrupts, faults, clock and resets.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::pci::{BAR_DOORBELLS, BAR_REGISTERS};
use jalapeno_hw::regs::{
    BAR0_BYTES, DeviceState, Feature, FeaturesAccepted, FeaturesOffered,
    Generation as GenerationRegister, Status,
};

use crate::capabilities::Capabilities;
use crate::discover::{self, Resolved};
use crate::dma::DmaSpace;
use crate::error::{Error, Result};
use crate::fork::ForkMark;
use crate::hbm::Hbm;
use crate::irq::Vectors;
use crate::mmio::{Bar, Doorbell, until};
use crate::pci::Root;
use crate::transport::opening::{self, Backend};
use crate::transport::user::{self, User};
use crate::transport::{CONFIG_REGION, Transport};
use crate::units::{Generation, Uuid};

mod asking;
mod drain;
mod faults;
mod giving;
mod identity;
mod interrupts;
mod reset;
mod scrub;

pub use faults::FaultLog;
pub use identity::DeviceInfo;
pub use reset::ResetReport;
pub use scrub::Scrub;
use scrub::Scrubbing;

/// What the library can use.
const FEATURES_KNOWN: u64 = 1 << Feature::Arm.code()
    | 1 << Feature::Scrub.code()
    | 1 << Feature::Profile.code()
    | 1 << Feature::Graph.code()
    | 1 << Feature::Priority.code();
/// Most interrupt vectors asked for: one for events and one a queue, shared beyond.
const VECTORS_WANTED: u32 = 64;
/// Between two looks at a device that a kernel may be hiding.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// PCI command register, in config space.
const PCI_COMMAND: u64 = 4;
/// Its bits: memory space, bus mastering.
const PCI_MEMORY: u16 = 1 << 1;
const PCI_MASTER: u16 = 1 << 2;

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To run jobs: owns the device; observers may watch.
    Compute,
    /// To watch beside an owner: identity, telemetry, faults; never disturbs it.
    Observe,
    /// To own the device with nobody watching.
    Exclusive,
}

/// What only an owner has.
#[derive(Debug)]
struct Owner {
    vectors: Vectors,
    doorbells: Arc<Bar>,
    dma: Arc<DmaSpace>,
    hbm: Arc<Hbm>,
}

/// An open device. Thread-safe. Dropped: it is drained, bus mastering goes off, interrupts stop,
/// then the BARs and the connection are let go. What was made from it keeps its transport alive
/// until its own memory is unmapped.
#[derive(Debug)]
pub struct Device {
    owner: Option<Owner>,
    registers: Arc<Bar>,
    transport: Arc<dyn Transport>,
    info: DeviceInfo,
    role: Role,
    /// Bus mastering was turned on.
    masters: bool,
    /// A waiter was told that the host wants it back.
    wish_known: AtomicBool,
    /// The host has it back.
    given_back: AtomicBool,
    scrubbing: Scrubbing,
    generation: AtomicU64,
    users: Mutex<Vec<Weak<dyn Generational>>>,
    mark: ForkMark,
}

/// What does not outlive a generation of the device.
pub(crate) trait Generational: Send + Sync + std::fmt::Debug {
    /// The device was reset: what was made before is stale.
    fn expire(&self);
    /// Whether every job that was submitted is done.
    fn is_idle(&self) -> bool;
    /// The device goes away: no job of it ends any other way.
    fn lose(&self, why: &'static str);
}

impl Device {
    /// Opens a device by UUID, PCI address or `vfio-user:PATH`. At most 20 ms on the emulator; a PCI
    /// function is reset by the kernel as it is opened, which takes 100 ms more. A PCI function has
    /// no observers: `Observe` reads one that nobody owns.
    ///
    /// # Errors
    /// `NotFound`, `Permission`, `Busy` (names the holder; a PCI function's after 1 s, or after 5 s
    /// where it is plain that no process holds it), `Version`, `Protocol`, `Lost`,
    /// `Unsupported`, `NeedsReset` (its firmware gave up, or its HBM could not be scrubbed).
    pub fn open(name: &str, role: Role) -> Result<Arc<Self>> {
        Self::open_by(name, role, crate::discover::backend()?)
    }

    /// As `open`, a PCI function by this backend; `JALAPENO_BACKEND` is not looked at.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_by(name: &str, role: Role, backend: Backend) -> Result<Arc<Self>> {
        if let Some(path) = name.strip_prefix("vfio-user:") {
            return Self::open_socket(path, role);
        }
        match discover::resolve(name)? {
            Resolved::Named(found) => match found.strip_prefix("vfio-user:") {
                Some(path) => Self::open_socket(path, role),
                None => Self::open_function(&found, role, backend, None),
            },
            Resolved::OneOf {
                addresses,
                uuid,
                seen,
            } => addresses
                .iter()
                // What cannot be opened, or turns out to be another, is not it.
                .find_map(|at| Self::open_function(at, role, backend, Some(uuid)).ok())
                .ok_or_else(|| discover::unseen(name, seen)),
        }
    }

    fn open_function(
        address: &str,
        role: Role,
        backend: Backend,
        wanted: Option<Uuid>,
    ) -> Result<Arc<Self>> {
        let function = Root::default().function(address);
        let transport = opening::open(&function, backend, role != Role::Observe)?;
        Self::open_as(transport, address.to_owned(), role, wanted)
    }

    fn open_socket(path: &str, role: Role) -> Result<Arc<Self>> {
        let ask = match role {
            Role::Compute => user::Role::Owner,
            Role::Observe => user::Role::Observer,
            Role::Exclusive => user::Role::Exclusive,
        };
        let transport = User::connect(Path::new(path), ask)?;
        Self::open_transport(Arc::new(transport), format!("vfio-user:{path}"), role)
    }

    /// Opens the device behind a transport that is already there.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_transport(
        transport: Arc<dyn Transport>,
        name: String,
        role: Role,
    ) -> Result<Arc<Self>> {
        Self::open_as(transport, name, role, None)
    }

    /// As `open_transport`; a device with another UUID than `wanted` is let go of untouched.
    fn open_as(
        transport: Arc<dyn Transport>,
        name: String,
        role: Role,
        wanted: Option<Uuid>,
    ) -> Result<Arc<Self>> {
        let owns = role != Role::Observe;
        // Nothing is written to a device before it is known to be one of ours, and it masters no
        // bus before it has said who it is.
        identity::confirm(&transport, &name)?;
        if owns {
            decode(&transport)?;
        }
        let registers = Arc::new(Bar::open(&transport, BAR_REGISTERS, BAR0_BYTES, owns)?);
        let mut info = identity::read(&registers, name, transport.describe())?;
        if wanted.is_some_and(|wanted| wanted != info.uuid) {
            return Err(Error::NotFound {
                name: info.name,
                why: format!("its UUID is {}", info.uuid),
            });
        }
        let generation = registers.read::<GenerationRegister>()?.0;
        let mut device = Self {
            masters: false,
            wish_known: AtomicBool::new(false),
            given_back: AtomicBool::new(false),
            scrubbing: Scrubbing::default(),
            owner: None,
            registers,
            transport,
            role,
            generation: AtomicU64::new(generation),
            users: Mutex::default(),
            mark: ForkMark::here(),
            info: info.clone(),
        };
        if owns {
            device.wait_ready()?;
            device.lift_quiesce()?;
            info.features = device.accept_features()?;
            // From here on a device that is dropped, also unopened, has it taken away again.
            device.masters = true;
            master(&device.transport, true)?;
            let owner = device.own(&info.capabilities)?;
            info.vectors = owner.vectors.count();
            device.owner = Some(owner);
            device.info = info;
        }
        log::info!("opened {} as {role:?}", device.info.name);
        Ok(Arc::new(device))
    }

    fn own(&self, capabilities: &Capabilities) -> Result<Owner> {
        let queues = &capabilities.queues;
        let doorbells = u64::from(queues.count) * u64::from(queues.doorbell_stride);
        let memory = &capabilities.memory;
        Ok(Owner {
            vectors: Vectors::open(&self.transport, queues.vectors.min(VECTORS_WANTED))?,
            doorbells: Arc::new(Bar::open(&self.transport, BAR_DOORBELLS, doorbells, true)?),
            dma: Arc::new(DmaSpace::new(&self.transport, capabilities.iova.last)?),
            hbm: Hbm::new(
                memory.hbm_base,
                memory.hbm_bytes,
                memory.small_page,
                memory.large_page,
            )?,
        })
    }

    /// Negotiates anew: what is offered and known. A reset clears what was accepted.
    fn accept_features(&self) -> Result<u64> {
        let wanted = self.registers.read::<FeaturesOffered>()?.0 & FEATURES_KNOWN;
        self.registers.write(FeaturesAccepted(wanted))?;
        let got = self.registers.read::<FeaturesAccepted>()?.0;
        if got & !wanted != 0 {
            return Err(Error::Protocol {
                code: FaultCode::BadDiscovery,
                what: format!("features {got:#x} are on, {wanted:#x} were accepted"),
            });
        }
        Ok(got)
    }

    /// Waits until the firmware serves; a device that cannot any more says so.
    fn wait_ready(&self) -> Result<()> {
        let boot = Duration::from_micros(u64::from(self.info.capabilities.time.boot_us));
        until(
            "start of the device's firmware",
            boot,
            || match DeviceState::from_code(self.registers.read::<Status>()?.state()) {
                Some(DeviceState::Ready | DeviceState::Degraded | DeviceState::Quiescing) => {
                    Ok(true)
                }
                Some(DeviceState::Wedged) => Err(Error::NeedsReset {
                    why: "its resets failed: reset the bus, or replace the card",
                }),
                _ => Ok(false),
            },
        )
    }

    /// Who it is.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What it was opened for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its registers. Observers read only.
    #[must_use]
    pub fn registers(&self) -> &Arc<Bar> {
        &self.registers
    }

    /// The transport behind it.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The generation this handle stands for: what was made in an earlier one is stale.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Whether the handle can be used: not after fork(), not when the device is known to be gone.
    /// No register is read.
    ///
    /// # Errors
    /// `Forked`, `Lost`.
    pub fn check(&self) -> Result<()> {
        self.mark.check()?;
        if self.transport.is_lost() {
            return Err(Error::Lost {
                why: "its connection broke, or its link failed (AER): open it again",
            });
        }
        if self.given_back.load(Ordering::Acquire) {
            return Err(Error::Lost {
                why: giving::GIVEN_BACK,
            });
        }
        Ok(())
    }

    /// As `check`, and asks the device: it answers, and nobody reset it behind our back.
    ///
    /// # Errors
    /// `Forked`, `Lost`, `Stale`.
    pub fn verify(&self) -> Result<()> {
        self.check()?;
        self.answers()?;
        if self.registers.read::<GenerationRegister>()?.0 != self.generation().0 {
            // A link that failed is told of before the kernel resets it.
            self.check()?;
            return Err(Error::Stale { what: "the device" });
        }
        Ok(())
    }

    /// The device answers, or does again once the kernel that resets it shows it.
    fn answers(&self) -> Result<()> {
        let hidden_for = self.transport.describe().hidden_for;
        let begin = Instant::now();
        loop {
            let told = self.registers.confirm();
            if told.is_ok() || begin.elapsed() >= hidden_for {
                return told;
            }
            self.check()?;
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Tells `user` of each new generation that this handle begins.
    pub(crate) fn tell(&self, user: Weak<dyn Generational>) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|user| user.strong_count() > 0);
        users.push(user);
    }

    fn begin_generation(&self, generation: u64) {
        if self.generation.swap(generation, Ordering::AcqRel) == generation {
            return;
        }
        for user in self.users() {
            user.expire();
        }
    }

    /// Those who use it now.
    fn users(&self) -> Vec<Arc<dyn Generational>> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.iter().filter_map(Weak::upgrade).collect()
    }

    fn owner(&self) -> Result<&Owner> {
        self.mark.check()?;
        self.owner.as_ref().ok_or_else(|| Error::Unsupported {
            what: format!(
                "{} is open as an observer: it can be read only",
                self.info.name
            ),
        })
    }

    /// The device's view of host memory.
    ///
    /// # Errors
    /// `Unsupported` for an observer, `Forked`.
    pub fn dma(&self) -> Result<&Arc<DmaSpace>> {
        Ok(&self.owner()?.dma)
    }

    /// Its memory. Before it is handed out for the first time all of it is scrubbed (see `scrub`).
    ///
    /// # Errors
    /// As `dma` and `scrub`.
    pub fn hbm(&self) -> Result<&Arc<Hbm>> {
        self.scrub()?;
        Ok(&self.owner()?.hbm)
    }

    /// One queue's doorbell page.
    ///
    /// # Errors
    /// `Invalid` where there is no such queue; as `dma`.
    pub fn doorbell(&self, queue: u32) -> Result<Doorbell> {
        let queues = &self.info.capabilities.queues;
        if queue >= queues.count {
            return Err(Error::Invalid {
                what: format!("queue {queue}: the device has 0 to {}", queues.count - 1),
            });
        }
        Doorbell::open(&self.owner()?.doorbells, queue, queues.doorbell_stride)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.masters || !self.mark.is_ours() || self.given_back.load(Ordering::Acquire) {
            return;
        }
        // One that is lost is not asked to drain. Yet it may be there and master the bus, where all
        // that is known is an error of its link.
        let is_lost = self.transport.is_lost();
        if self.owner.is_some()
            && !is_lost
            && let Err(error) = self.drain()
        {
            log::warn!("close {}: {error}", self.info.name);
        }
        match master(&self.transport, false) {
            Err(error) if is_lost => log::debug!("close {}: {error}", self.info.name),
            Err(error) => log::warn!("close {}: bus mastering stays on: {error}", self.info.name),
            Ok(()) => {}
        }
    }
}

/// Lets the device answer in its BARs. PCI command register, bit 1.
fn decode(transport: &Arc<dyn Transport>) -> Result<()> {
    command(transport, |was| was | PCI_MEMORY)
}

/// Lets the device reach host memory, or not. PCI command register, bits 1 and 2.
fn master(transport: &Arc<dyn Transport>, on: bool) -> Result<()> {
    command(transport, |was| match on {
        true => was | PCI_MEMORY | PCI_MASTER,
        false => was & !PCI_MASTER,
    })
}

fn command(transport: &Arc<dyn Transport>, change: impl Fn(u16) -> u16) -> Result<()> {
    let mut word = [0; 2];
    transport.read(CONFIG_REGION, PCI_COMMAND, &mut word)?;
    let was = u16::from_le_bytes(word);
    let bits = change(was);
    if bits == was {
        return Ok(());
    }
    transport.write(CONFIG_REGION, PCI_COMMAND, &bits.to_le_bytes())
}
