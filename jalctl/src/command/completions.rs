//! `jalctl completions` and `jalctl man`: made from the same definition as `--help`.

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use crate::command::Cli;
use crate::exit::{Exit, Problem};
use crate::output;

/// Prints a shell's completions.
#[derive(Debug, Args)]
pub struct Arguments {
    shell: Shell,
}

/// Prints the manual page.
#[derive(Debug, Args)]
pub struct Manual {}

/// Runs `jalctl completions`.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "jalctl", &mut script);
    output::print(&String::from_utf8_lossy(&script)).map(|()| Exit::Ok)
}

/// Runs `jalctl man`: one page for all commands.
pub fn manual(_: &Manual) -> Result<Exit, Problem> {
    let broken = |error: std::io::Error| {
        Problem::failure(format!("write the manual: {error}"), "report this")
    };
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone())
        .title("JALCTL")
        .section("1");
    man.render_title(&mut page).map_err(broken)?;
    man.render_name_section(&mut page).map_err(broken)?;
    man.render_synopsis_section(&mut page).map_err(broken)?;
    man.render_description_section(&mut page).map_err(broken)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        page.extend_from_slice(&subcommand(sub));
    }
    man.render_extra_section(&mut page).map_err(broken)?;
    man.render_version_section(&mut page).map_err(broken)?;
    output::print(&String::from_utf8_lossy(&page)).map(|()| Exit::Ok)
}

/// A command's part of the page.
fn subcommand(command: &Command) -> Vec<u8> {
    let mut text = String::new();
    let mut command = command.clone();
    text += &format!(
        ".SS {}\n",
        roff(&command.render_usage().to_string().replace("Usage: ", ""))
    );
    let about = command.get_long_about().or_else(|| command.get_about());
    text += &format!(
        "{}\n",
        roff(&about.map(ToString::to_string).unwrap_or_default())
    );
    for argument in command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
    {
        let long = argument.get_long().map(|long| format!("--{long}"));
        let short = argument.get_short().map(|short| format!("-{short}"));
        let names: Vec<String> = short.into_iter().chain(long).collect();
        let name = if names.is_empty() {
            argument.get_id().to_string().to_uppercase()
        } else {
            names.join(", ")
        };
        let help = argument.get_long_help().or_else(|| argument.get_help());
        text += &format!(
            ".TP\n\\fB{}\\fR\n{}\n",
            roff(&name),
            roff(&help.map(ToString::to_string).unwrap_or_default())
        );
    }
    text.into_bytes()
}

/// Text as roff wants it.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace("\n.", "\n\\&.")
        .replace("\n'", "\n\\&'")
}
