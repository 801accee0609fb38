//! The greeting: which version is spoken, what the client wants to be, what it can take.

use jalapeno_wire as wire;
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::answer::{Answer, parse};
use crate::role::{Clients, Role};
use crate::stream::{FDS_MAX, TRANSFER_MAX};

/// Regions a client is told it may map: the most that QEMU 11.1 believes. More are taken.
const MAPS_TOLD: u32 = 65_535;

/// What a client said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    minor: u16,
    /// What it wants to be. Who says nothing is the owner. `None`: it only asks who that is.
    pub role: Option<Role>,
    /// Most bytes of one message's data.
    pub transfer: usize,
    /// Whether it named our vendor key, and so is answered with it.
    ours: bool,
}

impl Greeting {
    /// Reads VERSION.
    ///
    /// # Errors
    /// EINVAL for another major version and for capabilities that make no sense.
    pub fn read(body: &[u8]) -> Result<Self, Errno> {
        let (version, text) = parse::<wire::Version>(body)?;
        if version.major != wire::VERSION_MAJOR {
            return Err(Errno::EINVAL);
        }
        let theirs = capabilities(text)?;
        let transfer = match &theirs["max_data_xfer_size"] {
            Value::Null => TRANSFER_MAX,
            value => value
                .as_u64()
                .filter(|&bytes| bytes > 0)
                .map(|bytes| usize::try_from(bytes).map_or(TRANSFER_MAX, |b| b.min(TRANSFER_MAX)))
                .ok_or(Errno::EINVAL)?,
        };
        let ours = &theirs["jalapeno"];
        Ok(Self {
            minor: version.minor.min(wire::VERSION_MINOR),
            role: role(ours)?,
            transfer,
            ours: !ours.is_null(),
        })
    }

    /// Answers it.
    #[must_use]
    pub fn answer(&self, clients: &Clients) -> Answer {
        let mut capabilities = json!({
            "max_msg_fds": FDS_MAX,
            "max_data_xfer_size": TRANSFER_MAX,
            "max_dma_maps": MAPS_TOLD,
            "pgsizes": crate::dma::PAGE,
        });
        if self.ours {
            capabilities["jalapeno"] = json!({
                "owner_pid": clients.owner,
                "observer_pids": clients.observers,
            });
        }
        let mut text = json!({ "capabilities": capabilities })
            .to_string()
            .into_bytes();
        text.push(0);
        Answer {
            data: text,
            ..Answer::of(&wire::Version {
                major: wire::VERSION_MAJOR,
                minor: self.minor,
            })
        }
    }
}

/// The capabilities that a client names: an object, or nothing.
fn capabilities(text: &[u8]) -> Result<Value, Errno> {
    let [json @ .., 0] = text else {
        return if text.is_empty() {
            Ok(Value::Null)
        } else {
            Err(Errno::EINVAL)
        };
    };
    if json.is_empty() {
        return Ok(Value::Null);
    }
    let value: Value = serde_json::from_slice(json).map_err(|_| Errno::EINVAL)?;
    match value {
        Value::Object(mut value) => match value.remove("capabilities") {
            None => Ok(Value::Null),
            Some(capabilities @ Value::Object(_)) => Ok(capabilities),
            Some(_) => Err(Errno::EINVAL),
        },
        _ => Err(Errno::EINVAL),
    }
}

fn role(ours: &Value) -> Result<Option<Role>, Errno> {
    if !ours.is_null() && !ours.is_object() {
        return Err(Errno::EINVAL);
    }
    match &ours["role"] {
        Value::Null => Ok(Some(Role::Owner)),
        Value::String(name) => match name.as_str() {
            "owner" => Ok(Some(Role::Owner)),
            "exclusive" => Ok(Some(Role::Exclusive)),
            "observer" => Ok(Some(Role::Observer)),
            "none" => Ok(None),
            _ => Err(Errno::EINVAL),
        },
        _ => Err(Errno::EINVAL),
    }
}
