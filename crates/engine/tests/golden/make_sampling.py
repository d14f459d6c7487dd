"""Makes sampling.safetensors: latents that ComfyUI samples with tiny UNets of synthetic weights, one for each case of ../sampling.rs.

usage: python make_sampling.py COMFYUI_FOLDER CONFORMANCE_DIFFUSION_FOLDER   (in ComfyUI's environment)
"""
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [sys.argv[1], sys.argv[2]]
sys.argv = [sys.argv[0], "--cpu"]
os.environ["OMP_NUM_THREADS"] = "1"
import comfy.options
comfy.options.enable_args_parsing()
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
import make_checkpoint
import comfy.model_base, comfy.model_patcher, comfy.supported_models, comfy.sample, comfy.samplers
import node_helpers, nodes

CONFIG = dict(image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1, 1], channel_mult=[1, 2, 4], transformer_depth=[1, 1, 0],
              transformer_depth_output=[1, 1, 1, 1, 0, 0], transformer_depth_middle=1, context_dim=48, use_linear_in_transformer=False, num_heads=8,
              legacy=False, use_spatial_transformer=True, adm_in_channels=None, dtype=torch.float32)
layouts = {}

def make(name, **changes):
    config = comfy.supported_models.SD15(dict(CONFIG, **changes))
    kind = comfy.model_base.SD15_instructpix2pix if changes.get("in_channels") == 8 else comfy.model_base.BaseModel
    model = kind(config, device="cpu")
    if config.inpaint_model() and changes.get("in_channels") != 8:
        model.set_inpaint()
    shapes = {k: list(v.shape) for k, v in model.diffusion_model.state_dict().items()}
    layouts[name] = {name + "." + k: s for k, s in shapes.items()}
    model.diffusion_model.load_state_dict({k: make_checkpoint.tensor(name + "." + k, s) for k, s in shapes.items()})
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=torch.device("cpu"), offload_device=torch.device("cpu"))

def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

def cond(seed, length=77, **values):
    return [[randn(seed, 1, length, 48), values]]

def mask(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))

base, other = make("base"), make("other")
inpaint, edit = make("inpaint", in_channels=9), make("edit", in_channels=8)
P, N = cond(1), cond(2)
empty, full = torch.zeros(1, 4, 16, 24), randn(9, 1, 4, 16, 24)
out = {}

def sample(name, model, positive=P, negative=N, latent=empty, cfg=7.5, sampler="euler", scheduler="normal", steps=3, seed=5, denoise=1.0, mask=None, **more):
    with torch.no_grad():
        noise = comfy.sample.prepare_noise(latent, seed)
        out[name] = comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, denoise=denoise, noise_mask=mask, seed=seed, **more)
    print(name, out[name].std().item())

def guide(name, guider, steps=3, seed=5, latent=empty, sampler="euler"):
    with torch.no_grad():
        sigmas = comfy.samplers.calculate_sigmas(guider.model_patcher.get_model_object("model_sampling"), "normal", steps)
        out[name] = guider.sample(comfy.sample.prepare_noise(latent, seed), latent, comfy.samplers.sampler_object(sampler), sigmas, seed=seed)
    print(name, out[name].std().item())

S = node_helpers.conditioning_set_values
sample("plain", base)
sample("cfg1", base, cfg=1.0)
sample("cfg_pp", base, sampler="euler_ancestral_cfg_pp", cfg=1.0)
sample("batch", base, latent=torch.zeros(2, 4, 16, 24))
sample("image", base, latent=full, denoise=0.6)
sample("ddim_mask", base, latent=full, sampler="ddim", mask=mask(3, 1, 32, 48))
sample("long_text", base, positive=cond(1, 154))
sample("area", base, positive=P + S(cond(3), {"area": (8, 10, 4, 6), "strength": 0.8}))
sample("percent", base, positive=P + S(cond(3), {"area": ("percentage", 0.5, 0.4, 0.25, 0.6)}))
sample("mask", base, positive=S(P, {"mask": mask(4, 1, 40, 40), "mask_strength": 0.7}) + S(cond(3), {"mask": mask(5, 1, 16, 24)}))
box = torch.zeros(1, 16, 24); box[:, 2:6, 3:9] = 1
sample("bounds", base, positive=P + S(cond(3), {"mask": box, "set_area_to_bounds": True}))
sample("range", base, positive=S(P, {"start_percent": 0.0, "end_percent": 0.5}) + S(cond(3), {"start_percent": 0.5, "end_percent": 1.0}))
sample("default", base, positive=S(P, {"default": True}) + S(cond(3), {"mask": mask(4, 1, 16, 24)}))
sample("inpaint_model", inpaint, positive=S(P, {"concat_latent_image": full, "concat_mask": mask(6, 1, 128, 192)}),
       negative=S(N, {"concat_latent_image": full, "concat_mask": mask(6, 1, 128, 192)}), latent=full, mask=mask(6, 1, 128, 192))
