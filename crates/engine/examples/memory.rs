//! What a Stable Diffusion 1.5 UNet takes, in each of the forms in which files keep weights: `cargo run -p comfyd-engine --example memory --
//! FOLDER` makes test files of full size in FOLDER (3 GB), and loads each and samples a step of 256x256 in a process of its own.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use comfyd_engine::{CondEntry, Conditioning, Engine, EngineOptions, KSampler, LatentInput};
use comfyd_node::{CancellationToken, Context, Hidden, SilentReporter};
use comfyd_samplers::noise;
use comfyd_weights::{Form, LazyTensor, Scaled8, SmallFloat, Source, StateDict, Weight, synthetic, write};

/// What is measured: a file, and UNETLoader's choice.
const RUNS: [(&str, &str); 4] =
    [("f16.safetensors", "default"), ("fp8.safetensors", "default"), ("f16.safetensors", "fp8_e4m3fn"), ("q4_0.gguf", "default")];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [folder] => {
            make_files(Path::new(folder))?;
            println!(
                "| file | weight_dtype | weights, MB | peak resident, MB | of it without the mapped file, MB | step, s |\n|---|---|---:|---:|---:|---:|"
            );
            for (file, dtype) in RUNS {
                let path = Path::new(folder).join(file);
                std::process::Command::new(std::env::current_exe()?).arg(path).arg(dtype).status()?;
            }
            Ok(())
        }
        [file, dtype] => measure(Path::new(file), dtype),
        _ => Err("usage: memory FOLDER".into()),
    }
}

fn measure(file: &Path, dtype: &str) -> Result<(), Box<dyn Error>> {
    let engine = Engine::new(EngineOptions::default())?;
    let model = engine.load_unet(file, dtype)?;
    let cond = Conditioning::new(vec![CondEntry { cross_attn: Some(noise::latent(1, &[1, 77, 768], None)?), ..CondEntry::default() }]);
    let samples = Tensor::zeros((1, 4, 32, 32), DType::F32, &Device::Cpu)?;
    let latent = LatentInput { samples, noise_mask: None, batch_index: None };
    let settings = KSampler {
        seed: 5,
        steps: 1,
        cfg: 1.0,
        sampler: "euler".into(),
        scheduler: "normal".into(),
        denoise: 1.0,
        disable_noise: false,
        start_step: None,
        last_step: None,
        force_full_denoise: false,
    };
    let (hidden, cancel) = (Hidden::default(), CancellationToken::default());
    let cx = Context::new("1", &hidden, &cancel, &SilentReporter, 0);
    // The first step loads; the second is the one that is timed.
    engine.ksampler(&cx, &model, &cond, &cond, &latent, &settings)?;
    let start = Instant::now();
    engine.ksampler(&cx, &model, &cond, &cond, &latent, &settings)?;
    let step = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let megabytes = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? * 1024.0 / 1e6)
    };
    let (peak, mapped) = (megabytes("VmHWM:").unwrap_or_default(), megabytes("RssFile:").unwrap_or_default());
    let name = file.file_name().unwrap_or_default().display();
    println!("| {name} | {dtype} | {:.0} | {peak:.0} | {:.0} | {step:.2} |", engine.memory().held as f64 / 1e6, peak - mapped);
    Ok(())
}

/// A matrix as eight-bit floats.
struct Eighth(LazyTensor);

impl Source for Eighth {
    fn read(&self) -> comfyd_weights::Result<Weight> {
        Ok(Weight::Scaled8(Scaled8::round(SmallFloat::E4m3, &self.0.read()?)?))
    }

    fn form(&self) -> Form {
        Form::Small(SmallFloat::E4m3)
    }
}

fn make_files(folder: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/diffusion/sd15.layout.json");
    let dict = synthetic::state_dict(&std::fs::read_to_string(layout)?, DType::F16)?.with_prefix("model.diffusion_model.", "");
    let [f16, fp8, q4_0] = ["f16.safetensors", "fp8.safetensors", "q4_0.gguf"].map(|file| folder.join(file));
    if !f16.is_file() {
        write::write(&f16, &dict, &write::Options::default())?;
    }
    let dict = StateDict::open(&f16)?;
    if !fp8.is_file() {
        let mut eighths = dict.clone();
        for (name, tensor) in dict.iter().filter(|(_, tensor)| tensor.shape().len() > 1) {
            eighths.insert(name, LazyTensor::new(tensor.shape().to_vec(), DType::F16, Arc::new(Eighth(tensor.clone()))));
        }
        write::write(&fp8, &eighths, &write::Options::default())?;
    }
    if !q4_0.is_file() {
        write_q4_0(&q4_0, &dict)?;
    }
    Ok(())
}

/// Matrices in blocks, whose rows need not be whole ones, as ComfyUI-GGUF tells of them.
fn write_q4_0(path: &PathBuf, dict: &StateDict) -> Result<(), Box<dyn Error>> {
    let mut metadata = Vec::new();
    let mut tensors = Vec::new();
    for (name, tensor) in dict.iter() {
        let values = tensor.read()?.to_dtype(DType::F32)?;
        if tensor.shape().len() == 1 {
            tensors.push((name, QTensor::quantize(&values, GgmlDType::F32)?));
            continue;
        }
        let axes = tensor.shape().iter().map(|axis| gguf_file::Value::U64(*axis as u64)).collect();
        metadata.push((format!("comfy.gguf.orig_shape.{name}"), gguf_file::Value::Array(axes)));
        tensors.push((name, QTensor::quantize(&values.reshape(((), 32))?, GgmlDType::Q4_0)?));
    }
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    Ok(gguf_file::write(&mut out, &metadata, &tensors)?)
}
