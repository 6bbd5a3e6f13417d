//! The answer to a head that hyper cannot read. hyper writes such answers itself, below every service, and
//! without a body. Here they get a line of text, like every other answer of the gateway.

/// The bytes to write instead, if these are such an answer of hyper's.
pub fn with_text(written: &[u8]) -> Option<Vec<u8>> {
    let head = str::from_utf8(written).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().filter(|line| line.starts_with("HTTP/1."))?;
    let text = match status_line.get(9..12)? {
        "400" => "the head of the request is malformed\n",
        "414" => "the target of the request is too long\n",
        "431" => "the head of the request is too large\n",
        _ => return None,
    };
    let fields: Vec<_> = lines.collect();
    let is_empty = |field: &&str| *field == "content-length: 0";
    if !fields.iter().any(is_empty) {
        return None;
    }
    let kept: String =
        fields.iter().filter(|field| !is_empty(field)).map(|field| format!("{field}\r\n")).collect();
    let length = text.len();
    let answer =
        format!("{status_line}\r\n{kept}content-type: text/plain\r\ncontent-length: {length}\r\n\r\n{text}");
    Some(answer.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_an_answer_of_hypers_gets_a_text() {
        let own =
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answer = with_text(own.as_bytes()).expect("a text");
        assert_eq!(
            String::from_utf8_lossy(&answer),
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: text/plain\r\n\
             content-length: 37\r\n\r\nthe head of the request is too large\n"
        );
        for other in [
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nmore",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            "",
        ] {
            assert_eq!(with_text(other.as_bytes()), None, "{other}");
        }
    }
}
