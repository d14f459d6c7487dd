#!/usr/bin/env python3
"""Records the cases of this folder that came after its first 71 from a running ComfyUI 0.33.0 whose input folder holds pic0.png, pic1.png, pic2.png,
lat0.latent, wide.png (grey in 16 bits), keyed.png (a colour stands for transparency) and frames.png (an animation): `record_cases.py BASE_URL [--only PREFIX] [--new]`. Texts that nodes show stand in cases.json, pictures and latents beside it."""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from record import record  # noqa: E402


class Graph(dict):
    def add(self, class_type, slot=0, **inputs):
        key = str(len(self) + 1)
        self[key] = {"class_type": class_type, "inputs": {name.replace("__", "."): value for name, value in inputs.items()}}
        return [key, slot]

    def picture(self, n):
        return self.add("LoadImage", image=f"pic{n}.png")

    def mask(self, n, channel="red"):
        return self.add("ImageToMask", image=self.picture(n), channel=channel)

    def save(self, image):
        self.add("SaveImage", images=image, filename_prefix="nodes/x")

    def save_mask(self, mask):
        self.save(self.add("MaskToImage", mask=mask))

    def show(self, *links):
        for link in links:
            self.add("PreviewAny", source=link)


CASES = {}


def case(name):
    def keep(build):
        graph = Graph()
        build(graph)
        CASES[name] = dict(graph)
    return keep


# Pictures of 67x52 and 83x71 pixels and masks of a new size.
RESIZES = {
    "dimensions": {"resize_type": "scale dimensions", "resize_type.width": 41, "resize_type.height": 57, "resize_type.crop": "center"},
    "stretched": {"resize_type": "scale dimensions", "resize_type.width": 41, "resize_type.height": 57, "resize_type.crop": "disabled"},
    "width_only": {"resize_type": "scale dimensions", "resize_type.width": 41, "resize_type.height": 0, "resize_type.crop": "center"},
    "multiplier": {"resize_type": "scale by multiplier", "resize_type.multiplier": 0.55},
    "longer": {"resize_type": "scale longer dimension", "resize_type.longer_size": 71},
    "shorter": {"resize_type": "scale shorter dimension", "resize_type.shorter_size": 45},
    "width": {"resize_type": "scale width", "resize_type.width": 50},
    "height": {"resize_type": "scale height", "resize_type.height": 50},
    "total": {"resize_type": "scale total pixels", "resize_type.megapixels": 0.013},
    "multiple": {"resize_type": "scale to multiple", "resize_type.multiple": 7},
    "large_multiple": {"resize_type": "scale to multiple", "resize_type.multiple": 30},
}
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
for at, (way, inputs) in enumerate(RESIZES.items()):
    for kind in ("image", "mask"):
        @case(f"resize_{kind}_{way}")
        def _(g, kind=kind, inputs=inputs, at=at):
            source = g.picture(at % 2) if kind == "image" else g.mask(at % 2, "green")
            method = METHODS[at % 5]
            resized = g.add("ResizeImageMaskNode", input=source, scale_method=method, **inputs)
            g.save(resized) if kind == "image" else g.save_mask(resized)
for method in METHODS:
    @case(f"resize_match_{method}")
    def _(g, method=method):
        match = {"resize_type": "match size", "resize_type.match": g.mask(1), "resize_type.crop": "center"}
        g.save(g.add("ResizeImageMaskNode", input=g.picture(0), scale_method=method, **match))
        match = {"resize_type": "match size", "resize_type.match": g.picture(0), "resize_type.crop": "disabled"}
        g.save_mask(g.add("ResizeImageMaskNode", input=g.mask(1), scale_method=method, **match))


@case("total_pixels_steps")
def _(g):
    for n, steps in ((0, 8), (1, 13)):
        g.save(g.add("ImageScaleToTotalPixels", image=g.picture(n), upscale_method="bicubic", megapixels=0.01, resolution_steps=steps))


@case("batch_images")
def _(g):
    g.save(g.add("BatchImagesNode", **{"images.image0": g.picture(0), "images.image1": g.picture(1), "images.image2": g.picture(0)}))


