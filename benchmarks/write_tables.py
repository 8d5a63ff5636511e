"""Write the kept results of the benchmarks into the pages of `docs/measured`.

    python benchmarks/write_tables.py

A run's `results.json` becomes `exports/reference/<benchmark>.json`; then this command writes its
table between `<!-- measured: FILE -->` and `<!-- /measured -->`.
"""

import argparse
import json
import pathlib

import cifar10_students
import compare_losses
import demo_seeds
import export_truth
import export_variants
import imdb_students
import integer_kernels
import mlperf_tiny
import published_and_ours
import search_digits
import search_images
import small_files_fashion_mnist

from keras_kd.system.files import write_if_changed
from keras_kd.system.text_table import MEASURED

ROOT = pathlib.Path(__file__).parents[1]
# The page of published figures has a command of its own.
PAGES = sorted({*(ROOT / "docs" / "measured").glob("*.md")} - {published_and_ours.PAGE})
# What makes the table of a file. The tables of other files are written by hand, from several.
TABLES = {
    f"exports/reference/{name}.json": table
    for name, table in {
        "cifar10_students": cifar10_students.table_of,
        "demo_seeds": demo_seeds.table,
        "export_truth": lambda kept: export_truth.table(kept, export_truth.ON_THE_PAGE),
        "export_variants": export_variants.table,
        "imdb_students": imdb_students.table_of,
        "integer_kernels": integer_kernels.table,
        "losses_cifar10": compare_losses.report,
        "losses_fashion_mnist": compare_losses.report,
        "mlperf_tiny": mlperf_tiny.table,
        "search_cifar10": search_images.table_of,
        "search_digits": lambda kept: search_digits.table(kept["results"]),
        "search_fashion_mnist": search_images.table_of,
        "small_files_fashion_mnist": small_files_fashion_mnist.table_of,
    }.items()
}


def with_tables(text):
    """Return the text of a page with the tables of what is kept now."""

    def block(found):
        if found[2] not in TABLES:
            return found[0]
        kept = json.loads((ROOT / found[2]).read_text())
        return f"{found[1]}\n{TABLES[found[2]](kept)}\n\n{found[3]}"

    return MEASURED.sub(block, text)


def main(argv=None):
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    for page in PAGES:
        if write_if_changed(page, with_tables(page.read_text())):
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
