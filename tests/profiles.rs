//! Profiles as files: the samples load, the bad ones give their written problems, the defaults
//! are the manual's, and no text whatever stops or stalls the reading.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use portcullis::profile::{
    Accept, AcceptAddress, BindPolicy, Carries, DemoPorts, DemoTls, DmzMode, EdgeScheme, Half, HostPort,
    InternalMode, KeyExchangePolicy, LinkTls, Mode, PemSource, PoolLimits, Problem, Profile,
    ProfileOverrides, RetryPolicy, RevokedFiles, builtin_demo, list, load, reference, schema, warnings,
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

const MODES: [Mode; 3] = [Mode::Direct, Mode::Forward, Mode::Reverse];

fn root(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// Loads `file` in its own mode, and fails if that takes long enough for a person to notice.
fn timed(file: &Path) -> Result<Profile, Vec<Problem>> {
    let start = Instant::now();
    let loaded = load(file, &ProfileOverrides::default());
    assert!(start.elapsed() < Duration::from_secs(2), "{} took {:?}", file.display(), start.elapsed());
    loaded
}

/// The problems of a file, a line each; files by their names in `folder`.
fn problems(file: &Path, folder: &Path) -> String {
    let prefix = format!("{}/", folder.display());
    match timed(file) {
        Ok(profile) => panic!("{} loads: {profile:?}", file.display()),
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n").replace(&prefix, "")).collect(),
    }
}

/// Loads a text as the only file of a folder, with a mode of the command line's.
fn load_text(text: impl AsRef<[u8]>, mode: Option<Mode>) -> Result<Profile, Vec<Problem>> {
    let folder = tempfile::tempdir().expect("a folder for the text");
    let file = folder.path().join("text.yaml");
    fs::write(&file, text).expect("the text is written");
    let start = Instant::now();
    let loaded = load(&file, &ProfileOverrides { mode, half: None });
    // For what grows without bound; a busy machine takes 2 s for the largest profile.
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
    loaded
}

/// The one problem of a text, without its file.
fn only_problem(text: impl AsRef<[u8]>) -> String {
    match load_text(text, None) {
        Err(problems) if problems.len() == 1 => {
            let text = problems[0].to_string();
            text.split_once("text.yaml:").map_or(text.clone(), |(_, rest)| rest.to_owned())
        }
        other => panic!("not one problem: {other:?}"),
    }
}

/// Run with `UPDATE_EXPECTED=1` to update the expected problems; read the difference.
#[test]
fn every_bad_profile_gives_its_written_problems() {
    let folder = root("tests/profiles/bad");
    let files = list(&folder);
    assert!(files.len() > 40, "the corpus is at its place");
    for file in files {
        let expected_file = file.with_extension("expected");
        // Wherever the project lies.
        let found = problems(&file, &folder).replace(&folder.display().to_string(), "FOLDER");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected_file, &found).expect("expected problems are written");
        }
        let expected = fs::read_to_string(&expected_file).expect("expected problems are read");
        assert_eq!(found, expected, "{}", file.display());
    }
}

#[test]
fn samples_load_in_their_mode_and_pairs_in_every_mode() {
    let files = list(&root("profiles"));
    assert_eq!(files.len(), 8, "every sample is meant");
    for file in files {
        let own = timed(&file).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(warnings(&own), [""; 0], "{}", file.display());
        let text = fs::read_to_string(&file).expect("a sample is read");
        assert!(text.starts_with("# yaml-language-server: $schema=../assets/profile.schema.json\n"));
        if own.dmz.is_none() || own.internal.is_none() {
            continue;
        }
        for mode in MODES {
            let profile = load(&file, &ProfileOverrides { mode: Some(mode), half: None });
            let profile = profile.unwrap_or_else(|problems| panic!("{problems:?}"));
            assert_eq!((profile.mode, profile.internal.is_some()), (mode, mode != Mode::Direct));
        }
    }
}

