/* Matrix products C = A * B' with A of m rows and B of n rows, each row k elements side by side, on each unit that a GPU
 * has for them: plain fp32, and the matrix units for fp64, bf16, int8 and fp8. All operands are small whole numbers, so
 * that every sum is exact in whatever order it is taken. Layouts of fragments: PTX ISA, "Matrix multiply-accumulate". */

#define TILE_M 128
#define TILE_N 256
#define TILE_BYTES 128 /* of a row, in one step */
#define STEP_BYTES ((TILE_M + TILE_N) * TILE_BYTES)
#define BAND 16 /* tiles of A that are worked on together, so that B comes out of the cache */

extern __shared__ __align__(1024) u8 tiles[];

__device__ __forceinline__ u32 shared_address(const void *at) { return (u32)__cvta_generic_to_shared(at); }

/* Adding zero makes a negative zero a positive one, which is how the checks expect it in memory. */
__device__ __forceinline__ float stored(float value) { return value + 0.0f; }
__device__ __forceinline__ double stored(double value) { return value + 0.0; }
__device__ __forceinline__ int stored(int value) { return value; }

/* The planted fault: compiled in for the tests alone (-DPLANTED_FAULT). One result of each product is off by one. */
template <class Value> __device__ __forceinline__ Value result(Value value, u32 row, u32 column)
{
#ifdef PLANTED_FAULT
    if (row == 77 && column == 131)
        return stored(value) + (Value)1;
#endif
    return stored(value);
}

__device__ __forceinline__ void tile_of(u32 tile, u32 tiles_m, u32 tiles_n, u32 *row, u32 *column)
{
    const u32 band = tile / (BAND * tiles_n), inside = tile % (BAND * tiles_n);
    const u32 height = min((u32)BAND, tiles_m - band * BAND);
    *row = band * BAND + inside % height;
    *column = inside / height;
}

/* --- fp32, without matrix units: 128 x 128 a block of 256 threads, 8 x 8 a thread -------------------------------- */

extern "C" __global__ void __launch_bounds__(256, 2) gemm_fp32(const float *a, const float *b, float *c, u32 m, u32 n, u32 k)
{
    __shared__ __align__(16) float as[2][8][132], bs[2][8][132]; /* four are read at a time */
    u32 tile_row, tile_column;
    tile_of(blockIdx.x, m / 128, n / 128, &tile_row, &tile_column);
    const u32 thread = threadIdx.x, tx = thread & 15, ty = thread >> 4;
    const u32 line = thread >> 1, part = (thread & 1) * 4;
    const float *from_a = a + (u64)(tile_row * 128 + line) * k + part;
    const float *from_b = b + (u64)(tile_column * 128 + line) * k + part;
    float sum[8][8] = {};
    float4 next_a = *(const float4 *)from_a, next_b = *(const float4 *)from_b;
    for (u32 at = 0, side = 0; at < k; at += 8, side ^= 1) {
        const float ra[4] = {next_a.x, next_a.y, next_a.z, next_a.w}, rb[4] = {next_b.x, next_b.y, next_b.z, next_b.w};
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            as[side][part + i][line] = ra[i];
            bs[side][part + i][line] = rb[i];
        }
        __syncthreads();
        if (at + 8 < k) {
            next_a = *(const float4 *)(from_a + at + 8);
            next_b = *(const float4 *)(from_b + at + 8);
        }
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            __align__(16) float va[8], vb[8];
            *(float4 *)va = *(const float4 *)&as[side][i][ty * 4];
            *(float4 *)(va + 4) = *(const float4 *)&as[side][i][64 + ty * 4];
            *(float4 *)vb = *(const float4 *)&bs[side][i][tx * 4];
            *(float4 *)(vb + 4) = *(const float4 *)&bs[side][i][64 + tx * 4];
#pragma unroll
            for (u32 y = 0; y < 8; ++y)
#pragma unroll
                for (u32 x = 0; x < 8; ++x)
                    sum[y][x] = fmaf(va[y], vb[x], sum[y][x]);
        }
    }
