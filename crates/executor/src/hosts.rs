//! The processes beside this one in which classes of a prompt run: each is told of the prompt before anything is asked of it, and of the
//! prompt's end.

use std::sync::Arc;

use comfyd_jobs::Job;
use comfyd_node::{CancellationToken, Error, Hidden, Host, HostedPrompt, Reporter, Result};

use crate::guard::guarded;
use crate::watch::Watch;

/// The hosts of one prompt. Dropped, it tells them that the prompt is over.
pub(crate) struct Hosts<'a> {
    job: &'a Job,
    pub hidden: Hidden,
    reporter: Arc<dyn Reporter>,
    pub cancel: &'a CancellationToken,
    pub watch: &'a Watch,
    told: Vec<Told>,
    interrupted: bool,
    unloads: bool,
}

/// A host that was told of the prompt.
struct Told {
    host: Arc<dyn Host>,
    /// Why it cannot run any of it.
    failed: Option<String>,
}

impl<'a> Hosts<'a> {
    pub fn new(job: &'a Job, hidden: Hidden, reporter: Arc<dyn Reporter>, cancel: &'a CancellationToken, watch: &'a Watch) -> Self {
        Self { job, hidden, reporter, cancel, watch, told: Vec::new(), interrupted: false, unloads: false }
    }

    /// Whose prompt it is.
    pub fn owner(&self) -> &str {
        &self.job.owner
    }

    /// A text for the log, without what is secret of the prompt.
    pub fn for_the_log(&self, text: &str) -> String {
        let mut text = text.to_owned();
        self.job.secrets.hide(&mut text);
        text
    }

    /// Tells a host of the prompt, if it was not yet. One that failed once is not asked again: its start may have taken minutes.
    pub fn begin(&mut self, host: &Arc<dyn Host>) -> Result<()> {
        if let Some(told) = self.told.iter().find(|told| same(&told.host, host)) {
            return told.failed.as_ref().map_or(Ok(()), |reason| Err(Error::Failed(reason.clone())));
        }
        let prompt = HostedPrompt {
            hidden: &self.hidden,
            number: self.job.number,
            client_id: self.job.client_id.as_deref(),
            outputs: &self.job.outputs,
        };
        match guarded(|| host.begin(&prompt, self.reporter.clone(), self.cancel)) {
            Ok(()) => {
                self.told.push(Told { host: host.clone(), failed: None });
                Ok(())
            }
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                self.told.push(Told { host: host.clone(), failed: Some(error.to_string()) });
                Err(error)
            }
        }
    }

    /// Has the calls that run now end, once.
    pub fn interrupt(&mut self) {
        if !std::mem::replace(&mut self.interrupted, true) {
            self.each(|host| host.interrupt());
        }
    }

    /// A device's memory ran out: once the prompt is over, every host gives back what it can.
    pub fn unload(&mut self) {
        self.unloads = true;
    }

    fn each(&self, tell: impl Fn(&dyn Host)) {
        for told in self.told.iter().filter(|told| told.failed.is_none()) {
            let told = guarded(|| {
                tell(&*told.host);
                Ok(())
            });
            if let Err(error) = told {
                tracing::error!(%error, "a host could not be told how its prompt goes on");
            }
        }
    }
}

impl Drop for Hosts<'_> {
    fn drop(&mut self) {
        // Another prompt may run there by now; when it began, this one was ended.
        if self.watch.is_left() {
            return;
        }
        self.each(|host| host.end());
        if self.unloads {
            self.each(|host| host.free(true, false));
        }
    }
}

fn same(a: &Arc<dyn Host>, b: &Arc<dyn Host>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}
