// The threads that compute: a team of the process, and how its members wait for each other.
//
// Waiting costs one of two things. Who sleeps is woken late, some 5 to 50 µs, at every one of the hundred meetings of a
// token. Who spins takes the core from the thread that it waits for, where something else runs on the machine too: the
// system then gives neither a whole core, and a token takes many times as long. So threads spin while all of them run, and
// the first wait that is longer than a running thread could be the reason for makes all of them sleep at once, for a while.
#include "native.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define MOST 256               // threads
#define LONGEST_SPIN 500000    // ns; longer than any share of work between two meetings of a step, shorter than a time slice
#define BETWEEN_JOBS 2000000   // ns; a token's other work
#define IN_A_ROW 20000000      // ns between two waits that are too long
#define TAKEN 3                // such waits in a row
#define SLEEPY_FOR 100000000   // ns until spinning is tried again

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif

typedef struct {
    _Alignas(64) int jobs;  // given to this member so far
    int asleep;
    int made;
} Member;

static Member member[MOST];
static pthread_mutex_t leading = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int64_t sleepy_until, last_long;  // ns of the monotonic clock
static int in_a_row;
static struct {
    Work work;
    void *job;
    int threads;
    Meeting end;
} now;

static int64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_on(int *word, int value) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
    sched_yield();
#endif
}
static void wake_all(int *word) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, MOST, NULL, NULL, 0);
#endif
}

// A wait was too long. One or two may be chance, or a core that has to wake up; more in a row mean that cores are taken.
static void tell(void) {
    const int64_t at = nanoseconds(), last = __atomic_exchange_n(&last_long, at, __ATOMIC_RELAXED);
    if (at - last > IN_A_ROW) __atomic_store_n(&in_a_row, 0, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&in_a_row, 1, __ATOMIC_RELAXED) < TAKEN) return;
    __atomic_store_n(&sleepy_until, at + SLEEPY_FOR, __ATOMIC_RELAXED);
    __atomic_store_n(&last_long, at + SLEEPY_FOR, __ATOMIC_RELAXED);  // the first one after that is in the row
}

// Spin until *word is another than `value`; whether it is. A long wait `tells` that cores are taken, or nothing.
static int spin(const int *word, int value, int64_t longest, int tells) {
    const int64_t began = nanoseconds();
    if (began < __atomic_load_n(&sleepy_until, __ATOMIC_RELAXED)) return 0;
    for (int64_t at = began; at - began < longest; at = nanoseconds())
        for (int i = 0; i < 16; i++) {
            if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value) return 1;
            PAUSE();
        }
    if (tells) tell();
    return 0;
}
static void await(int *word, int value, int *asleep, int64_t longest, int tells) {
    if (spin(word, value, longest, tells)) return;
    __atomic_add_fetch(asleep, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == value) sleep_on(word, value);
    __atomic_sub_fetch(asleep, 1, __ATOMIC_SEQ_CST);
}
static void change(int *word, int *asleep) {
    __atomic_add_fetch(word, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(asleep, __ATOMIC_SEQ_CST)) wake_all(word);
}

// Whether this thread is the last one to come; then the others go on.
static int arrive(Meeting *m, int threads) {
    if (__atomic_add_fetch(&m->arrived, 1, __ATOMIC_ACQ_REL) < threads) return 0;
    __atomic_store_n(&m->arrived, 0, __ATOMIC_RELAXED);
    change(&m->held, &m->asleep);
    return 1;
}

void meet(Meeting *m, int threads) {
    const int held = __atomic_load_n(&m->held, __ATOMIC_ACQUIRE);
    if (!arrive(m, threads)) await(&m->held, held, &m->asleep, LONGEST_SPIN, 1);
}

static void *be_member(void *which) {
    Member *self = which;
    for (int jobs = 0;; jobs++) {
        await(&self->jobs, jobs, &self->asleep, BETWEEN_JOBS, 0);
        now.work(now.job, (int)(self - member), now.threads);
        arrive(&now.end, now.threads);
    }
    return NULL;
}

// A process that was forked has none of the threads.
static void forget(void) {
    for (int i = 0; i < MOST; i++) member[i] = (Member){0};
    now.end = (Meeting){0};
    pthread_mutex_init(&leading, NULL);
}
static void prepare_fork(void) { pthread_atfork(NULL, NULL, forget); }

// Members up to so many threads, if they can be had; how many there are.
static int gathered(int threads) {
    sigset_t all, before;
    pthread_once(&once, prepare_fork);
    for (int i = 1; i < threads; i++) {
        if (member[i].made) continue;
        pthread_t thread;
        sigfillset(&all);  // signals are for the program's own threads, but for what a member does itself
        sigdelset(&all, SIGBUS), sigdelset(&all, SIGSEGV), sigdelset(&all, SIGFPE), sigdelset(&all, SIGILL);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        member[i].made = !pthread_create(&thread, NULL, be_member, &member[i]);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (!member[i].made) return i;
        pthread_detach(thread);
    }
    return threads;
}

void team(int threads, Work work, void *job) {
    if (threads > MOST) threads = MOST;
    if (threads < 2 || pthread_mutex_trylock(&leading)) {
        work(job, 0, 1);
        return;
    }
    now.work = work, now.job = job, now.threads = gathered(threads);
    const int held = now.end.held;
    for (int i = 1; i < now.threads; i++) change(&member[i].jobs, &member[i].asleep);
    work(job, 0, now.threads);
    if (!arrive(&now.end, now.threads)) await(&now.end.held, held, &now.end.asleep, LONGEST_SPIN, 1);
    pthread_mutex_unlock(&leading);
}
