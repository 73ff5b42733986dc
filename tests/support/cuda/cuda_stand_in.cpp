/* A stand-in for libcuda.so.1, as far as the product calls it: GPUs whose memory is the host's, and whose kernels are the
 * product's own (portable.cu), run thread by thread; only the products of matrices are plain loops here.
 *
 * It plays `cuda.script`, a file beside itself, of lines KEY=VALUE; keys of a GPU begin with its index. Time is the GPU's own,
 * told by its rates, so that figures are the same on every machine:
 *
 *     gpus=1
 *     driver=12040
 *     0.pci=0000:3b:00.0         0.uuid=32 hex digits    0.name=NVIDIA H200    0.capability=9.0    0.memory=8388608
 *     0.instance=32 hex digits   the UUID of a slice: MIG is on
 *     0.tflops.gemm_bf16=480     0.gbps=4300             0.pcie=50             0.slow=3 (all rates)
 *     0.hang=CALL                that call never returns         0.crash=CALL       it ends the process
 *     0.fail=CALL                it gives 0.error=NUMBER (719)   0.after=N          from its Nth time on (1)
 *     0.most=BYTES               no more can be had, whatever is said to be free
 *     0.wrong_memory=WORD        one bit flips in that word after the first write of a pattern
 *     0.wrong_result=KERNEL      one of its results is off by one, once
 *     0.garbage=KERNEL           all its results are off         0.stale=KERNEL     it writes nothing
 *     0.stall=KERNEL             it gives up waiting for its pipeline
 *
 * Of calls before a GPU is chosen: hang=CALL, crash=CALL, fail=CALL with error=NUMBER.
 */
#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "portable.cu"

#define API extern "C" __attribute__((visibility("default"))) int

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_BINARY = 209, NOT_FOUND = 500 };

