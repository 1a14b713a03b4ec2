/* libuv: one shared read buffer, uv_try_write first, a queued uv_write for what the peer does not take. */
#include "peer.h"
#include <uv.h>

struct unsent {
    uv_write_t request;
    char bytes[];
};

static char buffer[BUFFER_BYTES];
static const char *path;

static void lend(uv_handle_t *client, size_t suggested, uv_buf_t *out)
{
    (void)client, (void)suggested;
    *out = uv_buf_init(buffer, sizeof buffer);
}

static void on_closed(uv_handle_t *client)
{
    free(client);
}

static void drop(uv_stream_t *client)
{
    if (!uv_is_closing((uv_handle_t *)client))
        uv_close((uv_handle_t *)client, on_closed);
}

static void on_read(uv_stream_t *client, ssize_t got, const uv_buf_t *lent);

static void on_written(uv_write_t *request, int status)
{
    uv_stream_t *client = request->handle;
    if (status < 0)
        drop(client);
    else
        uv_read_start(client, lend, on_read);
    free(request);
}

static void on_read(uv_stream_t *client, ssize_t got, const uv_buf_t *lent)
{
    if (got == 0)
        return;
    if (got < 0)
        return drop(client);
    uv_buf_t answer = uv_buf_init(lent->base, got);
    int sent = uv_try_write(client, &answer, 1);
    if (sent == got)
        return;
    if (sent < 0 && sent != UV_EAGAIN)
        return drop(client);
    if (sent < 0)
        sent = 0;
    struct unsent *rest = malloc(sizeof *rest + got - sent);
    if (!rest)
        return drop(client);
    memcpy(rest->bytes, lent->base + sent, got - sent);
    answer = uv_buf_init(rest->bytes, got - sent);
    uv_read_stop(client);
    if (uv_write(&rest->request, client, &answer, 1, on_written) < 0) {
        free(rest);
        drop(client);
    }
}

static void on_connection(uv_stream_t *server, int status)
{
    uv_pipe_t *client = status < 0 ? NULL : malloc(sizeof *client);
    if (!client)
        return;
    uv_pipe_init(server->loop, client, 0);
    if (uv_accept(server, (uv_stream_t *)client) < 0)
        return drop((uv_stream_t *)client);
    uv_read_start((uv_stream_t *)client, lend, on_read);
}

static void on_signal(uv_signal_t *signal, int number)
{
    (void)number;
    remove_path(path);
    uv_stop(signal->loop);
}

int main(int argc, char **argv)
{
    path = only_argument(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    uv_loop_t *loop = uv_default_loop();
    uv_pipe_t server;
    uv_signal_t term, interrupt;
    uv_pipe_init(loop, &server, 0);
    uv_signal_init(loop, &term);
    uv_signal_init(loop, &interrupt);
    /* Not uv_pipe_bind: that takes no abstract address before 1.46. */
    if (uv_pipe_open(&server, listen_unix(path)) < 0 || uv_listen((uv_stream_t *)&server, SOMAXCONN, on_connection) < 0
        || uv_signal_start(&term, on_signal, SIGTERM) < 0 || uv_signal_start(&interrupt, on_signal, SIGINT) < 0)
        die("start");
    say_ready();
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}
