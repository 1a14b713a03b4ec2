/* Passes a pipe's writing end with "read 1" as a seqpacket record, and takes two descriptors back. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CHECK(condition) do { if (!(condition)) { perror(#condition); exit(1); } } while (0)

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int s = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    CHECK(connect(s, (struct sockaddr *)&address, sizeof address) == 0);

    int file = memfd_create("text", 0);
    CHECK(write(file, "from C", 6) == 6);

    union { struct cmsghdr align; char room[CMSG_SPACE(4 * sizeof(int))]; } control;
    memset(&control, 0, sizeof control);
    char bytes[64] = "read 1";
    struct iovec part = { bytes, 6 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                              .msg_controllen = CMSG_SPACE(sizeof(int)) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &file, sizeof file);
    CHECK(sendmsg(s, &message, 0) == 6);

    ssize_t got = recv(s, bytes, sizeof bytes, 0);
    CHECK(got > 0);
    fwrite(bytes, 1, got, stdout);

    CHECK(send(s, "d2:9", 4, 0) == 4);
    part.iov_len = sizeof bytes;
    message.msg_controllen = sizeof control;
    CHECK(recvmsg(s, &message, 0) == 9);
    CHECK((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0);
    c = CMSG_FIRSTHDR(&message);
    CHECK(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(2 * sizeof(int)));
    int files[2];
    memcpy(files, CMSG_DATA(c), sizeof files);
    for (int i = 0; i < 2; i++) {
        char text[64];
        got = pread(files[i], text, sizeof text, 0);
        CHECK(got > 0);
        printf("%.*s\n", (int)got, text);
    }
    return 0;
}
