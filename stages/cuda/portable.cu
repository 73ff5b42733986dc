/* Fills, checks and memory patterns. This file is compiled for the GPU, and by a C++ compiler for the tests, which run
 * each thread in turn: no thread here waits for another one. */
#include "check.h"

#ifndef __CUDACC_RTC__
#include "emulated.h" /* of the tests: threadIdx, blockIdx, atomicAdd and so on */
#endif

#define KERNEL extern "C" __global__ void
#define THREAD ((u64)blockIdx.x * blockDim.x + threadIdx.x)
#define THREADS ((u64)gridDim.x * blockDim.x)
#define ROWS_A_BLOCK 16

__device__ __forceinline__ void note(struct Report *report, u64 place, u64 expected, u64 seen)
{
    const u64 slot = atomicAdd(&report->wrong, 1ull);
    if (slot < KEPT) {
        report->first[slot].place = place;
        report->first[slot].expected = expected;
        report->first[slot].seen = seen;
    }
}

/* --- matrices --------------------------------------------------------------------------------------------------- */

#define FILL(NAME, TYPE, WRITTEN)                                                                                      \
    KERNEL fill_##NAME(TYPE *to, u64 count, u32 seed, u32 range)                                                       \
    {                                                                                                                  \
        for (u64 i = THREAD; i < count; i += THREADS) {                                                                \
            const int value = matrix_value(seed, i, range);                                                            \
            to[i] = WRITTEN;                                                                                           \
        }                                                                                                              \
    }

FILL(bf16, u16, bf16_of(value))
FILL(fp32, float, (float)value)
FILL(fp64, double, (double)value)
FILL(int8, signed char, (signed char)value)
FILL(fp8, u8, e4m3_of(value))

/* The expected weighted sum of each row of A * B', modulo 2^64, in two steps and from the formula: no matrix in memory and
 * no matrix unit takes part. weighed[k] = sum over columns j of B[j][k] * weight(j). */
KERNEL expect_columns(u64 *weighed, u32 n, u32 k, u32 seed, u32 range)
{
    for (u64 at = THREAD; at < k; at += THREADS) {
        u64 sum = 0;
        for (u64 j = 0; j < n; ++j)
            sum += (u64)(s64)matrix_value(seed, j * k + at, range) * column_weight(j);
        weighed[at] = sum;
    }
}

KERNEL expect_rows(u64 *expected, const u64 *weighed, u32 m, u32 k, u32 seed, u32 range)
{
    for (u64 i = THREAD; i < m; i += THREADS) {
        u64 sum = 0;
        for (u64 at = 0; at < k; ++at)
            sum += (u64)(s64)matrix_value(seed, i * k + at, range) * weighed[at];
        expected[i] = sum;
    }
}

/* Adds up what is in C: a block takes ROWS_A_BLOCK rows, so that a weight is computed once for all of them. */
template <class Word, class Whole> __device__ __forceinline__ void weigh(const Word *c, u64 *sums, u32 *broken, u32 m, u32 n, Whole whole)
{
    const u64 first = (u64)blockIdx.x * ROWS_A_BLOCK;
    u64 sum[ROWS_A_BLOCK] = {0};
    u32 bad = 0;
    for (u64 column = threadIdx.x; column < n; column += blockDim.x) {
        const u64 weight = column_weight(column);
#pragma unroll
        for (u32 row = 0; row < ROWS_A_BLOCK; ++row)
            if (first + row < m) {
                u32 none = 0;
                sum[row] += (u64)whole(c[(first + row) * n + column], &none) * weight;
                bad |= none << row;
            }
    }
#pragma unroll
    for (u32 row = 0; row < ROWS_A_BLOCK; ++row) {
        const u64 all = warp_sum(sum[row]);
        if (first + row < m) {
            if (warp_leader())
                atomicAdd(&sums[first + row], all);
            if (bad >> row & 1)
                atomicAdd(&broken[first + row], 1u);
        }
    }
}

struct OfF32 { __device__ s64 operator()(u32 word, u32 *broken) const { return whole_f32(word, broken); } };
struct OfF64 { __device__ s64 operator()(u64 word, u32 *broken) const { return whole_f64(word, broken); } };
struct OfS32 { __device__ s64 operator()(u32 word, u32 *) const { return (s64)(int)word; } };

KERNEL weigh_f32(const u32 *c, u64 *sums, u32 *broken, u32 m, u32 n) { weigh(c, sums, broken, m, n, OfF32()); }
KERNEL weigh_f64(const u64 *c, u64 *sums, u32 *broken, u32 m, u32 n) { weigh(c, sums, broken, m, n, OfF64()); }
KERNEL weigh_s32(const u32 *c, u64 *sums, u32 *broken, u32 m, u32 n) { weigh(c, sums, broken, m, n, OfS32()); }

