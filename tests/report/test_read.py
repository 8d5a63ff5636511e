from __future__ import annotations

import json

import pytest

from keras_kd.report import complete_result, read_report, write_report


def test_what_was_written_is_read(result, tmp_path):
    write_report(result, tmp_path)
    assert read_report(tmp_path) == complete_result(result)
    assert read_report(tmp_path / "report.json") == complete_result(result)


def test_paths_relative_to_another_folder(result, tmp_path):
    write_report(result, tmp_path / "a")
    read = read_report(tmp_path / "a", relative_to=tmp_path / "both")
    assert read["models"][0]["file"]["path"] == "../a/teacher.tflite"
    assert read["models"][3]["file"] is None


def changed(result, folder, **entries):
    _, path = write_report(result, folder)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **entries}))
    return path


def test_an_older_form_names_the_command(result, tmp_path):
    path = changed(result, tmp_path, schema_version=1)
    with pytest.raises(ValueError) as error:
        read_report(path)
    assert "is of schema version 1, and this version of keras_kd reads 2" in str(error.value)
    assert result["command"] in str(error.value)


def test_a_newer_form_asks_for_a_newer_version(result, tmp_path):
    path = changed(result, tmp_path, schema_version=3)
    with pytest.raises(ValueError, match="Use a newer version of keras_kd"):
        read_report(path)


def test_a_damaged_report_is_named(result, tmp_path):
    path = changed(result, tmp_path, seeds="none")
    with pytest.raises(ValueError, match=r"report.json' is damaged. .*'seeds'\] is str"):
        read_report(path)


def test_half_a_file_and_other_json(tmp_path):
    (tmp_path / "report.json").write_text('{"title": "half')
    with pytest.raises(ValueError, match="it is not whole JSON"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(ValueError, match="no report of keras_kd"):
        read_report(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no report '.*report\.json'"):
        read_report(tmp_path)
