//! Pictures put together, taken apart and counted; and the split into brightness and colour.

use comfyd_imaging::resize::{Crop, Method};
use comfyd_imaging::{color, transform};
use comfyd_node::{Error, Grow, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Image;
use ndarray::{Array4, Axis, concatenate, s};

use crate::class::{Call, Class};
use crate::latent::first_int;
use crate::resize;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ImageBatch")
                .display("Batch Images (DEPRECATED)")
                .deprecated()
                .category("image/batch")
                .description("Puts two batches of pictures behind each other. The second gets the size of the first.")
                .aliases(["join pictures", "append"])
                .input(Input::link("image1", "IMAGE"))
                .input(Input::link("image2", "IMAGE"))
                .output("IMAGE")
        },
        batch,
    ),
    Class::new(
        || {
            let image = Input::link("image", "IMAGE").tooltip("Pictures.");
            Schema::new("BatchImagesNode")
                .display("Batch Images")
                .category("image/batch")
                .essentials("Image Tools")
                .module("comfy_extras.nodes_post_processing")
                .schema_generation()
                .description("Puts pictures behind each other into one batch. All get the size of the first.")
                .aliases(["join images", "collect", "combine", "stack"])
                .input(Input::grow("images", Grow::numbered(image, "image").max(50)))
                .output("IMAGE")
        },
        batch_all,
    ),
    Class::new(
        || {
            Schema::new("RepeatImageBatch")
                .display("Repeat Image Batch")
                .category("image/batch")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Repeats a batch of pictures.")
                .aliases(["copies"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::int("amount").default(1).min(1).max(4096).tooltip("How often."))
                .output("IMAGE")
        },
        repeat,
    ),
    Class::new(
        || {
            Schema::new("ImageFromBatch")
                .display("Get Image from Batch")
                .category("image/batch")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Takes some consecutive pictures out of a batch.")
                .aliases(["nth picture", "frames"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::int("batch_index").default(0).min(-16384).max(16384).tooltip("The first one to take, counted from 0."))
                .input(Input::int("length").default(1).min(1).max(4096).tooltip("How many to take."))
                .output("IMAGE")
        },
        from_batch,
    ),
    Class::new(
        || {
            Schema::new("RebatchImages")
                .display("Rebatch Images")
                .category("image/batch")
                .module("comfy_extras.nodes_rebatch")
                .schema_generation()
                .description("Regroups pictures into batches of another size.")
                .input(Input::link("images", "IMAGE").tooltip("Pictures, of all batches."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("Pictures per batch."))
                .input_is_list()
                .output_list("IMAGE")
        },
        rebatch,
    ),
    Class::new(
        || {
            Schema::new("ImageRGBToYUV")
                .display("Image RGB to YUV")
                .category("image/color")
                .module("comfy_extras.nodes_morphology")
                .schema_generation()
                .description("Splits pictures into brightness (Y) and two colour differences (U, V).")
                .aliases(["luma", "chroma"])
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .output_named("IMAGE", "Y")
                .output_named("IMAGE", "U")
                .output_named("IMAGE", "V")
        },
        rgb_to_yuv,
    ),
    Class::new(
        || {
            Schema::new("ImageYUVToRGB")
                .display("Image YUV to RGB")
                .category("image/color")
                .module("comfy_extras.nodes_morphology")
                .schema_generation()
                .description("Puts brightness and colour differences together to pictures again.")
                .aliases(["luma", "chroma"])
                .input(Input::link("Y", "IMAGE").tooltip("Brightness."))
                .input(Input::link("U", "IMAGE").tooltip("Difference to blue."))
                .input(Input::link("V", "IMAGE").tooltip("Difference to red."))
                .output("IMAGE")
        },
        yuv_to_rgb,
    ),
];

fn batch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = vec![call.image("image1")?, call.image("image2")?];
    join_unequal(call, images)
}

fn batch_all(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = call.each("images", Call::image)?;
    join_unequal(call, images)
}

/// One batch of pictures of the first one's size, with as many channels as the widest has.
fn join_unequal(call: &Call<'_, '_>, mut images: Vec<Image>) -> Result<NodeOutput> {
    let channels = images.iter().map(Image::channels).max().unwrap_or_default();
    let Some((width, height)) = images.first().map(|image| (image.width(), image.height())) else {
        return Err(Error::MissingInput("images".into()));
    };
    for image in &mut images {
        if image.channels() < channels {
            *image = with_channels(call, image, channels)?;
        }
        if (image.width(), image.height()) != (width, height) {
            *image = resize::image(call, image, width, height, Method::Bilinear, Crop::Center)?;
        }
    }
    let joined = join(call, &images)?;
    Ok(NodeOutput::one(joined))
}

/// Pictures with more channels: grey ones become colours, and what has no alpha becomes opaque.
fn with_channels(call: &Call<'_, '_>, image: &Image, channels: usize) -> Result<Image> {
    let shape = (image.batch(), image.height(), image.width(), channels);
    call.reserve(&[shape.0, shape.1, shape.2, shape.3])?;
    let (from, own) = (image.0.clone(), image.channels());
    call.aside(shape.0 * shape.1 * shape.2 * shape.3, move || {
        let mut wider = Array4::ones(shape);
        for channel in 0..channels.min(if own == 1 { 3 } else { own }) {
            wider.slice_mut(s![.., .., .., channel]).assign(&from.slice(s![.., .., .., channel.min(own - 1)]));
        }
        Image::new(wider)
    })
}

fn repeat(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let amount = call.count("amount", 1)?;
    call.reserve(&[image.batch().saturating_mul(amount), image.height(), image.width(), image.channels()])?;
    let values = image.0.len() * amount;
    Ok(NodeOutput::one(call.apart(values, move || transform::repeat(&image.0, amount).map(Image))?))
}

fn from_batch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let (start, length) = (call.place("batch_index", image.batch())?, call.count("length", 1)?);
    Ok(NodeOutput::one(call.apart(image.0.len(), move || transform::from_batch(&image, start, length))?))
}

