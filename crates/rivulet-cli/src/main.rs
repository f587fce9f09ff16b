//! Command line of the runtime without PyTorch: what a machine offers, what a device is doing, and a stress test that
//! checks its own results.
//!
//! The modules are `args`, the command line, `show` for `adapters` and `report`, and `stress`.
#![forbid(unsafe_code)]

mod args;
mod show;
mod stress;

use args::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args::parse(&arguments) {
        Ok(Command::Help) => {
            print!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(Command::Adapters) => show::adapters(),
        Ok(Command::Report) => show::report(),
        Ok(Command::Stress(options)) => stress::run(&options),
        Err(message) => {
            eprintln!("rivulet: {message}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("rivulet: {message}");
            ExitCode::FAILURE
        }
    }
}
