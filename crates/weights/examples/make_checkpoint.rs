//! Makes a test checkpoint from a layout: `make_checkpoint LAYOUT.json OUT.safetensors`, in F16, as the script beside the layouts does.

use std::path::Path;

use candle_core::DType;
use comfyd_weights::{synthetic, write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [layout, out] = arguments.as_slice() else { return Err("usage: make_checkpoint LAYOUT.json OUT.safetensors".into()) };
    let tensors = synthetic::state_dict(&std::fs::read_to_string(layout)?, DType::F16)?;
    write::write(Path::new(out), &tensors, &write::Options::default())?;
    Ok(())
}
