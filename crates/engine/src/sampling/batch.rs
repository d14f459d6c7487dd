//! One prediction of the model for several conditions: which of them count, which go into one pass, and how their predictions are joined
//! where they overlap (the reference's `calc_cond_batch`).

use std::sync::Arc;

use candle_core::Tensor;
use comfyd_models::backbone::{Backbone, HookList, Pass};
use comfyd_samplers::Schedule;

use super::conds::{Cond, ModelInputs};
use super::control::{ControlCall, ControlRun};
use super::hooks::HookRun;
use crate::array::repeat_to_batch;
use crate::{Error, Result};

/// Of two texts of different length, one is repeated to the length of the other; more than this many times is not worth a common pass.
const MAX_TEXT_REPEATS: usize = 4;

/// Tells whether a pass over so many cells of latents (batch times height times width) fits into memory.
pub(crate) type Fits<'a> = &'a dyn Fn(usize) -> bool;

/// The model of one sampling.
pub(crate) struct Predictor<'a> {
    pub(crate) backbone: Arc<Box<dyn Backbone>>,
    pub(crate) schedule: Arc<dyn Schedule>,
    pub(crate) controls: ControlRun,
    pub(crate) hooked: HookRun,
    pub(crate) fits: Fits<'a>,
}

/// A condition that is to be computed, for the list of this index.
struct Job {
    list: usize,
    x: Tensor,
    inputs: ModelInputs,
    cond: Cond,
}

impl Predictor<'_> {
    /// The clean latents that each list of conditions leads to from `x (B, C, H, W)`; zeros where there is no condition.
    pub(crate) fn predict(&mut self, lists: &[Option<&[Cond]>], x: &Tensor, sigma: f32, hooks: &mut HookList) -> Result<Vec<Tensor>> {
        let mut jobs = Vec::new();
        for (list, conds) in lists.iter().enumerate() {
            for cond in conds.iter().flat_map(|conds| conds.iter()).filter(|c| !c.is_default && c.is_active(sigma)) {
                if let Some(hooks) = &cond.hooks {
                    self.hooked.advance(hooks, sigma);
                }
                jobs.push(job(list, cond, x)?);
            }
        }
        for cond in lists.iter().flatten().flat_map(|conds| conds.iter()).filter(|c| c.is_default && c.is_active(sigma)) {
            if let Some(hooks) = &cond.hooks {
                self.hooked.advance(hooks, sigma);
            }
        }
        default_jobs(lists, &mut jobs, x, sigma)?;
        let mut sums: Vec<Sum> = lists.iter().map(|_| Sum::default()).collect();
        while !jobs.is_empty() {
            let indexes = self.choose(&jobs)?;
            let batch: Vec<Job> = indexes.into_iter().map(|i| jobs.remove(i)).collect();
            let outputs = self.run(&batch, sigma, hooks)?;
            for (job, output) in batch.iter().zip(outputs) {
                sums[job.list].add(job, output, x)?;
            }
        }
        sums.into_iter().map(|sum| sum.finish(x)).collect()
    }

    /// The jobs that go into the next pass, from the highest index down: those that can go with the first, as many as memory allows.
    fn choose(&self, jobs: &[Job]) -> Result<Vec<usize>> {
        let mut indexes: Vec<usize> = Vec::new();
        for (i, job) in jobs.iter().enumerate() {
            if i == 0 || can_join(job, &jobs[0]) {
                indexes.push(i);
            }
        }
        indexes.reverse();
        let (b, _, h, w) = jobs[0].x.dims4()?;
        for parts in 1..=indexes.len() {
            let count = indexes.len() / parts;
            if (self.fits)(count * b * h * w) {
                indexes.truncate(count);
                return Ok(indexes);
            }
        }
        indexes.truncate(1);
        Ok(indexes)
    }

    fn run(&mut self, batch: &[Job], sigma: f32, hooks: &mut HookList) -> Result<Vec<Tensor>> {
        let x = Tensor::cat(&batch.iter().map(|job| &job.x).collect::<Vec<_>>(), 0)?;
        let inputs: Vec<&ModelInputs> = batch.iter().map(|job| &job.inputs).collect();
        let context = join_texts(inputs.iter().map(|i| i.cross_attn.as_ref()))?
            .ok_or_else(|| Error::msg("a condition holds no text; connect a conditioning made by a text encoder"))?;
        let y = join(inputs.iter().map(|i| i.y.as_ref()))?;
        let concat = join(inputs.iter().map(|i| i.concat.as_ref()))?;
        let timestep = self.schedule.timestep(sigma);
        let timesteps = vec![timestep; x.dim(0)?];
        let scaled = self.schedule.input(&x, sigma)?;
        let residuals = match &batch[0].cond.control {
            None => None,
            Some(control) => {
                let text = join_texts(inputs.iter().map(|i| i.cross_attn_controlnet.as_ref()))?;
                let call = ControlCall {
                    x: &scaled,
                    timesteps: &timesteps,
                    context: text.as_ref().unwrap_or(&context),
                    y: y.as_ref(),
                    sigma,
                    chunks: batch.len(),
                };
                self.controls.run(control, &call, hooks)?
            }
        };
        let scaled = match &concat {
            Some(concat) => Tensor::cat(&[&scaled, concat], 1)?,
            None => scaled,
        };
        let cond_or_uncond: Vec<usize> = batch.iter().map(|job| job.list).collect();
        let sigmas = vec![f64::from(sigma); batch[0].x.dim(0)?];
        let pass = Pass {
            x: &scaled,
            timesteps: &timesteps,
            context: &context,
            y: y.as_ref(),
            residuals: residuals.as_ref(),
            sigmas: &sigmas,
            cond_or_uncond: &cond_or_uncond,
        };
        let backbone = match &batch[0].cond.hooks {
            Some(group) => self.hooked.backbone(group)?,
            None => Arc::clone(&self.backbone),
        };
        let all = hooks.0.len();
        if let Some(boxes) = &batch[0].cond.boxes {
            let (_, _, rows, columns) = x.dims4()?;
            hooks.push(boxes.hooks(rows, columns)?);
        }
        let output = backbone.forward(&pass, hooks);
        hooks.0.truncate(all);
        let denoised = self.schedule.denoised(&output?, &x, sigma)?;
        Ok(denoised.chunk(batch.len(), 0)?)
    }
}

