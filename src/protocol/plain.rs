//! Text from elsewhere, made fit for an error or a log: one line, and not longer than anybody reads.

/// Longest text of an error, in characters: some of what was wrong, and what is allowed.
pub const PLAIN_CHARS_MAX: usize = 512;

/// The first `chars_max` characters of `text`, with a space for each control character: what a peer sent must not move
/// the cursor of whoever reads it, nor turn a line around.
pub fn plain(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|c| if c.is_control() || is_bidi_control(c) { ' ' } else { c }).collect()
}

/// Whether it reorders what follows it on the line.
pub fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_length_go() {
        assert_eq!(plain("a\u{1b}[31mb\nc", 6), "a [31m");
        assert_eq!(plain("ä\u{9b}\u{202e}", 3), "ä  ");
    }
}
