#!/usr/bin/env python3
"""Write models.json of extra, families and reduced: the names and shapes of the model files that the recorded cases use, from ComfyUI's classes. In ComfyUI's environment:

  layouts.py COMFYUI_DIR
"""
import json, os, sys
HERE = os.path.dirname(os.path.abspath(__file__))
COMFYUI = sys.argv[1]
sys.path.insert(0, COMFYUI); sys.argv = sys.argv[:1] + (sys.argv[2:] or ["--cpu"])
import comfy.options; comfy.options.enable_args_parsing()
import torch
import comfy.ops, comfy.model_base, comfy.supported_models, comfy.clip_model
from comfy.cldm.cldm import ControlNet
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.taesd.taesd import Decoder, Encoder
from comfy.ldm.flux.redux import ReduxImageEncoder
from comfy.t2i_adapter.adapter import Adapter, StyleAdapter
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

UNET, CLIP_L = "model.diffusion_model.", "cond_stage_model.transformer."
OPERATIONS = comfy.ops.disable_weight_init

def shapes(module, prefix=""): return {prefix + k: list(v.shape) for k, v in module.state_dict().items()}

# The reduced models: the names of whole ones, few channels.
WIDTH = 32
TEXT_L = dict(vocab_size=49408, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2, hidden_act="gelu", max_position_embeddings=77, eos_token_id=49407, projection_dim=128)
TEXT_H = dict(TEXT_L, num_hidden_layers=4, hidden_size=192, intermediate_size=384, num_attention_heads=3, projection_dim=192)
DD = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 2, 4, 4], num_res_blocks=2, attn_resolutions=[], dropout=0.0)
BASE = dict(image_size=32, in_channels=4, out_channels=4, model_channels=WIDTH, num_res_blocks=[2, 2, 2, 2], channel_mult=[1, 2, 4, 4], transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
            transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], transformer_depth_middle=1, use_linear_in_transformer=False, num_heads=8, num_head_channels=-1, context_dim=128,
            legacy=False, use_spatial_transformer=True, adm_in_channels=None, dtype=torch.float32)
SD2 = dict(BASE, use_linear_in_transformer=True, num_heads=-1, num_head_channels=64, context_dim=192, model_channels=64, channel_mult=[1, 1, 2, 2])
SDXL = dict(BASE, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], transformer_depth=[0, 0, 1, 1, 2, 2], transformer_depth_output=[0, 0, 0, 1, 1, 1, 2, 2, 2], transformer_depth_middle=2,
            use_linear_in_transformer=True, num_heads=-1, num_head_channels=64, context_dim=320, adm_in_channels=192 + 6 * 256, num_classes="sequential")

REFINER = dict(BASE, transformer_depth=[0, 0, 2, 2, 2, 2, 0, 0], transformer_depth_output=[0, 0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0], transformer_depth_middle=2,
               use_linear_in_transformer=True, num_heads=-1, num_head_channels=64, context_dim=192, adm_in_channels=192 + 5 * 256, num_classes="sequential")

# Vision encoders: the numbers of layers tell which one it is. The embedding is as wide as the reduced SDXL's pooled text.
VISION = dict(hidden_size=64, intermediate_size=128, num_attention_heads=16, num_channels=3, patch_size=14, image_size=224, model_type="clip_vision_model", projection_dim=192)
VISION_L, VISION_H = dict(VISION, num_hidden_layers=24, hidden_act="quick_gelu"), dict(VISION, num_hidden_layers=32, hidden_act="gelu")
SIGLIP = dict(hidden_size=32, intermediate_size=64, num_attention_heads=16, num_channels=3, patch_size=14, image_size=384, model_type="siglip_vision_model", num_hidden_layers=27, hidden_act="gelu_pytorch_tanh")
UNCLIP = dict(SD2, adm_in_channels=2 * VISION["projection_dim"], num_classes="sequential")

def unet(**config):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    return shapes(UNetModel(**config, device="meta", operations=OPERATIONS), UNET)

def vae(): return {k: s for k, s in shapes(AutoencoderKL(ddconfig=DD, embed_dim=4), "first_stage_model.").items() if "model_ema" not in k and ".loss." not in k}

