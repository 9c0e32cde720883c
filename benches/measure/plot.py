"""Plots as SVG: bars of numbers by name, and curves."""
from xml.sax.saxutils import escape

WIDTH, LINE, LETTER = 720, 26, 6.6
FONT = 'font-family="sans-serif" font-size="12"'
OURS, OTHERS, GRID = "#1f6feb", "#8b949e", "#d0d7de"
CURVES = ["#1f6feb", "#cf222e", "#1a7f37", "#9a6700"]


def svg(plot):
    return (_bars if plot["kind"] == "bars" else _lines)(plot)


def _page(height, title, body):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" {FONT}>\n'
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
            f'<text x="12" y="22" font-weight="bold">{escape(title)}</text>\n' + "\n".join(body) + "\n</svg>\n")


def _text(x, y, words, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(str(words).replace("`", ""))}</text>'


def _bars(plot):
    left, right = 280, 90
    most = max(plot["values"].values()) or 1
    body, y = [], 40
    for name, value in plot["values"].items():
        long = (WIDTH - left - right) * value / most
        body.append(_text(left - 8, y + 14, name, "end"))
        body.append(f'<rect x="{left}" y="{y}" width="{max(long, 1):.1f}" height="{LINE - 8}" fill="{OURS if name.startswith("Segmill") else OTHERS}"/>')
        body.append(_text(left + long + 6, y + 14, f"{value:.3g} {plot['unit']}"))
        y += LINE
    return _page(y + 8, plot["title"], body)


def _lines(plot):
    height, left, right, top, bottom = 300, 64, 20, 44, 44
    points = [point for points in plot["series"].values() for point in points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_from, x_to = min(xs), max(xs)
    # From nought, so that what looks flat is flat.
    y_from, y_to = min(0, *ys), max(0, *ys) * 1.1 or 1
    across = lambda x: left + (WIDTH - left - right) * (x - x_from) / ((x_to - x_from) or 1)
    up = lambda y: height - bottom - (height - top - bottom) * (y - y_from) / ((y_to - y_from) or 1)
    body = []
    for step in range(5):
        y, x = y_from + (y_to - y_from) * step / 4, x_from + (x_to - x_from) * step / 4
        body.append(f'<line x1="{left}" y1="{up(y):.1f}" x2="{WIDTH - right}" y2="{up(y):.1f}" stroke="{GRID}"/>')
        body += [_text(left - 6, up(y) + 4, f"{y:.3g}", "end"), _text(across(x), height - bottom + 16, f"{x:.5g}", "middle")]
    body += [_text(left, height - 8, plot["x"]), _text(12, 38, plot["y"])]
    legend = 12 + LETTER * len(plot["y"]) + 24
    for number, (name, points) in enumerate(plot["series"].items()):
        colour = CURVES[number % len(CURVES)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(plot["series"]) > 1:
            body.append(f'<text x="{legend}" y="38" fill="{colour}">{escape(name)}</text>')
            legend += LETTER * len(name) + 16
    return _page(height, plot["title"], body)
