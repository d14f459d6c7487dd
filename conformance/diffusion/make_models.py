#!/usr/bin/env python3
"""Make model files of deterministic random weights: LoRAs, ControlNets, embeddings, upscalers, tiny autoencoders, reduced checkpoints.

  make_models.py MODELS.json MODELS_DIR [--only PREFIX]

MODELS.json: {file below MODELS_DIR: {"tensors": {name: shape}, "like": [[file, start, other start]], whose tensors it has
beside its own, with another start of their names, "prefix": put before a name when its values are made, "dtype": "f16" or
"f32", "values": {end of a name: a number that fills the tensor}, "near_one": [ends of names whose values lie between 0.9 and 1.1],
"scaled": {name: a number that its values are multiplied with}, "eight_bits": {"root": beginning of names, "parts": [parts of
names, one of which each has], "names": "scale_weight" or "weight_scale"}: such matrices become float8_e4m3fn times a scale, with the
companions that ComfyUI gives them}}. The rule for values is that of make_checkpoint.py. layouts.py writes such files from ComfyUI's classes. Needs: torch, safetensors, numpy.
"""
import json, math, os, sys
import torch
from safetensors.torch import save_file
from make_checkpoint import tensor

DTYPES = {"f16": torch.float16, "f32": torch.float32}

def make(name, shape, model):
    for end, value in model.get("values", {}).items():
        if name.endswith(end): return torch.full(shape, value)
    key = model.get("prefix", "") + name
    if any(name.endswith(end) for end in model.get("near_one", [])):
        # As the weight of a norm.
        return tensor(key + ".weight", [math.prod(shape)]).reshape(shape)
    if name in model.get("scaled", {}): return tensor(key, shape).to(DTYPES[model.get("dtype", "f16")]).float() * model["scaled"][name]
    return tensor(key, shape)

def eight_bits(tensors, root, parts, names):
    marked = names == "scale_weight"
    for name, values in list(tensors.items()):
        if not (name.startswith(root) and name.endswith(".weight") and values.ndim == 2 and any(part in name for part in parts)): continue
        layer, values = name[:-len(".weight")], values.float()
        scale = values.abs().max() / 448
        tensors[name], tensors[f"{layer}.{names}"] = (values / scale).to(torch.float8_e4m3fn), scale
        tensors[layer + (".scale_input" if marked else ".input_scale")] = torch.tensor(0.5)
        if not marked: tensors[layer + ".comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    if marked: tensors[root + "scaled_fp8"] = torch.full((1,), 448.0).to(torch.float8_e4m3fn)

def main():
    layouts, folder = sys.argv[1], sys.argv[2]
    only = sys.argv[4] if sys.argv[3:4] == ["--only"] else ""
    models = json.load(open(layouts))
    for file, model in models.items():
        if not file.startswith(only): continue
        path = os.path.join(folder, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        dtype = DTYPES[model.get("dtype", "f16")]
        tensors = {to + name[len(start):]: shape for like, start, to in model.get("like", []) for name, shape in models[like]["tensors"].items() if name.startswith(start)}
        tensors.update(model["tensors"])
        tensors = {name: make(name, shape, model).to(dtype).contiguous() for name, shape in tensors.items()}
        if "eight_bits" in model: eight_bits(tensors, **model["eight_bits"])
        save_file(tensors, path)
        print(path)

if __name__ == "__main__": main()