#[test]
fn reverse_is_forward_but_for_one_word() {
    let choice = |mode| ProfileOverrides { mode: Some(mode), half: None };
    for mode in MODES {
        let mut forward = load(&root("profiles/forward.yaml"), &choice(mode)).expect("forward loads");
        let reverse = load(&root("profiles/reverse.yaml"), &choice(mode)).expect("reverse loads");
        assert_eq!((forward.name.as_str(), reverse.name.as_str()), ("forward", "reverse"));
        // The places of the certificates name the extended file, by the way it was reached.
        (forward.name, forward.file) = (reverse.name.clone(), reverse.file.clone());
        assert_eq!(forward, reverse);
    }
    assert_eq!(timed(&root("profiles/reverse.yaml")).map(|profile| profile.mode), Ok(Mode::Reverse));
}

#[test]
fn two_hosts_agree_with_each_other() {
    for (dmz, internal) in [("dmz", "internal"), ("cluster-dmz", "cluster-internal")] {
        let load =
            |name: &str| timed(&root("profiles").join(format!("{name}.yaml"))).expect("a sample loads");
        let (outside, inside) = (load(dmz).dmz.expect("a half"), load(internal).internal.expect("a half"));
        let (DmzMode::Reverse { listen, .. }, InternalMode::Reverse { connect, .. }) =
            (&outside.mode, &inside.mode)
        else {
            panic!("both are in reverse mode");
        };
        assert!(connect.contains(listen), "{internal} dials {dmz}");
        let outer: Vec<_> = outside.services.iter().map(|service| &service.name).collect();
        let inner: Vec<_> = inside.services.iter().map(|service| &service.name).collect();
        assert_eq!(outer, inner);
    }
}

const MINIMAL: &str = "
mode: reverse
dmz:
  link: { listen: 'socks://127.0.0.1:0' }
  services: { orders: { accept: 'tcp://127.0.0.1:0' } }
internal:
  link: { connect: 'socks://127.0.0.1:1080' }
  services: { orders: { connect: 'echo://' } }
";

/// IPv4 and IPv6 are never one address, and a link may share its port with clients of the other one.
#[test]
fn the_families_do_not_collide() {
    let listening = |one: &str, other: &str| {
        let text = format!(
            "mode: direct\ndmz: {{ services: {{ a: {{ accept: ['tcp://{one}:80', 'tcp://{other}:80'], connect: 'echo://' }} }} }}\n"
        );
        load_text(&text, None).is_ok()
    };
    for (one, other) in [("0.0.0.0", "[::]"), ("0.0.0.0", "[::1]"), ("127.0.0.1", "[::]"), ("db", "10.0.0.1")]
    {
        assert!(listening(one, other) && listening(other, one), "{one} and {other}");
    }
    for (one, other) in [
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "[::1]"),
        ("[::]", "[fe80::1%eth0]"),
        ("localhost", "[::1]"),
        ("localhost", "127.0.0.1"),
        ("localhost", "[::]"),
        ("db", "0.0.0.0"),
        ("db", "[::]"),
    ] {
        assert!(!listening(one, other) && !listening(other, one), "{one} and {other}");
    }
}

#[test]
fn who_listens_may_wait_for_its_address() {
    let text =
        MINIMAL.replace("'socks://127.0.0.1:1080'", "{ address: 'socks://127.0.0.1:1080', bind: wait }");
    assert_ne!(text, MINIMAL);
    // The internal half dials in this mode.
    let problems = load_text(&text, None).map(|_| ()).expect_err("who dials binds nothing");
    assert!(
        problems.iter().any(|problem| problem.to_string().contains("there is no key `bind` here")),
        "{problems:?}"
    );
    let text = "mode: reverse\ndmz:\n  link: { listen: { address: 'socks://127.0.0.1:1080', bind: wait } }\n  \
                services: { a: { accept: { address: 'tcp://192.0.2.7:80', bind: wait } } }\n";
    let dmz = load_text(text, None).expect("it is valid").dmz.expect("a half");
    assert!(matches!(dmz.mode, DmzMode::Reverse { bind: BindPolicy::Wait, .. }), "{:?}", dmz.mode);
    assert_eq!(dmz.services[0].accept[0].bind, BindPolicy::Wait);
}

