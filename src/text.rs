//! Text for operators: what comes from outside is made safe to show, on a screen, in a log, on a terminal; and counts
//! get their nouns.
//!
//! Names of services and peers, addresses and error texts come from clients, peers and the
//! system. Shown raw they could move the cursor, turn the reading direction or hide letters.

use std::path::Path;

/// Replaces what [`clean_text`] cut off.
pub const ELLIPSIS: char = '…';

/// `text` on one line without invisible or directing characters, at most `chars_max` long.
///
/// Breaks and tabs become one space each, so that words stay apart; a cut ends in [`ELLIPSIS`].
pub fn clean_text(text: &str, chars_max: usize) -> String {
    let mut shown = text.chars().filter_map(visible);
    let mut out: String = shown.by_ref().take(chars_max).collect();
    if shown.next().is_some() && out.pop().is_some() {
        out.push(ELLIPSIS);
    }
    out
}

/// `text` without its counts and times: lines that differ only in these report the same thing.
pub fn cause(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        let core = word.trim_matches(|letter: char| !letter.is_alphanumeric());
        let digits = core.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let is_number = digits.parse::<f64>().is_ok() && core.len() - digits.len() <= UNIT_CHARS_MAX;
        // An address does not count as a number: two addresses are two causes.
        out.push_str(&if is_number { word.replacen(core, "#", 1) } else { word.to_owned() });
    }
    out
}

/// `1 session`, `12 sessions`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// The name of a file, on one line; no system has longer ones.
pub fn clean_path(path: &Path) -> String {
    clean_text(&path.display().to_string(), PATH_CHARS_MAX)
}

fn visible(letter: char) -> Option<char> {
    match letter {
        '\t' | '\n' | '\r' | '\u{2028}' | '\u{2029}' => Some(' '),
        _ if letter.is_control() || is_bidi_control(letter) || is_invisible(letter) => None,
        _ => Some(letter),
    }
}

/// Bidi controls, which could make an address read backwards.
fn is_bidi_control(letter: char) -> bool {
    matches!(letter, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Characters without width, which make different names look alike.
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{00AD}'
            | '\u{034F}'
            | '\u{115F}'
            | '\u{1160}'
            | '\u{17B4}'
            | '\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200D}'
            | '\u{2060}'..='\u{2065}'
            | '\u{206A}'..='\u{206F}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// `ms`, `s`, `kB`, `x`.
const UNIT_CHARS_MAX: usize = 2;
const PATH_CHARS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_text_becomes_plain() {
        let cases = [
            ("orders", 20, "orders"),
            ("a\nb\tc\r\nd", 20, "a b c  d"),
            ("\u{1b}[2Jgone", 20, "[2Jgone"),
            ("\u{9b}2J\u{7f}x", 20, "2Jx"),
            ("moc.\u{202e}evil\u{2069}", 20, "moc.evil"),
            ("pay\u{200b}pal", 20, "paypal"),
            ("bücher.example", 20, "bücher.example"),
            ("exactly-ten", 11, "exactly-ten"),
            ("exactly-ten", 10, "exactly-t…"),
            ("long", 1, "…"),
            ("long", 0, ""),
            ("", 0, ""),
        ];
        for (text, chars_max, expected) in cases {
            assert_eq!(clean_text(text, chars_max), expected, "{text:?} at most {chars_max}");
        }
    }

    #[test]
    fn a_cause_has_no_counts_and_keeps_names_and_addresses() {
        for (text, expected) in [
            ("dial 10.1.4.9:143 refused, next in 1.5s", "dial 10.1.4.9:143 refused, next in #"),
            ("app-7: the last 12 sessions failed (3x)", "app-7: the last # sessions failed (#)"),
            ("connect 10.1.4.9 refused", "connect 10.1.4.9 refused"),
            ("over after 250ms: 1 of 8 links ready", "over after #: # of # links ready"),
            ("", ""),
        ] {
            assert_eq!(cause(text), expected);
        }
    }

    proptest! {
        #[test]
        fn nothing_invisible_and_never_too_long(text in any::<String>(), chars_max in 0_usize..40) {
            let cleaned = clean_text(&text, chars_max);
            prop_assert!(cleaned.chars().count() <= chars_max);
            prop_assert!(cleaned.chars().all(|c| !c.is_control() && !is_bidi_control(c) && !is_invisible(c)));
            prop_assert_eq!(clean_text(&cleaned, chars_max), cleaned);
        }
    }
}
