/* pin CPU COMMAND...: runs COMMAND so that two programs on one core take turns in a fixed order.
 *
 * Both ends of a bench run under it. SCHED_BATCH: a task that wakes does not preempt the one that runs, so a
 * burst is sent as a whole before the server sees any of it, and the server answers all of it before the
 * client sees any. A long slice keeps the tick from breaking that. Neither takes privilege.
 * CPU '-' leaves the placing alone. */
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
    if (argc < 3) {
        fprintf(stderr, "usage: %s CPU COMMAND...\n", argv[0]);
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
    struct attributes attributes = { .size = sizeof attributes, .policy = SCHED_BATCH, .runtime_ns = 100000000 };
    if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0)
        die("sched_setattr");
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    execvp(argv[2], argv + 2);
    die(argv[2]);
}
