/* The reference: what a C expert writes on bare epoll. Edge-triggered, one recv and one send per message,
 * write interest only after EAGAIN, no allocation while the peer keeps up. */
#include "peer.h"
#include <sys/epoll.h>
#include <sys/resource.h>

#define EVENTS 256

/* Bytes the peer has not taken yet, by descriptor. A connection that has any is not read. */
struct unsent {
    char *bytes;
    size_t at, length;
};

static struct unsent *unsent;
static char buffer[BUFFER_BYTES];
static int poller, listener, signals;

static void watch(int operation, int fd, uint32_t events)
{
    struct epoll_event event = { .events = events | EPOLLET, .data.fd = fd };
    if (epoll_ctl(poller, operation, fd, &event) < 0)
        die("epoll_ctl");
}

static void drop(int fd)
{
    free(unsent[fd].bytes);
    unsent[fd] = (struct unsent){ 0 };
    close(fd);
}

/* Returns how much was taken, or -1 if the connection is gone. */
static ssize_t send_some(int fd, const char *bytes, size_t length)
{
    ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
    return sent < 0 && errno == EAGAIN ? 0 : sent;
}

static void keep(int fd, const char *bytes, size_t length)
{
    char *copy = malloc(length);
    if (!copy)
        return drop(fd);
    memcpy(copy, bytes, length);
    unsent[fd] = (struct unsent){ .bytes = copy, .length = length };
    /* MOD checks readiness again: room that appeared after the send makes an event. */
    watch(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
}

static void flush(int fd)
{
    struct unsent *rest = &unsent[fd];
    ssize_t sent = send_some(fd, rest->bytes + rest->at, rest->length - rest->at);
    if (sent < 0)
        return drop(fd);
    rest->at += sent;
    if (rest->at == rest->length) {
        free(rest->bytes);
        *rest = (struct unsent){ 0 };
    }
    watch(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLRDHUP | (rest->bytes ? EPOLLOUT : 0));
}

static void echo(int fd, uint32_t events)
{
    if (unsent[fd].bytes)
        return flush(fd);
    for (;;) {
        ssize_t got = recv(fd, buffer, sizeof buffer, 0);
        if (got <= 0) {
            if (got < 0 && errno == EAGAIN)
                return;
            return drop(fd);
        }
        ssize_t sent = send_some(fd, buffer, got);
        if (sent != got)
            return sent < 0 ? drop(fd) : keep(fd, buffer + sent, got - sent);
        /* A short read means drained, unless the peer has closed: its end of file makes no further edge. */
        if ((size_t)got < sizeof buffer && !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
            return;
    }
}

static void accept_all(void)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            watch(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP);
        else if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

int main(int argc, char **argv)
{
    const char *path = only_argument(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    unsent = calloc(files.rlim_cur, sizeof *unsent);
    signals = end_signals_fd();
    listener = listen_unix(path);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!unsent || poller < 0)
        die("start");
    watch(EPOLL_CTL_ADD, signals, EPOLLIN);
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    say_ready();

    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poller, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all();
            else if (fd == signals)
                return remove_path(path), 0;
            else
                echo(fd, events[i].events);
        }
    }
}
