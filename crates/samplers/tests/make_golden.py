"""Records what ComfyUI 0.33.0 computes, for the tests beside this file.

Run with ComfyUI's Python environment: python make_golden.py PATH_OF_COMFYUI
Writes golden/{samplers,schedules,noise}.safetensors.
"""
import os
import sys
import types
import warnings

comfy_path = sys.argv[1]
sys.path.insert(0, comfy_path)
warnings.filterwarnings("ignore")

from comfy.cli_args import args

args.cpu = True
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
import comfy.model_sampling as ms
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_advanced_samplers as advanced
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as nma
from comfy.k_diffusion import sa_solver
from comfy.k_diffusion import sampling as kd
from comfy_extras.nodes_align_your_steps import AlignYourStepsScheduler

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
SEED = 987654321987


def sampling(base, kind, settings=None, parameters=None, **kw):
    config = None if settings is None else types.SimpleNamespace(sampling_settings=settings)
    made = type("Made", (base, kind), {})(config, **kw)
    if parameters:
        made.set_parameters(*parameters)
    return made


SCHEDULES = {
    "sd1": sampling(ms.ModelSamplingDiscrete, ms.EPS),
    "sd2_v": sampling(ms.ModelSamplingDiscrete, ms.V_PREDICTION),
    "zsnr": sampling(ms.ModelSamplingDiscrete, ms.V_PREDICTION, zsnr=True),
    "cosine": sampling(ms.ModelSamplingDiscrete, ms.EPS, {"beta_schedule": "cosine"}),
    "sqrt_linear": sampling(ms.ModelSamplingDiscrete, ms.EPS, {"beta_schedule": "sqrt_linear"}),
    "x0": sampling(ms.ModelSamplingDiscrete, ms.X0),
    "img_to_img": sampling(ms.ModelSamplingDiscrete, ms.IMG_TO_IMG),
    "lcm": sampling(nma.ModelSamplingDiscreteDistilled, nma.LCM),
    "discrete_edm": sampling(ms.ModelSamplingDiscreteEDM, ms.EDM),
    "edm": sampling(ms.ModelSamplingContinuousEDM, ms.EDM, None, (0.002, 80.0, 0.5)),
    "continuous_v": sampling(ms.ModelSamplingContinuousV, ms.V_PREDICTION, None, (0.03, 500.0, 1.0)),
    "cosmos": sampling(ms.ModelSamplingCosmosRFlow, ms.COSMOS_RFLOW, None, (0.002, 80.0, 1.0)),
    "flow": sampling(ms.ModelSamplingDiscreteFlow, ms.CONST, {"shift": 3.0}),
    "flux": sampling(ms.ModelSamplingFlux, ms.CONST, {"shift": 1.15}),
    "cascade": sampling(ms.StableCascadeSampling, ms.EPS, {"shift": 2.0}),
}