@case("batch_images_alpha")
def _(g):
    with_alpha = g.add("JoinImageWithAlpha", image=g.picture(1), alpha=g.mask(1))
    g.save(g.add("BatchImagesNode", **{"images.image0": g.picture(0), "images.image3": with_alpha}))


@case("batch_masks")
def _(g):
    g.save_mask(g.add("BatchMasksNode", **{"masks.mask0": g.mask(1), "masks.mask1": g.mask(0, "blue")}))


@case("batch_latents")
def _(g):
    loaded = g.add("LoadLatent", latent="lat0.latent")
    smaller = g.add("LatentUpscaleBy", samples=loaded, upscale_method="bilinear", scale_by=0.7)
    g.add("SaveLatent", samples=g.add("BatchLatentsNode", **{"latents.latent0": smaller, "latents.latent1": loaded}), filename_prefix="nodes/x")


for dim in ("x", "y", "t"):
    @case(f"latent_cut_to_batch_{dim}")
    def _(g, dim=dim):
        cut = g.add("LatentCutToBatch", samples=g.add("LoadLatent", latent="lat0.latent"), dim=dim, slice_size=3)
        g.add("SaveLatent", samples=cut, filename_prefix="nodes/x")

for index in (-1, -3):
    @case(f"latent_from_batch_{index}")
    def _(g, index=index):
        loaded = g.add("LoadLatent", latent="lat0.latent")
        doubled = g.add("BatchLatentsNode", **{"latents.latent0": loaded, "latents.latent1": g.add("LatentMultiply", samples=loaded, multiplier=2.0)})
        g.add("SaveLatent", samples=g.add("LatentFromBatch", samples=doubled, batch_index=index, length=1), filename_prefix="nodes/x")


@case("crop_region")
def _(g):
    for n, (x, y, width, height) in ((0, (5, 7, 31, 23)), (1, (40, 50, 100, 100))):
        box = {"x": x, "y": y, "width": width, "height": height}
        g.save(g.add("ImageCropV2", image=g.picture(n), crop_region=box))


@case("compare")
def _(g):
    g.add("ImageCompare", image_a=g.picture(0), image_b=g.picture(1), compare_view="")
    g.add("ImageCompare", image_b=g.picture(1), compare_view="")


@case("tiles")
def _(g):
    large = g.add("ImageScale", image=g.picture(0), upscale_method="bilinear", width=97, height=81, crop="disabled")
    split = g.add("SplitImageToTileList", image=large, tile_width=64, tile_height=64, overlap=24)
    g.save(split)
    darker = g.add("ImageInvert", image=split)
    g.save(g.add("ImageMergeTileList", image_list=darker, final_width=97, final_height=81, overlap=24))


@case("tiles_no_overlap")
def _(g):
    large = g.add("ImageScale", image=g.picture(1), upscale_method="bilinear", width=150, height=133, crop="disabled")
    split = g.add("SplitImageToTileList", image=large, tile_width=64, tile_height=70, overlap=0)
    g.save(g.add("ImageMergeTileList", image_list=split, final_width=150, final_height=133, overlap=0))


@case("create_list")
def _(g):
    pictures = g.add("CreateList", **{"inputs.input0": g.picture(0), "inputs.input1": g.picture(1)})
    g.save(g.add("ImageInvert", image=pictures))
    g.show(g.add("CreateList", **{"inputs.input0": g.add("PrimitiveInt", value=3), "inputs.input2": g.add("PrimitiveInt", value=5)}))


@case("switch")
def _(g):
    for on in (True, False):
        switched = g.add("ComfySwitchNode", switch=on, on_false=g.picture(0), on_true=g.add("ImageInvert", image=g.picture(1)))
        g.save(switched)


