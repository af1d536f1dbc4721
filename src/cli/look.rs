//! What the two output streams are: a terminal or not, in colour or not.

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Color, Style};
use std::io::IsTerminal;

/// How to write to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// A person reads along.
    pub terminal: bool,
    /// Colours are wanted and understood (`NO_COLOR` and `CLICOLOR_FORCE` are honoured).
    pub colour: bool,
}

impl Look {
    /// Of standard output.
    pub fn stdout() -> Self {
        let stream = std::io::stdout();
        Self { terminal: stream.is_terminal(), colour: AutoStream::choice(&stream) != ColorChoice::Never }
    }

    /// Of standard error.
    pub fn stderr() -> Self {
        let stream = std::io::stderr();
        Self { terminal: stream.is_terminal(), colour: AutoStream::choice(&stream) != ColorChoice::Never }
    }

    /// `text` in a colour, where colours are wanted.
    pub fn paint(self, colour: AnsiColor, text: &str) -> String {
        let style = Style::new().fg_color(Some(Color::Ansi(colour)));
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// `text` in bold, where colours are wanted.
    pub fn bold(self, text: &str) -> String {
        let style = Style::new().bold();
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// `text` dimmed, where colours are wanted.
    pub fn dim(self, text: &str) -> String {
        let style = Style::new().dimmed();
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}
