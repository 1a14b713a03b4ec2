"""The limits on ours. A number that could not be taken fails its gate."""

from .table import FLATNESS, GATES, OURS


def cases(asked):
    gated = {gate.case for gate in GATES} | set(FLATNESS[:2])
    return [case for case in asked if case in gated]


def judge(run):
    """Prints every gate; the exit status."""
    failures = 0

    def value_of(case, metric):
        return run.values.get(case, {}).get(OURS, {}).get(metric)

    def say(what, value, limit, slack=0.0):
        nonlocal failures
        if value is None:
            verdict = "FAIL  not measured"
        elif value > limit + slack:
            verdict = f"FAIL  {value:.3f}, over {limit:g} by {value - limit:.3f}"
            verdict += f" ({100 * (value - limit) / limit:.1f} %)" if limit else ""
        else:
            verdict = f"ok    {value:.3f} of {limit:g}"
        failures += verdict.startswith("FAIL")
        print(f"{what:<44} {verdict}")

    for gate in GATES:
        if gate.case in run.args.cases:
            unit = "idle client" if gate.metric == "bytes" else "message"
            say(
                f"{gate.case}: {gate.metric} a {unit}",
                value_of(gate.case, gate.metric),
                gate.limit,
                gate.slack,
            )
    case, base, limit = FLATNESS
    if case in run.args.cases and base in run.args.cases:
        at_case, at_base = value_of(case, "instructions"), value_of(base, "instructions")
        ratio = abs(at_case / at_base - 1) if at_case is not None and at_base else None
        say(f"{case}: instructions, relative to those at {base}", ratio, limit)
    print(f"{failures} gates failed" if failures else "all gates hold")
    return 1 if failures else 0
