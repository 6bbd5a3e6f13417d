//! The loop of the screen: waits for a key, a snapshot, an answer or a request from outside; draws.
//!
//! It is generic over the terminal and the input, so that it runs the same way in a test.

use std::{
    collections::{HashMap, HashSet},
    io,
    pin::Pin,
    sync::Arc,
    time::Duration,
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
    doctor::MachineFacts,
    gateway::handle::{Command, CommandAnswer},
    telemetry::{
        history::HistoryRequest,
        snapshot::{GatewayPhase, Snapshot},
    },
    tui::{
        ScreenEnd,
        app::{App, UpdateResult},
        export_writer::{ExportResult, ExportWriter},
        fleet::AskedAs,
        frame_pacing::FramePacing,
        source::{ScreenSource, SourceEvent},
        style::ScreenStyle,
        terminal, view,
    },
};

/// The gateway of a fleet that is asked for a history, and the history.
type AskedHistory = (Option<Arc<str>>, HistoryRequest);

/// The screen while it runs.
pub struct ScreenLoop<B: Backend> {
    terminal: Terminal<B>,
    area: Rect,
    app: App,
    source: ScreenSource,
    pacing: FramePacing,
    /// A new size, used at the next frame: dragging a window produces many.
    resized: Option<Size>,
    /// Answers that are still to come.
    asking: FuturesUnordered<BoxFuture<'static, ArrivedAnswer>>,
    /// How many of them each gateway owes, [`PENDING_COMMANDS_MAX`] at most: one that hangs holds up no other.
    owed: HashMap<Option<Arc<str>>, usize>,
    /// Histories that the screen itself has requested.
    histories: FuturesUnordered<BoxFuture<'static, (AskedHistory, CommandAnswer)>>,
    awaited_histories: HashSet<AskedHistory>,
    exports: ExportWriter,
    machine_read_at: Option<Instant>,
    received_at: Instant,
    frames: u64,
}

/// The answer to a command, of one gateway of a fleet or of the only one.
struct ArrivedAnswer {
    of: Option<Arc<str>>,
    asked: AskedAs,
    answer: CommandAnswer,
}

/// Why the loop woke up.
enum LoopEvent {
    /// The process around the screen ends it.
    StopRequested(ScreenEnd),
    Key(KeyEvent),
    Mouse(MouseEvent),
    Pasted(String),
    Resized(Size),
    /// Input without a meaning here.
    Ignored,
    InputLost,
    SourceChanged(SourceEvent),
    Answered(ArrivedAnswer),
    HistoryArrived(AskedHistory, CommandAnswer),
    Exported(ExportResult),
    FrameDue,
    /// Time to check whether snapshots still arrive.
    Tick,
}

impl<B: Backend> ScreenLoop<B> {
    /// `terminal` has a fixed viewport of `area`.
    pub fn new(terminal: Terminal<B>, area: Rect, source: ScreenSource, screen_style: ScreenStyle) -> Self {
        let mut app = App::new(source.first(), screen_style);
        app.set_attachment(source.attachment());
        Self {
            terminal,
            area,
            app,
            source,
            pacing: FramePacing::new(Instant::now()),
            resized: None,
            asking: FuturesUnordered::new(),
            owed: HashMap::new(),
            histories: FuturesUnordered::new(),
            awaited_histories: HashSet::new(),
            exports: ExportWriter::default(),
            machine_read_at: None,
            received_at: Instant::now(),
            frames: 0,
        }
    }

    /// Runs until something ends the screen. The caller sets up and restores the terminal.
    pub async fn run(
        &mut self,
        input: impl Stream<Item = io::Result<Event>>,
        mut end_receiver: mpsc::Receiver<ScreenEnd>,
    ) -> ScreenEnd {
        let mut input = std::pin::pin!(input);
        loop {
            self.read_machine_if_due();
            self.ask_for_history_if_due();
            if self.draw_if_due().is_err() {
                return ScreenEnd::TerminalGone;
            }
            let woke = self.wait(input.as_mut(), &mut end_receiver).await;
            if let Some(ended) = self.handle_wakeup(woke) {
                return ended;
            }
        }
    }

    /// Follows a gateway that is stopping until it has stopped, and reports each second.
    pub async fn follow_stop(&mut self, show: impl Fn(&Snapshot)) {
        let mut reported_at: Option<Instant> = None;
        while let SourceEvent::Snapshot(snapshot) = self.source.next().await {
            self.app.receive_snapshot(Arc::clone(&snapshot));
            if snapshot.phase == GatewayPhase::Stopped {
                return;
            }
            let is_due = reported_at.is_none_or(|at| at.elapsed() >= SECOND);
            if snapshot.cut_in_seconds.is_some() && is_due {
                reported_at = Some(Instant::now());
                show(&snapshot);
            }
        }
    }