static const std::map<int, const char *> ERRORS = {
    {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
    {100, "CUDA_ERROR_NO_DEVICE"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {214, "CUDA_ERROR_ECC_UNCORRECTABLE"},
    {220, "CUDA_ERROR_NVLINK_UNCORRECTABLE"}, {500, "CUDA_ERROR_NOT_FOUND"}, {702, "CUDA_ERROR_LAUNCH_TIMEOUT"},
    {719, "CUDA_ERROR_LAUNCH_FAILED"}, {802, "CUDA_ERROR_SYSTEM_NOT_READY"}, {999, "CUDA_ERROR_UNKNOWN"}};

static std::map<std::string, std::string> script;

static void load()
{
    Dl_info info;
    dladdr((void *)load, &info);
    std::string path = info.dli_fname;
    path = path.substr(0, path.rfind('/')) + "/cuda.script";
    FILE *file = fopen(path.c_str(), "r");
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (char *equals = strchr(line, '=')) {
            *equals = 0;
            script[line] = equals + 1;
        }
    }
    if (file)
        fclose(file);
}

struct Gpu {
    int index;
    u64 used = 0;
    double clock = 0;
    std::map<u64, u64> blocks;
    std::map<std::string, int> uses;
    u64 largest() const;

    std::string text(const std::string &key, const std::string &without = "") const
    {
        const auto found = script.find((index < 0 ? "" : std::to_string(index) + ".") + key);
        return found == script.end() ? without : found->second;
    }
    double figure(const std::string &key, double without) const
    {
        const std::string value = text(key);
        return value.empty() ? without : atof(value.c_str());
    }
    u64 memory() const { return (u64)figure("memory", 8 << 20); }
    void spend(double work, double rate) { clock += work / rate * figure("slow", 1); }
};

static Gpu nowhere = {-1, 0, 0, {}, {}};
static Gpu gpus[16];
static int shown[16], count;
static thread_local Gpu *current = nullptr;
static int sticky = 0;

/* What the script wants of this call: nothing, an error, or the end. */
static int enter(const char *call, Gpu *gpu = current)
{
    if (sticky)
        return sticky;
    if (!gpu)
        gpu = &nowhere;
    const int after = (int)gpu->figure("after", 1);
    const int times = ++gpu->uses[call];
    if (times < after)
        return SUCCESS;
    if (gpu->text("hang") == call)
        for (;;)
            pause();
    if (gpu->text("crash") == call)
        abort();
    return gpu->text("fail") == call ? (int)gpu->figure("error", 719) : (int)SUCCESS;
}
#define ENTER                                                                                                          \
    if (const int refused = enter(__func__))                                                                           \
    return refused
#define ENTER_OF(GPU)                                                                                                  \
    if (const int refused = enter(__func__, GPU))                                                                      \
    return refused

/* --- starting, and what there is -------------------------------------------------------------------------------- */

API cuInit(unsigned)
{
    load();
    ENTER_OF(&nowhere);
    const char *wanted = getenv("CUDA_VISIBLE_DEVICES");
    for (int i = 0; i < atoi(nowhere.text("gpus", "0").c_str()) && i < 16; ++i) {
        gpus[i].index = i;
        std::string uuid = gpus[i].text("uuid");
        uuid = "GPU-" + uuid.substr(0, 8) + "-" + uuid.substr(8, 4) + "-" + uuid.substr(12, 4) + "-" + uuid.substr(16, 4) + "-" + uuid.substr(20);
        if (!wanted || strstr(wanted, uuid.c_str()))
            shown[count++] = i;
    }
    return count ? SUCCESS : NO_DEVICE;
}
API cuDriverGetVersion(int *version)
{
    *version = atoi(nowhere.text("driver", "12040").c_str());
    return SUCCESS;
}
API cuGetErrorName(int error, const char **name)
{
    const auto found = ERRORS.find(error);
    *name = found == ERRORS.end() ? nullptr : found->second;
    return found == ERRORS.end() ? INVALID_VALUE : SUCCESS;
}
API cuGetErrorString(int, const char **text)
{
    *text = "as the script wants it";
    return SUCCESS;
}
API cuDeviceGetCount(int *to)
{
    *to = count;
    return SUCCESS;
}
API cuDeviceGet(int *device, int index)
{
    *device = shown[index];
    return SUCCESS;
}
API cuDeviceGetName(char *text, int size, int device)
{
    snprintf(text, size, "%s", gpus[device].text("name", "NVIDIA H200").c_str());
    return SUCCESS;
}
API cuDeviceGetPCIBusId(char *text, int size, int device)
{
    snprintf(text, size, "%s", gpus[device].text("pci").c_str());
    return SUCCESS;
}
static int uuid(u8 *to, const std::string &hex)
{
    for (int i = 0; i < 16; ++i)
        to[i] = (u8)strtol(hex.substr(2 * i, 2).c_str(), nullptr, 16);
    return SUCCESS;
}
API cuDeviceGetUuid(u8 *to, int device) { return uuid(to, gpus[device].text("uuid")); }
API cuDeviceGetUuid_v2(u8 *to, int device) { return uuid(to, gpus[device].text("instance", gpus[device].text("uuid"))); }
API cuDeviceGetAttribute(int *value, int which, int device)
{
    int major = 9, minor = 0;
    sscanf(gpus[device].text("capability", "9.0").c_str(), "%d.%d", &major, &minor);
    *value = which == 75 ? major : which == 76 ? minor : which == 16 ? 1 : 0;
    return SUCCESS;
}
API cuDeviceCanAccessPeer(int *can, int, int)
{
    *can = nowhere.text("peer", "1") == "1";
    return SUCCESS;
}
API cuDevicePrimaryCtxSetFlags_v2(int, unsigned) { return SUCCESS; }
API cuDevicePrimaryCtxRetain(void **context, int device)
{
    ENTER_OF(&gpus[device]);
    *context = &gpus[device];
    return SUCCESS;
}
API cuCtxSetCurrent(void *context)
{
    current = (Gpu *)context;
    return SUCCESS;
}
API cuCtxEnablePeerAccess(void *, unsigned) { return SUCCESS; }

/* For the stand-in of cuBLAS, which works on the GPU that is current: so many seconds of a sound one, and the error that all
 * calls give from then on, or 0. */
extern "C" __attribute__((visibility("default"))) void stand_in_spends(double seconds, int error)
{
    current->spend(seconds, 1);
    sticky = error;
}

/* NVRTC looks for it wherever it finds a driver, and cannot do without the answer. */
API cuGetExportTable(const void **, const void *) { return NOT_FOUND; }

/* --- kernels ---------------------------------------------------------------------------------------------------- */

struct Launch { unsigned blocks_x, blocks_y, threads; };

template <class... A, size_t... I> static void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>)
{
    kernel(*(A *)arguments[I]...);
}
template <class... A> static void each_thread(void (*kernel)(A...), const Launch &launch, void **arguments)
{
    gridDim = {launch.blocks_x, launch.blocks_y};
    blockDim = {launch.threads, 1};
    for (blockIdx.y = 0; blockIdx.y < launch.blocks_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < launch.blocks_x; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < launch.threads; ++threadIdx.x)
                call(kernel, arguments, std::index_sequence_for<A...>());
}

static int of_bf16(u16 word)
{
    F32 as;
    as.bits = (u32)word << 16;
    return (int)as.value;
}
static int of_e4m3(u8 word) { return word == 0x38 ? 1 : word == 0xb8 ? -1 : 0; }

