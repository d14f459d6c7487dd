//! Where files live: the input, output, temp and user folders, the model folders with their search paths, and the names under which
//! clients speak of files. This crate does not know what is inside a file, nor HTTP.

mod access;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod error;
mod extra;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod listing;
mod names;
mod options;
mod own;
mod roots;
mod save;
pub mod shared;
mod version;
pub mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::names::{clean_relative, replace_root};

pub use crate::error::{Error, Result};
use crate::listing::Listing;
pub use crate::names::{Kind, extension, join_inside, split_annotation};
pub use crate::roots::Roots;
pub use crate::save::{SaveTarget, SavedFile, Saving};
pub use crate::version::FileVersion;

/// File endings of model files, lower case with the dot. Denoisers may be GGUF files too.
pub const MODEL_EXTENSIONS: [&str; 8] = [".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"];

/// Model folders of which the output folder has one too: what the nodes that save models write can be loaded again.
const SAVED_MODELS: [&str; 5] = ["checkpoints", "clip", "vae", "diffusion_models", "loras"];

/// One group of model files, such as `checkpoints`.
#[derive(Debug, Clone, PartialEq)]
struct ModelFolder {
    name: String,
    paths: Vec<PathBuf>,
    extensions: Extensions,
    /// Further ones that custom nodes list.
    more: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Extensions {
    Models,
    /// Those, and GGUF files, which hold denoisers in few bits.
    Denoisers,
    Only(&'static str),
    /// Those that the folder names itself.
    Named,
    Any,
}

impl ModelFolder {
    fn lists(&self, file: &str) -> bool {
        let ending = extension(file);
        let known = match self.extensions {
            Extensions::Models => MODEL_EXTENSIONS.contains(&ending.as_str()),
            Extensions::Denoisers => ending == ".gguf" || MODEL_EXTENSIONS.contains(&ending.as_str()),
            Extensions::Only(wanted) => ending == wanted,
            Extensions::Named => false,
            Extensions::Any => true,
        };
        known || self.more.contains(&ending)
    }
}

/// A model folder as custom nodes register it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedFolder {
    /// Its name.
    pub name: String,
    /// Where its files are, as absolute paths.
    pub paths: Vec<PathBuf>,
    /// The endings of files that are listed, lower case with the dot; none: all files are.
    pub extensions: Vec<String>,
}

/// A model folder that a file lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelHome {
    /// Its name.
    pub folder: String,
    /// Its search path.
    pub base: PathBuf,
    /// Whether it lists files of that ending.
    pub lists: bool,
}

