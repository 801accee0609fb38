//! A record of a binding: to which driver a card was given, and what it had before.
//!
//! A file a card, named by its address, of lines `key=value`. In `/run/jalapeno-bindings`: what was
//! before, for as long as the kernel itself remembers the binding, that is until a reboot. (Not below
//! `/run/jalapeno`, into which the group jalapeno may write: these are believed by root.) In
//! `/etc/jalapeno/bindings`: what shall be again after one.

use std::io;
use std::path::PathBuf;

use crate::pci::Root;

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The driver that the card was given to.
    pub driver: String,
    /// What it had before; not in records that outlive a reboot.
    pub before: Option<Before>,
}

/// What a card had before it was bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Its driver; `None`: none.
    pub driver: Option<String>,
    /// Its `driver_override`; `None`: empty.
    pub driver_override: Option<String>,
}

/// Where the records are that end with this boot.
pub(super) const OF_THIS_BOOT: &str = "run/jalapeno-bindings";
/// Where the records are that outlive a reboot.
pub(super) const FOR_EVER: &str = "etc/jalapeno/bindings";

/// The record that ends with this boot.
pub(super) fn of_this_boot(root: &Root, address: &str) -> PathBuf {
    root.file(OF_THIS_BOOT).join(address)
}

/// The record that outlives a reboot.
pub(super) fn for_ever(root: &Root, address: &str) -> PathBuf {
    root.file(FOR_EVER).join(address)
}

/// Longest record that is read.
const MOST: usize = 4096;

impl Record {
    /// Reads a record; `None` where there is none.
    ///
    /// # Errors
    /// What the system says, and `InvalidData` for a file that is no record.
    pub(super) fn read(path: &PathBuf) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) if bytes.len() <= MOST => std::str::from_utf8(&bytes)
                .ok()
                .and_then(Self::parse)
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no record")),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is too long for a record",
            )),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            let mut found = pairs.filter(|(name, _)| *name == key);
            found.next().map(|(_, value)| value)
        };
        // A name, or nothing; `None` for what is neither.
        let name = |value: &str| match value {
            "" => Some(None),
            value => is_name(value).then(|| Some(value.to_owned())),
        };
        let driver = value("driver").filter(|driver| is_name(driver))?;
        let before = match (value("before_driver"), value("before_override")) {
            (None, None) => None,
            (driver, driver_override) => Some(Before {
                driver: name(driver.unwrap_or_default())?,
                driver_override: name(driver_override.unwrap_or_default())?,
            }),
        };
        Some(Self {
            driver: driver.to_owned(),
            before,
        })
    }

    /// The file's text.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("# Written by jalctl bind; jalctl unbind removes it.\n");
        text += &format!("driver={}\n", self.driver);
        if let Some(before) = &self.before {
            let word = |word: &Option<String>| word.clone().unwrap_or_default();
            text += &format!(
                "before_driver={}\nbefore_override={}\n",
                word(&before.driver),
                word(&before.driver_override)
            );
        }
        text
    }
}

/// Whether a word can be the name of a driver: it becomes part of a path.
#[must_use]
pub fn is_name(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=63).contains(&word.len()) && word.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for before in [
            None,
            Some(Before::default()),
            Some(Before {
                driver: Some("nvme".into()),
                driver_override: Some("nvme".into()),
            }),
        ] {
            let record = Record {
                driver: "vfio-pci".into(),
                before,
            };
            assert_eq!(Record::parse(&record.text()), Some(record));
        }
    }

    #[test]
    fn what_is_no_record_is_not_believed() {
        for text in [
            "",
            "driver=",
            "driver=../../etc",
            "driver=a/b",
            "driver=vfio-pci\nbefore_driver=../x",
            "driver=vfio-pci\nbefore_override=a b",
            "driver vfio-pci",
            "\u{0}",
        ] {
            assert_eq!(Record::parse(text), None, "{text:?}");
        }
        assert!(is_name("jalapeno_vfio_pci") && !is_name(&"x".repeat(64)));
    }
}