#pragma unroll
    for (u32 y = 0; y < 8; ++y)
#pragma unroll
        for (u32 x = 0; x < 8; ++x) {
            const u32 row = tile_row * 128 + (y & 4) * 16 + ty * 4 + (y & 3);
            const u32 column = tile_column * 128 + (x & 4) * 16 + tx * 4 + (x & 3);
            c[(u64)row * n + column] = result(sum[y][x], row, column);
        }
}

__device__ __forceinline__ void copy_later(u32 to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

/* --- fp64: 64 x 64 a block of four warps, 32 x 32 a warp, in steps of 16 ------------------------------------------ */

#define LINE_F64 20 /* doubles: 16, and room so that the eight rows of a fragment lie in banks of their own */

extern "C" __global__ void __launch_bounds__(128) gemm_fp64(const double *a, const double *b, double *c, u32 m, u32 n, u32 k)
{
    __shared__ __align__(16) double as[2][64][LINE_F64], bs[2][64][LINE_F64];
    u32 tile_row, tile_column;
    tile_of(blockIdx.x, m / 64, n / 64, &tile_row, &tile_column);
    const u32 thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const u32 group = lane >> 2, four = lane & 3;
    const u32 warp_m = (warp & 1) * 32, warp_n = (warp >> 1) * 32;
    double sum[4][4][2] = {};
    auto fetch = [&](u32 side, u32 at) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 piece = thread + 128 * i, line = piece >> 3, part = (piece & 7) * 2;
            copy_later(shared_address(&as[side][line][part]), a + (u64)(tile_row * 64 + line) * k + at + part);
            copy_later(shared_address(&bs[side][line][part]), b + (u64)(tile_column * 64 + line) * k + at + part);
        }
        copies_end();
    };
    fetch(0, 0);
    for (u32 at = 0, side = 0; at < k; at += 16, side ^= 1) {
        copies_wait<0>();
        __syncthreads();
        if (at + 16 < k)
            fetch(side ^ 1, at + 16);
#pragma unroll
        for (u32 step = 0; step < 16; step += 4) {
            double fa[4], fb[4];
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                fa[i] = as[side][warp_m + i * 8 + group][step + four];
                fb[i] = bs[side][warp_n + i * 8 + group][step + four];
            }
#pragma unroll
            for (u32 y = 0; y < 4; ++y)
#pragma unroll
                for (u32 x = 0; x < 4; ++x)
                    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                                 : "+d"(sum[y][x][0]), "+d"(sum[y][x][1])
                                 : "d"(fa[y]), "d"(fb[x]));
        }
    }
#pragma unroll
    for (u32 y = 0; y < 4; ++y)
#pragma unroll
        for (u32 x = 0; x < 4; ++x)
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                const u32 row = tile_row * 64 + warp_m + y * 8 + group;
                const u32 column = tile_column * 64 + warp_n + x * 8 + four * 2 + i;
                c[(u64)row * n + column] = result(sum[y][x][i], row, column);
            }
}

/* --- bf16, int8, fp8: 128 x 256 a block of eight warps, 64 x 64 a warp -------------------------------------------- */
/* The three have fragments of one form, told in bytes: 16 rows of 32 bytes of A, 8 rows of 32 bytes of B. */

