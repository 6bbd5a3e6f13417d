use std::future;

use crossterm::event::{KeyCode, KeyModifiers};
use futures_util::stream;
use ratatui::backend::TestBackend;

use super::*;
use crate::{
    gateway::handle::{self, AdminAccess, FleetHandles, HandleFeed, PendingCommand},
    profile::Mode,
    telemetry::{
        checklist::VerifyReport,
        snapshot::{GatewayReach, GatewayRow, TrafficTotals},
    },
    tests::happens_after,
    tui::{
        app::StatusMessage,
        export_writer::tests::{hanging, release},
    },
};

type Keys = Vec<(Duration, KeyCode)>;

fn snapshot(uptime_seconds: f64, sessions_open: u64) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        phase: GatewayPhase::Running,
        uptime_seconds,
        totals: TrafficTotals { sessions_open, ..TrafficTotals::default() },
        ..Snapshot::new("demo", Mode::Reverse)
    })
}

/// Runs a screen with four snapshots a second from `next` for ten seconds, and the end of the gateway.
async fn run(keys: Keys, next: fn(u32) -> Arc<Snapshot>) -> (ScreenEnd, u64, Vec<Command>) {
    let area = Rect::new(0, 0, 80, 24);
    let terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let (handle, mut feed) = handle::channel(next(0), "test");
    let publish = feed.snapshots;
    let mut screen = ScreenLoop::new(terminal, area, ScreenSource::own(handle), ScreenStyle::FULL);
    let input = stream::unfold(keys.into_iter(), |mut keys| async move {
        let Some((pause, code)) = keys.next() else { return std::future::pending().await };
        tokio::time::sleep(pause).await;
        Some((Ok(Event::Key(KeyEvent::new(code, KeyModifiers::NONE))), keys))
    });
    let gateway = async move {
        for tick in 1..=40 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            publish.send(next(tick)).ok();
        }
    };
    let engine = async {
        let mut received = vec![];
        while let Some(PendingCommand { command, answer, .. }) = feed.commands.recv().await {
            received.push(command);
            answer.send(CommandAnswer::Done("it is done".into())).ok();
        }
        received
    };
    let (_keep, end_receiver) = mpsc::channel(1);
    let screen_runs = async {
        let ended = screen.run(input, end_receiver).await;
        let frames = screen.frames;
        drop(screen);
        (ended, frames)
    };
    let ((ended, frames), received, ()) = tokio::join!(screen_runs, engine, gateway);
    (ended, frames, received)
}

fn key(code: char) -> (Duration, KeyCode) {
    (Duration::from_millis(700), KeyCode::Char(code))
}

#[tokio::test(start_paused = true)]
async fn nothing_new_is_drawn_once_in_ten_seconds() {
    let (ended, frames, _) = run(vec![], |_| snapshot(5.0, 0)).await;
    assert_eq!((ended, frames), (ScreenEnd::GatewayStopped, 1));
}

#[tokio::test(start_paused = true)]
async fn four_snapshots_a_second_are_two_frames() {
    let (ended, frames, _) = run(vec![], |tick| snapshot(f64::from(tick) / 4.0, 0)).await;
    assert_eq!(ended, ScreenEnd::GatewayStopped);
    assert!((19..=21).contains(&frames), "{frames} frames");
}

#[tokio::test(start_paused = true)]
async fn a_key_without_meaning_draws_nothing() {
    let (_, frames, _) = run(vec![key('z'), key('w')], |_| snapshot(5.0, 0)).await;
    assert_eq!(frames, 1);
}

/// In real time, because a working thread stops a paused clock.
#[tokio::test]
async fn an_export_to_a_disk_that_hangs_holds_no_frame_up() {
    let terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let (handle, _feed) = handle::channel(snapshot(5.0, 0), "test");
    let source = ScreenSource::own(handle);
    let mut screen = ScreenLoop::new(terminal, Rect::new(0, 0, 80, 24), source, ScreenStyle::FULL);
    screen.exports = hanging(Duration::from_millis(300));
    let press = |screen: &mut ScreenLoop<TestBackend>, key| {
        screen.handle_wakeup(LoopEvent::Key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE)))
    };
    let began = Instant::now();
    assert_eq!(press(&mut screen, 'e'), None);
    assert_eq!(screen.app.status_message(), Some(&StatusMessage::Waiting("writing the table".into())));
    press(&mut screen, 'e');
    press(&mut screen, 'e');
    let refused = StatusMessage::Refused("the tables before it are not written yet".into());
    assert_eq!(screen.app.status_message(), Some(&refused));
    press(&mut screen, '4');
    screen.draw_if_due().unwrap();
    assert!(began.elapsed() < Duration::from_millis(300), "it waits for the disk");
    let result = screen.exports.next().await;
    assert!(result.as_ref().is_err_and(|why| why.contains("did not answer")), "{result:?}");
    screen.handle_wakeup(LoopEvent::Exported(result));
    assert!(matches!(screen.app.status_message(), Some(StatusMessage::Refused(_))));
    release();
}

