//! Work of libraries that cannot be interrupted: it is done on a thread that is left behind when the prompt is interrupted. Few such threads
//! can be there at a time, and each ends by itself, so the work given to one must be bounded: a picture, not a batch. Those left behind hold
//! up nobody, up to a number.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use comfyd_node::{CancellationToken, Error, Result};
use ndarray::{ArcArray, Array, Axis, RemoveAxis, Slice};
use parking_lot::Mutex;

/// Threads at a time on which somebody waits.
const MAX_THREADS: usize = 4;
/// Threads that may have been left behind; more of them keep their places.
const MAX_LEFT: usize = 12;
/// Values of a picture up to which work on it is over before an interruption is noticed: handing it to a thread would take longer.
const SMALL: usize = 100_000;
/// How long an interruption may go unnoticed.
const POLL: Duration = Duration::from_millis(20);

/// How many threads are waited for, and how many were left behind.
struct Threads {
    waited_for: usize,
    left: usize,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads { waited_for: 0, left: 0 });

/// What becomes of a thread's place; changed while [`THREADS`] is locked, so that the counts hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    WaitedFor,
    Left,
    Over,
}

/// One of the threads' places, until it is over.
struct Place(Arc<Mutex<Stage>>);

impl Place {
    fn take() -> Option<Self> {
        let mut threads = THREADS.lock();
        (threads.waited_for < MAX_THREADS).then(|| {
            threads.waited_for += 1;
            Self(Arc::new(Mutex::new(Stage::WaitedFor)))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut threads = THREADS.lock();
        match std::mem::replace(&mut *self.0.lock(), Stage::Over) {
            Stage::WaitedFor => threads.waited_for -= 1,
            Stage::Left => threads.left -= 1,
            Stage::Over => {}
        }
    }
}

/// Nobody waits for this thread any more: another may have its place.
fn leave(stage: &Mutex<Stage>) {
    let mut threads = THREADS.lock();
    let mut stage = stage.lock();
    if *stage == Stage::WaitedFor && threads.left < MAX_LEFT {
        *stage = Stage::Left;
        threads.waited_for -= 1;
        threads.left += 1;
    }
}

/// What `work` on so many values gives, or an error as soon as the prompt is interrupted. A panic goes on here.
pub(crate) fn apart<T: Send + 'static>(cancel: &CancellationToken, values: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let check = || if cancel.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) };
    if values <= SMALL {
        check()?;
        return Ok(work());
    }
    let place = loop {
        check()?;
        match Place::take() {
            Some(place) => break place,
            None => std::thread::sleep(POLL),
        }
    };
    let stage = Arc::clone(&place.0);
    let check = || check().inspect_err(|_| leave(&stage));
    let (sender, receiver) = sync_channel(1);
    let thread = std::thread::Builder::new().name("node".into()).spawn(move || {
        let _place = place;
        // Nobody takes it when the prompt was interrupted.
        drop(sender.send(work()));
    })?;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(done) => return check().map(|()| done),
            Err(RecvTimeoutError::Timeout) => check()?,
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => return Err(Error::msg("a thread ended without a result; try again")),
            },
        }
    }
}

/// The same for each picture or mask of a batch. The room is held until the work is over, though it was left behind.
pub(crate) fn each<D: RemoveAxis + 'static, K: Send + Sync + 'static>(
    cancel: &CancellationToken,
    room: &Arc<K>,
    batch: &ArcArray<f32, D>,
    work: impl Fn(ArcArray<f32, D>) -> comfyd_imaging::Result<ArcArray<f32, D>> + Send + Sync + 'static,
) -> Result<ArcArray<f32, D>> {
    let work = Arc::new(work);
    let count = batch.len_of(Axis(0));
    let mut out: Option<Array<f32, D>> = None;
    for index in 0..count {
        let mut one = batch.clone();
        one.slice_axis_inplace(Axis(0), Slice::from(index..index + 1));
        let (work, room) = (Arc::clone(&work), Arc::clone(room));
        let done = apart(cancel, one.len(), move || {
            let _room = room;
            work(one)
        });
        let done = done?.map_err(Error::other)?;
        if count == 1 {
            return Ok(done);
        }
        let out = out.get_or_insert_with(|| {
            let mut shape = done.raw_dim();
            shape[0] = count;
            Array::zeros(shape)
        });
        out.slice_axis_mut(Axis(0), Slice::from(index..index + 1)).assign(&done);
    }
    Ok(out.map_or_else(|| batch.clone(), Array::into_shared))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn an_interrupted_prompt_does_not_wait_and_few_threads_stay() {
        let (begun, go_on) = (sync_channel::<()>(MAX_THREADS), sync_channel::<()>(0));
        let go_on_receiver = Arc::new(std::sync::Mutex::new(go_on.1));
        let interrupted = |cancel: &CancellationToken| {
            let (begun, wait) = (begun.0.clone(), Arc::clone(&go_on_receiver));
            apart(cancel, usize::MAX, move || {
                begun.send(()).unwrap();
                let _ = wait.lock().unwrap().recv();
            })
        };
        let cancel = CancellationToken::default();
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..MAX_THREADS + 2).map(|_| scope.spawn(|| interrupted(&cancel))).collect();
            (0..MAX_THREADS).for_each(|_| begun.1.recv().unwrap());
            cancel.cancel();
            assert!(callers.into_iter().all(|caller| matches!(caller.join().unwrap(), Err(Error::Interrupted))));
        });
        assert!(THREADS.lock().left >= MAX_THREADS);
        assert!(begun.1.try_recv().is_err(), "no more threads than are allowed");
        // Those that were left behind hold up nobody.
        assert_eq!(apart(&CancellationToken::default(), usize::MAX, || 7).unwrap(), 7);
        drop(go_on.0);
        let panicked = std::panic::catch_unwind(|| apart(&CancellationToken::default(), usize::MAX, || panic!("as planned")));
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"as planned"));
    }

    #[test]
    fn pictures_of_a_batch_are_worked_on_one_by_one() {
        let batch = Array::from_shape_fn((3, 2, 2), |(b, y, x)| (b * 4 + y * 2 + x) as f32).into_shared();
        let wider = |one: ArcArray<f32, ndarray::Ix3>| {
            assert_eq!(one.dim(), (1, 2, 2));
            Ok(ndarray::concatenate![Axis(2), one, one].into_shared())
        };
        let done = each(&CancellationToken::default(), &Arc::new(()), &batch, wider).unwrap();
        assert_eq!(done, ndarray::concatenate![Axis(2), batch, batch]);
    }
}
