"""The guide to quantization-aware training: its code runs, its table is of the kept runs."""

import json
import pathlib
import statistics

ROOT = pathlib.Path(__file__).parents[2]


def test_code(run_guide):
    files = run_guide("quantization_aware.md")["files"]
    assert all(result.accuracy > 0.8 for result in files.values())
    assert abs(files["aware"].accuracy - files["after training"].accuracy) < 0.1


def row(student, after, runs):
    accuracies = [100 * run["accuracy"] for run in runs]
    accuracy = f"{statistics.mean(accuracies):.2f}"
    if len(runs) > 1:
        accuracy += f" ± {statistics.stdev(accuracies):.2f}"
    zipped = statistics.mean(run["zipped_bytes"] for run in runs) / 1000
    return f"| {student} | {after} | {accuracy} | {len(runs)} | {zipped:.1f} |"


def test_table():
    def kept(name):
        return json.loads((ROOT / "exports" / "reference" / name).read_text())

    chains = kept("compression_fashion_mnist.json")["results"]
    forms = kept("export_variants.json")

    def exported(model):
        return [run for run in forms[model] if (run["form"], run["way"]) == ("int8", "keras_kd")]

    expected = [
        row("distilled", "calibration alone", chains[""]["int8"].values()),
        row("distilled", "quantization-aware, labels only", chains["Q"]["labels"].values()),
        row("distilled", "quantization-aware, taught", chains["Q"]["taught"].values()),
        row("distilled, pruned", "calibration alone", exported("student, pruned")),
        row(
            "distilled, pruned",
            "quantization-aware, taught",
            exported("student, pruned, quantization-aware"),
        ),
    ]
    guide = (ROOT / "docs" / "guides" / "quantization_aware.md").read_text()
    assert "\n".join(expected) in guide, "\n".join(expected)
