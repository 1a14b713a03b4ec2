/* Shared memory, the reference: what a C expert writes for one value of 64 bytes, a seqlock of two slots, with an
 * eventfd to wake the other side. No limits, no checks, and it trusts the other side.
 *
 *   shm loop N            one process and no wake-up: publish, receive
 *   shm pingpong N        two processes, each woken by the other's eventfd: N round trips
 *   shm wake N            one process publishes a value each time that the other sleeps; for counting
 *   shm spin N [CPU]      two processes that spin: half a round trip
 *   shm flood N [CPU]     one process publishes as fast as it can, the other, on CPU, spins and receives */
#include "peer.h"
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define WORDS 8
#define SLOTS 2

/* Value n is in slot n % SLOTS, and `published` is stored last. */
struct segment {
    _Alignas(64) _Atomic uint64_t published;
    _Alignas(64) _Atomic uint64_t slots[SLOTS][WORDS];
};

struct side {
    struct segment *segment;
    uint64_t number;
    int bell, poller;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void publish(struct side *to, const uint64_t value[WORDS])
{
    uint64_t number = ++to->number;
    _Atomic uint64_t *slot = to->segment->slots[number % SLOTS];
    atomic_thread_fence(memory_order_release);
#pragma GCC unroll 8
    for (int i = 0; i < WORDS; i++)
        atomic_store_explicit(&slot[i], value[i], memory_order_relaxed);
    atomic_store_explicit(&to->segment->published, number, memory_order_release);
}

/* The newest value, if it is new. */
static int receive(struct side *from, uint64_t value[WORDS])
{
    uint64_t number = atomic_load_explicit(&from->segment->published, memory_order_acquire);
    if (number == from->number)
        return 0;
    for (;;) {
        _Atomic uint64_t *slot = from->segment->slots[number % SLOTS];
#pragma GCC unroll 8
        for (int i = 0; i < WORDS; i++)
            value[i] = atomic_load_explicit(&slot[i], memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        uint64_t now = atomic_load_explicit(&from->segment->published, memory_order_relaxed);
        if (now - number < SLOTS - 1)
            break;
        number = now;
        atomic_thread_fence(memory_order_acquire);
    }
    from->number = number;
    return 1;
}

static void spin(struct side *from, uint64_t value[WORDS])
{
    while (!receive(from, value))
        ;
}

static void await(struct side *from, uint64_t value[WORDS])
{
    struct epoll_event event;
    while (!receive(from, value))
        if (epoll_wait(from->poller, &event, 1, -1) < 0 && errno != EINTR)
            die("epoll_wait");
}

static void notify(const struct side *to)
{
    uint64_t one = 1;
    if (write(to->bell, &one, sizeof one) < 0)
        die("eventfd");
}

static struct side new_side(void)
{
    struct side side = { .bell = eventfd(0, EFD_CLOEXEC), .poller = epoll_create1(EPOLL_CLOEXEC) };
    struct epoll_event edge = { .events = EPOLLIN | EPOLLET };
    side.segment = mmap(NULL, sizeof *side.segment, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (side.segment == MAP_FAILED || side.bell < 0 || epoll_ctl(side.poller, EPOLL_CTL_ADD, side.bell, &edge) < 0)
        die("shared memory");
    return side;
}

static void expect(uint64_t got, uint64_t wanted)
{
    if (got != wanted) {
        fprintf(stderr, "value %llu where %llu was due\n", (unsigned long long)got, (unsigned long long)wanted);
        exit(1);
    }
}

static void loop(uint64_t count)
{
    struct side out = new_side(), in = out;
    uint64_t value[WORDS] = { 0 }, got[WORDS], start = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        value[0] = i;
        publish(&out, value);
        if (!receive(&in, got))
            expect(0, 1);
        expect(got[0], i);
    }
    printf("{\"elapsed_ns\": %llu, \"messages\": %llu}\n", (unsigned long long)(now_ns() - start), (unsigned long long)count);
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void ask(const char *mode, struct side *out, struct side *in, uint64_t count)
{
    int woken = strcmp(mode, "pingpong") == 0;
    uint64_t value[WORDS] = { 0 }, got[WORDS], *round_trips_ns = calloc(count, sizeof *round_trips_ns);
    if (!round_trips_ns)
        die("calloc");
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t asked = woken ? 0 : now_ns();
        value[0] = i;
        publish(out, value);
        if (woken)
            notify(out), await(in, got);
        else
            spin(in, got);
        expect(got[0], i);
        round_trips_ns[i] = woken ? 0 : now_ns() - asked;
    }
    printf("{\"messages\": %llu", (unsigned long long)count);
    if (woken) {
        printf(", \"elapsed_ns\": %llu}\n", (unsigned long long)(now_ns() - start));
    } else {
        qsort(round_trips_ns, count, sizeof *round_trips_ns, ascending);
        printf(", \"p50_ns\": %llu, \"p99_ns\": %llu}\n", (unsigned long long)round_trips_ns[count / 2] / 2,
               (unsigned long long)round_trips_ns[count * 99 / 100] / 2);
    }
}

static void answer(const char *mode, struct side *out, struct side *in, uint64_t count)
{
    int woken = strcmp(mode, "pingpong") == 0;
    uint64_t value[WORDS];
    for (uint64_t i = 0; i < count; i++) {
        if (woken)
            await(in, value);
        else
            spin(in, value);
        publish(out, value);
        if (woken)
            notify(out);
    }
}

static void wake(struct side *out, uint64_t count, pid_t other)
{
    uint64_t value[WORDS] = { 0 };
    int other_stat = open_stat(other);
    for (uint64_t i = 0; i < count; i++) {
        value[0] = i;
        await_sleep(other_stat);
        publish(out, value);
        notify(out);
    }
}

static void be_woken(struct side *in, uint64_t count)
{
    uint64_t value[WORDS];
    for (uint64_t i = 0; i < count; i++) {
        await(in, value);
        expect(value[0], i);
    }
}

static void flood(struct side *out, struct side *in, uint64_t count)
{
    uint64_t value[WORDS] = { 0 }, got[WORDS];
    spin(in, got);
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        value[0] = i;
        publish(out, value);
    }
    uint64_t elapsed_ns = now_ns() - start;
    spin(in, got);
    printf("{\"elapsed_ns\": %llu, \"messages\": %llu, \"received\": %llu}\n", (unsigned long long)elapsed_ns,
           (unsigned long long)count, (unsigned long long)got[0]);
}

static void be_flooded(struct side *out, struct side *in, uint64_t count)
{
    uint64_t value[WORDS] = { 0 }, got[WORDS] = { 0 };
    /* The process that floods waits for this. */
    publish(out, value);
    while (got[0] + 1 < count) {
        spin(in, got);
        value[0]++;
    }
    publish(out, value);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    int floods = strcmp(mode, "flood") == 0, wakes = strcmp(mode, "wake") == 0, plays = strcmp(mode, "pingpong") == 0 || strcmp(mode, "spin") == 0;
    if (argc > 4 || count == 0 || !(floods || wakes || plays || strcmp(mode, "loop") == 0)) {
        fprintf(stderr, "usage: %s loop|pingpong|wake|spin|flood N [CPU of the other end]\n", argv[0]);
        return 2;
    }
    if (!floods && !wakes && !plays)
        return loop(count), 0;
    struct side there = new_side(), back = new_side();
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        die("fork");
    if (child > 0) {
        int status;
        if (floods)
            flood(&there, &back, count);
        else if (wakes)
            wake(&there, count, child);
        else
            ask(mode, &there, &back, count);
        return waitpid(child, &status, 0) < 0 || status != 0;
    }
    /* A process that spins would not notice that the other has ended. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
        return 1;
    if (argc > 3) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(atoi(argv[3]), &cpus);
        if (sched_setaffinity(0, sizeof cpus, &cpus) < 0)
            die("sched_setaffinity");
    }
    if (floods)
        be_flooded(&back, &there, count);
    else if (wakes)
        be_woken(&there, count);
    else
        answer(mode, &back, &there, count);
    return 0;
}
