//! The boots for what only a kernel can show: removal, hot plug, errors of the link, no IOMMU, death.

use crate::{Boot, CARD, Driver, Processors};

/// What a machine has beside its cards, and on which legs it runs.
#[derive(Debug)]
pub struct Beside {
    /// Cards that are plugged in while it runs. They have no MSI-X: QEMU 11.1 aborts when a
    /// vfio-user card with MSI-X is unplugged.
    pub spares: usize,
    /// Whether the last card shares its slot, and so its IOMMU group, with a serial port.
    pub company: bool,
    /// Whether there is an IOMMU.
    pub iommu: bool,
    /// Whether the guest's own end is not waited for.
    pub hangs: bool,
    /// Modules beside the leg's.
    pub modules: &'static [&'static str],
    /// More kernel parameters.
    pub append: &'static str,
    /// More options of the first cards' emulators, by card.
    pub options: &'static [&'static [&'static str]],
    /// The only legs it runs on, and why not on others.
    pub only: Option<(&'static [&'static str], &'static str)>,
}

impl Beside {
    /// An ordinary machine, on every leg.
    pub const NOTHING: Self = Self {
        spares: 0,
        company: false,
        iommu: true,
        hangs: false,
        modules: &[],
        append: "",
        options: &[],
        only: None,
    };

    /// Why it does not run on a leg.
    pub fn absent_from(&self, leg: &str) -> Option<&'static str> {
        self.only
            .filter(|(legs, _)| !legs.contains(&leg))
            .map(|(_, why)| why)
    }
}

/// Beside the cards of the boots of many stories. Nobody has the serial port until a story has it taken.
pub const MANY: Beside = Beside {
    spares: 1,
    company: true,
    modules: &["aer_inject"],
    ..Beside::NOTHING
};

/// See the file's head.
pub const BOOTS: [Boot; 7] = [
    Boot {
        name: "events",
        stock: &[
            "edu,dma_mask=0xffffffffffffffff",
            "pcie-root-port,id=rp0,chassis=1,slot=1",
            "igb,bus=rp0",
        ],
        cards: 2,
        processors: Processors::One,
        driver: Driver::VfioPci,
        bind: "a1a0:0001 1234:11e8 8086:10c9",
        stories: &[
            "stock-devices",
            "lspci",
            "card",
            "owners",
            "doctor",
            "events",
        ],
        beside: MANY,
    },
    Boot {
        name: "trouble", // cards that are wrong, and one whose scrub is slow, fails and hangs
        stock: &[],
        cards: 4,
        processors: Processors::Two,
        driver: Driver::Shim,
        bind: "", // the stories bind them: some are to be refused
        stories: &["events"],
        beside: Beside {
            options: &[
                &["--fault", "time-absurd"],
                &["--bar0", "4K", "--no-msix"], // whose table would be in what is missing
                &[
                    "--scrub-ms",
                    "1000",
                    "--fault",
                    "scrub-fails@4",
                    "--fault",
                    "scrub-fails@5",
                    "--fault",
                    "scrub-overruns@6",
                ],
                &["--fault", "telemetry-garbage"],
            ],
            ..Beside::NOTHING
        },
    },
    Boot {
        name: "binding",
        stock: &[],
        cards: 2,
        processors: Processors::One,
        driver: Driver::Shim,
        bind: "", // that is what the story does
        stories: &["binding"],
        beside: Beside::NOTHING,
    },
    Boot {
        name: "bare",
        stock: &[],
        cards: 1,
        processors: Processors::One,
        driver: Driver::VfioPci,
        bind: "", // the story binds it: that is what fails without an IOMMU
        stories: &["events", "doctor"],
        beside: Beside {
            iommu: false,
            append: "vfio.enable_unsafe_noiommu_mode=1",
            only: Some((
                &["6.12", "debug"],
                "a machine without an IOMMU is the same to all of Debian's kernels: 6.12 stands for \
                 them; the mode without one is in the debug kernel alone",
            )),
            ..Beside::NOTHING
        },
    },
    Boot {
        name: "host", // set up as its users would, with Debian's own udev
        stock: &[],
        cards: 2,
        processors: Processors::One,
        driver: Driver::Shim,
        bind: CARD,
        stories: &["doctor", "setup"],
        beside: Beside {
            only: Some((
                &["6.12", "6.12-cdev"],
                "udev and jalctl setup see no difference between kernels: 6.12 stands for them, by \
                 group and by device node",
            )),
            ..Beside::NOTHING
        },
    },
    Boot {
        name: "unmapped", // an IOMMU that remaps no interrupts, and a card whose group is shared
        stock: &[],
        cards: 1,
        processors: Processors::One,
        driver: Driver::VfioPci,
        bind: "",
        stories: &["doctor"],
        beside: Beside {
            company: true,
            append: "intremap=off",
            only: Some((
                &["6.12"],
                "interrupt remapping is switched off alike on all of Debian's kernels",
            )),
            ..Beside::NOTHING
        },
    },
    Boot {
        name: "dying",
        stock: &[],
        cards: 1,
        processors: Processors::One,
        driver: Driver::VfioPci,
        bind: CARD,
        stories: &["events"],
        beside: Beside {
            hangs: true,
            only: Some((
                &["6.12"],
                "a card whose server dies holds the machine up for a minute: one leg",
            )),
            ..Beside::NOTHING
        },
    },
];
