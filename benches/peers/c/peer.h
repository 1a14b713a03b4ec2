/* What every C program here shares: addresses, the listening socket, and how to fail. */
#ifndef PEER_H
#define PEER_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Larger than the largest message, so that one recv takes a whole 64 KiB message and comes back short. */
#define BUFFER_BYTES (128 * 1024)

__attribute__((noreturn, unused)) static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* `path` names a file, or an abstract address if it begins with '@'. */
__attribute__((unused)) static socklen_t unix_address(const char *path, struct sockaddr_un *address)
{
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof address->sun_path) {
        fprintf(stderr, "socket path is empty or longer than %zu bytes\n", sizeof address->sun_path - 1);
        exit(2);
    }
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length);
    if (path[0] == '@') {
        address->sun_path[0] = '\0';
        return offsetof(struct sockaddr_un, sun_path) + length;
    }
    return sizeof *address;
}

/* A non-blocking listening socket. A path left by an earlier run is removed. */
__attribute__((unused)) static int listen_unix(const char *path)
{
    struct sockaddr_un address;
    socklen_t length = unix_address(path, &address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (path[0] != '@')
        unlink(path);
    if (bind(fd, (struct sockaddr *)&address, length) < 0)
        die("bind");
    if (listen(fd, SOMAXCONN) < 0)
        die("listen");
    return fd;
}

__attribute__((unused)) static void say_ready(void)
{
    puts("ready");
    fflush(stdout);
}

__attribute__((unused)) static void remove_path(const char *path)
{
    if (path[0] != '@')
        unlink(path);
}

/* The signals that end a server, blocked, so that they arrive through a descriptor only. */
__attribute__((unused)) static sigset_t block_end_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        die("sigprocmask");
    return set;
}

__attribute__((unused)) static int end_signals_fd(void)
{
    sigset_t set = block_end_signals();
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        die("signalfd");
    return fd;
}

__attribute__((unused)) static int open_stat(int pid)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die(name);
    return fd;
}

/* Waits until the process sleeps. */
__attribute__((unused)) static void await_sleep(int stat_fd)
{
    for (;;) {
        char stat[512];
        ssize_t length = pread(stat_fd, stat, sizeof stat - 1, 0);
        if (length <= 0)
            die("the other end is gone");
        stat[length] = '\0';
        /* PID (NAME) STATE */
        char *state = strrchr(stat, ')');
        if (state && state[2] == 'S')
            return;
        usleep(50);
    }
}

__attribute__((unused)) static const char *only_argument(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET_PATH ('@name' for an abstract address)\n", argv[0]);
        exit(2);
    }
    return argv[1];
}

#endif
