"""The page: each bar and what was measured of it, the tables, the plots; written between two marks, or printed."""
import re

from . import plot
from .bars import BARS

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
VERDICTS = {True: "met", False: "**not met**", None: "not judged"}


def line(cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def table(columns, lines):
    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, lines)])


def markdown(parts, machine, plots="performance"):
    """Of all parts that were measured; what was not is said to be so."""
    rows = {row["key"]: row for part in parts.values() for row in part.get("rows", [])}
    why = {key: part["failed"] for part in parts.values() if part.get("failed") for key in part["keys"]}
    judged = []
    for key, (what, bar) in BARS.items():
        row = rows.get(key)
        if row:
            judged.append([what, row["measured"], bar, VERDICTS[row["met"]]])
        else:
            judged.append([what, "not measured" + (f": {why[key]}" if key in why else ""), bar, "not measured"])
    out = ["## Side by side", "", f"`make bench`, on {machine}. Ratios are those of one run: each way in turn, round by round, medians. Against two "
           "programs, the better of them is the one to meet.", "", table(["what", "measured", "bar", ""], judged), "",
           "Measured, and what other programs used of the processors meanwhile (more than a tenth of one makes times by the clock doubtful):", "",
           table(["part", "commit", "date", "command", "others, processors"],
                 [[name, part["commit"], part["date"], f"`{part['command']}`", part["others"]] for name, part in parts.items() if part.get("rows")])]
    for part in parts.values():
        for told in part.get("tables", []):
            out += ["", f"### {told['title']}", "", told["note"], "", table(told["columns"], told["lines"])]
        for drawn in part.get("plots", []):
            out += ["", f"![{drawn['title']}]({plots}/{drawn['name']}.svg)"]
    return "\n".join(out) + "\n"


def write(page, parts, machine):
    """Into the page, between the marks, and the plots beside it."""
    text = page.read_text()
    folder = page.parent / "performance"
    folder.mkdir(exist_ok=True)
    for part in parts.values():
        for drawn in part.get("plots", []):
            (folder / f"{drawn['name']}.svg").write_text(plot.svg(drawn))
    made = f"{BEGIN}\n{markdown(parts, machine)}{END}"
    changed, times = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, text, flags=re.S)
    if times != 1:
        raise ValueError(f"{page} has no place between {BEGIN} and {END}")
    page.write_text(changed)
