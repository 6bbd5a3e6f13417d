//! The loop of the screen: waits for a key, a snapshot, an answer or word from outside; draws.
//!
//! It is generic over the terminal and the input, so that it runs the same in a test.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

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
    gateway::handle::{Answer, Command},
    telemetry::snapshot::{GatewayPhase, Snapshot},
    tui::{
        Ended,
        app::{App, Export, Mouse, Reaction},
        look::Look,
        pace::Pace,
        source::{News, Source},
        terminal, view,
    },
};

/// The screen while it runs.
pub struct Screen<B: Backend> {
    terminal: Terminal<B>,
    area: Rect,
    app: App,
    source: Source,
    pace: Pace,
    /// A new size, taken at the next frame: dragging a window gives many.
    resized: Option<Size>,
    /// Answers on their way, [`ASKING_MAX`] at most.
    asking: FuturesUnordered<BoxFuture<'static, Answer>>,
    heard_at: Instant,
    frames: u64,
}

/// What the loop woke up for.
enum Woke {
    /// The process around the screen ends it.
    Told(Ended),
    Key(KeyEvent),
    Mouse(MouseEvent),
    Pasted(String),
    Resized(Size),
    /// Input that means nothing here.
    Ignored,
    InputLost,
    News(News),
    Answered(Answer),
    FrameDue,
    /// Time to see whether snapshots still come.
    Second,
}

impl<B: Backend> Screen<B> {
    /// `terminal` has a fixed viewport of `area`.
    pub fn new(terminal: Terminal<B>, area: Rect, source: Source, look: Look) -> Self {
        let mut app = App::new(source.first(), look);
        app.stand(source.standing());
        Self {
            terminal,
            area,
            app,
            source,
            pace: Pace::new(Instant::now()),
            resized: None,
            asking: FuturesUnordered::new(),
            heard_at: Instant::now(),
            frames: 0,
        }
    }

    /// Runs until something ends the screen. The terminal is entered and left by the caller.
    pub async fn run(
        &mut self,
        input: impl Stream<Item = io::Result<Event>>,
        mut told: mpsc::Receiver<Ended>,
    ) -> Ended {
        let mut input = std::pin::pin!(input);
        loop {
            if self.draw_if_due().is_err() {
                return Ended::TerminalGone;
            }
            let woke = self.wait(input.as_mut(), &mut told).await;
            if let Some(ended) = self.take(woke) {
                return ended;
            }
        }
    }