def made_schedules():
    out = {}
    x = torch.linspace(-3, 3, 24).view(1, 2, 3, 4)
    y = torch.cos(x * 2)
    for name, s in SCHEDULES.items():
        out[f"table/{name}"] = s.sigmas[:: max(1, len(s.sigmas) // 1000)].contiguous().clone()
        low, high = float(s.sigma_min), float(s.sigma_max)
        sigmas = torch.tensor([low, low * 1.7, (low + high) / 3, high * 0.77, high])
        out[f"at/{name}"] = sigmas
        out[f"timestep/{name}"] = torch.stack([s.timestep(v) for v in sigmas]).float()
        steps = torch.stack([s.timestep(v) for v in sigmas]).float() * 0.97
        out[f"steps/{name}"] = steps
        out[f"sigma/{name}"] = torch.stack([torch.as_tensor(s.sigma(v)) for v in steps]).float()
        percents = [0.0, 0.1, 0.35, 0.9, 1.0]
        out[f"percent/{name}"] = torch.tensor([float(s.percent_to_sigma(p)) for p in percents], dtype=torch.float64)
        v = sigmas[2:3]
        out[f"input/{name}"] = s.calculate_input(v, x)
        out[f"denoised/{name}"] = s.calculate_denoised(v, y, x)
        out[f"noised/{name}"] = s.noise_scaling(v, x.clone(), y, False)
        out[f"noised_max/{name}"] = s.noise_scaling(v, x.clone(), y, True)
        out[f"unscaled/{name}"] = s.inverse_noise_scaling(v * 0.5, y)
    for name in ["sd1", "zsnr", "lcm", "edm", "continuous_v", "flow", "cascade"]:
        for scheduler in comfy.samplers.SCHEDULER_NAMES:
            for steps in [1, 2, 7, 20]:
                if scheduler == "kl_optimal" and steps == 1:
                    continue
                out[f"scheduler/{name}/{scheduler}/{steps}"] = comfy.samplers.calculate_sigmas(SCHEDULES[name], scheduler, steps)
    model = types.SimpleNamespace(get_model_object=lambda _: SCHEDULES["sd1"], load_device="cpu", model_options={})
    for sampler in ["euler", "dpm_2", "uni_pc"]:
        for scheduler in ["normal", "karras", "ddim_uniform", "beta"]:
            for steps, denoise in [(1, 1.0), (9, 1.0), (9, 0.37), (20, 0.99995), (4, 0.0)]:
                k = comfy.samplers.KSampler(model, steps, "cpu", sampler, scheduler, denoise)
                out[f"ksampler/{sampler}/{scheduler}/{steps}/{denoise}"] = k.sigmas
    out["formula/karras"] = kd.get_sigmas_karras(9, 0.03, 14.6, 5.0)
    out["formula/exponential"] = kd.get_sigmas_exponential(9, 0.03, 14.6)
    out["formula/polyexponential"] = kd.get_sigmas_polyexponential(9, 0.03, 14.6, 1.3)
    out["formula/laplace"] = kd.get_sigmas_laplace(9, 0.03, 14.6, 0.2, 0.5)
    out["formula/vp"] = kd.get_sigmas_vp(9, 19.9, 0.1, 0.001)
    out["formula/beta"] = comfy.samplers.beta_scheduler(SCHEDULES["sd1"], 15, 2.5, 0.7)
    out["formula/sd_turbo"] = custom.SDTurboScheduler().get_sigmas(model, 4, 0.65)[0]
    for kind in ["SD1", "SDXL", "SVD"]:
        out[f"ays/{kind}/10/1.0"] = AlignYourStepsScheduler.execute(kind, 10, 1.0).result[0]
        out[f"ays/{kind}/17/0.6"] = AlignYourStepsScheduler.execute(kind, 17, 0.6).result[0]
    return out


class Toy:
    """An analytic denoiser that runs the functions after guidance as the reference's guider does."""

    def __init__(self, schedule):
        patcher = types.SimpleNamespace(get_model_object=lambda _: schedule)
        base = types.SimpleNamespace(model_sampling=schedule)
        self.inner_model = types.SimpleNamespace(inner_model=base, model_patcher=patcher)
        self.calls = 0

    def __call__(self, x, sigma, model_options={}, **_):
        self.calls += 1
        s = sigma[0]
        c = 1.0 / (1.0 + s)
        denoised = x * (0.7 * c) + torch.tanh(x) * 0.3
        uncond = x * (0.6 * c) + torch.tanh(x) * 0.25
        for function in model_options.get("sampler_post_cfg_function", []):
            denoised = function({"denoised": denoised, "uncond_denoised": uncond, "sigma": sigma, "input": x})
        return denoised


def made_samplers():
    out = {}
    table = comfy.samplers.calculate_sigmas(SCHEDULES["sd1"], "karras", 7)
    sets = {
        "full": ("sd1", table),
        "part": ("sd1", table[2:6].clone()),
        "one": ("sd1", torch.tensor([5.0, 0.0])),
        "one_part": ("sd1", torch.tensor([5.0, 1.5])),
        "flow": ("flow", comfy.samplers.calculate_sigmas(SCHEDULES["flow"], "simple", 6)),
    }
    schedule = SCHEDULES["sd1"]
    functions = {name: comfy.samplers.sampler_object(name).sampler_function for name in comfy.samplers.SAMPLER_NAMES}
    optional = {
        "euler:churn": ("euler", {"s_churn": 3.0, "s_noise": 1.003}),
        "heun:churn": ("heun", {"s_churn": 3.0}),
        "dpm_2:churn": ("dpm_2", {"s_churn": 3.0}),
        "euler_ancestral:half": ("euler_ancestral", {"eta": 0.5, "s_noise": 0.9}),
        "euler_ancestral_cfg_pp:half": ("euler_ancestral_cfg_pp", {"eta": 0.5, "s_noise": 0.9}),
        "lms:2": ("lms", {"order": 2}),
        "lms:6": ("lms", {"order": 6}),
        "dpm_adaptive:options": ("dpm_adaptive", {"order": 2, "rtol": 0.02, "atol": 0.01, "h_init": 0.1, "pcoeff": 0.1, "icoeff": 0.8, "dcoeff": 0.1, "eta": 0.4}),
        "dpmpp_2s_ancestral:half": ("dpmpp_2s_ancestral", {"eta": 0.5, "s_noise": 0.9}),
        "dpmpp_sde:options": ("dpmpp_sde", {"eta": 0.5, "s_noise": 0.9, "r": 0.4}),
        "dpmpp_2m_sde:heun": ("dpmpp_2m_sde", {"eta": 0.5, "s_noise": 0.9, "solver_type": "heun"}),
        "dpmpp_2m_sde:ode": ("dpmpp_2m_sde", {"eta": 0.0}),
        "dpmpp_3m_sde:half": ("dpmpp_3m_sde", {"eta": 0.5, "s_noise": 0.9}),
        "er_sde:reverse": ("er_sde", {"s_noise": 0.9, "noise_scaler": lambda v: v ** 1.6, "max_stage": 2}),
        "er_sde:eta": ("er_sde", {"noise_scaler": lambda v: v * ((v ** 0.3).exp() + 10.0) ** 0.6}),
        "sa_solver:options": ("sa_solver", {"tau_func": sa_solver.get_tau_interval_func(9.0, 0.5, 0.7), "s_noise": 0.9, "predictor_order": 2, "corrector_order": 2, "simple_order_2": True}),
        "sa_solver:no_corrector": ("sa_solver", {"predictor_order": 2, "corrector_order": 0}),
        "seeds_2:options": ("seeds_2", {"eta": 0.5, "s_noise": 0.9, "r": 0.4}),
    }
    cases = {}
    for name, function in functions.items():
        for kind in sets:
            if kind == "flow" and name.startswith("uni_pc"):
                continue
            cases[f"{kind}/{name}"] = (function, kind, {})
    for name, (base, options) in optional.items():
        cases[f"full/{name}"] = (functions[base], "full", options)
    cases["full/euler_cfg_pp:alternative"] = (advanced.sample_euler_pp, "full", {})
    cases["full/lcm:upscale"] = (advanced.sample_lcm_upscale, "full", {"total_upscale": 1.5, "upscale_method": "nearest-exact", "upscale_steps": 3})
    for key, (_, sigmas) in sets.items():
        out[f"sigmas/{key}"] = sigmas.clone()
    for key, (function, kind, options) in cases.items():
        schedule_name, sigmas = sets[kind]
        toy = Toy(SCHEDULES[schedule_name])
        noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), SEED)
        x = noise * sigmas[0]
        told, levels = [], []

        def callback(step):
            told.append(step["i"])

        result = function(toy, x, sigmas.clone(), extra_args={"seed": SEED, "model_options": {}}, callback=callback, disable=True, **options)
        if not torch.isfinite(result).all():
            print("not finite:", key)
            continue
        out[f"out/{key}"] = result.contiguous()
        out[f"told/{key}"] = torch.tensor(told, dtype=torch.int64)
        out[f"calls/{key}"] = torch.tensor([toy.calls], dtype=torch.int64)
    return out


