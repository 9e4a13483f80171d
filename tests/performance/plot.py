"""Line plots as SVG, without a library: a few series over one axis, both axes linear or logarithmic."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 40, 55
COLOURS = ["#3987cf", "#d9622b", "#3a9d4b", "#9a6bd0", "#a5852a", "#c9588f"]  # each legible on white and on near-black
STYLE = (
    "<style>.paper{fill:#fff}text{fill:#222}.grid{stroke:#ddd}.axis{stroke:#333;fill:none}"
    "@media (prefers-color-scheme:dark){.paper{fill:#0d1117}text{fill:#e6e6e6}.grid{stroke:#333}.axis{stroke:#bbb}}</style>"
)
# What a curve of results.json is drawn as: its axes with their units, and which of them are logarithmic.
PLOTS = {
    "create latency over concurrency": ("creates at a time (count)", "latency (ms)", True, True),
    "snapshots over data": ("data written (MB)", "p50 (ms)", True, True),
    "memory of idle sandboxes": ("idle sandboxes (count)", "memory of all (MiB)", False, False),
}


def ticks(low, high, logarithmic):
    if logarithmic:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [base * 10.0**e for e in exponents for base in (1, 2, 5) if low <= base * 10.0**e <= high]
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9) / 4))
    while (high - low) / step > 6:
        step *= 2
    first = math.ceil(low / step) * step
    return [first + number * step for number in range(int((high - first) / step) + 1)]


def label(value):
    return f"{value:g}" if value < 10000 else f"{value / 1000:g}k"


class Axis:
    def __init__(self, values, begin, end, logarithmic):
        self.logarithmic = logarithmic and min(values) > 0
        self.low, self.high = min(values), max(values)
        if not self.logarithmic:
            self.low = min(0, self.low)
        if self.low == self.high:
            self.high = self.low * 2 or 1
        if self.logarithmic:
            self.low, self.high = self.low / 1.2, self.high * 1.2
        self.begin, self.end = begin, end

    def place(self, value):
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.begin + (self.end - self.begin) * (value - low) / (high - low)

    def ticks(self):
        return ticks(self.low, self.high, self.logarithmic)


def line_plot(title, x_title, y_title, series, log_x=False, log_y=False):
    """series: {name: [(x, y), …]}; the whole SVG as text."""
    points = [point for line in series.values() for point in line]
    across = Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log_x)
    up = Axis([y for _, y in points], HEIGHT - BOTTOM, TOP, log_y)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        STYLE,
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for value in up.ticks():
        y = up.place(value)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>')
    for value in across.ticks():
        x = across.place(value)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 5}" class="axis"/>')
        out.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{label(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_title)}</text>')
    out.append(f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>')
    out.append(
        f'<polyline points="{LEFT},{TOP} {LEFT},{HEIGHT - BOTTOM} {WIDTH - RIGHT},{HEIGHT - BOTTOM}" class="axis"/>'
    )
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        where = [(across.place(x), up.place(y)) for x, y in sorted(line)]
        out.append(
            f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in where)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in where]
        y = TOP + 10 + 20 * number
        out.append(f'<line x1="{WIDTH - RIGHT + 10}" x2="{WIDTH - RIGHT + 30}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 36}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>\n"])


def draw(results, folder):
    """Draws each curve of a read results.json that has two points or more; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, series in results["curves"].items():
        lines = {label: points for label, points in series.items() if len(points) > 1}
        if not lines:
            continue
        target = folder / (name.replace(" ", "-") + ".svg")
        target.write_text(line_plot(name.capitalize(), PLOTS[name][0], PLOTS[name][1], lines, *PLOTS[name][2:]), encoding="utf-8")
        written.append(target)
    return written
