"""Write the kept results of the examples into the documentation.

    python examples/write_tables.py

On the pages of `docs/examples`, what stands between `<!-- measured: FILE -->` and
`<!-- /measured -->` becomes the table of FILE, the `results.json` of a full run; where FILE is a
folder, a table with the int8 files of every run in it.
"""

import argparse
import json
import pathlib

from keras_kd.report import files_table
from keras_kd.system.files import write_if_changed
from keras_kd.system.text_table import markdown_table, with_measured

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ROOT / "docs" / "examples"


def overview(folder):
    """Return a table with the int8 files of all students which were taught."""
    lines = [("example", "metric", "teacher", "int8 file", "its result", "difference", "size")]
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        rows = dict(zip(record["files"], files_table(record).splitlines()[2:], strict=True))
        cells = {title: [cell.strip() for cell in row.split("|")] for title, row in rows.items()}
        name = path.stem.removesuffix(f"_{record['metric']}")
        for title, (_, _, value, difference, _, _, ratio, *_) in cells.items():
            if "int8" in title and not title.startswith("teacher") and "alone" not in title:
                link = f"[{name.replace('_', ' ')}]({name}.md)"
                teacher = cells["teacher"][2]
                lines.append((link, record["metric"], teacher, title, value, difference, ratio))
    return markdown_table(lines)


def with_tables(page):
    """Return the text of a page with the tables of what is kept now."""

    def table(name):
        kept = ROOT / name
        return overview(kept) if kept.is_dir() else files_table(json.loads(kept.read_text()))

    return with_measured(page.read_text(), table)


def main(argv=None):
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    for page in sorted(PAGES.glob("*.md")):
        if write_if_changed(page, with_tables(page)):
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
