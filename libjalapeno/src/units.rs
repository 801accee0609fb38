//! Units: a meaning is a type, so that an IOVA is never taken for a device address.

use std::fmt;
use std::ops::Add;

/// An address in host memory as the device sees it, through the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iova(pub u64);

/// Any address that a packet can name: an IOVA or a place in HBM. Host interface 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceAddr(pub u64);

impl From<Iova> for DeviceAddr {
    fn from(iova: Iova) -> Self {
        Self(iova.0)
    }
}

impl Add<u64> for DeviceAddr {
    type Output = Self;
    fn add(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl Add<u64> for Iova {
    type Output = Self;
    fn add(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for DeviceAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A packet's sequence number in its queue: the first is 1, and it never wraps. Host interface 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Seq(pub u64);

/// A moment in device time, in ticks. Host interface 11.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

impl Ticks {
    /// "No deadline" where a packet's deadline is meant.
    pub const NONE: Self = Self(0);
}

/// How often the device was reset; what belongs to an earlier generation is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// The device's UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Uuid {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let dashes_at = [8, 13, 18, 23];
        if text.len() != 36 || !text.is_ascii() {
            return Err(());
        }
        if dashes_at.iter().any(|&at| text.as_bytes()[at] != b'-') {
            return Err(());
        }
        let hex: String = text.chars().filter(|&c| c != '-').collect();
        if hex.len() != 32 {
            return Err(());
        }
        let mut bytes = [0; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| ())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_reads_back_what_it_prints_and_refuses_the_rest() {
        let text = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        assert_eq!(text.parse::<Uuid>().unwrap().to_string(), text);
        for bad in [
            "",
            "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1fg",
            "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f",
            "é0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1",
        ] {
            assert_eq!(bad.parse::<Uuid>(), Err(()), "{bad}");
        }
    }
}
