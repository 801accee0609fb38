//! A machine: QEMU around one kernel, its two serial ports, its end by a deadline.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::hands::Hands;
use crate::marks::Marks;
use crate::rate;
use crate::report::Report;

/// What a machine is made of.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The script that starts QEMU.
    pub qemu: PathBuf,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Where the logs go.
    pub folder: &'a Path,
    /// How many processors it has.
    pub processors: usize,
    /// `-device` arguments, in order.
    pub devices: Vec<String>,
    /// More of QEMU's arguments.
    pub more: Vec<String>,
    /// More kernel parameters.
    pub append: String,
}

/// How a machine's run ended.
#[derive(Debug)]
pub struct Ending {
    /// What it reported.
    pub report: Report,
    /// In words, for the case that the report is not whole.
    pub words: String,
    /// The kernel's log.
    pub log: String,
    /// From the start of QEMU to its end.
    pub took: Duration,
}

/// A program that does not outlive us: killed when dropped, and by the kernel when we are killed.
#[derive(Debug)]
pub struct Held(pub Child);

impl Held {
    /// Starts a command so that the kernel kills it when the thread that started it ends.
    pub fn start(
        program: &Path,
        arguments: &[String],
        [input, out, err]: [Stdio; 3],
    ) -> io::Result<Self> {
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(input)
            .stdout(out)
            .stderr(err)
            .spawn()
            .map(Held)
            .map_err(|why| {
                io::Error::new(why.kind(), format!("start {}: {why}", program.display()))
            })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Either may fail only because the program is gone, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    fn arguments(&self, console: &Path) -> Vec<String> {
        let mut words: Vec<String> = [
            "-M",
            "q35,kernel-irqchip=split,memory-backend=mem0",
            // Shared, so that a vfio-user device gets the memory's descriptor and real DMA works.
            "-object",
            "memory-backend-memfd,id=mem0,size=512M,share=on",
            "-m",
            "512M",
            "-accel",
            "tcg,thread=multi",
            // Without the strings that are fast on silicon: emulated, they go byte by byte.
            "-cpu",
            "max,-erms,-fsrm,-fsrs,-fzrm",
            // Hot plug as servers do it, by the port itself; by ACPI the port's link never reads as up,
            // and the kernel then fails every reset of its bus.
            "-global",
            "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-chardev",
            "stdio,id=report,signal=off",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut pair = |name: &str, value: String| words.extend([name.to_owned(), value]);
        pair("-smp", self.processors.to_string());
        pair("-serial", format!("file:{}", console.display()));
        pair("-serial", "chardev:report".to_owned());
        pair("-kernel", self.kernel.display().to_string());
        pair("-initrd", self.initramfs.display().to_string());
        pair(
            "-append",
            format!(
                "console=ttyS0 panic=-1 quiet {} {}",
                busy_host(),
                self.append
            ),
        );
        for device in &self.devices {
            pair("-device", device.clone());
        }
        words.extend(self.more.iter().cloned());
        words
    }

    /// Boots, listens until the machine is off or the deadline has passed, and gives what was said.
    /// What the guest asks of its host, `hands` do. Where `hangs`, the guest cannot turn itself
    /// off, and its last word is the end.
    pub fn run(&self, deadline: Duration, hands: &mut Hands, hangs: bool) -> io::Result<Ending> {
        let started = Instant::now();
        let mut marks = Marks::default();
        let console = self.folder.join("console.log");
        File::create(&console)?;
        let errors = self.folder.join("qemu.log");
        let mut qemu = Held::start(
            &self.qemu,
            &self.arguments(&console),
            [
                Stdio::piped(),
                Stdio::piped(),
                File::create(&errors)?.into(),
            ],
        )?;
        hands.runs(qemu.0.id());
        let mut answers = qemu.0.stdin.take();
        let port = qemu
            .0
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("QEMU has no output"))?;
        let lines = listen(port);
        let mut kept = File::create(self.folder.join("report.log"))?;
        let mut report = Report::default();
        let words = loop {
            match lines.recv_timeout(deadline.saturating_sub(started.elapsed())) {
                Ok(line) => {
                    writeln!(kept, "{line}")?;
                    report.line(&line);
                    if let Some(case) = marks.line(&line, hands.cards()) {
                        writeln!(kept, "{case}")?;
                        report.line(&case);
                    }
                    let asked = line.strip_prefix("HOST ");
                    let mut answer = Marks::SEEN;
                    if let Some(words) = asked
                        && let Err(why) = hands.obey(words)
                    {
                        report.line(&format!("CASE host fail {words}: {why}"));
                        answer = Hands::REFUSED;
                    }
                    let waits = Marks::is_one(&line) || asked.is_some_and(Hands::answers);
                    if let (Some(answers), true) = (&mut answers, waits) {
                        answers.write_all(answer)?;
                    }
                    if hangs && line.starts_with("DONE ") {
                        break "turned off".to_owned();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    break format!("killed after {} s, the deadline", deadline.as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let said = std::fs::read_to_string(&errors).unwrap_or_default();
                    break format!("QEMU ended with {}; {}", qemu.0.wait()?, said.trim_end());
                }
            }
        };
        drop(qemu);
        let log = String::from_utf8_lossy(&std::fs::read(&console)?).into_owned();
        Ok(Ending {
            report,
            words,
            log,
            took: started.elapsed(),
        })
    }
}

/// What a kernel must know of a host that has other things to do: the timer comes late, and the kernel's
/// check of it would panic; processors start apart, and the kernel would give up their clock for one that
/// QEMU has to be asked for; and it measures that clock wrong.
fn busy_host() -> String {
    format!("no_timer_check tsc=reliable {}", rate::parameter())
}

/// Reads lines on a thread of their own, so that a silent guest does not hold us.
fn listen(port: impl io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut port = BufReader::new(port);
        let mut line = Vec::new();
        while matches!(port.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}
