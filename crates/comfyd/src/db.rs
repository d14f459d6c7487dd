//! `comfyd db check|backup|restore`: looks after the databases of the queue and the history, and of assets.

use std::path::{Path, PathBuf};

use comfyd_assets::upkeep as assets;
use comfyd_store_sqlite::{Error, Lock, Report, backup, check, restore};

use crate::assemble::{Failure, print_line};
use crate::config::{ASSETS_FILE, Config, DbAction};
use crate::serve::STORE_FILE;

pub(crate) fn act(config: &Config, action: &DbAction) -> Result<(), Failure> {
    let database = config.roots.user.join(STORE_FILE);
    let of_assets = config.assets.as_ref().map_or_else(PathBuf::new, |assets| assets.database.clone());
    let named = of_assets != config.roots.user.join(ASSETS_FILE) && config.assets.is_some();
    if named && !of_assets.is_file() && matches!(action, DbAction::Check(None) | DbAction::Backup { .. }) {
        return Err(format!("there is no database of assets at '{}': give --database-url the path of one", of_assets.display()).into());
    }
    match action {
        DbAction::Check(Some(file)) if assets::is_of_assets(file) => check_assets(file),
        DbAction::Check(file) => {
            let path = file.as_deref().unwrap_or(&database);
            let beside = if file.is_some() { assets_of(path) } else { of_assets };
            let report = check(path)?;
            tell(path, &report)?;
            // Both are looked at before either fails.
            let assets = if beside.is_file() { check_assets(&beside) } else { Ok(()) };
            verdict(path, &report)?;
            assets
        }
        DbAction::Backup { file, force } => {
            let beside = assets_of(file);
            clear_way(&beside, *force, &of_assets)?;
            if *force && (file.exists() || beside.exists()) {
                let damaged = !check(&database)?.is_whole() || of_assets.is_file() && !assets::check(&of_assets)?.is_whole();
                if damaged {
                    let kept = format!("'{}' is kept, since something is damaged now (`comfyd db check` tells what)", file.display());
                    return Err(format!("{kept}: name another file for a backup of it as it is").into());
                }
            }
            let report = backup(&database, file, *force)?;
            tell(file, &report)?;
            let known = if of_assets.is_file() { Some(assets::backup(&of_assets, &beside, *force)?) } else { None };
            if let Some(known) = &known {
                tell_assets(&beside, known)?;
            }
            let written = |error| Failure::from(format!("the backup was written, but it is as damaged as the database: {error}"));
            verdict(file, &report).map_err(written)?;
            known.map_or(Ok(()), |known| assets_verdict(&beside, &known)).map_err(written)
        }
        DbAction::Restore { file, force } if assets::is_of_assets(file) => {
            let _temp = Lock::folder(&config.roots.temp)?;
            restore_assets(&of_assets, file, *force)
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
            // That of assets first, since it may still be refused.
            let beside = assets_of(file);
            if beside.is_file() {
                restore_assets(&of_assets, &beside, *force)?;
            }
            tell_restored(restore(&lock, file)?.as_deref())
        }
    }
}

/// Where the backup of assets lies that belongs to one of the queue.
fn assets_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".assets");
    name.into()
}

/// An earlier backup of assets must not be taken for a part of the new one, nor be lost where there is nothing to put in its place.
fn clear_way(beside: &Path, force: bool, of_assets: &Path) -> Result<(), Failure> {
    if !beside.exists() {
        return Ok(());
    }
    if !force {
        return Err(Error::Exists { path: beside.to_owned() }.into());
    }
    if !beside.is_file() || !assets::is_of_assets(beside) {
        return Err(Error::Foreign { path: beside.to_owned() }.into());
    }
    if !of_assets.is_file() {
        let (there, none) = (beside.display(), of_assets.display());
        return Err(format!("'{there}' is a backup of assets, and there are none in '{none}': move it away, or name another file").into());
    }
    Ok(())
}

fn restore_assets(database: &Path, file: &Path, force: bool) -> Result<(), Failure> {
    let lock = Lock::database(database)?;
    let report = assets::check(file)?;
    tell_assets(file, &report)?;
    if !report.structure.is_empty() || !force {
        assets_verdict(file, &report)?;
    }
    tell_restored(assets::restore(&lock, file)?.as_deref())
}

fn check_assets(path: &Path) -> Result<(), Failure> {
    let report = assets::check(path)?;
    tell_assets(path, &report)?;
    assets_verdict(path, &report)
}

fn tell_restored(kept: Option<&Path>) -> Result<(), Failure> {
    match kept {
        Some(kept) => print_line(format_args!("restored; the database that was there is '{}'", kept.display())),
        None => print_line("restored; there was no database before"),
    }
}

/// Prints what a check found.
fn tell(path: &Path, report: &Report) -> Result<(), Failure> {
    for problem in report.structure.iter().chain(&report.prompts) {
        print_line(problem)?;
    }
    let Report { queued, ended, set_aside, .. } = report;
    match report.earlier_format {
        Some(format) => tell_earlier(path, format),
        None => print_line(format_args!(
            "'{}': {queued} prompts in the queue, {ended} in the history, {set_aside} damaged ones set aside earlier",
            path.display()
        )),
    }
}

fn tell_assets(path: &Path, report: &assets::Report) -> Result<(), Failure> {
    for problem in report.structure.iter().chain(&report.rows) {
        print_line(problem)?;
    }
    match report.earlier_format {
        Some(format) => tell_earlier(path, format),
        None => print_line(format_args!("'{}': {} assets, {} contents", path.display(), report.assets, report.contents)),
    }
}

fn tell_earlier(path: &Path, format: usize) -> Result<(), Failure> {
    print_line(format_args!(
        "'{}' has format {format} of an earlier version: only its structure was checked; the server takes it over",
        path.display()
    ))
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

fn assets_verdict(path: &Path, report: &assets::Report) -> Result<(), Failure> {
    if report.is_whole() {
        return Ok(());
    }
    let advice = if report.structure.is_empty() {
        "single assets are damaged: a backup from before has them (`comfyd db restore FILE`, and --force for a backup in which some are \
         damaged)"
    } else {
        "the file is damaged: restore a backup (`comfyd db restore FILE`); otherwise the server sets it aside when it starts, finds the \
         files again, and forgets what users said of them"
    };
    Err(format!("'{}': {advice}", path.display()).into())
}