/* Sums of integers: another way than any GPU takes them, with the same answer if all is exact. */
template <class In, class Out, class Read> static void product(const In *a, const In *b, Out *c, u32 m, u32 n, u32 k, Read read)
{
    std::vector<int> rows((u64)m * k), columns((u64)n * k);
    for (u64 i = 0; i < rows.size(); ++i)
        rows[i] = (int)read(a[i]);
    for (u64 i = 0; i < columns.size(); ++i)
        columns[i] = (int)read(b[i]);
    for (u64 i = 0; i < m; ++i)
        for (u64 j = 0; j < n; ++j) {
            int sum = 0;
            for (u64 at = 0; at < k; ++at)
                sum += rows[i * k + at] * columns[j * k + at];
            c[i * n + j] = (Out)sum;
        }
}
template <class T> static T at(void **arguments, int i) { return *(T *)arguments[i]; }

static void multiply(const std::string &name, void **x)
{
    const u32 m = at<u32>(x, 3), n = at<u32>(x, 4), k = at<u32>(x, 5);
    const bool wide = name.find("_wgmma") != std::string::npos;
    void *a = wide ? *(void **)x[0] : at<void *>(x, 0), *b = wide ? *(void **)x[1] : at<void *>(x, 1), *c = at<void *>(x, 2);
    if (name == "gemm_fp32")
        product((float *)a, (float *)b, (float *)c, m, n, k, [](float v) { return v; });
    else if (name == "gemm_fp64")
        product((double *)a, (double *)b, (double *)c, m, n, k, [](double v) { return v; });
    else if (name == "gemm_int8")
        product((signed char *)a, (signed char *)b, (int *)c, m, n, k, [](signed char v) { return v; });
    else if (name.find("gemm_bf16") == 0)
        product((u16 *)a, (u16 *)b, (float *)c, m, n, k, of_bf16);
    else
        product((u8 *)a, (u8 *)b, (float *)c, m, n, k, of_e4m3);
}

static const std::map<std::string, double> RATES = {
    {"gemm_fp32", 45}, {"gemm_fp64", 50}, {"gemm_bf16", 480}, {"gemm_int8", 900}, {"gemm_fp8", 500},
    {"gemm_bf16_wgmma", 700}, {"gemm_fp8_wgmma", 1100}};

static void run_product(const std::string &name, void **x)
{
    const u64 m = at<u32>(x, 3), n = at<u32>(x, 4), k = at<u32>(x, 5);
    current->spend(2.0 * m * n * k, current->figure("tflops." + name, RATES.at(name)) * 1e12);
    u32 *c = at<u32 *>(x, 2);
    if (current->text("stall") == name)
        at<Report *>(x, 6)->stalled = 1;
    if (current->text("stale") == name)
        return;
    multiply(name, x);
    const u64 words = m * n * (name == "gemm_fp64" ? 2 : 1);
    if (current->text("garbage") == name)
        for (u64 i = 0; i < words; ++i)
            c[i] = (u32)mix64(i);
    if (current->text("wrong_result") == name && current->uses["wrong " + name]++ == 0)
        c[words / 2 + 5] ^= 1u << 20;
}

static void spoil_memory(void **x)
{
    const std::string word = current->text("wrong_memory");
    const u64 first = at<u64>(x, 2), place = strtoull(word.c_str(), nullptr, 10);
    if (word.empty() || place < first || place >= first + at<u64>(x, 1) || current->uses["wrong memory"]++)
        return;
    at<u64 *>(x, 0)[place - first] ^= 1ull << 33;
}

#define PORTABLE                                                                                                       \
    X(fill_bf16) X(fill_fp32) X(fill_fp64) X(fill_int8) X(fill_fp8) X(expect_columns) X(expect_rows) X(weigh_f32)      \
    X(weigh_f64) X(weigh_s32) X(compare_rows) X(locate_f32) X(locate_f64) X(locate_s32) X(next_round) X(memory_write)  \
    X(memory_check) X(memory_invert) X(device_copy)

