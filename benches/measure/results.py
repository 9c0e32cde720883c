"""What was measured, as data: rows against their bars, tables, and plots. Kept in a file as it comes, so that a run that is cut
off, or parts that are run by themselves, lose nothing.
"""
import datetime
import json
import statistics


def median(values):
    return statistics.median(values)


def percentile(values, share):
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


class Part:
    """What one part has measured. Every number is printed as it comes."""

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.rows, self.tables, self.plots, self.words = [], [], [], []

    def row(self, key, measured, met):
        """Of a bar in `bars.BARS`; `met`: whether it is, None where that can't be told."""
        self.rows.append({"key": key, "measured": measured, "met": met})
        self.bench.say(f"    {key}: {measured}: " + {True: "met", False: "not met", None: "no verdict"}[met])

    def table(self, title, columns, lines, note=""):
        self.tables.append({"title": title, "columns": columns, "lines": [[str(cell) for cell in line] for line in lines], "note": note})

    def bars(self, name, title, unit, values):
        """A plot of numbers by name."""
        self.plots.append({"kind": "bars", "name": name, "title": title, "unit": unit, "values": values})

    def lines(self, name, title, x, y, series):
        """A plot of curves: points by name."""
        self.plots.append({"kind": "lines", "name": name, "title": title, "x": x, "y": y, "series": series})

    def data(self, others):
        return {"rows": self.rows, "tables": self.tables, "plots": self.plots, "commit": self.bench.commit,
                "date": datetime.date.today().isoformat(), "others": round(others, 2), "command": self.bench.command}


class Store:
    """The parts' results, by name, in a file."""

    def __init__(self, path):
        self.path = path
        self.parts = json.loads(path.read_text()) if path.is_file() else {}

    def keep(self, name, data):
        self.parts[name] = data
        self.path.write_text(json.dumps(self.parts, indent=1))
