"""What is compared: the servers, the cases, the limits. Everything else reads these tables."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
C = HERE / "target/c"
RUST = HERE / "target/release"
EXAMPLES = HERE.parent.parent / "target/release/examples"

# The server that all rates are ratios to, and whose repetitions tell the noise.
REFERENCE = "epoll"
OURS = "ipc-reactor"
OURS_FRAMED = f"{OURS} +frames"
ICEORYX2 = "iceoryx2"


@dataclass(frozen=True)
class Server:
    name: str
    binary: Path
    about: str
    address: str = "{path}"  # how the program wants its socket's path
    options: tuple = ()
    # What burst is told beside the case's own arguments.
    client: tuple = ()
    # The only cases it is for; all, if none is named.
    only: tuple = ()

    def takes(self, case):
        return not self.only or case in self.only

    @property
    def base(self):
        """The name without what makes it a variant."""
        return self.name.partition(" +")[0]

    @property
    def is_ours(self):
        return self.base == OURS


def ours(name, about, **variant):
    return Server(name, EXAMPLES / "echo", about, "unix:{path}", **variant)


SPIN = ("--spin", "200")

SERVERS = [
    Server(REFERENCE, C / "epoll", "C on bare epoll, edge-triggered: the limit"),
    ours(OURS, "examples/echo.rs"),
    ours(OURS_FRAMED, "the same, whole frames of 64 bytes", options=("--frame", "64"), only=("pipelined",)),
    ours(f"{OURS} +spin", "the same, spinning for 200 µs at most", options=SPIN, only=("pingpong",)),
    ours(
        f"{OURS} +spin, client too",
        "the same, and the client does not sleep either",
        options=SPIN,
        client=("--spin",),
        only=("pingpong",),
    ),
    Server("mio", RUST / "mio", "Rust, read until WouldBlock"),
    Server("calloop", RUST / "calloop", "Rust, level-triggered"),
    Server("tokio", RUST / "tokio", "Rust, current-thread, 8 KiB a task"),
    Server("monoio", RUST / "monoio", "Rust, io_uring, 8 KiB a task"),
    Server("libuv", C / "libuv", "C, shared buffer, uv_try_write"),
    Server("libevent", C / "libevent", "C, bufferevent"),
    Server("sd-event", C / "sdevent", "C, level-triggered"),
]


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    clients: int = 1
    size: int = 64
    pipeline: int = 1
    idle: int = 0
    churn: bool = False
    cross_core: bool = False
    # Each client asks again as soon as it is answered. What the server finds when it wakes is then the scheduler's
    # doing: so no count is exact, and the policy is part of the case.
    free: bool = False
    ordinary: bool = False  # SCHED_OTHER, and not SCHED_BATCH as in all other cases
    # Rounds: a short and a long run to count in, and one to time; 0 if that would say nothing new.
    short: int = 10
    long: int = 60
    timed: int = 300
    # Where counting would take long and say nothing new, it is only timed.
    counted: bool = True

    def load(self, rounds, warmup=0):
        """The arguments of burst."""
        if self.churn:
            return ["-s", str(self.size), "--churn", str(rounds)]
        args = ["-c", str(self.clients), "-n", str(rounds), "-s", str(self.size), "-p", str(self.pipeline)]
        args += ["-w", str(warmup)] if warmup else []
        args += ["--idle", str(self.idle)] if self.idle else []
        args += ["--free"] if self.free else []
        return args + (["--pingpong"] if self.cross_core else [])

    @property
    def descriptors(self):
        return self.clients + self.idle + 64


CASES = [
    Case("1", "1 client", short=200, long=1200, timed=10000),
    Case("64", "64 clients", clients=64, short=20, long=120, timed=300),
    Case("1000", "1,000 clients", clients=1000, short=5, long=25, timed=25),
    Case("10000", "10,000 clients", clients=10000, timed=10, counted=False),
    Case("pipelined", "64 clients × 16 pipelined", clients=64, pipeline=16, timed=150),
    Case("64k", "64 KiB messages, 8 clients", clients=8, size=65536, timed=300),
    Case("100", "100 clients", clients=100, short=5, long=25, timed=0),
    Case("idle", "10,000 idle + 100 active", clients=100, idle=10000, short=5, long=25, timed=200),
    Case("churn", "connect, 1 request, close", churn=True, short=100, long=600, timed=3000),
    Case(
        "free",
        "8 clients × 16, running free, SCHED_OTHER",
        clients=8,
        pipeline=16,
        free=True,
        ordinary=True,
        timed=4000,
        counted=False,
    ),
    Case(
        "free-batch",
        "8 clients × 16, running free, SCHED_BATCH",
        clients=8,
        pipeline=16,
        free=True,
        timed=4000,
        counted=False,
    ),
    Case("pingpong", "1 client on another core", cross_core=True, timed=3000),
]

# Not a load on an echo server, so in tables of their own.
EXTRAS = ["memory", "queue", "shm"]

IDLE_FOR_MEMORY = 10000

# The receivers of a queue, and the programs that share memory; the first of each is the reference.
QUEUES = [
    Server("C", C / "queue", "", options=("recv",)),
    Server(OURS, EXAMPLES / "peer_queue", ""),
]
SHM = [
    Server("C", C / "shm", "a seqlock by hand, and an eventfd"),
    Server(OURS, EXAMPLES / "peer_shm", ""),
    Server(ICEORYX2, RUST / "iceoryx2", ""),
]


@dataclass(frozen=True)
class Gate:
    """To hold what a change has reached, lower `limit` in the gate's line below; nothing else names it."""

    case: str
    metric: str
    limit: float
    # Limits to three decimals are of counts that are exact: 2.016 is 2 + 1/64.
    slack: float = 0.0
    server: str = OURS
    # What it should come to, where the limit only holds what has been reached.
    goal: float | None = None


EXACT = 0.0005

GATES = [
    Gate("1", "syscalls", 3.000, EXACT),
    Gate("1", "instructions", 257, goal=200),
    Gate("64", "syscalls", 2.016, EXACT),
    Gate("64", "instructions", 157, goal=150),
    Gate("1000", "syscalls", 2.002, EXACT),
    Gate("pipelined", "syscalls", 0.126, EXACT),
    Gate("pipelined", "instructions", 9.8, goal=9),
    Gate("pipelined", "syscalls", 0.126, EXACT, OURS_FRAMED),
    Gate("pipelined", "instructions", 43.8, server=OURS_FRAMED, goal=40),
    Gate("64k", "syscalls", 2.125, EXACT),
    Gate("churn", "syscalls", 9.000, EXACT),
    Gate("churn", "instructions", 3000, goal=2000),
    Gate("memory", "bytes", 100),
    Gate("queue", "syscalls", 1.01),
    Gate("shm", "instructions", 145),
    Gate("shm", "syscalls awake", 0, EXACT),
    # A write of the publisher's, an epoll_wait of the subscriber's; the doorbell is not read.
    Gate("shm", "syscalls asleep", 2, EXACT),
]


@dataclass(frozen=True)
class Flat:
    """A message must not cost more than in the base case. Less is fine: a larger batch shares the price of a turn, and
    the smaller the price of a message, the more that shows.
    """

    case: str
    base: str
    metric: str
    limit: float = 0.01


FLAT = [
    Flat("1000", "64", "instructions"),
    Flat("idle", "100", "syscalls"),
    Flat("idle", "100", "instructions"),
]
