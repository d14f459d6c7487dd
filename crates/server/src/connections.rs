//! The open connections: how many there are, what each is at and since when. Those that take too long are closed, and those that wait for
//! nothing where others need their place. Does not know what is sent on them.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Response, StatusCode};
use futures_util::task::AtomicWaker;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many connections there may be, and how long each may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// Of these, from one address that is not this machine's.
    pub per_address: usize,
    /// TLS handshakes at once.
    pub handshakes: usize,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the first request's head from when the connection stands, and for each later one from its first byte.
    pub head: Duration,
    /// How long a body may keep the server waiting, and for how many bytes a second more.
    pub body: (Duration, u64),
    /// From one request's end to the next one's first byte.
    pub idle: Duration,
    /// For a client to take some of what is sent to it.
    pub taking: Duration,
}

impl Bounds {
    /// The bounds for so many connections: half of them from one address.
    pub fn of(connections: usize) -> Self {
        Self { connections, per_address: connections.div_ceil(2), ..Self::default() }
    }
}

impl Default for Bounds {
    /// 4,096 connections, 256 handshakes; idle connections live as long as in ComfyUI's framework.
    fn default() -> Self {
        Self {
            connections: 4096,
            per_address: 2048,
            handshakes: 256,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(30),
            body: (Duration::from_secs(30), 1024),
            idle: Duration::from_secs(75),
            taking: Duration::from_secs(60),
        }
    }
}

