"""The report: ratios and their noise, and the tables."""

import math
import statistics

from .shm import TIMED
from .table import CASES, ICEORYX2, IDLE_FOR_MEMORY, OURS, REFERENCE, SERVERS

# With this much noise or more, a run reports that it is noisy.
NOISY = 0.1


def rates(run, case, reference, repetitions):
    """Medians; ratios to the reference, paired within each repetition; and the reference against itself."""
    reports = {}
    for row in repetitions:
        for name, report in row:
            if report:
                reports.setdefault(name, []).append(report)
    timed = [key for key, _, _, _ in TIMED] if case == "shm" else ["rate", "p50_ns", "p99_ns", "batch"]
    for key in timed:
        for name, all_of_it in reports.items():
            values = [report[key] for report in all_of_it if key in report]
            if values:
                run.keep(case, name, key, statistics.median(values))
    if case == "shm":
        for key, more, _, _ in TIMED:
            if more is not None:
                quiet = quieter(run, f"{case} {key}", reference, repetitions, key)
                ratios_of(run, case, quiet, key, f"ratio {key}")
                versus(run, case, OURS, ICEORYX2, quiet, key)
        return
    quiet = quieter(run, case, reference, repetitions, "rate")
    ratios_of(run, case, quiet, "rate", "ratio")
    for server in SERVERS:
        # A variant of ours, compared with ours.
        if server.base == OURS and server.name != OURS:
            versus(run, case, server.name, OURS, quiet, "p50_ns")


def quieter(run, noise_name, reference, repetitions, key):
    """The quieter two thirds of the repetitions: those in which the two runs of the reference differ least. The values
    of the other servers have no influence on the choice.
    """
    rows = []
    for row in repetitions:
        ends = [report.get(key) for name, report in (row[0], row[-1]) if name == reference and report]
        if len(row) > 1 and len(ends) == 2 and all(ends):
            first, last = ends
            values = {name: report[key] for name, report in row[1:-1] if report and report.get(key)}
            rows.append((abs(math.log(last / first)), math.sqrt(first * last), values, row))
    rows.sort(key=lambda row: row[0])
    quiet = rows[: math.ceil(len(rows) * 2 / 3)]
    if quiet:
        within, worst = (math.exp(row[0]) - 1 for row in (quiet[-1], rows[-1]))
        run.noise[noise_name] = {"within": within, "worst": worst}
    return quiet


def ratios_of(run, case, quiet, key, metric):
    ratios = {}
    for _, middle, values, _ in quiet:
        for name, value in values.items():
            ratios.setdefault(name, []).append(value / middle)
    for name, values in ratios.items():
        run.keep(case, name, metric, spread(values))


def versus(run, case, server, base, quiet, key):
    ratios = []
    for _, _, _, row in quiet:
        values = {name: report[key] for name, report in row if report and report.get(key)}
        if server in values and base in values:
            ratios.append(values[server] / values[base])
    if ratios:
        run.keep(case, server, f"to {base} {key}", spread(ratios))


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "of": len(values)}


def is_noise(run, noise_name, ratio):
    """A ratio is noise if it is no further from 1 than two runs of the reference from each other, if its values are on
    both sides of 1, or if it was taken once.
    """
    noise = run.noise.get(noise_name)
    if noise is None or ratio["of"] < 2 or ratio["low"] <= 1 <= ratio["high"]:
        return True
    return abs(math.log(ratio["median"])) <= math.log1p(noise["within"])


def ratio_text(run, noise_name, ratio):
    if ratio is None:
        return "-"
    if is_noise(run, noise_name, ratio):
        return "noise"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def number(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def instructions_text(value):
    return number(value, 0 if value and value >= 20 else 1)


def grid(title, header, rows):
    print(f"\n{title}")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [
            cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))
        ]
        print("  " + "  ".join(cells).rstrip())


def tables(run):
    by_message(run)
    free(run)
    pingpong(run)
    memory(run)
    queue(run)
    shared_memory(run)
    noise(run)
    for note in run.notes:
        print(f"!! {note}")


def by_message(run):
    def table(title, metric, text):
        cases = [
            c.name
            for c in CASES
            if not (c.cross_core or c.free) and any(metric in values for values in run.values.get(c.name, {}).values())
        ]
        names = [s.name for s in SERVERS if any(metric in run.values[c].get(s.name, {}) for c in cases)]
        if cases:
            rows = [[n] + [text(c, run.values[c].get(n, {}).get(metric)) for c in cases] for n in names]
            grid(title, ["", *cases], rows)

    table("Syscalls a message", "syscalls", lambda _, value: number(value, 3))
    table("User instructions a message", "instructions", lambda _, value: instructions_text(value))
    table(
        f"Rate, as a ratio to {REFERENCE} on one core (lowest–highest)",
        "ratio",
        lambda case, ratio: ratio_text(run, case, ratio),
    )


