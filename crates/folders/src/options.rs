//! What combos offer: files and folders by what they are for.

use comfyd_node::{FileSource, OptionSource};

use crate::{Folders, Kind, extension};

/// Tiny autoencoders that can be chosen without a file of their own in `vae`.
const TINY_AUTOENCODERS: [&str; 2] = ["taesd", "taesdxl"];

impl OptionSource for Folders {
    fn files(&self, source: &FileSource) -> Vec<String> {
        match source {
            FileSource::Models(folder) => self.model_files(folder).unwrap_or_default(),
            FileSource::InputFiles(endings) => {
                let listing = self.listing(self.directory(Kind::Input));
                listing.files.iter().filter(|file| !file.contains('/') && endings.contains(&extension(file))).cloned().collect()
            }
            FileSource::InputFolders => self.listing(self.directory(Kind::Input)).folders.clone(),
            FileSource::Autoencoders => self.autoencoders(),
            FileSource::DiffusersFolders => self.diffusers_folders(),
        }
    }
}

impl Folders {
    /// What can be chosen as an autoencoder: the files of `vae`, the tiny autoencoders of which both halves are in `vae_approx`, and
    /// `pixel_space`, which does nothing.
    fn autoencoders(&self) -> Vec<String> {
        let mut names = self.model_files("vae").unwrap_or_default();
        let halves = self.model_files("vae_approx").unwrap_or_default();
        let has = |half: String| halves.iter().any(|file| file.starts_with(&half));
        let whole = TINY_AUTOENCODERS.iter().filter(|name| has(format!("{name}_encoder.")) && has(format!("{name}_decoder.")));
        names.extend(whole.map(|name| (*name).to_owned()));
        names.push("pixel_space".into());
        names
    }

    /// Folders in the layout of the diffusers library: those in `diffusers` that hold a `model_index.json`, relative.
    fn diffusers_folders(&self) -> Vec<String> {
        let mut names = Vec::new();
        for path in self.model_paths("diffusers").unwrap_or_default() {
            names.extend(self.listing(&path).files.iter().filter_map(|file| file.strip_suffix("/model_index.json")).map(str::to_owned));
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}
