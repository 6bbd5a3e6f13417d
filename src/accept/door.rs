//! What stands before the services of a port that is behind proxies, that several share, or that
//! speaks TLS: the name that a client asks for decides which it means.

use std::{net::SocketAddr, sync::Arc};

use rustls::ServerConfig;
use tokio::{net::TcpStream, time::timeout};

use super::web::Came;
use crate::{
    link::GREET,
    net::{
        edges,
        hello::{self, Hello},
        http::request::Asked,
        pinned, proxy,
        stream::Stream,
    },
    profile::{Network, ServiceName, Web},
};

/// Who serves the clients of a port.
#[derive(Debug)]
pub struct Front {
    /// Clients come through proxies in these networks, which say who they are.
    pub proxy: Option<Vec<Network>>,
    pub doors: Doors,
}

#[derive(Debug)]
pub enum Doors {
    /// One service, whatever its clients say.
    One(ServiceName),
    /// What is named in a ClientHello.
    Named(Vec<Door>),
    /// The service that a request means.
    Web(Arc<Vec<WebDoor>>),
}

/// What some names of a port mean.
#[derive(Debug)]
pub struct Door {
    /// The names; none: any that mean no other door.
    pub sni: Vec<String>,
    pub behind: Behind,
}

#[derive(Debug)]
pub enum Behind {
    /// What the client says is passed on as it is.
    Passed(ServiceName),
    /// TLS ends here.
    Tls(ServiceName, Arc<ServerConfig>),
    Web(Arc<Vec<WebDoor>>, Arc<ServerConfig>),
    /// TLS should end here, and can not.
    Down(ServiceName, String),
}

impl Behind {
    /// How TLS ends here for clients of a service; `None` where it does not, or not for that one.
    fn tls_of(&self, wanted: &ServiceName) -> Option<&ServerConfig> {
        match self {
            Self::Passed(_) | Self::Down(..) => None,
            Self::Tls(service, config) => (service == wanted).then_some(config),
            Self::Web(doors, config) => doors.iter().any(|door| door.service == *wanted).then_some(config),
        }
    }
}

/// One service that requests mean.
#[derive(Debug, Clone)]
pub struct WebDoor {
    pub service: ServiceName,
    pub path: String,
    pub web: Web,
    pub speaks: Speaks,
}

/// What its clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// WebSockets, whose frames are taken off here.
    Frames,
    /// WebSockets, passed on as they are.
    Sockets,
    Requests,
}

/// Through which kind of door a client has come.
pub enum Inside {
    Session(Entered),
    Web(Came),
}

/// A client that has come through a door.
pub struct Entered {
    pub client: SocketAddr,
    pub service: ServiceName,
    pub stream: Stream,
    /// What it has said already, for the backend.
    pub said: Vec<u8>,
}

/// Finds out who a client is and which service it means, under a deadline; why it is turned away.
pub async fn enter(stream: TcpStream, from: SocketAddr, front: &Front) -> Result<Inside, String> {
    match timeout(GREET, through(stream, from, front)).await {
        Ok(entered) => entered,
        Err(_) => Err(late()),
    }
}

fn late() -> String {
    format!("its greeting was not complete within {}s", GREET.as_secs())
}

/// Lets a probe of our own through the TLS of its service's door; proxies and requests are none of its.
pub async fn enter_probe(
    mut stream: TcpStream,
    client: SocketAddr,
    service: ServiceName,
    front: &Front,
) -> Result<Entered, String> {
    let shaken = async {
        let Doors::Named(doors) = &front.doors else { return Err("no door of its port speaks TLS".into()) };
        let hello = Hello::read(&mut stream, Vec::new()).await?;
        let Some(config) = meant(doors, hello.name()).and_then(|door| door.behind.tls_of(&service)) else {
            hello::refuse_name(&mut stream).await;
            return Err("the name it asks for means another service".into());
        };
        edges::answer(hello, stream, pinned::answering(config)).await
    };
    let stream = timeout(GREET, shaken).await.unwrap_or_else(|_| Err(late()))?;
    Ok(Entered { client, service, stream, said: Vec::new() })
}

