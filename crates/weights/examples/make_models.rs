//! Makes the model files of a description that are not there: `make_models MODELS.json FOLDER`, as the script beside the descriptions does.

use std::path::Path;

use comfyd_weights::synthetic;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [description, folder] = arguments.as_slice() else { return Err("usage: make_models MODELS.json FOLDER".into()) };
    synthetic::write_models(&std::fs::read_to_string(description)?, Path::new(folder))?;
    Ok(())
}