def clip(config, prefix): return {k: s for k, s in shapes(comfy.clip_model.CLIPTextModel(config, torch.float32, "meta", OPERATIONS), prefix).items() if "text_projection" not in k}

def open_clip(config, prefix):
    d, out = config["hidden_size"], {}
    out["positional_embedding"], out["token_embedding.weight"] = [77, d], [config["vocab_size"], d]
    for k in ("ln_final.weight", "ln_final.bias"): out[k] = [d]
    out["text_projection"], out["logit_scale"] = [d, d], []
    for i in range(config["num_hidden_layers"]):
        p = f"transformer.resblocks.{i}."
        for k in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "attn.out_proj.bias", "mlp.c_proj.bias"): out[p + k] = [d]
        out[p + "attn.in_proj_weight"], out[p + "attn.in_proj_bias"], out[p + "attn.out_proj.weight"] = [3 * d, d], [3 * d], [d, d]
        out[p + "mlp.c_fc.weight"], out[p + "mlp.c_fc.bias"] = [config["intermediate_size"], d], [config["intermediate_size"]]
        out[p + "mlp.c_proj.weight"] = [d, config["intermediate_size"]]
    return {prefix + k: s for k, s in out.items()}

def vision(config): return shapes(comfy.clip_model.CLIPVisionModelProjection(config, torch.float32, "meta", OPERATIONS))

