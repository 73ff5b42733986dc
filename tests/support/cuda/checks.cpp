/* The arithmetic of check.h and portable.cu for Python: one result, one row, one word of memory. */
#include <string.h>

#include "portable.cu"

#define API extern "C" __attribute__((visibility("default")))

API u64 memory_word_of(u32 pattern, u64 salt, u64 index) { return memory_word(pattern, salt, index); }
API int value_of(u32 seed, u64 index, u32 range) { return matrix_value(seed, index, range); }
API u64 weight_of(u64 column) { return column_weight(column); }

/* The weighted sum of a row as the kernel computes it, and in `broken` whether one of its words is no whole number. */
template <class Word, class Kernel> static u64 row(Kernel kernel, const Word *c, u32 n, u32 *broken)
{
    u64 sum = 0;
    *broken = 0;
    gridDim = {1, 1};
    blockDim = {1, 1};
    kernel(c, &sum, broken, 1, n);
    return sum;
}
API u64 row_f32(const u32 *c, u32 n, u32 *broken) { return row(weigh_f32, c, n, broken); }
API u64 row_f64(const u64 *c, u32 n, u32 *broken) { return row(weigh_f64, c, n, broken); }
API u64 row_s32(const u32 *c, u32 n, u32 *broken) { return row(weigh_s32, c, n, broken); }

/* The expected sum of one row of A * B', by the kernels that a GPU runs. */
API u64 expected_of(u32 row_number, u32 n, u32 k, u32 seed_a, u32 seed_b, u32 range)
{
    u64 *weighed = new u64[k], *expected = new u64[row_number + 1];
    gridDim = {1, 1};
    blockDim = {1, 1};
    expect_columns(weighed, n, k, seed_b, range);
    expect_rows(expected, weighed, row_number + 1, k, seed_a, range);
    const u64 sum = expected[row_number];
    delete[] weighed;
    delete[] expected;
    return sum;
}

/* How many wrong words a check of memory counts, and the first of them. */
API u64 wrong_words(const u64 *words, u64 count, u64 first, u32 pattern, u64 salt, u64 *place)
{
    Report report;
    memset(&report, 0, sizeof report);
    gridDim = {1, 1};
    blockDim = {1, 1};
    memory_check((const ulonglong2 *)words, count, first, pattern, salt, &report);
    *place = report.first[0].place;
    return report.wrong;
}
