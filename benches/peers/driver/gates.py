"""The limits on ours. A number that could not be taken fails its gate."""

from .table import FLAT, GATES, OURS

PER = {"bytes": "an idle client"}


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

    for gate in GATES:
        if gate.case in run.args.cases:
            value = value_of(gate.case, gate.metric, gate.server)
            what = f"{gate.case}: {gate.metric} {PER.get(gate.metric, 'a message')}"
            if gate.server != OURS:
                what += f" ({gate.server})"
            yield what, value, gate.limit, gate.goal, verdict(value, gate.limit, gate.slack)
    for flat in FLAT:
        if flat.case in run.args.cases and flat.base in run.args.cases:
            at_case, at_base = value_of(flat.case, flat.metric), value_of(flat.base, flat.metric)
            apart = abs(at_case / at_base - 1) if at_case is not None and at_base else None
            yield f"{flat.case}: {flat.metric}, apart from those at {flat.base}", apart, flat.limit, None, verdict(
                apart, flat.limit
            )


def judge(run):
    """Prints every gate; the exit status."""
    failures = 0
    for what, value, limit, goal, why in results(run):
        holds = f"ok    {value:.3f} of {limit:g}" if not why else f"FAIL  {why}"
        if goal is not None and value is not None and value > goal:
            holds += f"; the goal of {goal:g} is not reached yet"
        print(f"{what:<60} {holds}")
        failures += bool(why)
    print(f"{failures} gates failed" if failures else "all gates hold")
    return 1 if failures else 0
