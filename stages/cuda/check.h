/* The arithmetic of the burn's checks, the same for the GPU's compiler and for a C++ compiler: what a matrix holds, what
 * memory holds, and what a result weighs. Integers only, so that every machine comes to the same answer. */
#pragma once

#ifdef __CUDACC_RTC__
#define BOTH __device__ __forceinline__
#else
#define BOTH static inline
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

/* A bijection of 64-bit words (the finalizer of SplitMix64): no two indexes have the same word. */
BOTH u64 mix64(u64 x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* The element `index` of a matrix: a whole number from -range to range. */
BOTH int matrix_value(u32 seed, u64 index, u32 range)
{
    const u64 high = mix64(index ^ ((u64)seed << 40)) >> 32;
    return (int)((high * (2ull * range + 1)) >> 32) - (int)range;
}

/* What a wrong result in this column weighs in its row's sum. Odd, and so invertible modulo 2^64: a single wrong word
 * changes the sum whatever the difference is. */
BOTH u64 column_weight(u64 column)
{
    return (mix64(~column) & 0xffffffffull) | 1ull;
}

union F32 { float value; u32 bits; };
union F64 { double value; u64 bits; };

/* The whole number that a result is. `broken` is set where it is none: then it is wrong whatever the sum says. The bits
 * must be those of the number exactly, so that a negative zero is wrong as well: no product here ends in one. */
BOTH s64 whole_f32(u32 bits, u32 *broken)
{
    union F32 as, back;
    as.bits = bits;
    if ((bits & 0x7fffffffu) >= 0x4f000000u) { /* 2^31 and more, infinite, not a number */
        *broken = 1;
        return 0;
    }
    const int whole = (int)as.value;
    back.value = (float)whole;
    if (back.bits != bits)
        *broken = 1;
    return whole;
}

BOTH s64 whole_f64(u64 bits, u32 *broken)
{
    union F64 as, back;
    as.bits = bits;
    if ((bits & 0x7fffffffffffffffull) >= 0x43e0000000000000ull) { /* 2^63 */
        *broken = 1;
        return 0;
    }
    const s64 whole = (s64)as.value;
    back.value = (double)whole;
    if (back.bits != bits)
        *broken = 1;
    return whole;
}

/* What the 64-bit word `index` of the memory under test holds. Each odd pattern is the inverse of the one before it.
 * 0, 1: every word of its own, so that a wrong address shows. 2, 3: one bit moving through zeros. 4, 5: stripes. */
BOTH u64 memory_word(u32 pattern, u64 salt, u64 index)
{
    u64 word;
    switch (pattern >> 1) {
    case 0:
        word = mix64(index ^ (salt << 48));
        break;
    case 1:
        word = 1ull << ((index + salt) & 63);
        break;
    default:
        word = (index + salt) & 1 ? 0xaaaaaaaaaaaaaaaaull : 0x5555555555555555ull;
        break;
    }
    return pattern & 1 ? ~word : word;
}

/* How small whole numbers are written in the narrow types. */
BOTH u16 bf16_of(int value)
{
    union F32 as;
    as.value = (float)value;
    return (u16)(as.bits >> 16);
}

BOTH u8 e4m3_of(int value) /* -1, 0, 1 */
{
    return (u8)(value == 0 ? 0 : value > 0 ? 0x38 : 0xb8);
}

/* What the checks write. The layouts are known to stages/gpu_burn_device.py as well. */
#define KEPT 16

struct Wrong {
    u64 place; /* number of the word */
    u64 expected;
    u64 seen;
};

struct Report {
    u64 wrong;   /* words; of products those found in the rows that were looked through */
    u64 rows;    /* wrong rows of products, all rounds */
    u32 looked;  /* wrong rows of this round that are to be looked through, at most KEPT */
    u32 stalled; /* a kernel gave up waiting for its own pipeline */
    u64 row[KEPT];
    struct Wrong first[KEPT];
};
