//! `cargo xtask parity`: runs the recorded diffusion cases against this server on full-size test checkpoints. Knows how to make the
//! models; what passes is decided by `conformance/check_cases.py`.

use std::io::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::{Server, cargo, release_command};

/// Which cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    /// Those of Stable Diffusion 1.5.
    Sd15,
    /// Those of Stable Diffusion XL.
    Sdxl,
    /// Those of adapters, patches, guiders and hooks on Stable Diffusion 1.5.
    Extra,
    /// Those of Stable Diffusion 2.x, SDXL's refiner, and the models for inpainting and editing.
    Families,
}

impl Set {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Sd15, Self::Sdxl, Self::Extra, Self::Families];

    fn cases(self) -> &'static str {
        match self {
            Self::Sd15 => "conformance/diffusion",
            Self::Sdxl => "conformance/diffusion/sdxl",
            Self::Extra => "conformance/diffusion/extra",
            Self::Families => "conformance/diffusion/families",
        }
    }
}

/// Where the models are.
const MODELS: &str = "target/parity/models";

/// The full-size test checkpoint of a family, `sd15` or `sdxl`; made if it is not there.
pub(crate) fn checkpoint(root: &Path, family: &str) -> Result<PathBuf, Error> {
    let checkpoints = root.join(MODELS).join("checkpoints");
    std::fs::create_dir_all(&checkpoints)?;
    let checkpoint = checkpoints.join(format!("{family}_random.safetensors"));
    if !checkpoint.is_file() {
        println!("making {}", checkpoint.display());
        let layout = root.join(format!("conformance/diffusion/{family}.layout.json"));
        cargo(root, &["run", "--release", "-p", "comfyd-weights", "--example", "make_checkpoint", "--"], &[&layout, &checkpoint])?;
    }
    Ok(checkpoint)
}

/// A file for `--extra-model-paths-config` that tells of the folders of models that are there.
pub(crate) fn model_paths(root: &Path) -> Result<PathBuf, Error> {
    let models = root.join(MODELS).canonicalize()?;
    let mut yaml = format!("models:\n  base_path: {}\n", models.display());
    for entry in std::fs::read_dir(&models)? {
        let name = entry?.file_name();
        yaml += &format!("  {name}: {name}\n", name = name.display());
    }
    let paths = models.with_file_name("models.yaml");
    std::fs::write(&paths, yaml)?;
    Ok(paths)
}

/// Runs the cases of these sets whose names begin with `only`; whether all passed.
pub(crate) fn run(root: &Path, sets: &[Set], only: &str) -> Result<bool, Error> {
    for set in sets {
        make_models(root, *set)?;
    }
    let command = format!("{} --extra-model-paths-config {}", release_command(root)?, model_paths(root)?.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = runtime.block_on(Server::start("comfyd", &command))?;
    let mut passed = true;
    for set in sets {
        println!("{}", set.cases());
        let status = Command::new(root.join(".venv/bin/python"))
            .arg(root.join("conformance/check_cases.py"))
            .arg(format!("http://{}", server.host))
            .arg(root.join(set.cases()))
            .args(["--verbose", "--timeout", "3600", "--only", only])
            .status()
            .map_err(|e| Error::other(format!("cannot run .venv/bin/python, which .ci/run makes: {e}")))?;
        passed &= status.success();
    }
    Ok(passed)
}

/// Makes the models of a set that are not there.
fn make_models(root: &Path, set: Set) -> Result<(), Error> {
    match set {
        Set::Sd15 | Set::Extra => checkpoint(root, "sd15").map(drop)?,
        Set::Sdxl => checkpoint(root, "sdxl").map(drop)?,
        Set::Families => {}
    }
    let (description, models) = (root.join(set.cases()).join("models.json"), root.join(MODELS));
    if description.is_file() && !all_there(&description, &models)? {
        println!("making models in {}", models.display());
        cargo(root, &["run", "--release", "-p", "comfyd-weights", "--example", "make_models", "--"], &[&description, &models])?;
    }
    Ok(())
}

/// Whether every file of a description is in the folder.
fn all_there(description: &Path, folder: &Path) -> Result<bool, Error> {
    let models: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&std::fs::read(description)?)?;
    Ok(models.keys().all(|file| folder.join(file).is_file()))
}
