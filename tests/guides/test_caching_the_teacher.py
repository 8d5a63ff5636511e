"""The code of the guide to caching runs."""

import pytest


@pytest.mark.promise
def test_code(run_guide, tmp_path):
    names = run_guide("caching_the_teacher.md")
    for folder in ("teacher", "top_k", "views", "seeded"):
        assert (tmp_path / "caches" / folder / "manifest.json").is_file()
    for name in ("taught", "views", "still"):
        for given, _ in names[name].take(2):
            outputs = names["teacher"](given.inputs).numpy()
            assert abs(given.outputs.numpy() - outputs).max() < 1e-5
