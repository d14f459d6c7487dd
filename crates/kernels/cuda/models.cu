// What models compute on an NVIDIA card between the matrix products, which cuBLAS does. Activations are single precision; factors of
// products are rounded to half precision, bfloat16, or not at all, as the weight they meet is held. Compiled to PTX by build.rs and
// launched by comfyd-models. Needs compute capability 8.0.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// Half precision ends at 65,504: what is larger becomes that, not infinity.
__device__ __forceinline__ __half narrowed(float x, __half) { return __float2half_rn(fminf(fmaxf(x, -65504.f), 65504.f)); }
__device__ __forceinline__ __nv_bfloat16 narrowed(float x, __nv_bfloat16) { return __float2bfloat16_rn(x); }
__device__ __forceinline__ float narrowed(float x, float) { return x; }

// A NaN stays one.
template <typename T> __device__ __forceinline__ T factor(float x) { return x == x ? narrowed(x, T()) : T(x); }

// Four neighbours at a time, where they are aligned: a part of a tensor may begin anywhere.
template <typename T> __device__ __forceinline__ void store(T *out, const float (&x)[4]) {
    T four[4] = {factor<T>(x[0]), factor<T>(x[1]), factor<T>(x[2]), factor<T>(x[3])};
    if constexpr (sizeof(T) == 2) *reinterpret_cast<uint2 *>(out) = *reinterpret_cast<uint2 *>(four);
    else *reinterpret_cast<uint4 *>(out) = *reinterpret_cast<uint4 *>(four);
}

template <typename T> __device__ void convert_to(const float *x, T *out, size_t count) {
    size_t stride = (size_t)gridDim.x * blockDim.x * 4;
    bool aligned = (uintptr_t)x % 16 == 0 && (uintptr_t)out % 8 == 0;
    for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < count; i += stride) {
        if (aligned && i + 4 <= count) {
            float4 four = *reinterpret_cast<const float4 *>(x + i);
            store<T>(out + i, {four.x, four.y, four.z, four.w});
        } else {
            for (size_t j = i; j < count && j < i + 4; j++) out[j] = factor<T>(x[j]);
        }
    }
}

extern "C" __global__ void to_f16(const float *x, __half *out, size_t count) { convert_to(x, out, count); }
extern "C" __global__ void to_bf16(const float *x, __nv_bfloat16 *out, size_t count) { convert_to(x, out, count); }

// Three arrays at once, one after the other; each is a whole number of eights.
extern "C" __global__ void three_to_f16(const float *q, const float *k, const float *v, __half *out, size_t of_q, size_t of_k) {
    if (blockIdx.y == 0) convert_to(q, out, of_q);
    else if (blockIdx.y == 1) convert_to(k, out + of_q, of_k);
    else convert_to(v, out + of_q + of_k, of_k);
}

// The patches of pictures `x (batch, I, H, W)` as the columns of matrices `(I * kh * kw, pixels)`, for the pixels of the result that begin at
// `first`; from row to row lie `row` numbers. A thread makes a pixel's of eight channels, whose places it reckons once. `scale` is 2 where the
// convolution is of the picture with each pixel twice along both axes.
struct Patches {
    int channels, height, width, kernel_height, kernel_width, stride, padding, scale, out_width, first, pixels, row;
};

template <typename T> __device__ void columns_to(const float *__restrict__ x, T *__restrict__ out, Patches p) {
    constexpr int CHANNELS = 8;
    int pixel = blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * CHANNELS;
    if (pixel >= p.pixels) return;
    int at = p.first + pixel, line = at / p.out_width * p.stride - p.padding, column = at % p.out_width * p.stride - p.padding;
    size_t area = (size_t)p.height * p.width, rows = (size_t)p.kernel_height * p.kernel_width * p.row;
    x += (blockIdx.z * (size_t)p.channels + first) * area;
    out += (blockIdx.z * (size_t)p.channels + first) * rows + pixel;
    for (int y = line; y < line + p.kernel_height; y++) {
        for (int v = column; v < column + p.kernel_width; v++, out += p.row) {
            bool inside = y >= 0 && v >= 0 && y < p.height * p.scale && v < p.width * p.scale;
            // The scale is one or two.
            const float *from = x + (inside ? (y >> (p.scale - 1)) * p.width + (v >> (p.scale - 1)) : 0);
#pragma unroll
            for (int c = 0; c < CHANNELS; c++) {
                if (first + c < p.channels) out[c * rows] = factor<T>(inside ? from[c * area] : 0.f);
            }
        }
    }
}