static bool known(const std::string &name)
{
#define X(NAME)                                                                                                        \
    if (name == #NAME)                                                                                                 \
        return true;
    PORTABLE
#undef X
    return RATES.count(name);
}

/* The names of the functions in a cubin are those of its sections. */
struct Module { std::string names; };

API cuModuleLoadData(void **module, const char *image)
{
    ENTER;
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)image;
    if (memcmp(image, ELFMAG, SELFMAG))
        return NO_BINARY;
    int major = 9, minor = 0;
    sscanf(current->text("capability", "9.0").c_str(), "%d.%d", &major, &minor);
    /* The number of the architecture is in the lowest byte of the flags, in the second in files of the newer form. */
    const unsigned made = elf->e_ident[EI_ABIVERSION] >= 8 ? elf->e_flags >> 8 & 0xff : elf->e_flags & 0xff;
    if (made / 10 != (unsigned)major || made % 10 > (unsigned)minor)
        return NO_BINARY;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + elf->e_shoff);
    const Elf64_Shdr &texts = sections[elf->e_shstrndx];
    *module = new Module{std::string(image + texts.sh_offset, texts.sh_size)};
    return SUCCESS;
}
API cuModuleGetFunction(void **function, void *module, const char *name)
{
    const std::string section = std::string(".text.") + name;
    if (((Module *)module)->names.find(section.c_str(), 0, section.size() + 1) == std::string::npos || !known(name))
        return NOT_FOUND;
    *function = strdup(name);
    return SUCCESS;
}
API cuFuncSetAttribute(void *, int, int) { return SUCCESS; }
API cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned, unsigned threads, unsigned, unsigned, unsigned, void *, void **x, void **)
{
    ENTER;
    const std::string name = (const char *)function;
    const Launch launch = {gx, gy, threads};
    if (RATES.count(name)) {
        run_product(name, x);
        return SUCCESS;
    }
    if (name == "device_copy")
        current->spend(16.0 * at<u64>(x, 2), current->figure("gbps", 4300) * 1e9);
#define X(NAME)                                                                                                        \
    if (name == #NAME)                                                                                                 \
        each_thread(NAME, launch, x);
    PORTABLE
#undef X
    if (name == "memory_write")
        spoil_memory(x);
    return SUCCESS;
}

/* --- memory ----------------------------------------------------------------------------------------------------- */

API cuMemGetInfo_v2(size_t *free_, size_t *total)
{
    *total = current->memory();
    *free_ = *total - current->used;
    return SUCCESS;
}
API cuMemAlloc_v2(u64 *address, size_t size)
{
    ENTER;
    if (size > current->memory() - current->used || current->used + size > current->figure("most", 1e18))
        return OUT_OF_MEMORY;
    *address = (u64)aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    memset((void *)*address, 0xa5, size);
    current->blocks[*address] = size;
    current->used += size;
    return SUCCESS;
}
API cuMemFree_v2(u64 address)
{
    current->used -= current->blocks[address];
    current->blocks.erase(address);
    free((void *)address);
    return SUCCESS;
}
API cuMemHostAlloc(void **address, size_t size, unsigned)
{
    ENTER;
    *address = calloc(1, size);
    return SUCCESS;
}
API cuMemFreeHost(void *address)
{
    free(address);
    return SUCCESS;
}
API cuMemsetD8_v2(u64 to, u8 value, size_t size)
{
    memset((void *)to, value, size);
    return SUCCESS;
}
static int moved(void *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    current->spend((double)size, current->figure("pcie", 50) * 1e9);
    return SUCCESS;
}
API cuMemcpyHtoD_v2(u64 to, const void *from, size_t size) { return moved((void *)to, from, size); }
API cuMemcpyDtoH_v2(void *to, u64 from, size_t size) { return moved(to, (void *)from, size); }
API cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t size, void *)
{
    ENTER;
    moved((void *)to, from, size);
    if (current->text("wrong_transfer") == "from_host")
        ((u64 *)to)[3] ^= 1;
    return SUCCESS;
}
API cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t size, void *)
{
    ENTER;
    return moved(to, (void *)from, size);
}
API cuMemcpyPeerAsync(u64 to, void *, u64 from, void *, size_t size, void *)
{
    ENTER;
    moved((void *)to, (void *)from, size);
    if (current->text("wrong_transfer") == "peer")
        ((u64 *)to)[3] ^= 1;
    return SUCCESS;
}
API cuTensorMapEncodeTiled(void *map, int, unsigned, u64 address, u64 *, u64 *, u32 *, u32 *, int, int, int, int)
{
    if ((u64)map % 64)
        return INVALID_VALUE;
    memcpy(map, &address, sizeof address);
    return SUCCESS;
}

/* --- time ------------------------------------------------------------------------------------------------------- */

API cuStreamCreate(void **stream, unsigned)
{
    *stream = current;
    return SUCCESS;
}
API cuStreamSynchronize(void *)
{
    ENTER;
    return SUCCESS;
}
API cuEventCreate(void **event, unsigned)
{
    *event = calloc(1, sizeof(double));
    return SUCCESS;
}
API cuEventDestroy_v2(void *event)
{
    free(event);
    return SUCCESS;
}
API cuEventRecord(void *event, void *)
{
    *(double *)event = current->clock;
    return SUCCESS;
}
API cuEventElapsedTime(float *milliseconds, void *first, void *last)
{
    *milliseconds = (float)((*(double *)last - *(double *)first) * 1000);
    return SUCCESS;
}
