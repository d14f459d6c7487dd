//! Text encoders as the model families compose them: which CLIP, which of its layers, how weights act, what is concatenated.

use candle_core::{Device, Tensor};
use comfyd_weights::EncoderKind;

use crate::Check;
use crate::clip::{ClipConfig, ClipTextModel};
use crate::error::{Error, Result};
use crate::prompt::{self, Embeddings, Token, WeightedToken, Window, WindowRules};
use crate::tokenizer::END;
use crate::vb::Vb;

/// Tokens of a window.
const WINDOW: usize = 77;

/// How prompts are cut for an encoder: OpenCLIP's windows are filled up with 0, OpenAI's with the end token.
fn rules(kind: EncoderKind) -> WindowRules {
    let pad = if kind == EncoderKind::ClipL { END } else { 0 };
    WindowRules { length: WINDOW, pad, embedding_key: kind.name() }
}

/// The text encoders that a family's models are conditioned by, and how they work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextStack {
    /// L: the last layer, normalised; pooled without projection.
    Sd1,
    /// H: the last but one layer, normalised; pooled and projected.
    Sd2,
    /// L and G: the last but one layer of both, not normalised, side by side; pooled of G.
    Sdxl,
    /// G alone, as in [`TextStack::Sdxl`].
    SdxlRefiner,
}

impl TextStack {
    /// The transformers that it needs.
    pub fn kinds(self) -> &'static [EncoderKind] {
        match self {
            Self::Sd1 => &[EncoderKind::ClipL],
            Self::Sd2 => &[EncoderKind::ClipH],
            Self::Sdxl => &[EncoderKind::ClipL, EncoderKind::ClipG],
            Self::SdxlRefiner => &[EncoderKind::ClipG],
        }
    }
}

/// A tokenised prompt: the windows of each transformer of the family.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    /// For CLIP L.
    pub l: Vec<Window>,
    /// For OpenCLIP H.
    pub h: Vec<Window>,
    /// For OpenCLIP bigG.
    pub g: Vec<Window>,
    /// What the user should know, such as embeddings that do not exist.
    pub warnings: Vec<String>,
}

impl Tokens {
    /// The windows of one transformer.
    pub fn of(&self, kind: EncoderKind) -> &[Window] {
        match kind {
            EncoderKind::ClipL => &self.l,
            EncoderKind::ClipH => &self.h,
            EncoderKind::ClipG => &self.g,
        }
    }

    fn of_mut(&mut self, kind: EncoderKind) -> &mut Vec<Window> {
        match kind {
            EncoderKind::ClipL => &mut self.l,
            EncoderKind::ClipH => &mut self.h,
            EncoderKind::ClipG => &mut self.g,
        }
    }
}

/// Tokenises a prompt for a family. Needs no model. `check` is asked whether to go on.
pub fn tokenize(stack: TextStack, text: &str, embeddings: &dyn Embeddings, check: Check<'_>) -> Result<Tokens> {
    let mut tokens = Tokens::default();
    for kind in stack.kinds() {
        let mut warnings = Vec::new();
        *tokens.of_mut(*kind) = prompt::windows(text, &rules(*kind), embeddings, &mut warnings, check)?;
        warnings.retain(|warning| !tokens.warnings.contains(warning));
        tokens.warnings.append(&mut warnings);
    }
    Ok(tokens)
}

/// Different texts for G and L (CLIPTextEncodeSDXL): the shorter one is padded with empty windows.
pub fn tokenize_sdxl(text_g: &str, text_l: &str, embeddings: &dyn Embeddings, check: Check<'_>) -> Result<Tokens> {
    let mut tokens = Tokens::default();
    tokens.g = prompt::windows(text_g, &rules(EncoderKind::ClipG), embeddings, &mut tokens.warnings, check)?;
    tokens.l = prompt::windows(text_l, &rules(EncoderKind::ClipL), embeddings, &mut tokens.warnings, check)?;
    let count = tokens.g.len().max(tokens.l.len());
    tokens.g.resize(count, prompt::empty_window(&rules(EncoderKind::ClipG)));
    tokens.l.resize(count, prompt::empty_window(&rules(EncoderKind::ClipL)));
    Ok(tokens)
}

