//! What conditionings tell models, as `conformance/diffusion/reduced_server.py` shows it.

use comfyd_engine::{CondEntry, Conditioning, Tensor, Told, Unclip, VisionOutput};
use comfyd_node::{Context, Input, Inputs, Node, NodeOutput, Result, Schema};

/// Shows a conditioning by names.
pub struct ShowConditioning;

impl Node for ShowConditioning {
    fn schema(&self) -> Schema {
        Schema::new("ShowConditioning").input(Input::link("conditioning", "CONDITIONING")).output_node()
    }

    fn run(&self, _: &mut Context<'_>, inputs: Inputs) -> Result<NodeOutput> {
        let conditioning = inputs.get::<Conditioning>("conditioning")?;
        let texts = conditioning.entries().iter().flat_map(lines).map(Into::into).collect();
        Ok(NodeOutput::default().with_ui("text", texts))
    }
}

fn lines(entry: &CondEntry) -> Vec<String> {
    let mut named: Vec<(&str, String)> = Vec::new();
    let tensors = [("pooled_output", &entry.pooled), ("concat_latent_image", &entry.concat_latent), ("concat_mask", &entry.concat_mask)];
    named.extend(tensors.into_iter().filter_map(|(name, value)| Some((name, tensor(value.as_ref()?)))));
    named.extend(entry.told.iter().map(|(name, value)| (name, told(value))));
    if !entry.unclip.is_empty() {
        named.push(("unclip_conditioning", list(entry.unclip.iter().map(unclip))));
    }
    named.sort_unstable_by_key(|(name, _)| *name);
    let text = ("text", tensor(entry.cross_attn.as_ref().unwrap()));
    std::iter::once(text).chain(named).map(|(name, value)| format!("{name} {value}")).collect()
}

fn unclip(picture: &Unclip) -> String {
    let Unclip { seen: output, strength, noise_augmentation } = picture;
    format!("{{clip_vision_output {}, noise_augmentation {noise_augmentation}, strength {strength}}}", seen(output))
}

fn list(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

fn told(value: &Told) -> String {
    match value {
        Told::Nothing => "None".into(),
        Told::Number(number) => number.to_string(),
        Told::Text(text) => text.to_string(),
        Told::Tensor(value) => tensor(value),
        Told::List(values) => list(values.iter().map(told)),
        Told::Vision(output) => seen(output),
    }
}

fn seen(output: &VisionOutput) -> String {
    let parts = [output.last.as_ref(), Some(&output.penultimate), output.embeds.as_ref()];
    std::iter::once("seen".into()).chain(parts.into_iter().flatten().map(tensor)).collect::<Vec<String>>().join(" ")
}

/// Its axes, and two mean sizes, the second of which changes with signs and places.
fn tensor(tensor: &Tensor) -> String {
    let (shape, values) = comfyd_engine::values(tensor).unwrap();
    let mean = |sizes: &mut dyn Iterator<Item = f64>| three_digits(sizes.sum::<f64>() / values.len() as f64);
    let place = |at: usize| (at * 7919 % 1009) as f64 / 1009.0;
    let plain = mean(&mut values.iter().map(|value| f64::from(*value).abs()));
    let placed = mean(&mut values.iter().enumerate().map(|(at, value)| (f64::from(*value) + place(at)).abs()));
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("{} {plain} {placed}", shape.join("x"))
}

/// Python's `:.3g` of numbers that are neither tiny nor large.
fn three_digits(number: f64) -> String {
    let before = number.abs().max(1e-4).log10().floor() as i32;
    let text = format!("{number:.*}", (2 - before).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
