//! The families of models. One is a file here that says how it is told, which noise levels, latents, conditions and text encoders it has and
//! how its denoiser is built, and a line in [`ALL`].

mod family;
mod refiner;
mod sd1;
mod sd2;
mod sdxl;
mod unclip;
mod unet;

use comfyd_models::text_encoding::TextStack;
use comfyd_weights::{EncoderKind, StateDict, Unet};

use self::family::Family;
pub(crate) use self::family::{Concat, Found, ModelKind, Objective, SIZE_EMBEDDING};
pub use self::sd1::LATENTS as SD_LATENTS;
pub use self::sdxl::{LATENTS as SDXL_LATENTS, PLAYGROUND_LATENTS};
use crate::{Error, Result};

/// All of them, in the order in which files are tried.
const ALL: [&dyn Family; 5] = [&sd1::FAMILY, &sd2::FAMILY, &unclip::FAMILY, &refiner::FAMILY, &sdxl::FAMILY];

/// The denoiser of a file.
pub(crate) fn find(file: &StateDict) -> Result<Found> {
    let unet = Unet::find(file);
    for family in ALL {
        if let Some(found) = family.detect(file, unet.as_ref().ok())? {
            return Ok(found);
        }
    }
    let unet = unet?;
    let reason = format!(
        "its UNet is of no known family (width {}, conditioning {} wide, vector conditioning {:?}, transformers {:?}); looked for {}",
        unet.config.model_channels,
        unet.config.context_dim,
        unet.config.adm_in_channels,
        unet.config.transformer_depth,
        ALL.map(Family::name).join(", ")
    );
    Err(unet.file.unknown(reason).into())
}

