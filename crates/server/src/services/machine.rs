//! The machine's figures: memory, how busy the processors are, and the graphics cards where NVIDIA's management library is there.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use parking_lot::Mutex;
use sysinfo::{MemoryRefreshKind, System};

/// How busy the processors are is measured between two readings, this far apart at least.
const CPU_INTERVAL: Duration = Duration::from_millis(250);

/// The machine that the server runs on. Nothing is looked at before the first question.
#[derive(Default)]
pub(crate) struct Machine {
    readings: Mutex<Option<Readings>>,
    nvml: OnceLock<Option<Nvml>>,
}

struct Readings {
    system: System,
    cpu_read: Instant,
}

/// Memory in bytes, and how busy the processors are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub memory: u64,
    pub free: u64,
    /// Percent of all processors.
    pub cpu_percent: f32,
}

/// A graphics card.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    pub name: String,
    /// How busy it is.
    pub percent: Option<u32>,
}

impl Machine {
    /// The figures as they are now; those of the processors at most every [`CPU_INTERVAL`].
    pub(crate) fn figures(&self) -> Figures {
        let mut readings = self.readings.lock();
        let Readings { system, cpu_read } = readings.get_or_insert_with(|| {
            let mut system = System::new();
            // The first reading is the time since the machine's start; the next one is compared with it.
            system.refresh_cpu_usage();
            Readings { system, cpu_read: Instant::now() }
        });
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        if cpu_read.elapsed() >= CPU_INTERVAL {
            system.refresh_cpu_usage();
            *cpu_read = Instant::now();
        }
        Figures { memory: system.total_memory(), free: system.available_memory(), cpu_percent: system.global_cpu_usage() }
    }

    /// A card by its number, where the management library is there and knows it.
    pub(crate) fn card(&self, index: u32) -> Option<Card> {
        let nvml = self.nvml.get_or_init(|| Nvml::init().ok()).as_ref()?;
        let device = nvml.device_by_index(index).ok()?;
        Some(Card { name: device.name().ok()?, percent: device.utilization_rates().ok().map(|rates| rates.gpu) })
    }
}
