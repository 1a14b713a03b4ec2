/* A client in plain C: asks, shuts down its sending side, and reads until the server closes. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char buffer[256];
    ssize_t len;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (argc != 3 || fd == -1)
        return 2;
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == -1) {
        perror("connect");
        return 1;
    }
    if (send(fd, argv[2], strlen(argv[2]), 0) == -1 || shutdown(fd, SHUT_WR) == -1) {
        perror("send");
        return 1;
    }
    while ((len = recv(fd, buffer, sizeof buffer, 0)) > 0)
        fwrite(buffer, 1, len, stdout);
    return len == 0 ? 0 : 1;
}
