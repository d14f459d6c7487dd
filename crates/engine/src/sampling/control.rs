//! What ControlNets add in one sampling: loaded, with their hints in the latent's size.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd_models::backbone::Hooks;
use comfyd_models::controlnet::ControlInput;
use comfyd_models::residuals::Residuals;
use comfyd_samplers::Schedule;

use super::conds::Cond;
use crate::array::repeat_to_batch;
use crate::control::{AppliedControl, Network};
use crate::{Model, Result};

/// One pass that ControlNets are to steer.
pub(crate) struct ControlCall<'a> {
    /// The scaled latent (B, C, h, w).
    pub(crate) x: &'a Tensor,
    pub(crate) timesteps: &'a [f32],
    pub(crate) context: &'a Tensor,
    pub(crate) y: Option<&'a Tensor>,
    pub(crate) sigma: f32,
    /// How many conditions the batch is made of.
    pub(crate) chunks: usize,
}

/// A ControlNet of one sampling.
struct Active {
    control: Arc<AppliedControl>,
    network: Network,
    from_sigma: f32,
    to_sigma: f32,
    /// The hint as it is added to a ControlNet's first block.
    hint: Option<Prepared<Tensor>>,
    /// All that an adapter says.
    said: Option<Prepared<Residuals>>,
}

/// A hint made ready for latents of the height and the width.
struct Prepared<T> {
    size: (usize, usize),
    hint: T,
}

impl<T> Prepared<T> {
    /// What is there if it is of this size, else what `prepare` makes.
    fn get(kept: &mut Option<Self>, size: (usize, usize), prepare: impl FnOnce() -> Result<T>) -> Result<&T> {
        let prepared = match kept.take().filter(|kept| kept.size == size) {
            Some(prepared) => prepared,
            None => Self { size, hint: prepare()? },
        };
        Ok(&kept.insert(prepared).hint)
    }
}

/// The ControlNets of one sampling, loaded, with their hints in the latent's size.
pub(crate) struct ControlRun {
    active: Vec<Active>,
    /// Pixels per cell of the latent.
    factor: usize,
}

impl ControlRun {
    pub(crate) fn new(lists: &[Vec<Cond>], model: &Model, schedule: &dyn Schedule) -> Result<Self> {
        let mut active: Vec<Active> = Vec::new();
        for cond in lists.iter().flatten() {
            let mut next = cond.control.as_ref();
            while let Some(control) = next {
                if !active.iter().any(|known| Arc::ptr_eq(&known.control, control)) {
                    active.push(Active {
                        control: Arc::clone(control),
                        network: control.net.network(model.kind.as_ref(), &model.weights)?,
                        from_sigma: schedule.percent_to_sigma(control.settings.start_percent) as f32,
                        to_sigma: schedule.percent_to_sigma(control.settings.end_percent) as f32,
                        hint: None,
                        said: None,
                    });
                }
                next = control.previous.as_ref();
            }
        }
        Ok(Self { active, factor: model.latents().factor })
    }

    /// What a chain of ControlNets adds to this pass; `None` if none is active at its noise level.
    pub(crate) fn run(
        &mut self,
        control: &Arc<AppliedControl>,
        call: &ControlCall<'_>,
        hooks: &mut dyn Hooks,
    ) -> Result<Option<Residuals>> {
        let previous = match &control.previous {
            Some(previous) => self.run(previous, call, hooks)?,
            None => None,
        };
        let Some(active) = self.active.iter_mut().find(|active| Arc::ptr_eq(&active.control, control)) else { return Ok(previous) };
        if call.sigma > active.from_sigma || call.sigma < active.to_sigma {
            return Ok(previous);
        }
        let (batch, _, h, w) = call.x.dims4()?;
        let (device, factor) = (call.x.device(), self.factor);
        let own = match &active.network {
            Network::ControlNet(model) => {
                let union_types = &control.net.union_types;
                let prepare = || Ok(model.prepare_hint(&control.picture_for_net(h, w)?.to_device(device)?, union_types)?);
                let hint = for_batch(Prepared::get(&mut active.hint, (h, w), prepare)?, batch, call.chunks)?;
                let ControlCall { x, timesteps, context, y, .. } = *call;
                model.forward(&ControlInput { x, hint: &hint, timesteps, context, y, union_types }, hooks)?
            }
            Network::Adapter(model) => {
                let prepare = || {
                    let picture = control.picture_for_adapter(model.config(), h * factor, w * factor)?.to_device(device)?;
                    Ok(model.forward(&picture, &mut || hooks.check())?)
                };
                let all = Prepared::get(&mut active.said, (h, w), prepare)?;
                all.map(|tensor, _, _| for_batch(tensor, batch, call.chunks).map_err(|error| comfyd_models::Error::msg(error.to_string())))?
            }
        };
        let own = if control.net.is_averaged { own.averaged()? } else { own };
        let own = own.scaled(control.settings.strength)?;
        Ok(Some(match previous {
            Some(previous) => own.merged(&previous)?,
            None => own,
        }))
    }
}

/// The hints of a batch that is made of `chunks` conditions, each of the same latents.
fn for_batch(hint: &Tensor, batch: usize, chunks: usize) -> Result<Tensor> {
    if hint.dim(0)? == batch {
        return Ok(hint.clone());
    }
    let one = repeat_to_batch(hint, batch / chunks.max(1))?;
    Ok(Tensor::cat(&vec![one; chunks.max(1)], 0)?)
}
