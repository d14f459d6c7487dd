//! The kinds of adapters and the names of their parts in files.

use std::collections::HashSet;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::state_dict::StateDict;

/// A change to one weight. Tensors are on the CPU, in the type in which the file stores them.
#[derive(Debug, Clone)]
pub enum Adapter {
    /// The product of two narrow matrices (LoRA, <https://arxiv.org/abs/2106.09685>), for convolutions with a small one between (LoCon).
    Lora {
        /// `(out, rank, ..)`.
        up: Tensor,
        /// `(rank, in, ..)`.
        down: Tensor,
        /// `(rank, rank, kh, kw)`.
        mid: Option<Tensor>,
        /// The scale is this over the rank; 1 if there is none.
        alpha: Option<f64>,
        /// The magnitudes of a decomposed weight (DoRA, <https://arxiv.org/abs/2402.09353>).
        dora_scale: Option<Tensor>,
        /// The shape that the weight is padded to with zeros first.
        reshape: Option<Vec<usize>>,
    },
    /// The Hadamard product of two such products (LoHa, <https://arxiv.org/abs/2108.06098>).
    Loha {
        /// `(out, rank)` and `(rank, in)` of the first product; with `t`: `(rank, out)` and `(rank, in)`.
        w1: (Tensor, Tensor),
        /// Those of the second product.
        w2: (Tensor, Tensor),
        /// The cores of a Tucker decomposition, `(rank, rank, kh, kw)`.
        t: Option<(Tensor, Tensor)>,
        /// As in [`Adapter::Lora`].
        alpha: Option<f64>,
        /// As in [`Adapter::Lora`].
        dora_scale: Option<Tensor>,
    },
    /// The Kronecker product of two matrices, each whole or itself a product (LoKr, <https://arxiv.org/abs/2309.14859>).
    Lokr {
        /// The first matrix.
        w1: Factor,
        /// The second.
        w2: Factor,
        /// As in [`Adapter::Lora`].
        alpha: Option<f64>,
        /// As in [`Adapter::Lora`].
        dora_scale: Option<Tensor>,
    },
    /// GLoRA (<https://arxiv.org/abs/2306.07967>): the weight times a product, and a product.
    Glora {
        /// The factors `a1`, `a2`, `b1`, `b2`.
        factors: Box<[Tensor; 4]>,
        /// As in [`Adapter::Lora`].
        alpha: Option<f64>,
        /// As in [`Adapter::Lora`].
        dora_scale: Option<Tensor>,
    },
    /// Orthogonal rotations of blocks of outputs (OFT, <https://arxiv.org/abs/2306.07280>): `(blocks, size, size)`; or in several rounds
    /// that shuffle outputs between (BOFT, <https://arxiv.org/abs/2311.06243>): `(rounds, blocks, size, size)`.
    Oft {
        /// The rotations' generators.
        blocks: Tensor,
        /// A scale for the result of BOFT; read, and like the reference not used, for OFT.
        rescale: Option<Tensor>,
        /// The bound on the generators' norm.
        alpha: Option<f64>,
        /// As in [`Adapter::Lora`].
        dora_scale: Option<Tensor>,
    },
    /// A difference to add.
    Diff(Tensor),
    /// The weight itself, whatever the strength.
    Set(Tensor),
}

/// A matrix of a [`Adapter::Lokr`].
#[derive(Debug, Clone)]
pub enum Factor {
    /// As it is.
    Whole(Tensor),
    /// The product of two, with the core of a Tucker decomposition between if there is one.
    Product(Tensor, Tensor, Option<Tensor>),
}

/// What a file says about one name.
pub(super) struct Found<'a> {
    pub file: &'a StateDict,
    pub name: &'a str,
    pub used: &'a mut HashSet<String>,
}

/// The names of the upper and lower matrix of a LoRA after the weight's name, in the order in which they are looked for.
const LORA_PARTS: [(&str, &str); 7] = [
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
];