async fn through(mut stream: TcpStream, from: SocketAddr, front: &Front) -> Result<Inside, String> {
    let (client, said) = match &front.proxy {
        None => (from, Vec::new()),
        Some(networks) if networks.iter().any(|network| network.contains(from.ip())) => {
            let (client, said) = proxy::read(&mut stream).await?;
            (client.unwrap_or(from), said)
        }
        Some(_) => return Err("it is none of the accept's proxies".into()),
    };
    let doors = match &front.doors {
        Doors::One(service) => {
            let (service, stream) = (service.clone(), Stream::Tcp(stream));
            return Ok(Inside::Session(Entered { client, service, stream, said }));
        }
        Doors::Web(doors) => {
            let (stream, doors) = (Stream::Tcp(stream), doors.clone());
            return Ok(Inside::Web(Came { client, stream, said, doors, is_tls: false }));
        }
        Doors::Named(doors) => doors,
    };
    let hello = Hello::read(&mut stream, said).await?;
    let name = hello.name();
    let Some(door) = meant(doors, name) else {
        hello::refuse_name(&mut stream).await;
        let name = name.map_or_else(|| "no name".into(), |name| format!("`{name}`"));
        return Err(format!("it asks for {name}, which no service here has"));
    };
    match &door.behind {
        Behind::Passed(service) => {
            let (service, stream) = (service.clone(), Stream::Tcp(stream));
            Ok(Inside::Session(Entered { client, service, stream, said: hello.into_said() }))
        }
        Behind::Down(service, why) => {
            hello::refuse_service(&mut stream).await;
            Err(format!("{service} is down: {why}"))
        }
        Behind::Tls(service, config) => {
            let stream = edges::answer(hello, stream, config.clone()).await;
            let stream = stream.map_err(|error| format!("{service}: {error}"))?;
            Ok(Inside::Session(Entered { client, service: service.clone(), stream, said: Vec::new() }))
        }
        Behind::Web(doors, config) => {
            let stream = edges::answer(hello, stream, config.clone()).await?;
            Ok(Inside::Web(Came { client, stream, said: Vec::new(), doors: doors.clone(), is_tls: true }))
        }
    }
}

/// The very host comes before `*.` and its parent, and these before any; then the longest path. A request without
/// a host can mean a service with `hosts` where there is no other.
pub fn asked_for<'a>(doors: &'a [WebDoor], asked: &Asked<'_>) -> Option<&'a WebDoor> {
    let is_below = |path: &str| {
        let rest = asked.path.strip_prefix(path.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_only = doors.iter().all(|door| door.service == doors[0].service);
    let parent = asked.host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let nearness = |door: &WebDoor| match &door.web.hosts {
        hosts if hosts.iter().any(|host| host == asked.host) => Some(2),
        hosts if parent.as_ref().is_some_and(|parent| hosts.contains(parent)) => Some(1),
        hosts => (hosts.is_empty() || (asked.host.is_empty() && is_only)).then_some(0),
    };
    let meant = doors.iter().filter(|door| is_below(&door.path));
    let near = meant.filter_map(|door| Some((door.path.len(), nearness(door)?, door)));
    near.max_by_key(|(path, near, _)| (*near, *path)).map(|(.., door)| door)
}

/// The very name comes before `*.` and its parent, and these before a door that takes any.
fn meant<'a>(doors: &'a [Door], name: Option<&str>) -> Option<&'a Door> {
    let has = |wanted: &str| doors.iter().find(|door| door.sni.iter().any(|name| name == wanted));
    let named = name.and_then(|name| {
        let parent = || name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        has(name).or_else(|| has(&parent()?))
    });
    named.or_else(|| doors.iter().find(|door| door.sni.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_meant() {
        let door = |service: &str, sni: &[&str]| Door {
            sni: sni.iter().map(|name| (*name).to_owned()).collect(),
            behind: Behind::Passed(ServiceName::parse(service).expect("a name")),
        };
        let named = [door("stars", &["*.example.com"]), door("www", &["www.example.com"])];
        let all = [door("stars", &["*.example.com"]), door("any", &[]), door("www", &["www.example.com"])];
        let table = [
            (Some("www.example.com"), Some("www"), "www"),
            (Some("a.example.com"), Some("stars"), "stars"),
            (Some("a.b.example.com"), None, "any"),
            (Some("example.com"), None, "any"),
            (None, None, "any"),
        ];
        for (name, of_named, of_all) in table {
            let found = |doors| match meant(doors, name).map(|door| &door.behind) {
                Some(Behind::Passed(service)) => Some(service.as_str()),
                Some(other) => panic!("{other:?}"),
                None => None,
            };
            assert_eq!((found(&named), found(&all)), (of_named, Some(of_all)), "{name:?}");
        }
    }
}
