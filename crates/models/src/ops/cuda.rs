//! The operations on an NVIDIA card: matrix products by cuBLAS, the rest by the kernels of `comfyd_kernels`. Activations are F32; what a
//! product multiplies is rounded as its weight is held ([`Factors`]), and summed in F32. Each gives `None` for what it does not do; the portable
//! operations then do it, or find the words for the error.

use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{D, DType, Storage, StorageRef, Tensor};
use comfyd_kernels::{CUDA_MODELS, Conv2d, Precision};
use comfyd_weights::Weight;

use super::{Added, conv2d_sizes, four_axes};
use crate::error::{Error, Result};

/// What a missing array is to a kernel.
const NOTHING: u64 = 0;
/// Threads of a block, where a kernel does not need another number.
const THREADS: u32 = 256;
/// Blocks after which each does more than one part of the work.
const MOST_BLOCKS: usize = 4096;
/// Of axes of a grid other than the first.
const MOST_ROWS: usize = 65_535;
/// Bytes of a matrix of patches; larger ones are made and multiplied in parts.
const PATCHES_BYTES: usize = 256 << 20;
/// The widths of heads that there are kernels for.
const HEADS: [usize; 6] = [32, 48, 64, 80, 128, 160];

/// What the factors of a product are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Factors {
    F16,
    Bf16,
    /// With the 10 bits of mantissa of TF32 while they are multiplied.
    Tf32,
    F32,
}

impl Factors {
    /// For weights that are held so.
    fn of(held: DType) -> Self {
        match (Precision::chosen(), held) {
            (Precision::F32, _) => Self::F32,
            (Precision::Bf16, _) | (Precision::Auto, DType::BF16) => Self::Bf16,
            (Precision::Auto, DType::F16) => Self::F16,
            (Precision::Auto, _) => Self::Tf32,
        }
    }

    fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::Tf32 | Self::F32 => DType::F32,
        }
    }

    /// In names of kernels.
    fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Tf32 | Self::F32 => "f32",
        }
    }

    fn bytes(self) -> usize {
        self.dtype().size_in_bytes()
    }

    fn of_cublas(self) -> (sys::cudaDataType, sys::cublasComputeType_t) {
        match self {
            Self::F16 => (sys::cudaDataType::CUDA_R_16F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
            Self::Bf16 => (sys::cudaDataType::CUDA_R_16BF, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
            Self::Tf32 => (sys::cudaDataType::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32),
            Self::F32 => (sys::cudaDataType::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
        }
    }
}

fn is_ours(t: &Tensor) -> bool {
    t.device().is_cuda() && t.dtype() == DType::F32 && t.elem_count() > 0
}

/// The storage of a contiguous tensor on a card while it is used.
struct Numbers<'a> {
    storage: StorageRef<'a>,
    range: std::ops::Range<usize>,
}

impl<'a> Numbers<'a> {
    fn of(t: &'a Tensor) -> Result<Self> {
        let (storage, layout) = t.storage_and_layout();
        let (start, end) = layout.contiguous_offsets().ok_or_else(|| Error::msg("a tensor for the card's kernels is not contiguous"))?;
        Ok(Self { storage, range: start..end })
    }

    fn storage(&self) -> Result<&CudaStorage> {
        match &*self.storage {
            Storage::Cuda(storage) => Ok(storage),
            _ => Err(Error::msg("a tensor for the card's kernels is on another device")),
        }
    }

    fn f32(&self) -> Result<CudaView<'_, f32>> {
        Ok(self.storage()?.as_cuda_slice::<f32>()?.slice(self.range.clone()))
    }

    /// Where its numbers begin, for cuBLAS.
    fn address(&self, card: &Card) -> Result<u64> {
        fn of<T>(card: &Card, view: CudaView<'_, T>) -> u64 {
            view.device_ptr(&card.device.cuda_stream()).0
        }
        let (storage, range) = (self.storage()?, self.range.clone());
        Ok(match self.storage.dtype() {
            DType::F16 => of(card, storage.as_cuda_slice::<half::f16>()?.slice(range)),
            DType::BF16 => of(card, storage.as_cuda_slice::<half::bf16>()?.slice(range)),
            _ => of(card, storage.as_cuda_slice::<f32>()?.slice(range)),
        })
    }
}

/// A picture's patches, as the kernels know them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Patches {
    height: i32,
    width: i32,
    kernel_height: i32,
    kernel_width: i32,
    stride: i32,
    padding: i32,
    scale: i32,
    out_width: i32,
    first: i32,
    pixels: i32,
}

