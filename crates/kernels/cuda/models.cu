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
// `first`; a thread makes four. `scale` is 2 where the convolution is of the picture with each pixel twice along both axes.
struct Patches {
    int channels, height, width, kernel_height, kernel_width, stride, padding, scale, out_width, first, pixels;
};

template <typename T> __device__ void columns_to(const float *x, T *out, Patches p) {
    unsigned pixel = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (pixel >= p.pixels) return;
    unsigned row = blockIdx.y, of_kernel = row % (p.kernel_height * p.kernel_width), channel = row / (p.kernel_height * p.kernel_width);
    int down = (int)(of_kernel / p.kernel_width) - p.padding, right = (int)(of_kernel % p.kernel_width) - p.padding;
    unsigned at = p.first + pixel;
    int line = at / p.out_width, column = at % p.out_width;
    x += ((size_t)blockIdx.z * p.channels + channel) * p.height * p.width;
    out += ((size_t)blockIdx.z * gridDim.y + row) * p.pixels + pixel;
    float four[4];
    for (int i = 0; i < 4; i++) {
        int y = line * p.stride + down, v = column * p.stride + right;
        bool inside = y >= 0 && v >= 0 && y < p.height * p.scale && v < p.width * p.scale;
        // The scale is one or two.
        four[i] = inside ? x[(y >> (p.scale - 1)) * p.width + (v >> (p.scale - 1))] : 0.f;
        if (++column == p.out_width) {
            column = 0;
            line++;
        }
    }
    if (p.pixels % 4 == 0) store<T>(out, four);
    else for (int i = 0; i < 4 && pixel + i < p.pixels; i++) out[i] = factor<T>(four[i]);
}

extern "C" __global__ void columns_f16(const float *x, __half *out, Patches p) { columns_to(x, out, p); }
extern "C" __global__ void columns_bf16(const float *x, __nv_bfloat16 *out, Patches p) { columns_to(x, out, p); }
extern "C" __global__ void columns_f32(const float *x, float *out, Patches p) { columns_to(x, out, p); }

// What a matrix product is added to: each row of `out (rows, columns)` becomes the bias.
extern "C" __global__ void bias_rows(float *out, const float *bias, unsigned columns, unsigned count) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) out[i] = bias[i % columns];
}

// What a convolution is added to: `out (batch, channels, pixels)`, a plane for each `blockIdx.y`, becomes bias (by channel), per_image (by
// batch and channel) and residual, each of which may be missing.
extern "C" __global__ void sums(float *out, const float *bias, const float *per_image, const float *residual, unsigned channels, unsigned pixels) {
    float level = (bias ? bias[blockIdx.y % channels] : 0.f) + (per_image ? per_image[blockIdx.y] : 0.f);
    size_t start = (size_t)blockIdx.y * pixels;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) {
        out[start + i] = level + (residual ? residual[start + i] : 0.f);
    }
}

// The sums of a block's threads, in the first one.
__device__ __forceinline__ float2 block_sum(float2 v) {
    __shared__ float2 of_warps[32];
    for (int offset = 16; offset; offset >>= 1) {
        v.x += __shfl_down_sync(~0u, v.x, offset);
        v.y += __shfl_down_sync(~0u, v.y, offset);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = threadIdx.x < blockDim.x / 32 ? of_warps[threadIdx.x] : make_float2(0.f, 0.f);
        for (int offset = 16; offset; offset >>= 1) {
            v.x += __shfl_down_sync(~0u, v.x, offset);
            v.y += __shfl_down_sync(~0u, v.y, offset);
        }
    }
    return v;
}

// The sums of some numbers' distances to the first of all, which keeps them exact where all are large, and of their squares, in a block's first thread.
__device__ __forceinline__ float2 distances(const float *x, unsigned first, unsigned count, unsigned step) {
    float from = x[0];
    float2 v = make_float2(0.f, 0.f);
    for (unsigned i = first; i < count; i += step) {
        float distance = x[i] - from;
        v.x += distance;
        v.y += distance * distance;
    }
    return block_sum(v);
}