#[test]
fn defaults_match_the_manual() {
    let profile = load_text(MINIMAL, None).expect("the minimum loads");
    assert_eq!((profile.name.as_str(), profile.drain), ("text", Duration::from_secs(30)));

    let dmz = profile.dmz.expect("a half");
    let DmzMode::Reverse { tls: None, pool, .. } = dmz.mode else { panic!("{:?}", dmz.mode) };
    assert_eq!(
        pool,
        PoolLimits {
            prepared: 8,
            wait: Duration::from_secs(3),
            waiters: 1024,
            retire: Duration::from_secs(3600),
            links_per_peer: None,
        }
    );
    let service = &dmz.services[0];
    let at = HostPort { host: "127.0.0.1".into(), port: 0 };
    let accepted = Accept {
        address: AcceptAddress { scheme: EdgeScheme::Tcp, at, path: "/".into() },
        bind: BindPolicy::Now,
        tls: None,
        web: None,
        sni: Vec::new(),
        proxy: None,
    };
    assert_eq!(service.accept, [accepted]);
    assert_eq!((service.sessions, service.idle, &service.peers), (1000, None, &None));

    let internal = profile.internal.expect("a half");
    let InternalMode::Reverse { tls: None, prepared: 8, retry, .. } = internal.mode else {
        panic!("{:?}", internal.mode)
    };
    assert_eq!(retry, RetryPolicy { first: Duration::from_millis(500), maximum: Duration::from_secs(2) });
    assert_eq!((internal.maximum, &internal.services[0].peers), (1024, &None));
}

/// What a service carries on each half, by its accept, its `connect` and what is written.
#[test]
fn what_a_service_carries_is_explicit_or_follows_from_its_edges() {
    use Carries::{Bytes, Http};
    let table = [
        ("tcp://127.0.0.1:0", "", "tcp://127.0.0.1:1", Bytes),
        ("ws://127.0.0.1:0", "", "echo://", Bytes),
        ("ws://127.0.0.1:0/a", "carries: bytes", "tcp://127.0.0.1:1", Bytes),
        ("ws://127.0.0.1:0/a", "", "ws://127.0.0.1:1", Http),
        ("ws://127.0.0.1:0/a", "carries: http", "http://127.0.0.1:1", Http),
        ("http://127.0.0.1:0/a", "", "http://127.0.0.1:1/b", Http),
        ("http://127.0.0.1:0", "carries: http", "ws://127.0.0.1:1", Http),
    ];
    for (accept, key, connect, carries) in table {
        let text = MINIMAL.replace("'tcp://127.0.0.1:0'", &format!("'{accept}', {key}"));
        let text = text.replace("'echo://'", &format!("'{connect}', {key}"));
        for mode in [Mode::Direct, Mode::Reverse] {
            let profile = load_text(&text, Some(mode)).unwrap_or_else(|problems| panic!("{problems:?}"));
            let outside = profile.dmz.expect("a half");
            assert_eq!(outside.services[0].carries, carries, "{accept} {key} {connect}");
            assert_eq!(outside.services[0].accept[0].address.to_string(), accept);
            let inside = match (profile.internal, outside.mode) {
                (Some(half), _) => (half.services[0].carries, half.services[0].connect.to_string()),
                (None, DmzMode::Direct(backends)) => {
                    (carries, backends.into_values().map(|to| to.to_string()).collect())
                }
                (None, dmz_mode) => panic!("{dmz_mode:?}"),
            };
            assert_eq!(inside, (carries, connect.to_owned()));
        }
    }
    let alone = "mode: reverse\ndmz:\n  link: { listen: 'socks://127.0.0.1:0' }\n  services:\n    orders: ";
    for (service, carries) in [
        ("{ accept: 'ws://127.0.0.1:0' }", Bytes),
        ("{ accept: 'ws://127.0.0.1:0', carries: http }", Http),
        ("{ accept: ['ws://127.0.0.1:0', 'http://127.0.0.1:0'] }", Http),
    ] {
        let half = load_text(format!("{alone}{service}\n"), None).expect("it loads").dmz.expect("a half");
        assert_eq!(half.services[0].carries, carries, "{service}");
    }
}

