//! A 4-byte register read by vfio-user with client and server on one core, beside a ping-pong of
//! 40 bytes between two processes on that core.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::time::Instant;

use jalapeno::hw::regs::Heartbeat;
use jalapeno::{Device, Role};

use crate::bench::{Bench, Outcome};
use crate::cores::Cores;
use crate::emulator::Emulator;
use crate::figure::{Goal, Measured, Plan};
use crate::nop::nanos_each;
use crate::samples::p50;

const NAME: &str = "register read, one core, p50";

/// What is measured here.
pub const PLANS: &[Plan] = &[Plan {
    name: NAME,
    unit: "us",
    peer: Some("40 bytes to and fro"),
    goal: Goal::RatioAtMost(1.4),
}];

/// The word that makes this program the other side of the ping-pong, followed by its socket.
pub const ECHO: &str = "--echo";
/// Bytes of a message of the ping-pong.
const BYTES: usize = 40;
/// Reads a sample.
const READS: usize = 500;
const SAMPLES: usize = 41;

/// Measures it.
pub fn measure(bench: &Bench) -> Outcome {
    let core = bench.cores.client;
    let emulator = Emulator::start(bench, core)?;
    let name = emulator.name();
    Cores::pin(core)?;
    let mut peer = PingPong::start(bench)?;
    let device = Device::open(&name, Role::Compute);
    let device = device.map_err(|error| format!("open {name}: {error}"))?;
    let mut pairs = Vec::with_capacity(SAMPLES);
    for sample in 0..=SAMPLES {
        let mut ours = Vec::with_capacity(READS);
        for _ in 0..READS {
            let begin = Instant::now();
            let read = device.registers().read::<Heartbeat>();
            read.map_err(|error| format!("read the heartbeat: {error}"))?;
            ours.push(nanos_each(begin, 1) / 1e3);
        }
        let mut theirs = peer.sample()?;
        if sample > 0 {
            pairs.push((p50(&mut ours), p50(&mut theirs)));
        }
    }
    bench.cores.unpin()?;
    Ok(vec![(NAME, Ok(Measured::beside(&pairs)))])
}

struct PingPong {
    child: Child,
    socket: UnixStream,
}

impl PingPong {
    /// Starts the other side on this thread's core.
    fn start(bench: &Bench) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("start the ping-pong: {error}");
        let (socket, theirs) = UnixStream::pair().map_err(failed)?;
        let fd = theirs.as_raw_fd();
        let mut command = Command::new(&bench.own);
        command.arg(ECHO).arg(fd.to_string());
        // SAFETY: between fork and exec only `fcntl` is called, which is async-signal-safe.
        unsafe { command.pre_exec(move || keep_open(fd)) };
        let child = command.spawn().map_err(failed)?;
        Ok(Self { child, socket })
    }

    /// Microseconds a round trip.
    fn sample(&mut self) -> Result<Vec<f64>, String> {
        let mut message = [0; BYTES];
        let mut samples = Vec::with_capacity(READS);
        for _ in 0..READS {
            let begin = Instant::now();
            self.socket
                .write_all(&message)
                .and_then(|()| self.socket.read_exact(&mut message))
                .map_err(|error| format!("play ping-pong: {error}"))?;
            samples.push(nanos_each(begin, 1) / 1e3);
        }
        Ok(samples)
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep_open(fd: RawFd) -> std::io::Result<()> {
    // SAFETY: `fcntl` on a descriptor that is open touches no memory.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The other side: sends back what it gets, until the socket hangs up.
pub fn echo(rest: &[String]) -> ExitCode {
    let Some(fd) = rest.first().and_then(|word| word.parse::<RawFd>().ok()) else {
        eprintln!("error: {ECHO} takes a socket");
        return ExitCode::FAILURE;
    };
    // SAFETY: whoever started this process left this descriptor open for it alone.
    let mut socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut message = [0; BYTES];
    while socket.read_exact(&mut message).is_ok() && socket.write_all(&message).is_ok() {}
    ExitCode::SUCCESS
}
