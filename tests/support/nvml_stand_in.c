/* A stand-in for libnvidia-ml.so.1, as far as the product calls it.
 *
 * It plays `nvml.script`, a file beside itself, of lines KEY=VALUE; keys of a GPU begin with its index:
 *
 *     gpus=1
 *     0.name=NVIDIA H100 80GB HBM3
 *     0.temperature=40|41|95        one value a call, the last one for good
 *
 * Special values: unsupported, error, lost, hang, crash. A key that is absent is unsupported.
 * With -DWITHOUT_REMAPPED_ROWS it lacks that function, like the library of an old driver.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define INSUFFICIENT_SIZE 7
#define DRIVER_NOT_LOADED 9
#define GPU_IS_LOST 15
#define UNKNOWN 999
#define LINES 1024

typedef unsigned int u32;
typedef unsigned long long u64;
typedef int result;
typedef const char *device; /* its index as text */

static char keys[LINES][64], values[LINES][256];
static int uses[LINES], lines = -1;
static char names[32][4];

static void load(void) {
    Dl_info info;
    char path[4096], line[400];
    lines = 0;
    dladdr((void *)load, &info);
    snprintf(path, sizeof path, "%s", info.dli_fname);
    strcpy(strrchr(path, '/') + 1, "nvml.script");
    FILE *file = fopen(path, "r");
    while (file && lines < LINES && fgets(line, sizeof line, file)) {
        char *equals = strchr(line, '=');
        if (!equals) continue;
        *equals = 0;
        equals[1 + strcspn(equals + 1, "\n")] = 0;
        snprintf(keys[lines], sizeof keys[0], "%s", line);
        snprintf(values[lines++], sizeof values[0], "%s", equals + 1);
    }
    if (file) fclose(file);
}

/* The value of a key for this call, in `text`; or the error that stands there. */
static result look(const char *key, char *text, size_t size) {
    if (lines < 0) load();
    for (int i = 0; i < lines; i++) {
        if (strcmp(keys[i], key)) continue;
        char copy[256], *part = copy, *next;
        strcpy(copy, values[i]);
        for (int n = 0; n < uses[i] && (next = strchr(part, '|')); n++) part = next + 1;
        uses[i]++;
        part[strcspn(part, "|")] = 0;
        if (!strcmp(part, "unsupported")) return NOT_SUPPORTED;
        if (!strcmp(part, "error")) return UNKNOWN;
        if (!strcmp(part, "lost")) return GPU_IS_LOST;
        if (!strcmp(part, "not_loaded")) return DRIVER_NOT_LOADED;
        if (!strcmp(part, "hang")) for (;;) pause();
        if (!strcmp(part, "crash")) abort();
        snprintf(text, size, "%s", part);
        return SUCCESS;
    }
    return NOT_SUPPORTED;
}

static result of_gpu(device gpu, const char *name, char *text, size_t size) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", gpu, name);
    return look(key, text, size);
}

static result text_of(device gpu, const char *name, char *out, u32 size) { return of_gpu(gpu, name, out, size); }

static result number_of(device gpu, const char *name, u64 *out) {
    char text[256];
    result code = of_gpu(gpu, name, text, sizeof text);
    if (code == SUCCESS) *out = strtoull(text, NULL, 0);
    return code;
}

static result small(device gpu, const char *name, u32 *out) {
    u64 value = 0;
    result code = number_of(gpu, name, &value);
    if (code == SUCCESS) *out = (u32)value;
    return code;
}

result nvmlInitWithFlags(u32 flags) {
    char text[256];
    (void)flags;
    result code = look("init", text, sizeof text);
    return code == NOT_SUPPORTED ? SUCCESS : code;
}
result nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
result nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(result code) { return code == GPU_IS_LOST ? "GPU is lost" : "Unknown Error"; }
result nvmlSystemGetDriverVersion(char *out, u32 size) { return look("driver", out, size); }

result nvmlDeviceGetCount_v2(u32 *count) {
    char text[256];
    result code = look("gpus", text, sizeof text);
    if (code == SUCCESS) *count = (u32)atoi(text);
    return code;
}

