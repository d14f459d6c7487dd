"""Write LoRA files in every naming scheme and of every kind, and what a ComfyUI 0.3.64 makes of the weights.

usage, with a ComfyUI's folder on PYTHONPATH: make_golden.py
adapters.safetensors: tensors 'KIND.weight' (the weight), 'KIND.key.…' (the file's tensors for the name 'key') and
'KIND.out.STRENGTH' (the weight after it).
"""
import os, sys, torch
sys.argv = sys.argv[:1] + ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
from safetensors.torch import save_file
import comfy.lora

# Some versions of torch refuse the views that the reference multiplies here.
kron = torch.kron
torch.kron = lambda a, b: kron(a.contiguous(), b.contiguous())

torch.manual_seed(7)
here = os.path.dirname(os.path.abspath(__file__))
r = lambda *shape: torch.randn(*shape) * 0.3
linear, square, conv = r(8, 12), r(8, 8), r(8, 6, 3, 3)
cases = {
    "lora": (linear, {"lora_up.weight": r(8, 4), "lora_down.weight": r(4, 12), "alpha": torch.tensor(2.0)}),
    "lora_plain": (linear, {"lora_B.weight": r(8, 4).half(), "lora_A.weight": r(4, 12).half()}),
    "lora_on_conv": (r(8, 6, 1, 1), {"lora_up.weight": r(8, 4, 1, 1), "lora_down.weight": r(4, 6, 1, 1), "alpha": torch.tensor(1.0)}),
    "locon": (conv, {"lora_up.weight": r(8, 4, 1, 1), "lora_down.weight": r(4, 6, 3, 3), "alpha": torch.tensor(4.0)}),
    "locon_mid": (conv, {"lora_up.weight": r(8, 4, 1, 1), "lora_down.weight": r(4, 6, 1, 1), "lora_mid.weight": r(4, 4, 3, 3), "alpha": torch.tensor(2.0)}),
    "dora_out": (linear, {"lora_up.weight": r(8, 4), "lora_down.weight": r(4, 12), "alpha": torch.tensor(2.0), "dora_scale": r(8, 1).abs()}),
    "dora_in": (linear, {"lora_up.weight": r(8, 4), "lora_down.weight": r(4, 12), "alpha": torch.tensor(2.0), "dora_scale": r(1, 12).abs()}),
    "dora_conv": (conv, {"lora_up.weight": r(8, 4, 1, 1), "lora_down.weight": r(4, 6, 3, 3), "dora_scale": r(1, 6, 1, 1).abs()}),
    "reshape": (linear, {"lora_up.weight": r(10, 4), "lora_down.weight": r(4, 14), "reshape_weight": torch.tensor([10, 14])}),
    "loha": (linear, {"hada_w1_a": r(8, 3), "hada_w1_b": r(3, 12), "hada_w2_a": r(8, 3), "hada_w2_b": r(3, 12), "alpha": torch.tensor(1.5)}),
    "loha_conv": (conv, {"hada_w1_a": r(3, 8), "hada_w1_b": r(3, 6), "hada_w2_a": r(3, 8), "hada_w2_b": r(3, 6), "hada_t1": r(3, 3, 3, 3), "hada_t2": r(3, 3, 3, 3), "alpha": torch.tensor(1.5)}),
    "lokr": (linear, {"lokr_w1": r(2, 3), "lokr_w2": r(4, 4), "alpha": torch.tensor(3.0)}),
    "lokr_factors": (linear, {"lokr_w1_a": r(2, 2), "lokr_w1_b": r(2, 3), "lokr_w2_a": r(4, 2), "lokr_w2_b": r(2, 4), "alpha": torch.tensor(3.0)}),
    "lokr_conv": (conv, {"lokr_w1": r(2, 2), "lokr_w2_a": r(2, 4), "lokr_w2_b": r(2, 3), "lokr_t2": r(2, 2, 3, 3), "alpha": torch.tensor(1.0)}),
    "lokr_conv_whole": (conv, {"lokr_w1": r(2, 2), "lokr_w2": r(4, 3, 3, 3)}),
    "glora": (linear, {"a1.weight": r(12, 3), "a2.weight": r(3, 12), "b1.weight": r(8, 3), "b2.weight": r(3, 12), "alpha": torch.tensor(1.0)}),
    "glora_old": (square, {"a1.weight": r(3, 8), "a2.weight": r(8, 3), "b1.weight": r(3, 8), "b2.weight": r(8, 3), "alpha": torch.tensor(1.0)}),
    "glora_conv": (r(8, 6, 1, 1), {"a1.weight": r(6, 3), "a2.weight": r(3, 6), "b1.weight": r(8, 3), "b2.weight": r(3, 6)}),
    "oft": (linear, {"oft_blocks": r(2, 4, 4), "alpha": torch.tensor(0.5)}),
    "oft_conv": (conv, {"oft_blocks": r(4, 2, 2)}),
    "boft": (linear, {"oft_blocks": r(2, 2, 4, 4), "alpha": torch.tensor(0.7), "rescale": r(8, 1)}),
    "diff": (conv, {"diff": r(8, 6, 3, 3)}),
    "norm": (r(8), {"w_norm": r(8)}),
    "set": (linear, {"set_weight": r(8, 12)}),
}
out = {}
for name, (weight, parts) in cases.items():
    out[f"{name}.weight"] = weight.clone()
    for part, tensor in parts.items():
        out[f"{name}.key.{part}"] = tensor
    lora = {f"key.{part}": tensor for part, tensor in parts.items()}
    patch = comfy.lora.load_lora(lora, {"key": "a.weight"})["a.weight"]
    for strength in (1.0, 0.6):
        out[f"{name}.out.{strength}"] = comfy.lora.calculate_weight([(strength, patch, 1.0, None, None)], weight.clone(), "a.weight").clone()
save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(here, "adapters.safetensors"))