extern "C" __global__ void columns_f16(const float *x, __half *out, Patches p) { columns_to(x, out, p); }
extern "C" __global__ void columns_bf16(const float *x, __nv_bfloat16 *out, Patches p) { columns_to(x, out, p); }
extern "C" __global__ void columns_f32(const float *x, float *out, Patches p) { columns_to(x, out, p); }

// Does it for each four numbers of so many, where all begin at aligned places and no four are parted, else for each.
template <typename Four, typename One> __device__ __forceinline__ void for_each(size_t count, bool in_fours, Four four, One one) {
    size_t first = (size_t)blockIdx.x * blockDim.x + threadIdx.x, step = (size_t)gridDim.x * blockDim.x;
    if (in_fours) {
        for (size_t i = first * 4; i < count; i += step * 4) four(i);
    } else {
        for (size_t i = first; i < count; i += step) one(i);
    }
}
__device__ __forceinline__ bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }
__device__ __forceinline__ float4 four_at(const float *x) { return *reinterpret_cast<const float4 *>(x); }
__device__ __forceinline__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// What a matrix product is added to: each row of `out (rows, columns)` becomes the bias plus residual, each of which may be missing.
extern "C" __global__ void row_sums(float *out, const float *bias, const float *residual, unsigned columns, unsigned count) {
    for_each(
        count, columns % 4 == 0 && aligned(bias) && aligned(residual),
        [&](size_t i) {
            float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
            if (bias) sum = four_at(bias + (unsigned)i % columns);
            if (residual) sum = sum + four_at(residual + i);
            *reinterpret_cast<float4 *>(out + i) = sum;
        },
        [&](size_t i) { out[i] = (bias ? bias[(unsigned)i % columns] : 0.f) + (residual ? residual[i] : 0.f); });
}

extern "C" __global__ void add(const float *a, const float *b, float *out, size_t count) {
    for_each(
        count, count % 4 == 0 && aligned(a) && aligned(b), [&](size_t i) { *reinterpret_cast<float4 *>(out + i) = four_at(a + i) + four_at(b + i); },
        [&](size_t i) { out[i] = a[i] + b[i]; });
}

// What a convolution is added to: `out (batch, channels, pixels)`, a plane for each `blockIdx.y`, becomes bias (by channel), per_image (by
// batch and channel) and residual, each of which may be missing.
extern "C" __global__ void sums(float *out, const float *bias, const float *per_image, const float *residual, unsigned channels, unsigned pixels) {
    float level = (bias ? bias[blockIdx.y % channels] : 0.f) + (per_image ? per_image[blockIdx.y] : 0.f);
    out += (size_t)blockIdx.y * pixels;
    if (residual) residual += (size_t)blockIdx.y * pixels;
    for_each(
        pixels, pixels % 4 == 0 && aligned(residual),
        [&](size_t i) {
            float4 sum = make_float4(level, level, level, level);
            if (residual) sum = sum + four_at(residual + i);
            *reinterpret_cast<float4 *>(out + i) = sum;
        },
        [&](size_t i) { out[i] = level + (residual ? residual[i] : 0.f); });
}

// The sums of a warp's threads, in all of them.
template <typename T> __device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) {
        v.x += __shfl_xor_sync(~0u, v.x, offset);
        v.y += __shfl_xor_sync(~0u, v.y, offset);
    }
    return v;
}

