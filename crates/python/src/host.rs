//! A worker as the executor and all its classes know it: which process there is, what is known of the installation, which prompt runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use comfyd_node::{CancellationToken, Error as NodeError, Host, HostedPrompt, Reporter, Result as NodeResult, actor};
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde_json::Value as Json;

use crate::error::Error;
use crate::frame::Message;
use crate::link::Failure;
use crate::manifest::Manifest;
use crate::process::Folder;
use crate::remote::Objects;
use crate::settings::{Outlet, Settings};

/// How often a wait looks whether its prompt was interrupted.
const GLANCE: Duration = Duration::from_millis(20);
/// A pause before the next start that is waited for; during a longer one, prompts are told why the last start failed.
const SHORT_PAUSE: Duration = Duration::from_secs(2);
/// How long models may take to be unloaded.
const FREE: Duration = Duration::from_secs(60);

/// Where a worker stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum State {
    /// Not started, or stopped.
    #[default]
    Cold,
    /// Its process boots.
    Starting,
    /// It answers.
    Ready {
        /// Its process.
        pid: u32,
    },
    /// It did not start, or ended by itself: why. It is tried again when it is needed, after a pause that grows.
    Failed(String),
}

/// A prompt that runs.
pub(crate) struct Prompt {
    objects: Arc<Objects>,
    reporter: Arc<dyn Reporter>,
}

/// What changes.
#[derive(Default)]
pub(crate) struct Core {
    /// Where the worker stands.
    pub state: State,
    /// The process's objects, from when it was started until it has ended.
    pub objects: Option<Arc<Objects>>,
    /// It is to be started.
    pub wanted: bool,
    /// It is to be started whenever it ended.
    pub eager: bool,
    /// It is never to be started again.
    pub closing: bool,
    /// It ends because it is to be started anew.
    pub restarting: bool,
    /// How often starting has failed.
    pub attempts: u64,
    /// When it may be started again.
    pub retry_at: Option<Instant>,
    /// What is known of the installation.
    pub manifest: Option<Arc<Manifest>>,
    /// Whether the outlet was told of it.
    pub published: bool,
    /// The installation's key.
    pub key: String,
    /// The prompt that runs.
    pub prompt: Option<Prompt>,
    /// Whether it has done something since it was started.
    pub useful: bool,
}

/// A worker.
pub(crate) struct Shared {
    /// What it is made of.
    pub settings: Settings,
    /// Who hears what it says.
    pub outlet: Arc<dyn Outlet>,
    /// Its interpreter.
    pub python: PathBuf,
    /// Its files.
    pub folder: Folder,
    core: Mutex<Core>,
    bell: Condvar,
}

impl Shared {
    /// A worker that was not started.
    pub fn new(settings: Settings, outlet: Arc<dyn Outlet>, python: PathBuf, folder: Folder, core: Core) -> Arc<Self> {
        Arc::new(Self { settings, outlet, python, folder, core: Mutex::new(core), bell: Condvar::new() })
    }