impl Found<'_> {
    /// The tensor `NAME.part`.
    pub fn tensor(&mut self, part: &str) -> Result<Option<Tensor>> {
        self.raw(&format!(".{part}"))
    }

    fn raw(&mut self, suffix: &str) -> Result<Option<Tensor>> {
        let name = format!("{}{suffix}", self.name);
        let Some(tensor) = self.file.get(&name) else { return Ok(None) };
        self.used.insert(name);
        tensor.read().map(Some)
    }

    fn required(&mut self, suffix: &str) -> Result<Tensor> {
        self.raw(suffix)?.ok_or_else(|| Error::Missing { path: self.file.origin().to_owned(), name: format!("{}{suffix}", self.name) })
    }

    /// The adapter; of several kinds, the last in the reference's order.
    pub fn adapter(&mut self) -> Result<Option<Adapter>> {
        let alpha = match self.tensor("alpha")? {
            Some(alpha) if alpha.elem_count() == 1 => Some(f64::from(alpha.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?[0])),
            _ => None,
        };
        let dora_scale = self.tensor("dora_scale")?;
        let mut adapter = self.lora(alpha, &dora_scale)?;
        adapter = self.loha(alpha, &dora_scale)?.or(adapter);
        adapter = self.lokr(alpha, &dora_scale)?.or(adapter);
        adapter = self.glora(alpha, &dora_scale)?.or(adapter);
        Ok(self.oft(alpha, &dora_scale)?.or(adapter))
    }

    fn lora(&mut self, alpha: Option<f64>, dora_scale: &Option<Tensor>) -> Result<Option<Adapter>> {
        for (i, (up, down)) in LORA_PARTS.iter().enumerate() {
            let Some(up) = self.raw(up)? else { continue };
            let down = self.required(down)?;
            let mid = if i == 0 { self.tensor("lora_mid.weight")? } else { None };
            let reshape = match self.tensor("reshape_weight")? {
                Some(axes) => Some(axes.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?.iter().map(|axis| *axis as usize).collect()),
                None => None,
            };
            return Ok(Some(Adapter::Lora { up, down, mid, alpha, dora_scale: dora_scale.clone(), reshape }));
        }
        Ok(None)
    }

    fn loha(&mut self, alpha: Option<f64>, dora_scale: &Option<Tensor>) -> Result<Option<Adapter>> {
        let Some(w1_a) = self.tensor("hada_w1_a")? else { return Ok(None) };
        let w1 = (w1_a, self.required(".hada_w1_b")?);
        let w2 = (self.required(".hada_w2_a")?, self.required(".hada_w2_b")?);
        let t = match self.tensor("hada_t1")? {
            Some(t1) => Some((t1, self.required(".hada_t2")?)),
            None => None,
        };
        Ok(Some(Adapter::Loha { w1, w2, t, alpha, dora_scale: dora_scale.clone() }))
    }

    fn lokr(&mut self, alpha: Option<f64>, dora_scale: &Option<Tensor>) -> Result<Option<Adapter>> {
        let stems = ["lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w2_a"];
        if !stems.iter().any(|stem| self.file.contains(&format!("{}.{stem}", self.name))) {
            return Ok(None);
        }
        let core = self.tensor("lokr_t2")?;
        let w1 = self.factor("lokr_w1", None)?;
        let w2 = self.factor("lokr_w2", core)?;
        Ok(Some(Adapter::Lokr { w1, w2, alpha, dora_scale: dora_scale.clone() }))
    }

    fn factor(&mut self, stem: &str, core: Option<Tensor>) -> Result<Factor> {
        match self.tensor(stem)? {
            Some(whole) => Ok(Factor::Whole(whole)),
            None => Ok(Factor::Product(self.required(&format!(".{stem}_a"))?, self.required(&format!(".{stem}_b"))?, core)),
        }
    }

    fn glora(&mut self, alpha: Option<f64>, dora_scale: &Option<Tensor>) -> Result<Option<Adapter>> {
        let Some(a1) = self.tensor("a1.weight")? else { return Ok(None) };
        let factors = [a1, self.required(".a2.weight")?, self.required(".b1.weight")?, self.required(".b2.weight")?];
        Ok(Some(Adapter::Glora { factors: Box::new(factors), alpha, dora_scale: dora_scale.clone() }))
    }

    fn oft(&mut self, alpha: Option<f64>, dora_scale: &Option<Tensor>) -> Result<Option<Adapter>> {
        if !self.file.shape(&format!("{}.oft_blocks", self.name)).is_some_and(|shape| matches!(shape.len(), 3 | 4)) {
            return Ok(None);
        }
        let blocks = self.required(".oft_blocks")?;
        let rescale = self.tensor("rescale")?;
        Ok(Some(Adapter::Oft { blocks, rescale, alpha, dora_scale: dora_scale.clone() }))
    }
}
