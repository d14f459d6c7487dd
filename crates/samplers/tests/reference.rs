//! Schedules, schedulers, noise and samplers against what the reference computes (`make_golden.py`).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use comfyd_samplers::sampler::*;
use comfyd_samplers::schedule::{
    BetaSchedule, Cascade, Continuous, ContinuousSettings, Discrete, DiscreteFlow, DiscreteFlowSettings, DiscreteSettings, ShiftedFlow,
};
use comfyd_samplers::{Denoiser, Observer, Prediction, Result, Sampler, Schedule, Step, ksampler, noise, scheduler};

/// The seed of the recorded samplings.
const SEED: u64 = 987_654_321_987;

fn golden(name: &str) -> HashMap<String, Tensor> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.safetensors"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// The norm of the difference, relative to the expected norm.
fn relative(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    // Infinities that agree do not differ; their difference would be NaN.
    let difference = norm(&mut actual.iter().zip(expected).map(|(a, e)| if a == e { 0.0 } else { f64::from(*a) - f64::from(*e) }));
    difference / norm(&mut expected.iter().filter(|e| e.is_finite()).map(|e| f64::from(*e))).max(1e-12)
}

/// Each number within so many units in the last place.
fn assert_ulps(what: &str, actual: &[f32], expected: &[f32], ulps: u32) {
    assert_eq!(actual.len(), expected.len(), "{what}: {actual:?} instead of {expected:?}");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let apart = (i64::from(a.to_bits()) - i64::from(e.to_bits())).unsigned_abs();
        assert!(a == e || apart <= u64::from(ulps), "{what}, number {i}: {a} instead of {e}, {apart} units apart");
    }
}

fn schedules() -> Vec<(&'static str, Arc<dyn Schedule>)> {
    let discrete = |prediction| DiscreteSettings { prediction, ..DiscreteSettings::default() };
    let eps = discrete(Prediction::Eps);
    let continuous = |prediction, sigma_min, sigma_max, sigma_data| ContinuousSettings { prediction, sigma_min, sigma_max, sigma_data };
    vec![
        ("sd1", Arc::new(Discrete::new(&eps).unwrap())),
        ("sd2_v", Arc::new(Discrete::new(&discrete(Prediction::V)).unwrap())),
        ("zsnr", Arc::new(Discrete::new(&DiscreteSettings { zsnr: true, ..discrete(Prediction::V) }).unwrap())),
        ("cosine", Arc::new(Discrete::new(&DiscreteSettings { beta_schedule: BetaSchedule::Cosine { s: 0.008 }, ..eps }).unwrap())),
        ("sqrt_linear", Arc::new(Discrete::new(&DiscreteSettings { beta_schedule: BetaSchedule::SqrtLinear, ..eps }).unwrap())),
        ("x0", Arc::new(Discrete::new(&discrete(Prediction::X0)).unwrap())),
        ("img_to_img", Arc::new(Discrete::new(&discrete(Prediction::ImageToImage)).unwrap())),
        ("lcm", Arc::new(Discrete::distilled(&discrete(Prediction::Lcm)).unwrap())),
        ("discrete_edm", Arc::new(Discrete::edm(&discrete(Prediction::Edm)).unwrap())),
        ("edm", Arc::new(Continuous::edm(&continuous(Prediction::Edm, 0.002, 80.0, 0.5)).unwrap())),
        ("continuous_v", Arc::new(Continuous::v(&continuous(Prediction::V, 0.03, 500.0, 1.0)).unwrap())),
        ("cosmos", Arc::new(Continuous::cosmos_flow(&continuous(Prediction::CosmosFlow, 0.002, 80.0, 1.0)).unwrap())),
        ("flow", Arc::new(DiscreteFlow::new(&DiscreteFlowSettings { shift: 3.0, multiplier: 1000.0 }).unwrap())),
        ("flux", Arc::new(ShiftedFlow::new(1.15).unwrap())),
        ("cascade", Arc::new(Cascade::new(2.0).unwrap())),
    ]
}

