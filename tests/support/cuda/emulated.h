/* What CUDA C has and C++ has not, for running the kernels of stages/cuda/portable.cu thread by thread on a CPU. */
#pragma once
#include "check.h"

#define __global__
#define __device__
#define __forceinline__ inline

struct Dimension { u32 x, y; };
static thread_local Dimension threadIdx, blockIdx, blockDim, gridDim;
struct ulonglong2 { u64 x, y; };

template <class T> static T atomicAdd(T *at, T value)
{
    const T before = *at;
    *at += value;
    return before;
}

/* Each thread stands for a warp of its own. */
static inline u64 warp_sum(u64 value) { return value; }
static inline bool warp_leader() { return true; }
