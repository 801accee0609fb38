//! Find, watch, test and reset Jalapeño cards.

use std::process::ExitCode;

use clap::Parser;

mod command;
mod devices;
mod exit;
mod output;
mod packaged;
mod signals;
mod stream;

fn main() -> ExitCode {
    let cli = match command::Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version go to standard output with 0, mistakes to standard error with 2.
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                exit::Exit::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match cli.run() {
        Ok(exit) => exit.into(),
        Err(problem) => {
            problem.print();
            problem.exit.into()
        }
    }
}
