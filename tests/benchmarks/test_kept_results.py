import pathlib

import pytest


@pytest.fixture(scope="module")
def check_settings(load_script):
    return load_script("benchmarks/kept_results.py").check_settings


def test_a_folder_holds_runs_of_the_same_settings(check_settings, tmp_path):
    check_settings(tmp_path, {"epochs": 3, "widths": (1, 2), "teacher": pathlib.Path("a")})
    check_settings(tmp_path, {"epochs": 3, "widths": [1, 2], "teacher": "a"})
    with pytest.raises(SystemExit, match="other settings: epochs "):
        check_settings(tmp_path, {"epochs": 4, "widths": [1, 2], "teacher": "a"})


def test_runs_of_before_a_setting_was_added_go_on_at_its_default(check_settings, tmp_path):
    (tmp_path / "settings.json").write_text('{"stages": {"Prune": {"sparsity": 0.5}}}')
    defaults = {"stages": {"Prune": {"sparsity": 0.5, "new": None}}}
    now = {"stages": {"Prune": {"sparsity": 0.5, "new": None}}}
    check_settings(tmp_path, now, defaults)
    for other in ({"sparsity": 0.5, "new": 1}, {"sparsity": 0.6, "new": None}):
        with pytest.raises(SystemExit, match="other settings"):
            check_settings(tmp_path, {"stages": {"Prune": other}}, defaults)
