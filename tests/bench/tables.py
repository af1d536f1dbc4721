"""Numbers and Markdown tables as people read them."""

import statistics


def number(value):
    """Three digits that count."""
    if value is None:
        return "–"
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}" if value else "0"


def median(values):
    """Of those that there are."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def spread(values):
    """The least and the most."""
    values = [value for value in values if value is not None]
    return f"{number(min(values))}–{number(max(values))}" if values else "–"


def at(values, share):
    """So many of all are no more than this."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def table(head, rows):
    """Markdown, in columns that also line up as plain text. All but the first column are to the right, if they are short."""
    cells = [head, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(head))]
    right = [index > 0 and width <= 24 for index, width in enumerate(widths)]
    widths = [max(width, 3) for width in widths]

    def line(row):
        padded = [cell.rjust(width) if to_right else cell.ljust(width)
                  for cell, width, to_right in zip(row, widths, right)]
        return "| " + " | ".join(padded).rstrip() + " |"

    rule = ["-" * (width - 1) + ":" if to_right else "-" * width for width, to_right in zip(widths, right)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])
