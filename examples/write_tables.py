"""Write the kept results of the examples into the documentation.

    python examples/write_tables.py

On the pages of `docs/examples`, what stands between `<!-- measured: FILE -->` and
`<!-- /measured -->` becomes the table of FILE, the `results.json` of a full run; where FILE is a
folder, a table with one int8 file of every run in it.
"""

import argparse
import json
import pathlib
import re

from keras_kd.files import atomic_path
from keras_kd.report import files_table

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ROOT / "docs" / "examples"
MEASURED = re.compile(r"(<!-- measured: (\S+) -->\n).*?(<!-- /measured -->)", re.S)


def smallest_int8(record):
    """Return the title of the int8 file that is smallest when zipped, as an app ships it."""
    zipped = {title: file["zipped_bytes"] for title, file in record["files"].items()}
    return min((title for title in zipped if "int8" in title), key=zipped.get)


def overview(folder):
    """Return a table with one int8 file of every kept run."""
    lines = [
        "| example | metric | teacher | int8 file | its result | difference | size |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        rows = dict(zip(record["files"], files_table(record).splitlines()[2:], strict=True))
        chosen = smallest_int8(record)
        teacher, file = ([cell.strip() for cell in rows[t].split("|")] for t in ("teacher", chosen))
        name = path.stem.removesuffix(f"_{record['metric']}")
        lines.append(
            f"| [{name.replace('_', ' ')}]({name}.md) | {record['metric']} | {teacher[2]} "
            f"| {chosen} | {file[2]} | {file[3]} | {file[6]} |"
        )
    return "\n".join(lines)


def with_tables(page):
    """Return the text of a page with the tables of what is kept now."""

    def table(match):
        kept = ROOT / match[2]
        text = overview(kept) if kept.is_dir() else files_table(json.loads(kept.read_text()))
        return f"{match[1]}\n{text}\n\n{match[3]}"

    return MEASURED.sub(table, page.read_text())


def main(argv=None):
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    for page in sorted(PAGES.glob("*.md")):
        text = with_tables(page)
        if text != page.read_text():
            with atomic_path(page) as temporary:
                temporary.write_text(text)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
