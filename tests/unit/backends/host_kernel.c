/* Runs a CUDA kernel on the host: each block after the other, its threads as threads of the system. */
#include <math.h>
#include <pthread.h>
#include <string.h>

typedef struct { unsigned x; } Index;
static __thread Index threadIdx;
static Index blockIdx;
static pthread_barrier_t barrier;

#define __global__
#define __device__
#define __shared__ static
#define __syncthreads() pthread_barrier_wait(&barrier)

static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }

#include KERNEL

typedef struct { unsigned thread; void** p; int* n; } Arguments;

static void* run(void* given) {
    const Arguments* a = given;
    threadIdx.x = a->thread;
    select_best(a->p[0], a->p[1], a->p[2], a->p[3], a->p[4], a->p[5], a->p[6], a->p[7], a->p[8], a->n[0], a->n[1], a->n[2]);
    return 0;
}

void launch(int blocks, void** pointers, int* integers) {
    pthread_t threads[THREADS];
    Arguments arguments[THREADS];
    pthread_barrier_init(&barrier, 0, THREADS);
    for (int block = 0; block < blocks; ++block) {
        blockIdx.x = (unsigned)block;
        for (unsigned t = 0; t < THREADS; ++t) {
            arguments[t] = (Arguments){t, pointers, integers};
            pthread_create(&threads[t], 0, run, &arguments[t]);
        }
        for (unsigned t = 0; t < THREADS; ++t) pthread_join(threads[t], 0);
    }
    pthread_barrier_destroy(&barrier);
}
