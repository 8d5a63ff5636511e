"""How true every form of file is, on trained, published and large models and with planted faults.

    python benchmarks/export_truth.py [--models FOLDER] [--only TITLE ...]

The models are those of `benchmarks/export_subjects.py`; `FOLDER` holds MLPerf Tiny's. Where there
are no labels, agreement with the Keras model stands in for accuracy. The forms and the peers beside
`kd.export_tflite` are those of `benchmarks/export_variants.py`. Each model is kept in `--out` when
it is done. Prints a Markdown table.
"""

import argparse
import pathlib
import warnings

import keras
from export_subjects import subjects
from export_variants import FORMS, OURS, QUANTIZER, Subject, ours, quantizer
from kept_results import once, write_results

import keras_kd as kd


def within(subject, path):
    """Write the file with as much int8 as an agreement of 99 % allows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kd.quantize_within(
            subject.model, subject.calibration, path, min_agreement=0.99, verbose=False
        )


MORE = (
    ("weight-only", OURS, ours("weight_only")),
    ("weight-only", QUANTIZER, quantizer("weight_only_wi8_afp32")),
    ("int8, within 99 %", OURS, within),
)


def measure(subject, folder):
    """Write and measure every form of one model; return the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (form, way, write) in enumerate(sorted((*FORMS, *MORE), key=lambda f: f[:2])):
        if "sparse" in form and subject.sparsity <= 0.25:
            continue
        path, row = folder / f"{number}.tflite", {"form": form, "way": way}
        rows.append(row)
        try:
            write(subject, path)
            samples, labels = subject.test
            data = samples if labels is None else (samples, labels)
            result = kd.evaluate_tflite(path, data, model=subject.model, runs=1)
            compared = kd.compare(path, samples, subject.model)
        except Exception as error:  # whatever a peer raises is its result
            row["error"] = type(error).__name__  # the converter's messages are pages long
            continue
        row |= {
            "accuracy": result.accuracy,
            "agreement": result.agreement,
            "signal_to_noise_db": min(compared.signal_to_noise_db, 200.0),  # of equal outputs
            "bytes": result.bytes,
        }
        print(f"  {form}, {way}: {result.bytes:,} bytes", flush=True)
    return rows


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
            start = f"| {title} | {row['form']} | {row['way']} |"
            if "error" in row:
                lines.append(f"{start} fails: {row['error']} | | | |")
                continue
            right, agreement = (
                "" if row[key] is None else f"{100 * row[key]:.2f}"
                for key in ("accuracy", "agreement")
            )
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
        if chosen.only and title not in chosen.only:
            continue
        kept = folder / f"{title.replace(':', '').replace(', ', '_').replace(' ', '_')}.json"
        print(title, flush=True)
        measured[title] = once(
            kept, lambda make=make, kept=kept: measure(Subject(*make()), folder / kept.stem)
        )
        keras.utils.clear_session()
    text = table(measured)
    write_results(folder, text, measured)
    print("\n" + text)


if __name__ == "__main__":
    main()