@case("logic")
def _(g):
    ints = [g.add("PrimitiveInt", value=n) for n in (0, 1, 2)]
    texts = [g.add("PrimitiveString", value=text) for text in ("", "x")]
    for class_type in ("ComfyAndNode", "ComfyOrNode"):
        for pair in ((ints[0], ints[1]), (ints[1], texts[1]), (texts[0], ints[0])):
            g.show(g.add(class_type, **{"values.value0": pair[0], "values.value1": pair[1]}))
    for value in (*ints, *texts):
        g.show(g.add("ComfyNotNode", value=value))
    g.add("CustomCombo", choice="two", index=1, option1="one", option2="two")
    g.show([str(len(g)), 0], [str(len(g)), 1])


EXPRESSIONS = [
    "a + b", "a // b", "a % b", "-a ** 2", "2 ** -a", "a / 2 if c else 0", "round(b, 1)", "round(a / 2)", "min(values)", "max(a, b, 7)", "sum(values)",
    "values[-2] * 10", "1 < a <= 3 != b", "not c or b", "ceil(b) * floor(-b)", "sqrt(a) + log(8, 2) + log10(1000)", "a in values", "int(b * 3) ^ 5",
    "abs(-b) + pow(2, 10)", "sin(a) + cos(b) + tan(a * b)", "c + c", "float(a)", "0x1F + 1_000", "~a << 2", "-7 // 2 + -7 % 2 + 7 // -2",
]


@case("math")
def _(g):
    a, b, c = g.add("PrimitiveInt", value=3), g.add("PrimitiveFloat", value=2.75), g.add("PrimitiveBoolean", value=True)
    for expression in EXPRESSIONS:
        result = g.add("ComfyMathExpression", expression=expression, **{"values.a": a, "values.b": b, "values.c": c})
        g.show(result, [result[0], 1], [result[0], 2])


@case("numbers")
def _(g):
    values = [("PrimitiveInt", -7), ("PrimitiveFloat", -2.9), ("PrimitiveBoolean", True), ("PrimitiveString", " 1_000 "), ("PrimitiveString", "-2.5e3"),
              ("PrimitiveString", "9007199254740993")]
    for class_type, value in values:
        converted = g.add("ComfyNumberConvert", value=g.add(class_type, value=value))
        g.show(converted, [converted[0], 1])


@case("resolution")
def _(g):
    shapes = ["1:1 (Square)", "2:3 (Portrait Photo)", "16:9 (Widescreen)", "21:9 (Ultrawide)", "9:16 (Portrait Widescreen)"]
    for at, shape in enumerate(shapes):
        size = g.add("ResolutionSelector", aspect_ratio=shape, megapixels=0.3 + at * 0.7, multiple=8 + 4 * at)
        g.show(size, [size[0], 1])


@case("color")
def _(g):
    for color in ("#ff8001", "#01020380"):
        picked = g.add("ColorToRGBInt", color=color)
        g.show(picked, [picked[0], 1], [picked[0], 2])
    g.show(g.add("SeedNode", seed=2**53 + 1))
    g.show(g.add("PrimitiveBoundingBox", x=1, y=2, width=3, height=4))


@case("json")
def _(g):
    document = '{"text": "é", "none": null, "yes": true, "number": 1.50, "list": [1, "a\'b", {"x": null}]}'
    for key in ("text", "none", "yes", "number", "list", "missing"):
        g.show(g.add("JsonExtractString", json_string=document, key=key))
    for wrong in ("[1]", "no json", ""):
        g.show(g.add("JsonExtractString", json_string=wrong, key="a"))


@case("image_sets")
def _(g):
    both = g.add("CreateList", **{"inputs.input0": g.picture(0), "inputs.input1": g.picture(1), "inputs.input2": g.add("ImageInvert", image=g.picture(2))})
    g.save(g.add("ShuffleDataset", images=both, seed=11))
    g.save(g.add("ImageGrid", images=both, columns=2, cell_width=37, cell_height=41, padding=3))
    twice = g.add("CreateList", **{"inputs.input0": both, "inputs.input1": g.add("ImageScale", image=g.picture(0), upscale_method="area", width=50, height=39, crop="disabled")})
    g.save(g.add("ImageDeduplication", images=twice, similarity_threshold=0.95))
    g.save(g.add("MergeImageLists", images=twice))


