//! From a specification to a process: which program, which folder, which environment, and why not.

use crate::protocol::secret_env::SecretEnv;
use crate::protocol::spec::{Shell, Spec};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Variables of the agent's own environment with this prefix are not handed on: they may hold its secrets.
const OWN_VARIABLES: &str = "POSTRIDER_";

/// The programs that may stand for a shell, best first, each with the arguments before the line.
fn shells(shell: Shell) -> &'static [&'static [&'static str]] {
    match shell {
        Shell::Sh => &[&["sh", "-c"]],
        Shell::Bash => &[&["bash", "-c"]],
        Shell::Powershell if cfg!(windows) => &[
            &["powershell", "-NoProfile", "-NonInteractive", "-Command"],
            &["pwsh", "-NoProfile", "-NonInteractive", "-Command"],
        ],
        Shell::Powershell => &[
            &["pwsh", "-NoProfile", "-NonInteractive", "-Command"],
            &["powershell", "-NoProfile", "-NonInteractive", "-Command"],
        ],
        Shell::Cmd => &[&["cmd", "/d", "/s", "/c"]],
    }
}

/// Starts what the specification asks for: standard output and error are the caller's own, standard input is a pipe
/// if there is text for it. `prepare` adds what the platform needs.
///
/// # Errors
/// The reason, as a sentence for people that names what is missing.
pub fn start(spec: &Spec, secrets: &SecretEnv, prepare: impl Fn(&mut Command)) -> Result<Child, String> {
    let folder = working_folder(spec)?;
    let spawn = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&folder);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(OWN_VARIABLES) {
                command.env_remove(name);
            }
        }
        command.envs(&spec.env).envs(secrets.expose());
        command.stdin(if spec.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        prepare(&mut command);
        command.spawn()
    };
    match (&spec.command, &spec.argv) {
        (Some(line), _) => {
            let shell = spec.shell.unwrap_or(if cfg!(windows) { Shell::Cmd } else { Shell::Sh });
            for candidate in shells(shell) {
                let (program, flags) = candidate.split_first().ok_or("no shell")?;
                let arguments: Vec<&str> = flags.iter().copied().chain([line.as_str()]).collect();
                match spawn(program, &arguments) {
                    Ok(child) => return Ok(child),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(format!("the shell {shell} could not be started: {error}")),
                }
            }
            Err(format!("the shell {shell} is not installed"))
        }
        (None, Some(argv)) => {
            let (program, arguments) = argv.split_first().ok_or("there is no program")?;
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            spawn(program, &arguments).map_err(|error| match error.kind() {
                ErrorKind::NotFound => format!("the program {program} does not exist"),
                ErrorKind::PermissionDenied => format!("the program {program} may not be executed: {error}"),
                _ => format!("the program {program} could not be started: {error}"),
            })
        }
        (None, None) => Err("there is nothing to run".to_owned()),
    }
}

fn working_folder(spec: &Spec) -> Result<PathBuf, String> {
    let Some(wanted) = &spec.cwd else {
        let home = std::env::home_dir().filter(|home| home.is_dir());
        return Ok(home.unwrap_or_else(|| PathBuf::from(std::path::MAIN_SEPARATOR_STR)));
    };
    match std::fs::metadata(Path::new(wanted)) {
        Ok(found) if found.is_dir() => Ok(PathBuf::from(wanted)),
        Ok(_) => Err(format!("the working folder {wanted} is not a folder")),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(format!("the working folder {wanted} does not exist")),
        Err(error) => Err(format!("the working folder {wanted} cannot be used: {error}")),
    }
}
