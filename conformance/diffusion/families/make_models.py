"""Writes full-size test checkpoints of the families beside SD1.5 and SDXL base, by make_checkpoint.py's rule.

  make_models.py OUT_DIR [NAME ...]

Names: sd2_eps, sd2_v (Stable Diffusion 2.x, told apart by one tensor's spread), sd15_inpaint (9 channels), sd15_ip2p (8 channels). The
layouts follow from the recorded ones and from the shape of the UNets. Needs numpy, torch and safetensors.
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file

DIFFUSION = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, DIFFUSION)
from make_checkpoint import tensor  # noqa: E402

UNET = "model.diffusion_model."
# The tensor by whose spread v-prediction is told from eps.
V_MARK = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def unet(channels, multipliers, depths, context, linear, adm=None, in_channels=4, res_blocks=2, middle_depth=1):
    """ldm's names and shapes of a UNet; `depths` is the number of transformer blocks of each level."""
    shapes = {}

    def pair(name, *weight):
        shapes[UNET + name + ".weight"] = list(weight)
        shapes[UNET + name + ".bias"] = [weight[0]]

    def norm(name, width):
        pair(name, width)

    embedding = channels * 4

    def res(name, i, o):
        norm(name + ".in_layers.0", i)
        pair(name + ".in_layers.2", o, i, 3, 3)
        pair(name + ".emb_layers.1", o, embedding)
        norm(name + ".out_layers.0", o)
        pair(name + ".out_layers.3", o, o, 3, 3)
        if i != o:
            pair(name + ".skip_connection", o, i, 1, 1)

    def transformer(name, width, depth):
        norm(name + ".norm", width)
        one = [] if linear else [1, 1]
        pair(name + ".proj_in", width, width, *one)
        for d in range(depth):
            block = f"{name}.transformer_blocks.{d}"
            for attention, source in (("attn1", width), ("attn2", context)):
                for part, size in (("to_q", width), ("to_k", source), ("to_v", source)):
                    shapes[f"{UNET}{block}.{attention}.{part}.weight"] = [width, size]
                pair(f"{block}.{attention}.to_out.0", width, width)
            pair(block + ".ff.net.0.proj", width * 8, width)
            pair(block + ".ff.net.2", width, width * 4)
            for i in (1, 2, 3):
                norm(f"{block}.norm{i}", width)
        pair(name + ".proj_out", width, width, *one)

    pair("time_embed.0", embedding, channels)
    pair("time_embed.2", embedding, embedding)
    if adm:
        pair("label_emb.0.0", embedding, adm)
        pair("label_emb.0.2", embedding, embedding)
    pair("input_blocks.0.0", channels, in_channels, 3, 3)
    index, width, skips = 1, channels, [channels]
    for level, multiplier in enumerate(multipliers):
        for _ in range(res_blocks):
            res(f"input_blocks.{index}.0", width, channels * multiplier)
            width = channels * multiplier
            if depths[level]:
                transformer(f"input_blocks.{index}.1", width, depths[level])
            skips.append(width)
            index += 1
        if level + 1 < len(multipliers):
            pair(f"input_blocks.{index}.0.op", width, width, 3, 3)
            skips.append(width)
            index += 1
    res("middle_block.0", width, width)
    transformer("middle_block.1", width, middle_depth)
    res("middle_block.2", width, width)
    index = 0
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for i in range(res_blocks + 1):
            res(f"output_blocks.{index}.0", width + skips.pop(), channels * multiplier)
            width, place = channels * multiplier, 1
            if depths[level]:
                transformer(f"output_blocks.{index}.1", width, depths[level])
                place = 2
            if level and i == res_blocks:
                pair(f"output_blocks.{index}.{place}.conv", width, width, 3, 3)
            index += 1
    norm("out.0", width)
    pair("out.2", 4, width, 3, 3)
    return shapes


def open_clip(prefix, width, layers):
    """OpenCLIP's names and shapes of a text encoder."""
    shapes = {
        "positional_embedding": [77, width], "token_embedding.weight": [49408, width], "text_projection": [width, width], "logit_scale": [],
        "ln_final.weight": [width], "ln_final.bias": [width],
    }
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        for name, *shape in (("ln_1", width), ("ln_2", width), ("mlp.c_fc", width * 4, width), ("mlp.c_proj", width, width * 4),
                             ("attn.out_proj", width, width)):
            shapes[block + name + ".weight"], shapes[block + name + ".bias"] = shape, shape[:1]
        shapes[block + "attn.in_proj_weight"], shapes[block + "attn.in_proj_bias"] = [width * 3, width], [width * 3]
    return {prefix + name: shape for name, shape in shapes.items()}


def recorded(family):
    return json.load(open(os.path.join(DIFFUSION, family + ".layout.json")))


def layouts():
    sd15 = recorded("sd15")
    vae = {name: shape for name, shape in sd15.items() if name.startswith("first_stage_model.")}
    sd2 = unet(320, [1, 2, 4, 4], [1, 1, 1, 0], 1024, True) | open_clip("cond_stage_model.model.", 1024, 24) | vae
    first = UNET + "input_blocks.0.0.weight"
    return {
        "sd2_eps": sd2, "sd2_v": sd2,
        "sd15_inpaint": {**sd15, first: [320, 9, 3, 3]}, "sd15_ip2p": {**sd15, first: [320, 8, 3, 3]},
    }


def main():
    # What is recorded must come out of the same rules.
    for family, made in (("sd15", unet(320, [1, 2, 4, 4], [1, 1, 1, 0], 768, False)),
                         ("sdxl", unet(320, [1, 2, 4], [0, 2, 10], 2048, True, adm=2816, middle_depth=10)
                          | open_clip("conditioner.embedders.1.model.", 1280, 32))):
        prefixes = (UNET, "conditioner.embedders.1.")
        wanted = {name: shape for name, shape in recorded(family).items() if name.startswith(prefixes)}
        assert made == wanted, (family, sorted(made.keys() ^ wanted.keys()))
    out, names = sys.argv[1], sys.argv[2:]
    for name, layout in layouts().items():
        if names and name not in names:
            continue
        tensors = {key: tensor(key, shape).half().contiguous() for key, shape in layout.items()}
        if name == "sd2_v":
            tensors[V_MARK] = (tensors[V_MARK].float() * 20).half()
        save_file(tensors, os.path.join(out, name + "_random.safetensors"))
        print(name, len(tensors))


if __name__ == "__main__":
    main()
