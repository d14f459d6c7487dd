//! Classes that ComfyUI has renamed or merged into others. What stands in for one is used where the class itself is not there.

use comfyd_node::{Replacement, Replacements};

/// Those of ComfyUI, in its order, and behind them those of classes that it renamed without saying so.
pub fn replacements() -> Replacements {
    let renamed = Replacement::renamed;
    Replacements::new([
        renamed("ResizeImagesByLongerEdge", "ImageScaleToMaxDimension")
            .widgets(&["longer_edge"])
            .input("image", "images")
            .input("largest_size", "longer_edge")
            .value("upscale_method", "lanczos")
            .output(0, 0),
        renamed("ImageBatch", "BatchImagesNode").input("images.image0", "image1").input("images.image1", "image2"),
        renamed("ImageScaleBy", "ResizeImageMaskNode")
            .widgets(&["upscale_method", "scale_by"])
            .input("input", "image")
            .value("resize_type", "scale by multiplier")
            .input("resize_type.multiplier", "scale_by")
            .input("scale_method", "upscale_method"),
        renamed("T2IAdapterLoader", "ControlNetLoader").input("control_net_name", "t2i_adapter_name"),
        renamed("Load3DAnimation", "Load3D"),
        renamed("Preview3DAnimation", "Preview3D"),
        renamed("SDV_img2vid_Conditioning", "SVD_img2vid_Conditioning"),
        renamed("ConditioningAverage ", "ConditioningAverage"),
        renamed("SaveLoRANode", "SaveLoRA"),
    ])
}