/// How tokens are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClipOptions {
    /// The layer that the nodes set (CLIPSetLastLayer): -1 is the last. `None`: the family's own.
    pub clip_layer: Option<i32>,
    /// Whether pooled outputs come without projection, whatever the family's own way is.
    pub unprojected: bool,
}

/// An encoded prompt.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `(1, T, D)`, T = 77 times the number of windows; F32 on the CPU.
    pub cross_attn: Tensor,
    /// `(1, P)`, of the first window.
    pub pooled: Option<Tensor>,
    /// Rows of embeddings that were left out because they are of another width than the encoder.
    pub left_out: usize,
}

/// The text encoder of a family.
pub struct TextEncoder {
    stack: TextStack,
    models: Vec<(EncoderKind, ClipTextModel)>,
}

impl TextEncoder {
    /// Puts a family's transformers together; each has its config and the root of its weights (`text_model.…` lies directly below).
    pub fn new(stack: TextStack, parts: &[(EncoderKind, ClipConfig, Vb)]) -> Result<Self> {
        let mut models = Vec::new();
        for kind in stack.kinds() {
            let Some((_, config, vb)) = parts.iter().find(|(part, _, _)| part == kind) else {
                return Err(Error::msg(format!("the text encoder {} is not there; choose a file that has it", kind.name())));
            };
            models.push((*kind, ClipTextModel::new(config, vb)?));
        }
        Ok(Self { stack, models })
    }

    /// Encodes a tokenised prompt. `check` is called between blocks; its error stops.
    pub fn encode(&self, tokens: &Tokens, options: &ClipOptions, check: Check<'_>) -> Result<Encoded> {
        let mut parts = Vec::new();
        let (mut pooled, mut left_out) = (None, 0);
        for (kind, model) in &self.models {
            let width = model.config().width;
            let is_misfit = |token: &&WeightedToken| matches!(&token.token, Token::Embedding(row) if row.len() != width);
            left_out += tokens.of(*kind).iter().flatten().filter(is_misfit).count();
            let selection = Selection::new(self.stack, *kind, model.config().layers, options)?;
            let (cross_attn, own) = encode_windows(model, tokens.of(*kind), rules(*kind).pad, &selection, check)?;
            parts.push(cross_attn);
            pooled = own.or(pooled);
        }
        let length = parts.iter().map(|part| part.dims()[1]).min().unwrap_or(0);
        let parts = parts.iter().map(|part| part.narrow(1, 0, length)).collect::<Result<Vec<_>, _>>()?;
        let cross_attn = Tensor::cat(&parts, 2)?.to_device(&Device::Cpu)?;
        Ok(Encoded { cross_attn, pooled: pooled.map(|pooled| pooled.to_device(&Device::Cpu)).transpose()?, left_out })
    }
}

/// Which outputs of one transformer are taken.
struct Selection {
    /// The block whose output is taken; `None`: the last one's, normalised.
    hidden: Option<usize>,
    /// Whether the norm is applied to that output.
    norm_hidden: bool,
    /// Whether the pooled output is wanted.
    pooled: bool,
    /// Whether it is projected.
    projected: bool,
}

impl Selection {
    fn new(stack: TextStack, kind: EncoderKind, layers: usize, options: &ClipOptions) -> Result<Self> {
        let (layer, norm_hidden, projected) = match stack {
            TextStack::Sd1 => (None, true, false),
            TextStack::Sd2 => (Some(-2), true, true),
            TextStack::Sdxl | TextStack::SdxlRefiner => (Some(-2), false, true),
        };
        let layer: Option<i32> = options.clip_layer.or(layer);
        let hidden = match layer {
            // Deeper than the model is: the last layer.
            Some(layer) if layer.unsigned_abs() as usize > layers => None,
            Some(layer) if layer < 0 => Some(layers - layer.unsigned_abs() as usize),
            Some(layer) if layer as usize == layers => {
                return Err(Error::msg(format!("the text encoder has no layer {layer}; choose one from -{layers} to -1")));
            }
            Some(layer) => Some(layer as usize),
            None => None,
        };
        let pooled = stack != TextStack::Sdxl || kind == EncoderKind::ClipG;
        Ok(Self { hidden, norm_hidden, pooled, projected: projected && !options.unprojected })
    }
}

