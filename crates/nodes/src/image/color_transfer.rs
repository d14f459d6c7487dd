//! Colours of one picture for another.

use comfyd_imaging::transfer::{Method, Source, Transfer};
use comfyd_node::{Branch, Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Image;
use ndarray::{Array4, Axis, s};

use crate::class::{Call, Class, unknown_choice};

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("ColorTransfer")
            .display("Transfer Color")
            .category("image/filters")
            .module("comfy_extras.nodes_post_processing")
            .schema_generation()
            .description("Brings the colours of pictures to those of others.")
            .aliases(["match colours", "grading", "reinhard", "mkl"])
            .input(Input::link("image_target", "IMAGE").tooltip("The pictures that are changed."))
            .input(Input::link("image_ref", "IMAGE").tooltip("The pictures whose colours they get."))
            .input(Input::combo("method", ["reinhard_lab", "mkl_lab", "histogram"]).tooltip(
                "How: by mean and spread of each axis of CIE Lab, by the covariance of all three, or by histograms of the colours.",
            ))
            .input(
                Input::branch(
                    "source_stats",
                    [
                        Branch::new("per_frame", []),
                        Branch::new("uniform", []),
                        Branch::new(
                            "target_frame",
                            [Input::int("target_index").default(0).min(0).max(10000).tooltip("Which one, counted from 0.")],
                        ),
                    ],
                )
                .tooltip("What stands for the pictures that are changed: each for itself, all together, or one of them."),
            )
            .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("How much of the change is made."))
            .output_named("IMAGE", "image")
    },
    transfer,
)];

fn transfer(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (target, reference) = (call.image("image_target")?, call.image("image_ref")?);
    let strength = call.float("strength")? as f32;
    if strength == 0.0 {
        return Ok(NodeOutput::one(target));
    }
    let method = match call.text("method")? {
        "reinhard_lab" => Method::Reinhard,
        "mkl_lab" => Method::Covariance,
        "histogram" => Method::Histogram,
        other => return Err(unknown_choice("method", other)),
    };
    let source = match call.text("source_stats")? {
        "per_frame" => Source::Each,
        "uniform" => Source::All,
        "target_frame" => Source::One(call.count("source_stats.target_index", 0)?),
        other => return Err(unknown_choice("source_stats", other)),
    };
    if target.channels() != reference.channels() || (method != Method::Histogram && target.channels() != 3) {
        return Err(Error::msg(format!(
            "pictures of {} and {} channels cannot be matched; give it pictures of three",
            target.channels(),
            reference.channels()
        )));
    }
    // The result, and the largest of the pictures on its way.
    call.reserve(target.0.shape())?;
    call.reserve(&[3, target.height().max(reference.height()), target.width().max(reference.width()), target.channels()])?;
    let transfer = call.aside(target.0.len() + reference.0.len(), {
        let (target, cancel) = (target.clone(), call.cx.cancel_token().clone());
        move || Transfer::new(&target, reference, method, source, &|| cancel.is_cancelled())
    })?;
    let transfer = std::sync::Arc::new(transfer.map_err(Error::other)?);
    call.cx.check_cancelled()?;
    let mut out = Array4::zeros(target.0.raw_dim());
    for index in 0..target.batch() {
        let (transfer, target) = (std::sync::Arc::clone(&transfer), target.clone());
        let one = call.apart(target.0.len() / target.batch(), move || transfer.apply(&target, index, strength))?;
        out.slice_mut(s![index, .., .., ..]).assign(&one.index_axis(Axis(0), 0));
        call.cx.progress((index + 1) as f64, target_count(&out) as f64)?;
    }
    Ok(NodeOutput::one(Image::new(out)))
}

fn target_count(out: &Array4<f32>) -> usize {
    out.len_of(Axis(0))
}
