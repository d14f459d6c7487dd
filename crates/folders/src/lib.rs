//! Where files live: the input, output, temp and user folders, the model folders with their search paths, and the names under which
//! clients speak of files. This crate does not know what is inside a file, nor HTTP.

mod error;
mod extra;
mod listing;
mod save;
mod version;
pub mod whole;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

pub use crate::error::{Error, Result};
use crate::listing::Listing;
pub use crate::save::{SaveTarget, SavedFile, Saving};
pub use crate::version::FileVersion;

/// File endings of model files, lower case with the dot. Denoisers may be GGUF files too.
pub const MODEL_EXTENSIONS: [&str; 8] = [".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"];

/// Model folders of which the output folder has one too: what the nodes that save models write can be loaded again.
const SAVED_MODELS: [&str; 5] = ["checkpoints", "clip", "vae", "diffusion_models", "loras"];

/// Tiny autoencoders that can be chosen without a file of their own in `vae`.
const TINY_AUTOENCODERS: [&str; 2] = ["taesd", "taesdxl"];

/// The three folders that clients may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Uploads and other inputs.
    Input,
    /// Results to keep.
    Output,
    /// Results that may go when the server stops.
    Temp,
}

impl Kind {
    /// The name on the wire: `input`, `output`, `temp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Temp => "temp",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Input, Self::Output, Self::Temp].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The folders that hold everything else.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Holds `models/` and `custom_nodes/`, and the other roots unless they are set apart.
    pub base: PathBuf,
    /// Uploads and other inputs.
    pub input: PathBuf,
    /// Results.
    pub output: PathBuf,
    /// Previews and other short-lived files.
    pub temp: PathBuf,
    /// Settings, workflows, the job store.
    pub user: PathBuf,
}

impl Roots {
    /// ComfyUI's layout under one folder.
    pub fn under(base: impl Into<PathBuf>) -> Self {
        let base = base.into();
        Self { input: base.join("input"), output: base.join("output"), temp: base.join("temp"), user: base.join("user"), base }
    }
}

/// One group of model files, such as `checkpoints`.
#[derive(Debug, Clone)]
struct ModelFolder {
    name: String,
    paths: Vec<PathBuf>,
    extensions: Extensions,
}

#[derive(Debug, Clone, Copy)]
enum Extensions {
    Models,
    /// Those, and GGUF files, which hold denoisers in few bits.
    Denoisers,
    Only(&'static str),
    Any,
}

impl Extensions {
    fn matches(self, file: &str) -> bool {
        let ending = extension(file);
        match self {
            Self::Models => MODEL_EXTENSIONS.contains(&ending.as_str()),
            Self::Denoisers => ending == ".gguf" || Self::Models.matches(file),
            Self::Only(wanted) => ending == wanted,
            Self::Any => true,
        }
    }
}

/// All folders. Shared behind an [`Arc`]; listings are cached and follow the disk by the folders' modification times.
pub struct Folders {
    roots: Roots,
    models: Vec<ModelFolder>,
    listings: RwLock<std::collections::HashMap<PathBuf, Arc<Listing>>>,
    generation: AtomicU64,
    counters: Arc<Mutex<save::Counters>>,
}

impl Folders {
    /// ComfyUI's folders under these roots. Makes the input, output, temp and user folders if they are missing.
    pub fn new(roots: Roots) -> Result<Self> {
        let roots = Roots {
            base: absolute(&roots.base)?,
            input: absolute(&roots.input)?,
            output: absolute(&roots.output)?,
            temp: absolute(&roots.temp)?,
            user: absolute(&roots.user)?,
        };
        for path in [&roots.input, &roots.output, &roots.temp, &roots.user] {
            std::fs::create_dir_all(path).map_err(|source| Error::Create { path: path.clone(), source })?;
        }
        let models = default_model_folders(&roots.base);
        Ok(Self { roots, models, listings: RwLock::default(), generation: AtomicU64::new(1), counters: Arc::default() })
    }

    /// The roots, as absolute paths.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// One of the folders that clients may name.
    pub fn directory(&self, kind: Kind) -> &Path {
        match kind {
            Kind::Input => &self.roots.input,
            Kind::Output => &self.roots.output,
            Kind::Temp => &self.roots.temp,
        }
    }

