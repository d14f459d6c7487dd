//! Operations on latents, as values that can be handed on.

use comfyd_imaging::filter;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::LatentOperation;
use ndarray::{Array, Array3, Array4, ArrayView4, Axis, Ix4, Zip};

use crate::class::{Call, Class};
use crate::latent::arrays::{Samples, expect_picture};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LatentApplyOperation")
                .no_display()
                .category("model/latent/advanced/operations")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .experimental()
                .description("Applies an operation to latents.")
                .aliases(["change latent"])
                .input(Input::link("samples", "LATENT").tooltip("The latents."))
                .input(Input::link("operation", "LATENT_OPERATION").tooltip("What to do with them."))
                .output("LATENT")
        },
        apply,
    ),
    Class::new(
        || {
            Schema::new("LatentOperationTonemapReinhard")
                .no_display()
                .category("model/latent/advanced/operations")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .experimental()
                .description(
                    "An operation that tames too strong values (Reinhard's tone mapping of the latent vectors' \
                     lengths).",
                )
                .aliases(["tone mapping", "compress"])
                .input(
                    Input::float("multiplier")
                        .default(1.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("Higher lets more of the strong values pass."),
                )
                .output("LATENT_OPERATION")
        },
        tonemap,
    ),
    Class::new(
        || {
            Schema::new("LatentOperationSharpen")
                .no_display()
                .category("model/latent/advanced/operations")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .experimental()
                .description("An operation that sharpens latents.")
                .input(Input::int("sharpen_radius").default(9).min(1).max(31).step(1).tooltip("Reach in latent pixels.").advanced())
                .input(
                    Input::float("sigma")
                        .default(1.0)
                        .min(0.1)
                        .max(10.0)
                        .step(0.1)
                        .tooltip("Width of the bell, in parts of the reach.")
                        .advanced(),
                )
                .input(Input::float("alpha").default(0.1).min(0.0).max(5.0).step(0.01).tooltip("Strength.").advanced())
                .output("LATENT_OPERATION")
        },
        sharpen,
    ),
];

fn apply(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    expect_picture(&latent.samples, "samples")?;
    let (operation, samples) = (call.inputs.get::<LatentOperation>("operation")?, latent.samples.clone());
    latent.samples = call.aside(samples.len(), move || operation.apply(&samples))??;
    Ok(NodeOutput::one(latent))
}

fn tonemap(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let multiplier = call.float("multiplier")? as f32;
    Ok(NodeOutput::one(Value::object(LatentOperation::new("tone mapping", move |samples| tonemapped(samples, multiplier)))))
}

fn sharpen(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (radius, sigma, alpha) = (call.count("sharpen_radius", 1)?, call.float("sigma")?, call.float("alpha")?);
    Ok(NodeOutput::one(Value::object(LatentOperation::new("sharpening", move |samples| sharpened(samples, radius, sigma, alpha)))))
}

fn picture(samples: &Samples) -> Result<ArrayView4<'_, f32>> {
    samples.view().into_dimensionality::<Ix4>().map_err(Error::other)
}

/// The lengths of the latent vectors, plus `epsilon`: (B, C, H, W) -> (B, H, W).
fn lengths(samples: &ArrayView4<'_, f32>, epsilon: f32) -> Array3<f32> {
    samples.map_axis(Axis(1), |vector| vector.iter().map(|v| v * v).sum::<f32>().sqrt() + epsilon)
}

/// Reinhard's tone mapping of the vectors' lengths: above `multiplier` times mean + 5 standard deviations they hardly grow.
fn tonemapped(samples: &Samples, multiplier: f32) -> Result<Samples> {
    let samples = picture(samples)?;
    let lengths = lengths(&samples, 1e-10);
    let mut out = samples.to_owned();
    for (mut sample, lengths) in out.outer_iter_mut().zip(lengths.outer_iter()) {
        let count = lengths.len() as f64;
        let mean = lengths.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        // torch's standard deviation, with Bessel's correction.
        let variance = lengths.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let top = (variance.sqrt() as f32 * 5.0 + mean as f32) * multiplier;
        for mut channel in sample.outer_iter_mut() {
            Zip::from(&mut channel).and(&lengths).for_each(|value, length| {
                let relative = length * (1.0 / top);
                *value = *value / length * (relative / (relative + 1.0) * top);
            });
        }
    }
    Ok(out.into_dyn().into_shared())
}

/// Sharpens the directions of the latent vectors and keeps their lengths.
fn sharpened(samples: &Samples, radius: usize, sigma: f64, alpha: f64) -> Result<Samples> {
    let samples = picture(samples)?;
    let lengths = lengths(&samples, 1e-6);
    let (_, _, height, width) = samples.dim();
    let mut out: Array4<f32> = samples.to_owned();
    for (mut sample, lengths) in out.outer_iter_mut().zip(lengths.outer_iter()) {
        for mut channel in sample.outer_iter_mut() {
            let directions: Vec<f32> = channel.iter().zip(lengths).map(|(value, length)| value / length).collect();
            let plane = filter::sharpen_plane(&directions, height, width, radius, sigma, alpha).map_err(Error::other)?;
            let plane = Array::from_shape_vec((height, width), plane).map_err(Error::other)?;
            Zip::from(&mut channel).and(&plane).and(&lengths).for_each(|value, direction, length| *value = direction * length);
        }
    }
    Ok(out.into_dyn().into_shared())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use ndarray::{ArcArray, IxDyn};

    use super::*;

    /// `((arange(2 * 3 * 4 * 5) * 37 % 101) / 50 - 1).reshape(2, 3, 4, 5)`
    fn samples() -> Samples {
        let values = (0..120).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        ArcArray::from_shape_vec(IxDyn(&[2, 3, 4, 5]), values).unwrap()
    }

    fn check(got: &Samples, want: [f32; 4]) {
        let picked = [[0, 0, 0, 0], [0, 2, 3, 4], [1, 1, 2, 0], [1, 2, 3, 3]].map(|i| got[&i[..]]);
        for (got, want) in picked.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{picked:?}, the reference has {want}");
        }
    }

    #[test]
    fn tone_mapping_as_the_reference() {
        // python: LatentOperationTonemapReinhard.execute(0.5)[0](samples)
        check(&tonemapped(&samples(), 0.5).unwrap(), [-0.365_497_8, 0.090_127_07, 0.355_437_25, -0.210_672_95]);
    }

    #[test]
    fn sharpening_as_the_reference() {
        // python: LatentOperationSharpen.execute(2, 1.0, 0.1)[0](samples)
        check(&sharpened(&samples(), 2, 1.0, 0.1).unwrap(), [-1.788_352_4, 0.501_351, 1.875_098_8, -1.101_751_3]);
    }
}
