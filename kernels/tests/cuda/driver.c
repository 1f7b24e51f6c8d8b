// A stand-in for libcuda.so.1: device memory is the host's, kernels are only logged, copies are done when somebody waits.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };

struct graph {
    struct operation operations[64];
    size_t count;
};
struct event {
    struct stream *stream;
    size_t point;
};
struct function {
    char name[64];
    int raised;
};
struct module {
    struct function functions[8];
    int count;
};
// CUlaunchConfig and CUlaunchAttribute.
struct attribute {
    int id;
    char pad[4];
    union {
        char bytes[64];
        int flag;
    } value;
};
struct config {
    unsigned grid[3], block[3], shared;
    void *stream;
    struct attribute *attributes;
    unsigned num_attributes;
};

static char log_text[1 << 16], failing[64];
static int live, fail_result, version = 13000, major = 9;
static size_t free_bytes = 100 << 20;
static char context;
static _Thread_local void *current;

// What the test asks for.
const char *stand_in_log(void) { return log_text; }
void stand_in_clear_log(void) { log_text[0] = 0; }
int stand_in_live(void) { return live; }
void stand_in_set(int driver_version, int compute_major) { version = driver_version; major = compute_major; }
void stand_in_fail(const char *call, int result) { snprintf(failing, sizeof failing, "%s", call); fail_result = result; }

static void note(const char *text) {
    strncat(log_text, text, sizeof log_text - strlen(log_text) - 1);
    strncat(log_text, "\n", sizeof log_text - strlen(log_text) - 1);
}
static int begin(const char *call) {
    if (!current) return INVALID_CONTEXT;
    if (strcmp(failing, call)) return OK;
    failing[0] = 0;
    return fail_result;
}
#define BEGIN()                                                                                                        \
    do {                                                                                                               \
        int result = begin(__func__);                                                                                  \
        if (result) return result;                                                                                     \
    } while (0)

static void flush(struct stream *stream, size_t until) {
    for (; stream->done < until; stream->done++) stream->operations[stream->done].run(stream->operations[stream->done].args);
}
static void push(struct stream *stream, void (*run)(const void *), const void *args, size_t bytes) {
    struct operation operation = {run, {0}};
    memcpy(operation.args, args, bytes);
    if (stream->captured) {
        stream->captured->operations[stream->captured->count++] = operation;
        return;
    }
    stream->operations = realloc(stream->operations, (stream->count + 1) * sizeof operation);
    stream->operations[stream->count++] = operation;
}
struct copy {
    void *to;
    const void *from;
    size_t bytes;
    int byte;
};
static void run_copy(const void *args) {
    const struct copy *copy = args;
    if (copy->from) memcpy(copy->to, copy->from, copy->bytes);
    else memset(copy->to, copy->byte, copy->bytes);
}
static void run_launch(const void *args) { note(args); }

int cuDriverGetVersion(int *out) { *out = version; return OK; }
int cuInit(unsigned flags) { return flags ? INVALID_VALUE : OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? INVALID_DEVICE : OK; }
int cuDeviceGetName(char *name, int bytes, int device) { snprintf(name, bytes, "Stand-in %d", device); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    // Compute capability, multiprocessors, shared memory of a block and of a multiprocessor.
    *value = attribute == 75 ? major : attribute == 76 ? 0 : attribute == 16 ? 132 : attribute == 97 ? 232448 : attribute == 81 ? 233472 : -1;
    return device ? INVALID_DEVICE : OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = free_bytes; return device ? INVALID_DEVICE : OK; }
