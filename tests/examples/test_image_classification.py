import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "image_classification.py"
DATA = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@pytest.mark.skipif(not (DATA / "fashion_mnist").is_dir(), reason="fashion_mnist is absent")
def test_quick_mode_measures_every_file(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], cwd=tmp_path, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr[-2000:]
    table = (tmp_path / "exports/image_classification/table.md").read_text()
    assert table.strip() in done.stdout
    titles = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert titles[0] == "teacher" and titles[-1] == "distilled, pruned, int8"
    files = list((tmp_path / "exports/image_classification").glob("*.tflite"))
    assert len(files) == len(titles) == 6