fn job(list: usize, cond: &Cond, x: &Tensor) -> Result<Job> {
    let batch = x.dim(0)?;
    let repeat = |tensor: &Option<Tensor>| tensor.as_ref().map(|t| repeat_to_batch(t, batch)).transpose();
    let cut = |tensor: &Tensor| cond.area.map_or_else(|| Ok(tensor.clone()), |area| area.cut(tensor)?.contiguous().map_err(Error::from));
    let inputs = ModelInputs {
        cross_attn: repeat(&cond.inputs.cross_attn)?,
        cross_attn_controlnet: repeat(&cond.inputs.cross_attn_controlnet)?,
        y: repeat(&cond.inputs.y)?,
        concat: repeat(&cond.inputs.concat.as_ref().map(cut).transpose()?)?,
    };
    Ok(Job { list, x: cut(x)?, inputs, cond: cond.clone() })
}

/// Adds the conditions that count where no other does.
fn default_jobs(lists: &[Option<&[Cond]>], jobs: &mut Vec<Job>, x: &Tensor, sigma: f32) -> Result<()> {
    for (list, conds) in lists.iter().enumerate() {
        let defaults: Vec<&Cond> = conds.iter().flat_map(|conds| conds.iter()).filter(|c| c.is_default).collect();
        if defaults.is_empty() {
            continue;
        }
        let mut free = x.ones_like()?;
        for job in jobs.iter().filter(|job| job.list == list) {
            free = (free - placed(&weight_of(job)?, job, x)?)?;
        }
        let free = free.relu()?;
        if crate::array::is_zero(&free)? {
            continue;
        }
        for cond in defaults.into_iter().filter(|c| c.is_active(sigma)) {
            let mut job = job(list, cond, x)?;
            job.cond.weight = Some(job.cond.area.map_or(Ok(free.clone()), |area| area.cut(&free))?);
            jobs.push(job);
        }
    }
    Ok(())
}

fn weight_of(job: &Job) -> Result<Tensor> {
    match &job.cond.weight {
        Some(weight) => Ok(weight.clone()),
        None => Ok(job.x.ones_like()?),
    }
}

