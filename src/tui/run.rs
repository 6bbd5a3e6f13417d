//! The loop of the screen: waits for a key, a snapshot, an answer or word from outside; draws.
//!
//! It is generic over the terminal and the input, so that it runs the same in a test.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use crossterm::event::{Event, KeyEvent, MouseEvent};
use futures_util::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ratatui::{
    Terminal,
    backend::Backend,
    layout::{Position, Rect, Size},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{
    gateway::handle::{Command, CommandAnswer},
    telemetry::snapshot::{GatewayPhase, Snapshot},
    tui::{
        ScreenEnd,
        app::{App, MouseCapture, Reaction},
        export_writer::{ExportResult, ExportWriter},
        frame_pacing::FramePacing,
        source::{ScreenSource, SourceEvent},
        style::ScreenStyle,
        terminal, view,
    },
};

/// The screen while it runs.
pub struct ScreenLoop<B: Backend> {
    terminal: Terminal<B>,
    area: Rect,
    app: App,
    source: ScreenSource,
    pacing: FramePacing,
    /// A new size, taken at the next frame: dragging a window gives many.
    resized: Option<Size>,
    /// Answers on their way, [`ASKING_MAX`] at most.
    asking: FuturesUnordered<BoxFuture<'static, CommandAnswer>>,
    exports: ExportWriter,
    heard_at: Instant,
    frames: u64,
}

/// What the loop woke up for.
enum LoopEvent {
    /// The process around the screen ends it.
    ToldToEnd(ScreenEnd),
    Key(KeyEvent),
    Mouse(MouseEvent),
    Pasted(String),
    Resized(Size),
    /// Input that means nothing here.
    Ignored,
    InputLost,
    News(SourceEvent),
    Answered(CommandAnswer),
    Exported(ExportResult),
    FrameDue,
    /// Time to see whether snapshots still come.
    Second,
}

impl<B: Backend> ScreenLoop<B> {
    /// `terminal` has a fixed viewport of `area`.
    pub fn new(terminal: Terminal<B>, area: Rect, source: ScreenSource, look: ScreenStyle) -> Self {
        let mut app = App::new(source.first(), look);
        app.set_attachment(source.attachment());
        Self {
            terminal,
            area,
            app,
            source,
            pacing: FramePacing::new(Instant::now()),
            resized: None,
            asking: FuturesUnordered::new(),
            exports: ExportWriter::default(),
            heard_at: Instant::now(),
            frames: 0,
        }
    }

    /// Runs until something ends the screen. The terminal is entered and left by the caller.
    pub async fn run(
        &mut self,
        input: impl Stream<Item = io::Result<Event>>,
        mut told: mpsc::Receiver<ScreenEnd>,
    ) -> ScreenEnd {
        let mut input = std::pin::pin!(input);
        loop {
            if self.draw_if_due().is_err() {
                return ScreenEnd::TerminalGone;
            }
            let woke = self.wait(input.as_mut(), &mut told).await;
            if let Some(ended) = self.handle_wakeup(woke) {
                return ended;
            }
        }
    }

    /// Follows a gateway that stops until it has, and tells of each second.
    pub async fn follow_stop(&mut self, tell: impl Fn(&Snapshot)) {
        let mut told_at: Option<Instant> = None;
        while let SourceEvent::Snapshot(snapshot) = self.source.next().await {
            self.app.take_snapshot(Arc::clone(&snapshot));
            if snapshot.phase == GatewayPhase::Stopped {
                return;
            }
            let is_due = told_at.is_none_or(|at| at.elapsed() >= SECOND);
            if snapshot.cut_in_seconds.is_some() && is_due {
                told_at = Some(Instant::now());
                tell(&snapshot);
            }
        }
    }

    /// What was looked at, for the summary.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Every arm may be dropped half-way: streams, channels and clocks lose nothing by it.
    async fn wait<I>(&mut self, mut input: Pin<&mut I>, told: &mut mpsc::Receiver<ScreenEnd>) -> LoopEvent
    where
        I: Stream<Item = io::Result<Event>>,
    {
        let due = self.pacing.due();
        let second = self.heard_at + SECOND * (seconds_since(self.heard_at) + 1);
        tokio::select! {
            biased;
            // Closed, nobody is left to tell anything: the screen goes on.
            Some(told) = told.recv() => LoopEvent::ToldToEnd(told),
            event = input.next() => loop_event(event),
            () = tokio::time::sleep_until(due.unwrap_or(second)), if due.is_some() => LoopEvent::FrameDue,
            Some(answer) = self.asking.next(), if !self.asking.is_empty() => LoopEvent::Answered(answer),
            result = self.exports.next() => LoopEvent::Exported(result),
            news = self.source.next() => LoopEvent::News(news),
            () = tokio::time::sleep_until(second) => LoopEvent::Second,
        }
    }

    fn handle_wakeup(&mut self, woke: LoopEvent) -> Option<ScreenEnd> {
        match woke {
            LoopEvent::ToldToEnd(ended) => return Some(ended),
            LoopEvent::InputLost => return Some(ScreenEnd::TerminalGone),
            LoopEvent::Key(key) => {
                let reaction = self.app.press(key);
                return self.carry_out(reaction);
            }
            LoopEvent::Mouse(event) => {
                let reaction = self.app.handle_mouse(event, self.area);
                return self.carry_out(reaction);
            }
            LoopEvent::Pasted(text) => {
                let reaction = self.app.paste(&text);
                return self.carry_out(reaction);
            }
            LoopEvent::Resized(size) => {
                self.resized = Some(size);
                self.pacing.note_input();
            }
            LoopEvent::News(news) => return self.handle_event(news),
            LoopEvent::Answered(answer) => {
                self.app.take_answer(answer);
                self.pacing.note_input();
                self.send_background_command();
            }
            LoopEvent::Exported(result) => {
                self.app.note_result(result);
                self.pacing.note_input();
            }
            LoopEvent::Second => {
                let seconds = u64::from(seconds_since(self.heard_at));
                self.change(|app| app.set_silence(seconds));
            }
            LoopEvent::FrameDue | LoopEvent::Ignored => {}
        }
        None
    }

    fn handle_event(&mut self, news: SourceEvent) -> Option<ScreenEnd> {
        match news {
            SourceEvent::Snapshot(snapshot) => {
                self.heard_at = Instant::now();
                self.change(|app| app.take_snapshot(snapshot));
                self.send_background_command();
            }
            SourceEvent::Attachment => {}
            SourceEvent::Trouble(why) => {
                self.app.take_answer(CommandAnswer::Refused(why));
                self.pacing.note_input();
            }
            SourceEvent::Ended => return Some(ScreenEnd::GatewayStopped),
        }
        let standing = self.source.attachment();
        self.change(|app| app.set_attachment(standing));
        None
    }

    fn change(&mut self, change: impl FnOnce(&mut App) -> bool) {
        if change(&mut self.app) {
            self.pacing.note_change();
        }
    }

    fn carry_out(&mut self, reaction: Reaction) -> Option<ScreenEnd> {
        match reaction {
            Reaction::Nothing => return None,
            Reaction::Redraw => {}
            Reaction::Ask(command) => self.ask(command),
            Reaction::Play(asked) => {
                if let Some(news) = self.source.play(asked) {
                    self.handle_event(news);
                }
            }
            Reaction::Export(export) => match self.exports.begin(export) {
                Ok(()) => self.app.note_waiting("writing the table"),
                Err(why) => self.app.note_result(Err(why)),
            },
            Reaction::Mouse(mouse) => {
                if terminal::take_mouse(mouse == MouseCapture::On).is_err() {
                    return Some(ScreenEnd::TerminalGone);
                }
            }
            Reaction::Suspend => {
                if terminal::suspend().is_err() {
                    return Some(ScreenEnd::TerminalGone);
                }
                self.resized = Some(terminal::size());
            }
            Reaction::End(ended) => return Some(ended),
        }
        self.pacing.note_input();
        None
    }

    fn ask(&mut self, command: Command) {
        if self.asking.len() >= ASKING_MAX {
            self.app.take_answer(CommandAnswer::Refused(
                "the gateway has not answered the last commands yet".into(),
            ));
            return;
        }
        self.app.note_sent(&command);
        self.send(command);
    }

    /// Asks for what the screen needs of itself, in silence, and later where too much is asked already.
    fn send_background_command(&mut self) {
        if self.asking.len() < ASKING_MAX
            && let Some(command) = self.app.background_command()
        {
            self.send(command);
        }
    }

    fn send(&mut self, command: Command) {
        let answer = timeout(ANSWER_WAIT, self.source.ask(command));
        self.asking.push(Box::pin(async move {
            let late = || CommandAnswer::Refused(format!("no answer within {} s", ANSWER_WAIT.as_secs()));
            answer.await.unwrap_or_else(|_| late())
        }));
    }

    fn draw_if_due(&mut self) -> Result<(), B::Error> {
        let now = Instant::now();
        let spoilt = terminal::take_needs_redraw();
        if !spoilt && self.pacing.due().is_none_or(|due| due > now) {
            return Ok(());
        }
        let resized = self.resized.take();
        if resized.is_some() || spoilt {
            self.area = resized.map_or(self.area, |size| Rect::from((Position::ORIGIN, size)));
            // Not `clear`: it would ask the terminal where its cursor is, and wait for the answer.
            self.terminal.resize(self.area)?;
        }
        self.terminal.draw(|frame| view::draw(frame, &self.app))?;
        self.frames += 1;
        self.pacing.note_drawn(now);
        Ok(())
    }
}

fn loop_event(event: Option<io::Result<Event>>) -> LoopEvent {
    match event {
        Some(Ok(Event::Key(key))) => LoopEvent::Key(key),
        Some(Ok(Event::Mouse(mouse))) => LoopEvent::Mouse(mouse),
        Some(Ok(Event::Resize(width, height))) => LoopEvent::Resized(terminal::sane_size(width, height)),
        Some(Ok(Event::Paste(text))) => LoopEvent::Pasted(text),
        Some(Ok(Event::FocusGained | Event::FocusLost)) => LoopEvent::Ignored,
        Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => LoopEvent::Ignored,
        Some(Err(_)) | None => LoopEvent::InputLost,
    }
}

fn seconds_since(then: Instant) -> u32 {
    u32::try_from(then.elapsed().as_secs()).unwrap_or(u32::MAX - 1)
}

const SECOND: Duration = Duration::from_secs(1);
/// Commands without an answer at once; more would only be the same key pressed again.
const ASKING_MAX: usize = 4;
/// Longer than any command should take, shorter than an operator's patience.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crossterm::event::{KeyCode, KeyModifiers};
    use futures_util::stream;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::{
        gateway::handle::{self, PendingCommand},
        profile::Mode,
        telemetry::snapshot::TrafficTotals,
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

    /// A screen, four snapshots a second of `next` for ten seconds, and the end of the gateway.
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
            let mut heard = vec![];
            while let Some(PendingCommand { command, answer, .. }) = feed.commands.recv().await {
                heard.push(command);
                answer.send(CommandAnswer::Done("it is done".into())).ok();
            }
            heard
        };
        let (_keep, told) = mpsc::channel(1);
        let screen_runs = async {
            let ended = screen.run(input, told).await;
            let frames = screen.frames;
            drop(screen);
            (ended, frames)
        };
        let ((ended, frames), heard, ()) = tokio::join!(screen_runs, engine, gateway);
        (ended, frames, heard)
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

    /// In real time: a thread that works holds a paused clock.
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
        let (_, frames, heard) = run(vec![key('r')], |_| snapshot(5.0, 0)).await;
        assert_eq!(heard, [Command::Reload]);
        assert!((2..=3).contains(&frames), "{frames} frames");
    }

    #[tokio::test(start_paused = true)]
    async fn quitting_asks_and_only_a_yes_stops_the_gateway() {
        let busy = |_| snapshot(5.0, 3);
        assert_eq!(
            run(vec![key('q')], |_| snapshot(5.0, 0)).await.0,
            ScreenEnd::GatewayStopped,
            "it asks first"
        );
        assert_eq!(run(vec![key('q')], busy).await.0, ScreenEnd::GatewayStopped);
        assert_eq!(run(vec![key('q'), key('y')], busy).await.0, ScreenEnd::Quit);
        assert_eq!(run(vec![key('q'), key('h')], busy).await.0, ScreenEnd::LeftHeadless);
        let enter = (Duration::ZERO, KeyCode::Enter);
        assert_eq!(run(vec![key('q'), enter], busy).await.0, ScreenEnd::GatewayStopped);
        let escape = (Duration::ZERO, KeyCode::Esc);
        assert_eq!(run(vec![key('q'), escape, key('y')], busy).await.0, ScreenEnd::GatewayStopped);
        // As a terminal sends what is pasted where it does not know how to bracket it.
        // Without an `e`, which would export a table into the folder of the test.
        let text = "quit a log, quickly".chars().map(|letter| (Duration::ZERO, KeyCode::Char(letter)));
        assert_eq!(run(text.collect(), busy).await.0, ScreenEnd::GatewayStopped);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_terminal_ends_the_screen_and_not_the_gateway() {
        let terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let (handle, _feed) = handle::channel(snapshot(5.0, 1), "test");
        let area = Rect::new(0, 0, 80, 24);
        let mut screen = ScreenLoop::new(terminal, area, ScreenSource::own(handle), ScreenStyle::FULL);
        let (_tell, told) = mpsc::channel(1);
        assert_eq!(screen.run(stream::empty(), told).await, ScreenEnd::TerminalGone);
        let (tell, told) = mpsc::channel(1);
        tell.try_send(ScreenEnd::TerminalGone).unwrap();
        assert_eq!(screen.run(stream::pending(), told).await, ScreenEnd::TerminalGone);
    }
}
