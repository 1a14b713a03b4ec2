"""The plot of a run: a block for each load, with a bar for each server, in three columns."""

from xml.sax.saxutils import escape

from .report import instructions_text, is_noise, number
from .table import CASES, IDLE_FOR_MEMORY, OURS, REFERENCE, SERVERS

# The other cases are only in the tables: their bars would look the same.
PLOTTED = ["1", "64", "pipelined", "64k", "idle", "churn"]

LEFT, COLUMN, BAR_MAX, BAR, STEP = 150, 290, 185, 13, 17
WIDTH = LEFT + 3 * COLUMN
LESS, MORE = "◀ less is better", "more is better ▶"

STYLE = """
text{font:12px sans-serif;fill:#222}
.title{font-size:16px;font-weight:bold}.block{font-weight:bold}.head{font-weight:bold}.hint{fill:#666}
.name{text-anchor:end}.ours{font-weight:bold;fill:#c2410c}.none{fill:#888;font-style:italic}
rect.peer{fill:#a9bccd}rect.c{fill:#4b5563}rect.ours{fill:#ea580c}
.limit{stroke:#111;stroke-width:1;stroke-dasharray:3 2}.limit-name{font-size:10px;fill:#111}
.spread{stroke:#222;stroke-width:1}
"""


class Picture:
    def __init__(self):
        self.parts, self.y = [], 0

    def text(self, x, text, kind="", dy=0):
        self.parts.append(f'<text x="{x:.1f}" y="{self.y + dy}" class="{kind}">{escape(text)}</text>')

    def bar(self, x, width, kind):
        self.parts.append(
            f'<rect x="{x}" y="{self.y}" width="{max(width, 1):.1f}" height="{BAR}" class="{kind}"/>'
        )

    def line(self, x1, y1, x2, y2, kind):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1}" x2="{x2:.1f}" y2="{y2}" class="{kind}"/>')

    def document(self):
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.y}" '
            f'viewBox="0 0 {WIDTH} {self.y}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


class Count:
    """A column of counts: shorter is better, and no server is far below the limit."""

    def __init__(self, title, hint, key, text, missing="not measured"):
        self.title, self.hint, self.key, self.text, self.missing = title, hint, key, text, missing

    def read(self, run, case, of, reference):
        value = of.get(self.key)
        return (None, self.missing, None) if value is None else (value, self.text(value), None)


class Ratio:
    """A column of ratios to the reference, which is 1: longer is better."""

    def __init__(self, title, hint, key):
        self.title, self.hint, self.key = title, hint, key

    def read(self, run, case, of, reference):
        if reference:
            # It ran; against itself it is 1 by definition.
            return (1.0, "1", None) if case in run.noise else (None, "not measured", None)
        ratio = of.get(self.key)
        if ratio is None:
            return None, "not measured", None
        if is_noise(run, case, ratio):
            return None, "no difference beyond the noise", None
        return ratio["median"], f"{ratio['median']:.2f}", (ratio["low"], ratio["high"])


def kind_of(name, reference):
    return "ours" if name.startswith(OURS) else "c" if name == reference else "peer"


def block(picture, run, case, title, names, columns, reference):
    """The bars of a case; the reference's value is drawn as a line through every column."""
    values = run.values[case]
    cells = [
        [column.read(run, case, values[name], name == reference) for name in names] for column in columns
    ]
    scales = []
    for column in cells:
        ends = [spread[1] if spread else value for value, _, spread in column if value is not None]
        scales.append(BAR_MAX / max(ends) if ends and max(ends) else 0)
    picture.y += 18
    picture.text(8, title, "block", dy=4)
    picture.y += 12
    top = picture.y
    for row, name in enumerate(names):
        kind = kind_of(name, reference)
        picture.text(LEFT - 8, "raw C" if kind == "c" else name, f"name {kind}", dy=11)
        for column, scale, i in zip(cells, scales, range(len(columns))):
            x = LEFT + i * COLUMN
            value, label, spread = column[row]
            if value is None:
                picture.text(x, label, "none", dy=11)
                continue
            picture.bar(x, value * scale, kind)
            end = x + value * scale
            if spread:
                middle = picture.y + BAR / 2
                picture.line(x + spread[0] * scale, middle, x + spread[1] * scale, middle, "spread")
                end = x + spread[1] * scale
            picture.text(max(end, limit_x(column, names, reference, x, scale)) + 5, label, kind, dy=11)
        picture.y += STEP
    for column, scale, i in zip(cells, scales, range(len(columns))):
        at = limit_x(column, names, reference, LEFT + i * COLUMN, scale)
        if at > LEFT + i * COLUMN:
            picture.line(at, top - 3, at, picture.y - 2, "limit")


