/* Stands in for libnvidia-ml.so: one GPU whose readings a test sets, laid out as NVIDIA's nvml.h has them, for the real bindings. */
#include <stdint.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, POWER_INSTANT = 186, AMPERE = 7 };

typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency_us;
    int32_t type, returned;
    union { double d; uint32_t ui; uint64_t ull; } value;
} Field;
typedef struct {
    uint32_t pid;
    uint64_t at_us;
    uint32_t sm, memory, encoder, decoder;
} Use;

uint64_t energy_mj;
uint32_t instant_mw, average_mw, users, pids[4], percents[4];
int32_t without_energy, without_instant;

int nvmlInitWithFlags(uint32_t flags) { return SUCCESS; }
int nvmlDeviceGetCount_v2(uint32_t *count) { return *count = 1, SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(uint32_t index, void **gpu) { return *gpu = &energy_mj, SUCCESS; }
int nvmlDeviceGetName(void *gpu, char *name, uint32_t size) { return strncpy(name, "a GPU made up", size), SUCCESS; }
int nvmlDeviceGetArchitecture(void *gpu, uint32_t *family) { return *family = AMPERE, SUCCESS; }
int nvmlDeviceGetC2cModeInfoV(void *gpu, void *info) { return NOT_SUPPORTED; }
const char *nvmlErrorString(int result) { return result == NOT_SUPPORTED ? "Not Supported" : "another error"; }

int nvmlDeviceGetTotalEnergyConsumption(void *gpu, uint64_t *found) {
    return *found = energy_mj, without_energy ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *gpu, uint32_t *found) { return *found = average_mw, SUCCESS; }

int nvmlDeviceGetFieldValues(void *gpu, int count, Field *fields) {
    for (int i = 0; i < count; i++) {
        int known = fields[i].field == POWER_INSTANT && fields[i].scope == 0 && !without_instant;
        fields[i].returned = known ? SUCCESS : NOT_SUPPORTED;
        fields[i].value.ui = known ? instant_mw : 0;
    }
    return SUCCESS;
}

int nvmlDeviceGetProcessUtilization(void *gpu, Use *found, uint32_t *count, uint64_t since_us) {
    if (!found) return *count = users, INSUFFICIENT_SIZE;
    for (uint32_t i = 0; i < *count; i++) found[i] = (Use){.pid = pids[i], .at_us = since_us + 1, .sm = percents[i]};
    return SUCCESS;
}
