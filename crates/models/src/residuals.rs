//! What a ControlNet or an adapter adds to a UNet's activations, and how several are joined. Which model it came from is not known here.

use candle_core::Tensor;

use crate::Result;

/// Tensors to add in one pass. As in the reference, each list is used up from its end: the encoder's first block takes the last of
/// `input`, the decoder's first block takes the last of `output`. `None` adds nothing there.
#[derive(Debug, Clone, Default)]
pub struct Residuals {
    /// For the results of the encoder's blocks.
    pub input: Vec<Option<Tensor>>,
    /// For the result of the middle.
    pub middle: Vec<Option<Tensor>>,
    /// For what the encoder kept, before the decoder joins it.
    pub output: Vec<Option<Tensor>>,
}

impl Residuals {
    /// Applies `f` to every tensor; it is told the tensor's place in its list and the list's length.
    pub fn map(&self, mut f: impl FnMut(&Tensor, usize, usize) -> Result<Tensor>) -> Result<Self> {
        let mut list = |tensors: &[Option<Tensor>]| -> Result<Vec<Option<Tensor>>> {
            let length = tensors.len();
            tensors.iter().enumerate().map(|(i, tensor)| tensor.as_ref().map(|tensor| f(tensor, i, length)).transpose()).collect()
        };
        Ok(Self { input: list(&self.input)?, middle: list(&self.middle)?, output: list(&self.output)? })
    }

    /// Every tensor times `strength`.
    pub fn scaled(&self, strength: f64) -> Result<Self> {
        if strength == 1.0 {
            return Ok(self.clone());
        }
        self.map(|tensor, _, _| Ok((tensor * strength)?))
    }

    /// Every tensor replaced by its mean over the picture, in its size (ControlNets that shuffle).
    pub fn averaged(&self) -> Result<Self> {
        self.map(|tensor, _, _| Ok(tensor.mean_keepdim((2, 3))?.broadcast_as(tensor.shape())?.contiguous()?))
    }

    /// This and `previous`, place by place from the lists' beginnings.
    pub fn merged(self, previous: &Self) -> Result<Self> {
        fn list(mut own: Vec<Option<Tensor>>, previous: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
            for (i, earlier) in previous.iter().enumerate() {
                if i >= own.len() {
                    own.push(earlier.clone());
                } else if let Some(earlier) = earlier {
                    own[i] = Some(match &own[i] {
                        Some(tensor) => earlier.broadcast_add(tensor)?,
                        None => earlier.clone(),
                    });
                }
            }
            Ok(own)
        }
        Ok(Self {
            input: list(self.input, &previous.input)?,
            middle: list(self.middle, &previous.middle)?,
            output: list(self.output, &previous.output)?,
        })
    }
}
