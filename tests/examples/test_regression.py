import pytest


@pytest.mark.promise
def test_runs_in_quick_mode(run_quick):
    run = run_quick("regression")
    assert list(run.files) == [
        "teacher",
        "student alone",
        "bounded by the teacher",
        "regressed to the teacher",
        "regressed to the teacher, int8",
    ]
    assert run.metric == "rmse"
    guess = float(run.printed.rsplit("Guessing the mean:", 1)[1])
    assert run.files["teacher"]["values"][0] < guess
