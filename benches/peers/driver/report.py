"""What is said of the numbers: ratios and their noise, the tables, the document, the plot."""

import math
import os
import platform
import re
import statistics
import subprocess
from datetime import datetime, timezone
from xml.sax.saxutils import escape

from .table import CASES, HERE, IDLE_FOR_MEMORY, OURS, REFERENCE, SERVERS


def rates(run, case, repetitions):
    """Ratios to the reference, paired within each repetition, and the reference against itself."""
    itself, ratios, reports = [], {}, {}
    for row in repetitions:
        for name, report in row:
            if report:
                reports.setdefault(name, []).append(report)
        first, last = row[0][1], row[-1][1]
        if not first or not last:
            continue
        itself.append(last["rate"] / first["rate"])
        middle = math.sqrt(first["rate"] * last["rate"])
        for name, report in row[1:-1]:
            if report:
                ratios.setdefault(name, []).append(report["rate"] / middle)
    if itself:
        run.noise[case] = max(abs(ratio - 1) for ratio in itself)
    for name, values in ratios.items():
        run.keep(
            case,
            name,
            "ratio",
            {"median": statistics.median(values), "low": min(values), "high": max(values)},
        )
    for name, all_of_it in reports.items():
        for key in ("rate", "p50_ns", "p99_ns"):
            values = [report[key] for report in all_of_it if key in report]
            if values:
                run.keep(case, name, key, statistics.median(values))


def ratio_text(run, case, ratio):
    """A ratio closer to 1 than the reference comes to itself says nothing."""
    if ratio is None:
        return "-"
    if abs(ratio["median"] - 1) <= run.noise.get(case, math.inf):
        return "noise"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def number(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def grid(title, header, rows):
    print(f"\n{title}")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print(
            "  "
            + "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            )
        )


def tables(run):
    counted = [case for case in CASES if case.name in run.values]
    names = [server.name for server in SERVERS if any(server.name in run.values[c] for c in run.values)]

    def table(title, cases, metric, text):
        cases = [c for c in cases if any(metric in values for values in run.values[c.name].values())]
        if not cases:
            return
        rows = [
            [name] + [text(c.name, run.values[c.name].get(name, {}).get(metric)) for c in cases]
            for name in names
        ]
        grid(title, [""] + [c.name for c in cases], rows)

    table("Syscalls a message", counted, "syscalls", lambda _, v: number(v, 3))
    table(
        "User instructions a message",
        counted,
        "instructions",
        lambda _, v: number(v, 0 if v and v >= 20 else 1),
    )
    one_core = [case for case in counted if not case.cross_core]
    table(
        f"Rate, as a ratio to {REFERENCE} on one core (lowest–highest of the repetitions)",
        one_core,
        "ratio",
        lambda case, v: ratio_text(run, case, v),
    )
    if "pingpong" in run.values:
        rows = [
            [
                name,
                number(run.values["pingpong"].get(name, {}).get("p50_ns"), 0),
                number(run.values["pingpong"].get(name, {}).get("p99_ns"), 0),
            ]
            for name in names
        ]
        grid("Round trip across cores, ns (median of the repetitions)", ["", "p50", "p99"], rows)
    if "memory" in run.values:
        rows = [[name, number(run.values["memory"].get(name, {}).get("bytes"), 0)] for name in names]
        grid(
            f"Private bytes an idle client ({IDLE_FOR_MEMORY:,} of them, each answered once)",
            ["", "bytes"],
            rows,
        )
    for case, title in [("queue", "POSIX queue, one core"), ("shm", "Shared memory")]:
        for name, values in run.values.get(case, {}).items():
            grid(title, ["", *values], [[name] + [number(v, 3 if v < 100 else 0) for v in values.values()]])
    if run.noise:
        print(f"\nNoise: how far {REFERENCE} came from itself within a repetition, at most")
        for case, noise in run.noise.items():
            print(
                f"  {case:<10} ±{100 * noise:.0f} %"
                + ("   a noisy machine: read no small difference" if noise > 0.1 else "")
            )
    for note in run.notes:
        print(f"!! {note}")


def output_of(*command):
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()[0]
        )
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None