// The sums of some numbers' distances to the first of all, which keeps them exact where all are large, and of their squares, in a thread.
__device__ __forceinline__ float2 distances(const float *x, unsigned first, unsigned count, unsigned step) {
    float from = x[0];
    float2 v = make_float2(0.f, 0.f);
#pragma unroll 4
    for (unsigned i = first; i < count; i += step) {
        float distance = x[i] - from;
        v.x += distance;
        v.y += distance * distance;
    }
    return v;
}

// Group normalisation in two passes. First: sums of the distances to the group's first number, and of their squares, of each of `gridDim.x`
// parts of a group (`blockIdx.y`), into `partial (groups, parts)`.
extern "C" __global__ void group_sums(const float *x, float2 *partial, unsigned size) {
    __shared__ float2 of_warps[32];
    float2 v = warp_sum(distances(x + (size_t)blockIdx.y * size, blockIdx.x * blockDim.x + threadIdx.x, size, gridDim.x * blockDim.x));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    v = warp_sum(threadIdx.x < blockDim.x / 32 ? of_warps[threadIdx.x] : make_float2(0.f, 0.f));
    if (threadIdx.x == 0) partial[(size_t)blockIdx.y * gridDim.x + blockIdx.x] = v;
}

// Second: the numbers normalised, scaled and shifted by channel, and put through SiLU if that is wanted.
extern "C" __global__ void group_apply(const float *x, const float2 *partial, const float *weight, const float *bias, float *out, unsigned size, unsigned pixels, int groups,
                                       int channels, int parts, float eps, int silu) {
    __shared__ float mean_and_scale[2];
    x += (size_t)blockIdx.y * size;
    out += (size_t)blockIdx.y * size;
    if (threadIdx.x < 32) {
        double2 v = make_double2(0, 0);
        for (int i = threadIdx.x; i < parts; i += 32) {
            float2 part = partial[(size_t)blockIdx.y * parts + i];
            v.x += part.x;
            v.y += part.y;
        }
        v = warp_sum(v);
        double mean = v.x / size, variance = v.y / size - mean * mean;
        if (threadIdx.x == 0) {
            mean_and_scale[0] = (float)(x[0] + mean);
            mean_and_scale[1] = (float)(1.0 / sqrt((variance > 0 ? variance : 0) + eps));
        }
    }
    __syncthreads();
    float mean = mean_and_scale[0], scale = mean_and_scale[1];
    int first = blockIdx.y % groups * (channels / groups);
    auto apply = [&](float x, float weight, float bias) {
        float value = (x - mean) * scale * weight + bias;
        return silu ? value / (1.f + expf(-value)) : value;
    };
    for_each(
        size, pixels % 4 == 0 && aligned(x),
        [&](size_t i) {
            unsigned channel = first + (unsigned)i / pixels;
            float4 four = four_at(x + i);
            float w = weight[channel], b = bias[channel];
            *reinterpret_cast<float4 *>(out + i) = make_float4(apply(four.x, w, b), apply(four.y, w, b), apply(four.z, w, b), apply(four.w, w, b));
        },
        [&](size_t i) {
            unsigned channel = first + (unsigned)i / pixels;
            out[i] = apply(x[i], weight[channel], bias[channel]);
        });
}

// What a product takes next is written as it takes it as well: `rounded`, if it is there, here and below.

// Layer normalisation of rows, a warp each.
extern "C" __global__ void layer_norm(const float *x, const float *weight, const float *bias, float *out, __half *rounded, unsigned rows, unsigned columns, float eps) {
    unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    size_t start = (size_t)row * columns;
    x += start;
    float2 v = warp_sum(distances(x, lane, columns, 32));
    float mean = v.x / columns, scale = rsqrtf(fmaxf(v.y / columns - mean * mean, 0.f) + eps);
    mean += x[0];
#pragma unroll 4
    for (unsigned i = lane; i < columns; i += 32) {
        float value = (x[i] - mean) * scale * weight[i] + bias[i];
        out[start + i] = value;
        if (rounded) rounded[start + i] = factor<__half>(value);
    }
}

