/* A stand-in for libnvidia-ml.so.1, as far as the product calls it.
 *
 * It plays `nvml.script`, a file beside itself, of lines KEY=VALUE; keys of a GPU begin with its index:
 *
 *     gpus=1
 *     0.name=NVIDIA H100 80GB HBM3
 *     0.temperature=40|41|95        one value a call, the last one for good
 *
 * Special values: unsupported, error, invalid, lost, reset, hang, crash. A key that is absent is unsupported.
 * `0.xid=none|79` are the events of a GPU, one for each wait, and none after the last; `events`, `0.events` and
 * `event_wait` are the answers of the event set's own calls. While a call hangs, the file `hanging` beside the script
 * is locked. With -DWITHOUT_REMAPPED_ROWS it lacks that function, with -DOLD_DRIVER all that is younger than 2021.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define INSUFFICIENT_SIZE 7
#define DRIVER_NOT_LOADED 9
#define TIMEOUT 10
#define GPU_IS_LOST 15
#define RESET_REQUIRED 16
#define UNKNOWN 999
#define LINES 4096

typedef unsigned int u32;
typedef unsigned long long u64;
typedef int result;
typedef const char *device; /* its index as text */

static char keys[LINES][64], values[LINES][256];
static int uses[LINES], lines = -1;
static char names[32][4];

static void beside(char *path, size_t size, const char *name) {
    Dl_info info;
    dladdr((void *)beside, &info);
    snprintf(path, size - strlen(name), "%s", info.dli_fname);
    strcpy(strrchr(path, '/') + 1, name);
}

static void hang(void) {
    char path[4096];
    beside(path, sizeof path, "hanging");
    flock(open(path, O_RDWR | O_CREAT, 0644), LOCK_EX);
    for (;;) pause();
}

static void load(void) {
    char path[4096], line[400];
    lines = 0;
    beside(path, sizeof path, "nvml.script");
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
        if (!strcmp(part, "invalid")) return INVALID_ARGUMENT;
        if (!strcmp(part, "error")) return UNKNOWN;
        if (!strcmp(part, "lost")) return GPU_IS_LOST;
        if (!strcmp(part, "reset")) return RESET_REQUIRED;
        if (!strcmp(part, "not_loaded")) return DRIVER_NOT_LOADED;
        if (!strcmp(part, "hang")) hang();
        if (!strcmp(part, "crash")) raise(SIGSEGV);
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
    const char *names[] = {"temperature_shutdown", "temperature_slowdown", "temperature_memory_max", "temperature_gpu_max"};
    return kind < 4 ? small(gpu, names[kind], out) : INVALID_ARGUMENT;
}
result nvmlDeviceGetPowerUsage(device gpu, u32 *out) { return small(gpu, "power_mw", out); }
result nvmlDeviceGetEnforcedPowerLimit(device gpu, u32 *out) { return small(gpu, "power_limit_mw", out); }
result nvmlDeviceGetPowerManagementDefaultLimit(device gpu, u32 *out) { return small(gpu, "power_limit_default_mw", out); }
result nvmlDeviceGetCurrentClocksThrottleReasons(device gpu, u64 *out) { return number_of(gpu, "throttle_reasons", out); }
result nvmlDeviceGetCurrPcieLinkGeneration(device gpu, u32 *out) { return small(gpu, "pcie_generation", out); }
result nvmlDeviceGetMaxPcieLinkGeneration(device gpu, u32 *out) { return small(gpu, "pcie_generation_max", out); }
result nvmlDeviceGetCurrPcieLinkWidth(device gpu, u32 *out) { return small(gpu, "pcie_width", out); }
result nvmlDeviceGetMaxPcieLinkWidth(device gpu, u32 *out) { return small(gpu, "pcie_width_max", out); }
result nvmlDeviceGetPcieReplayCounter(device gpu, u32 *out) { return small(gpu, "pcie_replays", out); }
result nvmlDeviceGetPersistenceMode(device gpu, u32 *out) { return small(gpu, "persistence_mode", out); }
result nvmlDeviceGetComputeMode(device gpu, u32 *out) { return small(gpu, "compute_mode", out); }
result nvmlDeviceGetMigMode(device gpu, u32 *current, u32 *pending) {
    *pending = 0;
    return small(gpu, "mig_mode", current);
}
struct utilization { u32 gpu, memory; };
result nvmlDeviceGetUtilizationRates(device gpu, struct utilization *out) {
    out->memory = 0;
    return small(gpu, "utilization", &out->gpu);
}
result nvmlDeviceGetClockInfo(device gpu, int kind, u32 *out) { (void)kind; return small(gpu, "clock", out); }
result nvmlDeviceGetMaxClockInfo(device gpu, int kind, u32 *out) { (void)kind; return small(gpu, "clock_max", out); }

