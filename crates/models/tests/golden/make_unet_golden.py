"""Write the tensors that tests/unet.rs and tests/unet_hooks.rs compare with: tiny UNets of each family, run by a ComfyUI 0.3.64.

Weights and inputs follow the rule of conformance/diffusion/make_checkpoint.py, so only results are kept.
usage: python make_unet_golden.py COMFYUI_FOLDER
"""
import importlib.util, json, math, pathlib, sys

here = pathlib.Path(__file__).resolve().parent
root = here.parents[3]
sys.path.insert(0, sys.argv[1])
import comfy.cli_args, torch
comfy.cli_args.args.cpu = True
from safetensors.torch import save_file

spec = importlib.util.spec_from_file_location("make_checkpoint", root / "conformance/diffusion/make_checkpoint.py")
rule = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rule)
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

torch.set_num_threads(1)


def noise(name, *shape):
    """Values of about unit variance."""
    unit = torch.from_numpy(rule.unit(name, math.prod(shape)))
    return ((2.0 * unit - 1.0) * 1.7320508).reshape(shape)


def fill(model):
    model.load_state_dict({k: rule.tensor(k, list(v.shape)) for k, v in model.state_dict().items()})
    return model.eval()


COMMON = dict(image_size=32, use_spatial_transformer=True, legacy=False, dtype=torch.float32, device="cpu",
              use_temporal_attention=False, use_temporal_resblock=False)
SD1 = dict(in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2], transformer_depth=[1, 1],
           transformer_depth_output=[1, 1, 1, 1], transformer_depth_middle=1, context_dim=24, use_linear_in_transformer=False,
           num_heads=8, num_head_channels=-1)
XL = dict(in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 2], channel_mult=[1, 2], transformer_depth=[0, 2, 2],
          transformer_depth_output=[0, 0, 2, 1, 2], transformer_depth_middle=2, context_dim=24, use_linear_in_transformer=True,
          num_heads=-1, num_head_channels=16, num_classes="sequential", adm_in_channels=20)
REFINER = dict(XL, num_res_blocks=[1, 1, 1], channel_mult=[1, 2, 2], transformer_depth=[0, 1, 0],
               transformer_depth_output=[0, 0, 1, 1, 0, 0], transformer_depth_middle=1)
CONFIGS = {
    "sd1": SD1,
    "sd2": dict(SD1, use_linear_in_transformer=True, num_heads=-1, num_head_channels=16),
    "xl": XL,
    "refiner": REFINER,
    "inpaint": dict(SD1, in_channels=9),
    "edit": dict(SD1, in_channels=8),
    "distilled": dict(SD1, transformer_depth_middle=-1),
    "headless": dict(SD1, transformer_depth_middle=-2),
}


def build(name):
    return fill(UNetModel(**COMMON, **CONFIGS[name]))


def inputs(name, b, h, w, t=7):
    config = CONFIGS[name]
    y = noise("y", b, config["adm_in_channels"]) if "adm_in_channels" in config else None
    return dict(x=noise("x", b, config["in_channels"], h, w), timesteps=torch.tensor([801.25, 17.0, 999.0][:b]),
                context=noise("context", b, t, config["context_dim"]), y=y)


out = {}
with torch.no_grad():
    steps = torch.tensor([0.0, 1.0, 17.0, 801.25, 999.0])
    out["timestep.32"], out["timestep.7"] = timestep_embedding(steps, 32), timestep_embedding(steps, 7)
    for name in CONFIGS:
        out[f"{name}.even"] = build(name)(**inputs(name, 2, 8, 4), transformer_options={})
    for name in ["sd1", "refiner"]:
        out[f"{name}.odd"] = build(name)(**inputs(name, 1, 7, 5), transformer_options={})

    # Every place of a control: the lists are used up from their ends, and a missing tensor takes its turn.
    unet = build("sd1")
    shapes = [(32, 8, 4), (32, 8, 4), (32, 4, 2), (64, 4, 2)]
    control = {
        "input": [noise(f"control.input.{i}", 2, *s) if i != 1 else None for i, s in enumerate(reversed(shapes))],
        "middle": [noise("control.middle.0", 2, 64, 4, 2)],
        "output": [noise(f"control.output.{i}", 2, *s) if i != 2 else None for i, s in enumerate(shapes)],
    }
    out["control.all"] = unet(**inputs("sd1", 2, 8, 4), control={k: list(v) for k, v in control.items()}, transformer_options={})
    # Shorter lists, as adapters give, and one picture for the whole batch.
    short = {"input": [noise("control.short", 1, 32, 8, 4)]}
    out["control.short"] = unet(**inputs("sd1", 2, 8, 4), control=short, transformer_options={})