// SAFETY: numbers of 32 bits in the order of the kernels' structure.
unsafe impl DeviceRepr for Patches {}

/// An attention's mask, as the kernels know it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Mask {
    values: u64,
    batch: i64,
    head: i64,
    query: i64,
}

// SAFETY: an address and numbers of 64 bits in the order of the kernels' structure.
unsafe impl DeviceRepr for Mask {}

/// Factors of a product: eight-byte-aligned, as they are multiplied.
struct Rounded(CudaSlice<u8>);

/// A card on which kernels are launched.
struct Card {
    device: CudaDevice,
}

/// `C = A B (+ C)` by cuBLAS, whose matrices are column by column.
struct Product {
    factors: Factors,
    sizes: [usize; 3],
    a: (u64, bool, usize),
    b: (u64, usize),
    c: (u64, usize),
    adds: bool,
}

impl Card {
    fn of(t: &Tensor) -> Result<Self> {
        Ok(Self { device: t.device().as_cuda_device()?.clone() })
    }

    /// Memory for so many numbers, which hold anything.
    fn room<T: DeviceRepr>(&self, count: usize) -> Result<CudaSlice<T>> {
        // SAFETY: every kernel writes all of its result before anybody reads it.
        Ok(unsafe { self.device.alloc::<T>(count)? })
    }

    fn tensor<S: Into<candle_core::Shape>>(&self, numbers: CudaSlice<f32>, shape: S) -> Tensor {
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(numbers, self.device.clone()));
        Tensor::from_storage(storage, shape, BackpropOp::none(), false)
    }
}

/// Launches a kernel on a grid of blocks with arguments whose types are the kernel's.
macro_rules! launch {
    ($card:expr, $name:expr, $grid:expr, $block:expr, $($argument:expr),+ $(,)?) => {{
        let function = $card.device.get_or_load_custom_func($name, "comfyd_models", CUDA_MODELS)?;
        let mut launch = function.builder();
        $(launch.arg($argument);)+
        let config = LaunchConfig { grid_dim: $grid, block_dim: $block, shared_mem_bytes: 0 };
        // SAFETY: the arguments are those of the kernel of this name, and its arrays are as long as it is told.
        unsafe { launch.launch(config) }.w()?;
    }};
}

/// A number as kernels take it.
fn int(number: usize) -> Result<i32> {
    i32::try_from(number).map_err(|_| Error::msg(format!("{number} is more than the card's kernels can count; use smaller sizes")))
}

/// Blocks for so many items, one for each thread.
fn blocks(items: usize) -> (u32, u32, u32) {
    (items.div_ceil(THREADS as usize).clamp(1, MOST_BLOCKS) as u32, 1, 1)
}

const LINE: (u32, u32, u32) = (THREADS, 1, 1);

impl Card {
    /// Numbers rounded to what a product multiplies.
    fn rounded(&self, x: &CudaView<'_, f32>, factors: Factors) -> Result<Rounded> {
        let count = x.len();
        let mut out = self.room::<u8>(count * factors.bytes())?;
        launch!(self, &format!("to_{}", factors.name()), blocks(count.div_ceil(4)), LINE, x, &mut out, &count);
        Ok(Rounded(out))
    }

    fn multiply(&self, product: &Product) -> Result<()> {
        use sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let (dtype, compute) = product.factors.of_cublas();
        let [m, n, k] = product.sizes;
        let (alpha, beta) = (1f32, f32::from(u8::from(product.adds)));
        let (a, a_is_transposed, lda) = product.a;
        let blas = self.device.cublas_handle();
        // SAFETY: the addresses are those of matrices of these sizes on this device, which the caller keeps; the stream orders all work on them.
        unsafe {
            result::gemm_ex(
                *blas.handle(),
                if a_is_transposed { CUBLAS_OP_T } else { CUBLAS_OP_N },
                CUBLAS_OP_N,
                int(m)?,
                int(n)?,
                int(k)?,
                (&raw const alpha).cast(),
                a as *const _,
                dtype,
                int(lda)?,
                product.b.0 as *const _,
                dtype,
                int(product.b.1)?,
                (&raw const beta).cast(),
                product.c.0 as *mut _,
                sys::cudaDataType::CUDA_R_32F,
                int(product.c.1)?,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .w()?;
        Ok(())
    }

    /// What a product is added to: see the kernel.
    fn sums(&self, out: &mut CudaSlice<f32>, added: Added<'_>, channels: usize, pixels: usize) -> Result<bool> {
        let terms = [added.bias, added.channels, added.residual];
        if terms.iter().all(Option::is_none) {
            return Ok(false);
        }
        let terms: Vec<Option<Tensor>> = terms.into_iter().map(|term| term.map(single).transpose()).collect::<Result<_>>()?;
        let numbers: Vec<Option<Numbers<'_>>> = terms.iter().map(|term| term.as_ref().map(Numbers::of).transpose()).collect::<Result<_>>()?;
        let addresses: Vec<u64> =
            numbers.iter().map(|numbers| numbers.as_ref().map_or(Ok(NOTHING), |numbers| numbers.address(self))).collect::<Result<_>>()?;
        let &[bias, per_image, residual] = addresses.as_slice() else { return Ok(false) };
        let (count, channels) = (out.len(), int(channels)?);
        launch!(self, "sums", blocks(count), LINE, out, &bias, &per_image, &residual, &channels, &pixels, &count);
        Ok(true)
    }

    fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.device.cuda_stream()).0
    }
}

