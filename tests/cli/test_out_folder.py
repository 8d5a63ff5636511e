import json

import pytest

from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.out_folder import OutFolder
from keras_kd.system.files import sha256

COMMAND = COMMANDS["distill"]


def settings(out, **given):
    base = {"teacher": "t", "student": "s", "data": "d", "out": str(out)}
    return COMMAND.settings_of({}, {**base, **given})


def test_a_run_is_begun_and_finished(tmp_path):
    out = tmp_path / "run"
    folder = OutFolder(COMMAND, settings(out))
    assert folder.result is None
    assert not (out / "result.json").exists()
    with folder.begun():
        assert json.loads((out / "result.json").read_text())["result"] is None
        (out / "work").write_text("")
    assert folder.finish({"a": float("nan"), "b": 1}) == {"a": None, "b": 1}
    assert OutFolder(COMMAND, settings(out)).result == {"a": None, "b": 1}
    assert "epochs = 10" in (out / "recipe.toml").read_text()


def test_another_run_is_refused(tmp_path):
    out = tmp_path / "run"
    model = tmp_path / "model"
    model.write_text("a")
    with OutFolder(COMMAND, settings(out), [str(model), None]).begun():
        (out / "work").write_text("")
    OutFolder(COMMAND, settings(out), [str(model)])
    with pytest.raises(ValueError, match=r"`epochs` \(10 there, 3 here\).*--out NEW_FOLDER"):
        OutFolder(COMMAND, settings(out, epochs=3), [str(model)])
    with pytest.raises(ValueError, match=r"`scale` \(None there, 255.0 here\)"):
        OutFolder(COMMAND, settings(out, scale=255.0), [str(model)])
    with pytest.raises(ValueError, match=r"the command \(distill there, export here\)"):
        OutFolder(COMMANDS["export"], {"out": str(out)})
    model.write_text("b")
    with pytest.raises(ValueError, match="the contents of"):
        OutFolder(COMMAND, settings(out), [str(model)])


def test_a_run_of_before_an_option_was_added_is_resumed_at_its_default(tmp_path):
    with OutFolder(COMMAND, settings(tmp_path)).begun():
        (tmp_path / "work").write_text("")
    record = tmp_path / "result.json"
    kept = json.loads(record.read_text())
    assert kept["settings"].pop("epochs") == 10
    record.write_text(json.dumps(kept))
    OutFolder(COMMAND, settings(tmp_path))
    with pytest.raises(ValueError, match=r"`epochs` \(None there, 3 here\)"):
        OutFolder(COMMAND, settings(tmp_path, epochs=3))


def test_what_is_no_run_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(ValueError, match=r"is not empty \('mine'\)"):
        OutFolder(COMMAND, settings(tmp_path))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a record"):
        OutFolder(COMMAND, settings(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "result.json"]


def test_an_error_before_anything_was_made_leaves_the_folder_free(tmp_path):
    out = tmp_path / "run"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), OutFolder(COMMAND, settings(out)).begun():
            raise error
    assert (out / "result.json").exists()  # an interrupted run is gone on with
    with pytest.raises(ValueError, match="another run"):
        OutFolder(COMMAND, settings(out, epochs=3))
    (out / "result.json").unlink()
    (out / "recipe.toml").unlink()
    with pytest.raises(ValueError, match="wrong"), OutFolder(COMMAND, settings(out)).begun():
        raise ValueError("wrong")
    assert not list(out.iterdir())


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "a") == expected
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    before = sha256(tmp_path)
    (tmp_path / ".hidden").write_bytes(b"abc")
    assert sha256(tmp_path) == before
    (tmp_path / "a").write_bytes(b"abd")  # as large as before
    assert sha256(tmp_path) != before
    with pytest.raises(FileNotFoundError, match="There is no file"):
        sha256(tmp_path / "absent")


def test_a_picture_of_the_same_size_is_another_run(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(b"abc")
    given = settings(tmp_path / "run", data=str(pictures))
    with OutFolder(COMMAND, given).begun():
        pass
    OutFolder(COMMAND, given)
    (pictures / "a.png").write_bytes(b"abd")
    with pytest.raises(ValueError, match="differs in the contents of"):
        OutFolder(COMMAND, given)
    # Earlier versions recorded names and sizes, under the name of the folder.
    record = tmp_path / "run" / "result.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "files": {str(pictures): "0" * 64}}))
    OutFolder(COMMAND, given)


def test_settings_of_several_values_are_those_of_the_record(tmp_path):
    given = {"loss": ["dkd", "rkd:0.02"], "scale": 255}
    with OutFolder(COMMAND, settings(tmp_path, **given)).begun():
        (tmp_path / "work").write_text("")
    kept = json.loads((tmp_path / "result.json").read_text())["settings"]
    # As every version has written it: lists, floats, and nothing of what was not given.
    assert kept["loss"] == ["dkd", "rkd:0.02"]
    assert kept["scale"] == 255.0
    assert not {"hint", "custom_objects", "offset"} & set(kept)
    OutFolder(COMMAND, settings(tmp_path, **given))
    with pytest.raises(ValueError, match="`loss`"):
        OutFolder(COMMAND, settings(tmp_path, loss=["dkd"], scale=255))
