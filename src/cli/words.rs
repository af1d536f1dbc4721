//! The words after `--`, as what is submitted.

use super::error::CliError;
use crate::protocol::spec::Shell;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A line for a shell.
    Command(String),
    /// A program and its arguments, without a shell.
    Argv(Vec<String>),
}

/// One word, or any number with `--shell`, is a line for the shell; several words are a program and its arguments,
/// exactly as they were typed.
///
/// # Errors
/// [`CliError::Usage`] when there is nothing to run.
pub fn what(words: &[String], shell: Option<Shell>) -> Result<What, CliError> {
    let what = match words {
        [line] => What::Command(line.clone()),
        words if shell.is_some() => What::Command(words.join(" ")),
        words => What::Argv(words.to_vec()),
    };
    let is_empty = match &what {
        What::Command(line) => line.trim().is_empty(),
        What::Argv(argv) => argv.first().is_none_or(String::is_empty),
    };
    if is_empty {
        return Err(CliError::Usage("the command is empty: give it after --, like -- uname -a".to_owned()));
    }
    Ok(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str], shell: Option<Shell>) -> Result<What, CliError> {
        what(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), shell)
    }

    #[test]
    fn one_word_is_a_line_and_several_are_arguments() {
        assert_eq!(of(&["df -h | tail"], None).unwrap(), What::Command("df -h | tail".into()));
        assert_eq!(of(&["uname", "-a"], None).unwrap(), What::Argv(vec!["uname".into(), "-a".into()]));
        assert_eq!(of(&["echo", "$HOME"], Some(Shell::Bash)).unwrap(), What::Command("echo $HOME".into()));
        for empty in [&[][..], &[""], &[" "], &["", "x"]] {
            assert_eq!(of(empty, None).unwrap_err().exit_code(), 2, "{empty:?}");
        }
    }
}
