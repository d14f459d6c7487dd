//! LoRA files and their kin: which weights of a model they change, and how. Applying many to a model, in which order and when, is the
//! caller's business.

mod adapter;
mod apply;
mod keys;

pub use self::adapter::Adapter;
pub use self::keys::{KeyMap, clip_keys, unet_keys};

use std::collections::HashSet;

use indexmap::IndexMap;

use crate::error::Result;
use crate::state_dict::StateDict;

/// What a file changes.
#[derive(Debug, Clone, Default)]
pub struct Lora {
    /// For each weight, under the name that the key map gives it, what to do. One weight is there once.
    pub adapters: Vec<(String, Adapter)>,
    /// Names in the file that were not understood, or are of weights that the model does not have.
    pub unused: Vec<String>,
}

/// Reads a file for the models whose names are in `keys` (the reference's `load_lora`). The adapters' values are read now, in the type in
/// which they are stored. Of several adapters for one weight the last kind counts, as in the reference.
pub fn load(file: &StateDict, keys: &KeyMap) -> Result<Lora> {
    let mut used: HashSet<String> = HashSet::new();
    let mut adapters: IndexMap<String, Adapter> = IndexMap::new();
    for (name, weight) in keys.iter() {
        let mut found = adapter::Found { file, name, used: &mut used };
        if let Some(adapter) = found.adapter()? {
            adapters.insert(weight.to_owned(), adapter);
        }
        let bias = || weight.strip_suffix(".weight").map(|stem| format!("{stem}.bias"));
        for (weight_part, bias_part) in [("w_norm", "b_norm"), ("diff", "diff_b")] {
            let difference = found.tensor(weight_part)?;
            // A bias of a norm comes only with its weight.
            let alone = weight_part == "diff";
            if (difference.is_some() || alone)
                && let (Some(difference), Some(bias)) = (found.tensor(bias_part)?, bias())
            {
                adapters.insert(bias, Adapter::Diff(difference));
            }
            if let Some(difference) = difference {
                adapters.insert(weight.to_owned(), Adapter::Diff(difference));
            }
        }
        if let Some(value) = found.tensor("set_weight")? {
            adapters.insert(weight.to_owned(), Adapter::Set(value));
        }
    }
    let unused = file.names().filter(|name| !used.contains(*name)).map(str::to_owned).collect();
    Ok(Lora { adapters: adapters.into_iter().collect(), unused })
}
