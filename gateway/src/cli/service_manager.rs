//! What a service manager such as systemd is told, over the socket that it names in `NOTIFY_SOCKET`:
//! see `sd_notify(3)`. Without one, nothing happens.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// How the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Requests are served.
    Ready,
    /// It is about to end.
    Stopping,
}

impl State {
    const fn message(self) -> &'static [u8] {
        match self {
            Self::Ready => b"READY=1",
            Self::Stopping => b"STOPPING=1",
        }
    }
}

/// Tells the service manager, if there is one.
pub(super) fn tell(state: State) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(name.as_bytes(), state) {
        tracing::warn!(%error, ?state, "the service manager can't be told");
    }
}

/// A name that begins with an @ is not a file's.
fn send(name: &[u8], state: State) -> io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    // Whoever does not read must not hold us up.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.message(), &address).map(drop)
}
