//! Tables that fit the terminal. Every cell is made safe here.

use super::look::Look;
use super::text::clean;
use crate::protocol::state::State;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

/// Columns between two columns of a table.
const GAP: u16 = 2;

/// Where a table is printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Field {
    text: String,
    colour: Option<Color>,
}

impl<T: AsRef<str>> From<T> for Field {
    fn from(text: T) -> Self {
        Self { text: clean(text.as_ref()), colour: None }
    }
}

impl Field {
    /// A state, in its colour.
    pub fn state(state: State) -> Self {
        Self { text: state.to_string(), colour: state_colour(state) }
    }

    /// `yes` in green or `no` in grey.
    pub fn either(is: bool, yes: &str, no: &str) -> Self {
        Self {
            text: (if is { yes } else { no }).to_owned(),
            colour: Some(if is { Color::Green } else { Color::DarkGrey }),
        }
    }
}

/// Draws a table without borders. No rows: the headings alone.
pub fn draw(headings: &[&str], rows: Vec<Vec<Field>>, to: To) -> String {
    let look = if to == To::Stdout { Look::stdout() } else { Look::stderr() };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    match (to, look.terminal) {
        (_, false) => {
            table.force_no_tty().set_content_arrangement(ContentArrangement::Disabled);
        }
        (To::Stderr, true) => {
            table.use_stderr();
        }
        (To::Stdout, true) => {}
    }
    table.set_header(headings.iter().map(|heading| {
        let cell = Cell::new(heading);
        if look.colour { cell.add_attribute(Attribute::Dim) } else { cell }
    }));
    for row in rows {
        table.add_row(row.into_iter().map(|field| {
            let cell = Cell::new(field.text);
            match field.colour {
                Some(colour) if look.colour => cell.fg(colour),
                _ => cell,
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

/// Columns of the terminal that standard error is, if it is one.
pub fn stderr_width() -> Option<u16> {
    let mut table = Table::new();
    table.use_stderr();
    table.width()
}

fn state_colour(state: State) -> Option<Color> {
    match state {
        State::Succeeded => Some(Color::Green),
        State::Queued | State::Accepted => Some(Color::Yellow),
        State::Running => Some(Color::Cyan),
        State::Failed | State::TimedOut | State::Interrupted | State::Refused | State::Lost => Some(Color::Red),
        State::Cancelled | State::Expired => Some(Color::Magenta),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_aligned_and_clean() {
        let rows = vec![
            vec!["web-1".into(), Field::state(State::Succeeded), "x\u{1b}[31m\ny".into()],
            vec!["b".into(), Field::either(false, "online", "offline"), "".into()],
        ];
        let table = draw(&["agent", "state", "reason"], rows, To::Stdout);
        assert_eq!(table, "agent  state      reason\nweb-1  succeeded  x[31m y\nb      offline");
        assert_eq!(draw(&["id"], Vec::new(), To::Stderr), "id");
    }
}
