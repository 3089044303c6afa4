"""Line plots as SVG, drawn by a page of code: for reports and documentation, without any plotting library.

A plot follows the reader's light or dark setting, needs nothing from elsewhere, and shows values when hovered over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 68, 18, 58, 46
MOST_POINTS = 240
"""Points drawn a series: longer ones are averaged within bins, about two pixels each."""

COLOURS = {"ink": "#1f2933", "faint": "#6b7785", "grid": "#e4e7eb", "c0": "#2266b3", "c1": "#d0601f", "c2": "#23875b", "c3": "#8b4aa8",
           "c4": "#a67c00", "c5": "#c03a63"}  # fmt: skip


def paint(what: str, colour: str) -> str:
    """`what` (stroke, fill) in one of `COLOURS`, as CSS; viewers without variables, as most outside of browsers are, take the light one."""
    return f"{what}:{COLOURS[colour]};{what}:var(--{colour})"


STYLE = f"""
.plot{{{"".join(f"--{name}:{colour};" for name, colour in COLOURS.items())}
font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans CJK SC',sans-serif;width:100%;height:auto}}
@media (prefers-color-scheme:dark){{.plot{{--ink:#e6e9ee;--faint:#98a3b0;--grid:#333b45;
--c0:#6cb0f5;--c1:#f2955e;--c2:#5fc795;--c3:#c994e3;--c4:#d9b64a;--c5:#ee86a6}}}}
.plot text{{{paint("fill", "faint")};font-size:13px}}.plot .title{{{paint("fill", "ink")};font-size:15px;font-weight:600}}
.plot .name{{{paint("fill", "ink")}}}.plot .grid{{{paint("stroke", "grid")};stroke-width:1}}
.plot .axis{{{paint("stroke", "faint")};stroke-width:1}}
.plot polyline{{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}}
.plot .hit{{{paint("fill", "ink")};fill-opacity:0}}.plot .hit:hover{{fill-opacity:.09}}
""".strip().replace("\n", "")

Points = Sequence[tuple[float, float]]


def short_number(value: float) -> str:
    """A number in few characters: `0.0003` → `3e-4`, `1500000` → `1.5M`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (size if letter != 'k' else 1e3):.4g}{letter}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Axis:
    """One direction: values low…high onto pixels start…end, straight or by logarithm; `seconds` asks for ticks at whole minutes."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    seconds: bool = False

    def at(self, value: float) -> float:
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values within the axis, about `count` of them."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1, 2, 5) if len(decades) <= 4 else (1,)
            found = [factor * 10.0**decade for decade in decades for factor in factors]
            return [value for value in found if self.low <= value * (1 + 1e-9) and value <= self.high * (1 + 1e-9)]
        rough = (self.high - self.low) / count
        size = 10.0 ** math.floor(math.log10(rough))
        steps = [size * factor for factor in (1, 2, 2.5, 5, 10)]
        if self.seconds and rough > 10:
            steps = [
                whole for whole in (15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 43200.0) if whole >= rough
            ] or steps
        step = next(length for length in steps if length >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 12) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_plot(
    series: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    marks: bool = False,
    x_format: Callable[[float], str] = short_number,
    y_format: Callable[[float], str] = short_number,
    x_seconds: bool = False,
    y_skip: float = 0.0,
    y_from_zero: bool = False,
    highlight: tuple[float, str] | None = None,
) -> str:
    """An SVG element with one line a series of (x, y) points.

    `marks` draws the points too; `x_seconds` says that x is a time, for its ticks; `y_from_zero` shows the whole of y;
    `y_skip` leaves the first share of the x range out of the choice of the y range (a loss begins high and would squeeze
    the rest; what is above is cut); `highlight` is an x with a word, drawn as a vertical line.
    Points that are not finite (or not positive, on a logarithmic axis) are left out.
    """
    clean = {name: _thin(sorted((x, y) for x, y in points if _shows(x, y, log_x))) for name, points in series.items()}
    clean = {name: points for name, points in clean.items() if points}
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>'
    head += f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>'
    if not clean:
        return head + f'<text x="{LEFT}" y="{HEIGHT / 2}">nothing measured yet</text></svg>'
    x_axis, y_axis = _axes(clean, log_x, x_seconds, y_skip, y_from_zero)
    parts = [head, _legend(list(clean)) if len(clean) > 1 else "", _grid(x_axis, y_axis, x_label, y_label, x_format, y_format)]
    left, top, width, height = LEFT - 4, TOP - 4, WIDTH - LEFT - RIGHT + 8, HEIGHT - TOP - BOTTOM + 4  # room for half a mark
    parts.append(f'<svg x="{left}" y="{top}" width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">')
    for index, points in enumerate(clean.values()):
        colour = f"c{index % 6}"
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" style="{paint("stroke", colour)}"/>')
        if marks or len(places) == 1:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="{paint("fill", colour)}"/>' for x, y in places]
    parts.append("</svg>")
    if highlight is not None and _shows(highlight[0], 0.0, log_x):
        x = x_axis.at(highlight[0])
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke-dasharray="4 3"/>')
        anchor = "end" if x > WIDTH * 0.7 else "start"
        beside = x - 6 if anchor == "end" else x + 6
        parts.append(f'<text class="name" x="{beside:.1f}" y="{TOP + 12}" text-anchor="{anchor}">{escape(highlight[1])}</text>')
    parts += [_hits(clean, x_axis, x_label, x_format, y_format), "</svg>"]
    return "".join(parts)


def _shows(x: float, y: float, log_x: bool) -> bool:
    return math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x)


def _thin(points: Points) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: means of equal runs; the last point is kept as it is."""
    if len(points) <= MOST_POINTS:
        return list(points)
    edges = [round(index * (len(points) - 1) / (MOST_POINTS - 1)) for index in range(MOST_POINTS)]
    means = []
    for start, end in zip(edges, edges[1:]):
        run = points[start:end]
        means.append((sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)))
    return [*means, points[-1]]


def _axes(series: Mapping[str, Points], log_x: bool, x_seconds: bool, y_skip: float, y_from_zero: bool) -> tuple[_Axis, _Axis]:
    xs = [x for points in series.values() for x, _ in points]
    low_x, high_x = min(xs), max(xs)
    if low_x == high_x:
        low_x, high_x = (low_x / 2, high_x * 2) if log_x else (low_x - 1, high_x + 1)
    if not log_x and 0 < low_x < 0.2 * high_x:
        low_x = 0.0
    x_axis = _Axis(low_x, high_x, LEFT, WIDTH - RIGHT, log_x, x_seconds)
    begin = low_x + y_skip * (high_x - low_x)
    ys = [y for points in series.values() for x, y in points if x >= begin] or [y for points in series.values() for _, y in points]
    low, high = min(ys), max(ys)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    # An axis that almost reaches zero anyway had better start there.
    low = 0.0 if low >= 0 and (y_from_zero or low < 0.35 * high) else low - room
    return x_axis, _Axis(low, high + room, HEIGHT - BOTTOM, TOP)


def _grid(x: _Axis, y: _Axis, x_label: str, y_label: str, x_format: Callable[[float], str], y_format: Callable[[float], str]) -> str:
    bottom, parts = HEIGHT - BOTTOM, []
    for value in y.ticks(5):
        place = y.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{escape(y_format(value))}</text>')
    for value in x.ticks(6):
        place = x.at(value)
        parts.append(f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(x_format(value))}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">{escape(y_label)}</text>')
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    parts, x = [], float(LEFT)
    for index, name in enumerate(names):
        parts.append(f'<line x1="{x:.0f}" x2="{x + 16:.0f}" y1="38" y2="38" style="{paint("stroke", f"c{index % 6}")};stroke-width:3"/>')
        parts.append(f'<text class="name" x="{x + 22:.0f}" y="42">{escape(name)}</text>')
        # A letter is about 6.6 pixels wide, a Chinese character 12.
        x += 44 + sum(12 if ord(letter) > 0x2E80 else 6.6 for letter in name)
    return "".join(parts)


def _hits(
    series: Mapping[str, Points], axis: _Axis, x_label: str, x_format: Callable[[float], str], y_format: Callable[[float], str]
) -> str:
    """Invisible bands over the plot: hovering over one shows the values of all series there."""
    xs = sorted({x for points in series.values() for x, _ in points})
    if len(xs) > MOST_POINTS // 2:
        xs = xs[:: math.ceil(len(xs) / (MOST_POINTS // 2))]
    places = [axis.at(x) for x in xs]
    edges = [axis.start, *((a + b) / 2 for a, b in zip(places, places[1:])), axis.end]
    parts = []
    for x, left, right in zip(xs, edges, edges[1:]):
        lines = [f"{x_label} {x_format(x)}"]
        for name, points in series.items():
            near_x, near_y = min(points, key=lambda point: abs(point[0] - x))
            if left <= axis.at(near_x) <= right:
                lines.append(f"{name}: {y_format(near_y)}")
        parts.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{max(0.5, right - left):.1f}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{escape(chr(10).join(lines))}</title></rect>"
        )
    return "".join(parts)


def matrix_plot(labels: Sequence[str], counts: Sequence[Sequence[int]], *, title: str, down: str = "right", across: str = "said") -> str:
    """An SVG element of a square table of counts, such as a confusion matrix: a row for each label that is right, a column for each said,
    the darker the larger its share of the row. Every cell shows its count when hovered over."""
    n = max(1, len(labels))
    cell = max(14, min(64, 420 // n))
    longest = max((sum(12 if ord(c) > 0x2E80 else 7 for c in label[:18]) for label in labels), default=0)
    left, top = 34 + longest, 62 + 3 * longest // 5
    width, height = left + n * cell + 60, top + n * cell + 12
    parts = [
        f'<svg class="plot" style="max-width:{width}px" viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f'<style>{STYLE}</style><text class="title" x="12" y="20">{escape(title)}</text>'
        f'<text x="12" y="38">{escape(down)} ↓ · {escape(across)} →</text>'
    ]
    for row, (label, values) in enumerate(zip(labels, counts, strict=True)):
        y, total = top + row * cell, sum(values)
        parts.append(f'<text class="name" x="{left - 8}" y="{y + cell / 2 + 4:.0f}" text-anchor="end">{escape(label[:18])}</text>')
        x0 = left + row * cell + cell / 2
        turn = f'text-anchor="start" transform="rotate(-35 {x0:.0f} {top - 8})"'
        parts.append(f'<text class="name" x="{x0:.0f}" y="{top - 8}" {turn}>{escape(label[:18])}</text>')
        for column, count in enumerate(values):
            x, share = left + column * cell, count / total if total else 0.0
            told = f"{down} {label}, {across} {labels[column]}: {count:,} ({100 * share:.1f} % of the row)"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" rx="2" '
                f'style="{paint("fill", f"c{int(row != column)}")};fill-opacity:{0.06 + 0.8 * share:.3f}">'
                f"<title>{escape(told)}</title></rect>"
            )
            if cell >= 30 and count:
                at = f'x="{x + cell / 2:.0f}" y="{y + cell / 2 + 4:.0f}"'
                how = f'text-anchor="middle" style="pointer-events:none{";fill:#fff" if share > 0.6 else ""}"'  # legible on a dark cell
                parts.append(f'<text class="name" {at} {how}>{short_number(count)}</text>')
    return "".join([*parts, "</svg>"])
