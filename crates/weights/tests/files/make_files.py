"""Write the small files of weights that the tests read, with the libraries that people use: torch, safetensors and gguf.

Needs torch, numpy, safetensors and gguf. Prints the numbers that the tests compare with. usage: make_files.py
"""
import collections, os, torch, numpy as np, gguf
from safetensors.torch import save_file

here = os.path.dirname(os.path.abspath(__file__))
out = lambda name: os.path.join(here, name)
grid = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8

# The types that safetensors files of models have, 8-bit floats with every bit pattern.
every = torch.arange(256, dtype=torch.uint8)
save_file({
    "f32": grid, "f16": grid.half(), "bf16": grid.bfloat16(), "f64": grid.double(),
    "e4m3": every.view(torch.float8_e4m3fn), "e5m2": every.clone().view(torch.float8_e5m2),
    "e4m3_as_f16": every.view(torch.float8_e4m3fn).half(), "e5m2_as_f16": every.view(torch.float8_e5m2).half(),
    "i64": torch.arange(-2, 3), "bool": torch.tensor([True, False]), "scalar": torch.tensor(2.5), "empty": torch.zeros(0),
}, out("types.safetensors"), metadata={"format": "pt"})

state = collections.OrderedDict()
state["plain"] = grid
state["transposed"] = grid.t()
state["strided"] = grid[1:4:2, ::3]
state["row"] = grid[2]
state["half"] = grid.half()
state["bf16"] = grid.bfloat16()
state["long"] = torch.arange(-2, 3)
state["parameter"] = torch.nn.Parameter(grid[:1].clone())
state["expanded"] = torch.tensor([7.0]).expand(3)
state["scalar"] = torch.tensor(2.5)

class Callback: pass
Callback.__module__ = "pytorch_lightning.callbacks.model_checkpoint"; Callback.__qualname__ = "Callback"

checkpoint = {"epoch": 3, "state_dict": state, "hyper": {"lr": 0.1}}
torch.save(checkpoint, out("nested.ckpt"))
torch.save(checkpoint, out("legacy.ckpt"), _use_new_zipfile_serialization=False)
torch.save({"params": {"conv.weight": grid}}, out("single.pth"))
torch.save({"fp8": every.view(torch.float8_e4m3fn), "a": grid}, out("fp8.pt"))
torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": grid[:2].clone()}, "name": "cat", "step": 500}, out("embedding.pt"))
torch.save({"string_to_token": {"*": 265}, "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(grid[:2].clone())})}, out("parameters.pt"))
torch.save([{"clip_l": grid[:2].clone(), "note": "x"}, {"clip_g": grid[2].clone()}], out("list.pt"))

# Values that nothing here can read, beside some that can be read.
odd = {"complex": torch.zeros(2, 3, dtype=torch.complex64), "sparse": grid.to_sparse(), "few": torch.quantize_per_tensor(grid, 0.1, 0, torch.qint8), "a": grid}
torch.save(odd, out("odd.pt"))
torch.save(odd, out("odd_legacy.pt"), _use_new_zipfile_serialization=False)

class Evil:
    def __reduce__(self): return (os.system, ("touch /tmp/executed_by_a_pickle",))
torch.save({"state_dict": {"a": grid, "evil": Evil()}}, out("evil.ckpt"))

# Every kind of block that numpy can quantise; the same numbers dequantised beside it.
writer = gguf.GGUFWriter(out("kinds.gguf"), "sd1")
writer.add_array("comfy.gguf.orig_shape.reshaped", [2, 4, 4, 8])
values = (np.sin(np.arange(1024, dtype=np.float32)) * 2).reshape(4, 256)
expected = {}
for kind in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]:
    k = gguf.GGMLQuantizationType[kind]
    data = gguf.quants.quantize(values, k)
    writer.add_tensor(kind, data, raw_dtype=k)
    expected[kind] = torch.from_numpy(gguf.quants.dequantize(data, k).copy())
rng = np.random.default_rng(1)
for kind in ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]:
    k = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[k]
    data = rng.integers(0, 256, (2, size), dtype=np.uint8)
    # The blocks' scales are halves, at these places: keep them finite.
    for place in {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind]:
        data[:, place:place + 2] = np.array([0.01, 0.02], dtype=np.float16).view(np.uint8).reshape(2, 2)
    writer.add_tensor(kind, data, raw_dtype=k)
    expected[kind] = torch.from_numpy(gguf.quants.dequantize(data, k).copy())
small = values.reshape(-1)[:256].reshape(8, 32)
writer.add_tensor("reshaped", gguf.quants.quantize(small, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
save_file({k: v.float() for k, v in expected.items()}, out("kinds.safetensors"))
