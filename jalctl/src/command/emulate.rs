//! `jalctl emulate`: emulated devices for a command, or until interrupted.
//!
//! Starts `jalapeno-emulator` (found beside jalctl, then in libexec), sets JALAPENO_DEVICES so that
//! the command finds them, gives its exit status back, and ends them after it.

use std::ffi::OsString;
use std::fs::remove_dir_all;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{self, Signal};
use nix::unistd::{Pid, mkdtemp};

use crate::exit::{Exit, Problem};
use crate::{output, signals};

/// Longest that an emulator may take to serve.
const START_TIME: Duration = Duration::from_secs(10);

/// Starts emulated devices and runs a command that finds them.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    devices: u32,
    /// Device memory of each: bytes, or with K, M, G, T
    #[arg(long, value_name = "SIZE")]
    hbm: Option<String>,
    /// Misbehave: NAME@N, see jalapeno-emulator --list-faults; may be given several times
    #[arg(long, value_name = "NAME@N")]
    fault: Vec<String>,
    /// Makes UUIDs and serial numbers; each further device has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The command; none: print the environment to set, and serve until interrupted
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// The devices, and the private folder of their sockets. Dropped: they end, and it goes.
struct Farm {
    folder: PathBuf,
    emulators: Vec<(Child, PathBuf)>,
}

impl Drop for Farm {
    fn drop(&mut self) {
        for (emulator, _) in &mut self.emulators {
            // They hold nothing that outlives them.
            let _ = emulator.kill();
            let _ = emulator.wait();
        }
        let _ = remove_dir_all(&self.folder);
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    signals::listen()?;
    let farm = start(arguments)?;
    let names: Vec<String> = farm
        .emulators
        .iter()
        .map(|(_, socket)| format!("vfio-user:{}", socket.display()))
        .collect();
    let devices = names.join(",");
    let Some((program, rest)) = arguments.command.split_first() else {
        output::print(&format!("export JALAPENO_DEVICES={devices}\n"))?;
        eprintln!("serving until interrupted (Ctrl-C)");
        return serve(farm);
    };
    let mut command = Command::new(program);
    command.args(rest).env("JALAPENO_DEVICES", &devices);
    command.env_remove("JALAPENO_VISIBLE_DEVICES");
    let child = command.spawn().map_err(|error| {
        Problem::failure(
            format!("run {}: {error}", program.display()),
            "check the command after --",
        )
    })?;
    let status = wait(child)?;
    drop(farm);
    finish(status)
}

/// Ends as the command did.
fn finish(status: ExitStatus) -> ! {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    std::process::exit(code)
}

fn start(arguments: &Arguments) -> Result<Farm, Problem> {
    let program = find()?;
    let folder = private_folder()?;
    let mut farm = Farm {
        folder,
        emulators: Vec::new(),
    };
    for index in 0..arguments.devices {
        let socket = farm.folder.join(format!("card{index}"));
        let mut command = Command::new(&program);
        command.arg("--socket").arg(&socket);
        let seed = arguments.seed.wrapping_add(u64::from(index));
        command.arg("--seed").arg(seed.to_string());
        command
            .arg("--parent-pid")
            .arg(std::process::id().to_string());
        if let Some(hbm) = &arguments.hbm {
            command.arg("--hbm").arg(hbm);
        }
        for fault in &arguments.fault {
            command.arg("--fault").arg(fault);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut emulator = command.spawn().map_err(|error| {
            Problem::failure(
                format!("start {}: {error}", program.display()),
                "install jalctl and jalapeno-emulator together: make install",
            )
        })?;
        let ready = await_ready(&mut emulator);
        farm.emulators.push((emulator, socket));
        ready?;
    }
    Ok(farm)
}

/// Waits for the line "serving UUID on PATH".
fn await_ready(emulator: &mut Child) -> Result<(), Problem> {
    let (say, hear) = mpsc::channel();
    let Some(out) = emulator.stdout.take() else {
        return Err(Problem::failure(
            "the emulator has no output",
            "report this",
        ));
    };
    // The thread ends with the emulator's output.
    std::thread::spawn(move || {
        let mut line = String::new();
        let mut out = BufReader::new(out);
        let read = out.read_line(&mut line);
        let _ = say.send(read.is_ok() && line.starts_with("serving "));
        let _ = std::io::copy(&mut out, &mut std::io::sink());
    });
    if hear.recv_timeout(START_TIME) == Ok(true) {
        // What it says later on is the user's to see.
        if let Some(mut err) = emulator.stderr.take() {
            std::thread::spawn(move || std::io::copy(&mut err, &mut std::io::stderr()));
        }
        return Ok(());
    }
    let _ = emulator.kill();
    let _ = emulator.wait();
    let mut words = String::new();
    if let Some(err) = emulator.stderr.take() {
        let _ = err.take(4096).read_to_string(&mut words);
    }
    let words = words.trim().trim_start_matches("error: ");
    let why = words.lines().next().unwrap_or("it did not say why");
    Err(Problem::failure(
        format!("the emulator did not start: {why}"),
        "jalapeno-emulator --help says what it takes",
    ))
}

/// Beside this program, then in libexec.
fn find() -> Result<PathBuf, Problem> {
    let own = std::env::current_exe()
        .map_err(|error| Problem::failure(format!("find this program: {error}"), "mount /proc"))?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let places = [
        beside.join("jalapeno-emulator"),
        beside.join("../libexec/jalapeno/jalapeno-emulator"),
        beside.join("../libexec/jalapeno-emulator"),
    ];
    places
        .iter()
        .find(|place| place.is_file())
        .cloned()
        .ok_or_else(|| {
            Problem::failure(
                format!(
                    "no jalapeno-emulator beside {} or in libexec",
                    own.display()
                ),
                "cargo build --release -p jalapeno-emulator, or make install",
            )
        })
}

/// A new folder that nobody else can look into.
fn private_folder() -> Result<PathBuf, Problem> {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = base.filter(|base| base.is_dir());
    let base = base.unwrap_or_else(std::env::temp_dir);
    mkdtemp(&base.join("jalapeno-XXXXXX")).map_err(|error| {
        Problem::failure(
            format!("make a folder in {}: {error}", base.display()),
            "set TMPDIR to a folder that can be written",
        )
    })
}

/// Serves until a signal, or until a device ends by itself.
fn serve(mut farm: Farm) -> Result<Exit, Problem> {
    loop {
        if signals::asked() != 0 {
            return Ok(Exit::Ok);
        }
        for (emulator, socket) in &mut farm.emulators {
            if let Ok(Some(status)) = emulator.try_wait() {
                return Err(Problem::failure(
                    format!("the device on {} ended: {status}", socket.display()),
                    "start it again",
                ));
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits for the command and passes signals on: it may want to end in order.
fn wait(mut child: Child) -> Result<ExitStatus, Problem> {
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    let mut passed = 0;
    loop {
        let asked = signals::asked();
        if asked != passed {
            passed = asked;
            // A terminal has sent Ctrl-C to the command already; twice does no harm.
            if let (Ok(pid), Ok(signal)) = (pid, Signal::try_from(asked))
                && signal != Signal::SIGINT
            {
                let _ = signal::kill(pid, signal);
            }
        }
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => {
                return Err(Problem::failure(
                    format!("wait for the command: {error}"),
                    "report this",
                ));
            }
        }
    }
}
