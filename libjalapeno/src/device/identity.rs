//! Who a device is: read from its registers once, when it is opened.

use std::sync::Arc;

use jalapeno_hw::faults::FaultCode;
use jalapeno_hw::pci::{DEVICE, VENDOR};
use jalapeno_hw::regs::{
    BAR0_BYTES, BootId, CAPS_BYTES, CapsPointer, FeaturesOffered, MAGIC, Magic, Platform,
    PlatformId, Serial, UuidHigh, UuidLow, VERSION_MAJOR, Version,
};

use crate::capabilities::{self, Capabilities};
use crate::error::{Error, Result};
use crate::mmio::Bar;
use crate::transport::opening::another_device;
use crate::transport::{CONFIG_REGION, Description, Transport};
use crate::units::Uuid;

/// Bytes of the capability page that are read at once; it is a multiple of this.
const CAPS_STEP: usize = 128;

/// Who a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What `Device::open` takes.
    pub name: String,
    /// How it is reached: `vfio-user`, `vfio-group` or `vfio-cdev`.
    pub backend: &'static str,
    /// What answers; the raw number where the library does not know it.
    pub platform: std::result::Result<Platform, u32>,
    /// The device's UUID, the same for ever.
    pub uuid: Uuid,
    /// Board serial number.
    pub serial: u64,
    /// Major and minor version of the host interface.
    pub version: (u32, u32),
    /// Feature bits that the device offers.
    pub features_offered: u64,
    /// Feature bits in use.
    pub features: u64,
    /// Differs at every start of the firmware.
    pub boot_id: u64,
    /// Who owned the device when this observer came; `None`: nobody, or that cannot be known.
    pub owner_pid: Option<u32>,
    /// Most interrupt vectors that there can be; 0 for an observer. From Linux 6.5 on they are added one at a
    /// time, and where the host has no more to give queues share those that it gave.
    pub vectors: u32,
    /// What the capability records say.
    pub capabilities: Capabilities,
}

/// Whether a function is a Jalapeño by its ids in configuration space: what sysfs said, or nobody,
/// may not be what was opened.
pub(super) fn confirm(transport: &Arc<dyn Transport>, name: &str) -> Result<()> {
    let mut ids = [0; 4];
    transport.read(CONFIG_REGION, 0, &mut ids)?;
    let [a, b, c, d] = ids;
    let ids = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    match ids {
        (VENDOR, DEVICE) => Ok(()),
        ids => Err(another_device(name, Some(ids))),
    }
}

/// Reads who the device is, once; everything is checked here.
pub(super) fn read(registers: &Bar, name: String, reached: &Description) -> Result<DeviceInfo> {
    let magic = registers.read::<Magic>()?.0;
    if magic != MAGIC {
        return Err(Error::Protocol {
            code: FaultCode::BadDiscovery,
            what: format!("{name}: MAGIC reads {magic:#010x}, not {MAGIC:#010x}: another device"),
        });
    }
    let version = registers.read::<Version>()?;
    if version.major() != VERSION_MAJOR {
        return Err(Error::Version {
            what: "host interface",
            found: format!("{}.{}", version.major(), version.minor()),
            needed: format!("{VERSION_MAJOR}.x"),
        });
    }
    let platform = registers.read::<PlatformId>()?.0;
    let at = registers.read::<CapsPointer>()?.0;
    let end = u64::from(at) + u64::from(CAPS_BYTES);
    if !at.is_multiple_of(8) || end > BAR0_BYTES {
        return Err(Error::Protocol {
            code: FaultCode::BadDiscovery,
            what: format!("{name}: CAPS is {at:#x}"),
        });
    }
    let mut records = Vec::new();
    // Every word read is a round trip to the card, so not the whole page.
    while records.len() < CAPS_BYTES as usize && !capabilities::is_whole(&records) {
        let read = records.len();
        records.resize(read + CAPS_STEP, 0);
        registers.copy(u64::from(at) + read as u64, &mut records[read..])?;
    }
    let capabilities = capabilities::parse(&records)?;
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&registers.read::<UuidLow>()?.0.to_le_bytes());
    uuid[8..].copy_from_slice(&registers.read::<UuidHigh>()?.0.to_le_bytes());
    Ok(DeviceInfo {
        name,
        backend: reached.backend,
        platform: Platform::from_code(platform).ok_or(platform),
        uuid: Uuid(uuid),
        serial: registers.read::<Serial>()?.0,
        version: (version.major(), version.minor()),
        features_offered: registers.read::<FeaturesOffered>()?.0,
        features: 0,
        boot_id: registers.read::<BootId>()?.0,
        owner_pid: reached.owner_pid,
        vectors: 0,
        capabilities,
    })
}