    /// Follows a gateway that stops until it has, and tells of each second.
    pub async fn follow_stop(&mut self, tell: impl Fn(&Snapshot)) {
        let mut told_at: Option<Instant> = None;
        while let News::Snapshot(snapshot) = self.source.next().await {
            self.app.take(Arc::clone(&snapshot));
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
    async fn wait<I>(&mut self, mut input: Pin<&mut I>, told: &mut mpsc::Receiver<Ended>) -> Woke
    where
        I: Stream<Item = io::Result<Event>>,
    {
        let due = self.pace.due();
        let second = self.heard_at + SECOND * (seconds_since(self.heard_at) + 1);
        tokio::select! {
            biased;
            // Closed, nobody is left to tell anything: the screen goes on.
            Some(told) = told.recv() => Woke::Told(told),
            event = input.next() => woke_by(event),
            () = tokio::time::sleep_until(due.unwrap_or(second)), if due.is_some() => Woke::FrameDue,
            Some(answer) = self.asking.next(), if !self.asking.is_empty() => Woke::Answered(answer),
            news = self.source.next() => Woke::News(news),
            () = tokio::time::sleep_until(second) => Woke::Second,
        }
    }

    fn take(&mut self, woke: Woke) -> Option<Ended> {
        match woke {
            Woke::Told(ended) => return Some(ended),
            Woke::InputLost => return Some(Ended::TerminalGone),
            Woke::Key(key) => {
                let reaction = self.app.press(key);
                return self.carry_out(reaction);
            }
            Woke::Mouse(event) => {
                let reaction = self.app.point(event, self.area);
                return self.carry_out(reaction);
            }
            Woke::Pasted(text) => {
                let reaction = self.app.paste(&text);
                return self.carry_out(reaction);
            }
            Woke::Resized(size) => {
                self.resized = Some(size);
                self.pace.touched();
            }
            Woke::News(news) => return self.hear(news),
            Woke::Answered(answer) => {
                self.app.answered(answer);
                self.pace.touched();
                self.grant_wish();
            }
            Woke::Second => {
                let seconds = u64::from(seconds_since(self.heard_at));
                self.change(|app| app.silent_for(seconds));
            }
            Woke::FrameDue | Woke::Ignored => {}
        }
        None
    }

    fn hear(&mut self, news: News) -> Option<Ended> {
        match news {
            News::Snapshot(snapshot) => {
                self.heard_at = Instant::now();
                self.change(|app| app.take(snapshot));
                self.grant_wish();
            }
            News::Standing => {}
            News::Trouble(why) => {
                self.app.answered(Answer::Refused(why));
                self.pace.touched();
            }
            News::Ended => return Some(Ended::GatewayStopped),
        }
        let standing = self.source.standing();
        self.change(|app| app.stand(standing));
        None
    }

    fn change(&mut self, change: impl FnOnce(&mut App) -> bool) {
        if change(&mut self.app) {
            self.pace.changed();
        }
    }

    fn carry_out(&mut self, reaction: Reaction) -> Option<Ended> {
        match reaction {
            Reaction::Nothing => return None,
            Reaction::Redraw => {}
            Reaction::Ask(command) => self.ask(command),
            Reaction::Play(asked) => {
                if let Some(news) = self.source.play(asked) {
                    self.hear(news);
                }
            }
            Reaction::Export(export) => self.app.told(write(&export)),
            Reaction::Mouse(mouse) => {
                if terminal::take_mouse(mouse == Mouse::On).is_err() {
                    return Some(Ended::TerminalGone);
                }
            }
            Reaction::Suspend => {
                if terminal::suspend().is_err() {
                    return Some(Ended::TerminalGone);
                }
                self.resized = Some(terminal::size());
            }
            Reaction::End(ended) => return Some(ended),
        }
        self.pace.touched();
        None
    }

    fn ask(&mut self, command: Command) {
        if self.asking.len() >= ASKING_MAX {
            self.app.answered(Answer::Refused("the gateway has not answered the last commands yet".into()));
            return;
        }
        self.app.asked(&command);
        self.send(command);
    }

    /// Asks for what the screen needs of itself, in silence, and later where too much is asked already.
    fn grant_wish(&mut self) {
        if self.asking.len() < ASKING_MAX
            && let Some(command) = self.app.wish()
        {
            self.send(command);
        }
    }

    fn send(&mut self, command: Command) {
        let answer = timeout(ANSWER_WAIT, self.source.ask(command));
        self.asking.push(Box::pin(async move {
            let late = || Answer::Refused(format!("no answer within {} s", ANSWER_WAIT.as_secs()));
            answer.await.unwrap_or_else(|_| late())
        }));
    }

    fn draw_if_due(&mut self) -> Result<(), B::Error> {
        let now = Instant::now();
        let spoilt = terminal::take_spoilt();
        if !spoilt && self.pace.due().is_none_or(|due| due > now) {
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
        self.pace.drawn(now);
        Ok(())
    }
}

/// Writes a table into a new file of the folder that the screen was started in.
fn write(export: &Export) -> Result<String, String> {
    let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let name = format!("{}-{}.json", export.stem, at.replace(':', ""));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&name);
    let written = file.and_then(|mut file| writeln!(file, "{}", export.json));
    written.map(|()| format!("written to {name}")).map_err(|error| format!("{name}: {error}"))
}

fn woke_by(event: Option<io::Result<Event>>) -> Woke {
    match event {
        Some(Ok(Event::Key(key))) => Woke::Key(key),
        Some(Ok(Event::Mouse(mouse))) => Woke::Mouse(mouse),
        Some(Ok(Event::Resize(width, height))) => Woke::Resized(terminal::sane(width, height)),
        Some(Ok(Event::Paste(text))) => Woke::Pasted(text),
        Some(Ok(Event::FocusGained | Event::FocusLost)) => Woke::Ignored,
        Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => Woke::Ignored,
        Some(Err(_)) | None => Woke::InputLost,
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
        gateway::handle::{self, Asked},
        profile::Mode,
        telemetry::snapshot::Totals,
    };

    type Keys = Vec<(Duration, KeyCode)>;

    fn snapshot(uptime_seconds: f64, sessions_open: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            phase: GatewayPhase::Running,
            uptime_seconds,
            totals: Totals { sessions_open, ..Totals::default() },
            ..Snapshot::new("demo", Mode::Reverse)
        })
    }

