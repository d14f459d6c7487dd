//! Work that takes long, or waits for the disk, off the threads that serve requests.

use axum::http::StatusCode;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::in_background;

/// Work on more bytes than these is done behind everything else.
const MUCH_BYTES: u64 = 1 << 20;

/// Runs `work` on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(ApiError::internal(format!("a worker thread failed: {e}"))),
    }
}

/// The same for work on so many bytes. Where they are many, a thread of its own does it, which lets those go first that answer others. How
/// many there are is bounded by the memory that each takes before.
pub(crate) async fn laborious<T: Send + 'static>(
    bytes: u64,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if bytes <= MUCH_BYTES {
        return blocking(work).await;
    }
    let (done, result) = oneshot::channel();
    let runtime = Handle::current();
    let labour = move || {
        let _inside = runtime.enter();
        in_background::lower_priority(in_background::LABOURING);
        drop(done.send(work()));
    };
    if let Err(error) = std::thread::Builder::new().name("labour".to_owned()).spawn(labour) {
        let sentence = format!("no thread can be started for so large a request ({error}): send it again later");
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", sentence));
    }
    result.await.unwrap_or_else(|_panic| Err(ApiError::internal("a worker thread failed")))
}
