/* The load: clients that move in lockstep. In each round every active client sends its messages in one write,
 * then all answers are collected and compared. What the server sees of a round does not depend on time.
 * With --free, each client sends again as soon as it has its answer, and does not wait for the others. */
#include "peer.h"
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <time.h>

/* A server that has unsent answers may stop reading; a larger burst could block both ends on each other. */
#define BURST_BYTES_MAX (96 * 1024)

static const char *path;
static size_t size = 64, pipeline = 1;
static char *sent, *got;
/* Poll for answers instead of sleeping. */
static int spins;
/* /proc/PID/stat of the server, or -1 not to wait for it. */
static int server_stat = -1;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int connect_unix(void)
{
    struct sockaddr_un address;
    socklen_t length = unix_address(path, &address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (connect(fd, (struct sockaddr *)&address, length) < 0)
        die("connect");
    return fd;
}

static void watch_server(void)
{
    struct ucred server;
    socklen_t length = sizeof server;
    int fd = connect_unix();
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &server, &length) < 0)
        die("SO_PEERCRED");
    server_stat = open_stat(server.pid);
    close(fd);
}

/* Without this, a server under strace or valgrind is slow and finds the next message where it otherwise gets EAGAIN:
 * it seems to need fewer calls than it does. */
static void settle(void)
{
    if (server_stat >= 0)
        await_sleep(server_stat);
}

/* Marks each message with its client and round, so that a late or misdirected answer does not compare equal. */
static void stamp(uint32_t client, uint32_t round)
{
    for (size_t i = 0; i < pipeline; i++) {
        uint32_t mark[2] = { client, round * (uint32_t)pipeline + (uint32_t)i };
        memcpy(sent + i * size, mark, size < sizeof mark ? size : sizeof mark);
    }
}

static void ask(int fd, uint32_t client, uint32_t round)
{
    stamp(client, round);
    size_t length = size * pipeline;
    for (size_t at = 0; at < length;) {
        ssize_t n = send(fd, sent + at, length - at, MSG_NOSIGNAL);
        if (n < 0)
            die("send");
        at += n;
    }
}

static void collect(int fd, uint32_t client, uint32_t round)
{
    size_t length = size * pipeline;
    for (size_t at = 0; at < length;) {
        ssize_t n = recv(fd, got + at, length - at, spins ? MSG_DONTWAIT : MSG_WAITALL);
        if (n < 0 && spins && errno == EAGAIN)
            continue;
        if (n < 0)
            die("recv");
        if (n == 0) {
            fprintf(stderr, "client %u, round %u: the server closed after %zu of %zu bytes\n", client, round, at, length);
            exit(1);
        }
        at += n;
    }
    stamp(client, round);
    if (memcmp(sent, got, length) != 0) {
        fprintf(stderr, "client %u, round %u: the answer is not what was sent\n", client, round);
        exit(1);
    }
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void report(uint64_t elapsed_ns, uint64_t messages, uint64_t *latencies_ns, size_t count)
{
    printf("{\"elapsed_ns\": %llu, \"messages\": %llu", (unsigned long long)elapsed_ns, (unsigned long long)messages);
    if (count > 0) {
        qsort(latencies_ns, count, sizeof *latencies_ns, ascending);
        printf(", \"p50_ns\": %llu, \"p99_ns\": %llu", (unsigned long long)latencies_ns[count / 2],
               (unsigned long long)latencies_ns[count * 99 / 100]);
    }
    puts("}");
    fflush(stdout);
}

static void churn(uint32_t connections)
{
    uint64_t start = now_ns();
    for (uint32_t i = 0; i < connections; i++) {
        int fd = connect_unix();
        ask(fd, i, 0);
        collect(fd, i, 0);
        settle();
        close(fd);
    }
    report(now_ns() - start, (uint64_t)connections * pipeline, NULL, 0);
}

static void burst(const int *fds, uint32_t clients, uint32_t warmup, uint32_t rounds, uint64_t *latencies_ns)
{
    uint64_t start = now_ns();
    for (uint32_t round = 0; round < warmup + rounds; round++) {
        uint64_t asked = 0;
        settle();
        if (round == warmup)
            start = now_ns();
        if (latencies_ns)
            asked = now_ns();
        for (uint32_t i = 0; i < clients; i++)
            ask(fds[i], i, round);
        /* The last one first: it is answered last, so the client sleeps once a round. */
        for (uint32_t i = clients; i-- > 0;)
            collect(fds[i], i, round);
        if (latencies_ns && round >= warmup)
            latencies_ns[round - warmup] = now_ns() - asked;
    }
    report(now_ns() - start, (uint64_t)clients * rounds * pipeline, latencies_ns, latencies_ns ? rounds : 0);
}

/* A free-running client: keeps `pipeline` messages outstanding until the last are sent. */
struct runner {
    int fd;
    uint64_t got_bytes;
    uint32_t sent_messages, to_send;
};

static void ask_more(struct runner *runner, uint32_t client, uint32_t count)
{
    if (count > runner->to_send)
        count = runner->to_send;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t mark[2] = { client, runner->sent_messages + i };
        memcpy(sent + i * size, mark, sizeof mark);
    }
    runner->sent_messages += count;
    runner->to_send -= count;
    for (size_t at = 0; at < count * size;) {
        ssize_t n = send(runner->fd, sent + at, count * size - at, MSG_NOSIGNAL);
        if (n < 0)
            die("send");
        at += n;
    }
}