def limit_x(column, names, reference, x, scale):
    value = column[names.index(reference)][0] if reference in names else None
    return x if value is None else x + value * scale


def heads(picture, columns):
    picture.y += 16
    for i, column in enumerate(columns):
        picture.text(LEFT + i * COLUMN, column.title, "head", dy=8)
        picture.text(LEFT + i * COLUMN, column.hint, "hint", dy=24)
    picture.y += 28


def svg(run):
    picture = Picture()
    picture.y = 26
    picture.text(8, "What a message costs on a Unix socket: the same echo server on each event loop", "title")
    picture.y += 18
    picture.text(
        8,
        "64-byte messages, unless told otherwise. Dashed: raw C, written for this one purpose, with no limits and no timers.",
        "hint",
    )
    picture.y += 15
    picture.text(
        8, "monoio is on io_uring, where one system call carries many requests: look at its rate.", "hint"
    )
    columns = [
        Count("System calls a message", LESS, "syscalls", lambda value: number(value, 3)),
        Count("User instructions a message", LESS, "instructions", instructions_text),
        Ratio("Messages a second, raw C = 1", f"{MORE}   (thin line: lowest to highest)", "ratio"),
    ]
    heads(picture, columns)
    for case in CASES:
        if case.name in PLOTTED and case.name in run.values:
            names = [server.name for server in SERVERS if server.name in run.values[case.name]]
            block(picture, run, case.name, case.title, names, columns, REFERENCE)
    if "memory" in run.values:
        column = Count(
            f"Bytes of memory an idle client, of {IDLE_FOR_MEMORY:,}", LESS, "bytes", lambda v: number(v, 0)
        )
        picture.y += 14
        heads(picture, [column])
        names = [server.name for server in SERVERS if server.name in run.values["memory"]]
        block(picture, run, "memory", "Memory", names, [column], REFERENCE)
    free(picture, run)
    others(picture, run)
    picture.y += 22
    picture.text(8, provenance(run), "hint")
    picture.y += 14
    return picture.document()


def free(picture, run):
    columns = [
        Count("Messages for each sleep of the server", "the scheduler's doing", "batch", lambda v: number(v, 0)),
        Count("", "", "instructions", instructions_text, missing=""),
        Ratio("Messages a second, raw C = 1", MORE, "ratio"),
    ]
    cases = [case for case in CASES if case.free and run.values.get(case.name)]
    if cases:
        picture.y += 14
        heads(picture, columns)
    for case in cases:
        names = [server.name for server in SERVERS if server.name in run.values[case.name]]
        block(picture, run, case.name, case.title, names, columns, REFERENCE)


def others(picture, run):
    queue = [
        Count("System calls a message", LESS, "syscalls", lambda value: number(value, 3)),
        Count("", "", "instructions", instructions_text, missing=""),
        Ratio("Messages a second, raw C = 1", MORE, "ratio"),
    ]
    shm = [
        Count("System calls to wake the other side", LESS, "syscalls asleep", lambda value: number(value, 3)),
        Count("User instructions, both sides", LESS, "instructions", instructions_text),
        Count("Nanoseconds, both sides in one process", LESS, "loop_ns", lambda value: number(value, 1)),
    ]
    for case, title, columns in [
        ("queue", "POSIX queue: a receiver and four senders", queue),
        ("shm", "Shared memory: 64 bytes from publisher to subscriber", shm),
    ]:
        if case in run.values:
            picture.y += 14
            heads(picture, columns)
            names = [name for name in ("C", OURS, "iceoryx2") if name in run.values[case]]
            block(picture, run, case, title, names, columns, "C")


def provenance(run):
    machine = run.about["machine"]
    worst = max((noise["within"] for noise in run.noise.values()), default=0)
    quick = ", a quick run" if run.args.quick else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; {run.about['when'][:10]}; "
        f"{run.repetitions} repetitions{quick}, noise up to ±{100 * worst:.0f} %; made by benches/peers/compare"
    )