#[test]
fn a_role_picks_one_half_and_must_have_it() {
    let file = root("profiles/forward.yaml");
    let half_of = |file: &Path, mode, half| load(file, &ProfileOverrides { mode, half: Some(half) });
    let dmz = half_of(&file, None, Half::Dmz).expect("the half is there");
    assert!(dmz.dmz.is_some() && dmz.internal.is_none());
    let internal = half_of(&file, None, Half::Internal).expect("the half is there");
    assert!(internal.dmz.is_none() && internal.internal.is_some());

    let what =
        |loaded: Result<Profile, Vec<Problem>>| loaded.map_err(|problems| problems[0].what.clone()).err();
    let lacking = half_of(&root("profiles/dmz.yaml"), None, Half::Internal);
    assert_eq!(what(lacking).as_deref(), Some("role `internal` needs this half"));
    let direct = half_of(&file, Some(Mode::Direct), Half::Internal);
    assert_eq!(what(direct).as_deref(), Some("in mode `direct` there is no internal gateway to run"));
}

#[test]
fn the_built_in_profile_resolves_in_every_mode() {
    let pem = || PemSource::Memory("pem".into());
    let tls = |peer: &str| LinkTls {
        certificate: pem(),
        key: pem(),
        ca: pem(),
        peers: vec![peer.into()],
        revoked: RevokedFiles::default(),
        key_exchange: KeyExchangePolicy::default(),
    };
    let tls = DemoTls { dmz: tls("internal"), internal: tls("dmz") };
    for mode in MODES {
        let demo = builtin_demo(&ProfileOverrides { mode: Some(mode), half: None }, &tls, DemoPorts::USUAL)
            .expect("it is valid");
        assert_eq!((demo.name.as_str(), demo.file, demo.mode), ("demo", None, mode));
    }
    let moved = DemoPorts([7000, 40_001, 7002]);
    let demo = builtin_demo(&ProfileOverrides::default(), &tls, moved).expect("it is valid");
    let dmz_mode = demo.dmz.map(|half| half.mode);
    assert!(matches!(dmz_mode, Some(DmzMode::Reverse { tls: Some(seen), listen, .. })
        if seen == tls.dmz && listen.at.port == 40_001));
}

/// The keys, types, ranges and defaults that the manual shows are those that reading goes by.
#[test]
fn the_manual_has_every_key_as_it_is_read() {
    const HEADING: &str = "## All keys\n\n";
    let file = root("docs/profile.md");
    let page = fs::read_to_string(&file).expect("the page is there");
    let (before, shown) = page.split_once(HEADING).expect("the page has a reference");
    let made = reference().trim_end().to_owned() + "\n";
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, format!("{before}{HEADING}{made}")).expect("the page is written");
        return;
    }
    assert_eq!(shown, made);
}

/// What operators rely on: these keys stand in these maps, with these defaults.
#[test]
fn keys_and_their_defaults_are_those_that_were_promised() {
    let schema = schema();
    let table = [
        ("drain", "30s"),
        ("dmz.link.prepared", "8"),
        ("dmz.link.wait", "3s"),
        ("dmz.link.waiters", "1024"),
        ("dmz.link.insecure", "false"),
        ("dmz.services.*.sessions", "1000"),
        ("dmz.services.*.body", "1m"),
        ("dmz.services.*.keep_alive", "75s"),
        ("dmz.services.*.message_limit", "128KiB"),
        ("dmz.services.*.frames", "binary"),
        ("dmz.services.*.idle", "null"),
        ("dmz.services.*.inactivity", "null"),
        ("internal.link.prepared", "8"),
        ("internal.link.maximum", "1024"),
        ("internal.link.retry.first", "500ms"),
        ("internal.link.retry.maximum", "2s"),
        ("internal.services.*.answer", "1m"),
    ];
    for (path, default) in table {
        let found = path.split('.').fold(&schema, |map, name| match name {
            "*" => &map["additionalProperties"],
            name => &map["properties"][name],
        });
        assert!(found["description"].is_string(), "{path} is not a key");
        let shown = found["default"].as_str().map_or_else(|| found["default"].to_string(), str::to_owned);
        assert_eq!(shown, default, "{path}");
    }
}

#[test]
fn the_schema_in_assets_is_the_one_that_is_printed() {
    let file = root("assets/profile.schema.json");
    let text = serde_json::to_string_pretty(&schema()).expect("a schema is JSON") + "\n";
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, &text).expect("the schema is written");
    }
    assert_eq!(fs::read_to_string(file).expect("the schema is there"), text);
}

