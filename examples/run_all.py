"""Run the examples one after the other and print their tables.

    python examples/run_all.py --quick

An example whose data set is absent, where there is no network to load it from, or which needs
KerasHub where it is not installed, is named with the reason; the command fails when any other
example does.
"""

import argparse
import pathlib
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).parent
ABSENT = (
    *("DownloadError", "ConnectionError", "ConnectError", "DatasetNotFoundError"),
    *("NonMatchingChecksumError", "No module named 'keras_hub'"),
)


def examples():
    """Return the scripts, by name."""
    found = sorted(path for path in FOLDER.glob("*.py") if path.read_text().startswith("# %%"))
    return {path.stem: path for path in found}


def run(script, quick):
    """Run one script; return its exit code, what it printed last and the seconds."""
    command = [sys.executable, str(script), *(["--quick"] if quick else [])]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout, time.perf_counter() - start


def main(argv=None):
    scripts = examples()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(scripts)} [all]")
    parser.add_argument("--quick", action="store_true", help="at most a minute each")
    chosen = parser.parse_args(argv)
    unknown = sorted(set(chosen.names) - set(scripts))
    if unknown:
        parser.error(f"there is no example {unknown[0]!r}; there are {', '.join(scripts)}")
    failed = []
    if chosen.quick:
        print("Quick mode: a few steps on little data. The tables show that all runs, no more.")
    for name in chosen.names or scripts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        code, output, seconds = run(scripts[name], chosen.quick)
        print(f"\n## {name}: {seconds:.0f} s", flush=True)
        table = [line for line in output.splitlines() if line.startswith("|")]
        if not code:
            print("\n".join(table) or output.strip(), flush=True)
        elif any(reason in output for reason in ABSENT):
            reason = output.strip().splitlines()[-1]
            print(f"not run, what it needs is absent: {reason}", flush=True)
        else:
            failed.append(name)
            print(output.strip()[-3000:], flush=True)
    if failed:
        print(f"\nFailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
