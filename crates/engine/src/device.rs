//! The device that models run on, and its memory. The only file that names CUDA.

use candle_core::Device;

use crate::{DeviceChoice, Error, Result};

/// The device that the options name.
pub(crate) fn open(choice: DeviceChoice) -> Result<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto if candle_core::utils::cuda_is_available() => Ok(Device::new_cuda(0).unwrap_or_else(|error| {
            tracing::warn!("the graphics card cannot be used, so models run on the processor: {error}");
            Device::Cpu
        })),
        DeviceChoice::Auto => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) => Device::new_cuda(index)
            .map_err(|e| Error::msg(format!("the CUDA device {index} cannot be used: {e}; choose another device or the CPU"))),
    }
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
    cuda_memory(device).unwrap_or_else(system_memory)
}

#[cfg(feature = "cuda")]
fn cuda_memory(device: &Device) -> Option<(u64, u64)> {
    let Device::Cuda(device) = device else { return None };
    // The driver answers for the context that the calling thread is bound to, and any thread may ask.
    device.cuda_stream().context().bind_to_thread().ok()?;
    let (free, total) = candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()?;
    Some((total as u64, free as u64))
}

#[cfg(not(feature = "cuda"))]
fn cuda_memory(_: &Device) -> Option<(u64, u64)> {
    None
}

/// The computer's memory in bytes: all, and what is free, a container's limit included.
fn system_memory() -> (u64, u64) {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 && limits.total_memory < system.total_memory() => {
            (limits.total_memory, limits.free_memory.min(system.available_memory()))
        }
        Some(_) | None => (system.total_memory(), system.available_memory()),
    }
}
