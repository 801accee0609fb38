//! The commands: their names, their arguments, and who runs them.

use clap::{Args, Parser, Subcommand};

use crate::exit::{ALL, Exit, Problem};
use crate::output::Format;

mod bench;
mod bind;
mod completions;
mod doctor;
mod emulate;
mod events;
mod explain;
mod health;
mod info;
mod list;
mod ps;
mod regs;
mod reset;
mod setup;
mod top;
mod topo;
mod trace;

/// Finds, watches, tests and resets Jalapeño cards.
///
/// Devices are named by UUID, PCI address, vfio-user:PATH, or their index in `jalctl list` (which
/// may change: store UUIDs). JALAPENO_DEVICES adds devices, JALAPENO_VISIBLE_DEVICES narrows what
/// is seen.
#[derive(Debug, Parser)]
#[command(name = "jalctl", version, disable_help_subcommand = true, after_long_help = exit_codes())]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What reporting commands have in common.
#[derive(Debug, Args)]
pub struct Reporting {
    /// A device: UUID, PCI address, vfio-user:PATH or index; may be given several times. Default:
    /// all there are
    #[arg(short, long = "device", value_name = "DEVICE")]
    pub devices: Vec<String>,
    #[command(flatten)]
    pub form: Form,
}

/// In which form a report is wanted.
#[derive(Debug, Args)]
pub struct Form {
    /// The form of the report
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Print the JSON Schema of this command's report, and nothing else
    #[arg(long)]
    pub schema: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Arguments),
    Info(info::Arguments),
    Topo(topo::Arguments),
    Ps(ps::Arguments),
    Top(top::Arguments),
    Health(health::Arguments),
    Doctor(doctor::Arguments),
    Events(events::Arguments),
    Explain(explain::Arguments),
    Regs(regs::Arguments),
    Trace(trace::Arguments),
    Bench(bench::Arguments),
    Reset(reset::Arguments),
    Setup(setup::Arguments),
    Bind(bind::Bind),
    Unbind(bind::Unbind),
    Emulate(emulate::Arguments),
    Completions(completions::Arguments),
    Man(completions::Manual),
}

fn exit_codes() -> String {
    let lines = ALL.map(|(exit, words)| format!("  {:>2}  {words}\n", exit as u8));
    format!("Exit codes, which never change:\n{}", lines.concat())
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<Exit, Problem> {
        match self.command {
            Command::List(arguments) => list::run(&arguments),
            Command::Info(arguments) => info::run(&arguments),
            Command::Topo(arguments) => topo::run(&arguments),
            Command::Ps(arguments) => ps::run(&arguments),
            Command::Top(arguments) => top::run(&arguments),
            Command::Bind(arguments) => bind::bind(&arguments),
            Command::Unbind(arguments) => bind::unbind(&arguments),
            Command::Health(arguments) => health::run(&arguments),
            Command::Doctor(arguments) => doctor::run(&arguments),
            Command::Events(arguments) => events::run(&arguments),
            Command::Regs(arguments) => regs::run(&arguments),
            Command::Trace(arguments) => trace::run(&arguments),
            Command::Bench(arguments) => bench::run(&arguments),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Man(arguments) => completions::manual(&arguments),
            Command::Explain(arguments) => explain::run(&arguments),
            Command::Reset(arguments) => reset::run(&arguments),
            Command::Setup(arguments) => setup::run(&arguments),
            Command::Emulate(arguments) => emulate::run(&arguments),
        }
    }
}
