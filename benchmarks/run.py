"""Every `bench_*.py`, each in a process of its own: one table, and one JSON file.

    make bench

A script prints its rows as lines of JSON. A row with a bound holds where its ratio is at most that.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

import keras
import tensorflow as tf

import keras_kd as kd
from keras_kd.system.files import atomic_path
from keras_kd.system.text_table import markdown_table

FOLDER = pathlib.Path(__file__).parent


def rows_of(script):
    """Run a script, and return the rows that it prints; everything else is shown."""
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    rows = []
    for line in process.stdout:
        if line.startswith("{"):
            rows.append({"script": script.stem, **json.loads(line)})
        else:
            print(line, end="", flush=True)
    if process.wait():
        raise SystemExit(f"{script.name} failed.")
    return rows


def table(rows):
    """Return a Markdown table of the rows that have a bound."""
    heads = ("measure", "against", "ratio", "rounds from .. to", "processor time", "bound", "holds")
    lines = [heads]
    for row in rows:
        if row.get("bound") is not None:
            holds = "yes" if row["ratio"] <= row["bound"] else "**no**"
            lines.append((*_measured(row), f"{row['bound']:.2f}", holds))
    return markdown_table(lines)


def table_without_bounds(rows):
    """Return a Markdown table of the rows that have none."""
    lines = [("measure", "against", "ratio", "rounds from .. to", "processor time")]
    for row in rows:
        if "ratio" in row and row.get("bound") is None:
            lines.append(_measured(row))
    return markdown_table(lines)


def _measured(row):
    processor = f"{row['processor_ratio']:.2f}" if "processor_ratio" in row else ""
    return row["measure"], row["against"], f"{row['ratio']:.2f}", spread(row), processor


def spread(row):
    """The lowest and the highest ratio of a row's rounds."""
    return f"{row['lowest']:.2f} .. {row['highest']:.2f}" if "lowest" in row else ""


def machine():
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "keras_kd": kd.__version__,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="exports/benchmarks.json", metavar="FILE")
    parser.add_argument(
        "scripts", nargs="*", help="names such as bench_step, measured again (default: all)"
    )
    chosen = parser.parse_args(argv)
    scripts = sorted(FOLDER.glob("bench_*.py"))
    if chosen.scripts:
        wanted = {name.removesuffix(".py") for name in chosen.scripts}
        unknown = wanted - {script.stem for script in scripts}
        if unknown:
            names = ", ".join(script.stem for script in scripts)
            parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {names}")
        scripts = [script for script in scripts if script.stem in wanted]
    out = pathlib.Path(chosen.out)
    # Scripts that are named are measured again; what the others gave is kept.
    rows = json.loads(out.read_text())["rows"] if chosen.scripts and out.exists() else []
    for script in scripts:
        print(f"== {script.name}", flush=True)
        rows = [row for row in rows if row["script"] != script.stem] + rows_of(script)
        rows.sort(key=lambda row: row["script"])
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    print(f"\n{table(rows)}\n\n{table_without_bounds(rows)}\n\nWritten to {out}.")


if __name__ == "__main__":
    main()