/// Windows to `(1, T, D)` and the pooled output `(1, D)` of the first one. Weights move a token's result away from the one that an empty
/// window has in its place.
fn encode_windows(
    model: &ClipTextModel,
    windows: &[Window],
    pad: u32,
    selection: &Selection,
    check: Check<'_>,
) -> Result<(Tensor, Option<Tensor>)> {
    if windows.is_empty() {
        return Err(Error::msg("the prompt was tokenised for another text encoder; tokenise it again"));
    }
    let weighted = windows.iter().flatten().any(|token| token.weight != 1.0);
    let empty = weighted.then(|| {
        let rules = WindowRules { length: windows[0].len(), pad, embedding_key: "" };
        prompt::empty_window(&rules)
    });
    let mut results = Vec::with_capacity(windows.len() + 1);
    let mut pooled = None;
    // One window after the other: the memory that a pass takes does not grow with the prompt.
    for (index, window) in windows.iter().chain(&empty).enumerate() {
        let (rows, last_token) = window_rows(model, window, pad)?;
        let pool = selection.pooled && index == 0;
        let output = model.forward(&rows.unsqueeze(0)?, selection.hidden, pool || selection.hidden.is_none(), check)?;
        if let (true, Some(last)) = (pool, &output.last) {
            let own = last.narrow(1, last_token, 1)?.squeeze(1)?;
            pooled = Some(if selection.projected { model.project(&own)? } else { own });
        }
        let result = match output.hidden {
            Some(hidden) if selection.norm_hidden => model.normalise(&hidden)?,
            Some(hidden) => hidden,
            None => output.last.ok_or_else(|| Error::msg("the text encoder has no layers"))?,
        };
        results.push(result);
    }
    if let Some(z_empty) = empty.and_then(|_| results.pop()) {
        for (result, window) in results.iter_mut().zip(windows) {
            *result = weigh(result, &z_empty, window)?;
        }
    }
    Ok((Tensor::cat(&results, 1)?, pooled))
}

/// `z_empty + (z - z_empty) * weight` where a token has a weight.
fn weigh(z: &Tensor, z_empty: &Tensor, window: &Window) -> Result<Tensor> {
    if window.iter().all(|token| token.weight == 1.0) {
        return Ok(z.clone());
    }
    let mut rows = Vec::with_capacity(window.len());
    for (place, token) in window.iter().enumerate() {
        let row = z.narrow(1, place, 1)?;
        if token.weight == 1.0 {
            rows.push(row);
        } else {
            let empty = z_empty.narrow(1, place, 1)?;
            rows.push((((row - &empty)? * token.weight)? + &empty)?);
        }
    }
    Ok(Tensor::cat(&rows, 1)?)
}

/// The rows `(T, D)` of a window, and where the pooled output is taken: at the first end token. Embeddings of another width are left out,
/// and the window is padded instead.
fn window_rows(model: &ClipTextModel, window: &Window, pad: u32) -> Result<(Tensor, usize)> {
    let width = model.config().width;
    let ids = |run: &mut Vec<u32>, rows: &mut Vec<Tensor>| -> Result<()> {
        if !run.is_empty() {
            rows.push(model.embed(run)?);
            run.clear();
        }
        Ok(())
    };
    let (mut rows, mut run) = (Vec::new(), Vec::new());
    let (mut count, mut ended, mut dropped) = (0usize, false, 0);
    for token in window {
        match &token.token {
            Token::Id(id) => {
                run.push(*id);
                count += usize::from(!ended);
                ended |= *id == END;
            }
            Token::Embedding(row) if row.len() == width => {
                ids(&mut run, &mut rows)?;
                rows.push(Tensor::new(&row[..], model.device())?.unsqueeze(0)?);
                count += 1;
            }
            Token::Embedding(_) => dropped += 1,
        }
    }
    run.extend(std::iter::repeat_n(pad, dropped));
    ids(&mut run, &mut rows)?;
    Ok((Tensor::cat(&rows, 0)?, count.saturating_sub(1)))
}