#[test]
fn many_ready_links_are_warned_of() {
    let text = MINIMAL.replace("connect: 'socks:", "maximum: 10, connect: 'socks:");
    let profile = load_text(text, None).expect("it loads");
    let warnings = warnings(&profile);
    assert!(warnings.len() == 1 && warnings[0].contains("more than half of `maximum` (10)"), "{warnings:?}");
}

#[test]
fn protocols_that_links_without_tls_lose_are_warned_of() {
    let warned = |accept: &str| {
        let text = format!(
            "mode: reverse\ndmz:\n  link: {{ listen: 'socks://0.0.0.0:1443', insecure: true }}\n  services:\n    \
             shop: {{ accept: {{ address: '{accept}', tls: {{ certificate: a.pem, key: a.key, alpn: [http/1.1] }} }} }}\n"
        );
        warnings(&load_text(text, None).expect("it loads"))
    };
    let reported = warned("tls://0.0.0.0:443");
    assert!(
        reported.len() == 1 && reported[0].starts_with("dmz.services.shop.tls.alpn: SOCKS5"),
        "{reported:?}"
    );
    // What is read here goes on as HTTP/1.1, whatever was agreed on.
    assert_eq!(warned("https://0.0.0.0:443"), [""; 0]);
}

#[test]
fn own_names_stand_beside_connect_in_each_mode() {
    let text = |scheme: &str| {
        format!(
            "mode: direct\ndmz:\n  services:\n    shop: {{ accept: '{scheme}://0.0.0.0:8080', \
             connect: '{scheme}://127.0.0.1:9000', own_names: [app.internal] }}\n"
        )
    };
    let profile = load_text(text("http"), None).expect("it loads");
    assert!(format!("{profile:?}").contains("own_names: [\"app.internal\"]"), "{profile:?}");
    let reported = only_problem(text("tcp"));
    assert!(reported.contains("answers no requests"), "{reported}");
}

#[test]
fn a_certificate_of_links_that_is_never_shown_is_warned_of() {
    let tls = "tls: { certificate: a.pem, key: a.key, ca: ca.pem, peers: [a] }";
    let warned = |outer: &str, accept: &str| {
        let listen = "listen: 'socks+wss://0.0.0.0:443/link'";
        let text = format!(
            "mode: reverse\ndmz:\n  link: {{ {listen}, outer: {{ certificate: {outer}.pem, key: {outer}.key }}, {tls} }}\n  \
             services:\n    www: {{ accept: {{ address: 'https://0.0.0.0:443', {accept}tls: {{ certificate: www.pem, key: www.key }} }} }}\n"
        );
        warnings(&load_text(text, None).expect("it loads"))
    };
    assert_eq!(warned("www", ""), [""; 0]);
    assert_eq!(warned("gate", "sni: www.example.com, "), [""; 0]);
    let reported = warned("gate", "");
    assert!(
        reported.len() == 1 && reported[0].starts_with("dmz.link.outer: its certificate is never shown"),
        "{reported:?}"
    );
}

#[test]
fn ready_links_are_counted_for_each_service_only_where_they_use_socks() {
    let services = (0..70).map(|at| format!("    s{at}: {{ connect: 'echo://' }}\n")).collect::<String>();
    let tls = "tls: { certificate: a.pem, key: a.key, ca: ca.pem, peers: [a] }";
    let warned = |link: &str| {
        let text = format!("mode: reverse\ninternal:\n  link: {{ {link} }}\n  services:\n{services}");
        warnings(&load_text(text, None).expect("it loads"))
    };
    let own = "connect: ['socks+tls://192.0.2.1:1', 'socks+tls://192.0.2.2:1'], maximum: 100";
    assert_eq!(warned(&format!("{own}, {tls}, prepared: 25")), Vec::<String>::new(), "fifty of a hundred");
    let reported = warned(&format!("{own}, {tls}, prepared: 26"));
    assert!(
        reported.len() == 1 && reported[0].contains("2 gateways") && reported[0].contains("make 52"),
        "{reported:?}"
    );
    let reported = warned("connect: 'socks://127.0.0.1:1', prepared: 8");
    assert!(
        reported.len() == 1 && reported[0].contains("70 services") && reported[0].contains("make 560"),
        "{reported:?}"
    );
}

