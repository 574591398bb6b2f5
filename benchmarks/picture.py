"""Line charts as SVG: small, the same bytes for the same figures, readable on light and on dark paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 170, 60, 52
COLOURS = ("#3b82c4", "#d9822b", "#3f9b58", "#b0559e", "#8a7a3c", "#c9483f")
STYLE = (
    "text{font:13px sans-serif;fill:#333}.faint{stroke:#888;stroke-opacity:.25}.mark{stroke:#888;stroke-dasharray:6 4}"
    ".line{fill:none;stroke-width:2.2}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    colour: int = 0


@dataclass(slots=True)
class Chart:
    """`marks` are horizontal lines, by name; axes are logarithmic unless said otherwise."""

    title: str
    x: str
    y: str
    lines: list[Line] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    log_x: bool = True
    log_y: bool = True

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.svg(), encoding="utf-8")

    def svg(self) -> str:
        xs = [x for line in self.lines for x, _ in line.points]
        ys = [y for line in self.lines for _, y in line.points] + list(self.marks.values())
        across = _Axis.over(xs, LEFT, WIDTH - RIGHT, log=self.log_x)
        up = _Axis.over(ys, HEIGHT - BOTTOM, TOP, log=self.log_y)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
            f"<style>{STYLE}</style>",
            _text(LEFT, 22, self.title, weight="bold"),
            _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, self.x, anchor="middle"),
            _text(8, TOP - 14, self.y),
            *_grid(across, up),
            *self._marks(up),
            *self._lines(across, up),
            "</svg>\n",
        ]
        return "\n".join(parts)

    def _marks(self, up: _Axis) -> Iterable[str]:
        for value in self.marks.values():
            yield f'<path class="mark" d="M{LEFT} {up.place(value):.1f}H{WIDTH - RIGHT}"/>'

    def _lines(self, across: _Axis, up: _Axis) -> Iterable[str]:
        names = [(up.place(value), name, "") for name, value in self.marks.items()]
        for line in self.lines:
            colour = COLOURS[line.colour % len(COLOURS)]
            path = "L".join(f"{across.place(x):.1f} {up.place(y):.1f}" for x, y in line.points)
            dashes = ' stroke-dasharray="7 4"' if line.dashed else ""
            yield f'<path class="line" stroke="{colour}"{dashes} d="M{path}"/>'
            names.append((up.place(line.points[-1][1]), line.name, f' style="fill:{colour}"'))
        names.sort()
        for y, (_, name, style) in zip(_apart([y for y, _, _ in names]), names, strict=True):
            yield f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4:.1f}"{style}>{escape(name)}</text>'


def _apart(places: Sequence[float], space: float = 16.0) -> list[float]:
    """Ascending places, moved so that names stand below one another and inside the picture."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + space) if moved else place)
    floor = HEIGHT - BOTTOM - 4.0
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], floor)
        floor = moved[i] - space
    return moved


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    first: float
    last: float
    log: bool
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], first: float, last: float, *, log: bool) -> _Axis:
        if log:
            low, high = min(values), max(values)
            steps = [m * 10.0**e for e in range(-4, 10) for m in (1, 3)]
            inside = [step for step in steps if low / 1.05 <= step <= high * 1.05]
            low, high = min([low, *inside]), max([high, *inside])
            return cls(low, max(high, low * 1.01), first, last, log, tuple(inside))
        high = max(max(values), 1e-9)
        step = 10 ** math.floor(math.log10(high))
        step = next(size for size in (step / 5, step / 2, step, step * 2) if high / size <= 8)
        ticks = tuple(step * i for i in range(math.ceil(high / step) + 1))
        return cls(0.0, ticks[-1], first, last, log, ticks)

    def place(self, value: float) -> float:
        share = (
            math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return self.first + share * (self.last - self.first)


def _grid(across: _Axis, up: _Axis) -> Iterable[str]:
    for tick in across.ticks:
        x = across.place(tick)
        yield f'<path class="faint" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield _text(x, HEIGHT - BOTTOM + 18, _number(tick), anchor="middle")
    for tick in up.ticks:
        y = up.place(tick)
        yield f'<path class="faint" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 8, y + 4, _number(tick), anchor="end")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    style = f' font-weight="{weight}"' if weight != "normal" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'
