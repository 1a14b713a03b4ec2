/* POSIX queue: edge-triggered, drained to EAGAIN at each event.
 *
 *   queue recv /NAME -n N           makes the queue, says "ready", receives N messages, reports, removes it
 *   queue send /NAME -n N -s SIZE   sends N messages, waiting while the queue is full
 *   queue remove /NAME             removes a queue whose receiver was killed; it may be gone already */
#include "peer.h"
#include <mqueue.h>
#include <sys/epoll.h>
#include <time.h>

#define MESSAGE_BYTES_MAX 8192
#define MESSAGES_MAX 10

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int receive(const char *name, uint64_t wanted)
{
    static char buffer[MESSAGE_BYTES_MAX];
    struct mq_attr attributes = { .mq_maxmsg = MESSAGES_MAX, .mq_msgsize = MESSAGE_BYTES_MAX };
    mqd_t queue = mq_open(name, O_RDONLY | O_CREAT | O_EXCL | O_NONBLOCK | O_CLOEXEC, 0600, &attributes);
    if (queue < 0)
        die("mq_open");
    int signals = end_signals_fd(), poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event on_queue = { .events = EPOLLIN | EPOLLET, .data.fd = queue };
    struct epoll_event on_signal = { .events = EPOLLIN, .data.fd = signals };
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, queue, &on_queue) < 0
        || epoll_ctl(poller, EPOLL_CTL_ADD, signals, &on_signal) < 0) {
        mq_unlink(name);
        die("epoll");
    }
    say_ready();

    uint64_t received = 0, start = 0;
    while (received < wanted) {
        struct epoll_event events[2];
        int count = epoll_wait(poller, events, 2, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == signals)
                return mq_unlink(name), 1;
            if (!start)
                start = now_ns();
            while (mq_receive(queue, buffer, sizeof buffer, NULL) >= 0)
                received++;
        }
    }
    printf("{\"elapsed_ns\": %llu, \"messages\": %llu}\n", (unsigned long long)(now_ns() - start), (unsigned long long)received);
    mq_unlink(name);
    return 0;
}

static int send_all(const char *name, uint64_t count, size_t size)
{
    static char message[MESSAGE_BYTES_MAX];
    mqd_t queue = mq_open(name, O_WRONLY | O_CLOEXEC);
    if (queue < 0)
        die("mq_open");
    for (uint64_t i = 0; i < count; i++) {
        memcpy(message, &i, size < sizeof i ? size : sizeof i);
        if (mq_send(queue, message, size, 0) < 0)
            die("mq_send");
    }
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t count = 100000;
    size_t size = 64;
    int option;
    while ((option = getopt(argc, argv, "n:s:")) != -1) {
        if (option == 'n')
            count = strtoull(optarg, NULL, 10);
        else if (option == 's')
            size = strtoull(optarg, NULL, 10);
        else
            optind = argc;
    }
    if (optind != argc - 2 || size > MESSAGE_BYTES_MAX) {
        fprintf(stderr, "usage: %s recv|send|remove /NAME [-n MESSAGES] [-s SIZE, at most %d]\n", argv[0], MESSAGE_BYTES_MAX);
        return 2;
    }
    const char *mode = argv[optind], *name = argv[optind + 1];
    if (strcmp(mode, "remove") == 0)
        return mq_unlink(name) < 0 && errno != ENOENT;
    return strcmp(mode, "recv") == 0 ? receive(name, count) : send_all(name, count, size);
}