// Group normalisation in two passes. First: sums of the distances to the group's first number, and of their squares, of each of `gridDim.x`
// parts of a group (`blockIdx.y`), into `partial (groups, parts)`.
extern "C" __global__ void group_sums(const float *x, float2 *partial, unsigned size) {
    float2 v = distances(x + (size_t)blockIdx.y * size, blockIdx.x * blockDim.x + threadIdx.x, size, gridDim.x * blockDim.x);
    if (threadIdx.x == 0) partial[(size_t)blockIdx.y * gridDim.x + blockIdx.x] = v;
}

// Second: the numbers normalised, scaled and shifted by channel, and put through SiLU if that is wanted.
extern "C" __global__ void group_apply(const float *x, const float2 *partial, const float *weight, const float *bias, float *out, unsigned size, unsigned pixels, int groups,
                                       int channels, int parts, float eps, int silu) {
    __shared__ float mean_and_scale[2];
    size_t start = (size_t)blockIdx.y * size;
    if (threadIdx.x == 0) {
        double sum = 0, squares = 0;
        for (int i = 0; i < parts; i++) {
            float2 part = partial[(size_t)blockIdx.y * parts + i];
            sum += part.x;
            squares += part.y;
        }
        double mean = sum / size, variance = squares / size - mean * mean;
        mean_and_scale[0] = (float)(x[start] + mean);
        mean_and_scale[1] = (float)(1.0 / sqrt((variance > 0 ? variance : 0) + eps));
    }
    __syncthreads();
    float mean = mean_and_scale[0], scale = mean_and_scale[1];
    int first = blockIdx.y % groups * (channels / groups);
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
        unsigned channel = first + i / pixels;
        float value = (x[start + i] - mean) * scale * weight[channel] + bias[channel];
        out[start + i] = silu ? value / (1.f + expf(-value)) : value;
    }
}

// What a product takes next is written as it takes it as well: `rounded`, if it is there, here and below.

// Layer normalisation of rows, a block each.
extern "C" __global__ void layer_norm(const float *x, const float *weight, const float *bias, float *out, __half *rounded, int columns, float eps) {
    __shared__ float mean_and_scale[2];
    size_t start = (size_t)blockIdx.x * columns;
    const float *row = x + start;
    float2 v = distances(row, threadIdx.x, columns, blockDim.x);
    if (threadIdx.x == 0) {
        float mean = v.x / columns;
        mean_and_scale[0] = row[0] + mean;
        mean_and_scale[1] = rsqrtf(fmaxf(v.y / columns - mean * mean, 0.f) + eps);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        float value = (row[i] - mean_and_scale[0]) * mean_and_scale[1] * weight[i] + bias[i];
        out[start + i] = value;
        if (rounded) rounded[start + i] = factor<__half>(value);
    }
}

// `(rows, 2 * columns) -> (rows, columns)`: the first half times the exact GELU of the second.
extern "C" __global__ void geglu(const float *x, float *out, __half *rounded, unsigned columns, unsigned count) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        unsigned row = i / columns, column = i % columns;
        const float *both = x + (size_t)row * 2 * columns;
        float gate = both[columns + column];
        float value = both[column] * 0.5f * gate * (1.f + erff(gate * 0.70710678f));
        out[i] = value;
        if (rounded) rounded[i] = factor<__half>(value);
    }
}

