//! A subscriber that knows nothing of this crate: Python, with the documented layout and `SCM_RIGHTS`.

use std::process::{Command, Stdio};

use ipc_reactor::{Address, Limits};

use crate::support::shm::{KillOnDrop, skip};
use crate::support::turns::until;
use crate::support::world::{World, address, numbers, publishing_at};

const PYTHON: &str = r#"
import array, mmap, os, select, socket, struct, sys

link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
ticket, fds, flags, _ = socket.recv_fds(link, 16, 3)
magic, version, count, start = struct.unpack("=4sHHQ", ticket)
assert (magic, version, count, len(fds), flags) == (b"shmT", 1, 3, 3, 0), (ticket, fds, flags)
segment_fd, page_fd, doorbell = fds

size = os.fstat(segment_fd).st_size
segment = mmap.mmap(segment_fd, size, prot=mmap.PROT_READ)
page = mmap.mmap(page_fd, 4096)
word = lambda at: struct.unpack_from("=Q", segment, at * 8)[0]
assert word(0).to_bytes(8, "big") == b"ipc-shm\x01"
payload_max, slots, segment_size = word(2), word(3), word(5)
assert segment_size == size
slot_words = (size // 8 - 32) // slots

# Nothing that is given to a subscriber lets it write a value.
for attempt in [
    lambda: mmap.mmap(segment_fd, size, prot=mmap.PROT_READ | mmap.PROT_WRITE),
    lambda: os.pwrite(segment_fd, b"x" * 8, 16 * 8),
    lambda: os.truncate(segment_fd, 0),
    lambda: mmap.mmap(os.open(f"/proc/self/fd/{segment_fd}", os.O_RDWR), size),
]:
    try:
        attempt()
    except (PermissionError, OSError) as error:
        assert error.errno in (1, 13, 9), error
    else:
        sys.exit("a subscriber could write the segment")

events = select.epoll()
events.register(doorbell, select.EPOLLIN | select.EPOLLET)
events.register(link, select.EPOLLRDHUP)
seen = start
heard = []
while True:
    while word(16) > seen:
        seen += 1
        at = 32 + seen % slots * slot_words
        length = word(at + slot_words - 1)
        heard.append(segment[at * 8:at * 8 + length].decode())
        if heard[-1] == "end":
            print(" ".join(heard))
            sys.exit(0)
    struct.pack_into("=Q", page, 0, 1)
    if word(16) > seen:
        continue
    print("asleep", flush=True)
    if link.fileno() in [fd for fd, _ in events.poll()]:
        sys.exit("the publisher is gone")
"#;

#[test]
fn python_follows_by_the_documented_layout_and_cannot_write() {
    let (_folder, address) = address();
    let Address::UnixStream(path) = &address else { unreachable!() };
    let mut reactor = publishing_at(&address, Limits::default());
    let mut world = World::new(numbers(7));
    let mut python = Command::new("python3");
    python.arg("-S").args(["-c", PYTHON]).arg(path).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut python = match python.spawn() {
        Ok(child) => KillOnDrop(child),
        Err(e) => return skip(&format!("a peer in Python takes python3: {e}")),
    };
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 1);
    // The ticket is sent when this turn is over.
    let _ = reactor.turn(Some(std::time::Duration::ZERO), &mut world).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(python.0.stdout.take().unwrap()));
    for text in ["one", "two", "", "four", "end"] {
        // Each is published while the subscriber sleeps: without a ring it would not wake.
        assert_eq!(lines.next().unwrap().unwrap(), "asleep");
        world.publisher.publish(text.as_bytes()).unwrap();
    }
    assert_eq!(lines.next().unwrap().unwrap(), "one two  four end");
    assert!(python.0.wait().unwrap().success());
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 0);
}
