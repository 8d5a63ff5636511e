"""The guide to quantization-aware training runs; its measured tables are of the kept runs."""

import json
import pathlib
import statistics

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_code(run_guide):
    files = run_guide("quantization_aware.md")["files"]
    assert all(result.accuracy > 0.8 for result in files.values())
    assert abs(files["aware"].accuracy - files["after training"].accuracy) < 0.1


def row(student, form, runs):
    accuracies = [100 * run["accuracy"] for run in runs]
    accuracy = f"{statistics.mean(accuracies):.2f}"
    if len(runs) > 1:
        accuracy += f" ± {statistics.stdev(accuracies):.2f}"
    zipped = statistics.mean(run["zipped_bytes"] for run in runs) / 1000
    return f"| {student} | {form} | {accuracy} | {len(runs)} | {zipped:.1f} |"


def test_table():
    def kept(name):
        return json.loads((ROOT / "exports" / "reference" / name).read_text())

    chains = kept("compression_fashion_mnist.json")["results"]
    forms = kept("export_variants.json")

    def exported(model, form):
        return [run for run in forms[model] if (run["form"], run["way"]) == (form, "keras_kd")]

    pruned, aware = "student, pruned", "student, pruned, quantization-aware"
    expected = [
        row("distilled", "float32", chains[""]["float32"].values()),
        row("distilled", "int8 by calibration alone", chains[""]["int8"].values()),
        row("distilled", "int8, quantization-aware, labels only", chains["Q"]["labels"].values()),
        row("distilled", "int8, quantization-aware, taught", chains["Q"]["taught"].values()),
        row("distilled, pruned", "float32", exported(pruned, "float32")),
        row("distilled, pruned", "int8 by calibration alone", exported(pruned, "int8")),
        row("distilled, pruned", "int8, quantization-aware, taught", exported(aware, "int8")),
    ]
    guide = (ROOT / "docs" / "measured" / "quantization.md").read_text()
    assert "\n".join(expected) in guide, "\n".join(expected)


def test_costs(load_script):
    benchmarks = load_script("benchmarks/run.py")
    rows = json.loads((ROOT / "exports/reference/benchmarks.json").read_text())["rows"]
    scripts = ("bench_check", "bench_quantize_aware_step", "bench_quantized_export")
    chosen = [row for row in rows if row["script"] in scripts]
    assert {row["script"] for row in chosen} == set(scripts)
    guide = (ROOT / "docs" / "measured" / "quantization.md").read_text()
    assert benchmarks.table(chosen) in guide
    assert benchmarks.table_without_bounds(chosen) in guide
