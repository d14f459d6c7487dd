//! What combos offer: files and folders by what they are for.

use std::path::Path;

use comfyd_node::{FileSource, OptionSource};

use crate::listing::Listing;
use crate::own::USERS;
use crate::shared::Moment;
use crate::{Folders, Kind, extension};

/// Tiny autoencoders that can be chosen without a file of their own in `vae`.
const TINY_AUTOENCODERS: [&str; 2] = ["taesd", "taesdxl"];

impl OptionSource for Folders {
    fn files(&self, source: &FileSource) -> Vec<String> {
        match source {
            FileSource::Models(folder) => self.model_files(folder).unwrap_or_default(),
            FileSource::InputFiles(endings) => {
                let shown = |file: &&String| !file.contains('/') && endings.contains(&extension(file));
                self.of_inputs(|listing| listing.files.iter().filter(shown).cloned().collect())
            }
            FileSource::InputFolders => self.of_inputs(|listing| listing.folders.clone()),
            FileSource::Autoencoders => self.autoencoders(),
            FileSource::DiffusersFolders => self.diffusers_folders(),
        }
    }

    fn offers(&self, source: &FileSource, name: &str) -> bool {
        if self.files(source).iter().any(|file| file == name) {
            return true;
        }
        // Another server may have it since a moment ago.
        let FileSource::InputFiles(endings) = source else { return false };
        let may_be = self.is_shared() && !name.contains('/') && endings.contains(&extension(name));
        may_be && self.found(Kind::Input, Path::new(name)).is_ok_and(|path| self.exists(&path))
    }
}

impl Folders {
    /// What is picked from the listings of all folders with inputs that one gets to see.
    fn of_inputs(&self, pick: impl Fn(&Listing) -> Vec<String>) -> Vec<String> {
        let folders = self.seen(Kind::Input);
        let mut names: Vec<String> = match self.shared.get() {
            None => folders.iter().flat_map(|folder| pick(&self.listing(folder))).collect(),
            // Where they cannot be listed there are none to choose from; whoever names one is told why it cannot be had.
            Some(copies) => folders
                .iter()
                .filter_map(|folder| self.shared_list(copies, folder, Moment::Recent).ok())
                .flat_map(|listed| pick(&Listing::of(listed.iter().map(|(name, _)| name.clone()).collect())))
                .collect(),
        };
        if folders.len() > 1 {
            names.retain(|name| name.split('/').next() != Some(USERS));
            names.sort_unstable();
            names.dedup();
        }
        names
    }

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