// Tokens as planes: `x (batch, rows, columns) -> (batch, columns, rows)`, plus `residual` of the result's shape. Tiles of 32 by 32, blocks of
// 32 by 8 threads.
extern "C" __global__ void planes(const float *x, const float *residual, float *out, int rows, int columns) {
    __shared__ float tile[32][33];
    size_t start = (size_t)blockIdx.z * rows * columns;
    int column = blockIdx.x * 32 + threadIdx.x;
    for (int i = threadIdx.y; i < 32; i += 8) {
        int row = blockIdx.y * 32 + i;
        if (row < rows && column < columns) tile[i][threadIdx.x] = x[start + (size_t)row * columns + column];
    }
    __syncthreads();
    int row = blockIdx.y * 32 + threadIdx.x;
    for (int i = threadIdx.y; i < 32; i += 8) {
        column = blockIdx.x * 32 + i;
        if (row < rows && column < columns) {
            size_t at = start + (size_t)column * rows + row;
            out[at] = tile[threadIdx.x][i] + residual[at];
        }
    }
}

// Attention without a matrix of scores (online softmax), on the tensor cores. `q (B, N, heads * D)`, `k` and `v (B, M, heads * D)` are
// half precision, `out (B, N, heads * D)` is single precision. A block of four warps takes 64 queries of one head, a warp sixteen; keys come
// in tiles of 64, the next of which is on its way while one is worked on, if there is room for two. `mask`, if there, is added to the scores;
// its rows are whole, and strides of axes that serve for all are 0. Exponents are of two: `scale` has the logarithm of e in it.
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

// Rows `first ..` of `from`, of `stride` numbers each of which `width` count, into a tile of 64 rows of `D` numbers, zeros beyond.
template <int D> __device__ __forceinline__ void load_tile(__half (*tile)[D + 8], const __half *from, size_t stride, int width, int first, int rows) {
    for (int i = threadIdx.x; i < 64 * (D / 8); i += 128) {
        int row = i / (D / 8), column = i % (D / 8) * 8;
        bool is_there = first + row < rows && column < width;
        fetch(&tile[row][column], is_there ? from + (size_t)(first + row) * stride + column : from, is_there);
    }
}

// `D`: the width of a head, `width`, rounded up to sixteens; `width` is a multiple of eight.
template <int D>
__device__ void attend(const __half *q, const __half *k, const __half *v, float *out, __half *rounded, int queries, int keys, int heads, int width, float scale, Mask mask) {
    constexpr int TILES = D <= 80 ? 2 : 1;
    __shared__ __align__(16) __half tile_k[TILES][64][D + 8], tile_v[TILES][64][D + 8];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int head = blockIdx.y % heads, batch = blockIdx.y / heads;
    size_t stride = (size_t)heads * width;
    q += (size_t)batch * queries * stride + (size_t)head * width;
    k += (size_t)batch * keys * stride + (size_t)head * width;
    v += (size_t)batch * keys * stride + (size_t)head * width;
    size_t to = (size_t)batch * queries * stride + (size_t)head * width;
    int first = blockIdx.x * 64;

    // The queries stay in registers.
    load_tile<D>(tile_k[0], q, stride, width, first, queries);
    end_of_tile();
    await_tiles<0>();
    __syncthreads();
    uint32_t query[D / 16][4];
#pragma unroll
    for (int d = 0; d < D / 16; d++) load_matrices(query[d], shared_address(&tile_k[0][warp * 16 + lane % 16][d * 16 + lane / 16 * 8]));
    __syncthreads();

    float sum[D / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, weights[2] = {0.f, 0.f};
    int row = first + warp * 16 + lane / 4;
    const float *mask_rows[2] = {nullptr, nullptr};
    // Scores are scaled last.
    float of_mask = LOG2_E / scale;
    if (mask.values) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int at = min(row + half * 8, queries - 1);
            mask_rows[half] = mask.values + batch * mask.batch + head * mask.head + at * mask.query;
        }
    }
    if (TILES == 2) {
        load_tile<D>(tile_k[0], k, stride, width, 0, keys);
        load_tile<D>(tile_v[0], v, stride, width, 0, keys);
        end_of_tile();
    }
    for (int start = 0, at = 0; start < keys; start += 64) {
        if (TILES == 2) {
            if (start + 64 < keys) {
                load_tile<D>(tile_k[at ^ 1], k, stride, width, start + 64, keys);
                load_tile<D>(tile_v[at ^ 1], v, stride, width, start + 64, keys);
            }
            end_of_tile();
            await_tiles<1>();
        } else {
            load_tile<D>(tile_k[0], k, stride, width, start, keys);
            load_tile<D>(tile_v[0], v, stride, width, start, keys);
            end_of_tile();
            await_tiles<0>();
        }
        __syncthreads();

        float score[8][4] = {};
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t part[4];
                load_matrices(part, shared_address(&tile_k[at][n * 16 + lane / 16 * 8 + lane % 8][d * 16 + lane / 8 % 2 * 8]));
                product(score[2 * n], query[d], part[0], part[1]);
                product(score[2 * n + 1], query[d], part[2], part[3]);
            }
        }
        if (mask.values || start + 64 > keys) {
#pragma unroll
            for (int n = 0; n < 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int key = start + n * 8 + lane % 4 * 2 + i % 2;
                    if (key >= keys) score[n][i] = -INFINITY;
                    else if (mask.values) score[n][i] += mask_rows[i / 2][key] * of_mask;
                }
            }
        }
        float now[2] = {largest[0], largest[1]};
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) now[i / 2] = fmaxf(now[i / 2], score[n][i]);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            now[half] = fmaxf(now[half], __shfl_xor_sync(~0u, now[half], 1));
            now[half] = fmaxf(now[half], __shfl_xor_sync(~0u, now[half], 2));
            // All masked so far: nothing to scale, and nothing to add.
            float base = now[half] == -INFINITY ? 0.f : now[half] * scale;
            float shrink = power_of_two(largest[half] * scale - base);
            largest[half] = now[half];
            weights[half] *= shrink;
