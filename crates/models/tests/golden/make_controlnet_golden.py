"""Write the tensors that tests/controlnet.rs compares with: tiny ControlNets and adapters, run by a ComfyUI 0.3.64.

Weights and inputs follow the rule of conformance/diffusion/make_checkpoint.py, so only results are kept.
usage: python make_controlnet_golden.py COMFYUI_FOLDER
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
from comfy.cldm.cldm import ControlNet
from comfy.t2i_adapter.adapter import Adapter, Adapter_light

torch.set_num_threads(1)
layouts, out = {}, {}


def noise(name, *shape):
    unit = torch.from_numpy(rule.unit(name, math.prod(shape)))
    return ((2.0 * unit - 1.0) * 1.7320508).reshape(shape)


def fill(name, model):
    layouts[name] = {k: list(v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict({k: rule.tensor(k, s) for k, s in layouts[name].items()})
    return model.eval()


def keep(name, control):
    for part, tensors in control.items():
        for i, tensor in enumerate(tensors):
            if tensor is not None:
                out[f"{name}.{part}.{i}"] = tensor
        out[f"{name}.{part}.length"] = torch.tensor([float(len(tensors))])


COMMON = dict(image_size=32, use_spatial_transformer=True, legacy=False, dtype=torch.float32, device="cpu", hint_channels=3)
SD1 = dict(in_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2], transformer_depth=[1, 1],
           transformer_depth_middle=1, context_dim=24, use_linear_in_transformer=False, num_heads=8, num_head_channels=-1)
XL = dict(SD1, transformer_depth=[0, 2], transformer_depth_middle=2, use_linear_in_transformer=True, num_heads=-1, num_head_channels=16,
          num_classes="sequential", adm_in_channels=20)
UNION = dict(XL, model_channels=320, num_res_blocks=[1], channel_mult=[1], transformer_depth=[0], transformer_depth_middle=-1,
             num_head_channels=64, union_controlnet_num_control_type=6)

with torch.no_grad():
    inputs = dict(x=noise("x", 2, 4, 6, 4), hint=noise("hint", 2, 3, 48, 32), timesteps=torch.tensor([801.25, 17.0]),
                  context=noise("context", 2, 7, 24))
    keep("sd1", fill("sd1", ControlNet(**COMMON, **SD1))(**inputs))
    keep("xl", fill("xl", ControlNet(**COMMON, **XL))(**inputs, y=noise("y", 2, 20)))
    small = dict(x=noise("x", 1, 4, 2, 2), hint=noise("hint", 1, 3, 16, 16), timesteps=torch.tensor([801.25]), context=noise("context", 1, 7, 24),
                 y=noise("y", 1, 20))
    union = fill("union", ControlNet(**COMMON, **UNION))
    keep("union.tile", union(**small, control_type=[5]))
    keep("union.none", union(**small, control_type=[]))

    for name, cin, down, kernel, xl, h, w in [("full", 192, True, 1, False, 40, 24), ("mean", 64, False, 3, False, 40, 24), ("adapter_xl", 768, False, 1, True, 64, 48)]:
        adapter = fill(name, Adapter(channels=[8, 16, 32, 32], nums_rb=2, cin=cin, ksize=kernel, sk=True, use_conv=down, xl=xl))
        keep(name, adapter(noise("hint", 1, adapter.input_channels, h, w)))
    light = fill("light", Adapter_light(channels=[8, 16, 32, 32], nums_rb=4, cin=192))
    keep("light", light(noise("hint", 1, 3, 40, 24)))

(here / "controlnet_layouts.json").write_text(json.dumps(layouts, separators=(",", ":")) + "\n")
save_file({k: v.to(torch.float32).contiguous().clone() for k, v in out.items()}, here / "controlnet.safetensors")
print(sum(v.numel() for v in out.values()) * 4, "bytes", len(out))
