"""The limits on ours. A number that could not be taken fails its gate."""

from .report import grid
from .table import FLAT, GATES, OURS

HEADER = ["gate", "limit", "measured", "goal", ""]
# What a count is by, where that is not a message.
PER = {"churn": "a connection", "memory": "an idle client"}


def cases(asked):
    gated = {gate.case for gate in GATES} | {case for flat in FLAT for case in (flat.case, flat.base)}
    return [case for case in asked if case in gated]


def verdict(value, limit, slack=0.0):
    """What is printed of one gate; None if it holds."""
    if value is None:
        return "not measured"
    if value > limit + slack:
        over = f"{value:.3f}, over {limit:g} by {value - limit:.3f}"
        return over + (f" ({100 * (value - limit) / limit:.1f} %)" if limit else "")
    return None


def results(run):
    """For each gate: what it is about, its value, its limit and its goal, and why it fails."""

    def value_of(case, metric, server=OURS):
        return run.values.get(case, {}).get(server, {}).get(metric)

    def judged(gate):
        # On an older kernel the system calls are the same; the instructions, those of another call.
        return not run.args.as_kernel or gate.metric == "syscalls"

    for gate in GATES:
        if gate.case in run.args.cases and judged(gate):
            value = value_of(gate.case, gate.metric, gate.server)
            what = f"{gate.case}: {gate.metric} {PER.get(gate.case, 'a message')}"
            if gate.server != OURS:
                what += f" ({gate.server})"
            yield what, value, gate.limit, gate.goal, verdict(value, gate.limit, gate.slack)
    for flat in FLAT:
        if flat.case in run.args.cases and flat.base in run.args.cases and judged(flat):
            at_case, at_base = value_of(flat.case, flat.metric), value_of(flat.base, flat.metric)
            growth = at_case / at_base - 1 if at_case is not None and at_base else None
            what = f"{flat.case}: {flat.metric}, growth from {flat.base}"
            yield what, growth, flat.limit, None, verdict(growth, flat.limit)


def judge(run):
    """Prints a table of every gate, the last thing on the output; the exit status."""
    rows, failures = [], 0
    for what, value, limit, goal, why in results(run):
        if goal is None:
            aim = ""
        elif value is not None and value <= goal:
            aim = f"{goal:,g}, reached"
        else:
            aim = f"{goal:,g}"
        measured = "-" if value is None else f"{value:,.3f}"
        rows.append([what, f"{limit:,g}", measured, aim, f"FAIL  {why}" if why else "ok"])
        failures += bool(why)
    grid(f"{failures} gates failed" if failures else "all gates hold", HEADER, rows)
    return 1 if failures else 0
