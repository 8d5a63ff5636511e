"""What papers report of each method, beside what was measured here.

    python benchmarks/published_and_ours.py

Reads the results that other benchmarks kept in `exports/reference/`, and writes the tables of
docs/measured/published_and_ours.md. Gains are paired by seed: the runs of a seed share initial
weights and the order of the images.
"""

import json
import math
import pathlib
import statistics

from scipy import stats

from keras_kd.system.text_table import markdown_table, with_measured

ROOT = pathlib.Path(__file__).parents[1]
KEPT = ROOT / "exports" / "reference"
PAGE = ROOT / "docs" / "measured" / "published_and_ours.md"

# Accuracy on CIFAR-100 in percent, ResNet32x4 teaching ResNet8x4.
TAUGHT = 73.33  # with KL
REPDISTILLER = "RepDistiller"  # github.com/HobbitLong/RepDistiller, 2020
MDISTILLER = "mdistiller"  # github.com/megvii-research/mdistiller, 2022
STANDARDIZED = "logit-standardization-KD"  # github.com/sunshangquan, 2024
PUBLISHED = {
    "KLDivergence": (TAUGHT, REPDISTILLER),
    "FitNet": (73.50, REPDISTILLER),
    "AttentionTransfer": (73.44, REPDISTILLER),
    "SimilarityPreserving": (72.94, REPDISTILLER),
    "CorrelationCongruence": (72.97, REPDISTILLER),
    "VID": (73.09, REPDISTILLER),
    "RKD": (71.90, REPDISTILLER),
    "PKT": (73.64, REPDISTILLER),
    "FSP": (72.62, REPDISTILLER),
    "NST": (73.30, REPDISTILLER),
    "CRD": (75.51, REPDISTILLER),
    "DKD": (76.32, MDISTILLER),
    "DOT": (75.12, MDISTILLER),
    "StandardizedKL": (76.62, STANDARDIZED),
    "MultiLevel": (77.08, STANDARDIZED),
    "MultiLevel, standardized": (78.28, STANDARDIZED),
}
# The name of our runs, where it is another one.
OURS = {"MultiLevel": None, "MultiLevel, standardized": "MultiLevel"}


def interval(gains):
    """Return the mean, and half its 95 % interval or `None` where there are too few."""
    if len(gains) < 2:
        return statistics.mean(gains), None
    quantile = stats.t.ppf(0.975, len(gains) - 1)
    half = quantile * statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.mean(gains), half


def gain(runs, others):
    """Return the interval of the gain in points over other runs of the same seeds."""
    shared = sorted(set(runs) & set(others))
    return interval([100 * (runs[s]["accuracy"] - others[s]["accuracy"]) for s in shared])


def as_text(found, digits=2):
    mean, half = found
    return f"{mean:+.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def verdict(found):
    """Return whether the interval of a gain leaves out zero."""
    mean, half = found
    if half is None or abs(mean) <= half:
        return "none found"
    return "yes" if mean > 0 else "a loss"


OURS_COLUMNS = ("ours: against the student alone", "ours: against KL", "a gain over KL?")


def our_cells(name, results):
    """Return what was measured of a loss: its gains over the student alone and over KL."""
    runs = results.get(OURS.get(name, name))
    if runs is None:
        return ["not measured", "", ""]
    alone = as_text(gain(runs, results["alone"]))
    if name == "KLDivergence":
        return [alone, "", ""]
    over_kl = gain(runs, results["KLDivergence"])
    return [alone, as_text(over_kl), verdict(over_kl)]


def our_losses_table(measured):
    """Return the table of the losses that were measured, best first."""
    results = measured["results"]
    best = sorted(results, key=lambda name: -gain(results[name], results["alone"])[0])
    rows = [(f"`{name}`", *our_cells(name, results)) for name in best if name != "alone"]
    return markdown_table([("loss", *OURS_COLUMNS), *rows])


def losses_table(measured):
    """Return the table of the losses: published gains, and ours with intervals."""
    results = measured["results"]
    rows = [("loss", "published, %", "against KL, points", "reported by", *OURS_COLUMNS)]
    for name in dict.fromkeys([*PUBLISHED, *results]):
        if name == "alone":
            continue
        value, source = PUBLISHED.get(name, (None, ""))
        cells = [
            f"`{name}`",
            "" if value is None else f"{value:.2f}",
            "" if value is None or name == "KLDivergence" else f"{value - TAUGHT:+.2f}",
            source,
        ]
        rows.append((*cells, *our_cells(name, results)))
    return markdown_table(rows)


