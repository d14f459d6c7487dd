//! What the nodes of sound and film share: work of the crate `media` as part of a call, and files that it writes.

use std::path::Path;

use comfyd_folders::{Kind, SavedFile};
use comfyd_media::{Media, Work};
use comfyd_node::{CancellationToken, Error, FileSource, Inputs, Result};

use crate::class::Call;
use crate::services::State;

/// Endings of sound, as content types have it.
const SOUND: [&str; 33] = [
    ".3g2", ".3gp", ".3gpp", ".3gpp2", ".aac", ".ac3", ".adts", ".aif", ".aifc", ".aiff", ".amr", ".au", ".awb", ".dts", ".dtshd", ".flac",
    ".loas", ".m4a", ".mp1", ".mp2", ".mp3", ".mpega", ".mpga", ".oga", ".ogg", ".opus", ".ra", ".rm", ".snd", ".spx", ".wav", ".wma",
    ".mka",
];

/// Endings of film.
const FILM: [&str; 25] = [
    ".avi", ".dif", ".dv", ".flv", ".m1v", ".m2v", ".m4v", ".mj2", ".mjp2", ".mkv", ".mov", ".movie", ".mp4", ".mpa", ".mpe", ".mpeg",
    ".mpg", ".mpg4", ".mpv", ".ogv", ".qt", ".webm", ".wm", ".wmv", ".wmx",
];

/// Files of the input folder that have sound: films have it, too.
pub(crate) fn sounds() -> FileSource {
    FileSource::InputFiles(SOUND.iter().chain(&FILM).map(|ending| (*ending).to_owned()).collect())
}

/// Films of the input folder.
pub(crate) fn films() -> FileSource {
    FileSource::InputFiles(FILM.iter().map(|ending| (*ending).to_owned()).collect())
}

/// Why another implementation should be taken, where there is one: ComfyUI brings FFmpeg's libraries along.
pub(crate) fn lacks_ffmpeg(state: &State, _: &Inputs) -> Option<Error> {
    state.services.media.check(&CancellationToken::default()).err().map(failed)
}

/// An error of the work as one of the node.
pub(crate) fn failed(error: comfyd_media::Error) -> Error {
    match error {
        comfyd_media::Error::Interrupted => Error::Interrupted,
        comfyd_media::Error::NoRoom(told) => Error::OutOfMemory(told),
        comfyd_media::Error::Io(error) => Error::Io(error),
        error => Error::other(error),
    }
}

impl Call<'_, '_> {
    /// Does work that is part of this call: within its room, ended with its prompt, and told as its progress.
    pub(crate) fn media<T>(&self, job: impl FnOnce(&Media, &mut Work<'_>) -> comfyd_media::Result<T>) -> Result<T> {
        let mut room = |bytes| self.room(bytes).map_err(|refused| refused.to_string());
        // That it was interrupted the work notices itself.
        let mut progress = |done, of| drop(self.cx.progress(done, of));
        let services = &self.state.services;
        let mut work =
            Work { cancel: self.cx.cancel_token(), room: &mut room, progress: &mut progress, most: services.limits.max_tensor_bytes };
        job(&services.media, &mut work).map_err(failed)
    }

    /// Saves a file that the work writes. `batch_index` fills `%batch_num%`, `tail` is what follows the number in its name.
    pub(crate) fn written(
        &self,
        target: &comfyd_folders::SaveTarget,
        batch_index: usize,
        tail: &str,
        write: impl FnOnce(&Media, &Path, &mut Work<'_>) -> comfyd_media::Result<()>,
    ) -> Result<SavedFile> {
        let saving = target.begin().map_err(Error::other)?;
        self.media(|media, work| write(media, saving.path(), work))?;
        saving.finish_as(batch_index, tail).map_err(Error::other)
    }

    /// Where files of this prefix are saved.
    pub(crate) fn target(&self, kind: Kind, prefix: &str, (width, height): (usize, usize)) -> Result<comfyd_folders::SaveTarget> {
        self.state.services.folders.save_target(kind, prefix, width, height).map_err(Error::other)
    }
}