def free(run):
    cases = [case for case in CASES if case.free and run.values.get(case.name)]
    names = [s.name for s in SERVERS if any(s.name in run.values[case.name] for case in cases)]
    header, rows = [""], [[name] for name in names]
    for case in cases:
        header += [f"{case.name}: ratio", "messages a sleep"]
        for row in rows:
            of = run.values[case.name].get(row[0], {})
            row += [ratio_text(run, case.name, of.get("ratio")), number(of.get("batch"), 0)]
    if rows:
        grid(
            f"Clients that run free, on one core: rate as a ratio to {REFERENCE} (lowest–highest), and the batch",
            header,
            rows,
        )


def pingpong(run):
    values = run.values.get("pingpong")
    if not values:
        return
    rows = []
    for name in (server.name for server in SERVERS if server.name in values):
        of = values[name]
        to_ours = ratio_text(run, "pingpong", of.get(f"to {OURS} p50_ns"))
        rows.append([name, number(of.get("p50_ns"), 0), number(of.get("p99_ns"), 0), to_ours])
    header = ["", "p50", "p99", f"p50, as a ratio to {OURS}"]
    if all(row[-1] == "-" for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    grid("Round trip across cores, ns (median of the repetitions)", header, rows)


def memory(run):
    if "memory" in run.values:
        rows = [[name, number(of.get("bytes"), 0)] for name, of in run.values["memory"].items()]
        title = f"Private bytes an idle client ({IDLE_FOR_MEMORY:,} of them, each answered once)"
        grid(title, ["", "bytes"], rows)


def queue(run):
    if "queue" in run.values:
        rows = [
            [
                name,
                number(of.get("syscalls"), 3),
                number(of.get("rate"), 0),
                ratio_text(run, "queue", of.get("ratio")),
            ]
            for name, of in run.values["queue"].items()
        ]
        header = ["", "syscalls a message", "messages a second", "ratio to C"]
        grid("POSIX queue: its receiver, flooded by four senders", header, rows)


def shm_number(unit, value):
    if unit == "M/s":
        return number(None if value is None else value / 1e6, 2)
    if unit == "ns":
        return number(value, 1 if value and value < 100 else 0)
    return "-" if value is None else f"{100 * value:.0f} %"


def shared_memory(run):
    values = run.values.get("shm")
    if not values:
        return
    names = list(values)
    rows = [
        ["user instructions, publish and receive"]
        + [instructions_text(values[n].get("instructions")) for n in names]
    ]
    rows += [["syscalls, subscriber awake"] + [number(values[n].get("syscalls awake"), 3) for n in names]]
    rows += [["syscalls, subscriber asleep"] + [number(values[n].get("syscalls asleep"), 3) for n in names]]
    for key, _, unit, title in TIMED:
        if any(key in values[n] for n in names):
            rows.append(
                [f"{title}, {unit}".rstrip(", ")] + [shm_number(unit, values[n].get(key)) for n in names]
            )
    grid("Shared memory: a value of 64 bytes (medians of the repetitions)", ["", *names], rows)
    for name in names:
        asleep = values[name].get("calls asleep")
        if asleep:
            print(f"  asleep, {name}: " + ", ".join(f"{count:.3f} {call}" for call, count in asleep.items()))
    for base, metric in [("C", "ratio"), (ICEORYX2, f"to {ICEORYX2}")]:
        rows = [
            [
                title,
                ratio_text(run, f"shm {key}", values[OURS][f"{metric} {key}"]),
                "more" if more else "less",
            ]
            for key, more, _, title in TIMED
            if more is not None and f"{metric} {key}" in values.get(OURS, {})
        ]
        if rows:
            grid(
                f"Shared memory: {OURS} as a ratio to {base} (lowest–highest)",
                ["", "ratio", "better is"],
                rows,
            )


def noise(run):
    machine = run.machine
    print(f"\nMachine: load {machine.load_before:.1f} before, {machine.load_after:.1f} after; ", end="")
    print(
        f"{machine.stolen_percent:.1f} % of its time taken by the hypervisor; {run.repetitions} repetitions"
    )
    if not run.noise:
        return
    print(
        "Noise: how far the reference came from itself within a repetition, in the quieter two thirds of them and in"
    )
    print(
        "all. Ratios are of the quieter ones; `noise` stands for one within that, or on both sides of 1, or taken once."
    )
    for name, noise in run.noise.items():
        remark = "   read no small difference" if noise["within"] > NOISY else ""
        print(f"  {name:<20} ±{100 * noise['within']:.0f} %, ±{100 * noise['worst']:.0f} %{remark}")
    worst = max(noise["within"] for noise in run.noise.values())
    if worst > NOISY:
        print(f"A NOISY MACHINE: up to ±{100 * worst:.0f} %. The counts hold all the same.")