/// A small parameter as contiguous F32, which most are already.
fn single(t: &Tensor) -> Result<Tensor> {
    Ok(t.to_dtype(DType::F32)?.contiguous()?)
}

/// A weight as its products take it.
fn factors(weight: &Weight) -> Result<(Tensor, Factors)> {
    let dense = weight.dense()?;
    let factors = Factors::of(dense.dtype());
    Ok((dense.to_dtype(factors.dtype())?.contiguous()?, factors))
}

pub(super) fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
    let &[columns, depth] = weight.dims() else { return Ok(None) };
    if !is_ours(x) || x.rank() == 0 || x.dim(D::Minus1)? != depth || columns == 0 || bias.is_some_and(|bias| bias.elem_count() != columns) {
        return Ok(None);
    }
    let (card, x) = (Card::of(x)?, x.contiguous()?);
    let (weight, factors) = factors(weight)?;
    let rows = x.elem_count() / depth;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(columns);
    let (numbers, weight) = (Numbers::of(&x)?, Numbers::of(&weight)?);
    let rounded = match factors {
        Factors::F16 | Factors::Bf16 => Some(card.rounded(&numbers.f32()?, factors)?),
        Factors::Tf32 | Factors::F32 => None,
    };
    let b = rounded.as_ref().map_or_else(|| numbers.address(&card), |rounded| Ok(card.address(&rounded.0)))?;
    let mut out = card.room::<f32>(rows * columns)?;
    let adds = card.sums(&mut out, Added { bias, ..Added::default() }, columns, 1)?;
    let c = (card.address(&out), columns);
    let a = (weight.address(&card)?, true, depth);
    card.multiply(&Product { factors, sizes: [columns, rows, depth], a, b: (b, depth), c, adds })?;
    Ok(Some(card.tensor(out, shape)))
}

pub(super) fn conv2d(x: &Tensor, weight: &Weight, added: Added<'_>, stride: usize, padding: usize) -> Result<Option<Tensor>> {
    let Some((sizes, shape)) = sizes(x, weight, stride, padding, 1)? else { return Ok(None) };
    let [batch, out_channels, ..] = shape;
    let fits = added.bias.is_none_or(|bias| bias.elem_count() == out_channels)
        && added.channels.is_none_or(|more| is_ours(more) && more.dims() == [batch, out_channels])
        && added.residual.is_none_or(|more| is_ours(more) && more.dims() == shape);
    if fits { convolve(x, weight, added, &sizes, shape, 1).map(Some) } else { Ok(None) }
}

pub(super) fn conv2d_of_doubled(x: &Tensor, weight: &Weight, bias: Option<&Tensor>, padding: usize) -> Result<Option<Tensor>> {
    let Some((sizes, shape)) = sizes(x, weight, 1, padding, 2)? else { return Ok(None) };
    if bias.is_some_and(|bias| bias.elem_count() != sizes.out_channels) {
        return Ok(None);
    }
    convolve(x, weight, Added { bias, ..Added::default() }, &sizes, shape, 2).map(Some)
}

/// The sizes of a convolution that the kernels do of `x` with each pixel `scale` times along both axes.
fn sizes(x: &Tensor, weight: &Weight, stride: usize, padding: usize, scale: usize) -> Result<Option<(Conv2d, [usize; 4])>> {
    if !is_ours(x) || x.rank() != 4 {
        return Ok(None);
    }
    let (batch, channels, height, width) = x.dims4()?;
    let found = conv2d_sizes((batch, channels, scale * height, scale * width), weight, stride, padding);
    Ok(found.filter(|(sizes, shape)| sizes.in_channels * sizes.kernel_height * sizes.kernel_width <= MOST_ROWS && !shape.contains(&0)))
}

