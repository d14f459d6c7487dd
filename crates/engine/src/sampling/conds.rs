//! From conditioning as nodes make it to conditions of one sampling: areas and masks in the latent's size, noise levels instead of
//! percentages, the model's inputs, equal areas on both sides. The rules are the reference's `process_conds`.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_samplers::Schedule;

use crate::array::{resize, values};
use crate::control::AppliedControl;
use crate::gligen::TextBoxes;
use crate::hooks::HookGroup;
use crate::{Area, CondEntry, Conditioning, Error, Result};

/// A rectangle of the latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) y: usize,
    pub(crate) x: usize,
}

impl Rect {
    fn is_inside(&self, other: &Self) -> bool {
        self.y >= other.y
            && self.x >= other.x
            && self.y + self.height <= other.y + other.height
            && self.x + self.width <= other.x + other.width
    }

    /// This part of `(.., H, W)`.
    pub(crate) fn cut(&self, tensor: &Tensor) -> Result<Tensor> {
        let rank = tensor.rank();
        Ok(tensor.narrow(rank - 2, self.y, self.height)?.narrow(rank - 1, self.x, self.width)?)
    }
}

/// What the model is given for one condition, before the batch is made.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModelInputs {
    /// (1 or B, T, D).
    pub(crate) cross_attn: Option<Tensor>,
    /// (1 or B, T, D), for ControlNets.
    pub(crate) cross_attn_controlnet: Option<Tensor>,
    /// (1 or B, adm).
    pub(crate) y: Option<Tensor>,
    /// (B, C, H, W) of the whole latent.
    pub(crate) concat: Option<Tensor>,
}

/// A condition of one sampling.
#[derive(Debug, Clone)]
pub(crate) struct Cond {
    pub(crate) inputs: ModelInputs,
    pub(crate) area: Option<Rect>,
    /// How much it counts (B, C, h, w), of the area's size; `None`: one everywhere.
    pub(crate) weight: Option<Tensor>,
    /// Counts only at or below this noise level.
    pub(crate) from_sigma: Option<f32>,
    /// Counts only at or above this noise level.
    pub(crate) to_sigma: Option<f32>,
    pub(crate) control: Option<Arc<AppliedControl>>,
    pub(crate) hooks: Option<HookGroup>,
    pub(crate) boxes: Option<Arc<TextBoxes>>,
    pub(crate) is_default: bool,
    entry: CondEntry,
    mask: Option<Tensor>,
}

impl Cond {
    /// Whether it counts at this noise level.
    pub(crate) fn is_active(&self, sigma: f32) -> bool {
        self.from_sigma.is_none_or(|from| sigma <= from) && self.to_sigma.is_none_or(|to| sigma >= to)
    }
}

/// Which part conditions play; the first list is always the positive one.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    pub(crate) conditioning: Conditioning,
    pub(crate) is_negative: bool,
}

/// What encodes an entry's inputs for the model: told the entry, and whether it plays the negative part.
pub(crate) type Encode<'a> = &'a dyn Fn(&CondEntry, bool) -> Result<ModelInputs>;

/// The conditions of each role for a latent `shape (B, C, H, W)` on `device`.
pub(crate) fn resolve(
    roles: &[Role],
    shape: &[usize; 4],
    schedule: &dyn Schedule,
    device: &Device,
    encode: Encode<'_>,
) -> Result<Vec<Vec<Cond>>> {
    let mut lists: Vec<Vec<Cond>> = Vec::new();
    for role in roles {
        let conds = role.conditioning.entries().iter().map(|entry| {
            let inputs = encode(entry, entry.is_negative.unwrap_or(role.is_negative))?;
            resolve_one(entry, inputs, shape, schedule)
        });
        lists.push(conds.collect::<Result<_>>()?);
    }
    // Each area gets one of the same size on the other sides, so that guidance is computed from equals.
    for k in 0..lists.len() {
        let mut i = 0;
        while i < lists[k].len() {
            for other in (0..lists.len()).filter(|other| *other != k) {
                if let Some(cond) = same_area(&lists[other], &lists[k][i]) {
                    lists[other].push(cond);
                }
            }
            i += 1;
        }
    }
    for k in 1..lists.len() {
        let (positive, rest) = lists.split_at_mut(1);
        share_control(&positive[0], &mut rest[k - 1]);
        share_boxes(&positive[0], &mut rest[k - 1]);
    }
    for cond in lists.iter_mut().flatten() {
        cond.weight = weight(cond, shape, device)?;
    }
    Ok(lists)
}

