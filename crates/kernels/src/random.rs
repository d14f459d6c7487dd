//! Random numbers as torch's CPU generator draws them, bit for bit: MT19937 with torch's seeding, uniform and normal distributions,
//! integers and permutations. Knows nothing of what the numbers are for.
//!
//! torch has two ways to normal numbers. Fewer than 16 are drawn one by one in f64 (Box-Muller with one number kept back). 16 and more
//! are drawn as f32 uniforms, and transformed in blocks of 16 with the single precision polynomials of the Cephes library for log, sin
//! and cos, with products and sums fused as torch's AVX2 build fuses them. Numbers of other builds (ARM) differ in the last bits.

const STATE_LEN: usize = 624;
const SHIFT_LEN: usize = 397;
/// Numbers in a block of the vectorised normal distribution.
const NORMAL_BLOCK: usize = 16;
/// From this range on torch takes 64 bits per integer.
const WIDE_RANGE: u64 = 1 << 28;

/// torch's CPU generator (`torch.Generator().manual_seed(seed)`). Successive calls continue one stream.
#[derive(Clone)]
pub struct Generator {
    state: [u32; STATE_LEN],
    next: usize,
    /// The second half of a Box-Muller pair that [`Generator::randn`] has not yet handed out.
    kept_normal: Option<f64>,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("next", &self.next).field("kept_normal", &self.kept_normal).finish_non_exhaustive()
    }
}

impl Generator {
    /// A generator as `torch.manual_seed(seed)` leaves it. Like torch's, it uses the low 32 bits of the seed only.
    pub fn new(seed: u64) -> Self {
        let mut state = [0u32; STATE_LEN];
        state[0] = seed as u32;
        for i in 1..STATE_LEN {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: STATE_LEN, kept_normal: None }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == STATE_LEN {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// The next 64 random bits; the first 32 drawn are the high ones.
    pub fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        (high << 32) | u64::from(self.next_u32())
    }

    /// `torch.rand(n)`: uniform in [0, 1), 24 bits each.
    pub fn rand(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform_f32()).collect()
    }

    /// `torch.rand(n, dtype=torch.float64)`: uniform in [0, 1), 53 bits each.
    pub fn rand_f64(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.uniform_f64()).collect()
    }

    /// `torch.randn(n)`: normal with mean 0 and standard deviation 1. A tensor of any shape is filled in row-major order.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < NORMAL_BLOCK {
            return (0..n).map(|_| self.normal_f64() as f32).collect();
        }
        let mut values = self.rand(n);
        normal_from_uniform(&mut values);
        if !n.is_multiple_of(NORMAL_BLOCK) {
            // The last, incomplete block is drawn anew together with the numbers before it that fill it up.
            let tail = &mut values[n - NORMAL_BLOCK..];
            tail.fill_with(|| self.uniform_f32());
            normal_from_uniform(tail);
        }
        values
    }

    /// `torch.randint(low, high, (n,))`: integers in low..high.
    ///
    /// # Panics
    /// If `low >= high`.
    pub fn randint(&mut self, low: i64, high: i64, n: usize) -> Vec<i64> {
        assert!(low < high, "randint needs low < high, got {low} and {high}");
        let range = high.wrapping_sub(low) as u64;
        let mut draw = || if range >= WIDE_RANGE { self.next_u64() } else { u64::from(self.next_u32()) };
        (0..n).map(|_| low.wrapping_add((draw() % range) as i64)).collect()
    }

    /// `torch.randperm(n)`: the numbers 0..n in random order (Fisher-Yates).
    pub fn randperm(&mut self, n: usize) -> Vec<i64> {
        let mut order: Vec<i64> = (0..n as i64).collect();
        // torch's bound between its 32-bit and its 64-bit shuffle.
        let wide = n as u64 >= u64::from(u32::MAX) / 20;
        for i in 0..n.saturating_sub(1) {
            let bits = if wide { self.next_u64() } else { u64::from(self.next_u32()) };
            order.swap(i, i + (bits % (n - i) as u64) as usize);
        }
        order
    }

    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() & ((1 << 53) - 1)) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(value) = self.kept_normal.take() {
            return value;
        }
        let u1 = self.uniform_f64();
        let u2 = self.uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * u1;
        self.kept_normal = Some(radius * theta.sin());
        radius * theta.cos()
    }

    fn twist(&mut self) {
        let mix = |u: u32, v: u32| {
            let y = (u & 0x8000_0000) | (v & 0x7fff_ffff);
            (y >> 1) ^ if v & 1 == 1 { 0x9908_b0df } else { 0 }
        };
        for i in 0..STATE_LEN {
            let far = self.state[(i + SHIFT_LEN) % STATE_LEN];
            self.state[i] = far ^ mix(self.state[i], self.state[(i + 1) % STATE_LEN]);
        }
        self.next = 0;
    }
}