    /// The final state, for the summary.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Every arm may be dropped at any point: streams, channels and clocks lose nothing.
    async fn wait<I>(
        &mut self,
        mut input: Pin<&mut I>,
        end_receiver: &mut mpsc::Receiver<ScreenEnd>,
    ) -> LoopEvent
    where
        I: Stream<Item = io::Result<Event>>,
    {
        let due = self.pacing.due();
        let second = self.received_at + SECOND * (seconds_since(self.received_at) + 1);
        tokio::select! {
            biased;
            // If it is closed, nobody can end the screen from outside, and it goes on.
            Some(end) = end_receiver.recv() => LoopEvent::StopRequested(end),
            event = input.next() => loop_event(event),
            () = tokio::time::sleep_until(due.unwrap_or(second)), if due.is_some() => LoopEvent::FrameDue,
            Some(arrived) = self.asking.next(), if !self.asking.is_empty() => LoopEvent::Answered(arrived),
            Some((asked, answer)) = self.histories.next(), if !self.histories.is_empty() => {
                LoopEvent::HistoryArrived(asked, answer)
            }
            result = self.exports.next() => LoopEvent::Exported(result),
            source_event = self.source.next() => LoopEvent::SourceChanged(source_event),
            () = tokio::time::sleep_until(second) => LoopEvent::Tick,
        }
    }

    fn handle_wakeup(&mut self, woke: LoopEvent) -> Option<ScreenEnd> {
        match woke {
            LoopEvent::StopRequested(ended) => return Some(ended),
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
            LoopEvent::SourceChanged(source_event) => return self.handle_event(source_event),
            LoopEvent::Answered(ArrivedAnswer { of, asked, answer }) => {
                if let Some(owed) = self.owed.get_mut(&of) {
                    *owed -= 1;
                }
                match of {
                    Some(name) => self.app.take_answer_of(name, asked, answer),
                    None => self.app.take_answer(answer),
                }
                self.pacing.note_input();
                self.send_background_command();
            }
            LoopEvent::HistoryArrived(asked, answer) => {
                self.awaited_histories.remove(&asked);
                let (of, requested) = asked;
                self.app.take_history(of, requested, answer);
                self.pacing.note_change();
            }
            LoopEvent::Exported(result) => {
                self.app.note_result(result);
                self.pacing.note_input();
            }
            LoopEvent::Tick => {
                let seconds = u64::from(seconds_since(self.received_at));
                self.change(|app| app.set_silence(seconds));
            }
            LoopEvent::FrameDue | LoopEvent::Ignored => {}
        }
        None
    }

    fn handle_event(&mut self, source_event: SourceEvent) -> Option<ScreenEnd> {
        match source_event {
            SourceEvent::Snapshot(snapshot) => {
                self.received_at = Instant::now();
                self.change(|app| app.receive_snapshot(snapshot));
                self.send_background_command();
            }
            SourceEvent::Attachment => {}
            SourceEvent::Failed(why) => {
                self.app.take_answer(CommandAnswer::Refused(why));
                self.pacing.note_input();
            }
            SourceEvent::Ended => return Some(ScreenEnd::GatewayStopped),
        }
        let attachment = self.source.attachment();
        self.change(|app| app.set_attachment(attachment));
        None
    }

    fn change(&mut self, change: impl FnOnce(&mut App) -> bool) {
        if change(&mut self.app) {
            self.pacing.note_change();
        }
    }

    fn carry_out(&mut self, reaction: UpdateResult) -> Option<ScreenEnd> {
        match reaction {
            UpdateResult::Nothing => return None,
            UpdateResult::Redraw => {}
            UpdateResult::Ask(command) => self.ask(command),
            UpdateResult::AskGateways(commands) => self.ask_gateways(commands),
            UpdateResult::Play(requested) => {
                if let Some(source_event) = self.source.play(requested) {
                    self.handle_event(source_event);
                }
            }
            UpdateResult::Export(export) => match self.exports.begin(export) {
                Ok(()) => self.app.note_waiting("writing the table"),
                Err(why) => self.app.note_result(Err(why)),
            },
            UpdateResult::Mouse(mouse) => {
                if terminal::capture_mouse(mouse).is_err() {
                    return Some(ScreenEnd::TerminalGone);
                }
            }
            UpdateResult::Suspend => {
                if terminal::suspend().is_err() {
                    return Some(ScreenEnd::TerminalGone);
                }
                self.resized = Some(terminal::size());
            }
            UpdateResult::End(ended) => return Some(ended),
        }
        self.pacing.note_input();
        None
    }

    fn ask(&mut self, command: Command) {
        if self.owes_too_many(&None) {
            return self.app.take_answer(CommandAnswer::Refused(NOT_ANSWERED_YET.into()));
        }
        self.app.note_sent(&command);
        self.send(None, AskedAs::Alone, command);
    }

