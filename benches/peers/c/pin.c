/* pin [-r|-o] CPU COMMAND...: runs COMMAND so that two programs on one core take turns in a fixed order.
 *
 * Both ends of a bench run under it. SCHED_BATCH: a task that wakes does not preempt the one that runs, so a
 * burst is sent as a whole before the server sees any of it, and the server answers all of it before the
 * client sees any. A long slice keeps the tick from breaking that. Neither takes privilege.
 * With CPU '-' the scheduler places the program.
 *
 * -r: SCHED_FIFO where that is permitted, for counts that are exact also on a busy machine: nothing else on the
 * core runs between the two ends, and tasks of equal priority do not preempt each other. Not for timing: RT throttling
 * distorts it.
 *
 * -o: SCHED_OTHER, the default of a shell: a wake-up may preempt, which changes how many messages the server finds. */
#include "peer.h"
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>

struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

int main(int argc, char **argv)
{
    const char *name = argv[0];
    int realtime = argc > 1 && strcmp(argv[1], "-r") == 0;
    int ordinary = argc > 1 && strcmp(argv[1], "-o") == 0;
    argc -= realtime + ordinary;
    argv += realtime + ordinary;
    if (argc < 3) {
        fprintf(stderr, "usage: %s [-r|-o] CPU COMMAND...\n", name);
        return 2;
    }
    if (strcmp(argv[1], "-") != 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(atoi(argv[1]), &cpus);
        if (sched_setaffinity(0, sizeof cpus, &cpus) < 0)
            die("sched_setaffinity");
    }
    /* A kernel before 6.12 ignores the runtime of a fair task. */
    struct attributes fifo = { .size = sizeof fifo, .policy = SCHED_FIFO, .priority = 1 };
    struct attributes batch = { .size = sizeof batch, .policy = SCHED_BATCH, .runtime_ns = 100000000 };
    struct sched_param none = { 0 };
    if (ordinary) {
        if (sched_setscheduler(0, SCHED_OTHER, &none) < 0)
            die("sched_setscheduler");
    } else if (!(realtime && syscall(SYS_sched_setattr, 0, &fifo, 0) == 0) &&
               syscall(SYS_sched_setattr, 0, &batch, 0) < 0)
        die("sched_setattr");
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    execvp(argv[2], argv + 2);
    die(argv[2]);
}