    /// What changes. Held for moments only.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Changes something, and tells all who wait for a change.
    pub fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let changed = change(&mut self.core.lock());
        self.bell.notify_all();
        changed
    }

    /// Waits for a change, at most until then.
    pub fn wait_for_change(&self, core: &mut MutexGuard<'_, Core>, until: Option<Instant>) {
        match until {
            Some(until) => drop(self.bell.wait_until(core, until)),
            None => self.bell.wait(core),
        }
    }

    /// The process's objects, once it answers; starts it if need be. Blocks until then, or until it failed, or until `cancel` says so.
    pub fn ready(&self, cancel: Option<&CancellationToken>) -> Result<Option<Arc<Objects>>, Error> {
        let mut core = self.core.lock();
        // A start that fails is told to those who waited for it; the end of a process that was there before is none.
        let mut attempt = None;
        loop {
            if core.closing {
                return Err(Error::Ended(format!("the Python worker '{}' was stopped", self.settings.name)));
            }
            match &core.state {
                State::Ready { .. } => {
                    if let Some(objects) = core.objects.clone().filter(|objects| core.published && objects.link.alive()) {
                        return Ok(Some(objects));
                    }
                }
                State::Starting => attempt = attempt.or(Some(core.attempts)),
                State::Failed(why) => {
                    let pause = core.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
                    if attempt.is_some_and(|attempt| core.attempts != attempt) || pause > SHORT_PAUSE {
                        return Err(Error::NotStarted(format!("the Python worker '{}' cannot be had: {why}", self.settings.name)));
                    }
                    attempt = Some(core.attempts);
                    core.wanted = true;
                    self.bell.notify_all();
                }
                State::Cold => {
                    attempt = Some(core.attempts);
                    core.wanted = true;
                    self.bell.notify_all();
                }
            }
            if cancel.is_some_and(CancellationToken::is_cancelled) {
                return Ok(None);
            }
            let until = cancel.map(|_| Instant::now() + GLANCE);
            self.wait_for_change(&mut core, until);
        }
    }

    /// The process in which the prompt that runs has its objects.
    pub fn of_prompt(&self) -> NodeResult<Arc<Objects>> {
        let core = self.core.lock();
        let prompt = core.prompt.as_ref().ok_or_else(|| NodeError::msg("no prompt runs in the Python worker"))?;
        if prompt.objects.link.alive() { Ok(prompt.objects.clone()) } else { Err(NodeError::Failed(prompt.objects.link.gone())) }
    }

    /// Who hears what the nodes of the prompt report.
    pub fn reporter(&self) -> Option<Arc<dyn Reporter>> {
        self.core.lock().prompt.as_ref().map(|prompt| prompt.reporter.clone())
    }

    fn begin_in(&self, objects: &Arc<Objects>, prompt: &HostedPrompt<'_>, cancel: &CancellationToken) -> Result<(), Failure> {
        objects.link.hide(prompt.hidden.secrets.values().filter_map(Json::as_str));
        let mut extra = prompt.hidden.extra_data.as_object().cloned().unwrap_or_default();
        extra.extend(prompt.hidden.secrets.iter().map(|(name, secret)| (name.clone(), secret.clone())));
        if let Some(client) = prompt.client_id {
            extra.insert("client_id".into(), client.into());
        }
        let message = Message::new("begin")
            .field("prompt_id", &*prompt.hidden.prompt_id)
            .field("number", &prompt.number)
            .field("prompt", &*prompt.hidden.prompt)
            .field("extra", &extra)
            .field("outputs", prompt.outputs);
        let owner = actor().owner;
        let message = match self.settings.apart.load(Ordering::Acquire) {
            true => message.field("owner", &*owner),
            false => message,
        };
        objects.link.begin(message, cancel).map(drop)
    }
}

impl Host for Shared {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn version(&self) -> String {
        self.core.lock().key.clone()
    }

    fn begin(&self, prompt: &HostedPrompt<'_>, reporter: Arc<dyn Reporter>, cancel: &CancellationToken) -> NodeResult<()> {
        loop {
            let Some(objects) = self.ready(Some(cancel))? else { return Err(NodeError::Interrupted) };
            // What a prompt before left behind must end first, or the process with it.
            while objects.link.running() > 0 && objects.link.alive() {
                objects.link.interrupt();
                if cancel.is_cancelled() {
                    return Err(NodeError::Interrupted);
                }
                std::thread::sleep(GLANCE);
            }
            if !objects.link.alive() {
                // Until the one who looks after it has noticed.
                std::thread::sleep(GLANCE);
                continue;
            }
            self.change(|core| core.prompt = Some(Prompt { objects: objects.clone(), reporter: reporter.clone() }));
            let begun = self.begin_in(&objects, prompt, cancel);
            self.change(|core| match begun {
                Ok(()) => core.useful = true,
                Err(_) => core.prompt = None,
            });
            if cancel.is_cancelled() {
                self.end();
                return Err(NodeError::Interrupted);
            }
            return begun.map_err(NodeError::from);
        }
    }

    fn end(&self) {
        let Some(prompt) = self.change(|core| core.prompt.take()) else { return };
        prompt.objects.link.tell(Message::new("end"));
        prompt.objects.forget_puts();
        if prompt.objects.link.running() > 0 {
            // What does not heed its end is interrupted, and at last killed.
            prompt.objects.link.interrupt();
        }
    }

    fn interrupt(&self) {
        if let Some(prompt) = &self.core.lock().prompt {
            prompt.objects.link.interrupt();
        }
    }

    fn free(&self, unload_models: bool, free_memory: bool) {
        let Some(objects) = self.core.lock().objects.clone() else { return };
        if !matches!(self.core.lock().state, State::Ready { .. }) {
            return;
        }
        let message = Message::new("free").field("unload", &unload_models).field("cache", &free_memory);
        if let Err(failure) = objects.link.wait(message, FREE) {
            tracing::warn!("the Python worker '{}' has not freed memory: {}", self.settings.name, NodeError::from(failure));
        }
    }
}

/// What a question failed with, for those who do not run a prompt.
pub(crate) fn error(failure: Failure) -> Error {
    match failure {
        Failure::Raised(raised) => Error::Raised(format!("{}: {}", raised.kind, raised.message)),
        Failure::CannotCross(why) => Error::Raised(why),
        Failure::Interrupted => Error::Raised("it was interrupted".into()),
        Failure::Failed(why) => Error::Ended(why),
    }
}

/// What a worker answered, as an object.
pub(crate) fn answer(objects: &Objects, message: Message, patience: Duration) -> Result<Json, Error> {
    objects.link.wait(message, patience).map(|frame| frame.json).map_err(error)
}
