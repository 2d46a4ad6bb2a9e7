/* A small libnvidia-ml.so.1: two GPUs, a part of NVML's functions, fixed answers. It proves the way through ctypes:
 * structure layouts, unions, buffers, error codes, and functions that a driver does not have.
 *
 * STUB_INIT=<code>       nvmlInit fails with it
 * STUB_LOSE_AFTER=<n>    GPU 1 is lost after n calls of nvmlDeviceGetTemperature
 * STUB_HANG_AFTER=<n>    nvmlDeviceGetTemperature never returns after n calls
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define GPUS 2

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7, TIMEOUT = 10, LOST = 15 };

typedef struct gpu { int index; } gpu;
static gpu gpus[GPUS] = {{0}, {1}};
static int initialized, temperatures;

typedef struct { uint32_t gpu, memory; } utilization;
typedef struct { uint64_t total, free, used; } memory_v1;
typedef struct { uint32_t version; uint64_t total, reserved, free, used; } memory_v2;
typedef union { double d; uint32_t ui; uint64_t ull; } value;
typedef struct { uint32_t field, scope; int64_t timestamp, latency; uint32_t type, result; value value; } field_value;
typedef struct { uint32_t pid; uint64_t used; uint32_t gpu_instance, compute_instance; } process;
typedef struct { uint64_t reference, violation; } violation;
typedef struct { uint32_t version; uint8_t cluster[16]; uint32_t status, clique, state, health; } fabric_v2;
typedef struct { char legacy[16]; uint32_t domain, bus, device, id, subsystem; char bus_id[32]; } pci;
typedef struct { uint32_t version, supported; } gpm_support;
typedef struct { uint32_t id, result; double value; char *names[3]; } gpm_metric;
typedef struct { uint32_t version, count; void *before, *after; gpm_metric metrics[1]; } gpm_request;

static int number_from(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int check(const gpu *handle) {
    if (!initialized) return UNINITIALIZED;
    if (handle->index == 1 && temperatures > number_from("STUB_LOSE_AFTER", 1 << 30)) return LOST;
    return OK;
}

#define ANSWER(name, type, expression)                          \
    EXPORT int name(gpu *handle, type *answer) {                \
        int result = check(handle);                             \
        if (result == OK) *answer = (expression);               \
        return result;                                          \
    }

EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = number_from("STUB_INIT", OK);
    initialized = code == OK;
    return code;
}
EXPORT int nvmlShutdown(void) { initialized = 0; return OK; }
EXPORT const char *nvmlErrorString(int code) { (void)code; return "an error of the stub"; }
EXPORT int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "999.1"); return OK; }
EXPORT int nvmlSystemGetCudaDriverVersion(int *version) { *version = 13010; return OK; }

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = GPUS;
    return initialized ? OK : UNINITIALIZED;
}
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu **handle) {
    if (index >= GPUS) return INVALID;
    *handle = &gpus[index];
    return check(*handle);
}
EXPORT int nvmlDeviceGetUUID(gpu *handle, char *text, unsigned size) {
    snprintf(text, size, "GPU-stub-%d", handle->index);
    return check(handle);
}
EXPORT int nvmlDeviceGetName(gpu *handle, char *text, unsigned size) {
    snprintf(text, size, "Stub GPU");
    return check(handle);
}
EXPORT int nvmlDeviceGetPciInfo_v3(gpu *handle, pci *info) {
    memset(info, 0, sizeof *info);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", 0x1B + handle->index);
    return check(handle);
}
EXPORT int nvmlDeviceGetSerial(gpu *handle, char *text, unsigned size) {
    (void)handle, (void)text, (void)size;
    return NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetTemperature(gpu *handle, int sensor, unsigned *celsius) {
    (void)sensor;
    if (++temperatures > number_from("STUB_HANG_AFTER", 1 << 30)) for (;;) pause();
    *celsius = 40 + handle->index;
    return check(handle);
}
EXPORT int nvmlDeviceGetUtilizationRates(gpu *handle, utilization *rates) {
    rates->gpu = 87, rates->memory = 0xFFFFFFFF;
    return check(handle);
}
EXPORT int nvmlDeviceGetMemoryInfo(gpu *handle, memory_v1 *info) {
    *info = (memory_v1){80ull << 30, 20ull << 30, 60ull << 30};
    return check(handle);
}
EXPORT int nvmlDeviceGetMemoryInfo_v2(gpu *handle, memory_v2 *info) {
    if (info->version != (2u << 24 | sizeof *info)) return INVALID;
    info->total = 80ull << 30, info->reserved = 1ull << 30, info->free = 20ull << 30, info->used = 59ull << 30;
    return check(handle);
}
EXPORT int nvmlDeviceGetFieldValues(gpu *handle, int count, field_value *values) {
    int result = check(handle);
    for (int i = 0; i < count; i++) {
        field_value *one = &values[i];
        one->result = OK, one->type = 3;
        switch (one->field) {
        case 82: one->type = 1, one->value.ui = 63; break;
        case 83: one->value.ull = 9223372036854775794ull; break;
        case 185: one->type = 0, one->value.d = 250500.0; break;
        case 94: one->value.ull = 5; break;
        default: one->result = NOT_SUPPORTED;
        }
    }
    return result;
}
EXPORT int nvmlDeviceGetClockInfo(gpu *handle, int kind, unsigned *mhz) {
    *mhz = kind == 1 ? 1410 : 1593;
    return check(handle);
}
EXPORT int nvmlDeviceGetViolationStatus(gpu *handle, int policy, violation *status) {
    status->reference = 1, status->violation = 1000000ull * policy;
    return policy > 3 ? NOT_SUPPORTED : check(handle);
}
EXPORT int nvmlDeviceGetGpuFabricInfoV(gpu *handle, fabric_v2 *info) {
    if (info->version != (2u << 24 | sizeof *info)) return INVALID;
    info->state = 3, info->health = 0x5;
    return check(handle);
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(gpu *handle, unsigned *count, process *found) {
    if (*count < 1) { *count = 1; return TOO_SMALL; }
    *count = 1;
    found[0] = (process){(uint32_t)getppid(), 7ull << 30, 0, 0};
    return check(handle);
}

ANSWER(nvmlDeviceGetEnforcedPowerLimit, unsigned, 300000)
ANSWER(nvmlDeviceGetPerformanceState, unsigned, 0)
ANSWER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, 0x20)
ANSWER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, 8)

EXPORT int nvmlGpmQueryDeviceSupport(gpu *handle, gpm_support *support) {
    support->supported = 1;
    return check(handle);
}
EXPORT int nvmlGpmSampleAlloc(void **sample) { *sample = malloc(8); return OK; }
EXPORT int nvmlGpmSampleGet(gpu *handle, void *sample) { memset(sample, 1, 8); return check(handle); }
EXPORT int nvmlGpmMetricsGet(gpm_request *request) {
    if (!request->before || !request->after || request->before == request->after) return INVALID;
    for (unsigned i = 0; i < request->count; i++) {
        request->metrics[i].result = request->metrics[i].id < 20 ? OK : NOT_SUPPORTED;
        request->metrics[i].value = 25.0;
    }
    return OK;
}
