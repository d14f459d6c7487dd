//! The model files of `conformance/diffusion/reduced/models.json`.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use comfyd_weights::synthetic;

use super::conformance;

/// A folder whose folder `models` holds all of them. They are made once and stay in the build's folder for temporary files.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let description = std::fs::read_to_string(conformance().join("diffusion/reduced/models.json")).unwrap();
        let mut hasher = DefaultHasher::new();
        description.hash(&mut hasher);
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reduced-models-{:016x}", hasher.finish()));
        synthetic::write_models(&description, &base.join("models")).unwrap();
        base
    })
}