# The nodes' own patches, caught by a stand-in for the model.
class Caught:
    def __init__(self, channels):
        self.model = self
        self.model_config = self
        self.unet_config = {"model_channels": channels}
        self.patches, self.replace, self.post_cfg = {}, {}, []

    def clone(self):
        return self

    def get_model_object(self, _name):
        return self

    def percent_to_sigma(self, percent):
        return 10.0 * (1.0 - percent)

    def set_model_sampler_post_cfg_function(self, f, disable_cfg1_optimization=False):
        self.post_cfg.append(f)

    def set_model_attn1_replace(self, f, block, number, transformer=None):
        self.replace.setdefault("attn1", {})[(block, number) if transformer is None else (block, number, transformer)] = f

    def __getattr__(self, name):
        if name.startswith("set_model_") and ("_patch" in name):
            return lambda f: self.patches.setdefault(name[len("set_model_"):], []).append(f)
        raise AttributeError(name)

    def options(self, cond_or_uncond, sigma):
        return {"patches": self.patches, "patches_replace": self.replace, "cond_or_uncond": cond_or_uncond, "sigmas": torch.tensor([sigma])}


def run(caught, name, b, h, w, sigma=9.0, cond_or_uncond=(1, 0), seed=None):
    unet = build(name)
    if seed is not None:
        torch.manual_seed(seed)
    return unet(**inputs(name, b, h, w), transformer_options=caught.options(list(cond_or_uncond), sigma))


import comfy_extras.nodes_freelunch as freelunch, comfy_extras.nodes_hypertile as hypertile, comfy_extras.nodes_sag as sag
import comfy_extras.nodes_model_downscale as downscale, comfy_extras.nodes_tomesd as tome

with torch.no_grad():
    for cls in [freelunch.FreeU, freelunch.FreeU_V2]:
        for h, w in [(6, 4), (5, 3)]:
            caught = Caught(16)
            cls().patch(caught, 1.3, 1.4, 0.9, 0.2)
            for channels in [64, 32]:
                a, b = caught.patches["output_block_patch"][0](noise("h", 2, channels, h, w), noise("skip", 2, channels, h, w), {})
                key = f"{cls.__name__}.{h}x{w}.{channels}"
                out[f"{key}.h"], out[f"{key}.skip"] = a.clone(), b.clone()
    caught = Caught(16)
    freelunch.FreeU().patch(caught, 1.3, 1.4, 0.9, 0.2)
    out["FreeU.unet"] = run(caught, "sd1", 2, 8, 4)

    for depth, scale in [(0, False), (1, True)]:
        caught = Caught(32)
        hypertile.HyperTile.execute(caught, 32, 3, depth, scale)
        out[f"HyperTile.{depth}"] = run(caught, "sd1", 1, 16, 24, seed=11)

    caught = Caught(32)
    tome.TomePatchModel.execute(caught, 0.5)
    out["ToMe.even"] = run(caught, "sd1", 2, 8, 6, seed=12)
    out["ToMe.odd"] = run(caught, "sd1", 1, 7, 5, seed=13)

    for method in ["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]:
        caught = Caught(32)
        downscale.PatchModelAddDownscale.execute(caught, 1, 2.0, 0.0, 0.35, True, method, method)
        out[f"Downscale.{method}"] = run(caught, "sd1", 1, 8, 12)
    caught = Caught(32)
    downscale.PatchModelAddDownscale.execute(caught, 1, 1.7, 0.0, 0.35, False, "bilinear", "bicubic")
    out["Downscale.before"] = run(caught, "sd1", 1, 8, 12)
    out["Downscale.late"] = run(caught, "sd1", 1, 8, 12, sigma=6.0)

    caught = Caught(32)
    sag.SelfAttentionGuidance.execute(caught, 0.5, 2.0)
    record = caught.replace["attn1"][("middle", 0, 0)]
    out["SAG.unet"] = run(caught, "sd1", 2, 8, 4, cond_or_uncond=(0, 1))
    cells = dict(zip(record.__code__.co_freevars, record.__closure__))
    out["SAG.scores"] = cells["attn_scores"].cell_contents.clone()
    caught.replace = {"attn1": {("middle", 0): lambda q, k, v, extra_options, mask=None: v}}
    out["PAG.unet"] = run(caught, "sd1", 2, 8, 4)

layouts = {name: {k: list(v.shape) for k, v in build(name).state_dict().items()} for name in ["sd1", "xl", "refiner"]}
(here / "unet_layouts.json").write_text(json.dumps(layouts, separators=(",", ":")) + "\n")
save_file({k: v.to(torch.float32).contiguous().clone() for k, v in out.items()}, here / "unet.safetensors")
print(sum(v.numel() for v in out.values()) * 4, "bytes", len(out))
