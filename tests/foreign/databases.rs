//! Redis and PostgreSQL clients against real servers.

use std::{fs, path::Path, process::Command};

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, free_port},
};

#[test]
fn redis_clients_reach_a_redis_server() {
    let programs = ["redis-server", "redis-cli", "redis-benchmark"];
    if !has("redis_clients_reach_a_redis_server", &programs) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let backend = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--port", &backend.to_string(), "--dir"]);
    let _server = Server::start(command.arg(folder.path("")), backend);
    let pair = Pair::reverse(&folder, &[("cache", &format!("tcp://127.0.0.1:{backend}"))]);
    let port = pair.dmz.accept("cache").port().to_string();
    let cli = |line: &[&str]| printed(&[&["redis-cli", "-h", "127.0.0.1", "-p", &port], line].concat());
    assert_eq!(cli(&["set", "key", "value"]).trim(), "OK");
    assert_eq!(cli(&["get", "key"]).trim(), "value");
    let bench = ["redis-benchmark", "-h", "127.0.0.1", "-p", &port, "-q", "-t", "ping,set", "-n", "2000"];
    printed(&[&bench[..], &["-c", "20", "-d", "2000", "-r", "100"]].concat());
    let info = cli(&["info", "commandstats"]);
    let sets = info.lines().find(|line| line.starts_with("cmdstat_set:")).expect("sets were counted");
    assert!(sets.contains("calls=2001,"), "{sets}");
}

#[test]
fn psql_reaches_a_postgres_server() {
    let test = "psql_reaches_a_postgres_server";
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let Some(subfolder) =
        installed.map(|entry| entry.path().join("bin")).find(|bin| bin.join("initdb").is_file())
    else {
        println!("skipped: {test} needs a PostgreSQL server");
        return;
    };
    if !has(test, &["psql", "setpriv", "chown"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    // The server refuses to run as root; `nobody` runs it in a folder of its own.
    let data = tempfile::tempdir().expect("a folder");
    let user: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        false => &["env"],
    };
    if rustix::process::geteuid().is_root() {
        printed(&["chown", "65534:65534", text(data.path())]);
    }
    let cluster = data.path().join("cluster");
    let initdb = subfolder.join("initdb");
    printed(
        &[user, &[text(&initdb), "-D", text(&cluster), "-U", "tester", "--auth=trust", "--no-sync"]].concat(),
    );
    let backend = free_port();
    let mut command = Command::new(user[0]);
    command.args(&user[1..]).arg(subfolder.join("postgres")).arg("-D").arg(&cluster);
    command.args(["-h", "127.0.0.1", "-k", "", "-F", "-p", &backend.to_string()]);
    let _server = Server::start(&mut command, backend);
    let pair = Pair::reverse(&folder, &[("sql", &format!("tcp://127.0.0.1:{backend}"))]);
    let port = pair.dmz.accept("sql").port().to_string();
    let sum = "select sum(n), max(length(repeat('x', 1000000))) from generate_series(1, 100000) as n";
    let psql = ["psql", "-h", "127.0.0.1", "-p", &port, "-U", "tester", "-At", "-c", sum, "postgres"];
    assert_eq!(printed(&psql).trim(), "5000050000|1000000");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
