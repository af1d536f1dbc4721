"""Bars over a logarithmic axis, as SVG that reads well on a light page and on a dark one."""

import math
from xml.sax.saxutils import escape

from tables import number

# Colours go by what the reader's system prefers; the ground is our own, so the page's does not matter.
STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600; font-size: 13px }
    .ground { fill: #ffffff } .faint { fill: #59636e } .grid { stroke: #d1d9e0 }
    .bar { fill: #54a3ff } .range { stroke: #1f2328 } .value { paint-order: stroke; stroke: #ffffff; stroke-width: 3px }
    .limit { stroke: #bc4c00; stroke-width: 1.5; stroke-dasharray: 6 4; fill: none } .limit-name { fill: #bc4c00 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc } .ground { fill: #0d1117 } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
      .bar { fill: #1f6feb } .range { stroke: #f0f6fc } .value { stroke: #0d1117 }
      .limit { stroke: #f0883e } .limit-name { fill: #f0883e }
    }
"""
# Room beside and over a panel's plot for its numbers, its title and what is said of its dashed line.
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 46, 40
BAR = 46


class Panel:
    """One plot: for each size a bar with its range; and a dashed line, if there is a limit."""

    def __init__(self, title, axis, bars, limit=None, limit_name=""):
        # `bars`: (size, value, least, most); `limit`: (size, value).
        self.title, self.axis, self.bars, self.limit, self.limit_name = title, axis, bars, limit or [], limit_name

    def draw(self, x, y, width, height):
        left, right, top, bottom = x + LEFT, x + width - RIGHT, y + TOP, y + height - BOTTOM
        step, highest = scale(max([bar[3] for bar in self.bars] + [value for _, value in self.limit]))
        sizes = [math.log10(bar[0]) for bar in self.bars]
        # Half a decade of room at both ends.
        first, last = min(sizes) - 0.5, max(sizes) + 0.5
        across = lambda size: left + (math.log10(size) - first) / (last - first) * (right - left)
        up = lambda value: bottom - value / highest * (bottom - top)
        yield words(x + 8, y + 18, self.title, "title")
        for tick in range(round(highest / step) + 1):
            yield f'<path class="grid" d="M{left:.1f} {up(tick * step):.1f}H{right:.1f}"/>'
            yield words(left - 6, up(tick * step) + 4, plain(tick * step), "faint", "end")
        half = min(BAR, (right - left) / (last - first) * 0.6) / 2
        for size, value, least, most in self.bars:
            at = across(size)
            yield (f'<rect class="bar" x="{at - half:.1f}" y="{up(value):.1f}" width="{2 * half:.1f}" '
                   f'height="{bottom - up(value):.1f}"/>')
            if most > least:
                yield f'<path class="range" d="M{at:.1f} {up(least):.1f}V{up(most):.1f}"/>'
            yield words(at, bottom + 16, f"{size:,}", "faint", "middle")
        yield words((left + right) / 2, bottom + 32, self.axis, "faint", "middle")
        if self.limit:
            # To both edges: beyond the smallest and the largest size it is not known to change.
            points = [(left, up(self.limit[0][1])), *[(across(size), up(value)) for size, value in self.limit],
                      (right, up(self.limit[-1][1]))]
            points = " ".join(f"{point[0]:.1f},{point[1]:.1f}" for point in points)
            yield f'<polyline class="limit" points="{points}"/>'
            yield f'<path class="limit" d="M{x + 8} {y + 32}h24"/>'
            yield words(x + 38, y + 36, self.limit_name, "limit-name")
        # Last, so that the dashed line does not cross them.
        for size, value, _, most in self.bars:
            yield words(across(size), up(most) - 5, number(value), "value", "middle")


def scale(highest):
    """The step between lines, and the highest of them: over all, with room for a number above."""
    highest = max(highest, 1e-6) * 1.12
    rough = highest / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return step, math.ceil(highest / step) * step


def plain(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.4g}"


def words(x, y, text, kind, anchor="start"):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(title, about, wide, small, width=760, heights=(300, 240)):
    """One wide panel, and small ones below it."""
    height, each = sum(heights) + 28, width / len(small)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'aria-labelledby="title about">',
        f'<title id="title">{escape(title)}</title>', f'<desc id="about">{escape(about)}</desc>', f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}" rx="6"/>',
        *wide.draw(0, 0, width, heights[0]),
        *[part for index, panel in enumerate(small) for part in panel.draw(index * each, heights[0], each, heights[1])],
        words(8, height - 10, about, "faint"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