    /// Asks gateways of a fleet: what they are sent together counts as one question.
    fn ask_gateways(&mut self, commands: Vec<(Arc<str>, Command)>) {
        commands.iter().for_each(|(_, command)| self.app.note_sent(command));
        let asked = if commands.len() > 1 { AskedAs::Together } else { AskedAs::Alone };
        if asked == AskedAs::Together {
            self.app.note_asked_together(commands.iter().map(|(name, _)| Arc::clone(name)));
        }
        for (name, command) in commands {
            let of = Some(name);
            match of.clone().filter(|_| self.owes_too_many(&of)) {
                Some(name) => {
                    let refused = CommandAnswer::Refused(NOT_ANSWERED_YET.into()).of_gateway(&name);
                    self.app.take_answer_of(name, asked, refused);
                }
                None => self.send(of, asked, command),
            }
        }
    }

    fn owes_too_many(&self, of: &Option<Arc<str>>) -> bool {
        self.owed.get(of).is_some_and(|&owed| owed >= PENDING_COMMANDS_MAX)
    }

    /// Requests what the screen needs, without a message, and later if too many requests are under way.
    fn send_background_command(&mut self) {
        let of = self.app.profiles_of().cloned();
        if !self.owes_too_many(&of)
            && let Some(command) = self.app.background_command()
        {
            self.send(of, AskedAs::Alone, command);
        }
    }

    /// Without a message, and of no gateway the same again before it has answered.
    fn ask_for_history_if_due(&mut self) {
        for asked in self.app.history_requests() {
            if !self.awaited_histories.insert(asked.clone()) {
                continue;
            }
            let answer = self.answer_of(asked.0.as_ref(), Command::History(asked.1));
            self.histories.push(Box::pin(async move { (asked, answer.await) }));
        }
    }

    fn send(&mut self, of: Option<Arc<str>>, asked: AskedAs, command: Command) {
        let answer = self.answer_of(of.as_ref(), command);
        *self.owed.entry(of.clone()).or_default() += 1;
        self.asking.push(Box::pin(async move { ArrivedAnswer { of, asked, answer: answer.await } }));
    }

    fn answer_of(&self, of: Option<&Arc<str>>, command: Command) -> BoxFuture<'static, CommandAnswer> {
        let wait = answer_wait(&command);
        let answer = match of {
            Some(name) => self.source.ask_gateway(name, command),
            None => self.source.ask(command),
        };
        answered_in_time(wait, answer)
    }

    /// Reads a few small kernel files while their contents are shown.
    fn read_machine_if_due(&mut self) {
        let is_due = self.machine_read_at.is_none_or(|at| at.elapsed() >= MACHINE_FACTS_INTERVAL);
        if is_due && self.app.wants_machine() {
            self.machine_read_at = Some(Instant::now());
            self.change(|app| app.set_machine(MachineFacts::read()));
        }
    }

    fn draw_if_due(&mut self) -> Result<(), B::Error> {
        let now = Instant::now();
        let needs_redraw = terminal::take_needs_redraw();
        if !needs_redraw && self.pacing.due().is_none_or(|due| due > now) {
            return Ok(());
        }
        let resized = self.resized.take();
        if resized.is_some() || needs_redraw {
            self.area = resized.map_or(self.area, |size| Rect::from((Position::ORIGIN, size)));
            // `clear` would ask the terminal for its cursor position, and wait for the answer.
            self.terminal.resize(self.area)?;
        }
        self.terminal.draw(|frame| view::draw(frame, &self.app))?;
        self.frames += 1;
        self.pacing.note_drawn(now);
        Ok(())
    }
}

/// How long an answer may take. Some come only when the work is done, which has deadlines of its own; whether
/// the gateway still responds is seen meanwhile, by an attached handle or by the snapshots.
fn answer_wait(command: &Command) -> Option<Duration> {
    let is_long = matches!(command, Command::Stop | Command::Switch { .. } | Command::Verify { .. });
    (!is_long).then_some(RESPONSE_TIMEOUT)
}

/// An answer, or an error if it does not come in time.
fn answered_in_time(
    wait: Option<Duration>,
    answer: BoxFuture<'static, CommandAnswer>,
) -> BoxFuture<'static, CommandAnswer> {
    let Some(wait) = wait else { return answer };
    Box::pin(async move {
        let timed_out = |_| CommandAnswer::Refused(format!("no answer within {} s", wait.as_secs()));
        timeout(wait, answer).await.unwrap_or_else(timed_out)
    })
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

/// The kernel limits seldom change.
const MACHINE_FACTS_INTERVAL: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
/// The most commands to one gateway without an answer; more would only be the same key pressed again.
const PENDING_COMMANDS_MAX: usize = 4;
const NOT_ANSWERED_YET: &str = "the gateway has not answered the last commands yet";
/// Longer than any other command should take, shorter than an operator's patience.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
