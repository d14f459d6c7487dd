//! Sockets: several addresses, optionally TLS, bounds on what connections take, and a shutdown that lets requests finish.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::Service;

use crate::body::Paced;
pub use crate::connections::Bounds;
use crate::connections::{Connections, Guarded, Requests};
use crate::sent::{Sent, Watched};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// After this, requests that still run when the server stops are cut off.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nothing is accepted after the system refused to, since it has no files left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// When the system asks a client that says nothing whether it is still there, and how often.
const ASK_AFTER: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(20);
/// What is read or written of a connection at once, in bytes; a request's head must fit.
const BUFFER_BYTES: usize = 128 << 10;
/// What who finds no place is told.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 179\r\n\r\n\
    {\"error\": {\"type\": \"too_many_connections\", \"message\": \"too many connections are open: close some, or raise \
    --max-connections\", \"details\": \"\", \"extra_info\": {}}, \"node_errors\": {}}";

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
    bounds: Bounds,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let connections = Arc::new(Connections::new(bounds));
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&connections).watch());
    // Open as long as a connection is.
    let (open, mut none_open) = mpsc::channel(1);
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        let tls = tls.clone().map(TlsAcceptor::from);
        let server = Server { router: router.clone(), tls, bounds, stop: stop.clone(), _open: open.clone() };
        tasks.spawn(accept(listener, Arc::clone(&connections), server));
    }
    drop(open);
    let mut stopped = stop;
    // An error means that the sender is gone: stop then too.
    drop(stopped.wait_for(|stop| *stop).await);
    // When it is over, whoever still runs is cut off; an error says that nobody does.
    drop(tokio::time::timeout(DRAIN_TIMEOUT, none_open.recv()).await);
    Ok(())
}

/// What each connection is served with.
#[derive(Clone)]
struct Server {
    router: Router,
    tls: Option<TlsAcceptor>,
    bounds: Bounds,
    stop: watch::Receiver<bool>,
    _open: mpsc::Sender<Infallible>,
}

/// Accepts connections until the server stops. Each is a task of its own, so that none holds up another.
async fn accept(listener: TcpListener, connections: Arc<Connections>, server: Server) {
    let mut stop = server.stop.clone();
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                prepare(&stream);
                match connections.admit(stream, peer.ip(), server.tls.is_some()) {
                    Ok(stream) => drop(tokio::spawn(server.clone().connection(stream, peer.ip()))),
                    // As much as fits; who speaks TLS would not understand it.
                    Err(stream) if server.tls.is_none() => drop(stream.try_write(NO_PLACE)),
                    Err(_) => {}
                }
            }
            Err(error) if is_of_one(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted: raise the limit on open files (`ulimit -n`)");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Whether an error concerns only the connection that was to be accepted.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Small websocket messages must not wait for the peer's acknowledgement, and a peer that is gone without a word must be noticed.
fn prepare(stream: &TcpStream) {
    // Only a matter of speed.
    drop(stream.set_nodelay(true));
    let asked = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY));
    if let Err(error) = asked {
        tracing::debug!(%error, "the system does not look after connections");
    }
}

impl Server {
    async fn connection(self, stream: Guarded<TcpStream>, peer: IpAddr) {
        let requests = stream.requests();
        match &self.tls {
            None => self.http(stream, peer, requests).await,
            Some(tls) => {
                // Who takes too long is closed with the connection.
                if let Ok(stream) = tls.accept(stream).await {
                    requests.expected();
                    self.http(stream, peer, requests).await;
                }
            }
        }
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, socket: S, peer: IpAddr, requests: Requests) {
        let socket = Watched::new(socket, peer);
        let sent = socket.sent();
        let service = service_fn(move |request: Request<Incoming>| {
            let answering = requests.begun();
            let mut request = request.map(|body| Body::new(Paced::new(body, self.bounds.body)));
            request.extensions_mut().insert(ConnectInfo::<Sent>(sent.clone()));
            let answer = self.router.clone().call(request);
            async move { answer.await.map(|response| answering.with(response)) }
        });
        let connection = http1::Builder::new().max_buf_size(BUFFER_BYTES).serve_connection(TokioIo::new(socket), service).with_upgrades();
        let (mut connection, mut stop) = (pin!(connection), self.stop.clone());
        // The lock in what it gives must not be held while something is awaited.
        let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stopped => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::trace!(%error, "a connection broke");
        }
    }
}

/// Serves one connection, whatever it is over, to its end.
#[cfg(any(test, fuzzing))]
pub(crate) async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(router: Router, stream: S) {
    let (_running, stop) = watch::channel(false);
    let bounds = Bounds::default();
    let server = Server { router, tls: None, bounds, stop, _open: mpsc::channel(1).0 };
    let peer = IpAddr::from([127, 0, 0, 1]);
    if let Ok(stream) = Arc::new(Connections::new(bounds)).admit(stream, peer, false) {
        let requests = stream.requests();
        server.http(stream, peer, requests).await;
    }
}