fn rebatch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = usize::try_from(first_int(call.inputs.list("batch_size")?)?).ok().filter(|size| *size > 0);
    let size = size.ok_or_else(|| Error::msg("input 'batch_size' must be at least 1"))?;
    let mut pictures = Vec::new();
    for value in call.inputs.list("images")? {
        let image = value.downcast::<Image>().ok_or_else(|| Error::msg("input 'images' must hold pictures only"))?;
        let shared = &image.0;
        pictures.extend((0..image.batch()).map(|i| Image(shared.clone().slice_move(s![i..i + 1, .., .., ..]))));
    }
    let mut out = Vec::new();
    for group in pictures.chunks(size) {
        call.cx.check_cancelled()?;
        out.push(Value::object(join(call, group)?));
    }
    Ok(NodeOutput::one(Value::list(out)))
}

/// Puts pictures of equal size and channels behind each other.
fn join(call: &Call<'_, '_>, images: &[Image]) -> Result<Image> {
    let [first, rest @ ..] = images else { return Err(Error::msg("there are no pictures to join")) };
    let batch = images.iter().map(Image::batch).sum();
    if let Some(other) = rest.iter().find(|image| image.0.shape()[1..] != first.0.shape()[1..]) {
        let size = |image: &Image| format!("{} x {} pixels with {} channels", image.width(), image.height(), image.channels());
        return Err(Error::msg(format!("pictures of {} and of {} cannot be joined; make them equal first", size(first), size(other))));
    }
    call.reserve(&[batch, first.height(), first.width(), first.channels()])?;
    let values = batch * first.0.len() / first.batch().max(1);
    let images = images.to_vec();
    let joined = call.aside(values, move || {
        let views: Vec<_> = images.iter().map(|image| image.0.view()).collect();
        concatenate(Axis(0), &views)
    })?;
    Ok(Image::new(joined.map_err(Error::other)?))
}

fn rgb_to_yuv(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let planes = call.apart(image.0.len(), move || color::rgb_to_yuv(&image))?;
    Ok(NodeOutput::values(planes.map(|plane| plane.into())))
}

fn yuv_to_rgb(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (y, u, v) = (call.image("Y")?, call.image("U")?, call.image("V")?);
    Ok(NodeOutput::one(call.apart(3 * y.0.len(), move || color::yuv_to_rgb(&y, &u, &v))?))
}