#[tokio::test(start_paused = true)]
async fn a_held_key_draws_ten_times_a_second_at_most() {
    let held = vec![(Duration::from_millis(10), KeyCode::Char('P')); 200];
    let (_, frames, _) = run(held, |_| snapshot(5.0, 0)).await;
    assert!((18..=23).contains(&frames), "{frames} frames in two seconds");
}

#[tokio::test(start_paused = true)]
async fn frozen_only_the_age_is_drawn() {
    let (_, frames, _) = run(vec![key(' ')], |tick| snapshot(f64::from(tick) / 4.0, 0)).await;
    assert!((11..=13).contains(&frames), "{frames} frames");
}

#[tokio::test(start_paused = true)]
async fn a_command_is_sent_and_its_answer_drawn() {
    let (_, frames, received) = run(vec![key('r')], |_| snapshot(5.0, 0)).await;
    assert_eq!(received, [Command::Reload]);
    assert!((2..=3).contains(&frames), "{frames} frames");
}

#[tokio::test(start_paused = true)]
async fn quitting_asks_and_only_a_yes_stops_the_gateway() {
    let busy = |_| snapshot(5.0, 3);
    assert_eq!(run(vec![key('q')], |_| snapshot(5.0, 0)).await.0, ScreenEnd::GatewayStopped, "it asks first");
    assert_eq!(run(vec![key('q')], busy).await.0, ScreenEnd::GatewayStopped);
    assert_eq!(run(vec![key('q'), key('y')], busy).await.0, ScreenEnd::Quit);
    assert_eq!(run(vec![key('q'), key('h')], busy).await.0, ScreenEnd::LeftHeadless);
    let enter = (Duration::ZERO, KeyCode::Enter);
    assert_eq!(run(vec![key('q'), enter], busy).await.0, ScreenEnd::GatewayStopped);
    let escape = (Duration::ZERO, KeyCode::Esc);
    assert_eq!(run(vec![key('q'), escape, key('y')], busy).await.0, ScreenEnd::GatewayStopped);
    // As a terminal sends pasted text if it cannot bracket it. There is no `e` in it, which would export a
    // table into the folder of the test.
    let text = "quit a log, quickly".chars().map(|letter| (Duration::ZERO, KeyCode::Char(letter)));
    assert_eq!(run(text.collect(), busy).await.0, ScreenEnd::GatewayStopped);
}

#[tokio::test(start_paused = true)]
async fn a_lost_terminal_ends_the_screen_and_not_the_gateway() {
    let terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let (handle, _feed) = handle::channel(snapshot(5.0, 1), "test");
    let area = Rect::new(0, 0, 80, 24);
    let mut screen = ScreenLoop::new(terminal, area, ScreenSource::own(handle), ScreenStyle::FULL);
    let (_end_sender, end_receiver) = mpsc::channel(1);
    assert_eq!(screen.run(stream::empty(), end_receiver).await, ScreenEnd::TerminalGone);
    let (end_sender, end_receiver) = mpsc::channel(1);
    end_sender.try_send(ScreenEnd::TerminalGone).unwrap();
    assert_eq!(screen.run(stream::pending(), end_receiver).await, ScreenEnd::TerminalGone);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_reported_in_time() {
    let requested = answered_in_time(answer_wait(&Command::Reload), Box::pin(std::future::pending()));
    let answer = happens_after(RESPONSE_TIMEOUT, requested).await;
    let CommandAnswer::Refused(why) = answer else { panic!("{answer:?}") };
    assert_eq!(why, "no answer within 30 s");
}

/// A gateway answers a stop when it has ended, and a checklist when it has run: half a minute does not mean a refusal.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_when_the_work_is_done_is_waited_for() {
    let switch = Command::Switch { profile: "forward".into() };
    for command in [Command::Stop, Command::Verify { steps: Vec::new() }, switch] {
        let ends = async {
            tokio::time::sleep(5 * RESPONSE_TIMEOUT).await;
            CommandAnswer::Verified(VerifyReport::new(Vec::new()))
        };
        let answer = answered_in_time(answer_wait(&command), Box::pin(ends)).await;
        assert!(matches!(answer, CommandAnswer::Verified(_)), "{command:?}: {answer:?}");
    }
}

/// A screen on two gateways, with what feeds the screen and what reaches each gateway.
fn fleet() -> (ScreenLoop<TestBackend>, HandleFeed, [HandleFeed; 2]) {
    let row = |name: &str| GatewayRow {
        name: name.into(),
        target: format!("run/{name}.sock"),
        reach: GatewayReach::Reached,
        since_seconds: 5.0,
        why: None,
        heard_seconds: Some(0.5),
        heard: None,
    };
    let names = ["hangs", "well"];
    let gateways = names.map(row).to_vec();
    let merged = Snapshot { gateways, uptime_seconds: 5.0, ..Snapshot::new("2 of 2", Mode::Reverse) };
    let (merged, feed) = handle::channel(Arc::new(merged), "test");
    let mut handles = FleetHandles::new();
    let feeds = names.map(|name| {
        let (handle, feed) = handle::channel(snapshot(5.0, 0), "test");
        handles.insert(name.into(), handle);
        feed
    });
    let source = ScreenSource::fleet(merged, handles, AdminAccess::Full, None);
    let terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    (ScreenLoop::new(terminal, Rect::new(0, 0, 80, 24), source, ScreenStyle::FULL), feed, feeds)
}

