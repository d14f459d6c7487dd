//! Sockets: several addresses, optionally TLS, and a shutdown that lets requests finish.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::sent::{Sent, Watched};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// A client that has not finished its TLS handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// TLS handshakes at once.
const MAX_HANDSHAKES: usize = 256;
/// TLS connections that may wait to be served.
const TLS_WAITING: usize = 256;
/// After this, requests that still run when the server stops are cut off.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Binds all addresses. Port 0 takes a free port.
pub fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<StdListener>> {
    addresses
        .iter()
        .map(|address| bind_one(*address).map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"))))
        .collect()
}

fn bind_one(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and :: can be bound side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves until `stop` becomes true, then lets running requests finish for a few seconds.
pub async fn serve(
    router: Router,
    listeners: Vec<StdListener>,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut servers = JoinSet::new();
    for listener in listeners {
        let (router, mut stopped) = (router.clone(), stop.clone());
        let listener = TcpListener::from_std(listener)?;
        // An error means that the sender is gone: stop then too.
        let signal = async move { drop(stopped.wait_for(|stop| *stop).await) };
        match &tls {
            None => servers.spawn(
                axum::serve(NoDelay(listener), router.into_make_service_with_connect_info::<Sent>())
                    .with_graceful_shutdown(signal)
                    .into_future(),
            ),
            Some(config) => {
                let listener = TlsListener::start(listener, TlsAcceptor::from(Arc::clone(config)))?;
                servers.spawn(
                    axum::serve(listener, router.into_make_service_with_connect_info::<Sent>())
                        .with_graceful_shutdown(signal)
                        .into_future(),
                )
            }
        };
    }
    let mut stopped = stop.clone();
    let drained = async {
        while let Some(result) = servers.join_next().await {
            result.map_err(io::Error::other)??;
        }
        Ok(())
    };
    let cut_off = async {
        drop(stopped.wait_for(|stop| *stop).await);
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! { result = drained => result, () = cut_off => Ok(()) }
}

/// Small websocket messages must not wait for the peer's acknowledgement.
struct NoDelay(TcpListener);

impl NoDelay {
    async fn accept_plain(&mut self) -> (TcpStream, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        // Only a matter of speed.
        drop(stream.set_nodelay(true));
        (stream, address)
    }
}

impl Listener for NoDelay {
    type Io = Watched<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, address) = self.accept_plain().await;
        (Watched::new(stream, address.ip()), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, NoDelay>> for Sent {
    fn connect_info(stream: IncomingStream<'_, NoDelay>) -> Self {
        stream.io().sent()
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Sent {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        stream.io().sent()
    }
}

/// Handshakes run beside each other, so that one slow client holds up nobody. Their number is bounded: where one too many comes, the oldest
/// goes that has said nothing yet, or else the oldest.
struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

/// A connection whose handshake has not ended.
struct Handshake {
    task: AbortHandle,
    /// Whether the client has sent anything.
    spoke: Arc<AtomicBool>,
}

impl TlsListener {
    fn start(listener: TcpListener, acceptor: TlsAcceptor) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (send, ready) = mpsc::channel(TLS_WAITING);
        tokio::spawn(async move {
            let mut listener = NoDelay(listener);
            let (mut tasks, mut handshakes) = (JoinSet::new(), VecDeque::<Handshake>::new());
            loop {
                tokio::select! {
                    // The server has stopped.
                    () = send.closed() => return,
                    Some(_) = tasks.join_next() => handshakes.retain(|handshake| !handshake.task.is_finished()),
                    (stream, peer) = listener.accept_plain() => {
                        if handshakes.len() >= MAX_HANDSHAKES {
                            let silent = handshakes.iter().position(|handshake| !handshake.spoke.load(Ordering::Relaxed));
                            if let Some(dropped) = handshakes.remove(silent.unwrap_or(0)) {
                                dropped.task.abort();
                            }
                        }
                        let (acceptor, send, spoke) = (acceptor.clone(), send.clone(), Arc::new(AtomicBool::new(false)));
                        let heard = Arc::clone(&spoke);
                        let task = tasks.spawn(async move {
                            let handshake = async {
                                let heard_bytes = stream.peek(&mut [0]).await.ok()?;
                                heard.store(heard_bytes > 0, Ordering::Relaxed);
                                acceptor.accept(stream).await.ok()
                            };
                            if let Ok(Some(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                                // An error means that the server has stopped.
                                drop(send.send((stream, peer)).await);
                            }
                        });
                        handshakes.push_back(Handshake { task, spoke });
                    }
                }
            }
        });
        Ok(Self { address, ready })
    }
}

impl Listener for TlsListener {
    type Io = Watched<TlsStream<TcpStream>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.ready.recv().await {
            Some((stream, peer)) => (Watched::new(stream, peer.ip()), peer),
            // The accepting task never ends before this listener does.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
