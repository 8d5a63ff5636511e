"""Write a notebook for Colab from every example.

    python examples/make_notebooks.py

The scripts are in jupytext's percent format. A notebook has the same cells, before them a badge
that opens it in Colab and a cell that installs the package, and begins in quick mode.
"""

import argparse
import pathlib

import jupytext
import nbformat

from keras_kd.zoo import REPOSITORY

INSTALL = "%pip install --quiet keras-kd"
EXTRA = {"text_classification": " keras-hub safetensors"}
SWITCH = 'QUICK = "--quick" in sys.argv'
QUICK = "QUICK = True"

FOLDER = pathlib.Path(__file__).parent
NOTEBOOKS = FOLDER / "notebooks"


def scripts():
    """Return the examples which become notebooks."""
    return sorted(path for path in FOLDER.glob("*.py") if path.read_text().startswith("# %%"))


def notebook_text(script):
    """Return the text of the notebook of one script."""
    notebook = jupytext.reads(script.read_text(), fmt="py:percent")
    badge = (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{REPOSITORY}/blob/main/"
        f"examples/notebooks/{script.stem}.ipynb)"
    )
    switched = 0
    for cell in notebook.cells:
        switched += cell.source.count(SWITCH)
        cell.source = cell.source.replace(SWITCH, QUICK)
    if switched != 1:
        raise ValueError(
            f"'{script}' must have the line `{SWITCH}` once; it has it {switched} times."
        )
    notebook.cells = [
        nbformat.v4.new_markdown_cell(badge),
        nbformat.v4.new_code_cell(INSTALL + EXTRA.get(script.stem, "")),
        *notebook.cells,
    ]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell{number}"
        cell.metadata = {}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.writes(notebook, version=4, indent=1) + "\n"


def main(argv=None):
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    NOTEBOOKS.mkdir(exist_ok=True)
    for script in scripts():
        target = NOTEBOOKS / f"{script.stem}.ipynb"
        target.write_text(notebook_text(script))
        print(target.relative_to(FOLDER.parent))


if __name__ == "__main__":
    main()