struct violation { u64 reference, time; };
result nvmlDeviceGetViolationStatus(device gpu, int policy, struct violation *out) {
    out->reference = 0;
    const char *names[] = {"power_violation_ns", "thermal_violation_ns", "sync_violation_ns", "board_limit_violation_ns"};
    return policy < 4 ? number_of(gpu, names[policy], &out->time) : INVALID_ARGUMENT;
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
    const char *names[] = {"replays", "recoveries", "crc", "crc_data"};
    if (counter > 3) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "nvlink%u.%s", link, names[counter]);
    *out = 0;
    result code = number_of(gpu, key, out);
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

struct event { device gpu; u64 kind, data; u32 gpu_instance, compute_instance; };
static device listening[32];
static int listeners;

static result told(const char *key) {
    char text[256];
    result code = look(key, text, sizeof text);
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

result nvmlEventSetCreate(void **set) {
    char text[256];
    *set = listening;
    return look("events", text, sizeof text);
}
result nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
result nvmlDeviceRegisterEvents(device gpu, u64 kinds, void *set) {
    char key[64];
    (void)set;
    snprintf(key, sizeof key, "%s.events", gpu);
    result code = told(key);
    if (code == SUCCESS && kinds & 8 && listeners < 32) listening[listeners++] = gpu;
    return code;
}

/* The number of the next event in the script of a GPU; 0: none. */
static u64 next_xid(device gpu) {
    char key[64];
    snprintf(key, sizeof key, "%s.xid", gpu);
    for (int i = 0; i < lines; i++) {
        if (strcmp(keys[i], key)) continue;
        char *part = values[i];
        for (int n = 0; part && n < uses[i]; n++) part = strchr(part, '|') ? strchr(part, '|') + 1 : NULL;
        uses[i]++;
        return part ? strtoull(part, NULL, 10) : 0;
    }
    return 0;
}

result nvmlEventSetWait_v2(void *set, struct event *event, u32 timeout_ms) {
    (void)set;
    result code = told("event_wait");
    if (code != SUCCESS) return code;
    for (int i = 0; i < listeners; i++) {
        u64 xid = next_xid(listening[i]);
        if (!xid) continue;
        *event = (struct event){listening[i], 8, xid, 0xffffffff, 0xffffffff};
        return SUCCESS;
    }
    struct timespec wait = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    nanosleep(&wait, NULL);
    return TIMEOUT;
}

#ifndef OLD_DRIVER
struct margin { u32 version; int degrees; };
result nvmlDeviceGetMarginTemperature(device gpu, struct margin *out) {
    return small(gpu, "temperature_margin", (u32 *)&out->degrees);
}

struct histogram { u32 max, high, partial, low, none; };
result nvmlDeviceGetRowRemapperHistogram(device gpu, struct histogram *out) {
    memset(out, 0, sizeof *out);
    return small(gpu, "remap_banks_used_up", &out->none);
}

struct sram { u32 version; u64 counts[11]; u32 over_limit; };
result nvmlDeviceGetSramEccErrorStatus(device gpu, struct sram *out) {
    return small(gpu, "sram_errors_over_limit", &out->over_limit);
}

struct fabric { u32 version; unsigned char cluster[16]; u32 status, clique, state, health; };
result nvmlDeviceGetGpuFabricInfoV(device gpu, struct fabric *out) {
    char text[256];
    result code = of_gpu(gpu, "fabric", text, sizeof text);
    if (code == SUCCESS && sscanf(text, "%u,%u,%u", &out->state, &out->status, &out->health) != 3) return UNKNOWN;
    return code;
}

/* Numbers of the fields, and how they are called in the script. Their values are unsigned long long, but where said. */
static const struct { u32 field; const char *name; u32 type; } fields[] = {
    {82, "memory_temperature", 1}, {194, "slowdown_margin", 5}, {230, "recovery_action", 1},
    {269, "software_thermal_ns", 3}, {270, "hardware_thermal_ns", 3}, {271, "power_brake_ns", 3},
};
struct field { u32 field, scope; long long when, latency; u32 type, code; union { u64 whole; u32 small; int number; } value; };

static result field_of(device gpu, struct field *row) {
    char key[64];
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].field != row->field) continue;
        row->type = fields[i].type;
        row->value.whole = 0;
        return row->type == 3 ? number_of(gpu, fields[i].name, &row->value.whole)
                              : small(gpu, fields[i].name, &row->value.small);
    }
    if (row->field != 214 && row->field != 219) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "nvlink%u.%s", row->scope, row->field == 214 ? "failed_recoveries" : "effective");
    row->type = 3;
    return number_of(gpu, key, &row->value.whole);
}
result nvmlDeviceGetFieldValues(device gpu, int count, struct field *rows) {
    for (int i = 0; i < count; i++) rows[i].code = field_of(gpu, rows + i);
    return SUCCESS;
}
#else
struct old_fabric { unsigned char cluster[16]; u32 status, clique, state; };
result nvmlDeviceGetGpuFabricInfo(device gpu, struct old_fabric *out) {
    u32 health;
    char text[256];
    result code = of_gpu(gpu, "fabric", text, sizeof text);
    if (code == SUCCESS && sscanf(text, "%u,%u,%u", &out->state, &out->status, &health) != 3) return UNKNOWN;
    return code;
}
#endif
