//! The command line.

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: rivulet COMMAND

  adapters                what this machine offers, best first
  report                  the device that the settings choose: adapter, queues, pool, memory, settings
  stress [OPTIONS]        threads that share tensors without synchronising; checks every sum

  options of stress:
    --threads N           1 to 512, default 8
    --rounds N            ops of each thread, 1 to 10000000, default 2000
    --adapter NAME        host (default) or sim, a simulated GPU that also reports missing synchronisation
    --queues N            hardware queues of the sim, 1 to 16, default 2
    --seed N              default 0
";

/// Which device `stress` runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adapter {
    Host,
    Sim,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stress {
    pub(crate) threads: usize,
    pub(crate) rounds: usize,
    pub(crate) adapter: Adapter,
    pub(crate) queues: usize,
    pub(crate) seed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Adapters,
    Report,
    Stress(Stress),
}

/// # Errors
/// A sentence that names what was given and what is allowed.
pub(crate) fn parse(arguments: &[String]) -> Result<Command, String> {
    let (command, rest) = match arguments.split_first() {
        None => return Ok(Command::Help),
        Some((command, rest)) => (command.as_str(), rest),
    };
    match command {
        "help" | "--help" | "-h" => Ok(Command::Help),
        "adapters" | "report" if !rest.is_empty() => {
            Err(format!("{command} takes no options, got {:?}", rest[0]))
        }
        "adapters" => Ok(Command::Adapters),
        "report" => Ok(Command::Report),
        "stress" => stress(rest),
        other => Err(format!("unknown command {other:?}: allowed are adapters, report, stress and help")),
    }
}

fn stress(mut rest: &[String]) -> Result<Command, String> {
    let mut options = Stress { threads: 8, rounds: 2000, adapter: Adapter::Host, queues: 2, seed: 0 };
    while let Some((name, tail)) = rest.split_first() {
        if matches!(name.as_str(), "--help" | "-h") {
            return Ok(Command::Help);
        }
        let Some((value, tail)) = tail.split_first() else { return Err(format!("{name} needs a value")) };
        rest = tail;
        match name.as_str() {
            "--threads" => options.threads = number(name, value, 1, 512)?,
            "--rounds" => options.rounds = number(name, value, 1, 10_000_000)?,
            "--queues" => options.queues = number(name, value, 1, 16)?,
            "--seed" => options.seed = number(name, value, 0, u64::MAX)?,
            "--adapter" => {
                options.adapter = match value.as_str() {
                    "host" => Adapter::Host,
                    "sim" => Adapter::Sim,
                    other => return Err(format!("--adapter {other:?}: allowed are host and sim")),
                }
            }
            other => return Err(format!("unknown option {other:?} of stress")),
        }
    }
    Ok(Command::Stress(options))
}

fn number<N: std::str::FromStr + PartialOrd + std::fmt::Display>(
    name: &str,
    value: &str,
    least: N,
    most: N,
) -> Result<N, String> {
    match value.parse::<N>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("{name} {value:?}: allowed are whole numbers from {least} to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn commands_and_options() {
        assert_eq!(parsed(""), Ok(Command::Help));
        assert_eq!(parsed("adapters"), Ok(Command::Adapters));
        let Ok(Command::Stress(options)) = parsed("stress --threads 3 --adapter sim --seed 9") else {
            panic!("stress expected")
        };
        assert_eq!((options.threads, options.rounds, options.seed), (3, 2000, 9));
        assert_eq!(options.adapter, Adapter::Sim);
    }

    #[test]
    fn bad_lines_are_named() {
        for (line, part) in [
            ("fly", "\"fly\""),
            ("report now", "\"now\""),
            ("stress --threads", "needs a value"),
            ("stress --threads 0", "from 1 to 512"),
            ("stress --adapter cuda", "host and sim"),
            ("stress --speed 3", "\"--speed\""),
        ] {
            let message = parsed(line).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}
