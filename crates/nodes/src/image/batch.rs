//! Pictures put together, taken apart and counted; and the split into brightness and colour.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, MAX_RESOLUTION};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ImageBatch")
                .display("Batch Images")
                .category("image")
                .description("Puts two batches of pictures behind each other. The second gets the size of the first.")
                .input(Input::link("image1", "IMAGE"))
                .input(Input::link("image2", "IMAGE"))
                .output("IMAGE")
        },
        batch,
    ),
    Class::new(
        || {
            Schema::new("RepeatImageBatch")
                .category("image/batch")
                .module("comfy_extras.nodes_images")
                .description("Repeats a batch of pictures.")
                .input(Input::link("image", "IMAGE"))
                .input(Input::int("amount").default(1).min(1).max(4096).tooltip("How often."))
                .output("IMAGE")
        },
        repeat,
    ),
    Class::new(
        || {
            Schema::new("ImageFromBatch")
                .category("image/batch")
                .module("comfy_extras.nodes_images")
                .description("Takes some consecutive pictures out of a batch.")
                .input(Input::link("image", "IMAGE"))
                .input(Input::int("batch_index").default(0).min(0).max(4095).tooltip("The first one to take, counted from 0."))
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
                .output_list("IMAGE")
        },
        rebatch,
    ),
    Class::new(
        || {
            Schema::new("ImageRGBToYUV")
                .no_display()
                .category("image/batch")
                .module("comfy_extras.nodes_morphology")
                .schema_generation()
                .description("Splits pictures into brightness (Y) and two colour differences (U, V).")
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
                .no_display()
                .category("image/batch")
                .module("comfy_extras.nodes_morphology")
                .schema_generation()
                .description("Puts brightness and colour differences together to pictures again.")
                .input(Input::link("Y", "IMAGE").tooltip("Brightness."))
                .input(Input::link("U", "IMAGE").tooltip("Difference to blue."))
                .input(Input::link("V", "IMAGE").tooltip("Difference to red."))
                .output("IMAGE")
        },
        yuv_to_rgb,
    ),
];
