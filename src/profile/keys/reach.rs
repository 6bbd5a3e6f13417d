//! Keys of how a link finds its way.

use super::{
    ProfileKey,
    values::{Alone, Flag, Text, TextList},
};
use crate::profile::defaults;

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

pub(in crate::profile) static EACH_GATEWAY: ProfileKey<Flag> = ProfileKey {
    name: "each",
    about: "Keeps `prepared` links to each address that the name has, and follows it: the first 64, which are looked up again at their time to live.",
    example: "",
    value: Flag,
};

pub(in crate::profile) static RESOLVER: ProfileKey<TextList> = ProfileKey {
    name: "resolver",
    about: "The name servers that are asked for names with `each`. `/etc/hosts` comes first. Unset: those of `/etc/resolv.conf`.",
    example: r#"["127.0.0.1:5353"]"#,
    value: TextList {
        each: Text {
            pattern: r"^([0-9.]+|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]):[0-9]{1,5}$",
            words: "`ADDRESS:PORT`",
        },
        max: defaults::NAME_SERVERS_MAX,
        alone: Alone::Allowed,
    },
};
