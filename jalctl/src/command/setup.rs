//! `jalctl setup`: what a host needs for its cards, shown as a plan, and done with --apply.
//!
//! Each step is a file and what makes it count at once. A step is taken whole or not at all; one that
//! was taken before is left alone; the first that fails ends the run, with the steps before it taken.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use jalapeno::host::Host;
use jalapeno::pci::Root;
use schemars::JsonSchema;
use serde::Serialize;

use crate::command::Form;
use crate::devices::Outcome;
use crate::exit::{Exit, Problem, clean};
use crate::output::{self, Report};

mod act;
mod place;
mod plan;

use plan::{Standing, Step, Wishes};

/// Longest from a step's end to the host's showing it.
const SHOWN_BY: Duration = Duration::from_secs(5);

/// Shows what this host lacks for its cards, and does it with --apply: group, udev rule, modules,
/// limits, huge pages.
///
/// Steps taken before are left alone, so it may be run again at any time. Files of another content
/// are kept. Binding a card is no part of it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Do it; without this it is only shown
    #[arg(long)]
    apply: bool,
    /// Only show it, as without --apply
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    /// Set up the system whose files are below this folder, such as an image that is being built
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Let this user open cards; may be given several times
    #[arg(long = "user", value_name = "NAME", value_parser = name)]
    users: Vec<String>,
    /// Let this systemd service open cards and pin memory; may be given several times
    #[arg(long = "service", value_name = "NAME", value_parser = name)]
    services: Vec<String>,
    /// How many huge pages to reserve; 0: none. Default: 1 GiB of them, if there are none
    #[arg(long, value_name = "COUNT")]
    hugepages: Option<u64>,
    /// Replace files that are there with another content
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    form: Form,
}

/// A name of a user or a unit: no option, no path, no pattern.
fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.@:\\".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    match begins && text.len() <= 255 && !text.contains("..") && text.chars().all(fits) {
        true => Ok(text.into()),
        false => Err("a name has letters, digits and _-.@ in it, and begins with a letter".into()),
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It was taken before.
    Done,
    /// It is not taken yet.
    Todo,
    /// It was taken now.
    Applied,
    /// A file of another content is in its place, and was left as it is.
    Kept,
    /// It could not be taken; what it did was undone.
    Failed,
}

/// One step.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Taken {
    /// Stable.
    step: &'static str,
    state: State,
    /// The file that it writes, or that keeps it from doing so; null: it writes none.
    path: Option<String>,
    /// What the file says.
    text: Option<String>,
    /// What is run then.
    commands: Vec<String>,
    /// In words: how it was done before, when it begins to count, or that the host does not show it yet.
    message: Option<String>,
    /// Why it failed.
    problem: Option<Problem>,
}

/// The steps.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Setup {
    /// False for a plan.
    performed: bool,
    root: String,
    steps: Vec<Taken>,
}

