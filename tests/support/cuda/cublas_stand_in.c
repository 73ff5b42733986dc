/* A stand-in for libcublas.so.12, as far as the product calls it, beside the stand-in for libcuda.so.1, whose clock it moves.
 * It multiplies as cuBLAS does: by columns, transposed as it is told, so that wrong arguments give wrong results.
 *
 * It plays `cublas.script`, a file beside itself, of lines KEY=VALUE:
 *
 *     fail=FUNCTION    it gives status=NUMBER (1: not initialized)
 *     hang=FUNCTION    it never returns
 *     crash=FUNCTION   it ends the process
 *     tflops=780       how fast it is
 *     sticky=NUMBER    once it has multiplied, every call of the driver gives this error
 *     leaves=LINE      it leaves this line in the driver's script, for the processes after it
 *
 * Compiled with -DWITHOUT_GEMM it lacks the function that everything is about.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REAL_32F = 0, REAL_16BF = 14, COMPUTE_32F = 68, TRANSPOSED = 1, INVALID_VALUE = 7 };

static char script[4096], folder[4096];

static const char *value_of(const char *key)
{
    static char value[256];
    const size_t length = strlen(key);
    for (const char *line = script; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, key, length) && line[length] == '=') {
            snprintf(value, sizeof value, "%.*s", (int)strcspn(line + length + 1, "\n"), line + length + 1);
            return value;
        }
    return "";
}

static FILE *opened(const char *name, const char *mode)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, mode);
}

__attribute__((constructor)) static void load(void)
{
    Dl_info info;
    dladdr((void *)load, &info);
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(info.dli_fname, '/') - info.dli_fname), info.dli_fname);
    FILE *file = opened("cublas.script", "r");
    if (file) {
        script[fread(script, 1, sizeof script - 1, file)] = 0;
        fclose(file);
    }
}

/* What the script wants of this call: success, an error, or no end. */
static int enter(const char *function)
{
    if (!strcmp(value_of("hang"), function))
        for (;;)
            pause();
    if (!strcmp(value_of("crash"), function))
        abort();
    if (strcmp(value_of("fail"), function))
        return 0;
    return *value_of("status") ? atoi(value_of("status")) : 1;
}

int cublasCreate_v2(void **handle)
{
    FILE *driver = *value_of("leaves") ? opened("cuda.script", "a") : NULL;
    if (driver) {
        fprintf(driver, "%s\n", value_of("leaves"));
        fclose(driver);
    }
    *handle = script;
    return enter("cublasCreate_v2");
}
int cublasSetStream_v2(void *handle, void *stream)
{
    return handle == script && stream ? enter("cublasSetStream_v2") : INVALID_VALUE;
}
int cublasGetVersion_v2(void *handle, int *version)
{
    *version = 120901;
    return handle == script ? enter("cublasGetVersion_v2") : INVALID_VALUE;
}
const char *cublasGetStatusName(int status)
{
    return status == 1 ? "CUBLAS_STATUS_NOT_INITIALIZED" : status == 13 ? "CUBLAS_STATUS_EXECUTION_FAILED" : NULL;
}

#ifndef WITHOUT_GEMM
static float of_bf16(const uint16_t *words, long at)
{
    const uint32_t bits = (uint32_t)words[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void spend(double operations)
{
    const double tflops = *value_of("tflops") ? atof(value_of("tflops")) : 780;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    void (*move)(double, int) = driver ? (void (*)(double, int))dlsym(driver, "stand_in_spends") : NULL;
    if (move)
        move(operations / (tflops * 1e12), atoi(value_of("sticky")));
}

int cublasGemmEx(void *handle, int how_a, int how_b, int m, int n, int k, const float *alpha, const uint16_t *a, int type_a, int line_a,
                 const uint16_t *b, int type_b, int line_b, const float *beta, float *c, int type_c, int line_c, int compute, int algorithm)
{
    const int refused = enter("cublasGemmEx");
    if (refused)
        return refused;
    if (handle != script || type_a != REAL_16BF || type_b != REAL_16BF || type_c != REAL_32F || compute != COMPUTE_32F || algorithm != -1 ||
        line_a < (how_a == TRANSPOSED ? k : m) || line_b < (how_b == TRANSPOSED ? n : k) || line_c < m)
        return INVALID_VALUE;
    for (int column = 0; column < n; ++column)
        for (int row = 0; row < m; ++row) {
            float sum = 0;
            for (int at = 0; at < k; ++at)
                sum += of_bf16(a, how_a == TRANSPOSED ? at + (long)row * line_a : row + (long)at * line_a) *
                       of_bf16(b, how_b == TRANSPOSED ? column + (long)at * line_b : at + (long)column * line_b);
            float *to = &c[row + (long)column * line_c];
            *to = *alpha * sum + (*beta ? *beta * *to : 0);
        }
    spend(2.0 * m * n * k);
    return 0;
}
#endif
