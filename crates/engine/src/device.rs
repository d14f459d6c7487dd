//! The device that models run on, and its memory. The only file of this crate that names CUDA.

use candle_core::Device;
#[cfg(feature = "cuda")]
use candle_core::{CudaDevice, cuda_backend::cudarc::driver::sys};
use comfyd_memory::machine;

#[cfg(feature = "cuda")]
use crate::ProductPrecision;
use crate::{DeviceChoice, Error, Result};

/// More than any machine has.
const MAX_CARDS: usize = 64;

/// Where models can run: the CPU, and the first NVIDIA card if the build has CUDA, and its libraries and a card are there.
pub fn devices() -> impl Iterator<Item = DeviceChoice> {
    let has_card = libraries_are_there() && cuda(0).is_ok();
    [DeviceChoice::Cpu].into_iter().chain(has_card.then_some(DeviceChoice::Cuda(0)))
}

/// How many NVIDIA cards can be used.
pub fn cards() -> usize {
    if libraries_are_there() { (0..MAX_CARDS).take_while(|card| cuda(*card).is_ok()).count() } else { 0 }
}

/// The device that the options name.
pub(crate) fn open(choice: DeviceChoice) -> Result<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto if libraries_are_there() => Ok(cuda(0).unwrap_or_else(|error| {
            tracing::warn!("models run on the processor: {error}");
            Device::Cpu
        })),
        DeviceChoice::Auto => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) if libraries_are_there() => cuda(index),
        DeviceChoice::Cuda(_) if cfg!(feature = "cuda") => Err(Error::msg(
            "CUDA's libraries (libcuda, libcublas, libcublasLt, libcurand, libnvrtc) were not found: install the driver and the CUDA runtime, put their \
             folders into LD_LIBRARY_PATH, or choose the CPU",
        )),
        DeviceChoice::Cuda(_) => Err(Error::msg("this comfyd was built without CUDA: build it with `--features cuda`, or choose the CPU")),
    }
}

/// A card by its number. Libraries that are loaded at run time and lack a function, as those of an old driver may, make cudarc panic, in
/// the text of an error too.
fn cuda(index: usize) -> Result<Device> {
    // One stream for all threads: each would have one of its own, and nothing would order their work on the same tensors.
    let open = || Device::new_cuda_with_stream(index).map_err(|error| error.to_string());
    let opened = std::panic::catch_unwind(open).unwrap_or_else(|_| Err("its driver is too old for this comfyd".into()));
    opened.inspect(prepare).map_err(|reason| {
        // A backtrace may follow.
        let reason = reason.lines().next().unwrap_or_default();
        Error::msg(format!("the CUDA device {index} cannot be used: {reason}; choose another device or the CPU"))
    })
}

/// Sets a card up for models.
#[cfg(feature = "cuda")]
fn prepare(device: &Device) {
    use sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let Device::Cuda(device) = device else { return };
    // SAFETY: events order the streams of a device, and this one has a single stream.
    unsafe { device.disable_event_tracking() };
    // Products that are left to candle: see `comfyd_models::ops`.
    candle_core::cuda_backend::set_gemm_reduced_precision_f32(ProductPrecision::chosen() != ProductPrecision::F32);
    let Some(pool) = pool(device) else { return };
    let mut threshold = u64::MAX;
    // Memory that is freed is kept for what comes next: the driver would give it back at every wait.
    // SAFETY: the attribute is a number of 64 bits.
    let kept = unsafe { sys::cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut threshold).cast()) };
    if kept != sys::CUresult::CUDA_SUCCESS {
        tracing::debug!("the card gives memory back at every wait: {kept:?}");
    }
}

/// Where the memory of all tensors on a card comes from.
#[cfg(feature = "cuda")]
fn pool(device: &CudaDevice) -> Option<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the device is there, and the pool is its own.
    let found = unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, device.cuda_stream().context().cu_device()) };
    (found == sys::CUresult::CUDA_SUCCESS).then_some(pool)
}

/// Gives a card's memory that nothing uses to other processes.
#[cfg(feature = "cuda")]
pub(crate) fn trim(device: &Device) {
    let Device::Cuda(device) = device else { return };
    let Some(pool) = pool(device) else { return };
    // What was freed is free once the work before it is done. A card that fails says so when it is used next.
    let _ = device.cuda_stream().synchronize();
    // SAFETY: the pool lives as long as the device.
    unsafe { sys::cuMemPoolTrimTo(pool, 0) };
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn trim(_: &Device) {}

#[cfg(not(feature = "cuda"))]
fn prepare(_: &Device) {}

/// Whether a card can be asked for. cudarc panics if it loads its libraries at run time and one is missing.
#[cfg(all(feature = "cuda", feature = "dynamic-loading"))]
fn libraries_are_there() -> bool {
    use candle_core::cuda_backend::cudarc::{cublas, cublaslt, curand, driver, nvrtc};
    // SAFETY: loading them runs their initialisers, which is what using a card does first as well.
    unsafe {
        driver::sys::is_culib_present()
            && cublas::sys::is_culib_present()
            && cublaslt::sys::is_culib_present()
            && curand::sys::is_culib_present()
            && nvrtc::sys::is_culib_present()
    }
}

#[cfg(not(all(feature = "cuda", feature = "dynamic-loading")))]
fn libraries_are_there() -> bool {
    candle_core::utils::cuda_is_available()
}

/// Its name for people.
pub(crate) fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The device's memory in bytes: all, and what is free.
pub(crate) fn memory(device: &Device) -> (u64, u64) {
    cuda_memory(device).unwrap_or_else(|| (machine::total(), machine::free()))
}

#[cfg(feature = "cuda")]
fn cuda_memory(device: &Device) -> Option<(u64, u64)> {
    let Device::Cuda(device) = device else { return None };
    // The driver answers for the context that the calling thread is bound to, and any thread may ask.
    device.cuda_stream().context().bind_to_thread().ok()?;
    let (free, total) = candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()?;
    Some((total as u64, free as u64 + kept_bytes(device)))
}

/// What the pool keeps and nothing uses.
#[cfg(feature = "cuda")]
fn kept_bytes(device: &CudaDevice) -> u64 {
    use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
    let Some(pool) = pool(device) else { return 0 };
    let [reserved, used] = [CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT].map(|attribute| {
        let mut bytes = 0u64;
        // SAFETY: the attribute is a number of 64 bits.
        unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()) };
        bytes
    });
    reserved.saturating_sub(used)
}

#[cfg(not(feature = "cuda"))]
fn cuda_memory(_: &Device) -> Option<(u64, u64)> {
    None
}
