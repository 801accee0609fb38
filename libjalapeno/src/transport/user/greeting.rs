//! The greeting: protocol version, limits, and the role asked for.

use std::path::Path;

use jalapeno_wire as wire;
use zerocopy::{FromBytes, IntoBytes};

use super::socket::{Failure, Socket};
use super::{Clients, Role, connect_error, refused};
use crate::error::{Error, Result};

/// What the server grants.
#[derive(Debug)]
pub(super) struct Greeting {
    /// Mappings there may be.
    pub(super) maps_max: usize,
    /// Bytes of a region access.
    pub(super) transfer_max: usize,
    /// Who is connected, where the server says it.
    pub(super) clients: Clients,
}

/// Greets as `role`. An owner asks for nothing of ours unless it wants to be alone.
pub(super) fn greet(socket: &mut Socket, role: Role, name: &str) -> Result<Greeting> {
    greet_as(
        socket,
        match role {
            Role::Owner => "",
            Role::Exclusive => ",\"jalapeno\":{\"role\":\"exclusive\"}",
            Role::Observer => ",\"jalapeno\":{\"role\":\"observer\"}",
        },
        name,
    )
}

fn greet_as(socket: &mut Socket, vendor: &str, name: &str) -> Result<Greeting> {
    let version = wire::Version {
        major: wire::VERSION_MAJOR,
        minor: wire::VERSION_MINOR,
    };
    let capabilities = format!(
        "{{\"capabilities\":{{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576{vendor}}}}}\0"
    );
    let parts = [version.as_bytes(), capabilities.as_bytes()];
    let reply = match socket.exchange(wire::command::VERSION, parts, &[], 0) {
        Ok(reply) => reply,
        Err(Failure::Refused(libc::EBUSY)) => {
            return Err(Error::Busy {
                on: format!("vfio-user:{name}"),
                holder: None,
            });
        }
        Err(Failure::Refused(errno)) => return Err(refused("greet", name, errno)),
        Err(Failure::Broken(source)) => return Err(stranger(name, &source)),
    };
    parse(socket.body(&reply), name)
}

/// What listens there does not speak as it should.
fn stranger(name: &str, source: &std::io::Error) -> Error {
    let name = format!("vfio-user:{name}");
    let why = match source.kind() {
        std::io::ErrorKind::TimedOut => format!("what listens there does not answer: {source}"),
        std::io::ErrorKind::InvalidData => {
            format!("what listens there is not a vfio-user server: {source}")
        }
        _ => format!("what listens there hung up instead of a greeting: {source}"),
    };
    Error::NotFound { name, why }
}

fn parse(body: &[u8], name: &str) -> Result<Greeting> {
    let bad = |why: &str| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned());
        stranger(name, &source)
    };
    let (theirs, json) =
        wire::Version::read_from_prefix(body).map_err(|_| bad("its greeting is too short"))?;
    if theirs.major != wire::VERSION_MAJOR || theirs.minor > wire::VERSION_MINOR {
        return Err(Error::Version {
            what: "vfio-user protocol",
            found: format!("{}.{}", theirs.major, theirs.minor),
            needed: format!("{}.{}", wire::VERSION_MAJOR, wire::VERSION_MINOR),
        });
    }
    let json = json.split(|&b| b == 0).next().unwrap_or_default();
    let value: serde_json::Value = if json.is_empty() {
        serde_json::Value::Null
    } else {
        serde_json::from_slice(json).map_err(|_| bad("its capabilities are not JSON"))?
    };
    let number = |key: &str| {
        value["capabilities"][key]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
    };
    Ok(Greeting {
        maps_max: number("max_dma_maps").unwrap_or(65_535),
        transfer_max: number("max_data_xfer_size")
            .unwrap_or(1 << 20)
            .clamp(8, 1 << 20),
        clients: clients_in(&value["capabilities"]["jalapeno"]),
    })
}

/// Most observers of one device that are listed: its server is not trusted with our memory.
const OBSERVERS_MAX: usize = 1024;

fn clients_in(ours: &serde_json::Value) -> Clients {
    // The server names a process that it cannot see 0.
    let pid = |value: &serde_json::Value| {
        let number = value.as_u64().and_then(|pid| u32::try_from(pid).ok());
        number.filter(|&pid| pid != 0)
    };
    let observers = ours["observer_pids"].as_array();
    let mut observers: Vec<u32> = observers
        .into_iter()
        .flatten()
        .take(OBSERVERS_MAX)
        .filter_map(pid)
        .collect();
    observers.sort_unstable();
    observers.dedup();
    Clients {
        owner: pid(&ours["owner_pid"]),
        observers,
    }
}

/// Who is connected to a device: whoever asks is told, and takes no role by it.
pub(super) fn clients(path: &Path) -> Result<Clients> {
    let name = path.display().to_string();
    let mut socket = Socket::connect(path).map_err(|source| connect_error(path, source))?;
    let vendor = ",\"jalapeno\":{\"role\":\"none\"}";
    Ok(greet_as(&mut socket, vendor, &name)?.clients)
}