def document(run):
    lock = (HERE / "Cargo.lock").read_text()
    crates = {}
    for name, version in re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"', lock):
        if name in ("mio", "tokio", "calloop", "monoio", "iceoryx2"):
            crates.setdefault(name, []).append(version)
    cpu = re.search(r"^model name\s*:\s*(.*)$", open("/proc/cpuinfo").read(), re.M)
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu[1] if cpu else platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "load": os.getloadavg(),
        },
        "versions": {
            "gcc": output_of("gcc", "-dumpfullversion"),
            "rustc": output_of("rustc", "--version"),
            "strace": output_of("strace", "-V"),
            "valgrind": output_of("valgrind", "--version"),
            "libuv": output_of("pkg-config", "--modversion", "libuv"),
            "libevent": output_of("pkg-config", "--modversion", "libevent"),
            "libsystemd": output_of("pkg-config", "--modversion", "libsystemd"),
            # More than one version of mio: monoio brings an older one, which the mio server does not use.
            **crates,
        },
        "repetitions": run.args.reps,
        "quick": run.args.quick,
        "noise": run.noise,
        "values": run.values,
        "notes": run.notes,
    }


def svg(run):
    """For each case a row of bars a server; for each metric a column, with its own scale in each case."""
    columns = [
        ("syscalls", "syscalls a message", lambda v: v, lambda c, v: number(v, 3)),
        (
            "instructions",
            "user instructions a message",
            lambda v: v,
            lambda c, v: number(v, 1 if v < 20 else 0),
        ),
        (
            "ratio",
            f"rate, {REFERENCE} = 1",
            lambda v: v["median"],
            lambda c, v: ratio_text(run, c, v).split(" ")[0],
        ),
    ]
    left, column, bar, step = 110, 270, 13, 17
    body, y = [], 34
    for i, (_, title, _, _) in enumerate(columns):
        body.append(f'<text x="{left + i * column}" y="20" class="head">{escape(title)}</text>')
    for case in CASES:
        values = run.values.get(case.name)
        if not values or case.cross_core:
            continue
        names = [server.name for server in SERVERS if server.name in values]
        body.append(f'<text x="8" y="{y + 14}" class="head">{escape(case.title)}</text>')
        y += 22
        tops = [
            max((at(v[key]) for v in values.values() if key in v), default=0) for key, _, at, _ in columns
        ]
        for name in names:
            kind = "ours" if name == OURS else "reference" if name == REFERENCE else "peer"
            body.append(f'<text x="{left - 8}" y="{y + 11}" class="name {kind}">{escape(name)}</text>')
            for i, ((key, _, at, text), top) in enumerate(zip(columns, tops)):
                value = values[name].get(key)
                x = left + i * column
                if value is None:
                    if key == "ratio" and name == REFERENCE and tops[i]:
                        value = {"median": 1.0}
                        width, label = 180 / top, "1"
                    else:
                        body.append(f'<text x="{x}" y="{y + 11}" class="none">not measured</text>')
                        continue
                else:
                    width, label = 180 * at(value) / top if top else 0, text(case.name, value)
                if label == "noise":
                    body.append(f'<text x="{x}" y="{y + 11}" class="none">≈ 1, within the noise</text>')
                    continue
                body.append(
                    f'<rect x="{x}" y="{y}" width="{max(width, 1):.1f}" height="{bar}" class="{kind}"/>'
                )
                body.append(f'<text x="{x + max(width, 1) + 5:.1f}" y="{y + 11}">{escape(label)}</text>')
            y += step
        y += 14
    style = (
        "text{font:12px sans-serif;fill:#222}.head{font-weight:bold}.name{text-anchor:end}.none{fill:#888}"
        "rect.peer{fill:#9db4c8}rect.reference{fill:#555}rect.ours{fill:#d9541e}text.ours{fill:#d9541e;font-weight:bold}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + 3 * column}" height="{y}" '
        f'viewBox="0 0 {left + 3 * column} {y}"><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )
