/* libevent: a bufferevent for each client, input moved to output. bufferevent decides how much is read at once
 * (16 KiB) and when to write. */
#include "peer.h"
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

/* Unsent answers above this stop the reading until they are gone. */
#define OUTPUT_BYTES_MAX (256 * 1024)

static void on_drained(struct bufferevent *client, void *unused);
static void on_event(struct bufferevent *client, short what, void *unused);

static void on_read(struct bufferevent *client, void *unused)
{
    struct evbuffer *output = bufferevent_get_output(client);
    (void)unused;
    evbuffer_add_buffer(output, bufferevent_get_input(client));
    if (evbuffer_get_length(output) > OUTPUT_BYTES_MAX) {
        bufferevent_disable(client, EV_READ);
        bufferevent_setcb(client, on_read, on_drained, on_event, NULL);
    }
}

static void on_event(struct bufferevent *client, short what, void *unused)
{
    (void)unused;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
        bufferevent_free(client);
}

static void on_drained(struct bufferevent *client, void *unused)
{
    (void)unused;
    bufferevent_setcb(client, on_read, NULL, on_event, NULL);
    bufferevent_enable(client, EV_READ);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length, void *unused)
{
    (void)address, (void)length, (void)unused;
    struct bufferevent *client = bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE);
    if (!client) {
        close(fd);
        return;
    }
    bufferevent_setcb(client, on_read, NULL, on_event, NULL);
    bufferevent_enable(client, EV_READ | EV_WRITE);
}

static void on_signal(evutil_socket_t number, short what, void *base)
{
    (void)number, (void)what;
    event_base_loopbreak(base);
}

int main(int argc, char **argv)
{
    const char *path = only_argument(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    struct event_base *base = event_base_new();
    struct event *term = evsignal_new(base, SIGTERM, on_signal, base);
    struct event *interrupt = evsignal_new(base, SIGINT, on_signal, base);
    struct evconnlistener *listener = evconnlistener_new(base, on_accept, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC,
                                                         0, listen_unix(path));
    if (!listener || event_add(term, NULL) < 0 || event_add(interrupt, NULL) < 0)
        die("start");
    say_ready();
    event_base_dispatch(base);
    evconnlistener_free(listener);
    event_free(term);
    event_free(interrupt);
    event_base_free(base);
    remove_path(path);
    return 0;
}
