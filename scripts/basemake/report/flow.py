"""The flow of a build as a drawing: its rules, and what each makes for others."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter

NODE = (168, 46)  # width and height of a rule, in pixels
PASS = 26  # width that is left where a line goes past the rules of a row
GAP, DROP, EDGE = 16, 38, 4  # between rules of a row, between rows, and around all
HEAD = 5  # length of an arrow's head


@dataclass(frozen=True)
class Node:
    """A rule in the drawing, by the left and top of its box."""

    rule: str
    left: float
    top: float


@dataclass(frozen=True)
class Line:
    """A line between two rows, as the path of an SVG; it may arrive at a rule, or go past it."""

    path: str
    arrives: bool


@dataclass(frozen=True)
class Flow:
    """The drawing: boxes of rules, and the lines between them."""

    width: float
    height: float
    nodes: list[Node]
    lines: list[Line]


def draw_flow(needs: dict[str, set[str]]) -> Flow:
    """Return a drawing of rules from top to bottom; `needs` are the rules that each rule needs.

    A rule is in the row below the last rule that it needs. In a row rules are in the order of what
    they need, so that few lines cross; lines that pass a row have a place of their own in it.
    """
    row_of: dict[str, int] = {}
    order = TopologicalSorter({rule: sorted(needed) for rule, needed in needs.items()})
    for rule in order.static_order():
        row_of[rule] = 1 + max((row_of[one] for one in needs.get(rule, ())), default=-1)
    rows: dict[int, list[tuple[str, str]]] = defaultdict(list)
    above: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for rule, row in row_of.items():
        rows[row].append((rule, ""))
        above[rule, ""] = []
        for source in sorted(needs.get(rule, ())):
            last = (source, "")
            for passed in range(row_of[source] + 1, row):  # places of the line from row to row
                place = (source, f"{rule} {passed}")
                rows[passed].append(place)
                above[place] = [last]
                last = place
            above[rule, ""].append(last)
    middle = _arranged([rows[row] for row in sorted(rows)], above)
    width = max(x + _width(place) / 2 for place, (x, _) in middle.items()) + EDGE
    height = max(y for _, y in middle.values()) + NODE[1] / 2 + EDGE
    return Flow(
        width,
        height,
        [
            Node(rule, x - NODE[0] / 2, y - NODE[1] / 2)
            for (rule, passed), (x, y) in middle.items()
            if not passed
        ],
        [
            Line(_path(middle[source], middle[place], bool(source[1]), not place[1]), not place[1])
            for place, sources in sorted(above.items())
            for source in sources
        ],
    )


def _arranged(
    rows: Iterable[list[tuple[str, str]]], above: dict[tuple[str, str], list[tuple[str, str]]]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the middle of each place; rows are centred below one another."""
    middle: dict[tuple[str, str], tuple[float, float]] = {}
    for number, row in enumerate(rows):
        means = {
            place: sum(middle[one][0] for one in above[place]) / max(1, len(above[place]))
            for place in row
        }
        x = -(sum(map(_width, row)) + GAP * (len(row) - 1)) / 2
        for place in sorted(row, key=lambda place: (means[place], place)):
            middle[place] = x + _width(place) / 2, EDGE + NODE[1] / 2 + number * (NODE[1] + DROP)
            x += _width(place) + GAP
    shift = EDGE - min(x - _width(place) / 2 for place, (x, _) in middle.items())
    return {place: (x + shift, y) for place, (x, y) in middle.items()}


def _width(place: tuple[str, str]) -> float:
    return PASS if place[1] else NODE[0]


def _path(
    source: tuple[float, float], target: tuple[float, float], passes: bool, arrives: bool
) -> str:
    """Return a line from below a rule, or from its place in a row, to above the next one."""
    (x, y), (to_x, to_y) = source, target
    half = NODE[1] / 2
    start = f"M{x:.0f} {y - half:.0f}V{y + half:.0f}" if passes else f"M{x:.0f} {y + half:.0f}"
    y, to_y = y + half, to_y - half - (HEAD if arrives else 0)
    bend = (y + to_y) / 2
    return f"{start}C{x:.0f} {bend:.0f} {to_x:.0f} {bend:.0f} {to_x:.0f} {to_y:.0f}"
