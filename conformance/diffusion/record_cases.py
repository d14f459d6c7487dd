#!/usr/bin/env python3
"""Record cases from a running ComfyUI: adapters, model patches, guiders, schedulers, hooks, and so on.

  record_cases.py BASE_URL OUT_DIR extra|reduced [--only PREFIX] [--new]

extra: on the full-size SD1.5 checkpoint, beside the cases of this folder; the other models are made by make_models.py extra/models.json.
reduced: all of these, and samplers, schedulers and other families, on the reduced models (reduced/models.json, server: reduced_server.py).
OUT_DIR gets cases.json and what was saved, as check_cases.py reads them; cases that are there and not recorded now are kept. --new records only what is not there.
"""
import argparse, copy, os, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from record import call, record

def node(graph, key, class_type, **inputs): graph[key] = {"class_type": class_type, "inputs": inputs}; return [key, 0]

class Cases:
    def __init__(self, names, small):
        self.names, self.small, self.all = names, small, {}

    def graph(self, steps=4, cfg=7.0, sampler="euler", scheduler="normal", size=64, batch=1, checkpoint="checkpoint", denoise=1.0, picture=True):
        """Text to picture; the picture is saved where a case is about pictures, or all on full-size models."""
        g = {
            "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": self.names[checkpoint]}},
            "5": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": batch}},
            "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse in the rain", "clip": ["4", 1]}},
            "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
            "3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": steps, "cfg": cfg, "sampler_name": sampler, "scheduler": scheduler,
                  "denoise": denoise, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
            "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
            "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "extra", "images": ["8", 0]}},
            "10": {"class_type": "SaveLatent", "inputs": {"samples": ["3", 0], "filename_prefix": "extra/x"}},
        }
        if self.small and not picture: del g["8"], g["9"]
        return g

    def latents(self, **more): return self.graph(picture=False, **more)

    def with_model(self, class_type, size=64, batch=1, **inputs):
        """A node between the checkpoint and the sampler."""
        g = self.latents(size=size, batch=batch)
        g["3"]["inputs"]["model"] = node(g, "20", class_type, model=["4", 0], **inputs)
        return g

    def prompt(self, g, key, text): return node(g, key, "CLIPTextEncode", text=text, clip=["4", 1])

    def hint(self, g):
        """A picture with edges."""
        node(g, "30", "EmptyImage", width=64, height=64, batch_size=1, color=0x204060)
        node(g, "31", "EmptyImage", width=24, height=32, batch_size=1, color=0xF0C010)
        return node(g, "32", "ImageCompositeMasked", destination=["30", 0], source=["31", 0], x=16, y=8, resize_source=False)

    def custom(self, g, guider, sampler="euler", sigmas=None, **inputs):
        """SamplerCustomAdvanced instead of KSampler."""
        del g["3"]
        node(g, "40", "RandomNoise", noise_seed=7)
        node(g, "41", "KSamplerSelect", sampler_name=sampler)
        if sigmas is None: node(g, "42", "BasicScheduler", model=["4", 0], scheduler="normal", steps=4, denoise=1.0)
        else: node(g, "42", sigmas[0], **sigmas[1])
        node(g, "43", guider, **inputs)
        node(g, "3", "SamplerCustomAdvanced", noise=["40", 0], guider=["43", 0], sampler=["41", 0], sigmas=["42", 0], latent_image=["5", 0])
        return g

    def adapters(self):
        n, out = self.names, self.all
        def lora(file, **more):
            g = self.latents()
            node(g, "20", "LoraLoader", model=["4", 0], clip=["4", 1], lora_name=file, strength_model=0.7, strength_clip=0.5)
            g["3"]["inputs"]["model"], g["6"]["inputs"]["clip"] = ["20", 0], ["20", 1]
            return g
        out["adapter/lora"] = lora(n["lora"])
        g = lora(n["lora"]); g["3"]["inputs"]["model"] = node(g, "21", "LoraLoaderModelOnly", model=["20", 0], lora_name=n["lora"], strength_model=-0.4); out["adapter/lora_stacked"] = g
        g = lora(n["lora"]); node(g, "22", "CLIPSetLastLayer", clip=["20", 1], stop_at_clip_layer=-2); g["6"]["inputs"]["clip"] = ["22", 0]; out["adapter/lora_clip_skip"] = g
        for kind in ("loha", "lokr", "dora"): out["adapter/" + kind] = lora(n[kind])
        if self.small:
            out["adapter/lora_kohya"] = lora(n["kohya"])
            out["adapter/lora_diffusers"] = lora(n["diffusers"])
            out["adapter/lora_misfit"] = lora(n["misfit"])
        for name, extra in (("controlnet", {}), ("controlnet_range", {"start_percent": 0.2, "end_percent": 0.7, "strength": 0.6}), ("t2i_adapter", {})):
            g = self.latents(); hint = self.hint(g); node(g, "20", "ControlNetLoader", control_net_name=n["t2i" if name == "t2i_adapter" else "controlnet"])
            node(g, "21", "ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["20", 0], image=hint, strength=0.9, start_percent=0.0, end_percent=1.0)
            g["21"]["inputs"].update(extra); g["3"]["inputs"].update(positive=["21", 0], negative=["21", 1]); out["adapter/" + name] = g
        g = copy.deepcopy(out["adapter/controlnet"]); g["20"]["inputs"]["control_net_name"] = n["control_lora"]; out["adapter/control_lora"] = g
        if self.small:
            g = copy.deepcopy(g); node(g, "40", "LoraLoaderModelOnly", model=["4", 0], lora_name=n["lora"], strength_model=0.7); g["3"]["inputs"]["model"] = ["40", 0]; out["adapter/control_lora_patched"] = g
            g = copy.deepcopy(out["adapter/controlnet"]); g["20"]["inputs"]["control_net_name"] = n["shuffle"]; out["adapter/controlnet_shuffle"] = g
        g = copy.deepcopy(out["adapter/controlnet"]); node(g, "21", "ControlNetApply", conditioning=["6", 0], control_net=["20", 0], image=["32", 0], strength=0.5)
        g["3"]["inputs"].update(positive=["21", 0], negative=["7", 0]); out["adapter/controlnet_old"] = g
        if self.small:
            g = copy.deepcopy(out["adapter/controlnet"]); g["5"]["inputs"]["batch_size"] = 2; node(g, "22", "ControlNetLoader", control_net_name=n["t2i"])
            node(g, "23", "ControlNetApplyAdvanced", positive=["21", 0], negative=["21", 1], control_net=["22", 0], image=["31", 0], strength=0.4, start_percent=0.0, end_percent=0.6); g["3"]["inputs"].update(positive=["23", 0], negative=["23", 1]); out["adapter/two_controls"] = g
        g = self.latents(); g["6"]["inputs"]["text"] = f"a lighthouse, embedding:{n['embedding']}, (in the rain:1.3)"; out["adapter/embedding"] = g
        g = self.graph(); g["8"]["inputs"]["vae"] = node(g, "20", "VAELoader", vae_name="taesd"); out["adapter/taesd"] = g
        g = self.graph(); node(g, "20", "UpscaleModelLoader", model_name=n["upscaler"]); g["9"]["inputs"]["images"] = node(g, "21", "ImageUpscaleWithModel", upscale_model=["20", 0], image=["8", 0]); out["adapter/upscale_model"] = g

    def patches(self):
        out, patch = self.all, self.with_model
        out["patch/freeu"] = patch("FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2)
        # At 64 pixels the smallest features are one cell, whose spread is 0: the reference divides by it.
        out["patch/freeu_v2"] = patch("FreeU_V2", size=128, b1=1.3, b2=1.4, s1=0.9, s2=0.2)
        # At 64 pixels the middle is one cell, and the reference fails.
        out["patch/sag"] = patch("SelfAttentionGuidance", size=256 if self.small else 128, scale=0.5, blur_sigma=2.0)
        out["patch/pag"] = patch("PerturbedAttentionGuidance", scale=3.0)
        downscale = dict(block_number=3, downscale_factor=2.0, start_percent=0.0, end_percent=0.35, downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic")
        out["patch/downscale"] = patch("PatchModelAddDownscale", **downscale)
        out["patch/rescale_cfg"] = patch("RescaleCFG", multiplier=0.7)
        out["patch/model_sampling_v_zsnr"] = patch("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True)
        out["patch/model_sampling_lcm"] = patch("ModelSamplingDiscrete", sampling="lcm", zsnr=False)
        out["patch/model_sampling_edm"] = patch("ModelSamplingContinuousEDM", sampling="v_prediction", sigma_max=120.0, sigma_min=0.002)
        out["patch/perp_neg"] = patch("PerpNeg", empty_conditioning=["7", 0], neg_scale=1.0)
        out["patch/tome"] = patch("TomePatchModel", ratio=0.3)
        out["patch/attention_multiply"] = patch("UNetSelfAttentionMultiply", q=1.1, k=0.9, v=1.2, out=0.8)
        out["patch/mahiro"] = patch("Mahiro")
        out["patch/apg"] = patch("APG", eta=1.0, norm_threshold=5.0, momentum=0.2)
        out["patch/cfg_zero_star"] = patch("CFGZeroStar")
        out["patch/tcfg"] = patch("TCFG")
        out["patch/fresca"] = patch("FreSca", scale_low=1.0, scale_high=1.25, freq_cutoff=2)
        g = patch("HyperTile", tile_size=64, swap_size=2, max_depth=0, scale_depth=False); g["5"]["inputs"].update(width=128, height=192); out["patch/hypertile"] = g
        g = patch("DifferentialDiffusion"); node(g, "50", "SolidMask", value=0.5, width=64, height=64)
        g["3"]["inputs"]["latent_image"] = node(g, "51", "SetLatentNoiseMask", samples=["5", 0], mask=["50", 0]); out["patch/differential_diffusion"] = g
        out["patch/model_sampling_sd3"] = patch("ModelSamplingSD3", shift=3.0)
        out["patch/model_sampling_flux"] = patch("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=512, height=768)
        out["patch/model_sampling_cascade"] = patch("ModelSamplingStableCascade", shift=2.0)
        out["patch/temporal_attention"] = patch("UNetTemporalAttentionMultiply", self_structural=0.9, self_temporal=2.0, cross_structural=1.2, cross_temporal=3.0)
        if not self.small: return
        out["patch/downscale_before_skip"] = patch("PatchModelAddDownscale", size=128, **dict(downscale, downscale_after_skip=False, downscale_method="bislerp", upscale_method="area", end_percent=1.0))
        out["patch/model_sampling_x0"] = patch("ModelSamplingDiscrete", sampling="x0", zsnr=False)
        out["patch/model_sampling_edm_eps"] = patch("ModelSamplingContinuousEDM", sampling="eps", sigma_max=80.0, sigma_min=0.01)
        out["patch/model_sampling_playground"] = patch("ModelSamplingContinuousEDM", sampling="edm_playground_v2.5", sigma_max=80.0, sigma_min=0.002)
        out["patch/model_sampling_cosmos"] = patch("ModelSamplingContinuousEDM", sampling="cosmos_rflow", sigma_max=80.0, sigma_min=0.002)
        out["patch/model_sampling_continuous_v"] = patch("ModelSamplingContinuousV", sampling="v_prediction", sigma_max=500.0, sigma_min=0.03)
        out["patch/model_sampling_aura"] = patch("ModelSamplingAuraFlow", shift=1.73)
        out["patch/cross_attention_multiply"] = patch("UNetCrossAttentionMultiply", q=1.1, k=0.9, v=1.2, out=0.8)
        g = self.latents(); g["6"]["inputs"]["clip"] = node(g, "20", "CLIPAttentionMultiply", clip=["4", 1], q=1.1, k=0.9, v=1.2, out=0.8); out["patch/clip_attention_multiply"] = g
        out["patch/cfg_norm"] = patch("CFGNorm", strength=0.9)
        out["patch/cfg_norm_pre"] = patch("CFGNorm", strength=0.9, pre_cfg=True)
        g = patch("CFGOverride", cfg=2.0, start_percent=0.0, end_percent=0.6); g["3"]["inputs"]["model"] = node(g, "21", "CFGOverride", model=["20", 0], cfg=4.0, start_percent=0.3, end_percent=1.0); out["patch/cfg_override"] = g
        out["patch/epsilon_scaling"] = patch("Epsilon Scaling", scaling_factor=1.01)
        out["patch/renorm_cfg"] = patch("RenormCFG", cfg_trunc=10.0, renorm_cfg=0.8)
        out["patch/video_linear_cfg"] = patch("VideoLinearCFGGuidance", batch=3, min_cfg=1.0)
        out["patch/video_triangle_cfg"] = patch("VideoTriangleCFGGuidance", batch=3, min_cfg=2.0)
        g = patch("LatentApplyOperationCFG"); node(g, "21", "LatentOperationTonemapReinhard", multiplier=1.2); g["20"]["inputs"]["operation"] = ["21", 0]; out["patch/operation_cfg"] = g
        g = patch("FreeU", size=128, b1=1.1, b2=1.2, s1=0.9, s2=0.2); g["3"]["inputs"]["model"] = node(g, "21", "HyperTile", model=["20", 0], tile_size=64, swap_size=2, max_depth=1, scale_depth=True)
        g["3"]["inputs"]["model"] = node(g, "22", "PerturbedAttentionGuidance", model=["21", 0], scale=2.0); out["patch/several"] = g

    def merging(self):
        n, out = self.names, self.all
        g = self.latents(); node(g, "21", "LoraLoaderModelOnly", model=["4", 0], lora_name=n["lora"], strength_model=1.0)
        g["3"]["inputs"]["model"] = node(g, "20", "ModelMergeSimple", model1=["4", 0], model2=["21", 0], ratio=0.6); out["merge/simple"] = g
        g = copy.deepcopy(g); node(g, "20", "ModelMergeBlocks", **{"model1": ["4", 0], "model2": ["21", 0], "input": 0.9, "middle": 0.5, "out": 0.2}); out["merge/blocks"] = g
        g = self.latents(); node(g, "21", "LoraLoader", model=["4", 0], clip=["4", 1], lora_name=n["lora"], strength_model=1.0, strength_clip=2.0)
        g["6"]["inputs"]["clip"] = node(g, "20", "CLIPMergeSimple", clip1=["4", 1], clip2=["21", 1], ratio=0.3); out["merge/clip"] = g
        g = copy.deepcopy(g); node(g, "22", "ModelMergeSubtract", model1=["21", 0], model2=["4", 0], multiplier=1.0); node(g, "23", "CLIPMergeSubtract", clip1=["21", 1], clip2=["4", 1], multiplier=1.0)
        g["3"]["inputs"]["model"] = node(g, "24", "ModelMergeAdd", model1=["4", 0], model2=["22", 0]); g["6"]["inputs"]["clip"] = node(g, "20", "CLIPMergeAdd", clip1=["4", 1], clip2=["23", 0]); out["merge/difference"] = g
        if not self.small: return
        g = self.latents(); node(g, "21", "CheckpointLoaderSimple", ckpt_name=n["other"])
        shares = {"time_embed.": 0.5, "label_emb.": 1.0, "out.": 0.3, **{f"{part}.{i}.": (i * 7 + k) % 10 / 10 for part, count, k in (("input_blocks", 12, 1), ("middle_block", 3, 4), ("output_blocks", 12, 2)) for i in range(count)}}
        g["3"]["inputs"]["model"] = node(g, "20", "ModelMergeSD1", model1=["4", 0], model2=["21", 0], **shares)
        g["6"]["inputs"]["clip"] = node(g, "22", "CLIPMergeSimple", clip1=["4", 1], clip2=["21", 1], ratio=0.6); out["merge/sd1"] = g

    def conditioning(self):
        out = self.all
        def combined(class_type, text="a ship", key="conditioning", **inputs):
            g = self.latents(); self.prompt(g, "60", text); node(g, "61", class_type, **{key: ["60", 0]}, **inputs)
            g["3"]["inputs"]["positive"] = node(g, "62", "ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["61", 0])
            return g
        for name, area in (("mask_bounds", "mask bounds"), ("mask", "default")):
            g = combined("ConditioningSetMask", mask=["50", 0], strength=0.8, set_cond_area=area); node(g, "50", "SolidMask", value=1.0, width=32, height=64); out["cond/" + name] = g
        out["cond/area_percentage"] = combined("ConditioningSetAreaPercentage", width=0.5, height=0.6, x=0.25, y=0.1, strength=1.2)
        def two(class_type, **inputs):
            g = self.latents(); self.prompt(g, "60", "a ship"); g["3"]["inputs"]["positive"] = node(g, "61", class_type, **inputs); return g
        g = two("ConditioningSetDefaultCombine", cond=["62", 0], cond_DEFAULT=["60", 0]); node(g, "50", "SolidMask", value=1.0, width=32, height=64)
        node(g, "51", "MaskComposite", destination=["52", 0], source=["50", 0], x=0, y=0, operation="add"); node(g, "52", "SolidMask", value=0.0, width=64, height=64)
        node(g, "62", "ConditioningSetMask", conditioning=["6", 0], mask=["51", 0], strength=1.0, set_cond_area="default"); out["cond/default"] = g
        if not self.small: return
        out["cond/area"] = combined("ConditioningSetArea", width=64, height=64, x=0, y=0, strength=0.7)
        out["cond/strength"] = combined("ConditioningSetAreaStrength", strength=0.4)
        out["cond/range"] = combined("ConditioningSetTimestepRange", start=0.2, end=0.8)
        out["cond/concat"] = two("ConditioningConcat", conditioning_to=["6", 0], conditioning_from=["60", 0])
        if self.small: g = self.latents(); g["3"]["inputs"]["positive"] = node(g, "20", "ConditioningMultiply", conditioning=["6", 0], multiplier=1.3); out["cond/multiply"] = g
        out["cond/average"] = two("ConditioningAverage", conditioning_to=["6", 0], conditioning_from=["60", 0], conditioning_to_strength=0.3)
        g = self.latents(); g["3"]["inputs"]["negative"] = node(g, "60", "ConditioningZeroOut", conditioning=["6", 0]); out["cond/zero_out"] = g
        g = self.latents(); g["6"]["inputs"]["text"] = " ".join(f"(word{i} of many:{1 + i % 5 / 10})" for i in range(60)); out["cond/long"] = g
        g = self.latents(); g["6"]["inputs"]["text"] = "a ((very (old:0.7)) lighthouse:1.3) in \\(brackets\\) and [rain]"; out["cond/weights"] = g
        for layer in (-1, -2, -3): g = self.latents(); g["6"]["inputs"]["clip"] = node(g, "20", "CLIPSetLastLayer", clip=["4", 1], stop_at_clip_layer=layer); out[f"cond/clip_layer{layer}"] = g
        g = self.latents(); hint = self.hint(g); node(g, "20", "ControlNetLoader", control_net_name=self.names["controlnet"]); node(g, "22", "CLIPTextEncodeControlnet", clip=["4", 1], conditioning=["6", 0], text="a ship")
        node(g, "21", "ControlNetApplyAdvanced", positive=["22", 0], negative=["7", 0], control_net=["20", 0], image=hint, strength=1.0, start_percent=0.0, end_percent=1.0); g["3"]["inputs"].update(positive=["21", 0], negative=["21", 1]); out["cond/controlnet_text"] = g

    def hooks(self):
        n, out = self.names, self.all
        def hooked(keyframes=None, **more):
            g = self.latents(); node(g, "70", "CreateHookLora", lora_name=n["lora"], strength_model=0.8, strength_clip=0.6)
            if keyframes:
                node(g, "71", keyframes[0], **keyframes[1]); node(g, "72", "SetHookKeyframes", hooks=["70", 0], hook_kf=["71", 0])
            return g, ["72", 0] if keyframes else ["70", 0]
        g, hooks = hooked(); node(g, "50", "SolidMask", value=1.0, width=32, height=64); node(g, "51", "ConditioningTimestepsRange", start_percent=0.1, end_percent=0.9)
        node(g, "73", "PairConditioningSetProperties", positive_NEW=["6", 0], negative_NEW=["7", 0], strength=0.9, set_cond_area="default", hooks=hooks)
        g["3"]["inputs"].update(positive=["73", 0], negative=["73", 1]); out["hooks/lora"] = g
        ramp = ("CreateHookKeyframesInterpolated", dict(strength_start=0.2, strength_end=1.0, interpolation="ease_in_out", start_percent=0.0, end_percent=1.0, keyframes_count=4, print_keyframes=False))
        g, hooks = hooked(ramp); node(g, "73", "ConditioningSetProperties", cond_NEW=["6", 0], strength=1.0, set_cond_area="default", hooks=hooks); g["3"]["inputs"]["positive"] = ["73", 0]; out["hooks/keyframes"] = g
        if not self.small: return
        g, hooks = hooked(); self.prompt(g, "60", "a ship"); node(g, "50", "SolidMask", value=1.0, width=32, height=64); node(g, "51", "ConditioningTimestepsRange", start_percent=0.2, end_percent=0.8)
        node(g, "73", "PairConditioningSetPropertiesAndCombine", positive=["6", 0], negative=["7", 0], positive_NEW=["60", 0], negative_NEW=["7", 0], strength=0.9, set_cond_area="mask bounds", hooks=hooks, mask=["50", 0], timesteps=["51", 0])
        g["3"]["inputs"].update(positive=["73", 0], negative=["73", 1]); out["hooks/pair_combine"] = g
        g, hooks = hooked(); node(g, "73", "SetClipHooks", clip=["4", 1], apply_to_conds=True, schedule_clip=False, hooks=hooks); g["6"]["inputs"]["clip"] = g["7"]["inputs"]["clip"] = ["73", 0]; out["hooks/clip"] = g
        g = copy.deepcopy(g); node(g, "20", "LoraLoader", model=["4", 0], clip=["4", 1], lora_name=n["kohya"], strength_model=0.0, strength_clip=0.5); g["73"]["inputs"]["clip"] = ["20", 1]; out["hooks/clip_on_lora"] = g
        g, hooks = hooked(ramp); node(g, "73", "SetClipHooks", clip=["4", 1], apply_to_conds=True, schedule_clip=True, hooks=hooks); g["6"]["inputs"]["clip"] = ["73", 0]; out["hooks/clip_scheduled"] = g
        g = self.latents(); node(g, "70", "CreateHookModelAsLora", ckpt_name=n["other"], strength_model=0.3, strength_clip=0.2); node(g, "71", "CreateHookKeyframe", strength_mult=0.5, start_percent=0.0)
        node(g, "72", "CreateHookKeyframe", strength_mult=1.0, start_percent=0.5, prev_hook_kf=["71", 0]); node(g, "74", "SetHookKeyframes", hooks=["70", 0], hook_kf=["72", 0]); node(g, "75", "CreateHookLoraModelOnly", lora_name=n["lora"], strength_model=0.5, prev_hooks=["74", 0])
        node(g, "73", "ConditioningSetProperties", cond_NEW=["6", 0], strength=1.0, set_cond_area="default", hooks=["75", 0]); g["3"]["inputs"]["positive"] = ["73", 0]; out["hooks/model_as_lora"] = g

    def sampling(self):
        n, out = self.names, self.all
        out["guider/cfg"] = self.custom(self.latents(), "CFGGuider", model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=5.0)
        out["guider/basic"] = self.custom(self.latents(), "BasicGuider", model=["4", 0], conditioning=["6", 0])
        for style in ("regular", "nested") if self.small else ("regular",):
            g = self.latents(); self.prompt(g, "60", "a ship")
            out["guider/dual_cfg" + ("" if style == "regular" else "_nested")] = self.custom(g, "DualCFGGuider", model=["4", 0], cond1=["6", 0], cond2=["60", 0], negative=["7", 0], cfg_conds=6.0, cfg_cond2_negative=4.0, style=style)
        out["guider/perp_neg"] = self.custom(self.latents(), "PerpNegGuider", model=["4", 0], positive=["6", 0], negative=["7", 0], empty_conditioning=["7", 0], cfg=6.0, neg_scale=1.0)
        levels = {"sd_turbo": ("SDTurboScheduler", dict(model=["4", 0], steps=3, denoise=1.0)), "align_your_steps": ("AlignYourStepsScheduler", dict(model_type="SD1", steps=5, denoise=1.0)), "gits": ("GITSScheduler", dict(coeff=1.2, steps=5, denoise=1.0))}
        if self.small:
            levels.update(karras=("KarrasScheduler", dict(steps=4, sigma_max=14.6, sigma_min=0.03, rho=7.0)), laplace=("LaplaceScheduler", dict(steps=4, sigma_max=14.6, sigma_min=0.03, mu=0.0, beta=0.5)),
                          vp=("VPScheduler", dict(steps=4, beta_d=19.9, beta_min=0.1, eps_s=0.001)), beta=("BetaSamplingScheduler", dict(model=["4", 0], steps=4, alpha=0.6, beta=0.6)),
                          polyexponential=("PolyexponentialScheduler", dict(steps=4, sigma_max=14.6, sigma_min=0.03, rho=1.0)), exponential=("ExponentialScheduler", dict(steps=4, sigma_max=14.6, sigma_min=0.03)))
        for name, sigmas in levels.items(): out["sigmas/" + name] = self.custom(self.latents(), "CFGGuider", sigmas=sigmas, model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=5.0)
        def split(sampler="euler", add_noise=(True, False)):
            g = self.latents(); node(g, "41", "KSamplerSelect", sampler_name=sampler); node(g, "42", "BasicScheduler", model=["4", 0], scheduler="normal", steps=4, denoise=1.0); node(g, "45", "SplitSigmas", sigmas=["42", 0], step=2)
            more = dict(model=["4", 0], cfg=5.0, positive=["6", 0], negative=["7", 0], sampler=["41", 0])
            node(g, "46", "SamplerCustom", add_noise=add_noise[0], noise_seed=7, sigmas=["45", 0], latent_image=["5", 0], **more)
            node(g, "3", "SamplerCustom", add_noise=add_noise[1], noise_seed=8, sigmas=["45", 1], latent_image=["46", 0], **more)
            return g
        out["sigmas/split"] = split()
        if self.small:
            out["sigmas/manual"] = self.custom(self.latents(), "CFGGuider", sigmas=("ManualSigmas", dict(sigmas="14.6, 7; 3.5 1.2,0")), model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=5.0)
            for name, sampler in dict(lcm=("SamplerLCM", dict(s_noise=0.8, s_noise_end=1.2, noise_clip_std=1.5)), seeds_2=("SamplerSEEDS2", dict(solver_type="phi_2", eta=0.7, s_noise=0.9, r=0.4))).items():
                g = self.custom(self.latents(), "CFGGuider", model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=5.0); node(g, "41", sampler[0], **sampler[1]); out["sampler/node_" + name] = g
        # The second part makes noise of its own from its seed.
        out["sigmas/split_ancestral"] = split("euler_ancestral")

    def pictures(self):
        out = self.all
        def encoded(class_type, size=64, **inputs):
            """A picture to a latent and, partly sampled, back."""
            g = self.graph(steps=3, denoise=0.6); hint = self.hint(g); g["30"]["inputs"].update(width=size, height=size)
            g["3"]["inputs"]["latent_image"] = node(g, "35", class_type, pixels=hint, vae=["4", 2], **inputs); return g
        tiles = dict(tile_size=64, overlap=16, temporal_size=64, temporal_overlap=8)
        g = encoded("VAEEncodeTiled", size=128, **tiles); node(g, "8", "VAEDecodeTiled", samples=["3", 0], vae=["4", 2], **tiles); out["vae/tiled"] = g
        g = encoded("VAEEncode"); node(g, "50", "SolidMask", value=1.0, width=24, height=32); node(g, "52", "SolidMask", value=0.0, width=64, height=64); node(g, "51", "MaskComposite", destination=["52", 0], source=["50", 0], x=16, y=16, operation="add")
        node(g, "36", "InpaintModelConditioning", positive=["6", 0], negative=["7", 0], vae=["4", 2], pixels=["32", 0], mask=["51", 0], noise_mask=True); del g["35"]
        g["3"]["inputs"].update(positive=["36", 0], negative=["36", 1], latent_image=["36", 2]); out["inpaint/four_channels"] = g
        if not self.small: return
        g = copy.deepcopy(g); g["4"]["inputs"]["ckpt_name"] = self.names["inpaint"]; out["inpaint/model"] = g
        g = copy.deepcopy(g); del g["50"], g["51"], g["52"]; g["4"]["inputs"]["ckpt_name"] = self.names["edit"]; node(g, "36", "InstructPixToPixConditioning", positive=["6", 0], negative=["7", 0], vae=["4", 2], pixels=["32", 0]); g["3"]["inputs"]["denoise"] = 1.0; out["inpaint/edit"] = g
        out["vae/img2img"] = encoded("VAEEncode")
        g = encoded("VAEEncodeForInpaint", mask=["51", 0], grow_mask_by=6); g.update({key: copy.deepcopy(out["inpaint/four_channels"][key]) for key in ("50", "51", "52")}); out["inpaint/encode_for"] = g
        g = self.graph(steps=2); hint = self.hint(g); del g["8"], g["9"], g["3"], g["5"], g["6"], g["7"], g["4"]; node(g, "20", "VAELoader", vae_name="pixel_space"); g["10"]["inputs"]["samples"] = node(g, "21", "VAEEncode", pixels=hint, vae=["20", 0])
        node(g, "8", "VAEDecode", samples=["21", 0], vae=["20", 0]); node(g, "9", "SaveImage", filename_prefix="extra", images=["8", 0]); out["vae/pixel_space"] = g
        g = self.graph(size=64); out["txt2img/plain"] = g
        g = self.latents(steps=3); node(g, "70", "LatentUpscaleBy", samples=["3", 0], upscale_method="bislerp", scale_by=1.5); node(g, "71", "KSampler", **dict(g["3"]["inputs"], latent_image=["70", 0], denoise=0.5)); g["10"]["inputs"]["samples"] = ["71", 0]; out["txt2img/hires"] = g
        g = self.latents(batch=2); out["txt2img/batch"] = g
        g = self.latents(); g["3"]["inputs"]["seed"] = 2**64 - 1; out["txt2img/large_seed"] = g
        g = self.latents(cfg=1.0); out["txt2img/no_guidance"] = g

    def loaders(self):
        """The checkpoint's parts from files of their own, the denoiser's weights in eight bits too."""
        for dtype in ("default", "fp8_e4m3fn", "fp8_e5m2"):
            g = self.graph(picture=dtype == "default"); g["3"]["inputs"]["model"] = node(g, "20", "UNETLoader", unet_name="unet.safetensors", weight_dtype=dtype)
            node(g, "21", "CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion" if dtype == "default" else "wan"); g["6"]["inputs"]["clip"] = g["7"]["inputs"]["clip"] = ["21", 0]
            if dtype == "default": g["8"]["inputs"]["vae"] = node(g, "22", "VAELoader", vae_name="vae.safetensors")
            del g["4"]; self.all["loader/" + dtype] = g
        for name in ("scaled", "scaled_later"): self.all["loader/" + name] = self.latents(checkpoint=name)

    def show(self, g, *links):
        """What conditionings tell, in place of a sampling."""
        for key in ("3", "10"): g.pop(key, None)
        for n, link in enumerate(links): node(g, str(90 + n), "ShowConditioning", conditioning=link)
        return g

    def seen(self, g, vision=None, width=96, height=64, crop="center", key="60"):
        """A picture with edges as a vision encoder sees it; without a name with the checkpoint's own."""
        hint = self.hint(g); g["30"]["inputs"].update(width=width, height=height)
        if vision: vision = node(g, "61", "CLIPVisionLoader", clip_name=vision + ".safetensors")
        return node(g, key, "CLIPVisionEncode", clip_vision=vision or ["4", 3], image=hint, crop=crop)

    def vision(self):
        out = self.all
        for name in ("clip_l", "clip_h", "siglip"):
            for crop, width, height in (("center", 96, 64), ("none", 250, 301), ("center", 224, 224)):
                g = self.latents(); seen = self.seen(g, name, width, height, crop)
                out[f"vision/{name}_{crop}_{width}"] = self.show(g, node(g, "62", "unCLIPConditioning", conditioning=["6", 0], clip_vision_output=seen, strength=0.7, noise_augmentation=0.2))
        g = self.latents(); hint = self.hint(g); node(g, "63", "ImageFlip", image=hint, flip_method="y-axis: horizontally"); node(g, "64", "BatchImagesNode", **{"images.image0": hint, "images.image1": ["63", 0]}); node(g, "61", "CLIPVisionLoader", clip_name="clip_l.safetensors")
        node(g, "60", "CLIPVisionEncode", clip_vision=["61", 0], image=["64", 0], crop="none"); out["vision/batch"] = self.show(g, node(g, "62", "unCLIPConditioning", conditioning=["6", 0], clip_vision_output=["60", 0], strength=0.7, noise_augmentation=0.2))
        g = self.latents(); node(g, "20", "ImageOnlyCheckpointLoader", ckpt_name="unclip.safetensors"); self.seen(g); g["60"]["inputs"]["clip_vision"] = ["20", 1]
        out["vision/of_checkpoint"] = self.show(g, node(g, "62", "unCLIPConditioning", conditioning=["6", 0], clip_vision_output=["60", 0], strength=0.7, noise_augmentation=0.2))
        def unclip(seed=7):
            g = self.latents(); node(g, "4", "unCLIPCheckpointLoader", ckpt_name="unclip.safetensors"); g["3"]["inputs"]["seed"] = seed; return g
        out["unclip/none"] = unclip()
        for name, seed, noise in (("one", 7, 0.0), ("noised", 2**40 + 3, 0.35), ("small_seed", 4, 0.2)):
            g = unclip(seed); g["3"]["inputs"]["positive"] = node(g, "62", "unCLIPConditioning", conditioning=["6", 0], clip_vision_output=self.seen(g), strength=0.8, noise_augmentation=noise); out["unclip/" + name] = g
        g = unclip(); node(g, "62", "unCLIPConditioning", conditioning=["6", 0], clip_vision_output=self.seen(g), strength=0.8, noise_augmentation=0.1); g["3"]["inputs"]["positive"] = node(g, "65", "unCLIPConditioning", conditioning=["62", 0], clip_vision_output=self.seen(g, crop="none", key="66"), strength=-0.4, noise_augmentation=0.5); out["unclip/two"] = g
        g = self.latents(checkpoint="sdxl"); g["3"]["inputs"]["positive"] = node(g, "62", "unCLIPConditioning", conditioning=["6", 0], clip_vision_output=self.seen(g, "clip_h"), strength=0.9, noise_augmentation=0.1); out["sdxl/revision"] = g
        def boxes(*boxes, **more):
            g = self.latents(checkpoint="sd2", size=96, **more); node(g, "70", "GLIGENLoader", gligen_name="gligen.safetensors"); link = ["6", 0]
            for n, (text, width, height, x, y) in enumerate(boxes): link = node(g, str(71 + n), "GLIGENTextBoxApply", conditioning_to=link, clip=["4", 1], gligen_textbox_model=["70", 0], text=text, width=width, height=height, x=x, y=y)
            g["3"]["inputs"]["positive"] = link; return g
        out["gligen/one"] = boxes(("a red boat", 32, 40, 8, 16))
        out["gligen/two"] = boxes(("a red boat", 32, 40, 8, 16), ("a white (tower:1.3)", 24, 64, 64, 0), batch=2)
        g = boxes(("a red boat", 32, 40, 8, 16)); node(g, "80", "ConditioningSetArea", conditioning=["7", 0], width=64, height=64, x=32, y=0, strength=1.0); g["3"]["inputs"]["positive"] = node(g, "81", "ConditioningCombine", conditioning_1=["71", 0], conditioning_2=["80", 0]); out["gligen/beside_an_area"] = g

        def styled(name, seen, *steps, link=("6", 0), g=None):
            g = g or self.latents(); seen = self.seen(g, seen); node(g, "70", "StyleModelLoader", style_model_name=name + ".safetensors"); link = list(link)
            for n, (strength, kind) in enumerate(steps): link = node(g, str(71 + n), "StyleModelApply", conditioning=link, style_model=["70", 0], clip_vision_output=seen, strength=strength, strength_type=kind)
            g["3"]["inputs"]["positive"] = link; return g, link
        for model, seen in (("style", "clip_l"), ("redux", "siglip")):
            for name, *steps in (("one", (1.0, "multiply")), ("less", (0.4, "multiply")), ("masked", (0.6, "attn_bias"), (0.9, "multiply"), (2.5, "attn_bias"))):
                out[f"style/{model}_{name}_shown"] = self.show(*styled(model, seen, *steps))
            out[f"style/{model}"] = styled(model, seen, (0.8, "multiply"))[0]
        out["style/biased"] = styled("style", "clip_h", (0.5, "attn_bias"))[0]
        g = self.latents(); hint = self.hint(g); node(g, "63", "ImageFlip", image=hint, flip_method="y-axis: horizontally"); node(g, "64", "BatchImagesNode", **{"images.image0": hint, "images.image1": ["63", 0]})
        g, link = styled("style", "clip_l", (1.0, "multiply"), g=g); g["60"]["inputs"]["image"] = ["64", 0]; out["style/batch_shown"] = self.show(g, link)

    def told(self):
        """Conditionings of models that are not here: what they are told, and their latents."""
        out = self.all
        def one(name, class_type, slots=(0,), kept=None, picture=None, **inputs):
            g = self.latents(); hint = self.hint(g)
            g["30"]["inputs"].update(width=72, height=56, batch_size=3)
            if picture: inputs.update({key: hint for key in picture})
            node(g, "20", class_type, **inputs); self.show(g, *(["20", slot] for slot in slots))
            if kept is not None: node(g, "10", "SaveLatent", samples=["20", kept], filename_prefix="extra/x")
            out["told/" + name] = g
            return g
        c, both, clip, vae = dict(conditioning=["6", 0]), dict(positive=["6", 0], negative=["7", 0]), dict(clip=["4", 1]), dict(vae=["4", 2])
        size = dict(width=64, height=48, length=9, batch_size=2)
        one("guidance", "FluxGuidance", **c, guidance=2.5); one("no_guidance", "FluxDisableGuidance", **c)
        one("method", "FluxKontextMultiReferenceLatentMethod", **c, reference_latents_method="uxo/uno")
        one("lotus", "LotusConditioning")
        g = one("reference", "ReferenceLatent", conditioning=["21", 0], latent=["5", 0]); node(g, "21", "ReferenceLatent", **c, latent=["22", 0]); node(g, "22", "VAEEncode", pixels=["32", 0], **vae)
        one("qwen", "TextEncodeQwenImageEdit", **clip, prompt="make it (night:1.2)", picture=["image"])
        one("qwen_several", "TextEncodeQwenImageEditPlus", **clip, prompt="make it night", picture=["image1", "image3"])
        one("mage", "TextEncodeMageFlowEdit", (0, 1), 2, **clip, **vae, prompt="make it night", negative_prompt="", width=0, height=64, batch_size=2, picture=["images.image_2", "images.image_1"])
        one("boogu", "TextEncodeBooguEdit", (0, 1), **clip, **vae, prompt="make it night", negative_prompt="blurry")
        one("joy", "TextEncodeJoyImageEdit", **clip, prompt="make it night")
        g = one("bernini", "BerniniConditioning", (0, 1), 2, **both, **vae, **size, ref_max_size=64, **{"reference_images.reference_image_0": ["33", 0]}, picture=["source_video", "reference_video"]); node(g, "33", "ImageScale", image=["32", 0], upscale_method="area", width=96, height=40, crop="disabled")
        for format in ("flux", "sd3", "sdxl"): g = one("pid_" + format, "PiDConditioning", positive=["6", 0], latent=["22", 0], latent_format=format, degrade_sigma=0.25); node(g, "22", "VAEEncode", pixels=["32", 0], **vae)
        one("wan_image", "WanImageToVideo", (0, 1), 2, **both, **vae, **size, picture=["start_image"])
        g = one("wan_seen", "WanImageToVideo", (0, 1), 2, **both, **vae, **size, clip_vision_output=["60", 0]); self.seen(g, "clip_h")
        g = one("wan_first_last", "WanFirstLastFrameToVideo", (0, 1), 2, **both, **vae, **size, clip_vision_start_image=["60", 0], clip_vision_end_image=["67", 0], picture=["start_image"], end_image=["33", 0]); self.seen(g, "clip_h"); self.seen(g, "clip_h", crop="none", key="67"); node(g, "33", "ImageInvert", image=["32", 0])
        one("wan_inpaint", "WanFunInpaintToVideo", (0, 1), 2, **both, **vae, **size, picture=["end_image"])
        g = one("wan_vace", "WanVaceToVideo", (0, 1), 2, **both, **vae, **size, strength=0.8, control_masks=["34", 0], picture=["control_video"]); node(g, "33", "ImageScale", image=["32", 0], upscale_method="area", width=40, height=40, crop="disabled"); node(g, "34", "ImageToMask", image=["33", 0], channel="red")
        one("wan_vace_alone", "WanVaceToVideo", (0, 1), 2, **both, **vae, **size, strength=1.0)
        one("wan_control", "WanFunControlToVideo", (0, 1), 2, **both, **vae, **size)
        g = one("wan_latent", "Wan22ImageToVideoLatent", (), 0, **vae, **size)
        for pose in ("Pan Right", "Zoom Out", "ClockWise (CW)"): g = one("wan_camera_" + pose.split()[0].lower(), "WanCameraImageToVideo", (0,), 2, **both, **vae, **size, camera_conditions=["21", 0]); node(g, "21", "WanCameraEmbedding", camera_pose=pose, width=64, height=48, length=9, speed=1.5, fx=0.6, fy=0.5, cx=0.45, cy=0.55)
        shown = dict(clip_vision=["61", 0], **vae, width=72, height=48)
        def stable(name, class_type, **inputs):
            g = one(name, class_type, (0, 1), 2, **shown, **inputs, init_image=["33", 0]); node(g, "33", "ImageScale", image=["34", 0], upscale_method="area", width=100, height=40, crop="disabled"); node(g, "34", "ImageFromBatch", image=["32", 0], batch_index=0, length=1); node(g, "61", "CLIPVisionLoader", clip_name="clip_h.safetensors")
        stable("svd", "SVD_img2vid_Conditioning", video_frames=5, motion_bucket_id=90, fps=7, augmentation_level=0.0)
        stable("zero123", "StableZero123_Conditioning", batch_size=3, elevation=12.5, azimuth=-70.0)
        stable("zero123_batched", "StableZero123_Conditioning_Batched", batch_size=3, elevation=12.5, azimuth=-70.0, elevation_batch_increment=2.25, azimuth_batch_increment=33.3)
        stable("sv3d", "SV3D_Conditioning", video_frames=4, elevation=10.5)
        one("hunyuan_15", "HunyuanVideo15ImageToVideo", (0, 1), 2, **both, **vae, **size)
        g = one("hunyuan_upscale", "HunyuanVideo15SuperResolution", (0, 1), 2, **both, latent=["21", 0], noise_augmentation=0.6); node(g, "21", "EmptyHunyuanVideo15Latent", **size)
        for n, kind in enumerate(("v1 (concat)", "custom")): one(f"hunyuan_image_{n}", "HunyuanImageToVideo", (0,), 1, positive=["6", 0], **vae, **size, guidance_type=kind, picture=["start_image"])
        g = one("hunyuan_refine", "HunyuanRefinerLatent", (0, 1), 2, **both, latent=["21", 0], noise_augmentation=0.2); node(g, "21", "EmptyHunyuanVideo15Latent", **size)
        one("ltxv_rate", "LTXVConditioning", (0, 1), **both, frame_rate=24.5)
        one("stable_audio", "ConditioningStableAudio", (0, 1), **both, seconds_start=3.5, seconds_total=31.25)
        one("kandinsky", "Kandinsky5ImageToVideo", (0, 1), 3, **both, **vae, **size, picture=["start_image"])
        one("cosmos", "CosmosImageToVideoLatent", (), 0, **vae, **size); one("cosmos_2", "CosmosPredict2ImageToVideoLatent", (), 0, **vae, **size)
        one("upscaler", "SD_4XUpscale_Conditioning", (0, 1), 2, **both, scale_ratio=2.3, noise_augmentation=0.05, picture=["images"])
        for name, sigmas in (("flux2", ("Flux2Scheduler", dict(steps=5, width=512, height=768))), ("flux2_large", ("Flux2Scheduler", dict(steps=4, width=2048, height=1024))), ("ltxv", ("LTXVScheduler", dict(steps=6, max_shift=2.05, base_shift=0.95, stretch=True, terminal=0.1))), ("ltxv_latent", ("LTXVScheduler", dict(steps=5, max_shift=2.05, base_shift=0.95, stretch=False, terminal=0.1, latent=["5", 0]))), ("optimal", ("OptimalStepsScheduler", dict(model_type="Wan", steps=7, denoise=0.8))), ("optimal_own", ("OptimalStepsScheduler", dict(model_type="FLUX", steps=10, denoise=1.0)))): out["sigmas/" + name] = self.custom(self.latents(), "CFGGuider", sigmas=sigmas, model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=5.0)
        out["sigmas/model_ltxv"] = self.with_model("ModelSamplingLTXV", max_shift=2.05, base_shift=0.95)

    def advanced(self):
        def stage(g, key, noise, start, end, leftover, latent): return node(g, key, "KSamplerAdvanced", add_noise=noise, noise_seed=7, steps=6, cfg=7.0, sampler_name="dpmpp_2m", scheduler="karras", start_at_step=start, end_at_step=end, return_with_leftover_noise=leftover, model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=latent)
        g = self.latents(); stage(g, "46", "enable", 0, 3, "enable", ["5", 0]); stage(g, "3", "disable", 3, 10000, "disable", ["46", 0]); self.all["txt2img/two_stages"] = g

    def families(self):
        out = self.all
        for family in ("sd2", "sdxl"):
            out[f"{family}/plain"] = self.graph(checkpoint=family)
            g = self.latents(checkpoint=family); g["6"]["inputs"]["text"] = " ".join(f"word{i} of (many:1.2)" for i in range(50)); out[f"{family}/long"] = g
            g = self.latents(checkpoint=family); g["6"]["inputs"]["clip"] = node(g, "20", "CLIPSetLastLayer", clip=["4", 1], stop_at_clip_layer=-3); out[f"{family}/clip_layer"] = g
        g = self.latents(checkpoint="sdxl"); node(g, "6", "CLIPTextEncodeSDXL", clip=["4", 1], width=900, height=700, crop_w=32, crop_h=16, target_width=1024, target_height=768, text_g="a lighthouse", text_l=" ".join(f"word{i}" for i in range(100))); out["sdxl/sizes"] = g

        out["refiner/plain"] = self.latents(checkpoint="refiner")
        g = self.latents(checkpoint="refiner"); node(g, "6", "CLIPTextEncodeSDXLRefiner", clip=["4", 1], ascore=7.5, width=900, height=700, text="a lighthouse in the rain"); out["refiner/score"] = g
        g = self.latents(checkpoint="sdxl"); node(g, "20", "LoraLoader", model=["4", 0], clip=["4", 1], lora_name=self.names["sdxl_lora"], strength_model=0.7, strength_clip=0.5); g["3"]["inputs"]["model"], g["6"]["inputs"]["clip"] = ["20", 0], ["20", 1]; out["sdxl/lora"] = g
        g = self.latents(checkpoint="sdxl"); hint = self.hint(g); node(g, "20", "ControlNetLoader", control_net_name=self.names["sdxl_controlnet"])
        node(g, "21", "ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["20", 0], image=hint, strength=0.9, start_percent=0.0, end_percent=1.0); g["3"]["inputs"].update(positive=["21", 0], negative=["21", 1]); out["sdxl/controlnet"] = g
        g = copy.deepcopy(g); g["20"]["inputs"]["control_net_name"] = self.names["sdxl_control_lora"]; out["sdxl/control_lora"] = g
        g = self.latents(checkpoint="sdxl"); node(g, "21", "LoraLoaderModelOnly", model=["4", 0], lora_name=self.names["sdxl_lora"], strength_model=1.0); shares = {"time_embed.": 0.5, "label_emb.": 0.2, "out.": 0.3, **{f"{part}.{i}": (i * 7 + k) % 10 / 10 for part, count, k in (("input_blocks", 9, 1), ("middle_block", 3, 4), ("output_blocks", 9, 2)) for i in range(count)}}
        g["3"]["inputs"]["model"] = node(g, "20", "ModelMergeSDXL", model1=["4", 0], model2=["21", 0], **shares); out["sdxl/merge"] = g

    def names_of_samplers(self, info):
        inputs = info["KSampler"]["input"]["required"]
        for name in inputs["sampler_name"][0]:
            if not name.endswith("_gpu"): self.all["sampler/" + name] = self.latents(sampler=name, scheduler="karras" if name in ("dpm_2", "heun") else "normal", steps=4)
        for name in inputs["scheduler"][0]: self.all["scheduler/" + name] = self.latents(scheduler=name, steps=5)

def cases(kind, info):
    full = dict(checkpoint="sd15_random.safetensors", lora="lora_random.safetensors", loha="loha_random.safetensors", lokr="lokr_random.safetensors", dora="dora_random.safetensors", controlnet="controlnet_random.safetensors", control_lora="control_lora_random.safetensors", t2i="t2i_random.safetensors", embedding="emb_random", upscaler="esrgan_random.safetensors")
    small = dict(checkpoint="sd15.safetensors", other="other.safetensors", scaled="scaled.safetensors", scaled_later="scaled_later.safetensors", inpaint="inpaint.safetensors", sd2="sd2.safetensors", sdxl="sdxl.safetensors", lora="lora.safetensors", loha="loha.safetensors", lokr="lokr.safetensors", dora="dora.safetensors", diffusers="diffusers.safetensors", kohya="kohya.safetensors", edit="edit.safetensors", refiner="refiner.safetensors", sdxl_lora="sdxl.safetensors", sdxl_controlnet="sdxl.safetensors", misfit="misfit.safetensors",
                 controlnet="controlnet.safetensors", shuffle="net_shuffle.safetensors", control_lora="lora.safetensors", sdxl_control_lora="lora_sdxl.safetensors", t2i="t2i.safetensors", embedding="emb", upscaler="esrgan.safetensors")
    c = Cases(small if kind == "reduced" else full, kind == "reduced")
    for part in (c.adapters, c.patches, c.merging, c.conditioning, c.hooks, c.sampling, c.pictures): part()
    if kind == "reduced": c.vision(); c.told(); c.loaders(); c.advanced(); c.families(); c.names_of_samplers(info)
    return c.all

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("base"); parser.add_argument("folder"); parser.add_argument("kind", choices=["extra", "reduced"]); parser.add_argument("--only", default=""); parser.add_argument("--new", action="store_true")
    a = parser.parse_args()
    base = a.base.rstrip("/")
    sys.exit(0 if record(base, a.folder, cases(a.kind, call(base, "/object_info/KSampler")), a.only, a.new) else 1)
