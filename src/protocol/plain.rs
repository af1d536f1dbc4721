//! Text from elsewhere, made fit for an error or a log: one line, and not longer than anybody reads.

/// Longest text of an error, in characters: some of what was wrong, and what is allowed.
pub const PLAIN_CHARS_MAX: usize = 512;

/// The first `chars_max` characters of `text`, with a space for each control character: what a peer sent must not move
/// the cursor of whoever reads it.
pub fn plain(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_length_go() {
        assert_eq!(plain("a\u{1b}[31mb\nc", 6), "a [31m");
        assert_eq!(plain("ä\u{9b}", 2), "ä ");
    }
}
