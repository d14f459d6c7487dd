//! Tells a file's format by its first bytes and hands it to the reader. Knows no format.

use std::path::Path;

use crate::error::{Error, Result};
use crate::mapped::MappedFile;
use crate::state_dict::StateDict;
use crate::{gguf, quantised, safetensors, torch};

impl StateDict {
    /// Opens a file of weights: safetensors, a PyTorch checkpoint (`.ckpt`, `.pt`, `.pth`, `.bin`) or GGUF, told by its first bytes. Only
    /// what describes the tensors is read; their values stay in the file until they are asked for. Nothing in a file is ever executed.
    pub fn open(path: &Path) -> Result<Self> {
        quantised::resolve(read(path)?)
    }
}

fn read(path: &Path) -> Result<StateDict> {
    let head = MappedFile::open(path, "weights")?;
    let start = head.all();
    if start.len() > 8 && start[8] == b'{' {
        return safetensors::File::open(path)?.into_state_dict();
    }
    if start.starts_with(gguf::MAGIC) {
        return gguf::open(path);
    }
    if torch::is_torch(start) {
        return torch::open(path);
    }
    let invalid = |format, reason: &str| Err(Error::Invalid { path: path.to_owned(), format, reason: reason.into() });
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase();
    match extension.as_str() {
        "safetensors" | "sft" => return safetensors::File::open(path)?.into_state_dict(),
        "gguf" => return invalid("GGUF", "it does not begin as such files do"),
        "ckpt" | "pt" | "pth" | "bin" => return invalid("PyTorch", "it is neither an archive nor the older sequence of pickles"),
        _ => {}
    }
    Err(Error::Unknown {
        path: path.to_owned(),
        reason: "it is neither safetensors, a PyTorch checkpoint nor GGUF; choose a file of one of these formats".into(),
    })
}
