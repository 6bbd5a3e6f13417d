//! Conversations as they should not be: the corpus of `fuzz/`, heard as it is, then changed at
//! random for `PORTCULLIS_FUZZ_SECONDS` (2).

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fastrand::Rng;
use portcullis::proto::link::{
    decoder::{Decoder, Want},
    frame::{DATA_MAX, HEADER, Header, Kind},
    hello, open,
    state::{End, Machine},
};

use crate::{
    corpus::{Conversation, conversations},
    count::peak_of,
    driver::drive,
    seed,
};

const SECONDS: u64 = 2;
/// Longer inputs show nothing that a shorter one does not.
const INPUT_MAX: usize = 4096;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/link")
}

fn corpus() -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// `PORTCULLIS_WRITE_CORPUS=1` writes them; what a fuzzer has added is left alone.
#[test]
fn the_corpus_holds_the_conversations_made_here() {
    for conversation in conversations() {
        let file = folder().join(conversation.name);
        if env::var_os("PORTCULLIS_WRITE_CORPUS").is_some() {
            fs::write(&file, &conversation.input).unwrap();
        }
        assert!(fs::read(&file).unwrap() == conversation.input, "{}", file.display());
    }
}

#[test]
fn each_conversation_comes_to_what_it_should() {
    for conversation in conversations() {
        let outcome = drive(&conversation.input);
        let told = match &outcome.violation {
            Some(violation) => violation.to_string(),
            None if outcome.is_within => format!("{}, within a frame", outcome.state),
            None => outcome.state.to_string(),
        };
        let Conversation { name, comes_to, .. } = conversation;
        assert!(told.ends_with(comes_to), "{name}: {told}");
    }
}

#[test]
fn no_change_of_a_conversation_does_harm() {
    let seconds = env::var("PORTCULLIS_FUZZ_SECONDS").ok().map_or(SECONDS, |text| text.parse().unwrap());
    let mut rng = Rng::with_seed(seed());
    let corpus = corpus();
    corpus.iter().for_each(|input| hear(input));
    let ends = Instant::now() + Duration::from_secs(seconds);
    let mut inputs = 0_u64;
    while Instant::now() < ends {
        let mut input = rng.choice(&corpus).unwrap().clone();
        for _ in 0..rng.usize(1..5) {
            change(&mut input, &corpus, &mut rng);
        }
        hear(&input);
        inputs += 1;
    }
    println!("{inputs} inputs");
    assert!(inputs > 0 || seconds == 0);
}

/// Shows the input that fails.
fn hear(input: &[u8]) {
    if std::panic::catch_unwind(|| drive(input)).is_err() {
        panic!("the input {}", input.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.usize(..=input.len());
    let until = at + rng.usize(..=(input.len() - at).min(24));
    match rng.u8(0..6) {
        0 if at < input.len() => input[at] ^= 1 << rng.u8(0..8),
        1 if at < input.len() => input[at] = rng.choice([0, 1, 7, 8, 0x7f, 0x80, 0xff]).unwrap_or_default(),
        2 => input.insert(at, rng.u8(..)),
        3 => drop(input.drain(at..until)),
        4 => {
            let again = input[at..until].to_vec();
            input.splice(at..at, again).for_each(drop);
        }
        _ => {
            let other = rng.choice(corpus).unwrap();
            let from = rng.usize(..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
    input.truncate(INPUT_MAX);
}

#[test]
fn a_length_alone_costs_no_memory() {
    let longest = [(Kind::Hello, hello::BODY_MAX), (Kind::Open, open::BODY_MAX), (Kind::Data, DATA_MAX)];
    for (kind, length) in longest {
        for given in [0, 1, 100, 1000] {
            let mut machine = Machine::new(End::Opener);
            if kind != Kind::Hello {
                machine = Machine::new(End::Server);
                machine.send(Kind::Hello).and_then(|()| machine.hear(Kind::Hello)).unwrap();
            }
            if kind == Kind::Data {
                machine.hear(Kind::Open).unwrap();
            }
            let mut decoder = Decoder::default();
            let header = Header { kind, length }.bytes();
            let given = given.min(length - 1);
            let peak = peak_of(|| {
                decoder.feed(&header, &mut machine).unwrap();
                for _ in 0..given {
                    match decoder.want() {
                        Want::Bytes(_) => assert_eq!(decoder.feed(b"x", &mut machine), Ok(None)),
                        Want::Data(_) => decoder.passed(1),
                    }
                }
            });
            // A vector grows by doubling, and holds the old half while it does.
            assert!(peak <= 3 * given + 64, "{kind}: {peak} bytes for {} that came", HEADER + given);
        }
    }
}
