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


def losses_table(measured):
    """Return the table of the losses: published gains, and ours with intervals."""
    results = measured["results"]
    rows = [
        (
            "loss",
            "published, %",
            "against KL, points",
            "reported by",
            "ours: against the student alone",
            "ours: against KL",
            "a gain over KL?",
        )
    ]
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
        runs = results.get(OURS.get(name, name))
        if runs is None:
            cells += ["not measured", "", ""]
        else:
            over_kl = gain(runs, results["KLDivergence"])
            cells.append(as_text(gain(runs, results["alone"])))
            cells += ["", ""] if name == "KLDivergence" else [as_text(over_kl), verdict(over_kl)]
        rows.append(tuple(cells))
    return markdown_table(rows)


# The rows that are compared, by example: the same student, alone and taught.
PAIRS = {
    "image_classification": ("student alone", "distilled"),
    "image_segmentation": ("student alone", "distilled"),
    "object_detection": ("student alone", "distilled"),
    "text_classification": ("two layers, alone", "two layers, distilled"),
    "language_model_perplexity": ("student alone", "distilled"),
    "speech_commands": ("student alone", "distilled"),
    "ranking": ("student alone", "distilled"),
    "regression": ("student alone", "regressed to the teacher"),
    "compress_a_pretrained_model": ("shrunk, alone", "shrunk, distilled"),
}
SMALLER_IS_BETTER = ("perplexity", "rmse")


def tasks_table(folder):
    """Return the table of the examples: what teaching was worth on each task."""
    rows = [("example", "metric", "teacher", "student alone", "taught", "gain", "a gain?")]
    for name, titles in PAIRS.items():
        kept = json.loads((folder / f"{name}.json").read_text())
        metric = kept["metric"]
        scale = 1.0 if metric in SMALLER_IS_BETTER else 100.0
        teacher, alone, taught = (
            [scale * value for value in kept["files"][title]["values"]]
            for title in ("teacher", *titles)
        )
        sign = -1 if metric in SMALLER_IS_BETTER else 1
        gains = interval([sign * (a - b) for a, b in zip(taught, alone, strict=True)])
        digits = 2 if scale == 100.0 or metric == "perplexity" else 3
        cells = [f"{statistics.mean(values):.{digits}f}" for values in (teacher, alone, taught)]
        title = name.removesuffix("_perplexity").replace("_", " ")
        shown = metric.replace("_", " ") + (", %" if scale == 100.0 else "")
        rows.append((title, shown, *cells, as_text(gains, digits), verdict(gains)))
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
    losses, bits = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("losses_fashion_mnist", "quantize_resnet8")
    )
    return {
        "losses_fashion_mnist.json": losses_table(losses),
        "examples": tasks_table(folder / "examples"),
        "quantize_resnet8.json": bits_table(bits),
    }


def main():
    found = {f"exports/reference/{name}": table for name, table in tables().items()}
    PAGE.write_text(with_measured(PAGE.read_text(), found.__getitem__))
    print(f"Written to {PAGE.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
