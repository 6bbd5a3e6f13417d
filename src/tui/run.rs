//! The loop of the screen: waits for a key, a snapshot, an answer or a request from outside; draws.
//!
//! It is generic over the terminal and the input, so that it runs the same way in a test.

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
    doctor::MachineFacts,
    gateway::handle::{Command, CommandAnswer},
    telemetry::{
        history::HistoryRequest,
        snapshot::{GatewayPhase, Snapshot},
    },
    tui::{
        ScreenEnd,
        app::{App, MouseCapture, UpdateResult},
        export_writer::{ExportResult, ExportWriter},
        frame_pacing::FramePacing,
        source::{ScreenSource, SourceEvent},
        style::ScreenStyle,
        terminal, view,
    },
};

/// Which gateway of a fleet was asked, for what, and what it has answered.
type HistoryAnswer = (Option<Arc<str>>, HistoryRequest, CommandAnswer);

/// The screen while it runs.
pub struct ScreenLoop<B: Backend> {
    terminal: Terminal<B>,
    area: Rect,
    app: App,
    source: ScreenSource,
    pacing: FramePacing,
    /// A new size, used at the next frame: dragging a window produces many.
    resized: Option<Size>,
    /// Answers that are still to come, [`PENDING_COMMANDS_MAX`] at most.
    asking: FuturesUnordered<BoxFuture<'static, (Option<Arc<str>>, CommandAnswer)>>,
    /// Histories that the screen itself has requested, one for each gateway.
    histories: FuturesUnordered<BoxFuture<'static, HistoryAnswer>>,
    exports: ExportWriter,
    machine_read_at: Option<Instant>,
    received_at: Instant,
    frames: u64,
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
    /// By one gateway of a fleet, or by the only one.
    Answered(Option<Arc<str>>, CommandAnswer),
    HistoryArrived(Option<Arc<str>>, HistoryRequest, CommandAnswer),
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
            histories: FuturesUnordered::new(),
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
            self.app.take_snapshot(Arc::clone(&snapshot));
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
            Some((of, answer)) = self.asking.next(), if !self.asking.is_empty() => {
                LoopEvent::Answered(of, answer)
            }
            Some((of, requested, answer)) = self.histories.next(), if !self.histories.is_empty() => {
                LoopEvent::HistoryArrived(of, requested, answer)
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
            LoopEvent::Answered(of, answer) => {
                match of {
                    Some(name) => self.app.take_answer_of(name, answer),
                    None => self.app.take_answer(answer),
                }
                self.pacing.note_input();
                self.send_background_command();
            }
            LoopEvent::HistoryArrived(of, requested, answer) => {
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
                self.change(|app| app.take_snapshot(snapshot));
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
                if terminal::take_mouse(mouse == MouseCapture::On).is_err() {
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
        if self.asking.len() >= PENDING_COMMANDS_MAX {
            self.app.take_answer(CommandAnswer::Refused(
                "the gateway has not answered the last commands yet".into(),
            ));
            return;
        }
        self.app.note_sent(&command);
        self.send(command);
    }

    /// The same for gateways of a fleet: what they are sent together counts as one question.
    fn ask_gateways(&mut self, commands: Vec<(Arc<str>, Command)>) {
        if self.asking.len() >= PENDING_COMMANDS_MAX {
            self.app.take_answer(CommandAnswer::Refused(
                "the gateways have not answered the last commands yet".into(),
            ));
            return;
        }
        let names: Vec<_> = commands.iter().map(|(name, _)| Arc::clone(name)).collect();
        commands.iter().for_each(|(_, command)| self.app.note_sent(command));
        if names.len() > 1 {
            self.app.note_asked_together(names.into_iter());
        }
        for (name, command) in commands {
            let answer = self.source.ask_gateway(&name, command);
            self.await_answer(Some(name), answer);
        }
    }

    /// Requests what the screen needs, without a message, and later if too many requests are under way.
    fn send_background_command(&mut self) {
        if self.asking.len() < PENDING_COMMANDS_MAX
            && let Some(command) = self.app.background_command()
        {
            match self.app.profiles_of().cloned() {
                Some(name) => {
                    let answer = self.source.ask_gateway(&name, command);
                    self.await_answer(Some(name), answer);
                }
                None => self.send(command),
            }
        }
    }

    /// Without a message, and not again before all have answered.
    fn ask_for_history_if_due(&mut self) {
        if !self.histories.is_empty() {
            return;
        }
        for (name, requested) in self.app.history_requests() {
            let answer = match &name {
                Some(name) => self.source.ask_gateway(name, Command::History(requested)),
                None => self.source.ask(Command::History(requested)),
            };
            let answer = answered_in_time(name, answer);
            self.histories.push(Box::pin(async move {
                let (of, answer) = answer.await;
                (of, requested, answer)
            }));
        }
    }

    fn send(&mut self, command: Command) {
        let answer = self.source.ask(command);
        self.await_answer(None, answer);
    }

    fn await_answer(&mut self, of: Option<Arc<str>>, answer: BoxFuture<'static, CommandAnswer>) {
        self.asking.push(answered_in_time(of, answer));
    }

    /// Reads a few small kernel files while their contents are shown.
    fn read_machine_if_due(&mut self) {
        let is_due = self.machine_read_at.is_none_or(|at| at.elapsed() >= MACHINE_EVERY);
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

/// An answer with its gateway, or an error if it does not come in time.
fn answered_in_time(
    of: Option<Arc<str>>,
    answer: BoxFuture<'static, CommandAnswer>,
) -> BoxFuture<'static, (Option<Arc<str>>, CommandAnswer)> {
    let answer = timeout(ANSWER_WAIT, answer);
    Box::pin(async move {
        let timed_out = || CommandAnswer::Refused(format!("no answer within {} s", ANSWER_WAIT.as_secs()));
        (of, answer.await.unwrap_or_else(|_| timed_out()))
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
const MACHINE_EVERY: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
/// The most commands without an answer; more would only be the same key pressed again.
const PENDING_COMMANDS_MAX: usize = 4;
/// Longer than any command should take, shorter than an operator's patience.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
