//! The reply codes of SOCKS5 (RFC 1928, section 6): which one a refusal gets, and what each means on a link.
//! A link that speaks `portcullis/2` carries refusals themselves ([`crate::proto::Refusal`]), and none of these.

use socks5_proto::Reply;

use crate::proto::Refusal;

/// The reply code for a refusal (RFC 1928, section 6). It is the same for unknown services and for those that
/// are not allowed.
pub fn reply_to(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::UnknownService | Refusal::NotAllowed => Reply::ConnectionNotAllowed,
        Refusal::BackendUnreachable | Refusal::ServiceDown => Reply::HostUnreachable,
        Refusal::BackendRefused => Reply::ConnectionRefused,
        Refusal::BackendLate => Reply::TtlExpired,
        Refusal::Full | Refusal::Draining | Refusal::Unavailable | Refusal::OtherLink => {
            Reply::GeneralFailure
        }
    }
}

/// A reply code in words (RFC 1928, section 6).
pub fn describe_reply(reply: Reply) -> &'static str {
    match reply {
        Reply::Succeeded => "0, granted",
        Reply::GeneralFailure => "1, a limit or draining",
        Reply::ConnectionNotAllowed => "2, the service is unknown there or not allowed for this gateway",
        Reply::NetworkUnreachable => "3, network unreachable",
        Reply::HostUnreachable => "4, backend unreachable",
        Reply::ConnectionRefused => "5, backend refused the connection",
        Reply::TtlExpired => "6, backend did not answer in time",
        Reply::CommandNotSupported => "7, it does not serve this command",
        Reply::AddressTypeNotSupported => "8, it does not serve names",
    }
}
