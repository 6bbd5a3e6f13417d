//! The answers that `init` needs: from options, from questions in a terminal, or by default. What is written from them
//! is in the files beside this one.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
};

use thiserror::Error;

use super::text;
use crate::{
    cli::{InitHalf, InitOptions},
    output::print_note,
    profile::{self, Half, Mode, Problem, ProfileOverrides},
};

/// The port of the internal gateway in forward mode is the one after that of reverse mode.
const REVERSE_LINK_PORT: u16 = 1443;

#[derive(Debug, Error)]
pub enum InitAnswersError {
    #[error("direct mode has no link and no second half; copy profiles/direct.yaml instead")]
    Direct,
    #[error("{0} is needed: {1}; give it, or run this in a terminal to be asked")]
    Missing(&'static str, &'static str),
    #[error("{}", problems(.0))]
    Bad(Vec<Problem>),
    #[error("the input ended before every question was answered; nothing was written")]
    Stopped,
    #[error("the terminal: {0}; nothing was written")]
    Terminal(#[from] io::Error),
}

fn problems(problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{}: {}; {}", problem.location.key, problem.what, problem.advice);
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// In the order of the questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InitQuestion {
    Service,
    Accept,
    Connect,
    Host,
    LinkPort,
}

const QUESTIONS: [InitQuestion; 5] = [
    InitQuestion::Service,
    InitQuestion::Accept,
    InitQuestion::Connect,
    InitQuestion::Host,
    InitQuestion::LinkPort,
];

/// A complete set of answers; those not given have their default.
#[derive(Debug, Clone)]
pub struct InitAnswers {
    pub mode: Mode,
    pub half: InitHalf,
    /// The host of the gateway that is dialled in the other mode; never asked for.
    pub other_host: Option<String>,
    given: BTreeMap<InitQuestion, String>,
}

impl InitAnswers {
    /// From the options, and from the terminal if there is one.
    pub fn gather(options: &InitOptions, mode: Mode) -> Result<Self, InitAnswersError> {
        if mode == Mode::Direct {
            return Err(InitAnswersError::Direct);
        }
        let (host, other_host) = match mode {
            Mode::Forward => (&options.internal_host, &options.dmz_host),
            Mode::Reverse | Mode::Direct => (&options.dmz_host, &options.internal_host),
        };
        let given = [
            (InitQuestion::Service, options.service.clone()),
            (InitQuestion::Accept, options.accept.clone()),
            (InitQuestion::Connect, options.connect.clone()),
            (InitQuestion::Host, host.clone()),
            (InitQuestion::LinkPort, options.link_port.map(|port| port.to_string())),
        ];
        let given = given.into_iter().filter_map(|(question, answer)| Some((question, answer?)));
        let mut answers = Self {
            mode,
            half: options.half,
            other_host: other_host.as_deref().map(host_name),
            given: BTreeMap::new(),
        };
        given.for_each(|(question, answer)| answers.give(question, &answer));
        answers.check().map_err(InitAnswersError::Bad)?;
        if !options.defaults && io::stdin().is_terminal() && io::stderr().is_terminal() {
            answers.ask()?;
        }
        match answers.default(InitQuestion::Host) {
            None if !answers.given.contains_key(&InitQuestion::Host) => Err(answers.missing_host()),
            _ => Ok(answers),
        }
    }

    /// An answer, or its default.
    pub fn value(&self, question: InitQuestion) -> String {
        let given = self.given.get(&question).cloned();
        // Only until it is asked for.
        given.or_else(|| self.default(question)).unwrap_or_else(|| "host.example.com".into())
    }

    pub fn accept(&self) -> String {
        self.value(InitQuestion::Accept)
    }

    pub fn connect(&self) -> String {
        self.value(InitQuestion::Connect)
    }

    /// The ports of the link in reverse and in forward mode.
    pub fn link_ports(&self) -> (String, String) {
        let port = self.value(InitQuestion::LinkPort);
        let other = port.parse::<u16>().map(|port| port.checked_add(1).unwrap_or(port - 1));
        let other = other.map_or_else(|_| port.clone(), |port| port.to_string());
        match self.mode {
            Mode::Forward => (other, port),
            Mode::Reverse | Mode::Direct => (port, other),
        }
    }

    fn give(&mut self, question: InitQuestion, answer: &str) {
        let answer = answer.trim();
        let completed = match question {
            InitQuestion::Accept => address(answer, self.accept_host()),
            InitQuestion::Connect => address(answer, "127.0.0.1"),
            InitQuestion::Host => host_name(answer),
            InitQuestion::Service | InitQuestion::LinkPort => answer.to_owned(),
        };
        self.given.insert(question, completed);
    }

    fn accept_host(&self) -> &'static str {
        if self.half == InitHalf::Pair { "127.0.0.1" } else { "0.0.0.0" }
    }

    fn default(&self, question: InitQuestion) -> Option<String> {
        Some(match question {
            InitQuestion::Service => "web".into(),
            InitQuestion::Accept => format!("tcp://{}:8000", self.accept_host()),
            // If clients send requests, the backend must answer requests.
            InitQuestion::Connect if self.accept().starts_with("tcp://") => "tcp://127.0.0.1:8080".into(),
            InitQuestion::Connect => "http://127.0.0.1:8080".into(),
            InitQuestion::Host if self.half == InitHalf::Pair => "127.0.0.1".into(),
            InitQuestion::Host => return None,
            InitQuestion::LinkPort => REVERSE_LINK_PORT.to_string(),
        })
    }