/// Turns uniforms into normals, in whole blocks of 16; the remainder stays as it is.
fn normal_from_uniform(values: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features that the function is compiled for.
        unsafe { normal_from_uniform_avx2(values) };
        return;
    }
    normal_blocks(values);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn normal_from_uniform_avx2(values: &mut [f32]) {
    normal_blocks(values);
}

#[inline(always)]
fn normal_blocks(values: &mut [f32]) {
    for block in values.chunks_exact_mut(NORMAL_BLOCK) {
        let (first, second) = block.split_at_mut(NORMAL_BLOCK / 2);
        for (a, b) in first.iter_mut().zip(second) {
            let radius = (-2.0 * log(1.0 - *a)).sqrt();
            let (sin, cos) = sin_cos(std::f32::consts::TAU * *b);
            // Adding the mean turns -0 into 0.
            *a = radius * cos + 0.0;
            *b = radius * sin + 0.0;
        }
    }
}

/// Natural logarithm of a normal positive number: Cephes `logf`, with fused products.
#[allow(clippy::excessive_precision, reason = "the constants as Cephes states them")]
#[inline(always)]
fn log(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 1;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let below = mantissa < std::f32::consts::FRAC_1_SQRT_2;
    let e = exponent as f32 - if below { 1.0 } else { 0.0 };
    let x = (mantissa - 1.0) + if below { mantissa } else { 0.0 };
    let z = x * x;
    let mut y = 7.037_683_6e-2_f32;
    for coefficient in [
        -1.151_461_03e-1,
        1.167_699_87e-1,
        -1.242_014_08e-1,
        1.424_932_28e-1,
        -1.666_805_77e-1,
        2.000_071_48e-1,
        -2.499_999_4e-1,
        3.333_333_1e-1,
    ] {
        y = y.mul_add(x, coefficient);
    }
    y *= x;
    y = y.mul_add(z, e * -2.121_944_4e-4);
    y = (-z).mul_add(0.5, y);
    e.mul_add(0.693_359_375, x + y)
}