// Rows of scores become weights that add up to one, in place; a block each.
extern "C" __global__ void softmax(float *scores, unsigned columns, float scale) {
    __shared__ float2 of_warps[32];
    scores += (size_t)blockIdx.x * columns;
    // The largest score so far, and the sum of the weights against it.
    auto joined = [](float2 a, float2 b) {
        float most = fmaxf(a.x, b.x);
        return most == -INFINITY ? a : make_float2(most, a.y * expf(a.x - most) + b.y * expf(b.x - most));
    };
    float2 v = make_float2(-INFINITY, 0.f);
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) v = joined(v, make_float2(scores[i] * scale, 1.f));
    for (int of_block = 0; of_block < 2; of_block++) {
        for (int offset = 16; offset; offset >>= 1) v = joined(v, make_float2(__shfl_xor_sync(~0u, v.x, offset), __shfl_xor_sync(~0u, v.y, offset)));
        if (of_block) break;
        if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = v;
        __syncthreads();
        v = threadIdx.x % 32 < blockDim.x / 32 ? of_warps[threadIdx.x % 32] : make_float2(-INFINITY, 0.f);
    }
    float share = 1.f / v.y;
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) scores[i] = expf(scores[i] * scale - v.x) * share;
}

// `(rows, 2 * columns) -> (rows, columns)`: the first half times the exact GELU of the second. The bias, of `2 * columns`, may be missing, and
// so may `out`.
extern "C" __global__ void geglu(const float *x, const float *bias, float *out, __half *rounded, unsigned columns, unsigned count) {
    auto gated = [](float value, float gate) { return value * 0.5f * gate * (1.f + erff(gate * 0.70710678f)); };
    for_each(
        count, columns % 4 == 0 && aligned(x) && aligned(bias),
        [&](size_t i) {
            unsigned row = (unsigned)i / columns, column = (unsigned)i % columns;
            const float *both = x + (size_t)row * 2 * columns + column;
            float4 value = four_at(both), gate = four_at(both + columns);
            if (bias) {
                value = value + four_at(bias + column);
                gate = gate + four_at(bias + columns + column);
            }
            float four[4] = {gated(value.x, gate.x), gated(value.y, gate.y), gated(value.z, gate.z), gated(value.w, gate.w)};
            if (out) store<float>(out + i, four);
            if (rounded) store<__half>(rounded + i, four);
        },
        [&](size_t i) {
            unsigned row = (unsigned)i / columns, column = (unsigned)i % columns;
            const float *both = x + (size_t)row * 2 * columns + column;
            float value = gated(both[0] + (bias ? bias[column] : 0.f), both[columns] + (bias ? bias[columns + column] : 0.f));
            if (out) out[i] = value;
            if (rounded) rounded[i] = factor<__half>(value);
        });
}

// Attention without a matrix of scores (online softmax), on the tensor cores. `q (B, N, heads * D)`, `k` and `v (B, M, heads * D)` are
// half precision, `out (B, N, heads * D)` is single precision. A block of warps takes queries of one head, a warp one or two sixteens of
// them: what it reads of a tile of keys serves both. Keys come in tiles of 64, the next of which is on its way while one is worked on, if
// there is room for two. `mask`, if there, is added to the scores; its rows are whole, and strides of axes that serve for all are 0. Exponents
// are of two: `scale` has the logarithm of e in it.
#define LOG2_E 1.44269504f

struct Mask {
    const float *values;
    long long batch, head, query;
};

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}
__device__ __forceinline__ void product(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Weights lie between zero and one, and what they weigh was half precision before.
__device__ __forceinline__ uint32_t pair(float low, float high) {
    __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&both);
}
// Sixteen bytes on their way into shared memory; zeros where there are none.
__device__ __forceinline__ void fetch(void *to, const void *from, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(is_there ? 16 : 0));
}
__device__ __forceinline__ void end_of_tile() { asm volatile("cp.async.commit_group;"); }
template <int LATER> __device__ __forceinline__ void await_tiles() { asm volatile("cp.async.wait_group %0;" ::"n"(LATER)); }

