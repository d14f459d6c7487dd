//! The devices that run prompts, as the server sees them: what each is and what can be asked of it. Does not know how prompts run.

use std::sync::Arc;

use async_trait::async_trait;

/// A handle to one device: to what runs prompts on it and to what it has loaded.
#[async_trait]
pub trait Device: Send + Sync {
    /// What it is and what it holds. May wait for a driver.
    fn state(&self) -> DeviceState;

    /// The same of all that the handle stands for, where these are several.
    fn states(&self) -> Vec<DeviceState> {
        vec![self.state()]
    }

    /// Interrupts the prompt that runs on it, or only that prompt. Whether there was one.
    async fn interrupt(&self, prompt_id: Option<&str>) -> bool;

    /// Frees caches, and models, when the running prompt is done.
    fn free(&self, unload_models: bool, free_memory: bool);
}

/// A device and its memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// `cpu`, or the kind and the number of a card: `cuda:0`.
    pub name: String,
    /// What there is.
    pub memory: u64,
    /// What is free.
    pub free: u64,
    /// What loaded models take.
    pub models: u64,
    /// Threads that were left behind, since their node does not end.
    pub stuck_threads: usize,
}

/// All devices of a server.
pub struct Devices(Vec<Arc<dyn Device>>);

impl Devices {
    /// These devices.
    pub fn new(devices: impl IntoIterator<Item = Arc<dyn Device>>) -> Self {
        Self(devices.into_iter().collect())
    }

    /// What each is and holds.
    pub(crate) fn states(&self) -> impl Iterator<Item = DeviceState> {
        self.0.iter().flat_map(|device| device.states())
    }

    /// Interrupts what runs, or only that prompt, wherever it runs. Whether anything ran.
    pub(crate) async fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        let mut any = false;
        for device in &self.0 {
            any |= device.interrupt(prompt_id).await;
        }
        any
    }

    /// Frees caches, and models, of each when its running prompt is done.
    pub(crate) fn free(&self, unload_models: bool, free_memory: bool) {
        for device in &self.0 {
            device.free(unload_models, free_memory);
        }
    }
}
