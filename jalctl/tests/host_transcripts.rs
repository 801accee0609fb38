//! Transcripts of doctor and setup on played hosts: what they print, word by word.
//!
//! `tests/cli/host/*.md` are the transcripts; `TRYCMD=overwrite` writes what is printed today.

use std::os::unix::fs::symlink;
use std::path::Path;

mod played_host;

use played_host::{CARD, Played};

#[test]
fn transcripts() {
    let good = Played::good("transcript-good");
    let new = Played::good("transcript-new");
    // As a machine is on the day that the card came.
    new.write("proc/cmdline", "root=/dev/sda1\n");
    new.remove("sys/class/iommu");
    new.remove("sys/kernel/iommu_groups");
    new.remove(&format!("sys/bus/pci/devices/{CARD}"));
    new.function(CARD, (0xA1A0, 1), 7, None);
    new.remove(&format!("sys/bus/pci/devices/{CARD}/iommu_group"));
    new.remove("sys/kernel/iommu_groups");
    for module in ["vfio", "vfio_iommu_type1", "vfio_pci", "iommufd"] {
        new.remove(&format!("sys/module/{module}"));
    }
    let modules =
        "drivers/vfio/vfio.ko:\ndrivers/vfio/vfio_iommu_type1.ko:\ndrivers/vfio/pci/vfio-pci.ko:\n";
    new.write("lib/modules/6.12.95+deb12-amd64/modules.dep", modules);
    new.write("lib/modules/6.12.95+deb12-amd64/modules.builtin", "");
    new.remove("dev");
    new.write(
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "0\n",
    );
    new.write("etc/group", "root:x:0:\n");
    new.memlock("8388608", "8388608");
    let image = Played::empty("transcript-image");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cli/host");
    let folder = folder.canonicalize().expect("tests/cli/host");
    let jalctl = Path::new(env!("CARGO_BIN_EXE_jalctl"));
    // The transcripts name the hosts by folders that lie where they run.
    let base = Played::empty("transcripts");
    for (name, host) in [("good", &good), ("new", &new), ("image", &image)] {
        symlink(host.path("."), base.path(name)).expect("a link");
    }
    std::env::set_current_dir(base.path("")).expect("a folder");
    let cases = trycmd::TestCases::new();
    cases
        .register_bin("jalctl", jalctl)
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100");
    let real = image.path("").canonicalize().expect("a folder");
    cases
        .insert_var("[IMAGE]", real.display().to_string())
        .expect("a variable");
    cases.case(folder.join("*.md"));
    cases.run();
    let files = std::fs::read_dir(folder).expect("tests/cli/host").count();
    assert!(files >= 2, "only {files} transcripts");
}
