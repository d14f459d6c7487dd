//! Pictures of a latent while it is sampled. The cheap map to colours is made at once; the tiny autoencoder works beside the sampling and
//! leaves steps out when it cannot keep up.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use candle_core::{Device, Tensor};
use comfyd_models::Vb;
use comfyd_models::taesd::{Taesd, TaesdConfig};
use comfyd_node::{Context, PreviewImage};

use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::{Engine, LatentSpec, PreviewMethod, Result};

/// How latents become pictures.
enum Method {
    None,
    Rgb,
    Taesd(Arc<Taesd>),
}

/// Makes the previews of one sampling.
pub(super) struct Previews {
    method: Method,
    latents: &'static LatentSpec,
    max_size: u32,
    device: Device,
}

impl Previews {
    /// As the prompt asks, else the options; without a file of the tiny autoencoder, the map to colours.
    pub(super) fn new(engine: &Engine, latents: &'static LatentSpec, cx: &Context<'_>) -> Result<Self> {
        let options = engine.options();
        let asked = cx.hidden.extra_data.get("preview_method").and_then(|name| PreviewMethod::named(name.as_str()?));
        let method = match asked.unwrap_or(options.preview) {
            PreviewMethod::None => Method::None,
            PreviewMethod::Auto | PreviewMethod::Latent2Rgb => Method::Rgb,
            PreviewMethod::Taesd => match taesd(engine, latents) {
                Ok(Some(model)) => Method::Taesd(model),
                Ok(None) => {
                    tracing::warn!("there is no file '{}…' in vae_approx; showing simpler previews", latents.taesd_decoder);
                    Method::Rgb
                }
                Err(error) => {
                    tracing::warn!("the previews' autoencoder cannot be used: {error}; showing simpler previews");
                    Method::Rgb
                }
            },
        };
        Ok(Self { method, latents, max_size: options.preview_size, device: engine.device().clone() })
    }

    /// Runs `work`, which hands the clean latents (B, C, H, W) of its steps to the function that it is given.
    pub(super) fn with<T>(&self, cx: &Context<'_>, work: impl FnOnce(&mut dyn FnMut(&Tensor)) -> Result<T>) -> Result<T> {
        match &self.method {
            Method::None => work(&mut |_| {}),
            Method::Rgb => work(&mut |latent| {
                if let Ok(image) = self.rgb(latent) {
                    cx.image(image);
                }
            }),
            Method::Taesd(model) => std::thread::scope(|scope| {
                let (sender, receiver): (SyncSender<Tensor>, _) = sync_channel(1);
                let token = cx.cancel_token();
                scope.spawn(move || {
                    for latent in receiver {
                        if token.is_cancelled() {
                            return;
                        }
                        if let Ok(image) = self.decode(model, &latent) {
                            cx.image(image);
                        }
                    }
                });
                let result = work(&mut |latent| match sender.try_send(latent.clone()) {
                    Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
                });
                drop(sender);
                result
            }),
        }
    }

    fn rgb(&self, latent: &Tensor) -> Result<PreviewImage> {
        let (shape, values) = crate::values(&latent.narrow(0, 0, 1)?)?;
        let (h, w) = (shape[2], shape[3]);
        let LatentSpec { rgb_factors, rgb_bias, .. } = self.latents;
        let mut pixels = Vec::with_capacity(h * w * 3);
        for at in 0..h * w {
            for color in 0..3 {
                let sum: f32 = rgb_factors.iter().enumerate().map(|(channel, row)| row[color] * values[channel * h * w + at]).sum();
                pixels.push(byte(sum + rgb_bias[color]));
            }
        }
        Ok(self.image(w, h, pixels))
    }

    fn decode(&self, model: &Taesd, latent: &Tensor) -> Result<PreviewImage> {
        let pixels = model.decode(&latent.narrow(0, 0, 1)?.to_device(&self.device)?, &|| Ok(()))?;
        let (shape, values) = crate::values(&pixels.permute((0, 2, 3, 1))?.contiguous()?)?;
        Ok(self.image(shape[2], shape[1], values.into_iter().map(byte).collect()))
    }

    fn image(&self, width: usize, height: usize, pixels: Vec<u8>) -> PreviewImage {
        PreviewImage {
            width: width as u32,
            height: height as u32,
            channels: 3,
            pixels: Arc::new(pixels),
            lossless: false,
            max_size: Some(self.max_size),
        }
    }
}

/// From -1..1 to 0..255.
fn byte(value: f32) -> u8 {
    (((value + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0) as u8
}

fn taesd(engine: &Engine, latents: &'static LatentSpec) -> Result<Option<Arc<Taesd>>> {
    let Some(path) = (engine.options().approximate_vae)(latents.taesd_decoder) else { return Ok(None) };
    let weights = engine.files().get("taesd preview", &[&path], || {
        Ok(Weights::new(Part::new(comfyd_weights::StateDict::open(&path)?, engine.device().clone(), Precision::Stored)))
    })?;
    let config = TaesdConfig::preview(latents.channels);
    let model = engine.residency().get(&[&weights], || Ok(Taesd::decoder_only(&config, &Vb::new(Arc::new(weights.clone())))?))?;
    Ok(Some(model))
}
