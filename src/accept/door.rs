//! What stands before the services of a port that is behind proxies, that several share, or that
//! speaks TLS: the name that a client asks for decides which it means.

use std::{net::SocketAddr, sync::Arc};

use rustls::ServerConfig;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    link::GREET,
    net::{
        edges,
        hello::{self, Hello},
        proxy,
        stream::Stream,
    },
    profile::{Network, ServiceName},
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
    /// The service that is named in a ClientHello.
    Named(Vec<Door>),
}

/// One service of a port.
#[derive(Debug)]
pub struct Door {
    pub service: ServiceName,
    /// The names that mean it; none: any that means no other.
    pub sni: Vec<String>,
    /// `None`: what the client says is passed on as it is.
    pub tls: Option<Arc<ServerConfig>>,
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
pub async fn enter(stream: TcpStream, from: SocketAddr, front: &Front) -> Result<Entered, String> {
    match timeout(GREET, through(stream, from, front)).await {
        Ok(entered) => entered,
        Err(_) => Err(format!("its greeting was not complete within {}s", GREET.as_secs())),
    }
}

async fn through(mut stream: TcpStream, from: SocketAddr, front: &Front) -> Result<Entered, String> {
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
            return Ok(Entered { client, service: service.clone(), stream: Stream::Tcp(stream), said });
        }
        Doors::Named(doors) => doors,
    };
    let hello = Hello::read(&mut stream, said).await?;
    let name = hello.name();
    let Some(door) = meant(doors, name.as_deref()) else {
        hello::refuse_name(&mut stream).await;
        let name = name.map_or_else(|| "no name".into(), |name| format!("`{name}`"));
        return Err(format!("it asks for {name}, which no service here has"));
    };
    let service = door.service.clone();
    match &door.tls {
        None => Ok(Entered { client, service, stream: Stream::Tcp(stream), said: hello.into_said() }),
        Some(config) => {
            let stream = edges::answer(hello, stream, config.clone()).await;
            let stream = stream.map_err(|error| format!("{service}: {error}"))?;
            Ok(Entered { client, service, stream, said: Vec::new() })
        }
    }
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
            service: ServiceName::parse(service).expect("a name"),
            sni: sni.iter().map(|name| (*name).to_owned()).collect(),
            tls: None,
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
            let found = |doors| meant(doors, name).map(|door| door.service.as_str());
            assert_eq!((found(&named), found(&all)), (of_named, Some(of_all)), "{name:?}");
        }
    }
}
