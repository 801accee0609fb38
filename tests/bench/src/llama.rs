//! Debian's llama.cpp, as tests/ggml fetches it, on its CPU backend or on a card by the plug-in.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bench::{Bench, failed};
use crate::cores::Cores;
use crate::emulator::Emulator;

/// The exit code of "cannot be had here".
const NOT_TO_BE_HAD: i32 = 77;

/// Its root, with the plug-in.
#[derive(Debug)]
pub struct Llama {
    /// The cache: its files are seen inside under the same names.
    pub cache: PathBuf,
    /// Where libjalapeno.so is.
    library: PathBuf,
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Llama {
    /// Fetches and builds what is needed; costs nothing when it is there. Where it cannot be had,
    /// the reason.
    pub fn prepare(bench: &Bench) -> Result<Self, String> {
        let library = std::path::absolute(&bench.programs);
        let library = library.map_err(|error| failed("find the library")(&error))?;
        script(Command::new("tests/ggml/fetch").args(["root", "header"]))?;
        script(Command::new("tests/ggml/build").env("JALAPENO_GGML_LIBRARY", &library))?;
        let said = script(Command::new("tests/ggml/fetch").arg("--where"))?;
        Ok(Self {
            cache: PathBuf::from(said.trim()),
            library,
        })
    }

    /// Valgrind of the same Debian.
    pub fn valgrind(&self) -> Result<Vec<String>, String> {
        script(Command::new("tests/ggml/fetch").arg("valgrind"))?;
        let place = self.cache.join("valgrind/usr");
        let (bin, lib) = (
            place.join("bin/valgrind.bin"),
            place.join("libexec/valgrind"),
        );
        let program = if bin.is_file() {
            bin
        } else {
            place.join("bin/valgrind")
        };
        Ok(vec![
            "env".into(),
            format!("VALGRIND_LIB={}", lib.display()),
            program.display().to_string(),
        ])
    }

    /// Runs a program inside, on a core; with a card, the plug-in finds it.
    pub fn run(
        &self,
        bench: &Bench,
        core: usize,
        card: Option<&Emulator>,
        words: &[&str],
    ) -> Result<Said, String> {
        let mut command = Command::new("tests/ggml/inside");
        command.arg("env");
        if let Some(card) = card {
            let plug_in = self.cache.join("built/libggml-jalapeno.so");
            command.arg(format!("JALAPENO_DEVICES={}", card.name()));
            command.arg(format!("LD_LIBRARY_PATH={}", self.library.display()));
            command.arg(format!("GGML_BACKEND_PATH={}", plug_in.display()));
        }
        // A child inherits where it may run.
        Cores::pin(core)?;
        let output = command.args(words).stdin(Stdio::null()).output();
        bench.cores.unpin()?;
        let output = output.map_err(|error| failed("tests/ggml/inside")(&error))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said {
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        if output.status.success() {
            return Ok(said);
        }
        let last: Vec<&str> = said.err.lines().rev().take(2).collect();
        Err(format!("{words:?}: {}: {last:?}", output.status))
    }

    /// Tokens a second of `llama-bench`, decoding so many, several times.
    pub fn decode(
        &self,
        bench: &Bench,
        core: usize,
        card: Option<&Emulator>,
        (model, tokens, times): (&str, u32, u32),
    ) -> Result<Vec<f64>, String> {
        let (tokens, times) = (tokens.to_string(), times.to_string());
        let mut words = vec![
            "llama-bench",
            "-m",
            model,
            "-t",
            "1",
            "-p",
            "0",
            "-n",
            &tokens,
        ];
        words.extend(["-r", &times, "-o", "json"]);
        words.extend(match card {
            Some(_) => ["-dev", "JAL0", "-ngl", "99"],
            None => ["-dev", "none", "-ngl", "0"],
        });
        let said = self.run(bench, core, card, &words)?;
        let rows: Value = serde_json::from_str(&said.out)
            .map_err(|error| format!("llama-bench said {:?}: {error}", said.out))?;
        let samples = rows[0]["samples_ts"].as_array();
        let samples: Vec<f64> = samples
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect();
        if samples.is_empty() {
            return Err(format!("llama-bench told no rate: {rows}"));
        }
        Ok(samples)
    }
}

/// Runs one of the scripts; what it printed, or its reason.
fn script(command: &mut Command) -> Result<String, String> {
    let tried = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| failed(&tried)(&error))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(NOT_TO_BE_HAD) => Err(format!("not to be had here: {last}")),
        _ => Err(format!("{tried}: {}: {last}", output.status)),
    }
}
