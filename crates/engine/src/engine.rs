//! The engine: one device, the files that were opened, the models that are loaded. What models are made of is not known here.

use std::sync::Arc;

use candle_core::Device;
use comfyd_memory::{Account, Lease, OutOfMemory};
use comfyd_node::Context;

use crate::files::Files;
use crate::residency::{Residency, Short};
use crate::{CpuLevel, EngineOptions, ProductPrecision, Result, device};

/// Memory of the device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What there is.
    pub total: u64,
    /// What is free.
    pub free: u64,
    /// What loaded models take.
    pub held: u64,
}

/// Loads models and runs them. A cheap handle; clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    options: EngineOptions,
    device: Device,
    residency: Arc<Residency>,
    files: Files,
}

/// Of a card's memory, what models may take if the options say nothing.
const DEFAULT_BUDGET: f64 = 0.8;
/// What stays free beside the models on a card, for what they compute.
const RESERVE_BYTES: u64 = 1 << 30;

impl Engine {
    /// An engine; fails if the device that the options name is not there.
    pub fn new(options: EngineOptions) -> Result<Self> {
        if let Some(level) = options.cpu_level {
            level.limit();
        }
        options.precision.choose();
        let device = device::open(options.device)?;
        let level = CpuLevel::best();
        if device.is_cpu() && level.is_close() {
            tracing::info!("products are made of three of bfloat16, close to single precision ({}); `f32` has none of it", level.name());
        } else if device.is_cpu() && options.precision == ProductPrecision::Bf16 {
            if level.rounds() {
                tracing::info!("products are computed with numbers of sixteen bits ({})", level.name());
            } else {
                tracing::warn!(
                    "this processor has no products of sixteen bits, or may not use them: they are computed in single precision"
                );
            }
        }
        let residency = if device.is_cpu() {
            Residency::new(&options.account, Short::Fails)
        } else {
            let (total, _) = device::memory(&device);
            let budget = options.memory_budget_bytes.unwrap_or((total as f64 * DEFAULT_BUDGET) as u64);
            let of = device.clone();
            Residency::new(&Account::of_device(budget, RESERVE_BYTES, move || device::memory(&of).1), Short::Goes)
        };
        Ok(Self { inner: Arc::new(Inner { options, device, residency, files: Files::default() }) })
    }

    /// The options.
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// The memory of this process.
    pub fn account(&self) -> &Account {
        &self.inner.options.account
    }

    /// Room for work on the device that takes so many bytes, for which models that are not in use give way. A card says itself when its memory
    /// has run out.
    pub(crate) fn room(&self, bytes: u64) -> Result<Lease, OutOfMemory> {
        if self.inner.device.is_cpu() {
            return self.account().reserve(bytes);
        }
        self.inner.residency.make_way(bytes);
        Ok(self.account().count(0))
    }

    /// The same, where there is another way if it does not fit: a card is asked as well.
    pub(crate) fn roomy(&self, bytes: u64) -> Result<Lease, OutOfMemory> {
        let room = self.room(bytes)?;
        let Memory { total, free, .. } = self.memory();
        if !self.inner.device.is_cpu() && bytes > free {
            return Err(OutOfMemory { wanted: bytes, free, budget: Some(total) });
        }
        Ok(room)
    }

    /// Whether so many bytes of work fit on the device beside all that is there.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        if self.inner.device.is_cpu() { self.account().has(bytes) } else { bytes < self.memory().free }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.inner.device
    }

    pub(crate) fn residency(&self) -> &Residency {
        &self.inner.residency
    }

    pub(crate) fn files(&self) -> &Files {
        &self.inner.files
    }

    /// The device's name for people and for `system_stats`: `cpu`, `cuda:0`.
    pub fn device_name(&self) -> String {
        device::name(&self.inner.device)
    }

    /// The device's memory.
    pub fn memory(&self) -> Memory {
        let (total, free) = device::memory(&self.inner.device);
        Memory { total, free, held: self.inner.residency.held_bytes() }
    }

    /// `/free`: unloads every model; with `free_memory` forgets opened files as well.
    pub fn free(&self, unload_models: bool, free_memory: bool) {
        if unload_models || free_memory {
            self.inner.residency.clear();
        }
        if free_memory {
            self.inner.files.clear();
        }
        device::trim(&self.inner.device);
    }
}

/// Fails once the prompt was interrupted; for models, between their blocks.
pub(crate) fn cancel_check<'a>(cx: &'a Context<'_>) -> impl Fn() -> comfyd_models::Result<()> + 'a {
    let token = cx.cancel_token();
    move || if token.is_cancelled() { Err(comfyd_models::Error::Interrupted) } else { Ok(()) }
}

/// Reports tiles that are done.
pub(crate) fn tile_progress<'a>(cx: &'a Context<'_>) -> impl FnMut(usize, usize) -> comfyd_models::Result<()> + 'a {
    move |done, all| cx.progress(done as f64, all as f64).map_err(|_| comfyd_models::Error::Interrupted)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.inner.options).finish_non_exhaustive()
    }
}