fn schedule(name: &str) -> Arc<dyn Schedule> {
    schedules().into_iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn schedules_equal_the_reference() {
    let golden = golden("schedules");
    let x = Tensor::from_vec(linspace(24), (1, 2, 3, 4), &Device::Cpu).unwrap();
    let y = (&x * 2.0).unwrap().cos().unwrap();
    for (name, schedule) in schedules() {
        let expected = |what: &str| floats(&golden[&format!("{what}/{name}")]);
        let table: Vec<f32> = schedule.sigmas().iter().copied().step_by((schedule.sigmas().len() / 1000).max(1)).collect();
        // Stable Cascade's formula cancels near both ends, which makes units of a cosine many units of a noise level.
        if name == "cascade" {
            assert!(relative(&table, &expected("table")) < 1e-5);
        } else {
            // Continuous tables are exponentials of logarithms up to 8, where one unit is 4.8e-7: eight units of the result, and its own.
            assert_ulps(name, &table, &expected("table"), if matches!(name, "edm" | "continuous_v" | "cosmos") { 9 } else { 1 });
        }
        let at = expected("at");
        let close = |what: &str, actual: &[f32], tolerance: f64| {
            let error = relative(actual, &expected(what));
            assert!(error <= tolerance, "{what} of {name} is off by {error}: {actual:?} instead of {:?}", expected(what));
        };
        close("timestep", &at.iter().map(|sigma| schedule.timestep(*sigma)).collect::<Vec<_>>(), 1e-6);
        close("sigma", &expected("steps").iter().map(|t| schedule.sigma(*t)).collect::<Vec<_>>(), 3e-6);
        let percents = [0.0, 0.1, 0.35, 0.9, 1.0].map(|percent| schedule.percent_to_sigma(percent) as f32);
        close("percent", &percents, 1e-6);
        let sigma = at[2];
        close("input", &floats(&schedule.input(&x, sigma).unwrap()), 1e-6);
        close("denoised", &floats(&schedule.denoised(&y, &x, sigma).unwrap()), 2e-6);
        close("noised", &floats(&schedule.add_noise(sigma, &x, &y, false).unwrap()), 1e-6);
        close("noised_max", &floats(&schedule.add_noise(sigma, &x, &y, true).unwrap()), 1e-6);
        close("unscaled", &floats(&schedule.remove_scaling(sigma * 0.5, &y).unwrap()), 1e-6);
    }
}

fn linspace(n: usize) -> Vec<f32> {
    (0..n).map(|i| -3.0 + 6.0 / (n - 1) as f32 * i as f32).collect()
}

#[test]
fn schedulers_equal_the_reference() {
    let golden = golden("schedules");
    let mut seen = 0;
    for (key, expected) in &golden {
        let expected = floats(expected);
        let actual = match key.split('/').collect::<Vec<_>>()[..] {
            ["scheduler", name, scheduler_name, steps] => {
                scheduler::sigmas(scheduler_name, schedule(name).as_ref(), steps.parse().unwrap()).unwrap()
            }
            ["ksampler", sampler, scheduler_name, steps, denoise] => {
                let (steps, denoise) = (steps.parse().unwrap(), denoise.parse().unwrap());
                ksampler::sigmas(sampler, scheduler_name, schedule("sd1").as_ref(), steps, denoise).unwrap()
            }
            ["formula", name] => formula(name),
            ["ays", kind, steps, denoise] => scheduler::align_your_steps(kind, steps.parse().unwrap(), denoise.parse().unwrap()).unwrap(),
            _ => continue,
        };
        seen += 1;
        assert_eq!(actual.len(), expected.len(), "{key}: {actual:?} instead of {expected:?}");
        // Stable Cascade subtracts a squared cosine from 1: at its lowest level, 0.02, one unit of the cosine is 7.5e-5 of the level.
        let tolerance = if key.starts_with("scheduler/cascade/") { 1.5e-4 } else { 3e-6 };
        for (a, e) in actual.iter().zip(&expected) {
            assert!((a - e).abs() <= tolerance * e.abs(), "{key}: {actual:?} instead of {expected:?}");
        }
    }
    assert!(seen > 300, "{seen} cases");
}

fn formula(name: &str) -> Vec<f32> {
    let sd1 = schedule("sd1");
    match name {
        "karras" => scheduler::karras(9, 0.03, 14.6, 5.0),
        "exponential" => scheduler::exponential(9, 0.03, 14.6),
        "polyexponential" => scheduler::polyexponential(9, 0.03, 14.6, 1.3),
        "laplace" => scheduler::laplace(9, 0.03, 14.6, 0.2, 0.5),
        "vp" => scheduler::vp(9, 19.9, 0.1, 0.001),
        "beta" => scheduler::beta(sd1.as_ref(), 15, 2.5, 0.7),
        "sd_turbo" => scheduler::sd_turbo(sd1.as_ref(), 4, 0.65),
        _ => panic!("no formula {name}"),
    }
    .unwrap()
}

#[test]
fn noise_equals_the_reference() {
    use noise::NoiseSource;
    let golden = golden("noise");
    let x = Tensor::zeros((2, 1, 3, 5), DType::F32, &Device::Cpu).unwrap();
    let mut tree = noise::BrownianTree::new(&x, 0.0291, 14.6146, (1 << 63) + 12345).unwrap();
    for (query, expected) in golden["queries"].to_vec2::<f32>().unwrap().into_iter().zip(golden["brownian"].chunk(9, 0).unwrap()) {
        let error = relative(&floats(&tree.noise(query[0], query[1]).unwrap()), &floats(&expected));
        assert!(error <= 1e-6, "from {} to {}: off by {error}", query[0], query[1]);
    }
    let mut wide = noise::BrownianTree::new(&x, 0.5, 700.0, 0).unwrap();
    for (query, expected) in [(700.0, 54.5), (54.5, 0.5)].into_iter().zip(golden["brownian_wide"].chunk(2, 0).unwrap()) {
        let error = relative(&floats(&wide.noise(query.0, query.1).unwrap()), &floats(&expected));
        assert!(error <= 1e-6, "off by {error}");
    }
    assert_eq!(floats(&noise::latent(5, &[3, 2, 2, 5], None).unwrap()), floats(&golden["latent"]));
    assert_eq!(floats(&noise::latent(5, &[3, 2, 2, 5], Some(&[4, 0, 4])).unwrap()), floats(&golden["latent_batch"]));
    assert!(noise::latent(5, &[3, 2, 2, 5], Some(&[4, 0])).is_err());
    assert!(noise::latent(5, &[1, 2, 2, 5], Some(&[-1])).is_err());
}

/// An analytic denoiser, as in `make_golden.py`.
struct Toy {
    schedule: Arc<dyn Schedule>,
    calls: usize,
}

impl Toy {
    fn prediction(x: &Tensor, sigma: f32, linear: f32, bent: f64) -> Result<Tensor> {
        let c = 1.0 / (1.0 + sigma);
        Ok(((x * f64::from(linear * c))? + (x.tanh()? * bent)?)?)
    }
}

impl Denoiser for Toy {
    fn denoise(&mut self, x: &Tensor, sigma: f32) -> Result<Tensor> {
        self.calls += 1;
        Self::prediction(x, sigma, 0.7, 0.3)
    }

    fn denoise_with_uncond(&mut self, x: &Tensor, sigma: f32) -> Result<(Tensor, Tensor)> {
        Ok((self.denoise(x, sigma)?, Self::prediction(x, sigma, 0.6, 0.25)?))
    }

    fn schedule(&self) -> &dyn Schedule {
        self.schedule.as_ref()
    }
}

#[derive(Default)]
struct Told(Vec<i64>);

impl Observer for Told {
    fn step(&mut self, step: &Step<'_>) -> Result<()> {
        self.0.push(step.index as i64);
        Ok(())
    }
}

/// The samplers with options, as `make_golden.py` names them.
fn with_options(name: &str) -> Option<Arc<dyn Sampler>> {
    let churn = Churn { s_churn: 3.0, ..Churn::default() };
    let (eta, s_noise) = (0.5, 0.9);
    Some(match name {
        "euler:churn" => Arc::new(Euler { churn: Churn { s_noise: 1.003, ..churn }, ..Euler::default() }),
        "heun:churn" => Arc::new(Heun { churn }),
        "dpm_2:churn" => Arc::new(Dpm2 { churn }),
        "euler_ancestral:half" => Arc::new(EulerAncestral { eta, s_noise }),
        "euler_ancestral_cfg_pp:half" => Arc::new(EulerAncestralCfgPp { eta, s_noise }),
        "lms:2" => Arc::new(Lms { order: 2 }),
        "lms:6" => Arc::new(Lms { order: 6 }),
        "dpm_adaptive:options" => Arc::new(DpmAdaptive {
            order: 2,
            rtol: 0.02,
            atol: 0.01,
            h_init: 0.1,
            pcoeff: 0.1,
            icoeff: 0.8,
            dcoeff: 0.1,
            eta: 0.4,
            ..DpmAdaptive::default()
        }),
        "dpmpp_2s_ancestral:half" => Arc::new(Dpmpp2sAncestral { eta, s_noise }),
        "dpmpp_sde:options" => Arc::new(DpmppSde { eta, s_noise, r: 0.4 }),
        "dpmpp_2m_sde:heun" => Arc::new(Dpmpp2mSde { eta, s_noise, solver_type: SolverType::Heun }),
        "dpmpp_2m_sde:ode" => Arc::new(Dpmpp2mSde { eta: 0.0, ..Dpmpp2mSde::default() }),
        "dpmpp_3m_sde:half" => Arc::new(Dpmpp3mSde { eta, s_noise }),
        "er_sde:reverse" => Arc::new(ErSde { s_noise, scaler: NoiseScaler::ReverseTime { eta: 0.6 }, max_stage: 2 }),
        "er_sde:eta" => Arc::new(ErSde { scaler: NoiseScaler::ErSde { eta: 0.6 }, ..ErSde::default() }),
        "sa_solver:options" => Arc::new(SaSolver {
            tau: Some(Tau { start_sigma: 9.0, end_sigma: 0.5, eta: 0.7 }),
            s_noise,
            predictor_order: 2,
            corrector_order: 2,
            simple_order_2: true,
            ..SaSolver::default()
        }),
        "sa_solver:no_corrector" => Arc::new(SaSolver { predictor_order: 2, corrector_order: 0, ..SaSolver::default() }),
        "seeds_2:options" => Arc::new(Seeds2 { eta, s_noise, r: 0.4, ..Seeds2::default() }),
        "euler_cfg_pp:alternative" => Arc::new(EulerCfgPpAlternative),
        "lcm:upscale" => Arc::new(LcmUpscale { scale_ratio: 1.5, steps: Some(3), resize: Arc::new(nearest_exact) }),
        _ => return None,
    })
}

fn nearest_exact(x: &Tensor, width: usize, height: usize) -> Result<Tensor> {
    let pick = |from: usize, to: usize| -> Vec<u32> { (0..to).map(|i| ((i as f64 + 0.5) * from as f64 / to as f64) as u32).collect() };
    let (_, _, h, w) = x.dims4()?;
    let rows = Tensor::new(pick(h, height), x.device())?;
    let columns = Tensor::new(pick(w, width), x.device())?;
    Ok(x.index_select(&rows, 2)?.index_select(&columns, 3)?)
}

/// What a sampler may be off, relative to the result: about twenty units in the last place. Measured: most reach 2e-7; the largest are
/// dpm_adaptive with options 4.6e-7, deis, whose coefficients are sums of ten thousand numbers, 3e-7, and uni_pc and sa_solver, which solve
/// equations, 2.5e-7. That dpmpp_sde reaches 1.3e-7 means that the ends of its noise's intervals are the reference's to the last bit: one
/// unit more would put them into another millionth of the path and be off by 1e-3.
const TOLERANCE: f64 = 2e-6;

#[test]
fn samplers_equal_the_reference() {
    let golden = golden("samplers");
    let initial = noise::latent(SEED, &[1, 4, 8, 8], None).unwrap();
    let mut failures = Vec::new();
    let mut keys: Vec<&String> = golden.keys().filter(|key| key.starts_with("out/")).collect();
    keys.sort();
    assert!(keys.len() > 200, "{} cases", keys.len());
    for key in keys {
        let [_, kind, name] = key.split('/').collect::<Vec<_>>()[..] else { panic!("{key}") };
        let sigmas = floats(&golden[&format!("sigmas/{kind}")]);
        let mut toy = Toy { schedule: schedule(if kind == "flow" { "flow" } else { "sd1" }), calls: 0 };
        let sampler = with_options(name).or_else(|| by_name(name)).unwrap();
        let x = (&initial * f64::from(sigmas[0])).unwrap();
        let mut told = Told::default();
        let result = match sampler.sample(&mut toy, x, &sigmas, SEED, &mut told) {
            Ok(result) => result,
            Err(error) => {
                failures.push(format!("{key}: {error}"));
                continue;
            }
        };
        if result.dims() != golden[key].dims() {
            failures.push(format!("{key}: shape {:?}", result.dims()));
            continue;
        }
        let error = relative(&floats(&result), &floats(&golden[key]));
        if error.is_nan() || error > TOLERANCE {
            failures.push(format!("{key}: off by {error:.2e}"));
        }
        let expected: Vec<i64> = golden[&format!("told/{kind}/{name}")].to_vec1().unwrap();
        if told.0 != expected {
            failures.push(format!("{key}: told of steps {:?} instead of {expected:?}", told.0));
        }
        let calls = golden[&format!("calls/{kind}/{name}")].to_vec1::<i64>().unwrap()[0];
        if toy.calls as i64 != calls {
            failures.push(format!("{key}: {} evaluations instead of {calls}", toy.calls));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_name_makes_a_sampler_that_is_robust() {
    assert!(by_name("no such sampler").is_none());
    for name in NAMES {
        let sampler = by_name(name).unwrap();
        assert_eq!(sampler.fresh_inpaint_noise(), name == "ddim");
        let x = noise::latent(1, &[1, 4, 4, 4], None).unwrap();
        for sigmas in [&[][..], &[3.0]] {
            let mut toy = Toy { schedule: schedule("sd1"), calls: 0 };
            let result = sampler.sample(&mut toy, x.clone(), sigmas, 1, &mut ()).unwrap();
            assert_eq!(floats(&result), floats(&x), "{name} has no step to take");
        }
        for sigmas in [&[3.0, 0.0][..], &[3.0, 1.0], &[14.0, 3.0, 0.5, 0.0], &[14.0, 7.0, 3.0, 2.0, 0.5]] {
            let mut toy = Toy { schedule: schedule("sd1"), calls: 0 };
            let result = sampler.sample(&mut toy, x.clone(), sigmas, 1, &mut ()).unwrap();
            assert!(floats(&result).iter().all(|value| value.is_finite()), "{name} over {sigmas:?}");
            // Its range ends at the last level above 0, as in the reference, which leaves nothing to do here.
            let no_range = name == "dpm_adaptive" && sigmas == [3.0, 0.0];
            assert_eq!(toy.calls == 0, no_range, "{name} over {sigmas:?}");
        }
    }
}

#[test]
fn errors_of_observers_and_denoisers_end_the_sampling() {
    struct Interrupts;
    impl Observer for Interrupts {
        fn step(&mut self, _step: &Step<'_>) -> Result<()> {
            Err(comfyd_samplers::Error::Interrupted)
        }
    }
    for name in NAMES {
        let mut toy = Toy { schedule: schedule("sd1"), calls: 0 };
        let x = noise::latent(1, &[1, 4, 4, 4], None).unwrap();
        let result = by_name(name).unwrap().sample(&mut toy, x, &[14.0, 7.0, 3.0, 0.0], 1, &mut Interrupts);
        assert!(matches!(result, Err(comfyd_samplers::Error::Interrupted)), "{name}");
        assert!(toy.calls <= 3, "{name} goes on after the interruption");
    }
}
