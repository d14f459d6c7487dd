//! Whole samplings with tiny UNets against ComfyUI's latents: conditions, guidance, model patches, merges. `golden/make_sampling.py` makes
//! the expected values.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;
use std::path::Path;
use std::sync::LazyLock;

use candle_core::{DType, Device};
use comfyd_engine::patches::{
    Apg, CfgNorm, CfgZeroStar, DifferentialDiffusion, EpsilonScaling, FreSca, Hooked, Mahiro, PerpNeg, PerturbedAttentionGuidance,
    RescaleCfg, Sampling, SelfAttentionGuidance, TangentialDamping,
};
use comfyd_engine::{
    Area, CondEntry, Conditioning, DualStyle, Engine, EngineOptions, Guider, KSampler, LatentInput, Model, Noise, Sampler, Tensor, tensor,
};
use comfyd_imaging::resize::Method;
use comfyd_kernels::random::Generator;
use comfyd_models::unet::hooks::{Downscale, FreeU, FreeUVersion, HyperTile, TokenMerging};
use comfyd_node::{CancellationToken, Context, Hidden, SilentReporter};
use comfyd_samplers::ksampler;
use comfyd_samplers::schedule::{Discrete, DiscreteSettings};
use comfyd_samplers::{Prediction, noise};
use comfyd_values::Sigmas;
use comfyd_weights::{StateDict, synthetic, write};

const TOLERANCE: f32 = 1e-3;

struct Fixture {
    /// One for the CPU, and one for the GPU where there is one.
    engines: Vec<Engine>,
    golden: StateDict,
    dir: tempfile::TempDir,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let layouts: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&std::fs::read_to_string(golden.join("layouts.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, layout) in layouts {
        let dict = synthetic::state_dict(&layout.to_string(), DType::F32).unwrap();
        let dict = dict.with_prefix(&format!("{name}."), "model.diffusion_model.");
        write::write(&dir.path().join(format!("{name}.safetensors")), &dict, &write::Options::default()).unwrap();
    }
    let engines =
        comfyd_engine::devices().map(|device| Engine::new(EngineOptions { device, ..EngineOptions::default() }).unwrap()).collect();
    Fixture { engines, golden: StateDict::open(&golden.join("sampling.safetensors")).unwrap(), dir }
});

thread_local! {
    /// The engine that this thread's test is at.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

fn engine() -> &'static Engine {
    &FIXTURE.engines[CURRENT.get()]
}

fn on_each_device(test: impl Fn()) {
    for index in 0..FIXTURE.engines.len() {
        CURRENT.set(index);
        test();
    }
}

fn model(name: &str) -> Model {
    engine().load_unet(&FIXTURE.dir.path().join(format!("{name}.safetensors")), "default").unwrap()
}

fn randn(seed: u64, shape: &[usize]) -> Tensor {
    noise::latent(seed, shape, None).unwrap()
}

fn rand(seed: u64, shape: &[usize]) -> Tensor {
    tensor(shape, Generator::new(seed).rand(shape.iter().product())).unwrap()
}

fn cond(seed: u64) -> Conditioning {
    cond_of(seed, 77, |_| {})
}

fn cond_of(seed: u64, length: usize, change: impl FnOnce(&mut CondEntry)) -> Conditioning {
    let mut entry = CondEntry { cross_attn: Some(randn(seed, &[1, length, 48])), ..CondEntry::default() };
    change(&mut entry);
    Conditioning::new(vec![entry])
}

fn empty() -> Tensor {
    Tensor::zeros((1, 4, 16, 24), DType::F32, &Device::Cpu).unwrap()
}

fn full() -> Tensor {
    randn(9, &[1, 4, 16, 24])
}

