//! How long the stages of a picture take without a server: `cargo run --release -p comfyd-models --example stages -- CHECKPOINT [SIZE
//! [REPEATS [auto|f32|bf16 [CARD]]]]` prints, for a checkpoint of Stable Diffusion 1.x or 2.x, the least elapsed time and the least processor
//! time of all threads together (which other load disturbs less) for reading the weights, encoding two texts, a step with guidance, and
//! decoding. A card is given by its number, and needs `--features cuda`; it is asked for all that a stage does before it is waited for, and the
//! processors' time is what asking takes.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use comfyd_kernels::Precision;
use comfyd_models::backbone::{Backbone, Pass};
use comfyd_models::clip::{ClipConfig, ClipTextModel};
use comfyd_models::unet::UNet;
use comfyd_models::vae::{Vae, VaeConfig};
use comfyd_models::{Provider, Vb};
use comfyd_weights::{StateDict, Weight, detect};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let checkpoint = arguments.next().ok_or("usage: stages CHECKPOINT [SIZE [REPEATS [auto|f32|bf16 [CARD]]]]")?;
    let size: usize = arguments.next().map_or(Ok(256), |size| size.parse())?;
    let repeats: usize = arguments.next().map_or(Ok(3), |repeats| repeats.parse())?;
    let precision = arguments.next().unwrap_or_else(|| "auto".to_owned());
    Precision::ALL.into_iter().find(|known| known.name() == precision).ok_or("the precision is auto, f32 or bf16")?.choose();
    let device = arguments.next().map_or(Ok(Device::Cpu), |card| Ok::<_, Box<dyn Error>>(Device::new_cuda_with_stream(card.parse()?)?))?;
    let there = |dict: StateDict| Vb::new(Arc::new(There(dict, device.clone())));

    let (unet, clip, vae) = timed(&device, "load", 1, || {
        let dict = StateDict::open(Path::new(&checkpoint))?;
        let part = |prefix: &str| dict.with_prefix(prefix, "");
        let prefix = detect::unet_prefix(&dict);
        let config = detect::unet_config(&dict, prefix).ok_or("this is no checkpoint of a UNet")?;
        let unet = UNet::new(&config, &there(part(prefix)))?;
        let clip = part("cond_stage_model.transformer.");
        let clip = ClipTextModel::new(&ClipConfig::detect(&clip)?, &there(clip))?;
        let vae = part("first_stage_model.");
        let vae = Vae::new(&VaeConfig::detect(&vae)?, &there(vae))?;
        Ok((unet, clip, vae))
    })?;
    let ids: Vec<u32> = (0..77).map(|i| 320 + 97 * i).collect();
    let context = timed(&device, "text", repeats, || {
        let one = |ids: &[u32]| -> Result<Tensor, Box<dyn Error>> {
            let output = clip.forward(&clip.embed(ids)?.unsqueeze(0)?, None, true, &|| Ok(()))?;
            output.last.ok_or_else(|| "the text encoder gave nothing".into())
        };
        Ok(Tensor::cat(&[&one(&ids)?, &one(&ids[..])?], 0)?)
    })?;
    let latent = |batch: usize| Tensor::randn(0f32, 1.0, (batch, 4, size / 8, size / 8), &device);
    let x = latent(2)?;
    timed(&device, "step", repeats, || {
        let pass =
            Pass { x: &x, timesteps: &[500.0; 2], context: &context, y: None, residuals: None, sigmas: &[], cond_or_uncond: &[0, 1] };
        Ok(unet.forward(&pass, &mut ())?)
    })?;
    let latent = latent(1)?.to_dtype(DType::F32)?;
    timed(&device, "decode", repeats, || Ok(vae.decode(&latent, &|| Ok(()))?))?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmHWM")) {
        println!("{line}");
    }
    Ok(())
}

/// A file's weights on a device.
struct There(StateDict, Device);

impl Provider for There {
    fn weight(&self, name: &str) -> comfyd_models::Result<Option<Weight>> {
        Ok(self.0.get(name).map(|tensor| tensor.weight()?.to_device(&self.1)).transpose()?)
    }
}

/// Runs it so often and prints the least times.
fn timed<T>(device: &Device, name: &str, repeats: usize, mut work: impl FnMut() -> Result<T, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    let (mut least, mut least_busy, mut result) = (f64::INFINITY, f64::INFINITY, None);
    for _ in 0..repeats.max(1) {
        let (start, busy) = (Instant::now(), processor_time_s());
        result = Some(work()?);
        least_busy = least_busy.min(processor_time_s() - busy);
        device.synchronize()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    println!("{name}\t{least:.3} s\t{least_busy:.3} s of processors");
    result.ok_or_else(|| "nothing was run".into())
}

/// What all threads of this process have run for so far; 0 where the system does not tell it.
fn processor_time_s() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let of_thread = |path: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    threads.flatten().filter_map(|thread| of_thread(thread.path())).sum::<f64>() / 1e9
}
