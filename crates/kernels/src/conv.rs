//! Two-dimensional convolution as a matrix product whose right factor, the unfolded image, is made panel by panel (implicit im2col).

use rayon::prelude::*;

use crate::activation::upsample_nearest;
use crate::gemm::{Bias, Gemm, Panels};
use crate::out::{Out, Written, result};
use crate::rows::Rows;
use crate::simd::{Level, Simd, prefetch};
use crate::sizes::{Added, Conv2d};
use crate::tiles::multiply;
use crate::weight::{Error, Result, Weight, check_len, product};
use crate::winograd::{self, Input};

/// How many channels before it is needed a row is fetched.
const CHANNELS_AHEAD: usize = 6;
/// Numbers that a task adds.
const SUMS_PER_TASK: usize = 16 * 1024;

/// `x (batch, in, height, width)` with `weight (out, in, kernel_height, kernel_width)` to `out (batch, out, height', width')`.
pub fn conv2d(x: &[f32], weight: Weight<'_>, added: Added<'_>, sizes: &Conv2d, out: Out<'_>) -> Result<Written> {
    conv2d_at(Level::best(), Input { x, doubled: false }, weight, added, sizes, out)
}

/// The same of a picture of which every pixel is taken twice along both axes: `x (batch, in, height / 2, width / 2)`, the sizes those of the
/// picture that this makes.
pub fn conv2d_of_doubled(x: &[f32], weight: Weight<'_>, added: Added<'_>, sizes: &Conv2d, out: Out<'_>) -> Result<Written> {
    conv2d_at(Level::best(), Input { x, doubled: true }, weight, added, sizes, out)
}

/// Checks everything but the input.
fn check(weight: Weight<'_>, added: Added<'_>, sizes: &Conv2d, (height, width): (usize, usize), out: usize) -> Result<()> {
    let Conv2d { batch, in_channels, out_channels, kernel_height, kernel_width, padding, .. } = *sizes;
    weight.check(&[out_channels, in_channels, kernel_height, kernel_width])?;
    check_len("the output", out, &[batch, out_channels, height, width])?;
    if let Some(bias) = added.bias {
        check_len("the bias", bias.len(), &[out_channels])?;
    }
    if let Some(per_image) = added.per_image {
        check_len("what is added to images", per_image.len(), &[batch, out_channels])?;
    }
    if let Some(residual) = added.residual {
        check_len("the residual", residual.len(), &[batch, out_channels, height, width])?;
    }
    product("the padded image", &[sizes.height + 2 * padding, sizes.width + 2 * padding, 4])?;
    Ok(())
}

pub(crate) fn conv2d_at(
    level: Level,
    input: Input<'_>,
    weight: Weight<'_>,
    added: Added<'_>,
    sizes: &Conv2d,
    mut out: Out<'_>,
) -> Result<Written> {
    let Conv2d { batch, in_channels, height, width, .. } = *sizes;
    let Input { x, doubled } = input;
    let scale = if doubled { 2 } else { 1 };
    if height % scale != 0 || width % scale != 0 {
        return Err(Error(format!("a doubled picture has even sides, not {width} x {height}")));
    }
    check_len("the input", x.len(), &[batch, in_channels, height / scale, width / scale])?;
    let (out_height, out_width) = sizes.output_size()?;
    check(weight, added, sizes, (out_height, out_width), out.len())?;
    let depth = in_channels * sizes.kernel_height * sizes.kernel_width;
    let weight = Rows::new(weight, depth, level);
    // Tiles are faster without it, but for a picture that would have to be made four times as large.
    if (doubled || !level.has_tiles()) && winograd::suits(sizes) {
        winograd::run(level, input, weight, added, sizes, (out_height, out_width), &mut out);
        // SAFETY: all channels of all tiles are.
        return Ok(unsafe { out.written() });
    }
    let whole;
    let x = if doubled {
        let len = product("the doubled picture", &[batch, in_channels, height, width])?;
        whole = result(len, |out| upsample_nearest(x, batch * in_channels, height / 2, width / 2, 2, out))?;
        &whole
    } else {
        x
    };
    let unfolded = Unfolded { x, sizes: *sizes, out_width, pixels: out_height * out_width };
    let gemm = Gemm {
        a: weight,
        rows: sizes.out_channels,
        depth,
        b: &unfolded,
        c: out.shared(),
        ldc: unfolded.pixels,
        bias: added.bias.map_or(Bias::None, Bias::Rows),
    };
    // SAFETY: the lengths were checked against the sizes.
    unsafe { multiply(&gemm, level) };
    // SAFETY: the product has written all channels of all pixels.
    let sums = unsafe { out.known() };
    if let Some(per_image) = added.per_image {
        let planes = sums.par_chunks_mut(unfolded.pixels.max(1)).zip(per_image);
        planes.for_each(|(plane, more)| plane.iter_mut().for_each(|x| *x += more));
    }
    if let Some(residual) = added.residual {
        sums.par_iter_mut().zip(residual).with_min_len(SUMS_PER_TASK).for_each(|(x, more)| *x += more);
    }
    // SAFETY: as above.
    Ok(unsafe { out.written() })
}

/// The unfolded image: a column for every output pixel, a row for every element of the kernel. A panel never spans two images.
struct Unfolded<'a> {
    x: &'a [f32],
    sizes: Conv2d,
    out_width: usize,
    pixels: usize,
}