def made_noise():
    out = {}
    x = torch.zeros(2, 1, 3, 5)
    sampler = kd.BrownianTreeNoiseSampler(x, torch.tensor(0.0291), torch.tensor(14.6146), seed=2**63 + 12345, cpu=True)
    queries = [(14.6146, 7.3), (7.3, 2.00001), (2.00001, 0.0291), (0.5, 9.25), (7.0, 7.0000019), (14.6146, 0.0291), (3.0, 1.5), (1.5, 3.0), (7.3218, 0.0078125)]
    out["queries"] = torch.tensor(queries)
    out["brownian"] = torch.stack([sampler(torch.tensor(a), torch.tensor(b)) for a, b in queries])
    sampler = kd.BrownianTreeNoiseSampler(x, torch.tensor(0.5), torch.tensor(700.0), seed=0, cpu=True)
    out["brownian_wide"] = torch.stack([sampler(torch.tensor(a), torch.tensor(b)) for a, b in [(700.0, 54.5), (54.5, 0.5)]])
    latent = torch.zeros(3, 2, 2, 5)
    out["latent"] = comfy.sample.prepare_noise(latent, 5)
    out["latent_batch"] = comfy.sample.prepare_noise(latent, 5, [4, 0, 4])
    return out


os.makedirs(OUT, exist_ok=True)
for name, made in [("schedules", made_schedules), ("noise", made_noise), ("samplers", made_samplers)]:
    save_file({k: v.clone().contiguous() for k, v in made().items()}, os.path.join(OUT, f"{name}.safetensors"))
