//! When an answer is on its way: a socket that lets go of what its requests left with it each time all that was written has been handed to
//! the system. It does not know what is left there.

use std::any::Any;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is to be dropped once the answer is on its way. Where requests come without a socket of ours, that is when the handler is done.
#[derive(Clone, Default)]
pub(crate) struct Sent {
    left: Arc<Mutex<Vec<Box<dyn Any + Send>>>>,
    /// Who is at the other end of the connection.
    pub peer: Option<IpAddr>,
}

impl Sent {
    /// Of a connection with this address at its other end.
    pub(crate) fn by(peer: IpAddr) -> Self {
        Self { peer: Some(peer), ..Self::default() }
    }

    /// Keeps something until then. To be called when nothing is awaited any more: the socket may be flushed at every pause.
    pub(crate) fn keep(&self, thing: impl Send + 'static) {
        self.left.lock().push(Box::new(thing));
    }

    fn let_go(&self) {
        let left = std::mem::take(&mut *self.left.lock());
        drop(left);
    }
}

impl<S: Sync> FromRequestParts<S> for Sent {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<ConnectInfo<Self>>().map(|ConnectInfo(sent)| sent.clone()).unwrap_or_default())
    }
}

/// A socket that knows when it is flushed.
pub(crate) struct Watched<S> {
    socket: S,
    sent: Sent,
}

impl<S> Watched<S> {
    pub(crate) fn new(socket: S, peer: IpAddr) -> Self {
        Self { socket, sent: Sent::by(peer) }
    }

    /// What its requests are given.
    pub(crate) fn sent(&self) -> Sent {
        self.sent.clone()
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.sent.let_go();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx));
        self.sent.let_go();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
