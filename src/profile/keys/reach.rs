//! Keys of how a link finds its way.

use super::{ProfileKey, values::Text};

pub(in crate::profile) static VIA: ProfileKey<Text> = ProfileKey {
    name: "via",
    about: "The proxy that links are dialled through: HTTP's CONNECT, or SOCKS5. A name that is dialled is left for it to look up.",
    example: "http://proxy.example.com:3128",
    value: Text {
        pattern: r"^(http|socks5)://[^/@?#]+:[0-9]{1,5}/?$",
        words: "`http://HOST:PORT` or `socks5://HOST:PORT`",
    },
};

pub(in crate::profile) static VIA_CREDENTIALS: ProfileKey<Text> = ProfileKey {
    name: "via_credentials",
    about: "A file with one line, USER:PASSWORD, mode 0600: who this gateway is to the proxy. Read at the start and at a reload.",
    example: "proxy.login",
    value: Text::of("file"),
};
