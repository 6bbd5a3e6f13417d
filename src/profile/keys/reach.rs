//! Keys that say how a link gets through the network.

use super::{
    KeyMap, ProfileKey,
    values::{FlagValue, PEM_FILE, SingleText, SubMap, TextListValue, TextValue},
};
use crate::profile::defaults;

pub(in crate::profile) static VIA: ProfileKey<TextValue> = ProfileKey {
    name: "via",
    about: "The proxy that links are dialled through: HTTP's CONNECT, or SOCKS5. A name that is dialled is left for it to look up.",
    example: "http://proxy.example.com:3128",
    value: TextValue {
        pattern: r"^(http|socks5)://[^/@?#]+:[0-9]{1,5}/?$",
        words: "`http://HOST:PORT` or `socks5://HOST:PORT`",
    },
};

pub(in crate::profile) static VIA_CREDENTIALS: ProfileKey<TextValue> = ProfileKey {
    name: "via_credentials",
    about: "A file with one line, USER:PASSWORD, mode 0600: who this gateway is to the proxy. Read at the start and at a reload.",
    example: "proxy.login",
    value: TextValue::of("file"),
};

pub(in crate::profile) static EACH_GATEWAY: ProfileKey<FlagValue> = ProfileKey {
    name: "each",
    about: "Keeps `prepared` links to each address that the name has, and follows it: the first 64, which are looked up again at their time to live.",
    example: "",
    value: FlagValue,
};

pub(in crate::profile) static RESOLVER: ProfileKey<TextListValue> = ProfileKey {
    name: "resolver",
    about: "The name servers that are asked for names with `each` and for SRV records. `/etc/hosts` comes first. Unset: those of `/etc/resolv.conf`.",
    example: r#"["127.0.0.1:5353"]"#,
    value: TextListValue {
        each: TextValue {
            pattern: r"^([0-9.]+|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]):[0-9]{1,5}$",
            words: "`ADDRESS:PORT`",
        },
        max: defaults::NAME_SERVERS_MAX,
        single: SingleText::Allowed,
    },
};

pub(in crate::profile) static OUTER: ProfileKey<SubMap> = ProfileKey {
    name: "outer",
    about: "The TLS around the WebSocket of `socks+wss`. It gets links through the network and proves nothing of the other gateway, which `tls` does. On the DMZ half its certificate is not needed where an `https` or `wss` accept on the port of `listen` has one.",
    example: "",
    value: SubMap(&OUTER_TLS),
};

pub(in crate::profile) static OUTER_TLS: KeyMap = KeyMap {
    about: "The TLS around the WebSocket of `socks+wss`: what `listen` shows, and what `connect` takes.",
    groups: &[&[&OUTER_CERTIFICATE, &OUTER_KEY, &OUTER_CA, &OUTER_NAME]],
};

pub(in crate::profile) static OUTER_CERTIFICATE: ProfileKey<TextValue> = ProfileKey {
    name: "certificate",
    about: "What `listen` shows.",
    example: r#"pki/www.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static OUTER_KEY: ProfileKey<TextValue> = ProfileKey {
    name: "key",
    about: "That certificate's private key, mode 0600.",
    example: r#"pki/www.key"#,
    value: PEM_FILE,
};

pub(in crate::profile) static OUTER_CA: ProfileKey<TextValue> = ProfileKey {
    name: "ca",
    about: "The authority that the certificate comes from which `connect` is shown: of a balancer, or of a proxy that inspects TLS. Unset: the system's authorities.",
    example: r#"pki/proxy-ca.pem"#,
    value: PEM_FILE,
};

pub(in crate::profile) static OUTER_NAME: ProfileKey<TextValue> = ProfileKey {
    name: "name",
    about: "The name that it carries. Unset: the host of the address.",
    example: r#"gate.example.com"#,
    value: TextValue { pattern: "", words: "a host" },
};

pub(in crate::profile) static SOURCE: ProfileKey<TextValue> = ProfileKey {
    name: "source",
    about: "The address of this machine that it is dialled from. Not for the internal half in reverse mode while `confine` is on, where the kernel refuses `bind`. Unset: the kernel chooses.",
    example: "192.0.2.8",
    value: TextValue::of("an IPv4 or IPv6 address"),
};
