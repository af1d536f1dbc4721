//! Foreign text made safe for a terminal.
//!
//! Names, facts, reasons and notes come from other machines. Nothing of them reaches a terminal with a control
//! character in it: an escape sequence could rewrite what the technician sees.

use crate::protocol::name::Tags;
use crate::protocol::plain::is_bidi_control;

/// `text` on one line without control characters (line ends and tabs become spaces, others are dropped).
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c })
        .filter(|c| !c.is_control() && !is_bidi_control(*c))
        .collect()
}

/// [`clean`], and cut to `chars_max` characters with an ellipsis.
pub fn line(text: &str, chars_max: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= chars_max {
        return text;
    }
    let mut cut: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Tags on one line, as they are typed: `role=web site=berlin`.
pub fn tags_line(tags: &Tags) -> String {
    clean(&tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" "))
}

/// A word as a POSIX shell takes it: quoted where it needs to be.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_lose_their_teeth() {
        assert_eq!(clean("a\u{1b}[2Jb\r\nc\u{9b}31m\u{7f}\u{202e}"), "a[2Jb  c31m");
        assert_eq!(clean("Büro 1"), "Büro 1");
    }

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(line("abcdef", 6), "abcdef");
        assert_eq!(line("äbcdefg", 6), "äbcde…");
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("/tmp/a-b"), "/tmp/a-b");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
