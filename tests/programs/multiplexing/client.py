"""A client in Python: python3 client.py ADDRESS. Exits 0 if every answer was right."""
import socket
import sys

kind, _, rest = sys.argv[1].partition(":")
if kind == "tcp":
    host, _, port = rest.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=20)
else:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(rest if kind == "unix" else "\0" + rest)

for message in (b"one", b"two\0with a NUL", bytes(range(256)) * 100):
    client.sendall(message)
    answer = b""
    while len(answer) < len(message):
        part = client.recv(65536)
        assert part, "closed before the whole answer"
        answer += part
    assert answer == message, "a wrong answer"

client.sendall(b"last")
client.shutdown(socket.SHUT_WR)
answer = b""
while part := client.recv(65536):
    answer += part
assert answer == b"last", f"{answer!r} after the half-close"