@case("image_sets_single")
def _(g):
    for n in (0, 1):
        g.save(g.add("CenterCropImages", images=g.picture(n), width=40, height=33))
        g.save(g.add("RandomCropImages", images=g.picture(n), width=40, height=33, seed=2**33 + 5 + n))
        g.save(g.add("NormalizeImages", images=g.picture(n), mean=0.4, std=0.6))
        g.save(g.add("AdjustBrightness", images=g.picture(n), factor=1.3))
        g.save(g.add("AdjustContrast", images=g.picture(n), factor=1.7))
        g.save(g.add("ResizeImagesByShorterEdge", images=g.picture(n), shorter_edge=39))
        g.save(g.add("ResizeImagesByLongerEdge", images=g.picture(n), longer_edge=91))


@case("format")
def _(g):
    a, b, c = g.add("PrimitiveInt", value=-42), g.add("PrimitiveFloat", value=1234567.891), g.add("PrimitiveString", value="é'x")
    box = g.add("PrimitiveBoundingBox", x=1, y=2, width=3, height=4)
    for text in ("{a} {b} {c}", "{{{a:+06d}}} {a:#x}", "{b:,.2f}|{b:.3e}|{b:g}|{b:015,.1f}|{b:.1%}", "{c!r:*^9}|{c:>6}|{c:.1}", "{d[width]}|{d}", "none"):
        g.show(g.add("StringFormat", f_string=text, **{"values.a": a, "values.b": b, "values.c": c, "values.d": box}))



@case("image_from_batch_end")
def _(g):
    both = g.add("BatchImagesNode", images__image0=g.picture(0), images__image1=g.picture(1))
    for index in (-1, -9, 9):
        g.save(g.add("ImageFromBatch", image=both, batch_index=index, length=2))


@case("save_advanced")
def _(g):
    for n, depth in ((0, "8-bit"), (1, "16-bit")):
        g.add("SaveImageAdvanced", images=g.picture(n), filename_prefix="nodes/x", format="png", format__bit_depth=depth, format__input_color_space="sRGB")
    grey = g.add("MaskToImage", mask=g.mask(0))
    g.add("SaveImageAdvanced", images=grey, filename_prefix="nodes/x", format="png", format__bit_depth="16-bit", format__input_color_space="sRGB")


@case("save_text")
def _(g):
    for text, kind in (("one\ntwo é", "txt"), ('{"a": [1, "é"]}', "json"), ("no json", "json")):
        g.add("SaveText", text=g.add("PrimitiveString", value=text), filename_prefix="nodes/t", format=kind)


for method in ("reinhard_lab", "mkl_lab", "histogram"):
    @case(f"color_transfer_{method}")
    def _(g, method=method):
        both = g.add("BatchImagesNode", **{"images.image0": g.picture(0), "images.image1": g.add("ImageInvert", image=g.picture(1))})
        others = g.add("BatchImagesNode", **{"images.image0": g.picture(1), "images.image1": g.picture(2)})
        g.save(g.add("ColorTransfer", image_target=g.picture(0), image_ref=g.picture(1), method=method, source_stats="per_frame", strength=1.0))
        g.save(g.add("ColorTransfer", image_target=both, image_ref=others, method=method, source_stats="per_frame", strength=0.6))
        g.save(g.add("ColorTransfer", image_target=both, image_ref=others, method=method, source_stats="uniform", strength=1.0))
        g.save(g.add("ColorTransfer", image_target=both, image_ref=g.picture(1), method=method, strength=1.0, **{"source_stats": "target_frame", "source_stats.target_index": 1}))


@case("histogram")
def _(g):
    for n in (0, 1):
        counted = g.add("ImageHistogram", image=g.picture(n))
        g.show(*([counted[0], slot] for slot in range(5)))
        g.add("CurveEditor", curve={"points": [[0, 0.1], [0.5, 0.7], [1, 1]], "interpolation": "linear"}, histogram=counted)


