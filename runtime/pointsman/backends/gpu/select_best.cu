// The best logits of each row, its named ones, and the log of the sum of the exponentials of all that are not named.
//
// One block of THREADS threads (a power of two) works on one row. The best are found one after another: every thread
// holds the best of its own columns, the block takes the highest, and the thread that held it looks for its next. A
// logit and its column make one key, so that no two are equal and of equal logits the lower column comes first.
//
// Where the next step is to begin before the host has seen any of this, the likeliest token of each row, named or not, is
// written to where the step reads it, and a token is added to the row's length.
//
// Written in what C and CUDA share, so that a C compiler can run it for tests.

__device__ static unsigned long long key_of(float logit, int column)
{
    unsigned int bits = __float_as_uint(logit + 0.0f);  // -0 becomes 0: they are equal
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;     // now rising with the logit; NaN above all
    return (unsigned long long)bits << 32 | (0xffffffffu - (unsigned int)column);
}

#ifdef __cplusplus
extern "C"
#endif
__global__ void select_best(
    float* logits,            // [rows, vocabulary]; named ones are overwritten with -inf
    const int* named_ids,     // [rows, named]; may repeat
    float* named_logits,      // [rows, named]
    int* best_ids,            // [rows, count]
    float* best_logits,       // [rows, count]
    float* log_totals,        // [rows]; NaN where a logit that is not named is NaN or infinite
    int* likeliest,           // [rows]; null where no step is to begin, as the two that follow
    long long* next_ids,      // [rows]; the same
    long long* lengths,       // [rows]
    int vocabulary,
    int named,
    int count)                // at most vocabulary
{
    __shared__ unsigned long long keys[THREADS];
    __shared__ float sums[THREADS];
    const float lowest = __uint_as_float(0xff800000u); // -inf
    const int thread = (int)threadIdx.x, row = (int)blockIdx.x;
    float* own = logits + (long long)row * vocabulary;
    named_ids += (long long)row * named;

    for (int i = thread; i < named; i += THREADS) named_logits[(long long)row * named + i] = own[named_ids[i]];
    __syncthreads();
    for (int i = thread; i < named; i += THREADS) own[named_ids[i]] = lowest;
    __syncthreads();

    unsigned long long below = ~0ull, mine = 0;
    unsigned long long first = 0;
    float highest = 0.0f;
    for (int rank = 0; rank < count; ++rank) {
        if (mine == 0 || mine == below) {
            mine = 0;
            for (int i = thread; i < vocabulary; i += THREADS) {
                const unsigned long long key = key_of(own[i], i);
                if (key < below && key > mine) mine = key;
            }
        }
        keys[thread] = mine;
        __syncthreads();
        for (int width = THREADS / 2; width > 0; width /= 2) {
            if (thread < width && keys[thread + width] > keys[thread]) keys[thread] = keys[thread + width];
            __syncthreads();
        }
        below = keys[0];
        __syncthreads();
        const int column = (int)(0xffffffffu - (unsigned int)below);
        if (rank == 0) first = below;
        if (rank == 0 && own[column] != lowest) highest = own[column];
        if (thread == 0) {
            best_ids[(long long)row * count + rank] = column;
            best_logits[(long long)row * count + rank] = own[column];
        }
    }

    float sum = 0.0f;
    for (int i = thread; i < vocabulary; i += THREADS) sum += expf(own[i] - highest);
    sums[thread] = sum;
    __syncthreads();
    for (int width = THREADS / 2; width > 0; width /= 2) {
        if (thread < width) sums[thread] += sums[thread + width];
        __syncthreads();
    }
    if (thread == 0) log_totals[row] = highest + logf(sums[0]);

    if (!likeliest) return;
    for (int i = thread; i < named; i += THREADS) {
        const unsigned long long key = key_of(named_logits[(long long)row * named + i], named_ids[i]);
        if (key > first) first = key;
    }
    keys[thread] = first;
    __syncthreads();
    for (int width = THREADS / 2; width > 0; width /= 2) {
        if (thread < width && keys[thread + width] > keys[thread]) keys[thread] = keys[thread + width];
        __syncthreads();
    }
    if (thread == 0) {
        next_ids[row] = likeliest[row] = (int)(0xffffffffu - (unsigned int)keys[0]);
        lengths[row] += 1;
    }
}