fn with_context<T>(work: impl FnOnce(&Context<'_>) -> T) -> T {
    let (hidden, cancel) = (Hidden::default(), CancellationToken::default());
    work(&Context::new("1", &hidden, &cancel, &SilentReporter, 0))
}

struct Case {
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent: LatentInput,
    settings: KSampler,
}

fn case(model: Model) -> Case {
    Case {
        model,
        positive: cond(1),
        negative: cond(2),
        latent: LatentInput { samples: empty(), noise_mask: None, batch_index: None },
        settings: KSampler {
            seed: 5,
            steps: 3,
            cfg: 7.5,
            sampler: "euler".into(),
            scheduler: "normal".into(),
            denoise: 1.0,
            disable_noise: false,
            start_step: None,
            last_step: None,
            force_full_denoise: false,
        },
    }
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn run(&self) -> Tensor {
        with_context(|cx| engine().ksampler(cx, &self.model, &self.positive, &self.negative, &self.latent, &self.settings)).unwrap()
    }

    fn check(self, name: &str) {
        compare(name, &self.run());
    }
}

fn compare(name: &str, got: &Tensor) {
    let expected = FIXTURE.golden.get(name).expect(name).read().unwrap();
    assert_eq!(got.dims(), expected.dims(), "{name}");
    let difference = difference(got, &expected);
    println!("{name}: {difference:.2e}");
    assert!(difference < TOLERANCE, "{name}: {difference}");
}

/// The largest difference, as a part of the largest value.
fn difference(got: &Tensor, expected: &Tensor) -> f32 {
    let largest = |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    largest(&(got - expected).unwrap()) / largest(expected)
}

fn guide(name: &str, guider: &Guider) {
    let sigmas = Sigmas::new(ksampler::basic_sigmas("normal", &*guider.model().schedule(), 3, 1.0).unwrap());
    let latent = LatentInput { samples: empty(), noise_mask: None, batch_index: None };
    let euler = Sampler::by_name("euler").unwrap();
    let sampled = with_context(|cx| engine().sample(cx, guider, Noise::Random(5), &euler, &sigmas, &latent)).unwrap();
    compare(name, &sampled.output);
}

#[test]
fn plain_samplings() {
    on_each_device(|| {
        case(model("base")).check("plain");
        case(model("base")).with(|c| c.settings.cfg = 1.0).check("cfg1");
        case(model("base")).with(|c| (c.settings.cfg, c.settings.sampler) = (1.0, "euler_ancestral_cfg_pp".into())).check("cfg_pp");
        let batch = Tensor::zeros((2, 4, 16, 24), DType::F32, &Device::Cpu).unwrap();
        case(model("base")).with(|c| c.latent.samples = batch).check("batch");
        case(model("base")).with(|c| (c.latent.samples, c.settings.denoise) = (full(), 0.6)).check("image");
        case(model("base")).with(|c| c.positive = cond_of(1, 154, |_| {})).check("long_text");
    });
}

#[test]
fn masked_samplings() {
    on_each_device(|| {
        let masked = |model: Model| {
            case(model).with(|c| {
                c.latent.samples = full();
                c.latent.noise_mask = Some(rand(3, &[1, 32, 48]));
            })
        };
        masked(model("base")).with(|c| c.settings.sampler = "ddim".into()).check("ddim_mask");
        masked(model("base").with(DifferentialDiffusion { strength: 1.0 })).check("differential");
    });
}

#[test]
fn areas_masks_and_ranges() {
    on_each_device(|| {
        let both = |change: fn(&mut CondEntry)| cond(1).combine(&cond_of(3, 77, change));
        let positive = |positive: Conditioning| case(model("base")).with(|c| c.positive = positive);
        positive(both(|e| (e.area, e.strength) = (Some(Area::Latent { height: 8, width: 10, y: 4, x: 6 }), Some(0.8)))).check("area");
        positive(both(|e| e.area = Some(Area::Percent { height: 0.5, width: 0.4, y: 0.25, x: 0.6 }))).check("percent");
        let masked = cond_of(1, 77, |e| (e.mask, e.mask_strength) = (Some(rand(4, &[1, 40, 40])), Some(0.7)));
        positive(masked.combine(&cond_of(3, 77, |e| e.mask = Some(rand(5, &[1, 16, 24]))))).check("mask");
        let mut square = vec![0.0; 16 * 24];
        (2..6).for_each(|y| (3..9).for_each(|x| square[y * 24 + x] = 1.0));
        let square = tensor(&[1, 16, 24], square).unwrap();
        positive(cond(1).combine(&cond_of(3, 77, |e| (e.mask, e.set_area_to_bounds) = (Some(square), true)))).check("bounds");
        let first = cond_of(1, 77, |e| (e.start_percent, e.end_percent) = (Some(0.0), Some(0.5)));
        let second = cond_of(3, 77, |e| (e.start_percent, e.end_percent) = (Some(0.5), Some(1.0)));
        positive(first.combine(&second)).check("range");
        let fallback = cond_of(1, 77, |e| e.is_default = true);
        positive(fallback.combine(&cond_of(3, 77, |e| e.mask = Some(rand(4, &[1, 16, 24]))))).check("default");
    });
}

#[test]
fn models_with_more_channels() {
    on_each_device(|| {
        let shown = |c: &Conditioning| {
            c.map(|e| {
                e.concat_latent = Some(full());
                e.concat_mask = Some(rand(6, &[1, 128, 192]));
            })
        };
        case(model("inpaint"))
            .with(|c| {
                (c.positive, c.negative) = (shown(&c.positive), shown(&c.negative));
                (c.latent.samples, c.latent.noise_mask) = (full(), Some(rand(6, &[1, 128, 192])));
            })
            .check("inpaint_model");
        case(model("inpaint")).check("inpaint_blank");
        let edited = |c: &Conditioning| c.map(|e| e.concat_latent = Some(full()));
        case(model("edit")).with(|c| (c.positive, c.negative) = (edited(&c.positive), edited(&c.negative))).check("edit_model");
    });
}

#[test]
fn guiders() {
    on_each_device(|| {
        let base = model("base");
        guide("basic", &Guider::basic(&base, &cond(1)));
        guide("dual", &Guider::dual_cfg(&base, &cond(1), &cond(3), &cond(2), 5.0, 3.0, DualStyle::Regular));
        guide("dual_nested", &Guider::dual_cfg(&base, &cond(1), &cond(3), &cond(2), 5.0, 3.0, DualStyle::Nested));
        guide("perp_neg_guider", &Guider::perp_neg(&base, &cond(1), &cond(2), &cond(3), 6.0, 0.8));
    });
}

#[test]
fn guidance_functions() {
    on_each_device(|| {
        let base = model("base");
        case(base.with(PerpNeg { empty: cond(3), neg_scale: 0.8 })).check("perp_neg");
        case(base.with(RescaleCfg { multiplier: 0.7 })).check("rescale");
        case(base.with(Apg::new(0.6, 4.0, -0.5))).check("apg");
        case(base.with(CfgZeroStar)).check("zero_star");
        case(base.with(CfgNorm { strength: 0.9, pre_cfg: false })).check("norm");
        case(base.with(TangentialDamping)).check("tcfg");
        case(base.with(FreSca { low: 0.8, high: 1.4, cutoff: 5 })).check("fresca");
        case(base.with(Mahiro)).check("mahiro");
        case(base.with(EpsilonScaling { factor: 1.01 })).check("epsilon");
        case(base.with(PerturbedAttentionGuidance { scale: 3.0 })).check("pag");
        case(base.with(SelfAttentionGuidance::new(0.5, 2.0))).check("sag");
    });
}

#[test]
fn noise_levels() {
    on_each_device(|| {
        let v = DiscreteSettings { prediction: Prediction::V, zsnr: true, ..DiscreteSettings::default() };
        case(model("base").with_schedule(std::sync::Arc::new(Discrete::new(&v).unwrap()))).check("v");
    });
}

#[test]
fn patches_of_the_pass() {
    on_each_device(|| {
        let base = model("base");
        let free_u = |version, b1, b2| base.with(Hooked(move |_: &Sampling<'_>| FreeU { version, deep: (b1, 0.9), shallow: (b2, 0.2) }));
        case(free_u(FreeUVersion::V1, 1.1, 1.2)).check("freeu");
        case(free_u(FreeUVersion::V2, 1.3, 1.4)).check("freeu_v2");
        let shrink = |sampling: &Sampling<'_>| Downscale {
            block: 2,
            factor: 2.0,
            sigma_start: sampling.schedule.percent_to_sigma(0.0),
            sigma_end: sampling.schedule.percent_to_sigma(0.6),
            after_skip: true,
            shrink: Method::Bicubic,
            grow: Method::Bilinear,
        };
        case(base.with(Hooked(shrink))).check("downscale");
        case(base.with(Hooked(|sampling: &Sampling<'_>| TokenMerging::new(0.4, sampling.random()))))
            .with(|c| c.settings.steps = 1)
            .check("tome");
        let larger = Tensor::zeros((1, 4, 32, 32), DType::F32, &Device::Cpu).unwrap();
        case(base.with(Hooked(|sampling: &Sampling<'_>| HyperTile::new(8, 4, 1, false, sampling.random()))))
            .with(|c| (c.latent.samples, c.settings.steps) = (larger, 1))
            .check("hypertile");
    });
}

#[test]
fn patched_weights() {
    on_each_device(|| {
        let (base, other) = (model("base"), model("other"));
        case(base.merge(&other, 0.3)).check("merged");
        let ratios = [("input".to_owned(), 0.2), ("middle".to_owned(), 0.5), ("out".to_owned(), 0.9)];
        case(base.merge_blocks(&other, 0.2, &ratios)).check("blocks");
        case(base.add(&base.subtract(&other, 0.5))).check("subtracted");
        let factors = [("to_q", 1.1), ("to_k", 0.9), ("to_v", 1.2), ("to_out.0", 0.8)];
        let factor = |name: &str| factors.iter().find(|(part, _)| name.contains(&format!("attn2.{part}."))).map(|(_, factor)| *factor);
        case(base.multiplied(factor)).check("multiplied");
        // A merge at its ends gives one of the models, to the bit.
        assert_eq!(difference(&case(base.merge(&other, 1.0)).run(), &case(base.clone()).run()), 0.0);
        assert_eq!(difference(&case(base.merge(&other, 0.0)).run(), &case(other).run()), 0.0);
    });
}

#[test]
fn an_interruption_ends_the_pass() {
    on_each_device(|| {
        let (hidden, cancel) = (Hidden::default(), CancellationToken::default());
        cancel.cancel();
        let cx = Context::new("1", &hidden, &cancel, &SilentReporter, 0);
        let case = case(model("base"));
        let result = engine().ksampler(&cx, &case.model, &case.positive, &case.negative, &case.latent, &case.settings);
        assert!(matches!(result, Err(comfyd_engine::Error::Interrupted)));
    });
}
