//! A machine without an IOMMU: a card can be seen, and is refused with the reason.

use std::fs;

use jalapeno::transport::CONFIG_REGION;
use jalapeno::transport::opening::Backend;
use jalapeno::{Device, Role};

use crate::stage::{Stage, function, variable};

pub fn refused_with_the_reason(stage: &Stage) -> String {
    let card = stage.card();
    let function = function(card);
    assert_eq!(function.group(), None, "there is no IOMMU");
    fs::write(function.path().join("driver_override"), &stage.driver).expect("an override");
    // Where the kernel has no mode without an IOMMU, the driver refuses the card here.
    let probed = fs::write("/sys/bus/pci/drivers_probe", card);
    let bound = function.driver();
    if variable("KERNEL") == "debug" {
        probed.expect("bound");
        assert_eq!(bound.as_deref(), Some("vfio-pci"));
        assert!(function.is_without_iommu());
    } else {
        assert_eq!(bound, None, "vfio-pci refuses it");
    }
    let error = Device::open(card, Role::Compute)
        .expect_err("refused")
        .to_string();
    assert!(error.contains("IOMMU on"), "{error}");
    match function.is_without_iommu() {
        true => format!("{error}; {}", watched_by_name(card)),
        false => error,
    }
}

/// By an option that says what it is, the card is watched; used it is not.
fn watched_by_name(card: &str) -> String {
    let by = |role| Device::open_by(card, role, Backend::UnsafeNoIommu);
    let error = by(Role::Compute).expect_err("never used").to_string();
    assert!(error.contains("watched and not used"), "{error}");
    let device = by(Role::Observe).expect("watched");
    device.verify().expect("it answers");
    let backend = device.info().backend;
    assert_eq!(backend, "unsafe-noiommu");
    let telemetry = device.telemetry().expect("its sensors");
    assert!(device.dma().is_err(), "no memory");
    let mut command = [0; 2];
    let read = device.transport().read(CONFIG_REGION, 4, &mut command);
    read.expect("its command register");
    assert_eq!(u16::from_le_bytes(command) & 4, 0, "no bus mastering");
    let entries = telemetry.entries.len();
    assert!(entries > 10, "{entries} entries");
    format!("{backend}: {entries} entries of telemetry")
}
