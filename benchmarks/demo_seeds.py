"""The demo, run several times, each time with other seeds: how much of its table is chance.

    python benchmarks/demo_seeds.py [--runs 3] [--seeds 3] [--out exports/demo_seeds]

Run `n` is `keras-kd demo --seeds 3 --first-seed 3n`. Rerun the command to resume it. Prints a
Markdown table with one row per run.
"""

import argparse
import pathlib

from kept_results import spread, write_results

from keras_kd.demo.run import TITLES, run_demo


def kept(result):
    """Return what the table needs of one run."""
    return {
        "command": result["command"],
        "created": result["created"],
        "versions": result["versions"],
        "seeds": result["seeds"],
        "accuracy": {
            model["key"]: [seed["accuracy"] for seed in model["seeds"].values()]
            for model in result["models"]
        },
        "bytes": {model["key"]: model["file"]["bytes"] for model in result["models"]},
        "notes": result["notes"],
    }


def table(runs):
    """Return the runs as a Markdown table, accuracies in percent."""
    lines = [
        f"| seeds | {' | '.join(TITLES.values())} | gain from the teacher, points | by seed |",
        "|---" * (len(TITLES) + 3) + "|",
    ]
    for run in runs:
        accuracy = {key: [100 * value for value in run["accuracy"][key]] for key in TITLES}
        pairs = zip(accuracy["distilled"], accuracy["student_alone"], strict=True)
        gains = [taught - alone for taught, alone in pairs]
        cells = [
            ", ".join(str(seed) for seed in run["seeds"]),
            *(spread(values) for values in accuracy.values()),
            spread(gains, digits=1),
            ", ".join(f"{gain:+.1f}" for gain in gains),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="how often the demo is run [3]")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of one run [3]")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("exports/demo_seeds"))
    chosen = parser.parse_args(argv)
    runs = [
        kept(run_demo("digits", chosen.out / str(first), seeds=chosen.seeds, first_seed=first))
        for first in range(0, chosen.runs * chosen.seeds, chosen.seeds)
    ]
    print(table(runs))
    write_results(chosen.out, table(runs), runs)


if __name__ == "__main__":
    main()