/* Compares each row's sum, and makes ready for the next round. */
KERNEL compare_rows(u64 *sums, u32 *broken, const u64 *expected, u32 m, struct Report *report)
{
    for (u64 i = THREAD; i < m; i += THREADS) {
        if (sums[i] != expected[i] || broken[i]) {
            atomicAdd(&report->rows, 1ull);
            const u32 slot = atomicAdd(&report->looked, 1u);
            if (slot < KEPT)
                report->row[slot] = i;
        }
        sums[i] = 0;
        broken[i] = 0;
    }
}

/* Looks through the rows that compare_rows found wrong, element by element. The grid's second dimension is the slot. */
template <class Word, class Whole> __device__ __forceinline__ void locate(const Word *c, u32 n, u32 k, u32 seed_a, u32 seed_b, u32 range, struct Report *report, Whole whole)
{
    const u32 slot = blockIdx.y;
    if (slot >= report->looked || slot >= KEPT)
        return;
    const u64 row = report->row[slot];
    for (u64 column = THREAD; column < n; column += THREADS) {
        s64 sum = 0;
        for (u64 at = 0; at < k; ++at)
            sum += (s64)matrix_value(seed_a, row * k + at, range) * matrix_value(seed_b, column * k + at, range);
        u32 broken = 0;
        const Word seen = c[row * n + column];
        const s64 number = whole(seen, &broken);
        if (number != sum || broken)
            note(report, row * n + column, (u64)sum, broken ? (u64)seen : (u64)number);
    }
}

KERNEL locate_f32(const u32 *c, u32 n, u32 k, u32 sa, u32 sb, u32 range, struct Report *r) { locate(c, n, k, sa, sb, range, r, OfF32()); }
KERNEL locate_f64(const u64 *c, u32 n, u32 k, u32 sa, u32 sb, u32 range, struct Report *r) { locate(c, n, k, sa, sb, range, r, OfF64()); }
KERNEL locate_s32(const u32 *c, u32 n, u32 k, u32 sa, u32 sb, u32 range, struct Report *r) { locate(c, n, k, sa, sb, range, r, OfS32()); }

KERNEL next_round(struct Report *report) { report->looked = 0; }

/* --- memory ----------------------------------------------------------------------------------------------------- */

/* `words` is even: two are moved at a time, the widest access that there is. `first` numbers the words of all pieces. */
KERNEL memory_write(ulonglong2 *to, u64 words, u64 first, u32 pattern, u64 salt)
{
    for (u64 i = THREAD; i < words / 2; i += THREADS) {
        ulonglong2 pair;
        pair.x = memory_word(pattern, salt, first + 2 * i);
        pair.y = memory_word(pattern, salt, first + 2 * i + 1);
        to[i] = pair;
    }
}

KERNEL memory_check(const ulonglong2 *from, u64 words, u64 first, u32 pattern, u64 salt, struct Report *report)
{
    for (u64 i = THREAD; i < words / 2; i += THREADS) {
        const ulonglong2 seen = from[i];
        const u64 place = first + 2 * i;
        const u64 x = memory_word(pattern, salt, place), y = memory_word(pattern, salt, place + 1);
        if (seen.x != x)
            note(report, place, x, seen.x);
        if (seen.y != y)
            note(report, place + 1, y, seen.y);
    }
}

/* Each word is read, compared, and at once turned into its inverse, from the end backwards: a neighbour that is disturbed
 * by the write shows when its turn comes, or in the check after this. */
KERNEL memory_invert(ulonglong2 *at, u64 words, u64 first, u32 pattern, u64 salt, struct Report *report)
{
    const u64 pairs = words / 2;
    for (u64 step = THREAD; step < pairs; step += THREADS) {
        const u64 i = pairs - 1 - step;
        ulonglong2 pair = at[i];
        const u64 place = first + 2 * i;
        const u64 x = memory_word(pattern, salt, place), y = memory_word(pattern, salt, place + 1);
        if (pair.x != x)
            note(report, place, x, pair.x);
        if (pair.y != y)
            note(report, place + 1, y, pair.y);
        pair.x = ~x;
        pair.y = ~y;
        at[i] = pair;
    }
}

KERNEL device_copy(ulonglong2 *to, const ulonglong2 *from, u64 words)
{
    const u64 pairs = words / 2;
    u64 i = THREAD;
    for (; i + 3 * THREADS < pairs; i += 4 * THREADS) {
        const ulonglong2 a = from[i], b = from[i + THREADS], c = from[i + 2 * THREADS], d = from[i + 3 * THREADS];
        to[i] = a;
        to[i + THREADS] = b;
        to[i + 2 * THREADS] = c;
        to[i + 3 * THREADS] = d;
    }
    for (; i < pairs; i += THREADS)
        to[i] = from[i];
}