impl Panels for Unfolded<'_> {
    fn count(&self, width: usize) -> usize {
        self.sizes.batch * self.pixels.div_ceil(width)
    }

    #[inline(always)]
    fn place(&self, panel: usize, width: usize) -> (usize, usize) {
        let per_image = self.pixels.div_ceil(width);
        let (image, pixel) = (panel / per_image, panel % per_image * width);
        (image * self.sizes.out_channels * self.pixels + pixel, width.min(self.pixels - pixel))
    }

    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, panel: usize, k0: usize, kc: usize, dst: *mut f32) {
        let Conv2d { in_channels, height, width: in_width, kernel_height, kernel_width, stride, padding, .. } = self.sizes;
        let width = 2 * S::LANES;
        let per_image = self.pixels.div_ceil(width);
        let (image, pixel) = (panel / per_image, panel % per_image * width);
        let pixels = width.min(self.pixels - pixel);
        let plane = height * in_width;
        // SAFETY: everything read lies inside image `image` of `x`, as the limits computed below show; `dst` holds `kc` rows of a panel.
        unsafe {
            let all = self.x.as_ptr_range();
            let x = all.start.add(image * in_channels * plane);
            if kernel_height * kernel_width == 1 && stride == 1 && padding == 0 {
                for k in 0..kc {
                    copy_run::<S>(x.add((k0 + k) * plane + pixel), pixels, width, dst.add(k * width));
                }
                return;
            }
            let kernel = kernel_height * kernel_width;
            // The panel's pixels, row by row of the output image.
            let mut start = 0;
            while start < pixels {
                let (y, first_x) = ((pixel + start) / self.out_width, (pixel + start) % self.out_width);
                let len = (self.out_width - first_x).min(pixels - start);
                let (mut channel, mut ky, mut kx) = (k0 / kernel, k0 % kernel / kernel_width, k0 % kernel_width);
                for k in 0..kc {
                    let dst = dst.add(k * width + start);
                    // Coordinates in the padded image, which begins `padding` before the image.
                    let (row, column) = (y * stride + ky, first_x * stride + kx);
                    if row < padding || row >= height + padding {
                        fill_zero(dst, len);
                    } else {
                        let src = x.add(channel * plane + (row - padding) * in_width);
                        if kx == 0 {
                            // The next channels' rows lie too far away for processors to see what comes.
                            let next = src.wrapping_add(CHANNELS_AHEAD * plane + first_x * stride);
                            (0..(len * stride).div_ceil(16)).for_each(|line| prefetch(next.wrapping_add(16 * line)));
                        }
                        // Pixels `low..high` of the run lie inside the image.
                        let low = padding.saturating_sub(column).div_ceil(stride).min(len);
                        let high = (in_width + padding).saturating_sub(column).div_ceil(stride).clamp(low, len);
                        let first = (src.offset_from_unsigned(all.start) + column).wrapping_sub(padding);
                        if stride == 1 && first < self.x.len() && len <= self.x.len() - first {
                            // What lies beside the image belongs to its neighbours.
                            copy::<S>(all.start.add(first), len, dst);
                        } else {
                            for i in low..high {
                                *dst.add(i) = *src.add(column + i * stride - padding);
                            }
                        }
                        fill_zero(dst, low);
                        fill_zero(dst.add(high), len - high);
                    }
                    kx += 1;
                    if kx == kernel_width {
                        (kx, ky) = (0, ky + 1);
                        if ky == kernel_height {
                            (ky, channel) = (0, channel + 1);
                        }
                    }
                }
                start += len;
            }
            if pixels < width {
                for k in 0..kc {
                    fill_zero(dst.add(k * width + pixels), width - pixels);
                }
            }
        }
    }
}

/// # Safety
/// `dst` is valid for `len` numbers.
#[inline(always)]
unsafe fn fill_zero(dst: *mut f32, len: usize) {
    for i in 0..len {
        // SAFETY: the caller's.
        unsafe { *dst.add(i) = 0.0 };
    }
}

/// Copies so many numbers, most often one or two vectors, or half of one.
///
/// # Safety
/// The instruction set is available; both pointers are valid for `len` numbers.
#[inline(always)]
unsafe fn copy<S: Simd>(src: *const f32, len: usize, dst: *mut f32) {
    let mut i = 0;
    // SAFETY: `i + LANES <= len` in the first loop, `i + 8 <= len` in the second, `i < len` in the third.
    unsafe {
        while i + S::LANES <= len {
            S::store(dst.add(i), S::load(src.add(i)));
            i += S::LANES;
        }
        while i + 8 <= len {
            dst.add(i).cast::<[f32; 8]>().write_unaligned(src.add(i).cast::<[f32; 8]>().read_unaligned());
            i += 8;
        }
        while i < len {
            *dst.add(i) = *src.add(i);
            i += 1;
        }
    }
}

/// Copies up to two vectors and fills the rest with zeros.
///
/// # Safety
/// `src` is valid for `len` numbers, `dst` for `width`, which is two vectors.
#[inline(always)]
unsafe fn copy_run<S: Simd>(src: *const f32, len: usize, width: usize, dst: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        copy::<S>(src, len, dst);
        fill_zero(dst.add(len), width - len);
    }
}