    /// Removes the files that ended programs left unfinished in the input, output, temp and user folders.
    pub fn remove_unfinished(&self) {
        for root in [&self.roots.input, &self.roots.output, &self.roots.temp, &self.roots.user] {
            whole::remove_unfinished(root);
        }
    }

    /// Adds a search path to a model folder, making the folder if it is new. `first` puts it before the others.
    pub fn add_model_path(&mut self, folder: &str, path: PathBuf, first: bool) {
        let folder = modern_name(folder);
        let Some(known) = self.models.iter_mut().find(|f| f.name == folder) else {
            self.models.push(ModelFolder { name: folder.into(), paths: vec![path], extensions: Extensions::Any });
            return;
        };
        if known.paths.contains(&path) && !first {
            return;
        }
        known.paths.retain(|p| *p != path);
        let at = if first { 0 } else { known.paths.len() };
        known.paths.insert(at, path);
    }

    /// Adds the folders for models in the output folder. As in ComfyUI they come after all others: call it when the extra paths are read.
    pub fn add_saved_models(&mut self) {
        for folder in SAVED_MODELS {
            self.add_model_path(folder, self.roots.output.join(folder), false);
        }
    }

    /// Reads ComfyUI's `extra_model_paths.yaml`; `env` looks up the variables that paths may hold.
    pub fn load_extra_paths(&mut self, file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<()> {
        for entry in extra::read(file, env)? {
            tracing::info!(folder = entry.folder, path = %entry.path.display(), "extra model path");
            self.add_model_path(&entry.folder, entry.path, entry.first);
        }
        Ok(())
    }

    /// The names of the model folders, in the reference's order.
    pub fn model_folders(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|f| f.name.as_str())
    }

    /// The search paths of a model folder; `None` if there is no such folder. `unet` and `clip` are older names of two folders.
    pub fn model_paths(&self, folder: &str) -> Option<&[PathBuf]> {
        self.find(folder).map(|f| f.paths.as_slice())
    }