/// What covers the job's area, in the place of the whole latent, zeros around it.
fn placed(part: &Tensor, job: &Job, whole: &Tensor) -> Result<Tensor> {
    let Some(area) = job.cond.area else { return Ok(part.clone()) };
    let (_, _, h, w) = whole.dims4()?;
    Ok(part.pad_with_zeros(2, area.y, h - area.y - area.height)?.pad_with_zeros(3, area.x, w - area.x - area.width)?)
}

/// The weighted sum of the predictions of one list.
#[derive(Default)]
struct Sum {
    /// The only prediction, which covers everything with the weight one.
    single: Option<Tensor>,
    total: Option<(Tensor, Tensor)>,
}

impl Sum {
    fn add(&mut self, job: &Job, output: Tensor, whole: &Tensor) -> Result<()> {
        if self.single.is_none() && self.total.is_none() && job.cond.area.is_none() && job.cond.weight.is_none() {
            self.single = Some(output);
            return Ok(());
        }
        let (mut sum, mut weights) = match (self.total.take(), self.single.take()) {
            (Some(total), _) => total,
            (None, Some(single)) => (single.clone(), single.ones_like()?),
            // The tiny weight keeps places that no condition covers from becoming undefined.
            (None, None) => (whole.zeros_like()?, whole.ones_like()?.affine(1e-37, 0.0)?),
        };
        let weight = weight_of(job)?;
        sum = (sum + placed(&(output * &weight)?, job, whole)?)?;
        weights = (weights + placed(&weight, job, whole)?)?;
        self.total = Some((sum, weights));
        Ok(())
    }

    fn finish(self, whole: &Tensor) -> Result<Tensor> {
        match (self.single, self.total) {
            (Some(single), _) => Ok(single),
            (None, Some((sum, weights))) => Ok((sum / weights)?),
            (None, None) => Ok(whole.zeros_like()?),
        }
    }
}

/// Whether two conditions can be computed in one pass.
fn can_join(a: &Job, b: &Job) -> bool {
    let same_control = match (&a.cond.control, &b.cond.control) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let same_hooks = match (&a.cond.hooks, &b.cond.hooks) {
        (Some(a), Some(b)) => a.is_same(b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    // What boxes say holds for one condition.
    let no_boxes = a.cond.boxes.is_none() && b.cond.boxes.is_none();
    no_boxes
        && same_control
        && same_hooks
        && a.x.dims() == b.x.dims()
        && texts_join(&a.inputs.cross_attn, &b.inputs.cross_attn)
        && texts_join(&a.inputs.cross_attn_controlnet, &b.inputs.cross_attn_controlnet)
        && shapes_equal(&a.inputs.y, &b.inputs.y)
        && shapes_equal(&a.inputs.concat, &b.inputs.concat)
}

fn shapes_equal(a: &Option<Tensor>, b: &Option<Tensor>) -> bool {
    a.as_ref().map(|t| t.dims()) == b.as_ref().map(|t| t.dims())
}

fn texts_join(a: &Option<Tensor>, b: &Option<Tensor>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return a.is_none() && b.is_none() };
    let (a, b) = (a.dims(), b.dims());
    if a == b {
        return true;
    }
    if a.len() != 3 || b.len() != 3 || a[0] != b[0] || a[2] != b[2] || a[1] == 0 || b[1] == 0 {
        return false;
    }
    least_common_multiple(a[1], b[1]) / a[1].min(b[1]) <= MAX_TEXT_REPEATS
}

fn join<'t>(tensors: impl Iterator<Item = Option<&'t Tensor>>) -> Result<Option<Tensor>> {
    let tensors: Vec<&Tensor> = tensors.flatten().collect();
    Ok(if tensors.is_empty() { None } else { Some(Tensor::cat(&tensors, 0)?) })
}

/// Joins texts; shorter ones are repeated, which changes nothing for the attention.
fn join_texts<'t>(texts: impl Iterator<Item = Option<&'t Tensor>>) -> Result<Option<Tensor>> {
    let texts: Vec<&Tensor> = texts.flatten().collect();
    let mut length = 1;
    for text in &texts {
        length = least_common_multiple(length, text.dim(1)?.max(1));
    }
    let repeated: Vec<Tensor> = texts
        .iter()
        .map(|text| Ok(if text.dim(1)? < length { text.repeat((1, length / text.dim(1)?, 1))? } else { (*text).clone() }))
        .collect::<Result<_>>()?;
    join(repeated.iter().map(Some))
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}
