//! The BAR that shows the card's memory: its size, and the sizes it could have.

use super::file;
use crate::pci::Function;

/// The kernel's mark of a BAR that it found no room for (IORESOURCE_UNSET).
const UNSET: u64 = 0x2000_0000;

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Bytes; 0 where the BAR has no address; `None` where sysfs does not say.
    pub bytes: Option<u64>,
    /// The sizes it can be given, in bytes, small ones first; none where it cannot be resized.
    pub sizes: Vec<u64>,
}

impl Window {
    pub(super) fn look(function: &Function, bar: u32) -> Self {
        let text = |name: &str| file::text(&function.path().join(name));
        let line = |text: String| text.lines().nth(bar as usize).map(str::to_owned);
        let resize = text(&format!("resource{bar}_resize"));
        Self {
            bytes: text("resource").and_then(line).as_deref().and_then(bytes),
            sizes: resize.as_deref().map(sizes).unwrap_or_default(),
        }
    }

    /// The largest size it could have, where that is more than it has.
    #[must_use]
    pub fn could_be(&self) -> Option<u64> {
        let largest = *self.sizes.last()?;
        (largest > self.bytes?).then_some(largest)
    }
}

/// A line of `resource`: first address, last address, flags.
fn bytes(line: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    match (number()?, number()?, number()?) {
        (_, _, flags) if flags & UNSET != 0 => Some(0),
        (0, 0, _) => Some(0),
        (first, last, _) => last.checked_sub(first)?.checked_add(1),
    }
}

/// A mask in which bit n stands for 2^n MiB.
fn sizes(mask: &str) -> Vec<u64> {
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap_or(0);
    // 2^43 MiB and more is no size of a BAR.
    let possible = (0..44).filter(|bit| mask >> bit & 1 == 1);
    possible.map(|bit| 1 << (20 + bit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bits_of_mebibytes() {
        assert_eq!(sizes("0000000000040100\n"), [256 << 20, 256 << 30]);
        assert_eq!(sizes("ffffffffffffffff").len(), 44);
        for nonsense in ["", "0", "yes", "1ffffffffffffffff", "-1"] {
            assert!(sizes(nonsense).is_empty(), "{nonsense}");
        }
    }

    #[test]
    fn a_bar_without_an_address_has_no_bytes() {
        assert_eq!(bytes("0x1000 0x1fff 0x14220c"), Some(4096));
        assert_eq!(bytes("0x0 0x0 0x0"), Some(0));
        assert_eq!(bytes("0x0 0xfffffff 0x2014220c"), Some(0));
        for nonsense in [
            "",
            "0x2000 0x1000 0x0",
            "0x0 0xffffffffffffffff 0x0",
            "a b c",
        ] {
            assert_eq!(bytes(nonsense), None, "{nonsense}");
        }
    }
}
