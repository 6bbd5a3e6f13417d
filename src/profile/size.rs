//! Sizes as the profile writes them: a whole number and its unit, `64KiB`.

const UNITS: [(&str, usize); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads `1024B`, `64KiB` or `1MB`, in bytes.
pub(super) fn parse(text: &str) -> Option<usize> {
    let (digits, unit) = text.split_at(text.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(text.len()));
    let (_, bytes) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    digits.parse::<usize>().ok()?.checked_mul(bytes)
}

/// The size as a profile would write it, in the largest unit that fits.
pub(super) fn written(bytes: usize) -> String {
    let fits = |(_, unit): &(&str, usize)| bytes >= *unit && bytes.is_multiple_of(*unit);
    match UNITS.into_iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_in_units() {
        for (text, bytes) in
            [("1B", 1), ("3KB", 3000), ("1KiB", 1024), ("64MiB", 64 << 20), ("2MB", 2_000_000)]
        {
            assert_eq!(parse(text), Some(bytes), "{text}");
            assert_eq!(written(bytes), text);
        }
        for text in ["", "1", "KiB", "1.5KiB", "-1B", "1kb", "99999999999999999999MiB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
