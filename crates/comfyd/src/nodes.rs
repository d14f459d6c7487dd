//! `comfyd nodes [CLASS]`: lists node classes, or tells one.

use comfyd_memory::Account;

use crate::assemble::{self, Failure};
use crate::config::Config;

pub(crate) fn list(config: &Config, class: Option<&str>) -> Result<(), Failure> {
    let folders = assemble::folders(config)?;
    let engine = assemble::engine(config, &folders, &Account::unbounded())?;
    let catalog = assemble::native(config, &folders, &engine);
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
