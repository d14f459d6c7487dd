//! `comfyd nodes [CLASS]`: lists node classes, or tells one; with a ComfyUI, its classes too.

use std::sync::Arc;

use comfyd_memory::Account;
use comfyd_python::Outlet;

use crate::assemble::{self, Failure};
use crate::beside::Around;
use crate::config::Config;
use crate::devices::Device;
use crate::python::Deaf;

pub(crate) fn list(config: &Config, class: Option<&str>) -> Result<(), Failure> {
    let folders = assemble::folders(config)?;
    let account = Account::unbounded();
    let (address, apart) = (format!("127.0.0.1:{}", config.port), Arc::default());
    let around = Around { folders: &folders, account: &account, address: &address, apart: &apart };
    let outlet: Arc<dyn Outlet> = Arc::new(Deaf);
    let beside = Device::first(config, &around, &outlet)?.beside;
    // What is kept of a ComfyUI is enough; one that nothing is known of is started.
    let known = beside.workers().iter().try_for_each(comfyd_python::Worker::known);
    beside.rebuild();
    let catalog = beside.catalog().current();
    beside.shutdown();
    known?;
    let text = match class {
        Some(class) => {
            let entry = catalog.get(class).ok_or_else(|| format!("there is no node class '{class}': run `comfyd nodes` for the list"))?;
            serde_json::to_string_pretty(&entry.schema.object_info(&*folders))?
        }
        None => {
            let mut lines: Vec<String> = catalog.iter().map(|e| format!("{:<32} {}", e.schema.class, e.schema.category)).collect();
            lines.sort_unstable();
            lines.join("\n")
        }
    };
    assemble::print_line(text)
}
