"""Write what a ComfyUI 0.3.64 makes of names: names.json.

usage, with a ComfyUI's folder on PYTHONPATH: make_names.py LAYOUT_FOLDER (conformance/diffusion)
unet.FAMILY: diffusers' names to ldm's, for the weights that the layout has; vae: ldm's names to diffusers' for a whole autoencoder;
saved.sdxl / saved.sd15: the names and shapes of a saved checkpoint's text encoders.
"""
import json, os, sys
layouts = sys.argv[1]
sys.argv = sys.argv[:1] + ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
import comfy.utils, comfy.model_detection, comfy.diffusers_convert, comfy.supported_models
here = os.path.dirname(os.path.abspath(__file__))
out = {}
P = "model.diffusion_model."
for family in ("sd15", "sdxl"):
    layout = json.load(open(f"{layouts}/{family}.layout.json"))
    sd = {k: torch.empty(v, device="meta") for k, v in layout.items()}
    config = comfy.model_detection.detect_unet_config(sd, P)
    names = comfy.utils.unet_to_diffusers(config)
    out[f"unet.{family}"] = {k: v for k, v in sorted(names.items()) if P + v in layout and not k.startswith("class_embedding")}
    model = comfy.model_detection.model_config_from_unet_config(config)
    clip = model.process_clip_state_dict(dict(sd))
    saved = model.process_clip_state_dict_for_saving(dict(clip))
    out[f"saved.{family}"] = {k: list(v.shape) for k, v in sorted(saved.items())}

# diffusers' names of an autoencoder, the older and the newer ones for attention.
def vae(attention):
    names = {}
    def resnet(p, shortcut):
        for n in ["norm1", "conv1", "norm2", "conv2"] + (["conv_shortcut"] if shortcut else []): names[p + n] = None
    for half in ("encoder", "decoder"):
        for n in ("conv_in", "conv_norm_out", "conv_out"): names[f"{half}.{n}"] = None
        for i in range(2): resnet(f"{half}.mid_block.resnets.{i}.", False)
        for n in attention: names[f"{half}.mid_block.attentions.0.{n}"] = None
    for i in range(4):
        for j in range(2): resnet(f"encoder.down_blocks.{i}.resnets.{j}.", j == 0 and i in (1, 2))
        for j in range(3): resnet(f"decoder.up_blocks.{i}.resnets.{j}.", j == 0 and i in (2, 3))
        if i < 3:
            names[f"encoder.down_blocks.{i}.downsamplers.0.conv"] = None
            names[f"decoder.up_blocks.{i}.upsamplers.0.conv"] = None
    names["quant_conv"] = names["post_quant_conv"] = None
    sd = {f"{n}.{k}": torch.zeros((2, 2) if "attentions" in n and "norm" not in n and k == "weight" else (2,)) + i
          for i, n in enumerate(names) for k in ("weight", "bias")}
    ids = {id(v): k for k, v in sd.items()}
    converted = comfy.diffusers_convert.convert_vae_state_dict(sd)
    back = {}
    for to, v in converted.items():
        source = ids.get(id(v)) or next(k for k, w in sd.items() if w.data_ptr() == v.data_ptr())
        back[source] = [to, list(v.shape)]
    return back
out["vae.new"] = vae(["group_norm", "to_q", "to_k", "to_v", "to_out.0"])
out["vae.old"] = vae(["group_norm", "query", "key", "value", "proj_attn"])
json.dump(out, open(os.path.join(here, "names.json"), "w"), separators=(",", ":"))
