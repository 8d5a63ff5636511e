import pytest

from keras_kd.cli.framework.toml_text import read_toml, toml_text


def test_what_is_written_is_read_back(tmp_path):
    tables = {
        "": {"out": "runs/a", "seed": 3},
        "data": {"data": 'a "b" \\ c\n\td ü\x7f', "scale": 127.5, "none": None},
        "distill": {
            "loss": ["kl", "dist(beta=2.0):0.5"],
            "flag": True,
            "empty": [],
            "small": 1e-07,
        },
        "export": {},
    }
    path = tmp_path / "a.toml"
    path.write_text(toml_text(tables, "two\nlines"), encoding="utf-8")
    assert path.read_text().startswith("# two\n# lines\n")
    read = read_toml(path)
    del tables["data"]["none"]
    assert read == {**tables.pop(""), **tables}


def test_what_cannot_be_held_is_refused():
    with pytest.raises(TypeError, match="cannot hold"):
        toml_text({"": {"a": object()}})


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no recipe '.*absent.toml'"):
        read_toml(tmp_path / "absent.toml")
    path = tmp_path / "a.toml"
    path.write_text("a = \n")
    with pytest.raises(ValueError, match=r"a.toml' is not a TOML file: .*line 1"):
        read_toml(path)