// Rows of `from`, of `stride` numbers each of which `width` count, into a tile of 64 rows of `D` numbers, zeros beyond `rows`. Places are
// counted in 32 bits and in the same steps for every tile, so that little has to be reckoned again.
template <int D> __device__ __forceinline__ void load_tile(__half (*tile)[D + 8], const __half *from, unsigned stride, unsigned width, int rows) {
#pragma unroll
    for (unsigned j = 0; j < 64 * (D / 8) / 128; j++) {
        unsigned i = threadIdx.x + j * 128, row = i / (D / 8), column = i % (D / 8) * 8;
        bool is_there = (int)row < rows && column < width;
        fetch(&tile[row][column], is_there ? from + (row * stride + column) : from, is_there);
    }
}

// `D`: the width of a head, `width`, rounded up to sixteens; `width` is a multiple of eight. A block of four warps takes `TALL` times
// 64 queries, a warp sixteen of each 64.
template <int D, int TALL>
__device__ __forceinline__ void attend(const __half *q, const __half *k, const __half *v, float *out, __half *rounded, int queries, int keys, int heads, int width, float scale, Mask mask) {
    constexpr int TILES = D <= 80 ? 2 : 1;
    __shared__ __align__(16) __half tile_k[TILES][64][D + 8], tile_v[TILES][64][D + 8];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int head = blockIdx.y % heads, batch = blockIdx.y / heads;
    size_t stride = (size_t)heads * width;
    q += (size_t)batch * queries * stride + (size_t)head * width;
    k += (size_t)batch * keys * stride + (size_t)head * width;
    v += (size_t)batch * keys * stride + (size_t)head * width;
    size_t to = (size_t)batch * queries * stride + (size_t)head * width;
    int first = blockIdx.x * 64 * TALL;
    q += (size_t)first * stride;

    // The queries stay in registers.
    uint32_t query[TALL][D / 16][4];
#pragma unroll
    for (int t = 0; t < TALL; t++) {
        load_tile<D>(tile_k[0], q + (size_t)t * 64 * stride, stride, width, queries - first - t * 64);
        end_of_tile();
        await_tiles<0>();
        __syncthreads();
#pragma unroll
        for (int d = 0; d < D / 16; d++) load_matrices(query[t][d], shared_address(&tile_k[0][warp * 16 + lane % 16][d * 16 + lane / 16 * 8]));
        __syncthreads();
    }

    float sum[TALL][D / 8][4] = {};
    float largest[TALL][2], weights[TALL][2] = {};
    const float *mask_rows[TALL][2] = {};
    int row = first + warp * 16 + lane / 4;
    // Scores are scaled last.
    float of_mask = LOG2_E / scale;
#pragma unroll
    for (int t = 0; t < TALL; t++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            largest[t][half] = -INFINITY;
            int at = min(row + t * 64 + half * 8, queries - 1);
            if (mask.values) mask_rows[t][half] = mask.values + batch * mask.batch + head * mask.head + at * mask.query;
        }
    }
    auto load_keys = [&](int tile, int start) {
        load_tile<D>(tile_k[tile], k + (size_t)start * stride, stride, width, keys - start);
        load_tile<D>(tile_v[tile], v + (size_t)start * stride, stride, width, keys - start);
        end_of_tile();
    };
    if (TILES == 2) load_keys(0, 0);
    for (int start = 0, at = 0; start < keys; start += 64) {
        if (TILES == 1) {
            __syncthreads();
            load_keys(0, start);
        }
        await_tiles<0>();
        // All have also done with the tile before, into whose place the next one goes.
        __syncthreads();
        if (TILES == 2 && start + 64 < keys) load_keys(at ^ 1, start + 64);

        float score[TALL][8][4] = {};
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t part[4];
                load_matrices(part, shared_address(&tile_k[at][n * 16 + lane / 16 * 8 + lane % 8][d * 16 + lane / 8 % 2 * 8]));
#pragma unroll
                for (int t = 0; t < TALL; t++) {
                    product(score[t][2 * n], query[t][d], part[0], part[1]);
                    product(score[t][2 * n + 1], query[t][d], part[2], part[3]);
                }
            }
        }
        uint32_t weight[TALL][4][4];
