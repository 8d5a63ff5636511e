"""The pictures of the documentation are those that the command draws."""

import pathlib
import runpy
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).parents[1]


def test_pictures_are_those_of_the_command():
    tool = runpy.run_path(str(ROOT / "tools" / "pictures.py"))
    drawn = dict(tool[name]() for name in ("front", "distillation", "hint", "stage", "agreement"))
    kept = {path.name: path.read_text() for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    assert drawn == kept
    for content in drawn.values():
        ET.fromstring(content)
    words = "".join(ET.fromstring(drawn["from_teacher_to_file.svg"]).itertext())
    assert "88.6 %" in words and "66.3 %" in words  # the accuracies of exports/reference/demo.json