@case("painter")
def _(g):
    for painted, color in (("pic2.png", "#204060"), ("", "#f0c010")):
        drawn = g.add("Painter", mask=painted, width=64, height=128, bg_color=color)
        g.save(drawn)
        g.save_mask([drawn[0], 1])
    g.save(g.add("Painter", mask="pic2.png", width=64, height=64, bg_color="#000000", image=g.picture(0)))


@case("crop_to_mask")
def _(g):
    grey = g.add("ThresholdMask", mask=g.mask(0), value=0.6)
    box = g.add("MaskComposite", destination=g.add("SolidMask", value=0.0, width=83, height=71), source=g.add("SolidMask", value=1.0, width=22, height=31), x=5, y=20, operation="add")
    for grow, pad, (width, height) in ((0, 1.0, (64, 64)), (3, 1.4, (96, 64)), (-2, 1.2, (64, 120))):
        g.save(g.add("ImageCropToMask", images=g.picture(1), masks=box, width=width, height=height, pad_factor=pad, grow_mask=grow, background="#3060c0"))
    g.save(g.add("ImageCropToMask", images=g.picture(0), masks=grey, width=64, height=64, pad_factor=1.1, grow_mask=0, background="#ffffff"))
    g.save(g.add("ImageCropToMask", images=g.picture(1), masks=g.add("InvertMask", mask=box), width=64, height=64, pad_factor=1.0, grow_mask=0, background="#000000"))


@case("shuffle_with_texts")
def _(g):
    pictures = g.add("CreateList", **{f"inputs.input{n}": g.picture(n) for n in range(3)})
    texts = g.add("CreateList", **{f"inputs.input{n}": g.add("PrimitiveString", value=text) for n, text in enumerate(("one", "two", "three"))})
    shuffled = g.add("ShuffleImageTextDataset", images=pictures, texts=texts, seed=5)
    g.save(shuffled)
    g.show([shuffled[0], 1])


for name, inputs in {"Flux2LatentImage": {"width": 80, "height": 48}, "HunyuanVideo15Latent": {"width": 80, "height": 48, "length": 10},
                     "QwenImageLayeredLatentImage": {"width": 80, "height": 56, "layers": 2}, "HiDreamO1LatentImage": {"width": 64, "height": 96},
                     "ARVideoLatent": {"width": 80, "height": 48, "length": 13}}.items():
    @case(f"empty_{name}")
    def _(g, name=name, inputs=inputs):
        g.add("SaveLatent", samples=g.add("Empty" + name, batch_size=2, **inputs), filename_prefix="nodes/x")


BLENDS = ["normal", "multiply", "screen", "overlay", "darken", "lighten", "color-dodge", "color-burn", "hard-light", "soft-light", "difference", "exclusion", "linear-dodge",
          "linear-burn", "vivid-light", "pin-light", "linear-light", "hard-mix", "subtract", "divide", "grain-extract", "grain-merge", "hue", "saturation", "color", "luminosity"]
for part, blends in enumerate((BLENDS[:13], BLENDS[13:])):
    @case(f"layers_blends_{part}")
    def _(g, blends=blends):
        below = g.add("AddLayer", image=g.picture(0), x=3, y=2)
        for n, blend in enumerate(blends):
            layers = g.add("AddLayer", layers=below, image=g.picture(1), x=n - 6, y=8, blend_mode=blend, opacity=1.0 if n % 3 else 0.7)
            g.add("ImageCompositor", layers=layers, compositor={})


@case("layers_placed")
def _(g):
    for rotation, width, height, h, v in ((30.0, 50, 20, False, False), (-75.0, 0, 0, True, False), (90.0, 31, 0, False, True), (180.0, 0, 90, True, True), (-90.0, 33, 21, False, False)):
        layers = g.add("AddLayer", image=g.picture(0), x=10, y=12, rotation=rotation, width=width, height=height, flip_h=h, flip_v=v, mask=g.mask(1, "green"))
        layers = g.add("AddLayer", layers=layers, image=g.picture(2), x=-8, y=20, opacity=0.8, z_index=-1, name="below")
        picture = g.add("ImageCompositor", layers=layers, compositor={})
        g.save_mask([picture[0], 1])


