//! Which resource of this process or host has run out, judged by the kernel's error. Such an error is never the
//! peer's fault.

use std::io;

use thiserror::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExhaustedResource {
    /// No free local port, or the host has no address of that family.
    #[error("no local port is left for it (net.ipv4.ip_local_port_range)")]
    Ports,
    #[error("this process has no descriptor left; raise its limit (`LimitNOFILE`, `ulimit -n`)")]
    Descriptors,
    #[error("this host has no descriptor left (fs.file-max)")]
    DescriptorsOfHost,
    #[error("the kernel has no memory left for it")]
    Memory,
}

impl ExhaustedResource {
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            libc::EADDRNOTAVAIL => Some(Self::Ports),
            libc::EMFILE => Some(Self::Descriptors),
            libc::ENFILE => Some(Self::DescriptorsOfHost),
            libc::ENOBUFS | libc::ENOMEM => Some(Self::Memory),
            _ => None,
        }
    }

    /// Describes an error and says what to do, if that is known.
    pub fn describe(error: &io::Error) -> String {
        Self::of(error).map_or_else(|| error.to_string(), |exhausted| exhausted.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_is_named_and_nothing_else() {
        let of = |number| ExhaustedResource::of(&io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::EADDRNOTAVAIL), Some(ExhaustedResource::Ports));
        assert_eq!(of(libc::EMFILE), Some(ExhaustedResource::Descriptors));
        assert_eq!(of(libc::ENFILE), Some(ExhaustedResource::DescriptorsOfHost));
        assert_eq!([of(libc::ENOBUFS), of(libc::ENOMEM)], [Some(ExhaustedResource::Memory); 2]);
        for other in [libc::ECONNREFUSED, libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::EPIPE]
        {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(
            ExhaustedResource::of(&io::ErrorKind::AddrNotAvailable.into()),
            None,
            "not of the kernel's"
        );
    }
}
