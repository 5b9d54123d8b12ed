// Weights that do not fit into memory, read from their files ahead of the products that need them.
//
// A stream is a cycle of pieces: matrices, in the order in which a pass multiplies by them. Each has its place in a ring of
// memory, which it shares with others at other times. Readers go around the cycle, pass after pass, as far ahead as there
// is room; a product waits for its piece, and lets go of it when all of its threads are done. What a pass does not need is
// passed over when a later piece is asked for.
#include "native.h"

#define CHUNK (4 << 20)  // bytes read at a time; whole pages
#define READERS 2        // so that the disk has something to do while one of them asks for more

// A piece of a file: `bytes` from `from` on, whole pages, go to `to`; of these, `count` values from byte `begin` on are the
// matrix. `back`: as many pieces before it in the cycle is the latest whose place overlaps its own. Of a file that is not
// read directly, what was read is not to be kept in memory.
typedef struct {
    int32_t file, format, direct, reserved;
    int64_t from, bytes, begin, count, back;
    uint8_t *to;
} Piece;

#ifdef _WIN32
EXPORT void *itrex_stream(const Piece *piece, int pieces) { (void)piece, (void)pieces; return NULL; }
EXPORT void itrex_stream_end(void *stream) { (void)stream; }
EXPORT void itrex_stream_told(void *stream, int64_t *told) { (void)stream, (void)told; }
EXPORT void itrex_enter(void *stream, int number) { (void)stream, (void)number; }
EXPORT void itrex_leave(void *stream, int number, int threads) { (void)stream, (void)number, (void)threads; }
#else
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int64_t unread;  // bytes
    int full;        // all is there
    int entered;     // a product asked for it
    int finished;    // all threads of the product are done, or it is passed over
    int leaving;     // threads that are done
    int known;       // whether its values were looked at
} State;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t moved, freed;
    Piece *piece;
    State *state;
    int pieces, readers, reading, ending, failed, odd;
    int64_t next, at;            // what is read next: piece `next` of all passes, from its byte `at` on
    int64_t entered, released;   // pieces of all passes
    int64_t bytes, busy, since;  // read so far, in so many ns
    pthread_t thread[READERS];
} Stream;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// Let go of what is finished, in order.
static void advance(Stream *s) {
    const int64_t before = s->released;
    for (;; s->released++) {
        State *state = &s->state[s->released % s->pieces];
        if (!state->full || !state->finished) break;
        state->full = state->entered = state->finished = 0;
    }
    if (s->released == before) return;
    pthread_cond_broadcast(&s->freed);
    pthread_cond_broadcast(&s->moved);
}

// Read bytes [at, at + n) of a piece; whether all of the matrix' bytes among them were there. Others are zeros.
static int fetch(const Piece *p, int64_t at, int64_t n) {
    const int64_t end = p->begin + p->count * (p->format == FP32 ? 4 : 2), wanted = (at + n < end ? at + n : end) - at;
    int64_t done = 0;
    while (done < n) {
        const ssize_t got = pread(p->file, p->to + at + done, n - done, p->from + at + done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        done += got;
    }
    if (done < n) memset(p->to + at + done, 0, n - done);
#ifdef POSIX_FADV_DONTNEED
    if (!p->direct) posix_fadvise(p->file, p->from + at, n, POSIX_FADV_DONTNEED);
#endif
    return done >= wanted;
}

static void *read_on(void *stream) {
    Stream *s = stream;
    pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        const int number = (int)(s->next % s->pieces);
        const Piece *p = &s->piece[number];
        State *state = &s->state[number];
        if (!s->at && s->released < s->next - p->back + 1) {
            pthread_cond_wait(&s->freed, &s->lock);
            continue;
        }
        if (!s->at) state->unread = p->bytes;
        const int64_t at = s->at, n = p->bytes - at < CHUNK ? p->bytes - at : CHUNK;
        s->at += n;
        if (s->at == p->bytes) s->at = 0, s->next++;
        if (!s->reading++) s->since = now_ns();
        pthread_mutex_unlock(&s->lock);
        const int whole = fetch(p, at, n);
        pthread_mutex_lock(&s->lock);
        if (!--s->reading) s->busy += now_ns() - s->since;
        s->bytes += n;
        if (!whole) s->failed = 1;
        if (state->unread -= n) continue;
        if (!state->known) {
            pthread_mutex_unlock(&s->lock);
            const int finite = itrex_finite(p->to + p->begin, p->format, p->count, 1);
            pthread_mutex_lock(&s->lock);
            if (!finite && !s->odd) s->odd = 1 + number;
            state->known = 1;
        }
        state->full = 1;
        advance(s);
        pthread_cond_broadcast(&s->moved);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

EXPORT void itrex_stream_end(void *stream) {
    Stream *s = stream;
    pthread_mutex_lock(&s->lock);
    s->ending = 1;
    pthread_cond_broadcast(&s->freed);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->readers; i++) pthread_join(s->thread[i], NULL);
    pthread_mutex_destroy(&s->lock), pthread_cond_destroy(&s->moved), pthread_cond_destroy(&s->freed);
    free(s->piece), free(s->state), free(s);
}

// Begin to read a cycle of pieces; NULL where there is no memory or thread for it.
EXPORT void *itrex_stream(const Piece *piece, int pieces) {
    Stream *s = calloc(1, sizeof *s);
    if (s) s->piece = malloc(pieces * sizeof *piece), s->state = calloc(pieces, sizeof(State));
    if (!s || pieces < 1 || !s->piece || !s->state) {
        if (s) free(s->piece), free(s->state), free(s);
        return NULL;
    }
    memcpy(s->piece, piece, pieces * sizeof *piece);
    s->pieces = pieces;
    pthread_mutex_init(&s->lock, NULL), pthread_cond_init(&s->moved, NULL), pthread_cond_init(&s->freed, NULL);
    sigset_t all, before;
    sigfillset(&all);  // signals are for the program's own threads
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (s->readers < READERS && !pthread_create(&s->thread[s->readers], NULL, read_on, s)) s->readers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (s->readers) return s;
    itrex_stream_end(s);
    return NULL;
}

// Wait for a piece, for a product of this pass.
EXPORT void itrex_enter(void *stream, int number) {
    Stream *s = stream;
    State *state = &s->state[number];
    pthread_mutex_lock(&s->lock);
    while (!state->entered || state->finished) {
        if (s->released <= s->entered - s->pieces) {  // that of the pass before is not read yet, for it was passed over
            pthread_cond_wait(&s->moved, &s->lock);
            continue;
        }
        const int passed = (int)(s->entered++ % s->pieces);
        s->state[passed].entered = 1, s->state[passed].finished = passed != number;
        advance(s);
    }
    while (!state->full) pthread_cond_wait(&s->moved, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

// One of a product's threads is done with a piece.
EXPORT void itrex_leave(void *stream, int number, int threads) {
    Stream *s = stream;
    State *state = &s->state[number];
    pthread_mutex_lock(&s->lock);
    if (++state->leaving == threads) {
        state->leaving = 0, state->finished = 1;
        advance(s);
    }
    pthread_mutex_unlock(&s->lock);
}

// told [4]: bytes read so far, ns in which something was being read, whether something could not be read, and the number of
// a piece with a value that is no finite number plus one, or 0.
EXPORT void itrex_stream_told(void *stream, int64_t *told) {
    Stream *s = stream;
    pthread_mutex_lock(&s->lock);
    told[0] = s->bytes, told[1] = s->busy + (s->reading ? now_ns() - s->since : 0), told[2] = s->failed, told[3] = s->odd;
    pthread_mutex_unlock(&s->lock);
}
#endif
