//! The format of bodies that later versions may extend: fields of a tag (1), a length (2) and a value.
//!
//! A field with an unknown tag is ignored, so that an older gateway understands a newer one.

use std::str;

use super::{PeerViolation, frame::FrameType};
use crate::profile::ServiceName;

const HEAD_BYTES: usize = 3;

pub fn push_field(body: &mut Vec<u8>, tag: u8, value: &[u8]) {
    // Longer values were limited before; a value cut here is refused by its reader, not misread.
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.push(tag);
    body.extend_from_slice(&(value.len() as u16).to_be_bytes());
    body.extend_from_slice(value);
}

/// The fields of a body, in order.
#[derive(Debug)]
pub struct FieldReader<'a> {
    kind: FrameType,
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub fn new(kind: FrameType, body: &'a [u8]) -> Self {
        Self { kind, rest: body }
    }

    /// The next field: its tag and its value.
    pub fn next_field(&mut self) -> Result<Option<(u8, &'a [u8])>, PeerViolation> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let cut = || PeerViolation::BadBody(self.kind, "it ends within a field");
        let (head, rest) = self.rest.split_at_checked(HEAD_BYTES).ok_or_else(cut)?;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        self.rest = rest;
        Ok(Some((head[0], value)))
    }

    fn bad(&self, what: &'static str) -> PeerViolation {
        PeerViolation::BadBody(self.kind, what)
    }

    pub fn number(&self, value: &[u8]) -> Result<u16, PeerViolation> {
        let bytes = value.try_into().map_err(|_| self.bad("a number that is not two bytes long"))?;
        Ok(u16::from_be_bytes(bytes))
    }

    /// Printable ASCII, at most `most` characters.
    pub fn text(&self, value: &[u8], most: usize) -> Result<String, PeerViolation> {
        let is_text = value.iter().all(|byte| (0x20..0x7F).contains(byte)) && value.len() <= most;
        let text = str::from_utf8(value).ok().filter(|_| is_text);
        text.map(str::to_owned).ok_or(self.bad("a text that is too long, or not printable"))
    }

    pub fn service(&self, value: &[u8]) -> Result<ServiceName, PeerViolation> {
        let name = str::from_utf8(value).ok().and_then(ServiceName::parse);
        name.ok_or(self.bad("a service's name that no profile could hold"))
    }

    /// Stores a value that may appear only once.
    pub fn once<T>(&self, field: &mut Option<T>, value: T) -> Result<(), PeerViolation> {
        match field.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.bad("a field that comes twice")),
        }
    }

    /// A value without which the body is invalid.
    pub fn required<T>(&self, field: Option<T>) -> Result<T, PeerViolation> {
        field.ok_or(self.bad("a field is missing"))
    }
}
