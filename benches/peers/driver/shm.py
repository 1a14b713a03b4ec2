"""Shared memory: a value of 64 bytes from one side to the other."""

from .process import calls_of, instructions_of, pinned, report_of

# The lengths of the counted runs.
FEW, MANY = 1000, 11000
# The calls with which the publisher checks that the other side sleeps.
AWAIT_SLEEP = ("pread64", "clock_nanosleep")

# What is timed: its key, whether more is better (None: neither), its unit, its title.
TIMED = [
    ("loop_ns", False, "ns", "publish and receive, one process"),
    ("spin_p50_ns", False, "ns", "one way, both spin, p50"),
    ("spin_p99_ns", False, "ns", "one way, both spin, p99"),
    ("flood_rate", True, "M/s", "flood, published"),
    ("flood_received", None, "", "of a flood, received"),
    ("one_core_ns", False, "ns", "round trip, woken, one core"),
    ("two_cores_ns", False, "ns", "round trip, woken, two cores"),
]


def instructions(program, cpu):
    """User instructions to publish a value and receive it."""
    few, many = (instructions_of(cpu, [program.binary, "loop", count]) for count in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def syscalls_awake(program, cpu):
    """System calls for a value to a subscriber that does not sleep."""
    few, many = (sum(calls_of(cpu, [program.binary, "loop", count]).values()) for count in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def calls_asleep(program, cpu):
    """System calls, by name, for a value to a subscriber that sleeps: both sides together."""
    few, many = (calls_of(cpu, [program.binary, "wake", count]) for count in (FEW // 5, MANY // 5))
    values = MANY // 5 - FEW // 5
    by_name = {name: (count - few.get(name, 0)) / values for name, count in many.items()}
    return {name: count for name, count in by_name.items() if count and name not in AWAIT_SLEEP}


def timed(program, cpu, other_cpu, shorter):
    """Measures all of TIMED; what needs a second core only if there is one."""

    def report(mode, count, *cpu_of_other):
        return report_of([*pinned(cpu), program.binary, mode, count // shorter, *cpu_of_other])

    def each_ns(report):
        return report["elapsed_ns"] / report["messages"]

    values = {
        "loop_ns": each_ns(report("loop", 1_000_000)),
        "one_core_ns": each_ns(report("pingpong", 8_000)),
    }
    if other_cpu is not None:
        spin = report("spin", 200_000, other_cpu)
        flood = report("flood", 2_000_000, other_cpu)
        values |= {
            "two_cores_ns": each_ns(report("pingpong", 4_000, other_cpu)),
            "spin_p50_ns": spin["p50_ns"],
            "spin_p99_ns": spin["p99_ns"],
            "flood_rate": flood["messages"] * 1e9 / flood["elapsed_ns"],
            "flood_received": flood["received"] / flood["messages"],
        }
    return values