/// How text encoders of these kinds work together.
pub(crate) fn text_stack(kinds: &[EncoderKind]) -> Result<TextStack> {
    let is_of =
        |stack: &TextStack| stack.kinds().iter().all(|kind| kinds.contains(kind)) && kinds.iter().all(|kind| stack.kinds().contains(kind));
    let none = || Error::msg("these text encoders do not belong together; take CLIP-L, CLIP-H, bigG, or CLIP-L with bigG");
    ALL.iter().map(|family| family.text()).find(is_of).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::path::PathBuf;

    use candle_core::{DType, Device, Tensor};
    use comfyd_weights::synthetic;

    use super::*;

    fn layout(family: &str) -> StateDict {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../conformance/diffusion/{family}.layout.json"));
        synthetic::state_dict(&std::fs::read_to_string(path).unwrap(), DType::F16).unwrap()
    }

    fn small(shape: &[usize]) -> Tensor {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn whole_checkpoints_are_told() {
        for (layout_of, name, latents, encoders) in
            [("sd15", "SD1.x", &SD_LATENTS, &[196][..]), ("sdxl", "SDXL", &SDXL_LATENTS, &[196, 518])]
        {
            let dict = layout(layout_of);
            let denoiser = find(&dict).unwrap().kind;
            assert_eq!((denoiser.family().name(), denoiser.latents()), (name, latents));
            assert_eq!((denoiser.objective(), denoiser.concat()), (Objective::Eps, Concat::None));
            let family = denoiser.family();
            assert_eq!(family.encoders().iter().map(|place| place.kind).collect::<Vec<_>>(), family.text().kinds());
            assert_eq!(family.encoders().iter().map(|place| place.read(&dict).len()).collect::<Vec<_>>(), encoders);
        }
    }

    /// Smaller models that are made as the family's own, whatever their widths; and one of another kind.
    #[test]
    fn families_are_told_by_how_their_blocks_are_made() {
        let config = |model_channels: usize, linear: bool, adm: Option<usize>, depths: &[usize]| {
            let whole = Unet::find(&layout("sd15")).unwrap();
            let config = comfyd_weights::detect::UNetConfig {
                model_channels,
                context_dim: 96,
                use_linear_in_transformer: linear,
                adm_in_channels: adm,
                transformer_depth: depths.to_vec(),
                ..whole.config.clone()
            };
            let unet = Unet { config, ..whole };
            ALL.iter().find_map(|family| family.detect(&unet.file, Some(&unet)).unwrap()).map(|found| found.kind.family().name())
        };
        for (linear, adm, depths, name) in [
            (false, None, [1, 1, 0], Some("SD1.x")),
            (true, None, [1, 1, 0], Some("SD2.x")),
            (true, Some(60), [0, 1, 0], Some("SDXL's refiner")),
            (true, Some(60), [0, 1, 2], Some("SDXL")),
            (true, Some(60), [1, 1, 0], Some("SD2.1 unCLIP")),
            // SD's upscaler has transformers in the smallest level.
            (true, None, [0, 1, 1], None),
        ] {
            assert_eq!(config(32, linear, adm, &depths), name);
            // As wide as the families' own, but not made for their conditioning: latent diffusion before SD, Kolors.
            assert_eq!(config(384, linear, adm, &depths), None);
        }
    }

    #[test]
    fn variants_and_predictions_are_told() {
        // A reduced SD2: the spread of one bias tells what it predicts.
        let base = |context: usize, adm: Option<usize>, channels: usize, linear: bool| {
            let mut shapes = vec![
                ("input_blocks.0.0.weight", vec![320, channels, 3, 3]),
                ("input_blocks.1.0.in_layers.0.weight", vec![320]),
                ("input_blocks.1.0.out_layers.3.weight", vec![320, 320, 3, 3]),
                ("input_blocks.1.1.proj_in.weight", if linear { vec![320, 320] } else { vec![320, 320, 1, 1] }),
                ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", vec![320, context]),
            ];
            if let Some(adm) = adm {
                shapes.push(("label_emb.0.0.weight", vec![1280, adm]));
            }
            synthetic::from_shapes(shapes.into_iter().map(|(name, shape)| (name.to_owned(), shape)), DType::F16)
        };
        let mut sd2 = base(1024, None, 4, true);
        let bias = "output_blocks.11.1.transformer_blocks.0.norm1.bias";
        for (scale, wanted) in [(0.05f32, Objective::Eps), (0.2, Objective::V { zsnr: false })] {
            sd2.insert(bias, Tensor::new(&[-scale, scale], &Device::Cpu).unwrap());
            let model = find(&sd2).unwrap().kind;
            assert_eq!((model.family().name(), model.objective()), ("SD2.x", wanted));
        }
        let concat = |channels| find(&base(768, None, channels, false)).unwrap().kind.concat();
        assert_eq!(concat(9), Concat::Inpaint);
        assert_eq!(concat(8), Concat::Image { scaled: false });
        let error = find(&base(999, None, 4, false).with_origin("odd.ckpt")).map(|found| found.kind).expect_err("accepted").to_string();
        assert!(error.contains("odd.ckpt") && error.contains("999"), "{error}");

        let mut xl = layout("sdxl");
        for (marker, value, wanted) in [
            ("v_pred", None, Objective::V { zsnr: false }),
            ("ztsnr", None, Objective::V { zsnr: true }),
            ("edm_vpred.sigma_max", Some(80.0f32), Objective::VContinuous { sigma_min: 0.002, sigma_max: 80.0 }),
            ("edm_vpred.sigma_min", Some(0.25), Objective::VContinuous { sigma_min: 0.25, sigma_max: 80.0 }),
        ] {
            let tensor = value.map_or_else(|| small(&[0]), |value| Tensor::new(value, &Device::Cpu).unwrap());
            xl.insert(marker, tensor);
            assert_eq!(find(&xl).unwrap().kind.objective(), wanted, "{marker}");
        }
        xl.insert("edm_mean", small(&[4]));
        xl.insert("edm_std", small(&[4]));
        let playground = find(&xl).unwrap().kind;
        assert_eq!((playground.objective(), playground.latents()), (Objective::Edm, &PLAYGROUND_LATENTS));
    }
}