/* Returns how many whole messages came with this read. */
static uint32_t take_answers(struct runner *runner, uint32_t client)
{
    ssize_t n = recv(runner->fd, got, size * pipeline, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n < 0)
        die("recv");
    if (n == 0) {
        fprintf(stderr, "client %u: the server closed after %llu bytes\n", client, (unsigned long long)runner->got_bytes);
        exit(1);
    }
    uint64_t before = runner->got_bytes / size;
    for (ssize_t at = 0; at < n;) {
        size_t inside = runner->got_bytes % size, length = size - inside;
        if (length > (size_t)(n - at))
            length = n - at;
        uint32_t mark[2] = { client, (uint32_t)(runner->got_bytes / size) };
        memcpy(sent, mark, sizeof mark);
        if (memcmp(sent + inside, got + at, length) != 0) {
            fprintf(stderr, "client %u, message %u: the answer is not what was sent\n", client, mark[1]);
            exit(1);
        }
        at += length;
        runner->got_bytes += length;
    }
    return runner->got_bytes / size - before;
}

/* All clients, `rounds` times `pipeline` messages each; ends when all are answered. */
static void run_free(struct runner *runners, uint32_t clients, uint32_t rounds, int poller)
{
    uint64_t open = (uint64_t)clients * rounds * pipeline;
    for (uint32_t i = 0; i < clients; i++) {
        runners[i].to_send = rounds * pipeline;
        ask_more(&runners[i], i, pipeline);
    }
    while (open > 0) {
        struct epoll_event events[256];
        int count = epoll_wait(poller, events, 256, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            uint32_t client = events[i].data.u32;
            uint32_t answered = take_answers(&runners[client], client);
            open -= answered;
            if (answered > 0 && runners[client].to_send > 0)
                ask_more(&runners[client], client, answered);
        }
    }
}

static void free_running(const int *fds, uint32_t clients, uint32_t warmup, uint32_t rounds)
{
    struct runner *runners = calloc(clients, sizeof *runners);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (!runners || poller < 0)
        die("start");
    for (uint32_t i = 0; i < clients; i++) {
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };
        runners[i].fd = fds[i];
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &event) < 0)
            die("epoll_ctl");
    }
    if (warmup > 0)
        run_free(runners, clients, warmup, poller);
    uint64_t start = now_ns();
    run_free(runners, clients, rounds, poller);
    report(now_ns() - start, (uint64_t)clients * rounds * pipeline, NULL, 0);
}