    fn missing_host(&self) -> InitAnswersError {
        match self.mode {
            Mode::Forward => {
                InitAnswersError::Missing("--internal-host", "where the DMZ gateway dials the internal one")
            }
            Mode::Reverse | Mode::Direct => {
                InitAnswersError::Missing("--dmz-host", "where the internal gateway dials the DMZ gateway")
            }
        }
    }

    /// Why the profiles that these answers produce are invalid.
    fn check(&self) -> Result<(), Vec<Problem>> {
        if let Some(problem) = self.given.get(&InitQuestion::Host).and_then(|host| more_than_a_host(host)) {
            return Err(vec![problem]);
        }
        let choice = ProfileOverrides { mode: None, half: None };
        let wrong = [Half::Dmz, Half::Internal].into_iter().filter_map(|half| {
            let text = text::profile(half, self);
            profile::parse(&text, Path::new("init.yaml"), &choice).err()
        });
        let mut wrong: Vec<Problem> = wrong.flatten().collect();
        // What crosses the link concerns both halves.
        wrong.extend(self.carries_mismatch());
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn carries_mismatch(&self) -> Option<Problem> {
        let (accept, connect) = (self.accept(), self.connect());
        let is_bytes = |address: &str| {
            address.split("://").next().is_some_and(|it| matches!(it, "tcp" | "tls" | "ssl" | "echo"))
        };
        let (outside, inside) = (is_bytes(&accept), is_bytes(&connect));
        let location =
            profile::ProfileLocation { file: "init.yaml".into(), line: 0, column: 0, key: "connect".into() };
        let what = format!("`{accept}` and `{connect}` do not go together");
        let advice = "take tcp for both, or http for both".to_owned();
        (outside != inside).then_some(Problem { location, what, advice })
    }

    /// Asks each question until its answer is valid; an empty line takes the default.
    fn ask(&mut self) -> Result<(), InitAnswersError> {
        for question in QUESTIONS {
            let is_answered = self.given.contains_key(&question);
            if is_answered || (question == InitQuestion::Host && self.half == InitHalf::Pair) {
                continue;
            }
            // Ends with a valid answer, or with the end of input.
            while let Err(why) = self.ask_once(question)? {
                print_note(format_args!("  {why}"));
            }
        }
        Ok(())
    }

    fn ask_once(&mut self, question: InitQuestion) -> Result<Result<(), String>, InitAnswersError> {
        let default = self.default(question);
        let prompt = match &default {
            Some(default) => format!("{} [{default}]: ", self.text(question)),
            None => format!("{}: ", self.text(question)),
        };
        io::stderr().lock().write_all(prompt.as_bytes())?;
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Err(InitAnswersError::Stopped);
        }
        let answer = match (line.trim(), default) {
            ("", Some(default)) => default,
            ("", None) => return Ok(Err("this one has no default".into())),
            (answer, _) => answer.to_owned(),
        };
        self.give(question, &answer);
        let checked = self.check();
        if checked.is_err() {
            self.given.remove(&question);
        }
        Ok(checked.map_err(|wrong| {
            wrong.first().map_or_else(String::new, |it| format!("{}; {}", it.what, it.advice))
        }))
    }

    fn text(&self, question: InitQuestion) -> &'static str {
        match (question, self.mode) {
            (InitQuestion::Service, _) => "Name of the service",
            (InitQuestion::Accept, _) => "Where clients come in",
            (InitQuestion::Connect, _) => "The backend, as the internal gateway reaches it",
            (InitQuestion::Host, Mode::Forward) => {
                "Host of the internal gateway, as the DMZ gateway reaches it"
            }
            (InitQuestion::Host, _) => "Host of the DMZ gateway, as the internal gateway reaches it",
            (InitQuestion::LinkPort, _) => "Port of the link",
        }
    }
}

/// An IPv6 address is in brackets if a port follows.
fn host_name(answer: &str) -> String {
    let answer = answer.trim();
    let is_address = answer.matches(':').count() > 1 && !answer.contains('/');
    if is_address && !answer.starts_with('[') { format!("[{answer}]") } else { answer.to_owned() }
}

/// A host with a scheme, a port or a path, quoted as it was given.
fn more_than_a_host(host: &str) -> Option<Problem> {
    let has_more = host.contains('/') || !host.starts_with('[') && host.contains(':');
    let key = "the other gateway's host".into();
    let location = profile::ProfileLocation { file: "init.yaml".into(), line: 0, column: 0, key };
    let what = format!("`{host}` is more than a name or an IP address");
    let advice = "give it alone; the link's port is asked next, or given as `--link-port`".to_owned();
    has_more.then_some(Problem { location, what, advice })
}

/// `8000` and `host:8000` are accepted as addresses too.
fn address(answer: &str, host: &str) -> String {
    if answer.contains("://") {
        answer.to_owned()
    } else if !answer.is_empty() && answer.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("tcp://{host}:{answer}")
    } else {
        format!("tcp://{answer}")
    }
}
