"""How true every form of file is, on trained, published and large models and with planted faults.

    python benchmarks/export_truth.py [--models FOLDER] [--only TITLE ...]

The models are those of `benchmarks/export_subjects.py`; `FOLDER` holds MLPerf Tiny's. Models
without labels are judged by the agreement with the Keras model alone. Forms and peers are those of
`benchmarks/export_variants.py`. Beside them, `kd.quantize_within` may lose 0.5 points of accuracy.
Each model is kept in `--out` when it is done. Prints a Markdown table.
"""

import argparse
import pathlib
import warnings

import keras
from export_subjects import subjects
from export_variants import FORMS, OURS, QUANTIZER, Subject, measure, ours, quantizer
from kept_results import once, percent, write_results

import keras_kd as kd


def within(subject, path):
    """Write the file with as much int8 as half a point of accuracy allows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is in the row
        found = kd.quantize_within(
            subject.model,
            subject.deciding,
            path,
            max_drop=0.5,
            representative_data=subject.calibration,
            verbose=False,
        )
    kept = ("calibration", "within", "integer_operations")
    return {name: getattr(found, name) for name in kept}


ALL = (
    *FORMS,
    ("weight-only", OURS, ours("weight_only")),
    ("weight-only", QUANTIZER, quantizer("weight_only_wi8_afp32")),
    ("int8, within 0.5 points", OURS, within),
)

ON_THE_PAGE = ("int8", "int8, within 0.5 points", "dynamic", "int4")


def rows_of(title, make, folder):
    """Return the rows of a model, measured where they are not kept in the folder."""
    print(title, flush=True)
    name = title.replace(":", "").replace(", ", "_").replace(" ", "_")
    keras.utils.clear_session()
    forms = sorted(ALL, key=lambda row: row[:2])  # what the ways write in one form side by side
    return once(
        folder / f"{name}.json", lambda: measure(Subject(*make()), folder / name, forms, rounds=0)
    )


def table(measured, forms=None):
    """Return the Markdown table of what was measured, `{title: rows}`; `forms`: of these alone."""
    lines = [
        "| model | form | written by | right, % | agreement, % | signal to noise, dB | bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, rows in measured.items():
        for row in rows:
            if forms is not None and row["form"] not in forms:
                continue
            chosen = row.get("calibration") not in (None, "minmax", "trained")
            way = f"{row['way']} ({row['calibration']})" if chosen else row["way"]
            if "within" in row:
                missed = "" if row["within"] else ", **limit missed**"
                way += f", {row['integer_operations']:.0%} in integers{missed}"
            start = f"| {title} | {row['form']} | {way} |"
            if "error" in row:
                lines.append(f"{start} fails: {row['error']} | | | |")
                continue
            right, agreement = percent(row["accuracy"]), percent(row["agreement"])
            noise = f"{row['signal_to_noise_db']:.1f}"
            lines.append(f"{start} {right} | {agreement} | {noise} | {row['bytes']:,} |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="MLPerf Tiny's [KERAS_KD_MLPERF_TINY]")
    parser.add_argument("--only", nargs="*", help="titles of models [all]")
    parser.add_argument("--out", default="exports/export_truth", help="[exports/export_truth]")
    chosen = parser.parse_args(argv)
    folder, measured = pathlib.Path(chosen.out), {}
    for title, make in subjects(chosen.models).items():
        if not chosen.only or title in chosen.only:
            measured[title] = rows_of(title, make, folder)
    text = table(measured)
    write_results(folder, text, measured)
    print("\n" + text)


if __name__ == "__main__":
    main()
