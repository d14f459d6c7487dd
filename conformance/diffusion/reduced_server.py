#!/usr/bin/env python3
"""ComfyUI with room for the reduced models that layouts.py describes: their widths take the place of those that it knows, and all else is
as it is. In ComfyUI's environment:

  reduced_server.py COMFYUI_DIR --cpu --port PORT [any argument of ComfyUI's main.py]
"""
import os, runpy, sys
import layouts
import comfy.sd, comfy.sd1_clip, comfy.supported_models

for family, config in ((comfy.supported_models.SD15, layouts.BASE), (comfy.supported_models.SD20, layouts.SD2), (comfy.supported_models.SDXL, layouts.SDXL), (comfy.supported_models.SDXLRefiner, layouts.REFINER),
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

os.chdir(layouts.COMFYUI)
runpy.run_path("main.py", run_name="__main__")