#[test]
fn a_chain_has_an_end_and_paths_belong_to_their_file() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("base")).expect("a folder");
    let tls = "tls: { certificate: pki/a.pem, key: /a.key, ca: ca.pem, peers: [a] }";
    let base = MINIMAL.replace("socks:", "socks+tls:").replace("link: {", &format!("link: {{ {tls},"));
    fs::write(folder.path().join("base/1.yaml"), format!("name: base{base}")).expect("a file");
    for index in 2..=17 {
        let below = if index == 2 { "base/1".to_owned() } else { (index - 1).to_string() };
        let text = format!("extends: {below}.yaml\ndrain: {index}s\n");
        fs::write(folder.path().join(format!("{index}.yaml")), text).expect("a file");
    }
    let profile = timed(&folder.path().join("16.yaml")).expect("sixteen files are taken");
    assert_eq!((profile.name.as_str(), profile.drain), ("16", Duration::from_secs(16)));
    let dmz_mode = profile.dmz.map(|half| half.mode);
    let Some(DmzMode::Reverse { tls: Some(tls), .. }) = dmz_mode else { panic!("{dmz_mode:?}") };
    let PemSource::File { path, location } = tls.certificate else { panic!("a file is named") };
    assert_eq!(path, folder.path().join("base/pki/a.pem"));
    assert_eq!((location.line, location.key.as_str()), (4, "dmz.link.tls.certificate"));

    let problems = timed(&folder.path().join("17.yaml")).expect_err("seventeen are not");
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].what, "a chain of more than 16 files");
    assert!(problems[0].location.file.ends_with("/2.yaml"));
}

#[test]
fn byte_order_mark_and_carriage_returns_are_taken() {
    let windows = format!("\u{feff}{}", MINIMAL.trim_start().replace('\n', "\r\n"));
    assert!(load_text(windows, None).is_ok());
}

#[test]
fn a_file_that_is_not_text_is_reported() {
    assert_eq!(
        only_problem(b"mode: reverse\n# \xc3\xa9\xff"),
        "2:4: profile: the text is not UTF-8 from here on; save the file as UTF-8"
    );
    let large = format!("# {}\n", "a".repeat(1024 * 1024));
    assert!(only_problem(large).contains("is larger than 1 MiB; no profile is"));

    let folder = tempfile::tempdir().expect("a folder");
    let problem =
        |path: &Path| timed(path).map_err(|problems| problems[0].what.clone()).expect_err("no profile");
    assert!(problem(folder.path()).ends_with("is a folder"));
    assert!(problem(&folder.path().join("none.yaml")).starts_with("there is no file"));
    assert!(problem(Path::new("/dev/zero")).ends_with("is a device"));
}

/// Texts that make parsers slow, deep or loud.
#[test]
fn a_files_name_is_shown_as_every_text_from_outside() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a\u{1b}[2J\n\u{202e}b.yaml");
    fs::write(&file, "name: shop\nmode: sideways\n").expect("it is written");
    let reported = problems(&file, folder.path());
    assert!(reported.starts_with("a[2J b.yaml:2:7: mode: "), "{reported:?}");
    let missing = load(&folder.path().join("\u{9b}2Jc.yaml"), &ProfileOverrides::default())
        .expect_err("it is not there");
    assert!(missing[0].to_string().contains("/2Jc.yaml"), "{missing:?}");
}

#[test]
fn hostile_texts_end_quickly() {
    let pieces = [
        "[",
        "{",
        "- ",
        "-\n",
        "? ",
        "? a\n",
        ": ",
        "a: ",
        "[a: ",
        "{a: ",
        "\"",
        "'",
        "|\n",
        ">\n",
        "&a ",
        "*a ",
        "!a ",
        "!<",
        "%YAML 1.2\n",
        "---\n",
        "...\n",
        "#",
        "\n",
        "\t",
        "a\n",
        "[[],",
        "[]",
        "{},",
        "- [",
        "<<: ",
        "\u{feff}",
        "\\",
        "@",
        "`",
        ",",
        "[\n",
        "{\n",
    ];
    for piece in pieces {
        for start in ["", "mode: ", "mode: \"", "mode: [", "mode: {"] {
            let text = format!("{start}{}", piece.repeat(100_000));
            let loaded = load_text(&text, None);
            assert!(loaded.is_err_and(|problems| !problems.is_empty()), "{start}{piece}");
        }
    }
    let unlike: String = (0..100_000).map(|index| format!("k{index}: 1\n")).collect();
    assert!(load_text(unlike, None).is_err());
    assert!(only_problem("[".repeat(100_000)).starts_with("1:256: profile: nested more than 32 deep; "));
}