fn resolve_one(entry: &CondEntry, inputs: ModelInputs, shape: &[usize; 4], schedule: &dyn Schedule) -> Result<Cond> {
    let (h, w) = (shape[2], shape[3]);
    let mut area = match entry.area {
        None => None,
        Some(Area::Latent { height, width, y, x }) => Some(Rect { height, width, y, x }),
        Some(Area::Percent { height, width, y, x }) => {
            let cells = |part: f64, whole: usize| (part * whole as f64).round_ties_even().max(0.0) as usize;
            Some(Rect { height: cells(height, h).max(1), width: cells(width, w).max(1), y: cells(y, h), x: cells(x, w) })
        }
    };
    let mut mask = None;
    if let Some(given) = &entry.mask {
        let given = match given.rank() {
            2 => given.unsqueeze(0)?,
            3 => given.clone(),
            4 => given.narrow(1, 0, 1)?.squeeze(1)?,
            _ => return Err(Error::msg(format!("a mask of the shape {:?} cannot be used for conditioning", given.dims()))),
        };
        let given = match given.dims()[1..] == [h, w] {
            true => given,
            false => resize(&given.unsqueeze(1)?, w, h, Method::Bilinear, Crop::Disabled)?.squeeze(1)?,
        };
        if entry.set_area_to_bounds {
            area = Some(bounds(&given)?);
        }
        mask = Some(given);
    }
    let percents = match entry.text_range {
        None => (entry.start_percent, entry.end_percent),
        Some((start, end)) => (Some(start.max(entry.start_percent.unwrap_or(0.0))), Some(end.min(entry.end_percent.unwrap_or(1.0)))),
    };
    Ok(Cond {
        inputs,
        area: area.map(|area| clip(area, h, w)).transpose()?,
        weight: None,
        from_sigma: percents.0.map(|percent| schedule.percent_to_sigma(percent) as f32),
        to_sigma: percents.1.map(|percent| schedule.percent_to_sigma(percent) as f32),
        control: entry.control.clone(),
        hooks: entry.hooks.clone(),
        boxes: entry.boxes.clone(),
        is_default: entry.is_default,
        entry: entry.clone(),
        mask,
    })
}

/// The rectangle around what is not zero in any of the masks (B, H, W), at least 8 cells on each side.
fn bounds(mask: &Tensor) -> Result<Rect> {
    let (shape, data) = values(mask)?;
    let (h, w) = (shape[1], shape[2]);
    let (mut top, mut left, mut bottom, mut right) = (usize::MAX, usize::MAX, 0, 0);
    for (i, _) in data.iter().enumerate().filter(|(_, value)| **value != 0.0) {
        let (y, x) = (i / w % h, i % w);
        (top, left, bottom, right) = (top.min(y), left.min(x), bottom.max(y), right.max(x));
    }
    if top == usize::MAX {
        return Ok(Rect { height: 8, width: 8, y: 0, x: 0 });
    }
    Ok(Rect { height: (bottom - top + 1).max(8), width: (right - left + 1).max(8), y: top, x: left })
}

/// The part of the area that lies in the latent.
fn clip(area: Rect, h: usize, w: usize) -> Result<Rect> {
    if area.y >= h || area.x >= w || area.height == 0 || area.width == 0 {
        return Err(Error::msg(format!(
            "the area at ({}, {}) lies outside the picture, whose latent has {w} x {h} cells; move it inside",
            area.x, area.y
        )));
    }
    Ok(Rect { height: area.height.min(h - area.y), width: area.width.min(w - area.x), ..area })
}

