//! Serves an emulated card on a socket.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use jalapeno_emulator::board::Board;
use jalapeno_emulator::faults::{Order, TABLE};
use jalapeno_emulator::identity::Options;
use jalapeno_emulator::orders;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

/// Serves an emulated Jalapeño card as a vfio-user device.
///
/// Prints one line when it is ready and ends on SIGTERM or SIGINT. On SIGUSR1 it prints a line
/// with what it counted: messages by command, function level resets, doorbells where each is a
/// message, launches by kernel. With --orders it also does what it reads on its input.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Socket to serve on; a stale one is replaced, a live one refused.
    #[arg(long, required_unless_present = "list_faults")]
    socket: Option<PathBuf>,
    /// Device memory: bytes, or with K, M, G, T (powers of 1024). Sparse. [default: 216 GB]
    #[arg(long, value_parser = size)]
    hbm: Option<u64>,
    /// How much of the device memory may become resident in the host's.
    #[arg(long, value_parser = size, default_value = "4G")]
    resident_limit: u64,
    /// Makes UUID and serial number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// UUID of the card instead of one made from the seed.
    #[arg(long, value_parser = uuid)]
    uuid: Option<[u8; 16]>,
    /// Queues, 1 to 64.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=64))]
    queues: u32,
    /// Offer no MSI-X capability: hosts poll. QEMU 11.1 aborts when a card with MSI-X is unplugged.
    #[arg(long)]
    no_msix: bool,
    /// Bytes of BAR0, a power of two, instead of the specification's 256K: a card to be refused.
    #[arg(long, value_parser = bar, default_value = "256K")]
    bar0: u64,
    /// How long a scrub of HBM takes; the card says that it takes at most twice that.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(..=60_000))]
    scrub_ms: u64,
    /// Do not let the doorbells be mapped: each is a message then, and counted.
    #[arg(long)]
    doorbells_by_message: bool,
    /// Threads that compute; 0: one a processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Misbehave: NAME at its Nth event; may be given several times.
    #[arg(long, value_name = "NAME@N")]
    fault: Vec<Order>,
    /// Take orders on the input while serving, a line each: `fault NAME@N`, `calm`, `reset`. Each is
    /// answered by a line, `done ORDER` or `refused WHY`.
    #[arg(long)]
    orders: bool,
    /// Print every fault and end.
    #[arg(long)]
    list_faults: bool,
    /// End when this process, the parent, ends.
    #[arg(long, value_name = "PID")]
    parent_pid: Option<i32>,
    /// Say on stderr what happens.
    #[arg(long, short)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list_faults {
        return list_faults();
    }
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            eprintln!("error: {said}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> Result<(), String> {
    let Some(socket) = arguments.socket else {
        return Err("--socket says where to serve".into());
    };
    // Before any thread starts, so that every one of them leaves these signals to this one.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGUSR1);
    signals
        .thread_block()
        .map_err(|error| format!("block signals: {error}"))?;
    if let Some(parent) = arguments.parent_pid {
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)
            .map_err(|error| format!("follow process {parent}: {error}"))?;
        if nix::unistd::getppid().as_raw() != parent {
            return Err(format!("process {parent} is not (or no longer) the parent"));
        }
    }
    raise_file_limit();
    if arguments.verbose && log::set_logger(&Stderr).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    let defaults = Options::default();
    let options = Options {
        hbm_bytes: arguments.hbm.unwrap_or(defaults.hbm_bytes),
        resident_limit: arguments.resident_limit,
        seed: arguments.seed,
        uuid: arguments.uuid,
        queues: arguments.queues,
        msix: !arguments.no_msix,
        bar0_bytes: arguments.bar0,
        scrub: Duration::from_millis(arguments.scrub_ms),
        doorbells_mapped: !arguments.doorbells_by_message,
        threads: arguments.threads,
        faults: arguments.fault,
        ..defaults
    };
    let board = Board::serve(options, &socket)
        .map_err(|error| format!("serve on {}: {error}", socket.display()))?;
    let uuid = text(&board.card().identity.uuid);
    // Nobody may be reading: serving matters more than saying so.
    let _ = writeln!(std::io::stdout(), "serving {uuid} on {}", socket.display());
    if arguments.orders {
        let card = Arc::clone(board.card());
        // It ends with the process: nobody waits for a reader of the input.
        std::thread::spawn(move || orders::take(&card, std::io::stdin().lock(), std::io::stdout()));
    }
    loop {
        let signal = signals.wait().map_err(|error| format!("wait: {error}"))?;
        if signal != Signal::SIGUSR1 {
            log::info!("{signal}: ending");
            return Ok(());
        }
        let _ = writeln!(std::io::stdout(), "counted {}", board.counted());
    }
}

/// Clients, their telemetry and their files need descriptors: as many as the system allows us.
fn raise_file_limit() {
    let resource = Resource::RLIMIT_NOFILE;
    if let Ok((_, most)) = getrlimit(resource)
        && let Err(errno) = setrlimit(resource, most, most)
    {
        log::warn!("raise the limit of open files: {errno}");
    }
}

fn list_faults() -> ExitCode {
    let mut out = std::io::stdout().lock();
    for row in TABLE {
        let doc = row.doc.trim();
        let line = writeln!(
            out,
            "{:<24} {}  N counts each {}: {doc}",
            row.name,
            row.number,
            row.unit.name()
        );
        if line.is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        other => return Err(format!("`{other}` is no unit; use K, M, G or T")),
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| format!("`{digits}` is not a count"))?;
    let bytes = count
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes <= 1 << 46);
    match bytes {
        Some(0) => Err("no memory at all is too little".into()),
        Some(bytes) => Ok(bytes),
        None => Err("more than 64 TiB is too much".into()),
    }
}

fn bar(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes.is_power_of_two() && (4096..=256 << 10).contains(&bytes) => Ok(bytes),
        _ => Err("a power of two from 4K to 256K".into()),
    }
}

fn uuid(text: &str) -> Result<[u8; 16], String> {
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return Err("a UUID has 32 hexadecimal digits".into());
    }
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let pair = digits.get(2 * index..2 * index + 2).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).map_err(|_| format!("`{pair}` is not hexadecimal"))?;
    }
    Ok(bytes)
}

fn text(uuid: &[u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Log records as lines on stderr.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = record.level().as_str().to_lowercase();
        // Nobody may be reading.
        let _ = writeln!(std::io::stderr(), "{level}: {}", record.args());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_nonsense_is_refused() {
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("3"), Ok(3));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for bad in ["", "M", "1X", "-1", "0", "99999999999G", "1 G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bar_is_a_power_of_two_and_not_longer_than_specified() {
        assert_eq!((bar("4K"), bar("256K")), (Ok(4096), Ok(256 << 10)));
        for bad in ["2K", "5K", "512K", "x"] {
            assert!(bar(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uuids_are_read_and_written_alike() {
        let written = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(text(&uuid(written).unwrap()), written);
        for bad in [
            "",
            "01234567",
            "zz234567-89ab-cdef-0123-456789abcdef",
            "éééééééééééééééé",
        ] {
            assert!(uuid(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_arguments_are_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