result nvmlDeviceGetHandleByIndex_v2(u32 index, device *gpu) {
    char text[256];
    if (index >= 32) return INVALID_ARGUMENT;
    snprintf(names[index], sizeof names[0], "%u", index);
    result code = of_gpu(names[index], "handle", text, sizeof text);
    *gpu = names[index];
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

result nvmlDeviceGetName(device gpu, char *out, u32 size) { return text_of(gpu, "name", out, size); }
result nvmlDeviceGetUUID(device gpu, char *out, u32 size) { return text_of(gpu, "uuid", out, size); }
result nvmlDeviceGetSerial(device gpu, char *out, u32 size) { return text_of(gpu, "serial", out, size); }
result nvmlDeviceGetVbiosVersion(device gpu, char *out, u32 size) { return text_of(gpu, "vbios", out, size); }

struct pci { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; };
result nvmlDeviceGetPciInfo_v3(device gpu, struct pci *pci) {
    memset(pci, 0, sizeof *pci);
    return text_of(gpu, "pci", pci->bus_id, sizeof pci->bus_id);
}

struct memory { u64 total, free, used; };
result nvmlDeviceGetMemoryInfo(device gpu, struct memory *memory) {
    memset(memory, 0, sizeof *memory);
    return number_of(gpu, "memory_bytes", &memory->total);
}

result nvmlDeviceGetTemperature(device gpu, int sensor, u32 *out) { (void)sensor; return small(gpu, "temperature", out); }
result nvmlDeviceGetTemperatureThreshold(device gpu, int kind, u32 *out) {
    return small(gpu, kind == 0 ? "temperature_shutdown" : "temperature_slowdown", out);
}
result nvmlDeviceGetPowerUsage(device gpu, u32 *out) { return small(gpu, "power_mw", out); }
result nvmlDeviceGetEnforcedPowerLimit(device gpu, u32 *out) { return small(gpu, "power_limit_mw", out); }
result nvmlDeviceGetCurrentClocksThrottleReasons(device gpu, u64 *out) { return number_of(gpu, "throttle_reasons", out); }
result nvmlDeviceGetCurrPcieLinkGeneration(device gpu, u32 *out) { return small(gpu, "pcie_generation", out); }
result nvmlDeviceGetMaxPcieLinkGeneration(device gpu, u32 *out) { return small(gpu, "pcie_generation_max", out); }
result nvmlDeviceGetCurrPcieLinkWidth(device gpu, u32 *out) { return small(gpu, "pcie_width", out); }
result nvmlDeviceGetMaxPcieLinkWidth(device gpu, u32 *out) { return small(gpu, "pcie_width_max", out); }
result nvmlDeviceGetClockInfo(device gpu, int kind, u32 *out) { (void)kind; return small(gpu, "clock", out); }
result nvmlDeviceGetMaxClockInfo(device gpu, int kind, u32 *out) { (void)kind; return small(gpu, "clock_max", out); }

struct violation { u64 reference, time; };
result nvmlDeviceGetViolationStatus(device gpu, int policy, struct violation *out) {
    out->reference = 0;
    return number_of(gpu, policy == 1 ? "thermal_violation_ns" : "power_violation_ns", &out->time);
}

result nvmlDeviceGetEccMode(device gpu, u32 *current, u32 *pending) {
    *pending = 0;
    return small(gpu, "ecc_enabled", current);
}

result nvmlDeviceGetTotalEccErrors(device gpu, int kind, int counter, u64 *out) {
    const char *names[2][2] = {{"ecc_corrected", "ecc_corrected_lifetime"}, {"ecc_uncorrected", "ecc_uncorrected_lifetime"}};
    return number_of(gpu, names[kind != 0][counter != 0], out);
}

#ifndef WITHOUT_REMAPPED_ROWS
result nvmlDeviceGetRemappedRows(device gpu, u32 *correctable, u32 *uncorrectable, u32 *pending, u32 *failure) {
    char text[256];
    result code = of_gpu(gpu, "remapped_rows", text, sizeof text);
    if (code == SUCCESS && sscanf(text, "%u,%u,%u,%u", correctable, uncorrectable, pending, failure) != 4) return UNKNOWN;
    return code;
}
#endif

result nvmlDeviceGetRetiredPages(device gpu, int cause, u32 *count, u64 *pages) {
    u32 retired = 0;
    result code = small(gpu, cause == 0 ? "retired_single_bit" : "retired_double_bit", &retired);
    if (code != SUCCESS) return code;
    u32 room = *count;
    *count = retired;
    if (room < retired || !pages) return retired ? INSUFFICIENT_SIZE : SUCCESS;
    for (u32 i = 0; i < retired; i++) pages[i] = 0x1000 * (i + 1);
    return SUCCESS;
}
result nvmlDeviceGetRetiredPagesPendingStatus(device gpu, u32 *out) { return small(gpu, "retired_pending", out); }

result nvmlDeviceGetNvLinkState(device gpu, u32 link, u32 *active) {
    char key[32];
    u64 links = 0;
    if (number_of(gpu, "nvlinks", &links) != SUCCESS) return NOT_SUPPORTED;
    if (link >= links) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "nvlink%u", link);
    result code = small(gpu, key, active);
    if (code == NOT_SUPPORTED) *active = 1, code = SUCCESS;
    return code;
}
result nvmlDeviceGetNvLinkErrorCounter(device gpu, u32 link, int counter, u64 *out) {
    char key[32];
    snprintf(key, sizeof key, "nvlink%u.crc", link);
    *out = 0;
    if (counter != 2) return SUCCESS;
    result code = number_of(gpu, key, out);
    return code == NOT_SUPPORTED ? SUCCESS : code;
}