/// Model files by the names of their folders.
pub type Elsewhere = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// All folders. Shared behind an [`Arc`]; listings are cached and follow the disk by the folders' modification times.
pub struct Folders {
    roots: Roots,
    models: Vec<ModelFolder>,
    /// These with what custom nodes add, which is known only once they were loaded.
    listed: RwLock<Arc<Vec<ModelFolder>>>,
    /// Model files that other hosts have, by folder.
    elsewhere: RwLock<Arc<Elsewhere>>,
    listings: RwLock<std::collections::HashMap<PathBuf, Arc<Listing>>>,
    generation: AtomicU64,
    counters: Arc<Mutex<save::Counters>>,
    /// Whether users are kept apart.
    apart: OnceLock<Arc<AtomicBool>>,
    /// The copies of what is shared with other servers.
    shared: OnceLock<Arc<shared::Copies>>,
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
            models: absolute(&roots.models)?,
        };
        for path in [&roots.input, &roots.output, &roots.temp, &roots.user] {
            std::fs::create_dir_all(path).map_err(|source| Error::Create { path: path.clone(), source })?;
        }
        let models = default_model_folders(&roots);
        let listed = RwLock::new(Arc::new(models.clone()));
        Ok(Self {
            roots,
            models,
            listed,
            listings: RwLock::default(),
            elsewhere: RwLock::default(),
            generation: AtomicU64::new(1),
            counters: Arc::default(),
            apart: OnceLock::new(),
            shared: OnceLock::new(),
        })
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
            self.models.push(ModelFolder { name: folder.into(), paths: vec![path], extensions: Extensions::Any, more: Vec::new() });
            return self.set_added(&[]);
        };
        if known.paths.contains(&path) && !first {
            return;
        }
        known.paths.retain(|p| *p != path);
        let at = if first { 0 } else { known.paths.len() };
        known.paths.insert(at, path);
        self.set_added(&[]);
    }

    /// Puts what custom nodes register behind the own folders, in place of what was registered before: their paths behind those of a folder
    /// that is there, and their endings besides its own. A folder that the own ones lack comes at the end.
    pub fn set_added(&self, added: &[AddedFolder]) {
        let mut models = self.models.clone();
        for AddedFolder { name, paths, extensions } in added {
            let name = modern_name(name);
            match models.iter_mut().find(|f| f.name == name) {
                Some(known) => {
                    let new: Vec<PathBuf> = paths.iter().filter(|path| !known.paths.contains(path)).cloned().collect();
                    known.paths.extend(new);
                    known.more.extend(extensions.iter().filter(|_| known.extensions != Extensions::Any).cloned());
                }
                None => {
                    let own = if extensions.is_empty() { Extensions::Any } else { Extensions::Named };
                    models.push(ModelFolder { name: name.into(), paths: paths.clone(), extensions: own, more: extensions.clone() });
                }
            }
        }
        let mut listed = self.listed.write();
        if **listed != models {
            *listed = Arc::new(models);
            drop(listed);
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Lists these model files too, which other hosts have that run prompts.
    pub fn set_elsewhere(&self, models: Elsewhere) {
        let mut elsewhere = self.elsewhere.write();
        if **elsewhere != models {
            *elsewhere = Arc::new(models);
            drop(elsewhere);
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The model files that are here, as [`Folders::model_files`] lists them.
    pub fn own_model_files(&self, folder: &str) -> Option<Vec<String>> {
        let models = self.listed();
        let folder = find(&models, folder)?;
        let mut names = Vec::new();
        for path in &folder.paths {
            names.extend(self.listing(path).files.iter().filter(|f| folder.lists(f)).cloned());
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
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
    pub fn model_folders(&self) -> Vec<String> {
        self.listed().iter().map(|f| f.name.clone()).collect()
    }

    /// The search paths of a model folder; `None` if there is no such folder. `unet` and `clip` are older names of two folders.
    pub fn model_paths(&self, folder: &str) -> Option<Vec<PathBuf>> {
        Some(find(&self.listed(), folder)?.paths.clone())
    }

    /// The endings of files that a model folder lists, sorted, lower case with the dot; none where it lists all. `None` if there is no such
    /// folder.
    pub fn model_extensions(&self, folder: &str) -> Option<Vec<String>> {
        let models = self.listed();
        let folder = find(&models, folder)?;
        let mut endings: Vec<String> = match folder.extensions {
            Extensions::Models => MODEL_EXTENSIONS.map(str::to_owned).into(),
            Extensions::Denoisers => MODEL_EXTENSIONS.iter().chain([&".gguf"]).map(|ending| (*ending).to_owned()).collect(),
            Extensions::Only(ending) => vec![ending.to_owned()],
            Extensions::Named | Extensions::Any => Vec::new(),
        };
        endings.extend(folder.more.iter().cloned());
        endings.sort_unstable();
        endings.dedup();
        Some(endings)
    }

    /// The model files of a folder, relative, sorted, without duplicates; `None` if there is no such folder, here or on another host.
    pub fn model_files(&self, folder: &str) -> Option<Vec<String>> {
        let own = self.own_model_files(folder);
        let elsewhere = Arc::clone(&self.elsewhere.read());
        let Some(more) = elsewhere.get(modern_name(folder)) else { return own };
        let mut names = own.unwrap_or_default();
        names.extend(more.iter().map(|name| name.to_string()));
        names.sort_unstable();
        names.dedup();
        Some(names)
    }

    /// Model files together with the search path's index in which each was found, for clients that show where a file lies.
    pub fn model_files_by_path(&self, folder: &str) -> Option<Vec<(usize, String)>> {
        let models = self.listed();
        let folder = find(&models, folder)?;
        let listed = folder.paths.iter().enumerate();
        let files = listed.flat_map(|(i, path)| {
            let listing = self.listing(path);
            let names: Vec<_> = listing.files.iter().filter(|f| folder.lists(f)).map(|f| (i, f.clone())).collect();
            names
        });
        Some(files.collect())
    }

    /// The model folders in one of whose search paths a file lies, and whether each lists it.
    pub fn model_homes(&self, file: &Path) -> Vec<ModelHome> {
        let listed = self.listed();
        let homes = listed.iter().filter_map(|folder| {
            let base = folder.paths.iter().filter(|path| file.starts_with(path)).max_by_key(|path| path.as_os_str().len())?;
            let lists = folder.lists(&file.file_name()?.to_string_lossy());
            Some(ModelHome { folder: folder.name.clone(), base: base.clone(), lists })
        });
        homes.collect()
    }

    /// The full path of a model file: the first search path that has it. `None` if there is none, or the name leads outside.
    pub fn model_path(&self, folder: &str, name: &str) -> Option<PathBuf> {
        let relative = clean_relative(name)?;
        self.model_paths(folder)?.iter().map(|p| p.join(&relative)).find(|p| p.is_file())
    }

    /// The first file in `vae_approx` whose name begins so, such as `taesd_decoder.`.
    pub fn approximate_vae(&self, start: &str) -> Option<PathBuf> {
        let name = self.model_files("vae_approx")?.into_iter().find(|name| name.starts_with(start))?;
        self.model_path("vae_approx", &name)
    }

    /// The full path of a folder in the layout of the diffusers library. `None` if there is none, or the name leads outside.
    pub fn diffusers_folder(&self, name: &str) -> Option<PathBuf> {
        let relative = clean_relative(name)?;
        self.model_paths("diffusers")?.iter().map(|p| p.join(&relative)).find(|p| p.join("model_index.json").is_file())
    }

    /// The file of a textual-inversion embedding by its name in a prompt, with or without its ending.
    pub fn embedding(&self, name: &str) -> Option<PathBuf> {
        let endings = ["", ".safetensors", ".pt", ".bin"];
        endings.iter().find_map(|ending| self.model_path("embeddings", &format!("{name}{ending}")))
    }

    /// A number that grows when a folder that was listed has changed: what is derived from listings is then out of date.
    pub fn generation(&self) -> u64 {
        if let Some(copies) = self.shared.get() {
            for folder in self.seen(Kind::Input) {
                // Where it cannot be listed now, what is known is good enough.
                let _ = self.shared_list(copies, &folder, shared::Moment::Recent);
            }
        }
        let listings = self.listings.read();
        let changed: Vec<PathBuf> = listings.iter().filter(|(_, known)| !known.is_current()).map(|(path, _)| path.clone()).collect();
        drop(listings);
        for path in changed {
            self.listing(&path);
        }
        self.generation.load(Ordering::Acquire)
    }

    /// The path of a file that a client names: `name`, or `name [input]` / `[output]` / `[temp]`. Fails if it leads outside the folder;
    /// the file need not exist.
    pub fn annotated_path(&self, name: &str, default: Kind) -> Result<PathBuf> {
        let (name, kind) = split_annotation(name);
        let path = self.found(kind.unwrap_or(default), Path::new(name))?;
        // What is not shared may be this server's own: a node of the same prompt may have written it.
        self.here(&path).map_err(|source| Error::Shared { path: PathBuf::from(name), source })?;
        Ok(path)
    }

    /// Where a node saves files named by a prefix such as `renders/%width%x%height%`; the pixel sizes fill the variables.
    pub fn save_target(&self, kind: Kind, prefix: &str, width: usize, height: usize) -> Result<SaveTarget> {
        let (folder, prefix) = (self.own(kind), self.own_prefix(prefix)?);
        let mut target = save::target(&folder, kind, prefix, (width, height), Arc::clone(&self.counters), self.shared.get().cloned())?;
        target.subfolder = self.told(kind, &target.dir, &target.subfolder);
        Ok(target)
    }

    /// A message in which files have the names that clients know, such as `input/x.png` and `models/vae/y.safetensors`, in place of those
    /// that tell where on this machine they are.
    pub fn without_roots(&self, message: &str) -> String {
        let own = [(Kind::Input.as_str(), &self.roots.input), (Kind::Output.as_str(), &self.roots.output)];
        let own = own.into_iter().chain([(Kind::Temp.as_str(), &self.roots.temp), ("user", &self.roots.user)]);
        let mut names: Vec<(String, String)> = own.map(|(name, root)| (root.display().to_string(), name.to_owned())).collect();
        for folder in self.listed().iter() {
            names.extend(folder.paths.iter().map(|path| (path.display().to_string(), format!("models/{}", folder.name))));
        }
        names.push((self.roots.models.display().to_string(), "models".into()));
        // What lies deeper has the better name.
        names.sort_by_key(|(root, _)| std::cmp::Reverse(root.len()));
        names.push((self.roots.base.display().to_string(), ".".into()));
        names.iter().filter(|(root, _)| root.len() > 1).fold(message.to_owned(), |text, (root, name)| replace_root(&text, root, name))
    }

    fn listed(&self) -> Arc<Vec<ModelFolder>> {
        Arc::clone(&self.listed.read())
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

fn find<'a>(models: &'a [ModelFolder], folder: &str) -> Option<&'a ModelFolder> {
    let name = modern_name(folder);
    models.iter().find(|f| f.name == name)
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

fn default_model_folders(roots: &Roots) -> Vec<ModelFolder> {
    let (base, models) = (&roots.base, &roots.models);
    let group = |name: &str, folders: &[&str], extensions| ModelFolder {
        name: name.into(),
        paths: folders.iter().map(|f| models.join(f)).collect(),
        extensions,
        more: Vec::new(),
    };
    let plain = |name: &str| group(name, &[name], Extensions::Models);
    let beside =
        |name: &str| ModelFolder { name: name.into(), paths: vec![base.join(name)], extensions: Extensions::Any, more: Vec::new() };
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
        plain("latent_upscale_models"),
        beside("custom_nodes"),
        beside("datasets"),
        plain("hypernetworks"),
        plain("photomaker"),
        group("classifiers", &["classifiers"], Extensions::Only("")),
        plain("model_patches"),
        plain("audio_encoders"),
        plain("background_removal"),
        plain("frame_interpolation"),
        plain("geometry_estimation"),
        plain("optical_flow"),
        plain("detection"),
    ]
}

#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