impl Report for Setup {
    const KEY: &'static str = "setup";
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit, Problem> {
    if arguments.form.schema {
        return output::schema::<Setup>().map(|()| Exit::Ok);
    }
    let root = match &arguments.root {
        None => PathBuf::from("/"),
        Some(path) => folder(path)?,
    };
    let here = root == Path::new("/");
    if here && arguments.apply && !nix::unistd::geteuid().is_root() {
        return Err(Problem {
            code: "permission".into(),
            message: "setup writes to /etc, which is root's".into(),
            hint: Some("sudo jalctl setup --apply".into()),
            exit: Exit::Permission,
        });
    }
    if !here && !arguments.users.is_empty() {
        return Err(Problem::usage(
            "--user is for the running system",
            "in an image, let its own users be made with the group jalapeno",
        ));
    }
    let wishes = Wishes {
        users: arguments.users.clone(),
        services: arguments.services.clone(),
        hugepages: arguments.hugepages,
        replace: arguments.replace,
    };
    let tree = if here {
        Root::default()
    } else {
        Root::at(&root)
    };
    let plan = || plan::steps(&Host::look(&tree), &wishes);
    let mut steps: Vec<Taken> = Vec::new();
    let mut failed = false;
    for (at, step) in plan().iter().enumerate() {
        let mut taken = planned(&root, step);
        if taken.state == State::Todo && arguments.apply && !failed {
            let still = || plan().get(at).is_some_and(|again| again.is_todo(step));
            match take(&root, step) {
                Ok(()) => {
                    taken.state = State::Applied;
                    // An image shows it once it is booted.
                    if here && !shows(still, SHOWN_BY) {
                        taken.message = Some("does not show yet: run it again in a moment".into());
                    }
                }
                Err(problem) => {
                    (taken.state, taken.problem) = (State::Failed, Some(problem));
                    failed = true;
                }
            }
        }
        steps.push(taken);
    }
    let outcomes = [Outcome {
        name: "host".into(),
        uuid: None,
        result: Ok(Setup {
            performed: arguments.apply,
            root: root.display().to_string(),
            steps,
        }),
    }];
    output::devices(arguments.form.output, &outcomes, page)?;
    let steps = outcomes.iter().flat_map(|outcome| outcome.result.iter());
    let problem = steps
        .flat_map(|setup| &setup.steps)
        .find_map(|step| step.problem.clone());
    problem.map_or(Ok(Exit::Ok), Err)
}

/// The real place of an image's root.
fn folder(path: &Path) -> Result<PathBuf, Problem> {
    let hint = "--root takes the folder that will be / of the image";
    let real = path
        .canonicalize()
        .map_err(|error| Problem::usage(format!("{}: {error}", path.display()), hint))?;
    match real.is_dir() {
        true => Ok(real),
        false => Err(Problem::usage(
            format!("{} is no folder", path.display()),
            hint,
        )),
    }
}

fn planned(root: &Path, step: &Step) -> Taken {
    let path = |path: &Path| Some(plan::shown(root, path));
    let file = step.file.as_ref();
    let mut taken = Taken {
        step: step.name,
        state: State::Todo,
        path: file.and_then(|(place, _)| path(place)),
        text: file.map(|(_, text)| text.clone()),
        commands: step.acts.iter().map(ToString::to_string).collect(),
        message: step.later.map(|when| format!("counts {when}")),
        problem: None,
    };
    match &step.standing {
        Standing::Todo => {}
        Standing::Done(how) => {
            taken.state = State::Done;
            taken.message = Some(how.clone());
        }
        Standing::Kept(place) => {
            taken.state = State::Kept;
            taken.path = path(place);
            taken.message = Some("is there with another content; --replace replaces it".into());
        }
    }
    taken
}

/// Whether the host shows in time what a step did: others do a part of it, such as udev.
fn shows(still: impl Fn() -> bool, within: Duration) -> bool {
    let begin = Instant::now();
    while still() {
        if begin.elapsed() >= within {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    true
}

/// Takes a step, or leaves everything as it was.
fn take(root: &Path, step: &Step) -> Result<(), Problem> {
    let problem = |message: String| {
        let hint = "mend that, then run it again: steps that were taken are left alone";
        Problem::failure(format!("{}: {message}", step.name), hint)
    };
    let written = match &step.file {
        None => None,
        Some((path, text)) => Some(place::write(root, path, text).map_err(|error| {
            let shown = path.display();
            let exit = match error.kind() {
                std::io::ErrorKind::PermissionDenied => Exit::Permission,
                _ => Exit::Failure,
            };
            Problem {
                exit,
                ..problem(format!("write {shown}: {error}"))
            }
        })?),
    };
    let Some(why) = step.acts.iter().find_map(|act| act.perform().err()) else {
        return Ok(());
    };
    let left = written.and_then(|written| written.undo().err());
    Err(match left {
        None => problem(why),
        Some(error) => problem(format!(
            "{why}; and its file could not be taken back: {error}"
        )),
    })
}

fn page(outcomes: &[Outcome<Setup>]) -> String {
    let setups = outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().ok());
    setups.map(words).collect()
}

fn words(setup: &Setup) -> String {
    let where_ = match setup.root.as_str() {
        "/" => "this host".into(),
        root => clean(root),
    };
    let todo = setup.steps.iter().any(|step| step.state == State::Todo);
    let width = setup
        .steps
        .iter()
        .map(|step| step.step.len())
        .max()
        .unwrap_or(0);
    let mut text = match setup.performed {
        true => format!("Setting up {where_}:\n"),
        false => format!("What setup would do on {where_}:\n"),
    };
    for step in &setup.steps {
        let (word, colour) = match step.state {
            State::Done => ("done", "32"),
            State::Todo => ("to do", "33"),
            State::Applied => ("applied", "1;32"),
            State::Kept => ("kept", "36"),
            State::Failed => ("FAILED", "1;31"),
        };
        let about = match (step.state, &step.path, &step.message) {
            (State::Kept, Some(path), Some(message)) => format!("{path} {message}"),
            (State::Done, _, Some(message)) => message.clone(),
            (_, Some(path), Some(message)) => format!("{path} ({message})"),
            (_, Some(path), None) => path.clone(),
            (_, None, Some(message)) => message.clone(),
            (_, None, None) => String::new(),
        };
        text += &format!(
            "  \x1b[{colour}m{word:<7}\x1b[0m  {:<width$}  {}\n",
            step.step,
            clean(&about)
        );
        if step.state == State::Todo && !setup.performed {
            let lines = step.text.iter().flat_map(|text| text.lines());
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            text.extend(lines.map(|line| format!("           + {}\n", clean(line))));
            let commands = step.commands.iter();
            text.extend(commands.map(|command| format!("           $ {}\n", clean(command))));
        }
    }
    let image = setup.root != "/";
    text + match (setup.performed, todo) {
        (false, true) if image => "\nNothing was changed. With --apply it is done.\n",
        (false, true) => "\nNothing was changed. `sudo jalctl setup --apply` does it.\n",
        (false, false) => "\nNothing is to be done.\n",
        (true, true) => "\nThe steps to do were not tried.\n",
        (true, false) if image => "\nIt counts once the image is booted.\n",
        (true, false) => "\n`jalctl doctor` says whether anything is left.\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_did_is_waited_for_and_not_for_ever() {
        let looks = std::cell::Cell::new(0);
        let thrice = || {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        assert!(shows(thrice, Duration::from_secs(60)));
        assert!(!shows(|| true, Duration::from_millis(30)));
    }

    #[test]
    fn names_are_no_options_paths_or_patterns() {
        for good in [
            "alice",
            "vllm.service",
            "user@.service",
            "svc-7",
            "_apt",
            "a\\x2db",
        ] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-R",
            "../../etc/passwd",
            "a/b",
            "a b",
            "a*",
            "a\n",
            ".",
            "a;b",
            "\u{e9}",
        ] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
