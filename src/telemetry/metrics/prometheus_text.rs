//! The text format for clients that do not ask for OpenMetrics. The two differ in how counters are named in
//! their descriptions, and in the last line.

pub const TEXT_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Converts OpenMetrics text with the same numbers.
pub fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut described = None;
    for line in text.lines() {
        if line == "# EOF" {
            break;
        }
        // The help comes first, and the type says whether it is a counter.
        if let Some(help) = line.strip_prefix("# HELP ") {
            described = Some(help);
            continue;
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|of| of.split_once(' ')) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let suffix = if kind == "counter" { "_total" } else { "" };
        if let Some((_, help)) = described.take().and_then(|help| help.split_once(' ')) {
            out.push_str(&format!("# HELP {name}{suffix} {help}\n"));
        }
        out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_their_full_names() {
        let text = "# HELP a_b Help of it.\n# TYPE a_b counter\na_b_total{x=\"# TYPE\"} 1\n\
                    # HELP c Other.\n# TYPE c gauge\nc 2.0\n# EOF\n";
        let expected = "# HELP a_b_total Help of it.\n# TYPE a_b_total counter\na_b_total{x=\"# TYPE\"} 1\n\
                        # HELP c Other.\n# TYPE c gauge\nc 2.0\n";
        assert_eq!(from_open_metrics(text), expected);
    }
}
