//! A machine with one card, played in a folder; its kernel is `kernel`'s.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jalapeno::device::{Device, Role};
use jalapeno::error::Result;
use jalapeno::pci::Root;
use jalapeno::transport::opening::{self, Backend};
use jalapeno_emulator::board::Board;
use jalapeno_tests::{SOON, board};

use crate::kernel::{self, Manners};

/// The card's address.
const ADDRESS: &str = "0000:02:00.0";

/// The process's calls go to one machine at a time.
static TURN: Mutex<()> = Mutex::new(());

/// See the file's head; gone when dropped.
#[derive(Debug)]
pub struct Machine {
    path: PathBuf,
    board: Board,
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    pub fn begin(manners: Manners) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("jalapeno-vfio-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        let board = board();
        let machine = Self {
            path,
            board,
            _turn: turn,
        };
        let function = format!("sys/bus/pci/devices/{ADDRESS}");
        machine.write(&format!("{function}/vendor"), "0xa1a0\n");
        machine.write(&format!("{function}/device"), "0x0001\n");
        machine.write(&format!("{function}/vfio-dev/vfio0/dev"), "511:0\n");
        machine.write("sys/kernel/iommu_groups/7/type", "DMA\n");
        machine.link(
            "sys/kernel/iommu_groups/7",
            &format!("{function}/iommu_group"),
        );
        machine.write("sys/bus/pci/drivers/vfio-pci/new_id", "");
        machine.link(
            "sys/bus/pci/drivers/vfio-pci",
            &format!("{function}/driver"),
        );
        for node in [
            "dev/vfio/vfio",
            "dev/vfio/7",
            "dev/vfio/devices/vfio0",
            "dev/iommu",
        ] {
            machine.write(node, "");
        }
        std::fs::create_dir_all(machine.path.join("proc")).unwrap();
        let root = machine.path.canonicalize().unwrap();
        kernel::begin(root, machine.board.path().to_owned(), manners);
        machine
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.path.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn link(&self, to: &str, from: &str) {
        let from = self.path.join(from);
        std::os::unix::fs::symlink(self.path.join(to), from).unwrap();
    }

    /// Opens the card for computing.
    pub fn open(&self, backend: Backend) -> Result<Arc<Device>> {
        let function = Root::at(&self.path).function(ADDRESS);
        let transport = opening::open(&function, backend, true)?;
        Device::open_transport(transport, ADDRESS.into(), Role::Compute)
    }

    /// Waits until the card has let go of its last owner, and sees nothing of the host any more.
    pub fn card_is_free(&self, after: &str) {
        let begin = Instant::now();
        let now = || {
            let counters = self.board.counters();
            (counters.connections, counters.regions)
        };
        while now() != (0, 0) {
            assert!(begin.elapsed() < SOON, "{after}: {:?} are left", now());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What this process holds: descriptors, and mappings of shared memory.
    pub fn held(&self) -> (usize, usize) {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ours = |line: &&str| line.contains("/memfd:jalapeno");
        (files.count(), maps.lines().filter(ours).count())
    }

    /// Waits until that is what it was; the board lets go of its own a moment later.
    pub fn holds_again(&self, before: (usize, usize), after: &str) {
        let begin = Instant::now();
        while self.held() != before {
            let held = self.held();
            assert!(begin.elapsed() < SOON, "{after}: {held:?}, not {before:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A process has the card's own node open, as procfs shows it.
    pub fn is_held_by(&self, pid: u32) {
        let folder = self.path.join(format!("proc/{pid}/fd"));
        std::fs::create_dir_all(&folder).unwrap();
        let node = self.path.join("dev/vfio/devices/vfio0");
        std::os::unix::fs::symlink(node, folder.join("7")).unwrap();
    }

    pub fn nothing_is_left(&self, after: &str) {
        self.card_is_free(after);
        assert!(kernel::current().is_none(), "{after}: the card is open");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        kernel::end();
        let path: &Path = &self.path;
        let _ = std::fs::remove_dir_all(path);
    }
}