    /// The model files of a folder, relative, sorted, without duplicates; `None` if there is no such folder.
    pub fn model_files(&self, folder: &str) -> Option<Vec<String>> {
        let folder = self.find(folder)?;
        let mut names = Vec::new();
        for path in &folder.paths {
            names.extend(self.listing(path).files.iter().filter(|f| folder.extensions.matches(f)).cloned());
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }

    /// Model files together with the search path's index in which each was found, for clients that show where a file lies.
    pub fn model_files_by_path(&self, folder: &str) -> Option<Vec<(usize, String)>> {
        let folder = self.find(folder)?;
        let listed = folder.paths.iter().enumerate();
        let files = listed.flat_map(|(i, path)| {
            let listing = self.listing(path);
            let names: Vec<_> = listing.files.iter().filter(|f| folder.extensions.matches(f)).map(|f| (i, f.clone())).collect();
            names
        });
        Some(files.collect())
    }

    /// The full path of a model file: the first search path that has it. `None` if there is none, or the name leads outside.
    pub fn model_path(&self, folder: &str, name: &str) -> Option<PathBuf> {
        let relative = clean_relative(name)?;
        self.find(folder)?.paths.iter().map(|p| p.join(&relative)).find(|p| p.is_file())
    }

    /// What can be chosen as an autoencoder: the files of `vae`, the tiny autoencoders of which both halves are in `vae_approx`, and
    /// `pixel_space`, which does nothing.
    pub fn autoencoders(&self) -> Vec<String> {
        let mut names = self.model_files("vae").unwrap_or_default();
        let halves = self.model_files("vae_approx").unwrap_or_default();
        let has = |half: String| halves.iter().any(|file| file.starts_with(&half));
        let whole = TINY_AUTOENCODERS.iter().filter(|name| has(format!("{name}_encoder.")) && has(format!("{name}_decoder.")));
        names.extend(whole.map(|name| (*name).to_owned()));
        names.push("pixel_space".into());
        names
    }

    /// The first file in `vae_approx` whose name begins so, such as `taesd_decoder.`.
    pub fn approximate_vae(&self, start: &str) -> Option<PathBuf> {
        let name = self.model_files("vae_approx")?.into_iter().find(|name| name.starts_with(start))?;
        self.model_path("vae_approx", &name)
    }

    /// Folders in the layout of the diffusers library: those in `diffusers` that hold a `model_index.json`, relative.
    pub fn diffusers_folders(&self) -> Vec<String> {
        let mut names = Vec::new();
        for path in self.model_paths("diffusers").unwrap_or_default() {
            names.extend(self.listing(path).files.iter().filter_map(|file| file.strip_suffix("/model_index.json")).map(str::to_owned));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The full path of such a folder. `None` if there is none, or the name leads outside.
    pub fn diffusers_folder(&self, name: &str) -> Option<PathBuf> {
        let relative = clean_relative(name)?;
        self.model_paths("diffusers")?.iter().map(|p| p.join(&relative)).find(|p| p.join("model_index.json").is_file())
    }

    /// The file of a textual-inversion embedding by its name in a prompt, with or without its ending.
    pub fn embedding(&self, name: &str) -> Option<PathBuf> {
        let endings = ["", ".safetensors", ".pt", ".bin"];
        endings.iter().find_map(|ending| self.model_path("embeddings", &format!("{name}{ending}")))
    }

    /// Files directly in a client's folder whose ending is one of `extensions` (lower case with the dot; all when empty), sorted.
    pub fn files_in(&self, kind: Kind, extensions: &[impl AsRef<str>]) -> Vec<String> {
        let listing = self.listing(self.directory(kind));
        let direct = listing.files.iter().filter(|f| !f.contains('/'));
        direct.filter(|f| extensions.is_empty() || extensions.iter().any(|e| e.as_ref() == extension(f))).cloned().collect()
    }

    /// Sub-folders of the input folder, relative with forward slashes, sorted.
    pub fn input_folders(&self) -> Vec<String> {
        self.listing(&self.roots.input).folders.clone()
    }

    /// A number that grows when a folder that was listed has changed: what is derived from listings is then out of date.
    pub fn generation(&self) -> u64 {
        let known: Vec<PathBuf> = self.listings.read().keys().cloned().collect();
        for path in known {
            self.listing(&path);
        }
        self.generation.load(Ordering::Acquire)
    }

    /// The path of a file that a client names: `name`, or `name [input]` / `[output]` / `[temp]`. Fails if it leads outside the folder;
    /// the file need not exist.
    pub fn annotated_path(&self, name: &str, default: Kind) -> Result<PathBuf> {
        let (name, kind) = split_annotation(name);
        self.inside(kind.unwrap_or(default), Path::new(name))
    }

    /// The path `relative` inside a client's folder, `..` resolved by name. Fails if it leads outside.
    pub fn inside(&self, kind: Kind, relative: &Path) -> Result<PathBuf> {
        join_inside(self.directory(kind), relative)
    }

    /// Where a node saves files named by a prefix such as `renders/%width%x%height%`; the pixel sizes fill the variables.
    pub fn save_target(&self, kind: Kind, prefix: &str, width: usize, height: usize) -> Result<SaveTarget> {
        save::target(self.directory(kind), kind, prefix, (width, height), Arc::clone(&self.counters))
    }

    /// A message in which files have the names that clients know, such as `input/x.png` and `models/vae/y.safetensors`, in place of those
    /// that tell where on this machine they are.
    pub fn without_roots(&self, message: &str) -> String {
        let own = [(Kind::Input.as_str(), &self.roots.input), (Kind::Output.as_str(), &self.roots.output)];
        let own = own.into_iter().chain([(Kind::Temp.as_str(), &self.roots.temp), ("user", &self.roots.user)]);
        let mut names: Vec<(String, String)> = own.map(|(name, root)| (root.display().to_string(), name.to_owned())).collect();
        for folder in &self.models {
            names.extend(folder.paths.iter().map(|path| (path.display().to_string(), format!("models/{}", folder.name))));
        }
        names.push((self.roots.base.join("models").display().to_string(), "models".into()));
        // What lies deeper has the better name.
        names.sort_by_key(|(root, _)| std::cmp::Reverse(root.len()));
        names.push((self.roots.base.display().to_string(), ".".into()));
        names.iter().filter(|(root, _)| root.len() > 1).fold(message.to_owned(), |text, (root, name)| replace_root(&text, root, name))
    }

    fn find(&self, folder: &str) -> Option<&ModelFolder> {
        let name = modern_name(folder);
        self.models.iter().find(|f| f.name == name)
    }

    fn listing(&self, path: &Path) -> Arc<Listing> {
        if let Some(known) = self.listings.read().get(path)
            && known.is_current()
        {
            return Arc::clone(known);
        }
        let fresh = Arc::new(Listing::read(path));
        let old = self.listings.write().insert(path.to_owned(), Arc::clone(&fresh));
        if old.is_none_or(|old| !old.same_content(&fresh)) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        fresh
    }
}

/// Splits `name [output]` into the name and the folder; `None` where no folder is named.
pub fn split_annotation(name: &str) -> (&str, Option<Kind>) {
    for kind in [Kind::Output, Kind::Input, Kind::Temp] {
        if let Some(rest) = name.strip_suffix(']').and_then(|n| n.strip_suffix(kind.as_str())).and_then(|n| n.strip_suffix('[')) {
            return (rest.strip_suffix(' ').unwrap_or(rest), Some(kind));
        }
    }
    (name, None)
}

/// Replaces a folder's path where it stands as a whole: not as a part of other names.
fn replace_root(text: &str, root: &str, name: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || "_-".contains(c);
    let goes_on = |after: &str| after.strip_prefix('.').unwrap_or(after).starts_with(is_name);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(root) {
        let (before, after) = (&rest[..at], &rest[at + root.len()..]);
        let whole = !before.ends_with(|c| is_name(c) || c == '.' || c == std::path::MAIN_SEPARATOR) && !goes_on(after);
        out.push_str(before);
        match after.strip_prefix(std::path::MAIN_SEPARATOR) {
            // A name of its own, without the dot of the folder that it is in.
            Some(_) if whole && name == "." => rest = &after[1..],
            _ => {
                out.push_str(if whole { name } else { root });
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Joins by name and fails if the result is not inside `root`, or is a file that is not whole yet. Links on the disk are the owner's
/// choice and are followed.
pub fn join_inside(root: &Path, relative: &Path) -> Result<PathBuf> {
    let outside = || Error::Outside { path: relative.to_owned() };
    if relative.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(outside());
    }
    let mut path = root.to_owned();
    let mut depth = 0usize;
    for component in relative.components() {
        match component {
            Component::Normal(name) => {
                path.push(name);
                depth += 1;
            }
            Component::CurDir => {}
            Component::ParentDir => {
                depth = depth.checked_sub(1).ok_or_else(outside)?;
                path.pop();
            }
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    if depth > 0 && is_unfinished(&path) {
        return Err(Error::Unfinished { path: relative.to_owned() });
    }
    Ok(path)
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| whole::is_unfinished(&name.to_string_lossy()))
}

/// A model file's name with `..` resolved inside its folder, as the reference does: what would leave the folder stays at its top.
fn clean_relative(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    (!path.as_os_str().is_empty() && !is_unfinished(&path)).then_some(path)
}

/// The ending with its dot, in lower case; empty if there is none.
pub fn extension(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    match name.rfind('.') {
        Some(at) if at > 0 => name[at..].to_lowercase(),
        _ => String::new(),
    }
}

fn modern_name(folder: &str) -> &str {
    match folder {
        "unet" => "diffusion_models",
        "clip" => "text_encoders",
        other => other,
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::Create { path: path.to_owned(), source })
}

fn default_model_folders(base: &Path) -> Vec<ModelFolder> {
    let models = base.join("models");
    let group = |name: &str, folders: &[&str], extensions| ModelFolder {
        name: name.into(),
        paths: folders.iter().map(|f| models.join(f)).collect(),
        extensions,
    };
    let plain = |name: &str| group(name, &[name], Extensions::Models);
    vec![
        plain("checkpoints"),
        group("configs", &["configs"], Extensions::Only(".yaml")),
        plain("loras"),
        plain("vae"),
        group("text_encoders", &["text_encoders", "clip"], Extensions::Models),
        group("diffusion_models", &["unet", "diffusion_models"], Extensions::Denoisers),
        plain("clip_vision"),
        plain("style_models"),
        plain("embeddings"),
        group("diffusers", &["diffusers"], Extensions::Only("folder")),
        plain("vae_approx"),
        group("controlnet", &["controlnet", "t2i_adapter"], Extensions::Models),
        plain("gligen"),
        plain("upscale_models"),
        ModelFolder { name: "custom_nodes".into(), paths: vec![base.join("custom_nodes")], extensions: Extensions::Any },
        plain("hypernetworks"),
        plain("photomaker"),
        group("classifiers", &["classifiers"], Extensions::Only("")),
        plain("model_patches"),
        plain("audio_encoders"),
    ]
}

#[cfg(test)]
mod tests;