/// A condition for `cond`'s area made of the one in `conds` that contains it most closely; `None` if there is no need or none to be had.
fn same_area(conds: &[Cond], cond: &Cond) -> Option<Cond> {
    let area = cond.area?;
    let mut smallest: Option<&Cond> = None;
    for candidate in conds {
        match candidate.area {
            Some(other) if area.is_inside(&other) => {
                let is_smaller = match smallest.map(|s| s.area) {
                    None | Some(None) => true,
                    Some(Some(best)) => best.height * best.width > other.height * other.width,
                };
                if is_smaller {
                    smallest = Some(candidate);
                }
            }
            None if smallest.is_none() => smallest = Some(candidate),
            Some(_) | None => {}
        }
    }
    let smallest = smallest?;
    if smallest.area == Some(area) {
        return None;
    }
    Some(Cond { inputs: smallest.inputs.clone(), ..cond.clone() })
}

/// Conditions without an area in `conds` get the ControlNets of positive ones that ask for it, if none has its own.
fn share_control(positive: &[Cond], conds: &mut [Cond]) {
    let controls: Vec<Arc<AppliedControl>> =
        positive.iter().filter(|c| c.entry.control_apply_to_uncond && c.area.is_none()).filter_map(|c| c.control.clone()).collect();
    let whole: Vec<usize> = conds.iter().enumerate().filter(|(_, c)| c.area.is_none()).map(|(i, _)| i).collect();
    if whole.is_empty() || whole.iter().any(|i| conds[*i].control.is_some()) {
        return;
    }
    for (i, control) in controls.into_iter().enumerate() {
        conds[whole[i % whole.len()]].control = Some(control);
    }
}

/// Conditions without an area in `conds` get the text boxes of positive ones, if none has its own.
fn share_boxes(positive: &[Cond], conds: &mut [Cond]) {
    let boxes: Vec<Arc<TextBoxes>> = positive.iter().filter(|c| c.area.is_none()).filter_map(|c| c.boxes.clone()).collect();
    let whole: Vec<usize> = conds.iter().enumerate().filter(|(_, c)| c.area.is_none()).map(|(i, _)| i).collect();
    if whole.is_empty() || whole.iter().any(|i| conds[*i].boxes.is_some()) {
        return;
    }
    for (i, boxes) in boxes.into_iter().enumerate() {
        conds[whole[i % whole.len()]].boxes = Some(boxes);
    }
}

/// How much the condition counts at each place of its area.
fn weight(cond: &Cond, shape: &[usize; 4], device: &Device) -> Result<Option<Tensor>> {
    let [b, c, h, w] = *shape;
    let strength = cond.entry.strength.unwrap_or(1.0) as f32;
    let Rect { height, width, y, x } = cond.area.unwrap_or(Rect { height: h, width: w, y: 0, x: 0 });
    if let Some(mask) = &cond.mask {
        let mask = mask.narrow(0, 0, mask.dim(0)?.min(b))?;
        let mask = cond.area.map_or(Ok(mask.clone()), |area| area.cut(&mask))?;
        let mask_strength = cond.entry.mask_strength.unwrap_or(1.0);
        let masks = mask.dim(0)?;
        if b % masks != 0 {
            return Err(Error::msg(format!("{masks} masks cannot be shared among {b} latents; use one mask or one for each latent")));
        }
        let mask = ((mask * mask_strength)? * f64::from(strength))?.unsqueeze(1)?.repeat((b / masks, c, 1, 1))?;
        return Ok(Some(mask.to_device(device)?));
    }
    if cond.area.is_none() {
        if strength == 1.0 {
            return Ok(None);
        }
        return Ok(Some(Tensor::full(strength, (b, c, h, w), device)?));
    }
    // Borders inside the picture fade over up to 8 cells.
    let fade = |length: usize, offset: usize, whole: usize| -> Vec<f32> {
        let reach = 8.min(length / 4);
        let mut factors = vec![1.0f32; length];
        for t in 0..reach {
            let factor = ((1.0 / reach as f64) * (t + 1) as f64) as f32;
            if offset != 0 {
                factors[t] *= factor;
            }
            if offset + length < whole {
                factors[length - 1 - t] *= factor;
            }
        }
        factors
    };
    let (rows, columns) = (fade(height, y, h), fade(width, x, w));
    let plane: Vec<f32> = rows.iter().flat_map(|row| columns.iter().map(move |column| strength * row * column)).collect();
    let plane = Tensor::from_vec(plane, (1, 1, height, width), device)?;
    Ok(Some(plane.broadcast_as((b, c, height, width))?.contiguous()?))
}
