// The rate at which all threads together read memory: sums a buffer much larger than the caches, with several
// distances of software prefetch, and prints the best rate in GB/s.
//   cc -O3 -march=native -pthread read_bandwidth.c -o read_bandwidth && ./read_bandwidth THREADS MEGABYTES SECONDS
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef struct { const uint64_t *from; size_t count, ahead; uint64_t sum; } Part;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *add(void *argument) {
    Part *part = argument;
    uint64_t sums[32] = {0};
    for (size_t i = 0; i < part->count; i += 32) {  // four cache lines
        const uint64_t *p = part->from + i;
        if (part->ahead)
            for (int line = 0; line < 4; line++)
                __builtin_prefetch((const char *)p + part->ahead + 64 * line);
        for (int j = 0; j < 32; j++)
            sums[j] += p[j];
    }
    part->sum = 0;
    for (int j = 0; j < 32; j++)
        part->sum += sums[j];
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    int threads = atoi(argv[1]);
    size_t size = (size_t)atoi(argv[2]) << 20, each = size / 8 / threads / 32 * 32;
    double seconds = atof(argv[3]), best = 0, start = now();
    static const size_t distances[] = {0, 1024, 2048, 4096, 8192};
    uint64_t *buffer = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), check = 0;
    if (buffer == MAP_FAILED)
        return 1;
    madvise(buffer, size, MADV_HUGEPAGE);
    memset(buffer, 1, size);
    pthread_t workers[threads];
    Part parts[threads];
    for (int pass = 0; pass < 5 || now() - start < seconds; pass++) {
        double began = now();
        for (int i = 0; i < threads; i++) {
            parts[i] = (Part){buffer + i * each, each, distances[pass % 5], 0};
            pthread_create(&workers[i], NULL, add, &parts[i]);
        }
        for (int i = 0; i < threads; i++) {
            pthread_join(workers[i], NULL);
            check += parts[i].sum;
        }
        double rate = 8.0 * each * threads / (now() - began) / 1e9;
        if (rate > best)
            best = rate;
    }
    printf("%.3f %llu\n", best, (unsigned long long)check);
    return 0;
}