#[test]
fn many_services_are_many_but_not_slow() {
    let services = |count: usize| {
        let service = |index| {
            format!("    s{index}: {{ accept: 'tcp://127.0.0.1:{}' , connect: 'echo://' }}\n", 7000 + index)
        };
        let services: String = (0..count).map(service).collect();
        format!("mode: direct\ndmz:\n  services:\n{services}")
    };
    assert!(load_text(services(1024), None).is_ok());
    assert_eq!(only_problem(services(1025)), "4:5: dmz.services: there are 1025 services; write 1 to 1024");
}

const VALID: &str = include_str!("../profiles/forward.yaml");

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_never_stops_the_reading(text in any::<String>()) {
        prop_assert!(load_text(text, None).is_err());
    }

    #[test]
    fn random_yaml_signs_never_stop_the_reading(text in "[-a:,{}\\[\\]&*!?|>'\"%@#\n \t]{0,200}") {
        prop_assert!(load_text(text, None).is_err());
    }

    #[test]
    fn a_damaged_profile_never_stops_the_reading(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40, "[-a:{}\\[\\]&*'\" \n0-9]{0,6}"), 1..6),
        mode in prop::sample::select(MODES.to_vec()),
    ) {
        let mut signs: Vec<char> = VALID.chars().collect();
        for (at, length, instead) in cuts {
            let from = at.index(signs.len());
            let to = signs.len().min(from + length);
            signs.splice(from..to, instead.chars());
        }
        let text: String = signs.into_iter().collect();
        let reported = load_text(text, Some(mode)).map_or_else(|problems| !problems.is_empty(), |_| true);
        prop_assert!(reported, "a refusal has a reason");
    }
}

#[test]
fn links_that_nothing_can_keep_open_through_a_proxy_are_warned_of() {
    let with = |scheme: &str| {
        let link = MINIMAL
            .replace("connect: 'socks:", &format!("via: 'http://127.0.0.1:3128', connect: '{scheme}:"));
        warnings(&load_text(link, None).expect("it loads"))
    };
    let found = with("socks");
    assert!(found.len() == 1 && found[0].contains("cuts silent connections"), "{found:?}");
}

/// The blocks of a language in a document.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    page.split(&begin[..]).skip(1).map(|rest| rest.split("```").next().expect("a part")).collect()
}

/// What operators copy: manifests that a YAML parser reads, and profiles in them that load.
#[test]
fn manifests_and_their_profiles_are_read() {
    let page = fs::read_to_string(root("docs/operate.md")).expect("the page is there");
    let manifests: Vec<_> =
        blocks(&page, "yaml").into_iter().filter(|block| block.contains("apiVersion")).collect();
    assert_eq!(manifests.len(), 2, "one for each half");
    let (mut kinds, mut profiles) = (Vec::new(), Vec::new());
    for document in manifests.iter().flat_map(|text| serde_yaml::Deserializer::from_str(text)) {
        let manifest = Value::deserialize(document).expect("it is YAML");
        kinds.push(manifest["kind"].as_str().expect("a kind").to_owned());
        let files = manifest["data"].as_object().into_iter().flatten();
        profiles.extend(files.map(|(_, text)| text.as_str().expect("a text").to_owned()));
    }
    kinds.sort_unstable();
    let expected = ["ConfigMap", "ConfigMap", "Deployment", "Deployment", "NetworkPolicy", "NetworkPolicy"];
    assert_eq!(kinds, [&expected[..], &["Service", "Service"]].concat());
    profiles.extend(
        blocks(&page, "yaml").into_iter().filter(|block| block.contains("consul")).map(str::to_owned),
    );
    assert_eq!(profiles.len(), 3);
    for text in profiles {
        load_text(&text, None).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    }
    let consul =
        blocks(&page, "json").into_iter().find(|block| block.contains("livez")).expect("it is there");
    assert_eq!(serde_json::from_str::<Value>(consul).expect("it is JSON")["services"][0]["port"], 1443);
}
