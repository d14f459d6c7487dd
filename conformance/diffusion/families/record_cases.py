"""Records the cases of this folder from a ComfyUI that has the checkpoints that ../make_models.py makes of models.json.

  record_cases.py BASE_URL OUT_DIR [PREFIX]
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from record import record  # noqa: E402


def graph(checkpoint, **sampler):
    return {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint + "_random.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a harbour (at night:1.3), lanterns", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "grainy", "clip": ["4", 1]}},
        "3": {"class_type": "KSampler", "inputs": {
            "seed": 11, "steps": 4, "cfg": 6.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "model": ["4", 0],
            "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], **sampler}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "families", "images": ["8", 0]}},
        "10": {"class_type": "SaveLatent", "inputs": {"samples": ["3", 0], "filename_prefix": "families/x"}},
    }


def picture(g):
    """A picture with edges (32) and a mask in its middle (34)."""
    g["30"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x204060}}
    g["31"] = {"class_type": "EmptyImage", "inputs": {"width": 24, "height": 32, "batch_size": 1, "color": 0xF0C010}}
    g["32"] = {"class_type": "ImageCompositeMasked",
               "inputs": {"destination": ["30", 0], "source": ["31", 0], "x": 16, "y": 8, "resize_source": False}}
    g["33"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}
    g["35"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 32, "height": 24}}
    g["34"] = {"class_type": "MaskComposite",
               "inputs": {"destination": ["33", 0], "source": ["35", 0], "x": 16, "y": 16, "operation": "add"}}
    return g


def conditioned(g, **node):
    """Puts a node between the texts and the sampler that gives positive, negative and latent."""
    g["40"] = node | {"inputs": {"positive": ["6", 0], "negative": ["7", 0], "vae": ["4", 2], "pixels": ["32", 0], **node["inputs"]}}
    g["3"]["inputs"].update(positive=["40", 0], negative=["40", 1], latent_image=["40", 2])
    return g


def cases():
    out = {"sd2/eps": graph("sd2_eps"), "sd2/eps_dpmpp_2m_karras": graph("sd2_eps", sampler_name="dpmpp_2m", scheduler="karras")}
    g = graph("sd2_eps")
    g["20"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["4", 1], "stop_at_clip_layer": -1}}
    g["6"]["inputs"]["clip"] = ["20", 0]
    out["sd2/last_layer"] = g
    out["sd2/v"] = graph("sd2_v")
    for noise_mask in (True, False):
        out[f"sd15_inpaint/{'noise_mask' if noise_mask else 'whole'}"] = conditioned(
            picture(graph("sd15_inpaint")), class_type="InpaintModelConditioning", inputs={"mask": ["34", 0], "noise_mask": noise_mask})
    g = picture(graph("sd15_inpaint"))
    g["40"] = {"class_type": "VAEEncodeForInpaint", "inputs": {"pixels": ["32", 0], "vae": ["4", 2], "mask": ["34", 0], "grow_mask_by": 6}}
    g["3"]["inputs"]["latent_image"] = ["40", 0]
    out["sd15_inpaint/encode_for_inpaint"] = g
    out["sd15_inpaint/txt2img"] = graph("sd15_inpaint")
    out["sd15_ip2p/edit"] = conditioned(picture(graph("sd15_ip2p")), class_type="InstructPixToPixConditioning", inputs={})
    g = conditioned(picture(graph("sd15_ip2p")), class_type="InstructPixToPixConditioning", inputs={})
    del g["3"]
    g["41"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": 11}}
    g["42"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    g["43"] = {"class_type": "BasicScheduler", "inputs": {"model": ["4", 0], "scheduler": "normal", "steps": 4, "denoise": 1.0}}
    g["44"] = {"class_type": "DualCFGGuider", "inputs": {
        "model": ["4", 0], "cond1": ["40", 0], "cond2": ["40", 1], "negative": ["7", 0], "cfg_conds": 6.0, "cfg_cond2_negative": 1.5,
        "style": "nested"}}
    g["3"] = {"class_type": "SamplerCustomAdvanced", "inputs": {
        "noise": ["41", 0], "guider": ["44", 0], "sampler": ["42", 0], "sigmas": ["43", 0], "latent_image": ["40", 2]}}
    out["sd15_ip2p/dual_cfg"] = g
    out["refiner/txt2img"] = graph("sdxl_refiner")
    g = graph("sdxl_refiner", sampler_name="dpmpp_2m", scheduler="karras")
    g["6"] = {"class_type": "CLIPTextEncodeSDXLRefiner", "inputs": {"ascore": 7.5, "width": 900, "height": 700, "text": "a harbour (at night:1.3), lanterns", "clip": ["4", 1]}}
    out["refiner/score"] = g
    return out


if __name__ == "__main__":
    sys.exit(0 if record(sys.argv[1], sys.argv[2], cases(), *sys.argv[3:]) else 1)