EDITED = {"version": 1, "canvas": {"w": 90.4, "h": "70"}, "inputs": ["501671f6e827383f", "e2caefb84659b1ba"], "order": [1, 0], "background": {"color": "#8CF", "opacity": 0.6, "visible": True},
          "layers": [{"visible": True, "opacity": 0.9, "blend": "screen", "flipH": True, "transform": {"x": 5.5, "y": 3, "w": 60, "h": 41.7, "rotation": 0.3}}, {"opacity": 1.0, "transform": {"x": 20, "y": 10}}]}


@case("layers_edited")
def _(g):
    batch = g.add("BatchImagesNode", **{"images.image0": g.picture(0), "images.image1": g.add("ImageInvert", image=g.picture(0))})
    layers = g.add("AddLayer", image=batch, x=4, y=5, rotation=10.0, opacity=0.5)
    for state in (EDITED, {**EDITED, "inputs": ["1", "2"]}, {}):
        g.add("ImageCompositor", layers=layers, compositor=state)


@case("layers_from_boxes")
def _(g):
    batch = g.add("BatchImagesNode", **{"images.image0": g.picture(0), "images.image1": g.picture(1), "images.image2": g.add("ImageInvert", image=g.picture(2))})
    for boxes in ('[{"x": 4, "y": 6, "width": 30, "height": 40}, {"x": 40, "y": 2, "width": 9, "height": 9, "metadata": {"content_rect": [10, 5, 33, 20], "z_index": 5, "desc": "cut"}}]',
                  '[{"bbox": [100, 200, 700, 650], "type": "text", "desc": "a"}, {"bbox": [0, 0, 300, 1000]}, {"bbox": [900, 600, 400, 100]}]'):
        layers = g.add("LayersFromBoundingBoxes", image=batch, bboxes=g.add("PrimitiveString", value=boxes), mask=g.mask(0), canvas_width=96, canvas_height=80)
        g.add("ImageCompositor", layers=layers, compositor={})
    boxes = g.add("PrimitiveBoundingBox", x=7, y=9, width=20, height=10)
    g.add("ImageCompositor", layers=g.add("LayersFromBoundingBoxes", image=batch, bboxes=boxes, layers=g.add("AddLayer", image=g.picture(1))), compositor={})


# Batches of unequal size.
def batch(g, *numbers):
    return g.add("BatchImagesNode", **{f"images.image{at}": g.picture(n) for at, n in enumerate(numbers)})


@case("join_alpha_batches")
def _(g):
    masks = g.add("BatchMasksNode", **{"masks.mask0": g.mask(1, "green"), "masks.mask1": g.mask(0, "blue")})
    g.save(g.add("JoinImageWithAlpha", image=batch(g, 0, 1, 2), alpha=masks))
    g.save(g.add("JoinImageWithAlpha", image=g.picture(2), alpha=masks))


@case("image_batch_alpha")
def _(g):
    with_alpha = g.add("JoinImageWithAlpha", image=g.picture(1), alpha=g.mask(1))
    g.save(g.add("ImageBatch", image1=g.picture(0), image2=with_alpha))
    g.save(g.add("ImageBatch", image1=with_alpha, image2=g.picture(0)))


@case("unequal_batches")
def _(g):
    two = g.add("BatchMasksNode", **{"masks.mask0": g.mask(1, "green"), "masks.mask1": g.mask(0, "blue")})
    three = batch(g, 0, 1, 2)
    g.save(g.add("ImageCompositeMasked", destination=three, source=batch(g, 2, 1), x=9, y=4, resize_source=False, mask=two))
    g.save(g.add("PorterDuffImageComposite", source=three, source_alpha=two, destination=batch(g, 1, 0), destination_alpha=g.mask(2), mode="SRC_OVER"))
    g.save(g.add("ImageStitch", image1=three, image2=batch(g, 2, 1), direction="down", match_image_size=True, spacing_width=2, spacing_color="red"))
    g.save(g.add("ImageBlend", image1=three, image2=g.picture(1), blend_factor=0.4, blend_mode="overlay"))
    g.save_mask(g.add("MaskComposite", destination=two, source=g.mask(2), x=5, y=6, operation="add"))


