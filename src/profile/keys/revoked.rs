//! Keys of `tls` that say which certificates are revoked, for links and for clients alike; and which key
//! exchanges a link may have.

use super::{
    ProfileKey,
    values::{ChoiceValue, PEM_OR_DER_FILE, SingleText, TextListValue},
};
use crate::profile::{ExpiredListPolicy, KeyExchangePolicy, defaults};

pub(in crate::profile) static REVOKED: ProfileKey<TextListValue> = ProfileKey {
    name: "revoked",
    about: "Lists of revoked certificates (CRLs) of the CAs in `ca`. Read again when they change: within 5 s, connections that use a revoked certificate are cut.",
    example: r#"[pki/crl.pem]"#,
    value: TextListValue { each: PEM_OR_DER_FILE, max: defaults::REVOKED_MAX, single: SingleText::Allowed },
};

pub(in crate::profile) static REVOKED_EXPIRED: ProfileKey<ChoiceValue<ExpiredListPolicy>> = ProfileKey {
    name: "revoked_expired",
    about: "Whether certificates of a CA whose list has expired are taken in new handshakes: `refuse` or `accept`.",
    example: "",
    value: ChoiceValue {
        options: &[("refuse", ExpiredListPolicy::Refuse), ("accept", ExpiredListPolicy::Accept)],
        default: Some("refuse"),
        is_not: "no policy for expired lists",
    },
};

pub(in crate::profile) static POST_QUANTUM: ProfileKey<ChoiceValue<KeyExchangePolicy>> = ProfileKey {
    name: "post_quantum",
    about: "`required` refuses a handshake without a hybrid key exchange, X25519MLKEM768, so that no later quantum computer can read a recording. `preferred` takes others from who does not know it.",
    example: "",
    value: ChoiceValue {
        options: &[
            ("preferred", KeyExchangePolicy::HybridPreferred),
            ("required", KeyExchangePolicy::HybridRequired),
        ],
        default: Some("preferred"),
        is_not: "no policy for key exchanges",
    },
};
