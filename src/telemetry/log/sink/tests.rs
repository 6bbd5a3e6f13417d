//! Readers that stop, full disks, files that are renamed, deleted or cannot be opened: what is lost is counted, and
//! nobody waits. The full disk is `/dev/full`, and the reader that stops is a pipe.

use std::fs;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn sink(path: &Path) -> LineSink {
    let loss_line: LossLine = |lost, cause| format!("{lost} lost: {cause}");
    LineSink::start(SinkTarget::File(path.to_owned()), Some(loss_line))
}

#[test]
fn a_loss_is_shown_with_its_cause_for_a_minute() {
    let stderr = SinkState::new(SinkTarget::StandardError);
    let file = SinkState::new(SinkTarget::File("/var/log/gate.json".into()));
    assert_eq!(stderr.loss_row(5), None);
    for (state, errno, cause) in [
        (&stderr, TOO_SLOW, "standard error is read too slowly"),
        (&stderr, 5, "the terminal of standard error is gone"),
        (&stderr, 32, "nobody reads standard error any more"),
        (&stderr, 28, "standard error: No space left on device (os error 28)"),
        (&file, TOO_SLOW, "/var/log/gate.json is written too slowly"),
        (&file, 6, "/var/log/gate.json is a pipe that nobody reads"),
        (&file, 28, "/var/log/gate.json: No space left on device (os error 28)"),
    ] {
        state.lose(2, errno);
        let at = state.loss().at_ms.unwrap();
        let shown = state.loss_row(at + LOSS_SHOWN_MS - 1).map(|row| row.cause);
        assert_eq!(shown.as_deref(), Some(cause));
        assert_eq!(state.loss_row(at + LOSS_SHOWN_MS), None, "it is over");
    }
    let rows = [&stderr, &file].map(|state| state.loss_row(clock::coarse_ms()).unwrap());
    let counts = rows.map(|row| (row.target, row.lost));
    assert_eq!(counts, [("standard error".to_owned(), 8), ("/var/log/gate.json".to_owned(), 6)]);
}

#[test]
fn a_loss_of_another_day_is_not_counted_under_the_cause_of_today() {
    let file = SinkState::new(SinkTarget::File("/var/log/gate.json".into()));
    file.lose(10_000, 28);
    file.loss().at_ms = clock::coarse_ms().checked_sub(LOSS_SHOWN_MS);
    file.lose(1, TOO_SLOW);
    let row = file.loss_row(clock::coarse_ms()).unwrap();
    assert_eq!((row.lost, file.loss().lines), (1, 10_001));
}

#[test]
fn lines_without_a_thread_that_writes_them_are_lost_with_that_cause() {
    let (queue, _) = sync_channel(1);
    let state = Arc::new(SinkState::new(SinkTarget::File("/var/log/access.json".into())));
    state.no_thread.set(libc::EAGAIN).unwrap();
    let sink = LineSink(Arc::new(SinkHandle { state, queue }));
    sink.write("one".into());
    sink.flush(SOON);
    let row = sink.0.state.loss_row(clock::coarse_ms()).unwrap();
    let expected = "/var/log/access.json: no thread that writes it could be started: Resource temporarily unavailable (os error 11)";
    assert_eq!((row.lost, row.cause.as_str()), (1, expected));
    assert!(!sink.is_for(&sink.0.state.target), "a reload tries again");
}

#[test]
fn a_file_that_was_renamed_is_left_when_it_is_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let sink = sink(&path);
    sink.write("one".into());
    sink.flush(SOON);
    fs::rename(&path, &old).unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    (0..1000).for_each(|_| assert!(reopen_all() > 0));
    sink.write("two".into());
    sink.flush(SOON);
    assert_eq!((read(&old).as_str(), read(&path).as_str()), ("one\n", "two\n"));
}

#[test]
fn what_a_sink_was_given_is_written_before_the_end_even_if_nobody_holds_it_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let (path, line) = (folder.path().join("log"), "x".repeat(500));
    let sink = sink(&path);
    (0..5000).for_each(|_| sink.write(line.clone()));
    drop(sink);
    flush_all(SOON);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5000);
}

#[test]
fn a_missing_folder_loses_lines_that_are_counted_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (inner, path) = (folder.path().join("logs"), folder.path().join("logs/log"));
    fs::create_dir(&inner).unwrap();
    let sink = sink(&path);
    sink.write("one".into());
    sink.flush(SOON);
    fs::remove_dir_all(&inner).unwrap();
    sink.write("two".into());
    sink.flush(SOON);
    assert_eq!(sink.0.state.loss().lines, 1);
    let reason = sink.0.state.loss_row(clock::coarse_ms()).unwrap().cause;
    assert!(reason.ends_with("log: No such file or directory (os error 2)"), "{reason}");
    fs::create_dir(&inner).unwrap();
    // Without this the file is tried again within a second.
    reopen_all();
    sink.write("three".into());
    sink.flush(SOON);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("1 lost: ") && text.ends_with("\nthree\n"), "{text}");
}

#[test]
fn a_loss_is_shown_until_the_file_can_be_written_again_even_if_no_line_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logs/log");
    let sink = sink(&path);
    sink.write("one".into());
    sink.flush(SOON);
    let state = &sink.0.state;
    let a_minute_later = || clock::coarse_ms() + LOSS_SHOWN_MS;
    assert!(state.loss_row(a_minute_later()).is_some());
    fs::create_dir(folder.path().join("logs")).unwrap();
    let begun = Instant::now();
    while state.loss_row(a_minute_later()).is_some() {
        assert!(begun.elapsed() < SOON, "it is still shown");
        thread::sleep(BATCH_DELAY);
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("1 lost: ") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_full_disk_and_a_stalled_reader_delay_nobody() {
    let full = sink(Path::new("/dev/full"));
    full.write("one".into());
    full.flush(SOON);
    assert_eq!(full.0.state.loss().lines, 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let stalled = sink(&path);
    let (began, line) = (Instant::now(), "x".repeat(1000));
    (0..2 * QUEUED_LINES_MAX).for_each(|_| stalled.write(line.clone()));
    assert!(stalled.0.state.loss().lines > 0);
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
}
