/* All kernels of the burn: one program, compiled once for each architecture. */

#define FULL 0xffffffffu

__device__ __forceinline__ unsigned long long warp_sum(unsigned long long value)
{
#pragma unroll
    for (int lanes = 16; lanes; lanes /= 2)
        value += __shfl_down_sync(FULL, value, lanes);
    return value;
}
__device__ __forceinline__ bool warp_leader() { return (threadIdx.x & 31) == 0; }

#include "portable.cu"
#include "gemm.cu"
#ifdef WGMMA
#include "wgmma.cu"
#endif