impl Bounds {
    /// How often it is looked what has taken too long.
    fn interval(&self) -> Duration {
        let shortest = [self.handshake, self.head, self.idle, self.taking].into_iter().min().unwrap_or_default();
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Handshake,
    /// It waits for a request's head.
    Waiting,
    /// A request is being answered.
    Answering,
    /// It is a websocket, or whatever else it was turned into.
    Upgraded,
}

/// What is not so.
const NEVER: u64 = u64::MAX;

/// One connection. Times are milliseconds since the server began, as of the last look.
struct Connection {
    id: u64,
    address: IpAddr,
    clock: Arc<AtomicU64>,
    phase: AtomicU8,
    since: AtomicU64,
    /// When the first byte came of what it waits for.
    heard: AtomicU64,
    /// Since when the client takes nothing.
    stuck: AtomicU64,
    over: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Connection {
    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn is_at(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    fn enter(&self, phase: Phase) {
        self.since.store(self.now(), Ordering::Relaxed);
        self.heard.store(NEVER, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn hear(&self) {
        if self.heard.load(Ordering::Relaxed) == NEVER {
            self.heard.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Remembers whether the client took something.
    fn took(&self, something: bool) {
        let stuck = self.stuck.load(Ordering::Relaxed);
        if something && stuck != NEVER {
            self.stuck.store(NEVER, Ordering::Relaxed);
        } else if !something && stuck == NEVER {
            self.stuck.store(self.now(), Ordering::Relaxed);
        }
    }

    fn is_overdue(&self, bounds: &Bounds) -> bool {
        let now = self.now();
        let over = |since: u64, bound: Duration| since != NEVER && u128::from(now.saturating_sub(since)) >= bound.as_millis();
        let (since, heard) = (self.since.load(Ordering::Relaxed), self.heard.load(Ordering::Relaxed));
        over(self.stuck.load(Ordering::Relaxed), bounds.taking)
            || self.is_at(Phase::Handshake) && over(since, bounds.handshake)
            || self.is_at(Phase::Waiting) && (over(heard, bounds.head) || over(since, bounds.idle))
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// An error once the connection is to end.
    fn check(&self) -> io::Result<()> {
        if self.over.load(Ordering::Acquire) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// All of them.
pub(crate) struct Connections {
    bounds: Bounds,
    clock: Arc<AtomicU64>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
    of_address: HashMap<IpAddr, usize>,
}

impl Open {
    /// Takes a connection off the list, and ends it.
    fn remove(&mut self, id: u64) {
        let Some(connection) = self.all.remove(&id) else { return };
        connection.end();
        if let Some(count) = self.of_address.get_mut(&connection.address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&connection.address);
            }
        }
    }

    /// Makes place by closing the connection that waits longest: first one of which nothing was heard.
    fn make_room(&mut self, may_go: impl Fn(&Connection) -> bool) -> bool {
        let waiting = self.all.values().filter(|connection| may_go(connection));
        let longest = waiting.min_by_key(|c| (c.heard.load(Ordering::Relaxed) != NEVER, c.since.load(Ordering::Relaxed), c.id));
        let Some(id) = longest.map(|connection| connection.id) else { return false };
        self.remove(id);
        true
    }
}

impl Connections {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, clock: Arc::default(), open: Mutex::default() }
    }

    /// Takes a connection in, or gives it back where there is no place for it.
    pub(crate) fn admit<S>(self: &Arc<Self>, stream: S, address: IpAddr, handshake: bool) -> Result<Guarded<S>, S> {
        let Bounds { connections, per_address, handshakes, .. } = self.bounds;
        let mut open = self.open.lock();
        let waits = |c: &Connection| c.is_at(Phase::Handshake) || c.is_at(Phase::Waiting);
        let of_address = open.of_address.get(&address).copied().unwrap_or_default();
        if !address.is_loopback() && of_address >= per_address && !open.make_room(|c| c.address == address && waits(c)) {
            return Err(stream);
        }
        if handshake && open.all.values().filter(|c| c.is_at(Phase::Handshake)).count() >= handshakes {
            open.make_room(|c| c.is_at(Phase::Handshake));
        }
        if open.all.len() >= connections && !open.make_room(waits) {
            return Err(stream);
        }
        open.next += 1;
        let now = self.clock.load(Ordering::Relaxed);
        let connection = Arc::new(Connection {
            id: open.next,
            address,
            clock: Arc::clone(&self.clock),
            phase: AtomicU8::new(if handshake { Phase::Handshake } else { Phase::Waiting } as u8),
            since: AtomicU64::new(now),
            heard: AtomicU64::new(if handshake { NEVER } else { now }),
            stuck: AtomicU64::new(NEVER),
            over: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        });
        open.all.insert(connection.id, Arc::clone(&connection));
        *open.of_address.entry(address).or_default() += 1;
        Ok(Guarded { stream, place: Place { connections: Arc::clone(self), connection } })
    }

    /// Ends what takes too long, for ever.
    pub(crate) async fn watch(self: Arc<Self>) {
        let began = Instant::now();
        loop {
            tokio::time::sleep(self.bounds.interval()).await;
            self.clock.store(u64::try_from(began.elapsed().as_millis()).unwrap_or(NEVER - 1), Ordering::Relaxed);
            for connection in self.open.lock().all.values().filter(|connection| connection.is_overdue(&self.bounds)) {
                connection.end();
            }
        }
    }
}

/// A connection's place among the others; it is free again when this is dropped.
struct Place {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.lock().remove(self.connection.id);
    }
}

/// A socket that fails once its connection is to end.
pub(crate) struct Guarded<S> {
    stream: S,
    place: Place,
}

impl<S> Guarded<S> {
    /// What tells of the connection's requests.
    pub(crate) fn requests(&self) -> Requests {
        Requests(Arc::clone(&self.place.connection))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let connection = &self.place.connection;
        if buf.filled().len() > before {
            connection.hear();
        }
        if read.is_pending() {
            connection.reader.register(cx.waker());
            connection.check()?;
        }
        read
    }
}

impl<S> Guarded<S> {
    fn written(&self, cx: &Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let connection = &self.place.connection;
        connection.took(written.is_ready());
        if written.is_pending() {
            connection.writer.register(cx.waker());
            connection.check()?;
        }
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Tells when a connection's requests begin and end.
#[derive(Clone)]
pub(crate) struct Requests(Arc<Connection>);

impl Requests {
    /// The connection stands: from now on a request is waited for.
    pub(crate) fn expected(&self) {
        self.0.enter(Phase::Waiting);
        self.0.hear();
    }

    /// A request has come.
    pub(crate) fn begun(&self) -> Answering {
        self.0.enter(Phase::Answering);
        Answering(Arc::clone(&self.0))
    }
}

/// A request that is being answered, until this is dropped.
pub(crate) struct Answering(Arc<Connection>);

impl Answering {
    /// The answer whose end is the request's.
    pub(crate) fn with(self, response: Response<Body>) -> Response<Answer> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.0.enter(Phase::Upgraded);
        }
        response.map(|body| Answer { body, _answering: self })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if !self.0.is_at(Phase::Upgraded) {
            self.0.enter(Phase::Waiting);
        }
    }
}

/// The body of an answer.
pub(crate) struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