/// Sine and cosine of a number that is not negative: Cephes `sinf` and `cosf`, with fused products.
#[allow(clippy::excessive_precision, reason = "the constants as Cephes states them")]
#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    let octant = ((x * 1.273_239_5) as i32 + 1) & !1;
    let y = octant as f32;
    // π/4 in three parts.
    let x = y.mul_add(-0.785_156_25, x);
    let x = y.mul_add(-2.418_756_5e-4, x);
    let x = y.mul_add(-3.774_895e-8, x);
    let z = x * x;

    let mut cos = 2.443_315_7e-5_f32;
    cos = cos.mul_add(z, -1.388_731_6e-3);
    cos = cos.mul_add(z, 4.166_664_6e-2);
    cos *= z;
    cos = cos.mul_add(z, -(z * 0.5)) + 1.0;

    let mut sin = -1.951_529_6e-4_f32;
    sin = sin.mul_add(z, 8.332_161e-3);
    sin = sin.mul_add(z, -1.666_665_5e-1);
    sin *= z;
    sin = sin.mul_add(x, x);

    let swapped = octant & 2 != 0;
    let (sin, cos) = if swapped { (cos, sin) } else { (sin, cos) };
    let sin_sign = (octant as u32 & 4) << 29;
    let cos_sign = (!(octant as u32).wrapping_sub(2) & 4) << 29;
    (f32::from_bits(sin.to_bits() ^ sin_sign), f32::from_bits(cos.to_bits() ^ cos_sign))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    // The tables below, in order of appearance:
    //   g = torch.Generator().manual_seed(42); bits = lambda t: t.view(torch.int32).tolist()
    //   bits(torch.randn(5, generator=g)); bits(torch.randn(2, generator=g)); bits(torch.rand(3, generator=g))
    //   torch.rand(2, generator=g, dtype=torch.float64).view(torch.int64).tolist()
    //   torch.randint(0, 100, (5,), generator=g).tolist(); torch.randint(0, 1 << 29, (3,), generator=g).tolist()
    //   torch.randint(-5, 1 << 40, (3,), generator=g).tolist(); torch.randperm(10, generator=g).tolist()
    //   for n in (16, 17, 40): bits(torch.randn(n, generator=torch.Generator().manual_seed(2**64 - 1)))
    //   for n in (1000, 65543): zlib.crc32(torch.randn(n, generator=torch.Generator().manual_seed(7)).numpy().tobytes())

    fn bits(values: &[f32]) -> Vec<i32> {
        values.iter().map(|value| value.to_bits() as i32).collect()
    }

    #[test]
    fn one_stream_through_all_distributions() {
        let mut generator = Generator::new(42);
        assert_eq!(bits(&generator.randn(5)), [1051484846, 1040443037, 1047533287, 1047256172, -1081099838]);
        assert_eq!(bits(&generator.randn(2)), [-1103180584, 1074615084], "the number kept back by the odd call comes first");
        assert_eq!(bits(&generator.rand(3)), [1063431267, 1058204519, 1049132334]);
        let doubles: Vec<i64> = generator.rand_f64(2).iter().map(|value| value.to_bits() as i64).collect();
        assert_eq!(doubles, [4581304590835700384, 4602957223118504705]);
        assert_eq!(generator.randint(0, 100, 5), [11, 99, 13, 41, 69]);
        assert_eq!(generator.randint(0, 1 << 29, 3), [503419835, 504579232, 479546681], "wide ranges take 64 bits");
        assert_eq!(generator.randint(-5, 1 << 40, 3), [90180643015, 1009380132761, 208387890143]);
        assert_eq!(generator.randperm(10), [6, 4, 3, 8, 7, 2, 9, 5, 0, 1]);
    }

    #[test]
    fn vectorised_normals_and_their_tail() {
        let tables: [(usize, &[i32]); 3] = [
            (
                16,
                &[
                    -1070955558,
                    -1081366661,
                    1055335454,
                    1047123811,
                    1072891369,
                    1070086143,
                    -1079987984,
                    1061891141,
                    -1075826438,
                    -1087001282,
                    1067184166,
                    1046713492,
                    -1071578049,
                    1056419423,
                    1062698835,
                    1041255068,
                ],
            ),
            (
                17,
                &[
                    -1070955558,
                    -1084200989,
                    -1076711063,
                    -1089877168,
                    1050462404,
                    1054414572,
                    1049100662,
                    -1068921330,
                    -1070202820,
                    -1079505919,
                    -1095878001,
                    -1096357235,
                    -1124935416,
                    1053046022,
                    -1104883478,
                    1073472478,
                    1070590922,
                ],
            ),
            (
                40,
                &[
                    -1070955558,
                    -1081366661,
                    1055335454,
                    1047123811,
                    1072891369,
                    1070086143,
                    -1079987984,
                    1061891141,
                    -1075826438,
                    -1087001282,
                    1067184166,
                    1046713492,
                    -1071578049,
                    1056419423,
                    1062698835,
                    1041255068,
                    1072008737,
                    -1084200989,
                    -1076711063,
                    -1089877168,
                    1050462404,
                    1054414572,
                    1049100662,
                    -1068921330,
                    1061380007,
                    1074426311,
                    -1123949094,
                    1064570176,
                    1063467957,
                    1066946186,
                    1068381881,
                    1068247682,
                    1025858587,
                    -1089975746,
                    -1090718200,
                    1064773384,
                    -1108082845,
                    -1080997213,
                    -1101142776,
                    1044020076,
                ],
            ),
        ];
        for (n, expected) in tables {
            assert_eq!(bits(&Generator::new(u64::MAX).randn(n)), expected, "{n} numbers");
        }
    }

    #[test]
    fn long_sequences_by_checksum() {
        assert_eq!(crc32(&Generator::new(7).randn(1000)), 682472891);
        assert_eq!(crc32(&Generator::new(7).randn(65543)), 3370995956);
    }

    #[test]
    fn the_portable_path_equals_the_dispatched_one() {
        let mut dispatched = Generator::new(3).rand(4096);
        let mut portable = dispatched.clone();
        normal_from_uniform(&mut dispatched);
        normal_blocks(&mut portable);
        assert_eq!(bits(&dispatched), bits(&portable));
    }

    fn crc32(values: &[f32]) -> u32 {
        let mut crc = u32::MAX;
        for byte in values.iter().flat_map(|value| value.to_le_bytes()) {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            }
        }
        !crc
    }
}
