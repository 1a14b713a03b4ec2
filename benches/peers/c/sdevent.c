/* sd-event: level-triggered, one recv and one send a dispatch; the interest changes to writing while the
 * peer does not read its answers. */
#include "peer.h"
#include <sys/epoll.h>
#include <systemd/sd-event.h>

struct client {
    sd_event_source *source;
    char *unsent;
    size_t at, length;
};

static char buffer[BUFFER_BYTES];

static int drop(struct client *client)
{
    /* The source owns the descriptor: the last reference closes it. */
    sd_event_source_disable_unref(client->source);
    free(client->unsent);
    free(client);
    return 0;
}

static ssize_t send_some(int fd, const char *bytes, size_t length)
{
    ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
    return sent < 0 && errno == EAGAIN ? 0 : sent;
}

static int flush(struct client *client, int fd)
{
    ssize_t sent = send_some(fd, client->unsent + client->at, client->length - client->at);
    if (sent < 0)
        return drop(client);
    client->at += sent;
    if (client->at < client->length)
        return 0;
    free(client->unsent);
    client->unsent = NULL;
    return sd_event_source_set_io_events(client->source, EPOLLIN);
}

static int on_ready(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    struct client *client = userdata;
    (void)events;
    if (client->unsent)
        return flush(client, fd);
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        return drop(client);
    ssize_t sent = send_some(fd, buffer, got);
    if (sent == got)
        return 0;
    if (sent < 0 || !(client->unsent = malloc(got - sent)))
        return drop(client);
    memcpy(client->unsent, buffer + sent, got - sent);
    client->at = 0;
    client->length = got - sent;
    return sd_event_source_set_io_events(source, EPOLLOUT);
}

static int on_connection(sd_event_source *source, int listener, uint32_t events, void *userdata)
{
    (void)events, (void)userdata;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return 0;
    struct client *client = calloc(1, sizeof *client);
    if (!client || sd_event_add_io(sd_event_source_get_event(source), &client->source, fd, EPOLLIN, on_ready, client) < 0) {
        free(client);
        close(fd);
        return 0;
    }
    return sd_event_source_set_io_fd_own(client->source, 1);
}

int main(int argc, char **argv)
{
    const char *path = only_argument(argc, argv);
    sd_event *event;
    block_end_signals();
    if (sd_event_default(&event) < 0 || sd_event_add_signal(event, NULL, SIGTERM, NULL, NULL) < 0
        || sd_event_add_signal(event, NULL, SIGINT, NULL, NULL) < 0
        || sd_event_add_io(event, NULL, listen_unix(path), EPOLLIN, on_connection, NULL) < 0)
        die("start");
    say_ready();
    int result = sd_event_loop(event);
    remove_path(path);
    return result < 0;
}