/// Each picture's patches as the columns of a matrix, times the weight.
fn convolve(x: &Tensor, weight: &Weight, added: Added<'_>, sizes: &Conv2d, shape: [usize; 4], scale: usize) -> Result<Tensor> {
    let (card, x) = (Card::of(x)?, x.contiguous()?);
    let (weight, factors) = factors(weight)?;
    let (numbers, weight) = (Numbers::of(&x)?, Numbers::of(&weight)?);
    let (all, weight) = (numbers.f32()?, weight.address(&card)?);
    let [batch, out_channels, out_height, out_width] = shape;
    let (pixels, picture) = (out_height * out_width, all.len() / batch);
    let depth = sizes.in_channels * sizes.kernel_height * sizes.kernel_width;
    let mut out = card.room::<f32>(batch * out_channels * pixels)?;
    let adds = card.sums(&mut out, added, out_channels, pixels)?;
    let to = card.address(&out);
    // A pixel's only patch is itself.
    let is_plain = sizes.kernel_height * sizes.kernel_width == 1 && sizes.stride == 1 && sizes.padding == 0 && scale == 1;
    let part = (PATCHES_BYTES / (depth * factors.bytes())).max(1);
    for image in 0..batch {
        let x = all.slice(image * picture..(image + 1) * picture);
        for first in (0..pixels).step_by(if is_plain { pixels } else { part }) {
            let count = if is_plain { pixels } else { part.min(pixels - first) };
            let columns = if is_plain && factors.dtype() == DType::F32 {
                None
            } else if is_plain {
                Some(card.rounded(&x, factors)?.0)
            } else {
                let patches = Patches {
                    height: int(sizes.height / scale)?,
                    width: int(sizes.width / scale)?,
                    kernel_height: int(sizes.kernel_height)?,
                    kernel_width: int(sizes.kernel_width)?,
                    stride: int(sizes.stride)?,
                    padding: int(sizes.padding)?,
                    scale: int(scale)?,
                    out_width: int(out_width)?,
                    first: int(first)?,
                    pixels: int(count)?,
                };
                let mut columns = card.room::<u8>(depth * count * factors.bytes())?;
                let grid = (count.div_ceil(THREADS as usize) as u32, depth as u32, 1);
                launch!(card, &format!("columns_{}", factors.name()), grid, LINE, &x, &mut columns, &patches);
                Some(columns)
            };
            let a = columns.as_ref().map_or_else(|| x.device_ptr(&card.device.cuda_stream()).0, |columns| card.address(columns));
            let c = to + 4 * (image * out_channels * pixels + first) as u64;
            let sizes = [count, out_channels, depth];
            card.multiply(&Product { factors, sizes, a: (a, false, count), b: (weight, depth), c: (c, pixels), adds })?;
        }
    }
    Ok(card.tensor(out, &shape))
}

pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Option<&Tensor>) -> Result<Option<Tensor>> {
    if Precision::chosen() == Precision::F32 || ![q, k, v].into_iter().all(|t| is_ours(t) && t.rank() == 3) || heads == 0 {
        return Ok(None);
    }
    let (batch, queries, inner) = q.dims3()?;
    let (keys, width) = (k.dim(1)?, inner / heads);
    if inner % heads != 0 || !width.is_multiple_of(8) || k.dims() != [batch, keys, inner] || v.dims() != k.dims() || batch * heads > MOST_ROWS {
        return Ok(None);
    }
    let Some(tile) = HEADS.into_iter().find(|tile| *tile >= width) else { return Ok(None) };
    let mask = match mask {
        Some(mask) if !mask.device().is_cuda() => return Ok(None),
        Some(mask) => {
            let Some(mask) = four_axes(mask, [batch, heads, queries, keys])? else { return Ok(None) };
            Some(mask)
        }
        None => None,
    };
    let card = Card::of(q)?;
    let numbers = mask.as_ref().map(Numbers::of).transpose()?;
    let mask = match (&mask, &numbers) {
        (Some(mask), Some(numbers)) => {
            let [batch, head, query] = super::mask_strides(mask)?.map(|stride| stride as i64);
            Mask { values: numbers.address(&card)?, batch, head, query }
        }
        _ => Mask { values: NOTHING, batch: 0, head: 0, query: 0 },
    };
    let round = |t: &Tensor| -> Result<CudaSlice<u8>> {
        let t = t.contiguous()?;
        let numbers = Numbers::of(&t)?;
        // No weight says otherwise, and bfloat16 has three bits less.
        Ok(card.rounded(&numbers.f32()?, Factors::F16)?.0)
    };
    let (q, k, v) = (round(q)?, round(k)?, round(v)?);
    let mut out = card.room::<f32>(batch * queries * inner)?;
    let grid = (queries.div_ceil(64) as u32, (batch * heads) as u32, 1);
    let (count, of_keys, of_heads, of_width) = (int(queries)?, int(keys)?, int(heads)?, int(width)?);
    let scale = (1.0 / (width as f64).sqrt()) as f32;
    let name = format!("attention_{tile}");
    launch!(card, &name, grid, (128, 1, 1), &q, &k, &v, &mut out, &count, &of_keys, &of_heads, &of_width, &scale, &mask);
    Ok(Some(card.tensor(out, (batch, queries, inner))))
}

