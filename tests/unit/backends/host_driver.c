/* The part of the CUDA driver's interface that Pointsman calls, on host memory. HOST_DRIVER_FAILS="cuMemAlloc_v2:2"
   makes a function return an error code. Kernels are not run: a launch prints its arguments. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
static int capturing;
static struct { void* to; const void* from; size_t size; } recorded[8];
static int count;

static Result outcome(const char* name) {
    const char* wanted = getenv("HOST_DRIVER_FAILS");
    size_t length = strlen(name);
    if (wanted && !strncmp(wanted, name, length) && wanted[length] == ':') return atoi(wanted + length + 1);
    return 0;
}
#define DO(name) Result failed = outcome(#name); if (failed) return failed

Result cuInit(unsigned flags) { DO(cuInit); return flags; }
Result cuDriverGetVersion(int* version) { *version = 13000; return 0; }
Result cuDeviceGetCount(int* devices) { DO(cuDeviceGetCount); *devices = 1; return 0; }
Result cuDeviceGet(int* device, int ordinal) { DO(cuDeviceGet); *device = ordinal; return 0; }
Result cuDeviceGetAttribute(int* value, int attribute, int device) { *value = attribute == 75 ? 8 : 9; return device; }
Result cuDeviceGetName(char* name, int length, int device) { strncpy(name, "Host GPU", (size_t)length); return device; }
Result cuDevicePrimaryCtxRetain(void** context, int device) { DO(cuDevicePrimaryCtxRetain); *context = &count; return device; }
Result cuCtxSetCurrent(void* context) { return context == &count ? 0 : 201; }
Result cuStreamCreate(void** stream, unsigned flags) { *stream = (void*)0x5000; return flags == 1 ? 0 : 1; }
Result cuStreamSynchronize(void* stream) { DO(cuStreamSynchronize); return stream == (void*)0x5000 ? 0 : 1; }
Result cuEventCreate(void** event, unsigned flags) { *event = (void*)0x5500; return flags == 2 ? 0 : 1; }
Result cuEventRecord(void* event, void* stream) { DO(cuEventRecord); return event == (void*)0x5500 && stream == (void*)0x5000 ? 0 : 1; }
Result cuEventSynchronize(void* event) { DO(cuEventSynchronize); return event == (void*)0x5500 ? 0 : 1; }
Result cuMemAlloc_v2(unsigned long long* pointer, size_t size) { DO(cuMemAlloc_v2); *pointer = (unsigned long long)malloc(size); return 0; }
Result cuMemFree_v2(unsigned long long pointer) { free((void*)pointer); return 0; }
Result cuMemAllocHost_v2(void** pointer, size_t size) { DO(cuMemAllocHost_v2); *pointer = malloc(size); return 0; }
Result cuMemFreeHost(void* pointer) { free(pointer); return 0; }
Result cuMemcpyAsync(unsigned long long to, unsigned long long from, size_t size, void* stream) {
    DO(cuMemcpyAsync);
    if (capturing) {
        recorded[count].to = (void*)to, recorded[count].from = (void*)from, recorded[count++].size = size;
    } else memcpy((void*)to, (void*)from, size);
    return stream == (void*)0x5000 ? 0 : 1;
}
Result cuMemsetD8Async(unsigned long long to, unsigned char value, size_t size, void* stream) {
    DO(cuMemsetD8Async);
    memset((void*)to, value, size);
    return stream == (void*)0x5000 ? 0 : 1;
}
typedef struct { size_t x, y, z, lod; int type; void* host; unsigned long long device; void* array; void* reserved; size_t pitch, height; } Box;
typedef struct { Box from, to; size_t width, height, depth; } Copy3D;
Result cuMemcpy3DAsync_v2(const Copy3D* copy, void* stream) {
    const Box *to = &copy->to, *from = &copy->from;
    DO(cuMemcpy3DAsync_v2);
    if (to->type != 2 || from->type != 2 || to->x || to->y || to->z || from->x || from->y || from->z) return 1;
    for (size_t z = 0; z < copy->depth; ++z)
        for (size_t y = 0; y < copy->height; ++y)
            memcpy((char*)to->device + (z * to->height + y) * to->pitch, (char*)from->device + (z * from->height + y) * from->pitch, copy->width);
    return stream == (void*)0x5000 ? 0 : 1;
}
Result cuStreamBeginCapture_v2(void* stream, int mode) { capturing = 1; return mode == 1 && stream ? 0 : 1; }
Result cuStreamEndCapture(void* stream, void** graph) { DO(cuStreamEndCapture); capturing = 0; *graph = (void*)0x6000; return stream ? 0 : 1; }
Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) { *executable = (void*)0x7000; return graph == (void*)0x6000 ? (int)flags : 1; }
Result cuGraphDestroy(void* graph) { return graph == (void*)0x6000 ? 0 : 1; }
Result cuGraphExecDestroy(void* executable) { return executable == (void*)0x7000 ? 0 : 1; }
Result cuGraphLaunch(void* executable, void* stream) {
    for (int i = 0; i < count; ++i) memcpy(recorded[i].to, recorded[i].from, recorded[i].size);
    return executable == (void*)0x7000 && stream ? 0 : 1;
}
Result cuModuleLoadData(void** module, const void* image) { *module = (void*)0x8000; return memcmp(image, "\177ELF", 4) ? 200 : 0; }
Result cuModuleGetFunction(void** function, void* module, const char* name) { *function = (void*)0x9000; return strcmp(name, "select_best") || !module; }
Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void* stream, void** parameters, void** extra) {
    printf("%p %u %u %u %u %u %u %u %p %p:", function, gx, gy, gz, bx, by, bz, shared, stream, (void*)extra);
    for (int i = 0; i < 9; ++i) printf(" %llx", *(unsigned long long*)parameters[i]);
    for (int i = 9; i < 12; ++i) printf(" %d", *(int*)parameters[i]);
    printf("\n");
    fflush(stdout);
    return 0;
}

Result cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long long flags, int* status) {
    char versioned[128];
    for (int v = 3; v > 0; --v) {
        snprintf(versioned, sizeof versioned, v > 1 ? "%s_v%d" : "%s", name, v);
        if ((*function = dlsym(RTLD_DEFAULT, versioned))) break;
    }
    if (!*function && !strcmp(name, "cuGraphInstantiate")) *function = (void*)cuGraphInstantiateWithFlags;
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : (version && flags > 100 ? 1 : 500);
}
Result cuGetProcAddress(const char* name, void** function, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, function, version, flags, 0);
}
