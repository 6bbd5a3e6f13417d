//! Sessions that another gateway opens on a link of our own. Both directions of dialling end here, so a session does
//! not know who has dialled its link.

use super::{ServeSession, SessionRequest};
use crate::{
    link::server::{LinkLost, ServedLink},
    tasks::Tasks,
};

/// Serves each in a task of its own, until the link has ended and is gone.
pub async fn serve_link(mut link: ServedLink, serve: ServeSession, tasks: Tasks) -> LinkLost {
    loop {
        match link.next_session().await {
            Ok((open, session)) => {
                tasks.spawn("session", serve(SessionRequest::from_open(link.peer(), *open, session)));
            }
            Err(lost) => return lost,
        }
    }
}
