// Files that weights are read from where they lie, and whether all of the values in them are finite numbers.
//
// Reading a mapping of a file that has become shorter, or whose disk fails, is answered with SIGBUS, which ends a process.
// Here it is not: what cannot be read becomes zeros, and the mapping says that it has lost something. Who computed with it
// asks, and gives nothing out.
#include "native.h"

#define MAPPINGS 512

#ifdef _WIN32
EXPORT int itrex_map(int file, size_t size, void **start) { (void)file, (void)size, (void)start; return -1; }
EXPORT void itrex_unmap(int which) { (void)which; }
EXPORT int itrex_lost(int which) { (void)which; return 0; }
#else
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static struct {
    uintptr_t start, size;  // start is 0 where there is none, and written last
    int lost;
} mappings[MAPPINGS];
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;
static uintptr_t page;

static int lose(uintptr_t at) {
    for (int which = 0; which < MAPPINGS; which++) {
        const uintptr_t start = __atomic_load_n(&mappings[which].start, __ATOMIC_ACQUIRE);
        if (!start || at < start || at - start >= mappings[which].size) continue;
        void *from = (void *)(at / page * page);
        __atomic_store_n(&mappings[which].lost, 1, __ATOMIC_RELAXED);
        return mmap(from, start + mappings[which].size - (uintptr_t)from, PROT_READ,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
    }
    return 0;
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
    const int kept = errno;
    const int handled = lose((uintptr_t)info->si_addr);
    errno = kept;
    if (handled) return;
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(number, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
        before.sa_handler(number);
    else
        signal(SIGBUS, SIG_DFL);  // and it happens again
}

static void listen_to_sigbus(void) {
    struct sigaction found, ours = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGBUS, NULL, &found);
    if ((found.sa_flags & SA_SIGINFO) && found.sa_sigaction == on_sigbus) return;
    before = found;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, NULL);
}

// Map the first `size` bytes of an open file for reading. The mapping's number, and where it begins; -1 where it cannot be.
EXPORT int itrex_map(int file, size_t size, void **start) {
    int which = 0;
    page = sysconf(_SC_PAGESIZE);
    pthread_mutex_lock(&changing);
    while (which < MAPPINGS && mappings[which].start) which++;
    *start = which < MAPPINGS && size ? mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
    if (*start == MAP_FAILED)
        which = -1;
    else {
        listen_to_sigbus();
        mappings[which].size = (size + page - 1) / page * page, mappings[which].lost = 0;
        __atomic_store_n(&mappings[which].start, (uintptr_t)*start, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&changing);
    return which;
}

EXPORT void itrex_unmap(int which) {
    pthread_mutex_lock(&changing);
    void *start = (void *)mappings[which].start;
    __atomic_store_n(&mappings[which].start, 0, __ATOMIC_RELEASE);
    munmap(start, mappings[which].size);
    pthread_mutex_unlock(&changing);
}

// Whether something of a mapping could not be read.
EXPORT int itrex_lost(int which) { return __atomic_load_n(&mappings[which].lost, __ATOMIC_RELAXED); }
#endif

#define PIECE (1 << 19)  // values looked at in one go

// Whether any of the words has all bits of the mask: the exponent of what is no finite number.
#define ANY(name, type)                                                    \
    static int name(const type *p, size_t n, type mask) {                  \
        type found = 0;                                                    \
        for (size_t i = 0; i < n; i++) found |= (p[i] & mask) == mask;     \
        return found != 0;                                                 \
    }
ANY(any16, uint16_t)
ANY(any32, uint32_t)

typedef struct {
    const void *values;
    int format, found;
    size_t count, next;
} Search;

static void search(void *job, int thread, int threads) {
    Search *s = job;
    (void)thread, (void)threads;
    size_t first;
    while ((first = __atomic_fetch_add(&s->next, PIECE, __ATOMIC_RELAXED)) < s->count) {
        const size_t n = s->count - first < PIECE ? s->count - first : PIECE;
        const int odd = s->format == FP32
                            ? any32((const uint32_t *)s->values + first, n, 0x7f800000)
                            : any16((const uint16_t *)s->values + first, n, s->format == BF16 ? 0x7f80 : 0x7c00);
        if (odd) __atomic_store_n(&s->found, 1, __ATOMIC_RELAXED);
    }
}

// 1 where all of the values are finite numbers, 0 where not. FP32, BF16 or FP16.
EXPORT int itrex_finite(const void *values, int format, size_t count, int threads) {
    Search s = {.values = values, .format = format, .count = count};
    team(threads, search, &s);
    return !s.found;
}

#define PAGE 4096         // bytes, at most those of a page
#define PAGES (64 << 20)  // bytes brought in one go

typedef struct {
    const uint8_t *values;
    size_t bytes, next;
} Touch;

static void touch(void *job, int thread, int threads) {
    Touch *t = job;
    (void)thread, (void)threads;
    size_t first;
    while ((first = __atomic_fetch_add(&t->next, PAGES, __ATOMIC_RELAXED)) < t->bytes) {
        const size_t end = t->bytes - first < PAGES ? t->bytes : first + PAGES;
        for (size_t i = first; i < end; i += PAGE) (void)*(const volatile uint8_t *)(t->values + i);
    }
}

// Bring what is mapped into memory, without looking at it.
EXPORT void itrex_touch(const void *values, size_t bytes, int threads) {
    Touch t = {.values = values, .bytes = bytes};
    team(threads, touch, &t);
}