def open_clip_vision(config, prefix):
    d, patch = config["hidden_size"], config["patch_size"]
    out = {"class_embedding": [d], "conv1.weight": [d, 3, patch, patch], "positional_embedding": [(config["image_size"] // patch) ** 2 + 1, d], "proj": [d, config["projection_dim"]]}
    for k in ("ln_pre", "ln_post"): out[k + ".weight"] = out[k + ".bias"] = [d]
    layers = open_clip(dict(config, vocab_size=1), "")
    return {prefix + k: s for k, s in {**out, **{k: s for k, s in layers.items() if k.startswith("transformer.")}}.items()}

def gligen(layout, text, objects=48):
    """Parts for each transformer of a UNet."""
    out = {}
    for name, shape in layout.items():
        if not name.endswith("transformer_blocks.0.norm1.weight"): continue
        p, d = name[len(UNET):-len("norm1.weight")] + "fuser.", shape[0]
        out[p + "linear.weight"], out[p + "linear.bias"], out[p + "alpha_attn"], out[p + "alpha_dense"] = [d, objects], [d], [], []
        for k in ("norm1", "norm2"): out[p + k + ".weight"] = out[p + k + ".bias"] = [d]
        for k in ("to_q", "to_k", "to_v", "to_out.0"): out[f"{p}attn.{k}.weight"] = [d, d]
        out[p + "attn.to_out.0.bias"], out[p + "ff.net.0.proj.weight"], out[p + "ff.net.0.proj.bias"], out[p + "ff.net.2.weight"], out[p + "ff.net.2.bias"] = [d], [8 * d, d], [8 * d], [d, 4 * d], [d]
    n = "position_net."
    out[n + "null_positive_feature"], out[n + "null_position_feature"] = [text], [64]
    for i, (a, b) in zip((0, 2, 4), ((text + 64, 512), (512, 512), (512, objects))): out[f"{n}linears.{i}.weight"], out[f"{n}linears.{i}.bias"] = [b, a], [b]
    return dict(tensors=out, values={"alpha_attn": 0.7, "alpha_dense": 0.4})

def style(width, text):
    """A style adapter of T2I-Adapter: three blocks, eight tokens."""
    return shapes(StyleAdapter(width=width, context_dim=text, num_head=8, n_layes=3, num_token=8))

def redux(seen, text): return shapes(ReduxImageEncoder(seen, text, device="meta"))

def weights(layout, *parts, text=True):
    """The names in LoRA files of the weights that have one of these parts in their names, and their shapes."""
    for k, s in layout.items():
        if not k.endswith(".weight") or len(s) < 2: continue
        if k.startswith(UNET) and any(p in k for p in parts): yield "lora_unet_" + k[len(UNET):-7].replace(".", "_"), s
        elif text and k.startswith(CLIP_L + "text_model.encoder"): yield "lora_te_" + k[len(CLIP_L):-7].replace(".", "_"), s

def lora(layout, *parts, rank=4, dora=False, **more):
    out = {}
    for n, s in weights(layout, *parts, **more):
        out[n + ".lora_down.weight"], out[n + ".lora_up.weight"], out[n + ".alpha"] = [rank] + s[1:], [s[0], rank] + [1] * (len(s) - 2), []
        if dora: out[n + ".dora_scale"] = [s[0]] + [1] * (len(s) - 1)
    return dict(tensors=out, values={".alpha": 2.0}, near_one=[".dora_scale"])

def kohya(layout, config, text):
    """kohya's names: those of diffusers' UNet with underscores, and the text encoders of `text`, whose names are transformers'."""
    from comfy.utils import unet_to_diffusers
    out = {}
    def add(n, s): out[n + ".lora_down.weight"], out[n + ".lora_up.weight"], out[n + ".alpha"] = [4] + s[1:], [s[0], 4] + [1] * (len(s) - 2), []
    for name, ldm in unet_to_diffusers(config).items():
        if name.endswith(".weight") and "attentions" in name and ("attn2" in name or "proj_in" in name): add("lora_unet_" + name[:-7].replace(".", "_"), layout[UNET + ldm])
    for number, config in text.items():
        for k, s in clip(config, "").items():
            if k.endswith(".weight") and len(s) == 2 and "encoder.layers" in k: add(number + k[:-7].replace(".", "_"), s)
    return dict(tensors=out, values={".alpha": 2.0})

def loha(layout, *parts, rank=4):
    out = {}
    for n, s in weights(layout, *parts):
        for w in ("w1", "w2"): out[f"{n}.hada_{w}_a"], out[f"{n}.hada_{w}_b"] = [s[0], rank], [rank, s[1]]
        out[n + ".alpha"] = []
    return dict(tensors=out, values={".alpha": 8.0})

def lokr(layout, *parts, rank=4, factor=8):
    out = {}
    for n, s in weights(layout, *parts):
        out[n + ".lokr_w1"], out[n + ".lokr_w2_a"], out[n + ".lokr_w2_b"], out[n + ".alpha"] = [factor, factor], [s[0] // factor, rank], [rank, s[1] // factor], []
    return dict(tensors=out, values={".alpha": 2.0})

def diffusers(layout, part):
    """The names that diffusers gave to attention processors, for some layers."""
    blocks = {"input_blocks.1.1.transformer_blocks.0.": "down_blocks.0.attentions.0.transformer_blocks.0.", "middle_block.1.transformer_blocks.0.": "mid_block.attentions.0.transformer_blocks.0."}
    out = {}
    for ldm, name in blocks.items():
        for p in ("to_q", "to_k", "to_v", "to_out.0"):
            s = layout[f"{UNET}{ldm}{part}.{p}.weight"]
            n = f"unet.{name}{part}.processor.{p.removesuffix('.0')}_lora"
            out[n + ".down.weight"], out[n + ".up.weight"] = [4, s[1]], [s[0], 4]
    return dict(tensors=out)

def controlnet(**config):
    config = {k: v for k, v in config.items() if k not in ("out_channels", "transformer_depth_output", "legacy")}
    return shapes(ControlNet(**config, hint_channels=3, device="meta", operations=OPERATIONS), "control_model.")

def control_lora(unet, rank=4, **config):
    """A ControlNet whose convolutions and matrices are differences to those of `unet`; the norms before convolutions are the UNet's own."""
    out = {"lora_controlnet": []}
    for k, s in controlnet(**config).items():
        k = k.removeprefix("control_model.")
        if UNET + k not in unet: out[k] = s
        elif len(s) > 1: out[k[:-6] + "up"], out[k[:-6] + "down"] = [s[0], rank] + [1] * (len(s) - 2), [rank] + s[1:]
        elif "_layers.0." not in k: out[k] = s
    return plain(out)

def adapter(channels): return shapes(Adapter(cin=192, channels=[channels, channels * 2, channels * 4, channels * 4], nums_rb=2, ksize=1, sk=True, use_conv=False, xl=False))

def plain(tensors, **more): return dict(tensors=tensors, **more)

full = json.load(open(os.path.join(HERE, "sd15.layout.json")))
FULL = dict(BASE, model_channels=320, context_dim=768, dtype=torch.float16)
tiny = {"vae_approx/taesd_decoder.safetensors": plain(shapes(Decoder()), prefix="taesd_decoder.", dtype="f32"), "vae_approx/taesd_encoder.safetensors": plain(shapes(Encoder()), prefix="taesd_encoder.", dtype="f32")}
extra = {
    "loras/lora_random.safetensors": lora(full, "attn", ".ff.", "in_layers.2"),
    "loras/dora_random.safetensors": lora(full, "attn2", dora=True),
    "loras/loha_random.safetensors": loha(full, "attn2"),
    "loras/lokr_random.safetensors": lokr(full, "attn2"),
    "controlnet/controlnet_random.safetensors": plain(controlnet(**FULL)),
    "controlnet/control_lora_random.safetensors": control_lora(full, **FULL),
    "controlnet/t2i_random.safetensors": plain(adapter(320)),
    "embeddings/emb_random.safetensors": plain({"emb_params": [3, 768]}, prefix="embedding.", dtype="f32"),
    **tiny,
    "upscale_models/esrgan_random.safetensors": plain(shapes(RRDBNet(in_nc=3, out_nc=3, num_filters=32, num_blocks=3, scale=4)), prefix="esrgan.", dtype="f32"),
}
# Full size. Stable Diffusion 2's two predictions are told apart by the spread of one tensor.
SD15_FULL, V_MARK = "checkpoints/sd15_random.safetensors", UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
def random(name): return f"checkpoints/{name}_random.safetensors"
OPEN_CLIP_H, OPEN_CLIP_G = dict(TEXT_H, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24), dict(TEXT_H, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32)
VAE_FULL = [SD15_FULL, "first_stage_model.", "first_stage_model."]
REFINER_FULL = dict(REFINER, model_channels=384, context_dim=1280, adm_in_channels=1280 + 5 * 256, transformer_depth_middle=4, transformer_depth=[2 * n for n in REFINER["transformer_depth"]], transformer_depth_output=[2 * n for n in REFINER["transformer_depth_output"]])
families = {
    SD15_FULL: plain(full),
    random("sd2_eps"): plain({**unet(**dict(SD2, model_channels=320, channel_mult=[1, 2, 4, 4], context_dim=1024)), **open_clip(OPEN_CLIP_H, "cond_stage_model.model.")}, like=[VAE_FULL]),
    random("sd2_v"): plain({}, like=[[random("sd2_eps"), "", ""], VAE_FULL], scaled={V_MARK: 20.0}),
    random("sd15_inpaint"): plain({UNET + "input_blocks.0.0.weight": [320, 9, 3, 3]}, like=[[SD15_FULL, "", ""]]),
    random("sd15_ip2p"): plain({UNET + "input_blocks.0.0.weight": [320, 8, 3, 3]}, like=[[SD15_FULL, "", ""]]),
    random("sdxl_refiner"): plain({**unet(**REFINER_FULL), **open_clip(OPEN_CLIP_G, "conditioner.embedders.0.model.")}, like=[VAE_FULL]),
}
sdxl = unet(**SDXL)
SD15 = "checkpoints/sd15.safetensors"
VAE = [SD15, "first_stage_model.", "first_stage_model."]
sd15 = {**unet(**BASE), **clip(TEXT_L, CLIP_L), **vae()}
reduced = {
    "checkpoints/sd15.safetensors": plain(sd15),
    "checkpoints/other.safetensors": plain({}, like=[[SD15, "", ""]], prefix="other."),
    "checkpoints/inpaint.safetensors": plain({UNET + "input_blocks.0.0.weight": [WIDTH, 9, 3, 3]}, like=[[SD15, "", ""]]),
    "checkpoints/sd2.safetensors": plain({**unet(**SD2), **open_clip(TEXT_H, "cond_stage_model.model.")}, like=[VAE]),
    "checkpoints/sdxl.safetensors": plain(unet(**SDXL), like=[[SD15, CLIP_L, "conditioner.embedders.0.transformer."], ["checkpoints/sd2.safetensors", "cond_stage_model.model.", "conditioner.embedders.1.model."], VAE]),
    "checkpoints/refiner.safetensors": plain(unet(**REFINER), like=[["checkpoints/sd2.safetensors", "cond_stage_model.model.", "conditioner.embedders.0.model."], VAE]),
    "checkpoints/edit.safetensors": plain({UNET + "input_blocks.0.0.weight": [WIDTH, 8, 3, 3]}, like=[[SD15, "", ""]]),
    # Matrices in eight bits with scales, others in sixteen, under the names of ComfyUI 0.3.64 and of later ones.
    "checkpoints/scaled.safetensors": plain({}, like=[[SD15, "", ""]], eight_bits=dict(root=UNET, parts=["attn", ".ff."], names="scale_weight")),
    "checkpoints/scaled_later.safetensors": plain({}, like=[[SD15, "", ""]], eight_bits=dict(root=UNET, parts=["attn", ".ff."], names="weight_scale")),
    "checkpoints/unclip.safetensors": plain({**unet(**UNCLIP), **open_clip_vision(VISION_H, "embedder.model.visual.")}, like=[["checkpoints/sd2.safetensors", "cond_stage_model.model.", "cond_stage_model.model."], VAE]),
    "clip_vision/clip_l.safetensors": plain(vision(VISION_L)),
    "clip_vision/clip_h.safetensors": plain(open_clip_vision(VISION_H, "visual.")),
    "clip_vision/siglip.safetensors": plain(vision(SIGLIP)),
    # GLIGEN's objects are as wide as the text: the reference tells the width of heads by it.
    "gligen/gligen.safetensors": gligen(unet(**SD2), TEXT_H["hidden_size"], TEXT_H["hidden_size"]),
    "style_models/style.safetensors": plain(style(VISION["hidden_size"], TEXT_L["hidden_size"])),
    "style_models/redux.safetensors": plain(redux(SIGLIP["hidden_size"], TEXT_L["hidden_size"])),
    "diffusion_models/unet.safetensors": plain({}, like=[[SD15, UNET, ""]], prefix=UNET),
    "text_encoders/clip_l.safetensors": plain({}, like=[[SD15, CLIP_L, ""]], prefix=CLIP_L),
    "vae/vae.safetensors": plain({}, like=[[SD15, VAE[1], ""]], prefix=VAE[1]),
    "loras/lora.safetensors": lora(sd15, "attn", ".ff.", "in_layers.2"),
    "loras/kohya.safetensors": kohya(sd15, BASE, {"lora_te_": TEXT_L}),
    "loras/sdxl.safetensors": kohya(sdxl, SDXL, {"lora_te1_": TEXT_L, "lora_te2_": TEXT_H}),
    "loras/dora.safetensors": lora(sd15, "attn2", dora=True),
    "loras/loha.safetensors": loha(sd15, "attn2"),
    "loras/lokr.safetensors": lokr(sd15, "attn2"),
    "loras/diffusers.safetensors": diffusers(sd15, "attn1"),
    # Twice as many inputs as the weights have: nothing of it fits.
    "loras/misfit.safetensors": lora({k: [s[0], s[1] * 2] + s[2:] for k, s in sd15.items() if len(s) > 1}, "middle_block.1", text=False),
    "controlnet/controlnet.safetensors": plain(controlnet(**BASE)),
    "controlnet/sdxl.safetensors": plain(controlnet(**SDXL)),
    "controlnet/net_shuffle.safetensors": plain({}, like=[["controlnet/controlnet.safetensors", "", ""]]),
    "controlnet/lora.safetensors": control_lora(sd15, **BASE),
    "controlnet/lora_sdxl.safetensors": control_lora(sdxl, **SDXL),
    "controlnet/t2i.safetensors": plain(adapter(WIDTH)),
    "embeddings/emb.safetensors": plain({"emb_params": [3, 128]}, prefix="embedding.", dtype="f32"),
    **tiny,
    "upscale_models/esrgan.safetensors": plain(shapes(RRDBNet(in_nc=3, out_nc=3, num_filters=16, num_blocks=1, scale=4)), prefix="esrgan.", dtype="f32"),
}
if __name__ == "__main__":
    for name, models in (("extra", extra), ("families", families), ("reduced", reduced)):
        json.dump(models, open(os.path.join(HERE, name, "models.json"), "w"), separators=(",", ":"))
        print(name, {file: len(model["tensors"]) for file, model in models.items()})
