import json
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def make_notebooks(load_script):
    return load_script("examples/make_notebooks.py")


def test_notebooks_are_those_of_the_scripts(make_notebooks):
    scripts = make_notebooks.scripts()
    assert scripts
    kept = {path.stem: path.read_text() for path in make_notebooks.NOTEBOOKS.glob("*.ipynb")}
    made = {script.stem: make_notebooks.notebook_text(script) for script in scripts}
    assert kept == made, "run `make notebooks`"


def test_a_notebook_has_badge_installation_and_quick_mode(make_notebooks, tmp_path):
    script = tmp_path / "one.py"
    script.write_text(f"# %% [markdown]\n# # One\n\n# %%\nimport sys\n\n{make_notebooks.SWITCH}\n")
    cells = json.loads(make_notebooks.notebook_text(script))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert "colab" in sources[0] and "/one.ipynb" in sources[0]
    assert sources[1].startswith("%pip install")
    assert sources[2] == "# One"
    assert "QUICK = True" in sources[3] and "sys.argv" not in sources[3]


def test_a_script_without_the_switch_is_refused(make_notebooks, tmp_path):
    script = tmp_path / "one.py"
    script.write_text("# %%\nprint(1)\n")
    with pytest.raises(ValueError, match="must have the line"):
        make_notebooks.notebook_text(script)