int cuDevicePrimaryCtxRetain(void **out, int device) { live++; *out = &context; return device ? INVALID_DEVICE : OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { live--; note("release"); return device ? INVALID_DEVICE : OK; }
int cuCtxSetCurrent(void *to) { current = to; note("bind"); return OK; }

int cuStreamCreate(void **out, unsigned flags) {
    BEGIN();
    struct stream *stream = calloc(1, sizeof *stream);
    stream->push = push;
    *out = stream;
    live++;
    return flags == 1 ? OK : INVALID_VALUE;
}
int cuStreamDestroy_v2(struct stream *stream) { BEGIN(); free(stream->operations); free(stream); live--; return OK; }
static int unsafe_call(struct stream *stream) {
    if (!stream->captured) return OK;
    stream->invalid = 1;
    return CAPTURE_UNSUPPORTED;
}
int cuStreamSynchronize(struct stream *stream) {
    BEGIN();
    if (unsafe_call(stream)) return CAPTURE_UNSUPPORTED;
    flush(stream, stream->count);
    return OK;
}
int cuStreamQuery(struct stream *stream) { BEGIN(); return unsafe_call(stream); }

int cuMemGetInfo_v2(size_t *available, size_t *total) { BEGIN(); *available = *total = free_bytes; return OK; }
int cuMemAlloc_v2(unsigned long long *out, size_t bytes) {
    BEGIN();
    if (!bytes || bytes > free_bytes) return bytes ? OUT_OF_MEMORY : INVALID_VALUE;
    free_bytes -= bytes;
    size_t *block = aligned_alloc(256, (bytes + 511) / 256 * 256);
    *block = bytes;
    *out = (unsigned long long)((char *)block + 256);
    live++;
    return OK;
}
int cuMemFree_v2(unsigned long long address) {
    BEGIN();
    size_t *block = (size_t *)((char *)address - 256);
    free_bytes += *block;
    free(block);
    live--;
    return OK;
}
int cuMemHostAlloc(void **out, size_t bytes, unsigned flags) { BEGIN(); *out = malloc(bytes); live++; return flags ? INVALID_VALUE : OK; }
int cuMemFreeHost(void *address) { BEGIN(); free(address); live--; return OK; }
static int copy(struct stream *stream, struct copy args) {
    push(stream, run_copy, &args, sizeof args);
    return args.bytes ? OK : INVALID_VALUE;
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, struct stream *stream) {
    BEGIN();
    return copy(stream, (struct copy){(void *)to, from, bytes, 0});
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, struct stream *stream) {
    BEGIN();
    return copy(stream, (struct copy){to, (void *)from, bytes, 0});
}
int cuMemsetD8Async(unsigned long long to, unsigned char byte, size_t bytes, struct stream *stream) {
    BEGIN();
    return copy(stream, (struct copy){(void *)to, NULL, bytes, byte});
}

int cuEventCreate(void **out, unsigned flags) { BEGIN(); *out = calloc(1, sizeof(struct event)); live++; return flags & ~2u ? INVALID_VALUE : OK; }
int cuEventDestroy_v2(struct event *event) { BEGIN(); free(event); live--; return OK; }
int cuEventRecord(struct event *event, struct stream *stream) { BEGIN(); event->stream = stream; event->point = stream->count; return OK; }
int cuEventSynchronize(struct event *event) { BEGIN(); if (event->stream) flush(event->stream, event->point); return OK; }
int cuEventElapsedTime_v2(float *millis, struct event *from, struct event *to) { BEGIN(); *millis = 0.25f * (to->point - from->point); return OK; }

int cuModuleLoadData(void **out, const void *image) {
    BEGIN();
    *out = calloc(1, sizeof(struct module));
    live++;
    note("load");
    return image ? OK : INVALID_VALUE;
}
int cuModuleUnload(struct module *module) { BEGIN(); free(module); live--; return OK; }
int cuModuleGetFunction(struct function **out, struct module *module, const char *name) {
    BEGIN();
    if (!strncmp(name, "no_such", 7)) return NOT_FOUND;
    *out = &module->functions[module->count++];
    snprintf((*out)->name, sizeof(*out)->name, "%s", name);
    return OK;
}
int cuFuncGetParamInfo(struct function *function, size_t index, size_t *offset, size_t *bytes) {
    BEGIN();
    *offset = 0;
    *bytes = 16;
    return function && index == 0 ? OK : INVALID_VALUE;
}
int cuFuncGetAttribute(int *value, int attribute, struct function *function) { BEGIN(); *value = 1024; return function && attribute == 1 ? OK : INVALID_VALUE; }
int cuFuncSetAttribute(struct function *function, int attribute, int value) { BEGIN(); function->raised = value; return attribute == 8 ? OK : INVALID_VALUE; }
int cuLaunchKernelEx(const struct config *config, struct function *function, void **params, void **extra) {
    BEGIN();
    unsigned allowed = function->raised ? (unsigned)function->raised : 48u * 1024 - 1024;
    if (extra || config->shared > allowed) return INVALID_VALUE;
    int overlap = config->num_attributes == 1 && config->attributes->id == 6 && config->attributes->value.flag == 1;
    char text[160];
    snprintf(text, sizeof text, "%s %ux%ux%u threads %u shared %u%s params %lld %lld", function->name, config->grid[0],
             config->grid[1], config->grid[2], config->block[0], config->shared, overlap ? " overlap" : "",
             ((long long *)params[0])[0], ((long long *)params[0])[1]);
    push(config->stream, run_launch, text, sizeof text);
    return OK;
}

int cuStreamBeginCapture_v2(struct stream *stream, int mode) { BEGIN(); stream->captured = calloc(1, sizeof(struct graph)); live++; return mode == 1 ? OK : INVALID_VALUE; }
int cuStreamEndCapture(struct stream *stream, struct graph **out) {
    BEGIN();
    *out = stream->captured;
    stream->captured = NULL;
    if (!stream->invalid) return OK;
    stream->invalid = 0;
    free(*out);
    live--;
    *out = NULL;
    return CAPTURE_INVALIDATED;
}
int cuGraphInstantiateWithFlags(struct graph **out, struct graph *graph, unsigned long long flags) {
    BEGIN();
    *out = malloc(sizeof *graph);
    **out = *graph;
    live++;
    return flags ? INVALID_VALUE : OK;
}
int cuGraphUpload(struct graph *graph, struct stream *stream) { BEGIN(); return graph && stream ? OK : INVALID_VALUE; }
int cuGraphDestroy(struct graph *graph) { BEGIN(); free(graph); live--; return OK; }
int cuGraphExecDestroy(struct graph *graph) { BEGIN(); free(graph); live--; return OK; }
int cuGraphLaunch(struct graph *graph, struct stream *stream) {
    BEGIN();
    for (size_t i = 0; i < graph->count; i++) push(stream, graph->operations[i].run, graph->operations[i].args, sizeof graph->operations[i].args);
    return OK;
}
