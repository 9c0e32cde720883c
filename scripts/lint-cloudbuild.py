#!/usr/bin/env python3
"""Of Cloud Build's files what their schema can't know: that each step ends, says what it runs in, and has a script that is one.

    scripts/lint-cloudbuild.py FILE...
"""

import re
import subprocess
import sys

from ruamel.yaml import YAML

# https://cloud.google.com/build/docs/configuring-builds/substitute-variable-values: those of every build.
BUILT_IN = {"PROJECT_ID", "PROJECT_NUMBER", "BUILD_ID", "LOCATION"}
NAME = re.compile(r"(?<!\$)\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", str(text))[1])


def strings(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [s for v in value for s in strings(v)] if isinstance(value, list) else [str(value)]


def faults(path):
    build = YAML(typ="safe").load(open(path))
    own = set(build.get("substitutions", {}))
    used = {a or b for text in strings([v for k, v in build.items() if k != "substitutions"]) for a, b in NAME.findall(text)}
    yield from (f"${name} is not known" for name in sorted(used - own - BUILT_IN))
    yield from (f"{name} is not used" for name in sorted(own - used))
    if "timeout" not in build:
        yield "no timeout: it would be ten minutes"
    if "serviceAccount" not in build:
        yield "no serviceAccount: it would be one that may do too much"

    made = set()
    for step in build["steps"]:
        name = step.get("id", step["name"])
        if "id" not in step:
            yield f"{name}: no id"
        if "timeout" not in step or seconds(step["timeout"]) > seconds(build.get("timeout", "600s")):
            yield f"{name}: no timeout, or one that is longer than the build's"
        image = step["name"]
        if image not in made and not re.search(r":[0-9][\w.-]*$|@sha256:[0-9a-f]{64}$", image):
            yield f"{name}: {image} is no version"
        arguments = step.get("args", [])
        if "--tag" in arguments:
            made.add(arguments[arguments.index("--tag") + 1])
        if step.get("entrypoint") in ("sh", "bash"):
            script = NAME.sub("x", arguments[-1]).replace("$$", "$")
            checked = subprocess.run([step["entrypoint"], "-n"], input=script, text=True, capture_output=True)
            if checked.returncode:
                yield f"{name}: {checked.stderr.strip()}"
            if not any(flag.startswith("-e") for flag in arguments[:-1]) and "\n" in arguments[-1]:
                yield f"{name}: goes on after what fails"


found = [f"{path}: {fault}" for path in sys.argv[1:] for fault in faults(path)]
print("\n".join(found) if found else f"cloudbuild: {len(sys.argv) - 1} files, no fault")
sys.exit(bool(found))