sample("inpaint_blank", inpaint)
sample("edit_model", edit, positive=S(P, {"concat_latent_image": full}), negative=S(N, {"concat_latent_image": full}))

from comfy_extras import nodes_custom_sampler as custom, nodes_perpneg, nodes_model_advanced as advanced, nodes_apg, nodes_cfg, nodes_tcfg, nodes_fresca
from comfy_extras import nodes_mahiro, nodes_eps, nodes_pag, nodes_sag, nodes_freelunch, nodes_hypertile, nodes_tomesd, nodes_model_downscale
from comfy_extras import nodes_differential_diffusion, nodes_attention_multiply, nodes_model_merging as merging

basic = custom.Guider_Basic(base); basic.set_conds(P); guide("basic", basic)
for nested in (False, True):
    dual = custom.Guider_DualCFG(base); dual.set_conds(P, cond(3), N); dual.set_cfg(5.0, 3.0, nested=nested)
    guide("dual_nested" if nested else "dual", dual)
perp = nodes_perpneg.Guider_PerpNeg(base); perp.set_conds(P, N, cond(3)); perp.set_cfg(6.0, 0.8); guide("perp_neg_guider", perp)
sample("perp_neg", nodes_perpneg.PerpNeg.execute(base, cond(3), 0.8)[0])
sample("rescale", advanced.RescaleCFG().patch(base, 0.7)[0])
sample("v", advanced.ModelSamplingDiscrete().patch(base, "v_prediction", True)[0])
sample("lcm", advanced.ModelSamplingDiscrete().patch(base, "lcm", False)[0], sampler="lcm", scheduler="sgm_uniform")
sample("apg", nodes_apg.APG.execute(base, 0.6, 4.0, -0.5)[0])
sample("zero_star", nodes_cfg.CFGZeroStar.execute(base)[0])
sample("norm", nodes_cfg.CFGNorm.execute(base, 0.9)[0])
sample("tcfg", nodes_tcfg.TCFG.execute(base)[0])
sample("fresca", nodes_fresca.FreSca.execute(base, 0.8, 1.4, 5)[0])
sample("mahiro", nodes_mahiro.Mahiro.execute(base)[0])
sample("epsilon", nodes_eps.EpsilonScaling.execute(base, 1.01)[0])
sample("pag", nodes_pag.PerturbedAttentionGuidance.execute(base, 3.0)[0])
sample("sag", nodes_sag.SelfAttentionGuidance.execute(base, 0.5, 2.0)[0])
sample("freeu", nodes_freelunch.FreeU().patch(base, 1.1, 1.2, 0.9, 0.2)[0])
sample("freeu_v2", nodes_freelunch.FreeU_V2().patch(base, 1.3, 1.4, 0.9, 0.2)[0])
sample("downscale", nodes_model_downscale.PatchModelAddDownscale.execute(base, 2, 2.0, 0.0, 0.6, True, "bicubic", "bilinear")[0])
sample("differential", nodes_differential_diffusion.DifferentialDiffusion.execute(base)[0], latent=full, mask=mask(3, 1, 32, 48))
sample("hypertile", nodes_hypertile.HyperTile.execute(base, 64, 4, 1, False)[0], latent=torch.zeros(1, 4, 32, 32), steps=1)
sample("tome", nodes_tomesd.TomePatchModel.execute(base, 0.4)[0], steps=1)
sample("merged", merging.ModelMergeSimple().merge(base, other, 0.3)[0])
sample("blocks", merging.ModelMergeBlocks().merge(base, other, input=0.2, middle=0.5, out=0.9)[0])
sample("subtracted", merging.ModelAdd().merge(base, merging.ModelSubtract().merge(base, other, 0.5)[0])[0])
sample("multiplied", nodes_attention_multiply.UNetCrossAttentionMultiply.execute(base, 1.1, 0.9, 1.2, 0.8)[0])

save_file({k: v.float().contiguous() for k, v in out.items()}, os.path.join(here, "sampling.safetensors"))
json.dump(layouts, open(os.path.join(here, "layouts.json"), "w"), separators=(",", ":"))