static void usage(const char *name)
{
    fprintf(stderr,
            "usage: %s SOCKET [-c CLIENTS] [-n ROUNDS] [-s SIZE] [-p PIPELINE] [-w WARMUP_ROUNDS]\n"
            "       [--free] [--idle N] [--churn N] [--pingpong] [--spin] [--settle] [--hold]\n"
            "  --free      each client asks again as soon as it is answered; messages of 8 bytes or more\n"
            "  --idle N    N more clients that are answered once and then stay silent\n"
            "  --churn N   instead of rounds: N times connect, one request, close\n"
            "  --pingpong  one client; also the percentiles of a round trip\n"
            "  --spin      do not sleep while waiting for an answer\n"
            "  --settle    between rounds, wait until the server sleeps; for counting, not for timing\n"
            "  --hold      stay connected after the report, until stdin ends\n",
            name);
    exit(2);
}

int main(int argc, char **argv)
{
    uint32_t clients = 1, rounds = 1000, warmup = 0, idle = 0, churns = 0;
    int pingpong = 0, hold = 0, settles = 0, frees = 0, option;
    static const struct option longs[] = {
        { "free", no_argument, NULL, 'f' },
        { "idle", required_argument, NULL, 'i' }, { "churn", required_argument, NULL, 'x' },
        { "pingpong", no_argument, NULL, 'l' },   { "hold", no_argument, NULL, 'h' },
        { "settle", no_argument, NULL, 't' },     { "spin", no_argument, NULL, 'y' },
        { NULL, 0, NULL, 0 },
    };
    while ((option = getopt_long(argc, argv, "c:n:s:p:w:", longs, NULL)) != -1) {
        switch (option) {
        case 'c': clients = atoi(optarg); break;
        case 'n': rounds = atoi(optarg); break;
        case 's': size = atoi(optarg); break;
        case 'p': pipeline = atoi(optarg); break;
        case 'w': warmup = atoi(optarg); break;
        case 'f': frees = 1; break;
        case 'i': idle = atoi(optarg); break;
        case 'x': churns = atoi(optarg); break;
        case 'l': pingpong = 1; break;
        case 'h': hold = 1; break;
        case 't': settles = 1; break;
        case 'y': spins = 1; break;
        default: usage(argv[0]);
        }
    }
    if (optind != argc - 1 || size == 0 || pipeline == 0 || (pingpong && clients != 1) ||
        (frees && (size < 8 || pingpong || settles || spins)))
        usage(argv[0]);
    if (size * pipeline > BURST_BYTES_MAX) {
        fprintf(stderr, "SIZE x PIPELINE is %zu bytes; the limit is %d\n", size * pipeline, BURST_BYTES_MAX);
        return 2;
    }
    path = argv[optind];
    sent = malloc(size * pipeline);
    got = malloc(size * pipeline);
    int *fds = calloc(clients + idle + 1, sizeof *fds);
    uint64_t *latencies_ns = pingpong ? calloc(rounds, sizeof *latencies_ns) : NULL;
    if (!sent || !got || !fds || (pingpong && !latencies_ns))
        die("malloc");
    for (size_t i = 0; i < size * pipeline; i++) {
        /* Free-running: each answer is compared with the first message: messages differ only in their marks. */
        size_t at = frees ? i % size : i;
        sent[i] = (char)(at * 131 + at / 251);
    }

    if (settles)
        watch_server();
    if (churns > 0)
        churn(churns);
    for (uint32_t i = 0; i < idle; i++) {
        int fd = connect_unix();
        ask(fd, clients + i, 0);
        collect(fd, clients + i, 0);
    }
    if (churns == 0) {
        for (uint32_t i = 0; i < clients; i++)
            fds[i] = connect_unix();
        if (frees)
            free_running(fds, clients, warmup, rounds);
        else
            burst(fds, clients, warmup, rounds, latencies_ns);
    }
    while (hold && getchar() != EOF)
        ;
    return 0;
}