#pragma unroll
        for (int t = 0; t < TALL; t++) {
            if (mask.values || start + 64 > keys) {
#pragma unroll
                for (int n = 0; n < 8; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int key = start + n * 8 + lane % 4 * 2 + i % 2;
                        if (key >= keys) score[t][n][i] = -INFINITY;
                        else if (mask.values) score[t][n][i] += mask_rows[t][i / 2][key] * of_mask;
                    }
                }
            }
            float base[2], shrink[2];
            bool grows = false;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float now = largest[t][half];
#pragma unroll
                for (int n = 0; n < 8; n++) now = fmaxf(now, fmaxf(score[t][n][half * 2], score[t][n][half * 2 + 1]));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
                // All masked so far: nothing to scale, and nothing to add.
                base[half] = now == -INFINITY ? 0.f : now * scale;
                shrink[half] = power_of_two(largest[t][half] * scale - base[half]);
                grows |= now > largest[t][half];
                largest[t][half] = now;
            }
            // After some tiles the largest has mostly been seen.
            if (__any_sync(~0u, grows)) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    weights[t][half] *= shrink[half];
#pragma unroll
                    for (int d = 0; d < D / 8; d++) {
                        sum[t][d][half * 2] *= shrink[half];
                        sum[t][d][half * 2 + 1] *= shrink[half];
                    }
                }
            }
#pragma unroll
            for (int n = 0; n < 8; n++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float low = power_of_two(score[t][n][half * 2] * scale - base[half]);
                    float high = power_of_two(score[t][n][half * 2 + 1] * scale - base[half]);
                    weights[t][half] += low + high;
                    weight[t][n / 2][n % 2 * 2 + half] = pair(low, high);
                }
            }
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
            for (int d = 0; d < D / 16; d++) {
                uint32_t part[4];
                load_matrices_transposed(part, shared_address(&tile_v[at][n * 16 + lane % 16][d * 16 + lane / 16 * 8]));
#pragma unroll
                for (int t = 0; t < TALL; t++) {
                    product(sum[t][2 * d], weight[t][n], part[0], part[1]);
                    product(sum[t][2 * d + 1], weight[t][n], part[2], part[3]);
                }
            }
        }
        at ^= TILES - 1;
    }
#pragma unroll
    for (int t = 0; t < TALL; t++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float whole = weights[t][half];
            whole += __shfl_xor_sync(~0u, whole, 1);
            whole += __shfl_xor_sync(~0u, whole, 2);
            int at = row + t * 64 + half * 8;
            if (at >= queries) continue;
            // No key at all gives what a softmax of nothing but minus infinities gives.
            float share = 1.f / whole;
#pragma unroll
            for (int d = 0; d < D / 8; d++) {
                int column = d * 8 + lane % 4 * 2;
                if (column < width) {
                    float2 both = make_float2(sum[t][d][half * 2] * share, sum[t][d][half * 2 + 1] * share);
                    size_t place = to + (size_t)at * stride + column;
                    *reinterpret_cast<float2 *>(out + place) = both;
                    if (rounded) *reinterpret_cast<uint32_t *>(rounded + place) = pair(both.x, both.y);
                }
            }
        }
    }
}

#define ATTENTION(D, TALL)                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(128) attention_##D(const __half *q, const __half *k, const __half *v, float *out, __half *rounded, int queries, \
                                                                    int keys, int heads, int width, float scale, Mask mask) {                \
        attend<D, TALL>(q, k, v, out, rounded, queries, keys, heads, width, scale, mask);                                                              \
    }

ATTENTION(32, 2)
ATTENTION(48, 2)
ATTENTION(64, 2)
ATTENTION(80, 2)
ATTENTION(128, 1)
ATTENTION(160, 1)
