//! Reminds operators of certificates that end soon, 30, 14, 7 days and 1 day before. A certificate that has
//! ended is an alert instead.

use std::collections::{BTreeMap, HashMap};

use super::{CertificateEnd, days_left};

/// How many days before the end reminders are due.
const REMIND_DAYS: [i64; 4] = [1, 7, 14, 30];

/// The last reminder for each certificate. It is kept even when a peer's links are gone.
#[derive(Debug, Default)]
pub struct ExpiryReminders(HashMap<String, i64>);

impl ExpiryReminders {
    /// The lines that are due. Each reminder is given once; a renewed certificate starts again.
    pub fn due(&mut self, ends: &[CertificateEnd]) -> Vec<String> {
        // A peer may show several while its links are being replaced.
        let mut soonest = BTreeMap::new();
        for end in ends {
            soonest
                .entry(&end.what)
                .and_modify(|days: &mut i64| *days = end.days.min(*days))
                .or_insert(end.days);
        }
        let mut lines = Vec::new();
        for (what, days) in soonest {
            let Some(mark) = REMIND_DAYS.into_iter().find(|mark| days <= *mark) else {
                self.0.remove(what);
                continue;
            };
            let last = self.0.get(what).copied();
            if last.is_none_or(|last| mark < last) {
                self.0.insert(what.clone(), mark);
                if days >= 0 {
                    lines.push(format!("{what} {}", days_left(days)));
                }
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expiry_mark_is_reported_once() {
        let mut reminders = ExpiryReminders::default();
        let mut reported_at = Vec::new();
        let end = |what: &str, days| CertificateEnd { what: what.into(), object: what.into(), days };
        for days in (-2..40).rev() {
            // Several times a day.
            for _ in 0..3 {
                let lines = reminders.due(&[end("the link certificate dmz.pem", days), end("other", 300)]);
                reported_at.extend(lines.into_iter().map(|line| (days, line)));
            }
        }
        let line = |text: &str| format!("the link certificate dmz.pem {text}");
        assert_eq!(
            reported_at,
            [
                (30, line("expires in 30 days")),
                (14, line("expires in 14 days")),
                (7, line("expires in 7 days")),
                (1, line("expires in 1 day")),
            ]
        );
    }

    #[test]
    fn only_the_last_passed_mark_is_reported_and_a_renewal_starts_over() {
        let mut reminders = ExpiryReminders::default();
        let end = |days| [CertificateEnd { what: "it".into(), object: "it".into(), days }];
        assert_eq!(reminders.due(&end(5)), ["it expires in 5 days"]);
        assert!(reminders.due(&end(4)).is_empty());
        assert!(reminders.due(&end(397)).is_empty(), "it was renewed");
        assert_eq!(reminders.due(&end(29)), ["it expires in 29 days"]);
        // A peer's links are gone for a moment, and come back; and one of two certificates is new.
        assert!(reminders.due(&[]).is_empty());
        assert!(reminders.due(&end(28)).is_empty(), "it was reported");
        let both = [end(300), end(28)].concat();
        assert!(reminders.due(&both).is_empty() && reminders.due(&both).is_empty());
    }
}
