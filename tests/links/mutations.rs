//! Conversations as they should not be: the corpus of `fuzz/`, heard as it is, then changed at
//! random for `PORTCULLIS_FUZZ_SECONDS` (2).

use portcullis::proto::multiplex::{
    decoder::{DecodedPiece, FrameReader},
    frame::{DATA_BYTES_MAX, FrameHead, FrameType, HEADER_BYTES},
    hello, open,
    state::LinkEnd,
};

use crate::{
    changes,
    corpus::{Conversation, conversations, describe},
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
        let describe = describe(&drive(&conversation.input));
        let Conversation { name, comes_to, .. } = conversation;
        assert!(describe.ends_with(comes_to), "{name}: {describe}");
    }
}

#[test]
fn no_change_of_a_conversation_does_harm() {
    changes::endure(&changes::files("fuzz/corpus/link"), changes::seconds(), drive);
}

#[test]
fn a_length_alone_costs_no_memory() {
    let longest = [
        (FrameType::Hello, hello::BODY_BYTES_MAX),
        (FrameType::Services, hello::BODY_BYTES_MAX),
        (FrameType::Open, open::BODY_BYTES_MAX),
        (FrameType::Data, DATA_BYTES_MAX),
    ];
    for (kind, length) in longest {
        for given in [0, 1, 100, 1000] {
            let session = u32::from(kind.is_about_session());
            let header = FrameHead { kind, length, session }.bytes();
            let given = given.min(length - 1);
            let peak = peak_of(|| {
                let mut reader = FrameReader::new(LinkEnd::Server);
                assert_eq!(reader.decode(&mut &header[..]), Ok(None));
                for _ in 0..given {
                    let received = reader.decode(&mut &b"x"[..]);
                    let is_data = matches!(received, Ok(Some(DecodedPiece::Data { bytes: b"x", .. })));
                    assert!(received == Ok(None) || kind == FrameType::Data && is_data, "{received:?}");
                }
                assert_eq!(reader.missing(), length - given);
            });
            // A vector grows by doubling, and holds the old half while it does.
            assert!(peak <= 3 * given + 64, "{kind}: {peak} bytes for {} that came", HEADER_BYTES + given);
        }
    }
}
