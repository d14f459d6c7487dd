//! `comfyd db check|backup|restore`: looks after the database of the queue and the history.

use std::path::Path;

use comfyd_store_sqlite::{Lock, Report, backup, check, restore};

use crate::assemble::{Failure, print_line};
use crate::config::{Config, DbAction};
use crate::serve::STORE_FILE;

pub(crate) fn act(config: &Config, action: &DbAction) -> Result<(), Failure> {
    let database = config.roots.user.join(STORE_FILE);
    match action {
        DbAction::Check(file) => {
            let path = file.as_deref().unwrap_or(&database);
            let report = check(path)?;
            tell(path, &report)?;
            verdict(path, &report)
        }
        DbAction::Backup { file, force } => {
            let report = backup(&database, file, *force)?;
            tell(file, &report)?;
            verdict(file, &report).map_err(|error| format!("the backup was written, but it is as damaged as the database: {error}").into())
        }
        DbAction::Restore { file, force } => {
            // As the server does: whoever has either of them writes to the database, or is about to.
            let lock = Lock::database(&database)?;
            let _temp = Lock::folder(&config.roots.temp)?;
            let report = check(file)?;
            tell(file, &report)?;
            if !report.structure.is_empty() || !force {
                verdict(file, &report)?;
            }
            match restore(&lock, file)? {
                Some(kept) => print_line(format_args!("restored; the database that was there is '{}'", kept.display())),
                None => print_line("restored; there was no database before"),
            }
        }
    }
}

/// Prints what a check found.
fn tell(path: &Path, report: &Report) -> Result<(), Failure> {
    for problem in report.structure.iter().chain(&report.prompts) {
        print_line(problem)?;
    }
    let Report { queued, ended, set_aside, .. } = report;
    match report.earlier_format {
        Some(format) => print_line(format_args!(
            "'{}' has format {format} of an earlier version: only its structure was checked; the server takes it over",
            path.display()
        )),
        None => print_line(format_args!(
            "'{}': {queued} prompts in the queue, {ended} in the history, {set_aside} damaged ones set aside earlier",
            path.display()
        )),
    }
}

/// Fails if something is damaged.
fn verdict(path: &Path, report: &Report) -> Result<(), Failure> {
    if report.is_whole() {
        return Ok(());
    }
    let advice = if report.structure.is_empty() {
        "single prompts are damaged: the server goes on without them; a backup from before has them (`comfyd db restore FILE`, and \
         --force for a backup in which some are damaged)"
    } else {
        "the file is damaged: restore a backup (`comfyd db restore FILE`), or move it away to start with an empty queue and history"
    };
    Err(format!("'{}': {advice}", path.display()).into())
}
