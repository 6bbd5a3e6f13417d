//! Conversations as they should not be: the corpus of `fuzz/`, heard as it is, then changed at
//! random for `PORTCULLIS_FUZZ_SECONDS` (2).

use portcullis::proto::link::{
    decoder::{DecoderNeed, FrameDecoder},
    frame::{DATA_MAX, FrameHeader, FrameKind, HEADER},
    hello, open,
    state::{LinkRole, StateMachine},
};

use crate::{
    changes,
    corpus::{Conversation, conversations},
    count::peak_of,
    driver::drive,
};

#[test]
fn the_corpus_holds_the_conversations_made_here() {
    for conversation in conversations() {
        changes::keep("link", conversation.name, &conversation.input);
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
    changes::endure(&changes::files("fuzz/corpus/link"), changes::seconds(), drive);
}

#[test]
fn a_length_alone_costs_no_memory() {
    let longest =
        [(FrameKind::Hello, hello::BODY_MAX), (FrameKind::Open, open::BODY_MAX), (FrameKind::Data, DATA_MAX)];
    for (kind, length) in longest {
        for given in [0, 1, 100, 1000] {
            let mut machine = StateMachine::new(LinkRole::Opener);
            if kind != FrameKind::Hello {
                machine = StateMachine::new(LinkRole::Server);
                machine.send(FrameKind::Hello).and_then(|()| machine.hear(FrameKind::Hello)).unwrap();
            }
            if kind == FrameKind::Data {
                machine.hear(FrameKind::Open).unwrap();
            }
            let mut decoder = FrameDecoder::default();
            let header = FrameHeader { kind, length }.bytes();
            let given = given.min(length - 1);
            let peak = peak_of(|| {
                decoder.feed(&header, &mut machine).unwrap();
                for _ in 0..given {
                    match decoder.want() {
                        DecoderNeed::Bytes(_) => assert_eq!(decoder.feed(b"x", &mut machine), Ok(None)),
                        DecoderNeed::Data(_) => decoder.note_passed(1),
                    }
                }
            });
            // A vector grows by doubling, and holds the old half while it does.
            assert!(peak <= 3 * given + 64, "{kind}: {peak} bytes for {} that came", HEADER + given);
        }
    }
}