#pragma unroll
            for (int d = 0; d < D / 8; d++) {
                sum[d][half * 2] *= shrink;
                sum[d][half * 2 + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float weight = power_of_two(score[n][half * 2 + i] * scale - base);
                    score[n][half * 2 + i] = weight;
                    weights[half] += weight;
                }
            }
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
            uint32_t weight[4] = {pair(score[2 * n][0], score[2 * n][1]), pair(score[2 * n][2], score[2 * n][3]),
                                  pair(score[2 * n + 1][0], score[2 * n + 1][1]), pair(score[2 * n + 1][2], score[2 * n + 1][3])};
#pragma unroll
            for (int d = 0; d < D / 16; d++) {
                uint32_t part[4];
                load_matrices_transposed(part, shared_address(&tile_v[at][n * 16 + lane % 16][d * 16 + lane / 16 * 8]));
                product(sum[2 * d], weight, part[0], part[1]);
                product(sum[2 * d + 1], weight, part[2], part[3]);
            }
        }
        __syncthreads();
        at ^= TILES - 1;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        weights[half] += __shfl_xor_sync(~0u, weights[half], 1);
        weights[half] += __shfl_xor_sync(~0u, weights[half], 2);
        int at = row + half * 8;
        if (at >= queries) continue;
        // No key at all gives what a softmax of nothing but minus infinities gives.
        float share = 1.f / weights[half];
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            int column = d * 8 + lane % 4 * 2;
            if (column < width) {
                float2 both = make_float2(sum[d][half * 2] * share, sum[d][half * 2 + 1] * share);
                size_t place = to + (size_t)at * stride + column;
                *reinterpret_cast<float2 *>(out + place) = both;
                if (rounded) *reinterpret_cast<uint32_t *>(rounded + place) = pair(both.x, both.y);
            }
        }
    }
}

#define ATTENTION(D)                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(128) attention_##D(const __half *q, const __half *k, const __half *v, float *out, __half *rounded, int queries, \
                                                                    int keys, int heads, int width, float scale, Mask mask) {                \
        attend<D>(q, k, v, out, rounded, queries, keys, heads, width, scale, mask);                                                                    \
    }

ATTENTION(32)
ATTENTION(48)
ATTENTION(64)
ATTENTION(80)
ATTENTION(128)
ATTENTION(160)