@case("mask_feather")
def _(g):
    g.save_mask(g.add("FeatherMask", mask=g.mask(0), left=5, top=9, right=12, bottom=7))


@case("load_masks")
def _(g):
    for file in ("wide.png", "keyed.png", "frames.png"):
        for channel in ("red", "alpha"):
            g.save_mask(g.add("LoadImageMask", image=file, channel=channel))


@case("load_kinds")
def _(g):
    for file in ("wide.png", "keyed.png", "frames.png"):
        loaded = g.add("LoadImage", image=file)
        g.save(loaded)
        g.save_mask([loaded[0], 1])


WORDS = "The quick brown fox jumps over the lazy dog, 0123456789 times (& more)!\\nAnother line: Pneumonoultramicroscopicsilicovolcanoconiosis é"


@case("text_overlay")
def _(g):
    large = g.add("EmptyImage", width=331, height=257, batch_size=1, color=0x507090)
    for size, position, align, outline, color in ((5.0, "top", "left", True, "#ffffff"), (9.5, "bottom", "center", True, "#ff8800"), (6.0, "top", "right", False, "#20c040"), (50.0, "bottom", "left", True, "#3355ff80")):
        g.save(g.add("TextOverlay", images=large, text=WORDS, font_size=size, color=color, position=position, align=align, outline=outline))
    g.save(g.add("TextOverlay", images=batch(g, 2, 1), text="Over\\ttwo", font_size=12.0, color="#ffffff", position="top", align="center", outline=True))
    g.save(g.add("TextOverlay", images=g.picture(2), text="  ", font_size=5.0, color="#ffffff", position="top", align="left", outline=True))


DRAWN = [{"x": 32, "y": 48, "width": 400, "height": 300, "metadata": {"type": "text", "text": "SALE", "desc": "large letters on a banner that is wide", "palette": ["#ff0000", "#00ff7f", "#102030"]}},
         {"x": 300, "y": 200, "width": 200, "height": -100, "metadata": {"type": "obj", "desc": "a cat that sleeps on an old wooden chair beside the window", "palette": []}},
         {"x": -20, "y": 400, "width": 700, "height": 90, "metadata": {"type": "obj", "desc": "grass", "palette": ["#003300"]}}]


@case("bounding_boxes")
def _(g):
    for width, height, inputs in ((640, 512, {"editor_state": {"__value__": DRAWN}}), (2048, 1024, {"editor_state": {"__value__": []}, "bboxes": g.add("PrimitiveString", value='[{"bbox": [100, 200, 700, 650], "type": "text", "text": "Hi", "desc": "a", "color_palette": ["#abcdef"]}, {"bbox": [0, 0, 300, 1000]}]')}),
                                  (640, 512, {"editor_state": {"__value__": DRAWN[:1]}, "background": g.add("ImageScale", image=g.picture(0), upscale_method="bilinear", width=400, height=300, crop="disabled")})):
        boxes = g.add("CreateBoundingBoxes", width=width, height=height, **inputs)
        g.save(boxes)
        g.show([boxes[0], 1], [boxes[0], 2])


@case("ideogram_prompt")
def _(g):
    boxes = g.add("CreateBoundingBoxes", width=640, height=512, editor_state={"__value__": DRAWN})
    for style in ({"style": "none"}, {"style": "photo", "style.photo": "35mm"}, {"style": "art_style", "style.art_style": "flat"}):
        g.show(g.add("BuildJsonPromptIdeogram", element=[boxes[0], 2], high_level_description=" " if style["style"] == "none" else "A shop.", background="a street", aesthetics="calm", lighting="dusk",
                     medium="poster", color_palette={"__value__": ["#aabbcc", "", "#112233"]}, **style))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--only", default="")
    parser.add_argument("--new", action="store_true")
    arguments = parser.parse_args()
    return 0 if record(arguments.base, HERE, CASES, arguments.only, arguments.new) else 1


if __name__ == "__main__":
    sys.exit(main())