pub(super) fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64, silu: bool) -> Result<Option<Tensor>> {
    if !is_ours(x) || x.rank() < 2 || groups == 0 {
        return Ok(None);
    }
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
    if channels % groups != 0 || weight.elem_count() != channels || bias.elem_count() != channels || batch * groups > MOST_ROWS {
        return Ok(None);
    }
    let (card, x) = (Card::of(x)?, x.contiguous()?);
    let (weight, bias) = (single(weight)?, single(bias)?);
    let (numbers, weight, bias) = (Numbers::of(&x)?, Numbers::of(&weight)?, Numbers::of(&bias)?);
    let (numbers, weight, bias) = (numbers.f32()?, weight.f32()?, bias.f32()?);
    let size = numbers.len() / (batch * groups);
    // Sixteen numbers for each thread, unless that makes more parts than are worth adding up.
    let parts = size.div_ceil(THREADS as usize * 16).clamp(1, 64);
    let grid = (parts as u32, (batch * groups) as u32, 1);
    let mut partial = card.room::<f32>(2 * batch * groups * parts)?;
    launch!(card, "group_sums", grid, LINE, &numbers, &mut partial, &size);
    let mut out = card.room::<f32>(numbers.len())?;
    let pixels = size / (channels / groups);
    let (of_groups, of_channels, of_parts, eps, silu) = (int(groups)?, int(channels)?, int(parts)?, eps as f32, i32::from(silu));
    launch!(
        card, "group_apply", grid, LINE, &numbers, &partial, &weight, &bias, &mut out, &size, &pixels, &of_groups, &of_channels, &of_parts, &eps, &silu
    );
    Ok(Some(card.tensor(out, x.shape())))
}

pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Option<Tensor>> {
    if !is_ours(x) || x.rank() == 0 {
        return Ok(None);
    }
    let columns = x.dim(D::Minus1)?;
    if weight.elem_count() != columns || bias.elem_count() != columns {
        return Ok(None);
    }
    let (card, x) = (Card::of(x)?, x.contiguous()?);
    let (weight, bias) = (single(weight)?, single(bias)?);
    let (numbers, weight, bias) = (Numbers::of(&x)?, Numbers::of(&weight)?, Numbers::of(&bias)?);
    let (numbers, weight, bias) = (numbers.f32()?, weight.f32()?, bias.f32()?);
    let mut out = card.room::<f32>(numbers.len())?;
    let (rows, of_columns, eps) = ((numbers.len() / columns) as u32, int(columns)?, eps as f32);
    launch!(card, "layer_norm", (rows, 1, 1), LINE, &numbers, &weight, &bias, &mut out, &of_columns, &eps);
    Ok(Some(card.tensor(out, x.shape())))
}

pub(super) fn geglu(x: &Tensor) -> Result<Option<Tensor>> {
    if !is_ours(x) || x.rank() == 0 || x.dim(D::Minus1)? % 2 != 0 {
        return Ok(None);
    }
    let (card, x) = (Card::of(x)?, x.contiguous()?);
    let numbers = Numbers::of(&x)?;
    let numbers = numbers.f32()?;
    let columns = x.dim(D::Minus1)? / 2;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(columns);
    let count = numbers.len() / 2;
    let mut out = card.room::<f32>(count)?;
    let of_columns = int(columns)?;
    launch!(card, "geglu", blocks(count), LINE, &numbers, &mut out, &of_columns, &count);
    Ok(Some(card.tensor(out, shape)))
}
