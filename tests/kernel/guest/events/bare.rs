//! A machine without an IOMMU: a card can be seen, and is refused with the reason.

use std::fs;

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
    error
}
