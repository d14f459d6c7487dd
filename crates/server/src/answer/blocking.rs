//! Work that takes long, or waits for the disk, off the threads that serve requests.

use crate::error::ApiError;

/// Runs `work` on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(ApiError::internal(format!("a worker thread failed: {e}"))),
    }
}
