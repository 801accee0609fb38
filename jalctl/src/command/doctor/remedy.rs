//! Remedies: the commands that mend a host, as its own distribution spells them.

use jalapeno::host::{Host, Processor};

/// What setup does in one go.
pub const SETUP: &str = "sudo jalctl setup --apply";

/// Into the firmware's own menu at the next boot.
pub const FIRMWARE: &str = "sudo systemctl reboot --firmware-setup";

/// A virtual machine with an IOMMU that remaps interrupts, by the example of QEMU.
pub const VIRTUAL: &str = "qemu-system-x86_64 -machine q35,kernel-irqchip=split \
                           -device intel-iommu,intremap=on,caching-mode=on";

/// Gives the kernel a parameter for good.
pub fn add_parameter(host: &Host, word: &str) -> String {
    if host.has("sbin/grubby") || host.has("usr/sbin/grubby") {
        return format!("sudo grubby --update-kernel=ALL --args={word} && sudo reboot");
    }
    // Appended, so that what stands in /etc/default/grub is kept.
    format!(
        "echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {word}\"' | \
         sudo tee -a /etc/default/grub && sudo update-grub && sudo reboot"
    )
}

/// Takes a parameter from the kernel for good.
pub fn remove_parameter(host: &Host, word: &str) -> String {
    if host.has("sbin/grubby") || host.has("usr/sbin/grubby") {
        return format!("sudo grubby --update-kernel=ALL --remove-args={word} && sudo reboot");
    }
    format!("sudo sed -i 's/\\b{word}\\b//' /etc/default/grub && sudo update-grub && sudo reboot")
}

/// The parameter that turns the IOMMU on.
pub fn iommu_word(host: &Host) -> &'static str {
    match host.kernel.processor {
        Processor::Amd => "amd_iommu=force_enable",
        Processor::Intel | Processor::Other => "intel_iommu=on",
    }
}

/// The distribution's whole kernel, with the modules that small ones lack.
pub fn whole_kernel(host: &Host) -> String {
    if host.has("usr/bin/dnf") {
        "sudo dnf install kernel-modules && sudo reboot".into()
    } else if host.kernel.release.ends_with("-generic") {
        format!(
            "sudo apt-get install linux-modules-extra-{}",
            host.kernel.release
        )
    } else {
        "sudo apt-get install linux-image-$(dpkg --print-architecture) && sudo reboot".into()
    }
}

/// A newer kernel of the distribution.
pub fn newer_kernel(host: &Host) -> &'static str {
    if host.has("usr/bin/dnf") {
        "sudo dnf upgrade kernel && sudo reboot"
    } else {
        "sudo apt-get update && sudo apt-get install linux-image-$(dpkg --print-architecture) && sudo reboot"
    }
}

/// A kernel with iommufd, from its source: distributions that leave it out have no package for it.
pub const IOMMUFD: &str =
    "scripts/config -m IOMMUFD -e VFIO_DEVICE_CDEV && make olddefconfig bindeb-pkg";

/// Loads modules now.
pub fn load(modules: &[&str]) -> String {
    format!("sudo modprobe -a {}", modules.join(" "))
}

/// Makes a user a member of a group.
pub fn join(group: &str, user: &str) -> String {
    format!("sudo usermod -aG {group} {user}")
}

/// Whether this is a container's view of a machine.
pub fn is_contained(host: &Host) -> bool {
    host.has(".dockerenv") || host.has("run/.containerenv")
}

/// Applies udev's rules to VFIO's nodes that are there.
pub const TRIGGER: &str = "sudo udevadm control --reload && \
                           sudo udevadm trigger --subsystem-match=vfio --subsystem-match=vfio-dev";