struct Bf16 {
    typedef float Sum;
    __device__ static void multiply(float *d, const u32 *a, const u32 *b)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

struct Int8 {
    typedef int Sum;
    __device__ static void multiply(int *d, const u32 *a, const u32 *b)
    {
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

struct Fp8 {
    typedef float Sum;
    __device__ static void multiply(float *d, const u32 *a, const u32 *b)
    {
#if __CUDA_ARCH__ >= 890
        asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
    }
};

/* A row of a tile is eight pieces of 16 bytes, which are turned by the row's number so that no two of the eight rows
 * read together lie in the same banks. */
__device__ __forceinline__ u32 piece_at(u32 row, u32 piece) { return row * TILE_BYTES + ((piece ^ (row & 7)) << 4); }

__device__ __forceinline__ void load_four(u32 *to, u32 from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

template <class Type> __device__ __forceinline__ void multiply_step(typename Type::Sum (*sum)[8][4], u32 tile_a, u32 tile_b, u32 lane)
{
#pragma unroll
    for (u32 step = 0; step < TILE_BYTES / 32; ++step) {
        u32 fa[4][4], fb[4][4];
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            load_four(fa[i], tile_a + piece_at(i * 16 + (lane & 15), step * 2 + (lane >> 4)));
            load_four(fb[i], tile_b + piece_at(i * 16 + (lane & 7) + (lane >> 4) * 8, step * 2 + (lane >> 3 & 1)));
        }
#pragma unroll
        for (u32 y = 0; y < 4; ++y)
#pragma unroll
            for (u32 x = 0; x < 8; ++x)
                Type::multiply(sum[y][x], fa[y], &fb[x >> 1][(x & 1) * 2]);
    }
}

template <class Type> __device__ __forceinline__ void gemm_narrow(const u8 *a, const u8 *b, typename Type::Sum *c, u32 m, u32 n, u32 line)
{
    u32 tile_row, tile_column;
    tile_of(blockIdx.x, m / TILE_M, n / TILE_N, &tile_row, &tile_column);
    const u32 thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const u32 warp_m = (warp & 1) * 64, warp_n = (warp >> 1) * 64;
    const u32 base = shared_address(tiles), steps = line / TILE_BYTES;
    a += (u64)tile_row * TILE_M * line;
    b += (u64)tile_column * TILE_N * line;
    auto fetch = [&](u32 step) {
        const u32 to_a = base + (step % STAGES) * STEP_BYTES, to_b = to_a + TILE_M * TILE_BYTES;
#pragma unroll
        for (u32 i = 0; i < TILE_M * 8 / 256; ++i) {
            const u32 number = thread + 256 * i, row = number >> 3, piece = number & 7;
            copy_later(to_a + piece_at(row, piece), a + (u64)row * line + step * TILE_BYTES + piece * 16);
        }
#pragma unroll
        for (u32 i = 0; i < TILE_N * 8 / 256; ++i) {
            const u32 number = thread + 256 * i, row = number >> 3, piece = number & 7;
            copy_later(to_b + piece_at(row, piece), b + (u64)row * line + step * TILE_BYTES + piece * 16);
        }
    };
    typename Type::Sum sum[4][8][4] = {};
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; ++step) {
        if (step < steps)
            fetch(step);
        copies_end();
    }
    for (u32 step = 0; step < steps; ++step) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps)
            fetch(step + STAGES - 1);
        copies_end();
        const u32 tile_a = base + (step % STAGES) * STEP_BYTES;
        multiply_step<Type>(sum, tile_a + warp_m * TILE_BYTES, tile_a + (TILE_M + warp_n) * TILE_BYTES, lane);
    }
#pragma unroll
    for (u32 y = 0; y < 4; ++y)
#pragma unroll
        for (u32 x = 0; x < 8; ++x)
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                const u32 row = tile_row * TILE_M + warp_m + y * 16 + (lane >> 2) + (i >> 1) * 8;
                const u32 column = tile_column * TILE_N + warp_n + x * 8 + (lane & 3) * 2 + (i & 1);
                c[(u64)row * n + column] = result(sum[y][x][i], row, column);
            }
}

extern "C" __global__ void __launch_bounds__(256, 1) gemm_bf16(const u8 *a, const u8 *b, float *c, u32 m, u32 n, u32 k)
{
    gemm_narrow<Bf16>(a, b, c, m, n, k * 2);
}

extern "C" __global__ void __launch_bounds__(256, 1) gemm_int8(const u8 *a, const u8 *b, int *c, u32 m, u32 n, u32 k)
{
    gemm_narrow<Int8>(a, b, c, m, n, k);
}

#if __CUDA_ARCH__ >= 890
extern "C" __global__ void __launch_bounds__(256, 1) gemm_fp8(const u8 *a, const u8 *b, float *c, u32 m, u32 n, u32 k)
{
    gemm_narrow<Fp8>(a, b, c, m, n, k);
}
#endif
