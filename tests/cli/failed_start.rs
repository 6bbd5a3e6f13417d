//! A gateway that does not start says why where its log goes: as JSON, with a priority for the journal, in its file.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt,
};

use serde_json::Value;

use crate::{DIRECT, process::TestFolder};

struct FailedStart {
    code: Option<i32>,
    /// Standard error.
    log: String,
}

fn start(folder: &TestFolder, environment: &str, args: &[&str]) -> FailedStart {
    let log = folder.path("failed.log");
    let stderr = File::create(&log).expect("a log");
    let numbers = stderr.metadata().expect("its number");
    let environment = environment.replace("THIS", &format!("{}:{}", numbers.dev(), numbers.ino()));
    let mut command = folder.wrapped(&["env", &environment], args);
    let status = command.stdout(File::create("/dev/null").expect("it is there")).stderr(stderr).status();
    FailedStart {
        code: status.expect("the program runs").code(),
        log: fs::read_to_string(log).expect("a log"),
    }
}

#[test]
fn why_a_gateway_does_not_start_has_the_form_of_its_log() {
    let folder = TestFolder::with_certificates();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = taken.local_addr().expect("its address").to_string();
    folder.write("taken.yaml", &format!("log: gate.json\n{}", DIRECT.replace("127.0.0.1:0", &at)));
    folder.write("bad.yaml", "mode: sideways\nlisten: 5\n");
    let json = ["--no-ui", "--log-format", "json", "--profile"];
    for (profile, code, problem) in [("taken.yaml", 1, "the port is taken"), ("bad.yaml", 2, "sideways")] {
        let text = start(&folder, "X=", &["--no-ui", "--profile", profile]);
        assert_eq!(text.code, Some(code), "{}", text.log);
        assert!(text.log.contains(problem) && !text.log.contains("start_failed"), "{}", text.log);
        let journal = start(&folder, "JOURNAL_STREAM=THIS", &["--no-ui", "--profile", profile]);
        let failures: Vec<_> = journal.log.lines().filter(|line| line.starts_with("<3>")).collect();
        assert!(failures.iter().any(|line| line.contains(problem)), "{}", journal.log);
        assert!(journal.log.lines().all(|line| line.starts_with('<')), "{}", journal.log);
        for (environment, has_time) in [("X=", true), ("JOURNAL_STREAM=THIS", false)] {
            let output = start(&folder, environment, &[&json[..], &[profile]].concat());
            assert_eq!(output.code, Some(code), "{}", output.log);
            let lines = output.log.lines().map(|line| line.strip_prefix("<3>").unwrap_or(line));
            let failure = lines
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["event"] == "start_failed")
                .unwrap_or_else(|| panic!("no JSON: {}", output.log));
            assert_eq!((&failure["level"], failure["timestamp"].is_string()), (&"ERROR".into(), has_time));
            assert!(failure["message"].as_str().is_some_and(|text| text.contains(problem)), "{failure}");
        }
    }
    // The file of the profile that could be read has it each time.
    let file = fs::read_to_string(folder.path("gate.json")).expect("the log");
    let lines = file.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let failures = lines.filter(|line| line["event"] == "start_failed");
    assert_eq!(failures.filter(|line| line["level"] == "ERROR").count(), 4, "{file}");
}
