//! Tables that fit the terminal. Every cell is made safe here.

use super::look::Look;
use super::text::clean;
use crate::protocol::state::State;
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};

/// Columns between two columns of a table.
const GAP: u16 = 2;
/// What a wrapped column keeps at least, in characters: less is a column of syllables.
const WRAPPED_MIN: u16 = 12;
/// An id's length.
const ID_CHARS: u16 = 36;
/// A terminal that says it is narrower than this (0 is common) does not know, and this is assumed instead.
const WIDTH_MIN: u16 = 20;
const WIDTH_DEFAULT: u16 = 80;

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
    if table.width().is_some_and(|width| width < WIDTH_MIN) {
        table.set_width(WIDTH_DEFAULT);
    }
    let widths = table.column_max_content_widths();
    let whole = whole_columns(&widths, table.width().unwrap_or(u16::MAX));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        column.set_constraint(if whole.contains(&index) {
            ColumnConstraint::ContentWidth
        } else {
            ColumnConstraint::LowerBoundary(Width::Fixed(WRAPPED_MIN.min(widths[index]) + GAP))
        });
    }
    table.trim_fmt()
}

/// The columns that are not wrapped: narrow ones first, as long as the others keep [`WRAPPED_MIN`]. Ids always: one in
/// two pieces cannot be copied.
fn whole_columns(widths: &[u16], available: u16) -> Vec<usize> {
    let mut order: Vec<usize> = (0..widths.len()).collect();
    order.sort_by_key(|index| (widths[*index] != ID_CHARS, widths[*index]));
    let least = |index: &usize| u32::from(WRAPPED_MIN.min(widths[*index]) + GAP);
    let mut used: u32 = order.iter().map(least).sum();
    let fits = |index: &usize| {
        used += u32::from(widths[*index] + GAP) - least(index);
        widths[*index] == ID_CHARS || used <= u32::from(available)
    };
    order.into_iter().take_while(fits).collect()
}

/// Columns of the terminal that standard error is, if it is one.
pub fn stderr_width() -> Option<u16> {
    let mut table = Table::new();
    table.use_stderr();
    table.width().map(|width| if width < WIDTH_MIN { WIDTH_DEFAULT } else { width })
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
    fn narrow_columns_and_ids_stay_whole() {
        assert_eq!(whole_columns(&[36, 8, 5, 22, 16, 60], 100), [0, 2, 1]);
        assert_eq!(whole_columns(&[36, 8, 5, 22, 16, 60], 40), [0]);
        assert_eq!(whole_columns(&[5, 7, 60], u16::MAX), [0, 1, 2]);
        assert_eq!(whole_columns(&[], 80), Vec::<usize>::new());
    }

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