# What is compared: the example, what its row is called, the same student alone and taught.
PAIRS = (
    ("image_classification", "image classification", "student alone", "distilled"),
    ("image_segmentation", "image segmentation, a tenth has masks", "student alone", "distilled"),
    (
        "image_segmentation",
        "image segmentation, int8, alone with all masks",
        "student alone, all masks, int8",
        "distilled, int8",
    ),
    ("object_detection", "object detection, a tenth has boxes", "student alone", "distilled"),
    ("text_classification", "text, 1,000 labels", "two layers, alone", "two layers, distilled"),
    ("language_model_perplexity", "language model", "student alone", "distilled"),
    ("speech_commands", "speech commands", "student alone", "distilled"),
    ("ranking", "ranking", "student alone", "distilled"),
    ("regression", "regression", "student alone", "regressed to the teacher"),
    (
        "compress_a_pretrained_model",
        "compress a pretrained model",
        "shrunk, alone",
        "shrunk, distilled",
    ),
)
SMALLER_IS_BETTER = ("perplexity", "rmse")
TASK_COLUMNS = ("metric", "teacher", "student alone", "taught", "gain", "a gain?")


def task_row(title, metric, teacher, alone, taught):
    """Return the row of a task, from the values of its seeds."""
    sign = -1 if metric in SMALLER_IS_BETTER else 1
    gains = interval([sign * (a - b) for a, b in zip(taught, alone, strict=True)])
    digits = 3 if metric == "rmse" else 2
    cells = [f"{statistics.mean(values):.{digits}f}" for values in (teacher, alone, taught)]
    shown = metric.replace("_", " ") + ("" if metric in SMALLER_IS_BETTER else ", %")
    return (title, shown, *cells, as_text(gains, digits), verdict(gains))


def tasks_table(folder):
    """Return the table of the examples: what teaching was worth on each task."""
    rows = [("example", *TASK_COLUMNS)]
    for name, row, *titles in PAIRS:
        kept = json.loads((folder / f"{name}.json").read_text())
        metric = kept["metric"]
        scale = 1.0 if metric in SMALLER_IS_BETTER else 100.0
        values = (
            [scale * value for value in kept["files"][title]["values"]]
            for title in ("teacher", *titles)
        )
        rows.append(task_row(row, metric, *values))
    return markdown_table(rows)


def reviews_table(measured):
    """Return the table of the students of IMDB, all of whose reviews have labels."""
    rows = [("student", *TASK_COLUMNS)]
    students = measured["students"]
    for kind in dict.fromkeys(key.split("_")[0] for key in students):
        alone, taught = (
            [files["int8"]["test"] for key, files in students.items() if key.startswith(start)]
            for start in (f"{kind}_alone_", f"{kind}_taught_")
        )
        rows.append(task_row(kind, "accuracy", [measured["teacher"]["test"]], alone, taught))
    return markdown_table(rows)


def bits_table(files):
    """Return the table of bits: published, and the files of ResNet8."""
    found = {entry["file"]: f"{entry['test']:.2f}" for entry in files}
    return markdown_table(
        [
            ("model", "float", "int8", "int8, QAT", "4 bits", "4 bits, QAT", "source"),
            ("EfficientNet-B0", "76.97", "71.71", "75.82", "", "", "published"),
            ("MobileNetV2", "71.77", "70.87", "71.62", "", "", "published"),
            ("MobileNetV3-Small", "67.66", "", "66.98", "", "", "published"),
            ("ResNet8", "87.19", "86.97", "", "", "", "MLPerf Tiny"),
            ("ResNet8", "87.19", found["int8, percentile"], "", found["int4"],
             found["int4, taught"], "ours"),
        ]
    )  # fmt: skip


def tables(folder=KEPT):
    """Return the tables of the page, by what each is made from."""
    losses, on_cifar10, reviews, bits = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("losses_fashion_mnist", "losses_cifar10", "imdb_students", "quantize_resnet8")
    )
    return {
        "losses_fashion_mnist.json": losses_table(losses),
        "losses_cifar10.json": our_losses_table(on_cifar10),
        "examples": tasks_table(folder / "examples"),
        "imdb_students.json": reviews_table(reviews),
        "quantize_resnet8.json": bits_table(bits),
    }


def main():
    found = {f"exports/reference/{name}": table for name, table in tables().items()}
    PAGE.write_text(with_measured(PAGE.read_text(), found.__getitem__))
    print(f"Written to {PAGE.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
