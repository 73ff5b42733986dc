/* The products of bf16 and fp8 as Hopper is fastest at them: one warp group moves tiles into shared memory (TMA), two multiply them
 * (wgmma). 128 x 256 a tile, in steps of 128 bytes. For sm_90a alone. Layouts: PTX ISA, "Asynchronous Warpgroup Level Matrix
 * Instructions" and "Tensor Memory Access". Every wait has an end: a mistake here must not look like a GPU that hangs. */

#define WG_STAGES 4
#define WG_A (128 * 128) /* bytes */
#define WG_B (256 * 128)
#define WG_WARPS 8 /* that multiply */
#define WAIT_NS 4000000000ull

struct __align__(64) TensorMap { u64 opaque[16]; };

__device__ __forceinline__ u64 now_ns()
{
    u64 ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

__device__ __forceinline__ bool reached(u32 barrier, u32 parity)
{
    u32 done;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done;
}

__device__ __forceinline__ bool await(u32 barrier, u32 parity)
{
    if (reached(barrier, parity))
        return true;
    const u64 began = now_ns();
    do {
        if (reached(barrier, parity))
            return true;
    } while (now_ns() - began < WAIT_NS);
    return false;
}

__device__ __forceinline__ void arrive(u32 barrier)
{
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared::cta.b64 state, [%0];\n\t}" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void expect_bytes(u32 barrier, u32 bytes)
{
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n\t}" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void load_tile(u32 to, const TensorMap *map, u32 element, u32 row, u32 barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(to), "l"(map), "r"(element), "r"(row), "r"(barrier)
                 : "memory");
}

/* A tile with rows of 128 bytes, turned by 128-byte swizzle: eight rows are 1,024 bytes. */
__device__ __forceinline__ u64 descriptor(u32 address)
{
    return (u64)((address & 0x3ffff) >> 4) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}

/* One step of 64 x 256, 32 bytes of each row deep: 16 elements of bf16, 32 of fp8. A thread holds 128 of the sums. */
#define NAMES                                                                                                          \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,"      \
    "%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,"     \
    "%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,"     \
    "%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,"     \
    "%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
#define FOUR(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define SIXTEEN(i) FOUR(i), FOUR(i + 1), FOUR(i + 2), FOUR(i + 3)
#define SUMS SIXTEEN(0), SIXTEEN(4), SIXTEEN(8), SIXTEEN(12), SIXTEEN(16), SIXTEEN(20), SIXTEEN(24), SIXTEEN(28)
#define MULTIPLY(INSTRUCTION, ENDING)                                                                                  \
    __device__ static void multiply(float (*d)[4], u64 a, u64 b, int add)                                              \
    {                                                                                                                  \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %130, 0;\n\t" INSTRUCTION " " NAMES ENDING "\n\t}"          \
                     : SUMS                                                                                            \
                     : "l"(a), "l"(b), "r"(add));                                                                      \
    }

struct WideBf16 {
    MULTIPLY("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16", "%128, %129, p, 1, 1, 0, 0;")
};
struct WideFp8 {
    MULTIPLY("wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3", "%128, %129, p, 1, 1;")
};

/* `line` is the length of a row in bytes, and `elements` how many of them are 128 bytes. */
template <class Type> __device__ __forceinline__ void gemm_wide(
    const TensorMap *map_a, const TensorMap *map_b, float *c, u32 m, u32 n, u32 line, u32 elements, struct Report *report)
{
    __shared__ __align__(8) u64 full[WG_STAGES], empty[WG_STAGES];
    const u32 base = (shared_address(tiles) + 1023) & ~1023u; /* room for this is in the size the host gives */
    const u32 base_b = base + WG_STAGES * WG_A;
    const u32 thread = threadIdx.x, group = thread >> 7;
    const u32 tiles_m = m / 128, tiles_n = n / 256, steps = line / 128;
    if (thread == 0) {
        for (u32 i = 0; i < WG_STAGES; ++i) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&full[i])));
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&empty[i])), "n"(WG_WARPS));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async;" ::: "memory");
    }
    __syncthreads();
    u32 stage = 0, phase = 0;
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (thread != 0)
            return;
        for (u32 tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
            u32 row, column;
            tile_of(tile, tiles_m, tiles_n, &row, &column);
            for (u32 step = 0; step < steps; ++step) {
                if (!await(shared_address(&empty[stage]), phase ^ 1)) {
                    report->stalled = 1;
                    return;
                }
                const u32 barrier = shared_address(&full[stage]);
                expect_bytes(barrier, WG_A + WG_B);
                load_tile(base + stage * WG_A, map_a, step * elements, row * 128, barrier);
                load_tile(base_b + stage * WG_B, map_b, step * elements, column * 256, barrier);
                if (++stage == WG_STAGES) {
                    stage = 0;
                    phase ^= 1;
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const u32 lane = thread & 31, warp = thread >> 5 & 3;
    float sum[32][4];
    for (u32 tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
        u32 tile_row, tile_column;
        tile_of(tile, tiles_m, tiles_n, &tile_row, &tile_column);
        for (u32 step = 0; step < steps; ++step) {
            /* The whole warp goes on, or none of it, and all of it together: wgmma is not for a part of a warp. */
            if (!__all_sync(FULL, await(shared_address(&full[stage]), phase))) {
                report->stalled = 1;
                return;
            }
            const u64 a = descriptor(base + stage * WG_A + (group - 1) * 64 * 128);
            const u64 b = descriptor(base_b + stage * WG_B);
#pragma unroll
            for (u32 i = 0; i < 128; ++i)
                asm volatile("" : "+f"(sum[i >> 2][i & 3])::"memory");
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (u32 i = 0; i < 4; ++i) /* 32 bytes further */
                Type::multiply(sum, a + i * 2, b + i * 2, step + i != 0);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
            for (u32 i = 0; i < 128; ++i)
                asm volatile("" : "+f"(sum[i >> 2][i & 3])::"memory");
            if (lane == 0) /* of each warp: none is taken to be done because another one is */
                arrive(shared_address(&empty[stage]));
            if (++stage == WG_STAGES) {
                stage = 0;
                phase ^= 1;
            }
        }
        const u32 row = tile_row * 128 + (group - 1) * 64 + warp * 16 + (lane >> 2);
        const u32 column = tile_column * 256 + (lane & 3) * 2;
#pragma unroll
        for (u32 i = 0; i < 32; ++i)
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const u32 y = row + half * 8, x = column + i * 8;
                const float2 pair = {result(sum[i][half * 2], y, x), result(sum[i][half * 2 + 1], y, x + 1)};
                *(float2 *)&c[(u64)y * n + x] = pair;
            }
    }
}

#define WIDE(NAME, TYPE, BYTES)                                                                                        \
    extern "C" __global__ void __launch_bounds__(384, 1)                                                               \
        NAME(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b, float *c, u32 m, u32 n, \
             u32 k, struct Report *report)                                                                             \
    {                                                                                                                  \
        gemm_wide<TYPE>(&map_a, &map_b, c, m, n, k * BYTES, 128 / BYTES, report);                                      \
    }

WIDE(gemm_bf16_wgmma, WideBf16, 2)
WIDE(gemm_fp8_wgmma, WideFp8, 1)
