"""A bar chart of ./nest bench's rows, as SVG."""

from html import escape

COLOURS = {"patched": "#1d4ed8", "peer": "#9ca3af"}
# Pixels: line height, where names, guests and bars start, the longest bar, the whole width.
LINE, NAMES, GUESTS, BARS, LONGEST, WIDTH = 15, 10, 120, 260, 480, 860
LEGEND = "Instructions per operation; the bars of an operation have a scale of their own."


def text(x, line, words, more=""):
    return f'<text x="{x}" y="{line * LINE + 12}"{more}>{escape(words)}</text>'


def bar(x, line, width, colour):
    return f'<rect x="{x}" y="{line * LINE + 3}" width="{width:.1f}" height="{LINE - 4}" fill="{colour}"/>'


def bars(rows):
    """The chart's text.  rows: of bench.compare()."""
    names = [row["operation"] for row in rows]
    rows = sorted(rows, key=lambda row: names.index(row["operation"]))
    parts, line, last = [text(NAMES, 0, LEGEND)], 1, None
    several_modes = len({row["mode"] for row in rows}) > 1
    for number, (which, colour) in enumerate(COLOURS.items()):
        parts += [bar(BARS + 90 * number, line, 12, colour), text(BARS + 90 * number + 18, line, which)]
    for row in rows:
        if row["operation"] != last:
            last = row["operation"]
            line += 0.5
            parts.append(text(NAMES, line + 1, last, ' font-weight="bold"'))
            top = max(other[which] or 0 for other in rows if other["operation"] == last for which in COLOURS)
        parts.append(text(GUESTS, line + 1, row["guest"] + (f", {row['mode']}" if several_modes else "")))
        for which, colour in COLOURS.items():
            if row[which] is not None:
                line += 1
                width = LONGEST * row[which] / top
                parts += [bar(BARS, line, width, colour), text(round(BARS + width + 6), line, f"{row[which]:,.0f}")]
    height = (line + 2) * LINE
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
            f'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n'
            + "\n".join(parts) + "\n</svg>\n")