fn press_all(screen: &mut ScreenLoop<TestBackend>, keys: &str) {
    for key in keys.chars() {
        let code = if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) };
        screen.handle_wakeup(LoopEvent::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }
}

/// The next event that is neither a tick nor a frame.
async fn next_event(screen: &mut ScreenLoop<TestBackend>) -> LoopEvent {
    let (_keep, mut end_receiver) = mpsc::channel(1);
    loop {
        match screen.wait(std::pin::pin!(stream::pending()), &mut end_receiver).await {
            LoopEvent::Tick | LoopEvent::FrameDue => screen.pacing.note_drawn(Instant::now()),
            event => return event,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_hangs_holds_up_no_command_to_another() {
    let (mut screen, _feed, [_hangs, mut well]) = fleet();
    press_all(&mut screen, ":only hangs\nrrrrr");
    let refused = StatusMessage::Refused(format!("hangs: {NOT_ANSWERED_YET}"));
    assert_eq!(screen.app.status_message(), Some(&refused), "the fifth");
    press_all(&mut screen, "o:only well\nr");
    assert_eq!(screen.app.status_message(), Some(&StatusMessage::Waiting("reloading the profile".into())));
    let answers = async {
        let asked = well.commands.recv().await.unwrap();
        assert_eq!(asked.command, Command::Reload);
        asked.answer.send(CommandAnswer::Done("read again".into())).unwrap();
        future::pending::<()>().await;
    };
    let event = tokio::select! {
        event = next_event(&mut screen) => event,
        () = answers => unreachable!("it waits forever"),
    };
    screen.handle_wakeup(event);
    assert_eq!(screen.app.status_message(), Some(&StatusMessage::Done("well: read again".into())));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_hangs_holds_up_no_chart_of_another() {
    let (mut screen, feed, [mut hangs, mut well]) = fleet();
    press_all(&mut screen, "H");
    screen.ask_for_history_if_due();
    for again in 1..=3_u32 {
        let answers = async {
            let asked = well.commands.recv().await.unwrap();
            assert!(matches!(asked.command, Command::History(_)), "{:?}", asked.command);
            asked.answer.send(CommandAnswer::Refused("it keeps none".into())).unwrap();
            future::pending::<()>().await;
        };
        let event = tokio::select! {
            event = next_event(&mut screen) => event,
            () = answers => unreachable!("it waits forever"),
        };
        assert!(matches!(&event, LoopEvent::HistoryArrived((Some(name), _), _) if &**name == "well"));
        screen.handle_wakeup(event);
        let uptime_seconds = 5.0 + 60.0 * f64::from(again);
        let later = Snapshot { uptime_seconds, ..Snapshot::clone(&feed.snapshots.borrow()) };
        screen.handle_wakeup(LoopEvent::SourceChanged(SourceEvent::Snapshot(Arc::new(later))));
        screen.ask_for_history_if_due();
    }
    assert!(hangs.commands.try_recv().is_ok(), "it was asked");
    assert!(hangs.commands.try_recv().is_err(), "and not again, since it has not answered");
}

/// A gateway owes two answers at once, and the later one comes first.
#[tokio::test(start_paused = true)]
async fn an_answer_to_another_command_is_none_of_those_that_were_asked_together() {
    let (mut screen, _feed, [mut one, mut other]) = fleet();
    let kill = Command::Kill { session: "00a1".into() };
    screen.ask_gateways(vec![("hangs".into(), kill.clone()), ("well".into(), kill)]);
    screen.ask_gateways(vec![("well".into(), Command::Reload)]);
    let mut kills = Vec::new();
    let answers = async {
        for feed in [&mut other, &mut one] {
            kills.push(feed.commands.recv().await.unwrap());
        }
        kills.push(other.commands.recv().await.unwrap());
        let reload = kills.iter().position(|asked| asked.command == Command::Reload).unwrap();
        kills.remove(reload).answer.send(CommandAnswer::Done("read again".into())).unwrap();
        future::pending::<()>().await;
    };
    let event = tokio::select! {
        event = next_event(&mut screen) => event,
        () = answers => unreachable!("it waits forever"),
    };
    screen.handle_wakeup(event);
    assert_eq!(screen.app.status_message(), Some(&StatusMessage::Done("well: read again".into())));
    for kill in kills {
        kill.answer.send(CommandAnswer::Killed(1)).unwrap();
        let event = next_event(&mut screen).await;
        screen.handle_wakeup(event);
    }
    let Some(StatusMessage::Done(text)) = screen.app.status_message() else { panic!("it is over") };
    let mut parts: Vec<_> = text.split("; ").collect();
    parts.sort_unstable();
    assert_eq!(parts, ["hangs: 1 session is cut", "well: 1 session is cut"]);
}
