//! Values for `--secret-env`: from our own environment, else typed on the terminal. Never from the arguments, which every
//! user of the host can read.

use super::error::CliError;
use crate::protocol::secret_env::{SECRETS_BYTES_MAX, SecretEnv};
use crate::secret::Secret;

/// Finds a value for each name.
///
/// # Errors
/// [`CliError::Usage`] where there is none; [`CliError::Interrupted`].
pub fn read(names: &[String]) -> Result<SecretEnv, CliError> {
    let mut secrets = SecretEnv::default();
    for name in names {
        let value = match std::env::var(name) {
            Ok(value) => Secret::new(value),
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(CliError::Usage(format!("the environment variable {name} is not text")));
            }
            Err(std::env::VarError::NotPresent) => terminal::ask(name)?,
        };
        secrets.set(name.clone(), value);
    }
    secrets.check().map_err(|error| CliError::Usage(format!("--secret-env: {}", error.message)))?;
    Ok(secrets)
}

/// A value parser for the name of a variable.
///
/// # Errors
/// It is none; above all when somebody gives a value with it.
pub fn parse_name(text: &str) -> Result<String, &'static str> {
    if text.contains('=') {
        return Err("give the name alone; the value is taken from the environment variable of that name, or asked for");
    }
    if text.is_empty() { Err("a name is not empty") } else { Ok(text.to_owned()) }
}

fn no_value(name: &str) -> CliError {
    CliError::Usage(format!(
        "--secret-env {name}: the environment variable {name} is not set, and there is no terminal to ask on; set it for this call"
    ))
}

/// What a key did to a line that is not shown.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    More,
    Done,
    Interrupted,
}

/// Takes a byte typed with echo, line editing and signals off: those are ours then.
fn key(line: &mut Vec<u8>, byte: u8) -> Key {
    match byte {
        b'\n' | b'\r' => return Key::Done,
        // Ctrl-C, Ctrl-D, Ctrl-\.
        3 | 4 | 28 => return Key::Interrupted,
        // Backspace takes a whole character.
        8 | 127 => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
        // Ctrl-U.
        21 => line.clear(),
        _ if line.len() < SECRETS_BYTES_MAX => line.push(byte),
        _ => {}
    }
    Key::More
}

#[cfg(unix)]
mod terminal {
    use super::{Key, key, no_value};
    use crate::cli::error::CliError;
    use crate::secret::Secret;
    use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
    use std::fs::File;
    use std::io::{Read, Write};

    /// The terminal as it was before, again when this goes.
    struct Hidden<'a> {
        terminal: &'a File,
        before: Termios,
    }

    impl<'a> Hidden<'a> {
        fn new(terminal: &'a File) -> nix::Result<Self> {
            let before = tcgetattr(terminal)?;
            let mut hidden = before.clone();
            // Without signals: one would end us with the terminal as it is now.
            hidden.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
            tcsetattr(terminal, SetArg::TCSAFLUSH, &hidden)?;
            Ok(Self { terminal, before })
        }
    }

    impl Drop for Hidden<'_> {
        fn drop(&mut self) {
            let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
        }
    }

    /// Asks for a value on the terminal, without showing it. Standard input may be the command's.
    pub fn ask(name: &str) -> Result<Secret, CliError> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| no_value(name))?;
        let hidden = Hidden::new(&terminal).map_err(|_| no_value(name))?;
        let _ = write!(&terminal, "{name}: ");
        let mut line = Vec::new();
        let mut byte = [0];
        let ended = loop {
            match (&terminal).read(&mut byte) {
                Ok(1) => match key(&mut line, byte[0]) {
                    Key::More => {}
                    ended => break ended,
                },
                _ => break Key::Interrupted,
            }
        };
        drop(hidden);
        let _ = writeln!(&terminal);
        if ended == Key::Interrupted {
            return Err(CliError::Interrupted);
        }
        String::from_utf8(line)
            .map(Secret::new)
            .map_err(|_| CliError::Usage(format!("what was typed for {name} is not text")))
    }
}

#[cfg(not(unix))]
mod terminal {
    use super::no_value;
    use crate::cli::error::CliError;
    use crate::secret::Secret;

    /// There is no way to ask without showing what is typed.
    pub fn ask(name: &str) -> Result<Secret, CliError> {
        Err(no_value(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_without_its_value() {
        assert_eq!(parse_name("DB_PASSWORD").unwrap(), "DB_PASSWORD");
        assert!(parse_name("DB_PASSWORD=hunter2").unwrap_err().contains("name alone"));
        assert!(parse_name("").is_err());
    }

    #[test]
    fn keys_edit_the_hidden_line() {
        let typed = |bytes: &[u8]| {
            let mut line = Vec::new();
            let last = bytes.iter().map(|byte| key(&mut line, *byte)).last();
            (String::from_utf8(line).unwrap(), last.unwrap())
        };
        assert_eq!(typed("aä\u{7f}b\n".as_bytes()), ("ab".to_owned(), Key::Done));
        assert_eq!(typed(b"wrong\x15right\r"), ("right".to_owned(), Key::Done));
        assert_eq!(typed(b"\x7f\x08x"), ("x".to_owned(), Key::More));
        assert_eq!(typed(b"x\x03").1, Key::Interrupted);
        assert_eq!(typed(&[b'x'; 2 * SECRETS_BYTES_MAX]).0.len(), SECRETS_BYTES_MAX);
    }
}
