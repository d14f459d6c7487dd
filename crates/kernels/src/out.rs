//! Where kernels write: memory that need not be cleared before, since every number of it is written.

use std::mem::MaybeUninit;

use crate::gemm::Shared;
use crate::weight::Result;

/// Memory for a result, whatever it holds.
#[derive(Debug)]
pub struct Out<'a>(&'a mut [MaybeUninit<f32>]);

/// That a kernel has written all of such memory; only kernels make it.
#[derive(Debug)]
pub struct Written(*const MaybeUninit<f32>, usize);

impl<'a> Out<'a> {
    /// Memory that holds numbers.
    pub fn of(numbers: &'a mut [f32]) -> Self {
        // SAFETY: a number is a number that may be none, and nothing that is none is ever written through this.
        Self(unsafe { &mut *(std::ptr::from_mut(numbers) as *mut [MaybeUninit<f32>]) })
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// To write number by number.
    pub(crate) fn numbers(&mut self) -> &mut [MaybeUninit<f32>] {
        self.0
    }

    /// To write from several tasks.
    pub(crate) fn shared(&mut self) -> Shared {
        Shared(self.0.as_mut_ptr().cast())
    }

    /// Zeros, and then numbers.
    pub(crate) fn cleared(&mut self) -> &mut [f32] {
        self.0.fill(MaybeUninit::new(0.0));
        // SAFETY: these were written.
        unsafe { self.known() }
    }

    /// # Safety
    /// All of it has been written.
    pub(crate) unsafe fn known(&mut self) -> &mut [f32] {
        // SAFETY: the caller's.
        unsafe { &mut *(std::ptr::from_mut::<[MaybeUninit<f32>]>(self.0) as *mut [f32]) }
    }

    /// # Safety
    /// All of it has been written.
    pub(crate) unsafe fn written(self) -> Written {
        Written(self.0.as_ptr(), self.0.len())
    }
}

/// A kernel's result of so many numbers.
pub fn result(len: usize, kernel: impl FnOnce(Out<'_>) -> Result<Written>) -> Result<Vec<f32>> {
    let mut numbers = Vec::with_capacity(len);
    let room = &mut numbers.spare_capacity_mut()[..len];
    // What is not written shows.
    if cfg!(debug_assertions) {
        room.fill(MaybeUninit::new(f32::NAN));
    }
    let place = (room.as_ptr(), len);
    let written = kernel(Out(room))?;
    assert_eq!((written.0, written.1), place, "a kernel has written something else");
    // SAFETY: a kernel says that it has written these.
    unsafe { numbers.set_len(len) };
    Ok(numbers)
}