    /// A screen, four snapshots a second of `next` for ten seconds, and the end of the gateway.
    async fn run(keys: Keys, next: fn(u32) -> Arc<Snapshot>) -> (Ended, u64, Vec<Command>) {
        let area = Rect::new(0, 0, 80, 24);
        let terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let (handle, mut feed) = handle::channel(next(0), "test");
        let publish = feed.snapshots;
        let mut screen = Screen::new(terminal, area, Source::own(handle), Look::FULL);
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
            while let Some(Asked { command, answer, .. }) = feed.commands.recv().await {
                heard.push(command);
                answer.send(Answer::Done("it is done".into())).ok();
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
        assert_eq!((ended, frames), (Ended::GatewayStopped, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn four_snapshots_a_second_are_two_frames() {
        let (ended, frames, _) = run(vec![], |tick| snapshot(f64::from(tick) / 4.0, 0)).await;
        assert_eq!(ended, Ended::GatewayStopped);
        assert!((19..=21).contains(&frames), "{frames} frames");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_without_meaning_draws_nothing() {
        let (_, frames, _) = run(vec![key('z'), key('w')], |_| snapshot(5.0, 0)).await;
        assert_eq!(frames, 1);
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
        assert_eq!(run(vec![key('q')], |_| snapshot(5.0, 0)).await.0, Ended::GatewayStopped, "it asks first");
        assert_eq!(run(vec![key('q')], busy).await.0, Ended::GatewayStopped);
        assert_eq!(run(vec![key('q'), key('y')], busy).await.0, Ended::Quit);
        assert_eq!(run(vec![key('q'), key('h')], busy).await.0, Ended::LeftHeadless);
        let enter = (Duration::ZERO, KeyCode::Enter);
        assert_eq!(run(vec![key('q'), enter], busy).await.0, Ended::GatewayStopped);
        let escape = (Duration::ZERO, KeyCode::Esc);
        assert_eq!(run(vec![key('q'), escape, key('y')], busy).await.0, Ended::GatewayStopped);
        // As a terminal sends what is pasted where it does not know how to bracket it.
        // Without an `e`, which would export a table into the folder of the test.
        let text = "quit a log, quickly".chars().map(|letter| (Duration::ZERO, KeyCode::Char(letter)));
        assert_eq!(run(text.collect(), busy).await.0, Ended::GatewayStopped);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_terminal_ends_the_screen_and_not_the_gateway() {
        let terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let (handle, _feed) = handle::channel(snapshot(5.0, 1), "test");
        let area = Rect::new(0, 0, 80, 24);
        let mut screen = Screen::new(terminal, area, Source::own(handle), Look::FULL);
        let (_tell, told) = mpsc::channel(1);
        assert_eq!(screen.run(stream::empty(), told).await, Ended::TerminalGone);
        let (tell, told) = mpsc::channel(1);
        tell.try_send(Ended::TerminalGone).unwrap();
        assert_eq!(screen.run(stream::pending(), told).await, Ended::TerminalGone);
    }
}
