#!/usr/bin/env python3
"""ComfyUI with room for the reduced models that layouts.py describes: their widths take the place of those that it knows, and all else is
as it is. In ComfyUI's environment:

  reduced_server.py COMFYUI_DIR --cpu --port PORT [any argument of ComfyUI's main.py]
"""
import os, runpy, sys
import layouts, torch
import comfy.clip_vision, comfy.model_base, comfy.sd, comfy.sd1_clip, comfy.supported_models

for family, config in ((comfy.supported_models.SD15, layouts.BASE), (comfy.supported_models.SD20, layouts.SD2), (comfy.supported_models.SD21UnclipH, layouts.UNCLIP), (comfy.supported_models.SDXL, layouts.SDXL), (comfy.supported_models.SDXLRefiner, layouts.REFINER),
                       (comfy.supported_models.SD15_instructpix2pix, dict(layouts.BASE, in_channels=8))):
    family.unet_config.update({key: config[key] for key in family.unet_config if key in config})

init = comfy.sd1_clip.SDClipModel.__init__
def reduced_text(self, *values, textmodel_json_config=None, **more):
    config = layouts.TEXT_L if textmodel_json_config is None else layouts.TEXT_H
    init(self, *values, textmodel_json_config=dict(config), **more)
comfy.sd1_clip.SDClipModel.__init__ = reduced_text

autoencoder = comfy.sd.AutoencoderKL
# Later ones tell the width of the decoder apart.
comfy.sd.AutoencoderKL = lambda ddconfig, embed_dim, decoder_ddconfig=None: autoencoder(ddconfig=dict(ddconfig, ch=layouts.DD["ch"]), embed_dim=embed_dim)

# Vision encoders: the layers of the file tell which one it is, as before, and SigLIP has no token for the class.
load_vision, vision_init, siglip = comfy.clip_vision.load_clipvision_from_sd, comfy.clip_vision.ClipVisionModel.__init__, []
def reduced_load(sd, prefix="", convert_keys=False):
    siglip[:] = [True] if "vision_model.embeddings.patch_embedding.bias" in sd else []
    return load_vision(sd, prefix, convert_keys)
def reduced_vision(self, config):
    vision_init(self, layouts.SIGLIP | dict(image_mean=[0.5] * 3, image_std=[0.5] * 3) if siglip else layouts.VISION_H if config.endswith("_h.json") else layouts.VISION_L)
comfy.clip_vision.load_clipvision_from_sd, comfy.clip_vision.ClipVisionModel.__init__ = reduced_load, reduced_vision

# Embeddings of pictures take the place of the pooled text, whose width the reference knows.
width, augmentation = layouts.VISION["projection_dim"], comfy.model_base.CLIPEmbeddingNoiseAugmentation
comfy.supported_models.SD21UnclipH.noise_aug_config = dict(comfy.supported_models.SD21UnclipH.noise_aug_config, timestep_dim=width)
comfy.model_base.CLIPEmbeddingNoiseAugmentation = lambda timestep_dim, **more: augmentation(timestep_dim=width, **more)
def reduced_pooled(args, augmentor):
    if "unclip_conditioning" not in args: return args["pooled_output"]
    return comfy.model_base.unclip_adm(args["unclip_conditioning"], args["device"], augmentor, seed=args.get("seed", 0) - 10)[:, :width]
comfy.model_base.sdxl_pooled = reduced_pooled

adapter, redux = comfy.t2i_adapter.adapter.StyleAdapter, comfy.ldm.flux.redux.ReduxImageEncoder
comfy.t2i_adapter.adapter.StyleAdapter = lambda width, context_dim, **more: adapter(width=layouts.VISION["hidden_size"], context_dim=layouts.TEXT_L["hidden_size"], **more)
comfy.ldm.flux.redux.ReduxImageEncoder = lambda: redux(layouts.SIGLIP["hidden_size"], layouts.TEXT_L["hidden_size"])

class ShowConditioning:
    """What a conditioning tells a model, by name: numbers and texts as they are, of arrays the axes and mean sizes."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"conditioning": ("CONDITIONING",)}})
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "show", True, "tests"
    def show(self, conditioning):
        def told(value):
            if isinstance(value, (list, tuple)): return "[" + ", ".join(map(told, value)) + "]"
            if isinstance(value, dict): return "{" + ", ".join(f"{name} {told(one)}" for name, one in sorted(value.items())) + "}"
            if hasattr(value, "penultimate_hidden_states"): return " ".join(["seen"] + [told(getattr(value, name)) for name in ("last_hidden_state", "penultimate_hidden_states", "image_embeds") if hasattr(value, name)])
            if hasattr(value, "shape"):
                # The second mean changes with signs and places too.
                flat = value.double().flatten(); place = (torch.arange(flat.numel()) * 7919 % 1009).double() / 1009
                return f"{'x'.join(map(str, value.shape))} {flat.abs().mean():.3g} {(flat + place).abs().mean():.3g}"
            if isinstance(value, (int, float)): return f"{value:.6g}"
            return str(value)
        return {"ui": {"text": [f"{name} {told(value)}" for text, more in conditioning for name, value in [("text", text), *sorted(more.items())] if name != "pooled_output" or value is not None]}}

import nodes
nodes.NODE_CLASS_MAPPINGS["ShowConditioning"] = ShowConditioning

os.chdir(layouts.COMFYUI)
runpy.run_path("main.py", run_name="__main__")
