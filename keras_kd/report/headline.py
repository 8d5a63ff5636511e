"""The sentences at the top of a report: what came out, the best and the worst of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_kd.report.numbers import bytes_text, milliseconds_text, percent_text, ratio_text
from keras_kd.report.pareto import cost_of, drawable

# A file counts as close to the teacher up to this many percentage points.
TOLERATED_DROP = 1.0
# Latencies that differ by less are not told apart.
_LATENCY_NOISE = 0.1


def headline(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sentences.

    Args:
        models: Models with everything derived but this.

    Returns:
        The teacher; the most accurate, the smallest and the fastest student, one sentence a
        student; the least accurate one; what the teacher was worth; and that students were
        picked by the figures which are shown.
    """
    measured = [model for model in models if model["accuracy"]["mean"] is not None]
    teacher = next((model for model in measured if model["key"] == "teacher"), None)
    students = [model for model in measured if model is not teacher]
    # A Keras model without a file is what the files were made from, not another choice.
    students = [model for model in students if model["file"] is not None] or students
    sentences = []
    if teacher is not None:
        sentences.append(f"Teacher: {_facts(teacher, None)}.")
    picked = _picked(students, teacher)
    for model, words in picked:
        title = f"{model['title']} is " if len(students) > 1 else f"{model['title']}: "
        what = f"{_joined(words)}: " if len(students) > 1 else ""
        sentences.append(f"{title}{what}{_facts(model, teacher)}.")
    if teacher is not None and students and not _close(students):
        nearest = min(students, key=_drop)
        sentences.append(
            f"No student is within {TOLERATED_DROP:g} point of the teacher; the nearest one, "
            f"{nearest['title']}, loses {_drop(nearest):.2f} points."
        )
    if len(students) > 1:
        worst, *_, best = sorted(students, key=lambda model: model["accuracy"]["mean"])
        if worst["accuracy"]["mean"] < best["accuracy"]["mean"]:
            sentences.append(
                f"The least accurate student is {worst['title']}: {_facts(worst, teacher)}."
            )
    by_key = {model["key"]: model for model in measured}
    if "student_alone" in by_key and "distilled" in by_key:
        sentences.append(_distilled_sentence(by_key["student_alone"], by_key["distilled"]))
    if len(students) > 1:
        sentences.append(
            f"These were picked from {len(students)} students by the very figures that are shown, "
            "which flatters the picked ones a little."
        )
    return sentences


def _drop(model: Mapping[str, Any]) -> float:
    drop: float | None = model["accuracy_drop_points"]
    return 0.0 if drop is None else drop


def _close(students: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [model for model in students if _drop(model) <= TOLERATED_DROP]


def _picked(
    students: Sequence[Mapping[str, Any]], teacher: Mapping[str, Any] | None
) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Return the students that are best at something, each with what it is best at."""
    if not students:
        return []
    words: dict[str, list[str]] = {}

    def pick(found: Sequence[Mapping[str, Any]], key: Callable[[Any], Any], what: str) -> None:
        if found:
            words.setdefault(min(found, key=key)["key"], []).append(what)

    def size(model: Mapping[str, Any]) -> Any:
        cost = cost_of(model, "bytes")
        return (cost is None, cost or 0)

    best = max(model["accuracy"]["mean"] for model in students)
    equal = sum(model["accuracy"]["mean"] == best for model in students) - 1
    pick(
        students,
        lambda m: (-m["accuracy"]["mean"], size(m)),
        f"the most accurate student{f' (as accurate as {equal} more)' if equal else ''}",
    )
    files = drawable(students, "bytes")
    if teacher is not None:
        pick(
            _close(files),
            lambda m: (size(m), _drop(m)),
            f"the smallest within {TOLERATED_DROP:g} point of the teacher",
        )
    pick(files, lambda m: (size(m), _drop(m)), "the smallest")
    pick(
        drawable(students, "zipped_bytes"),
        lambda m: (cost_of(m, "zipped_bytes"), _drop(m)),
        "the smallest when zipped",
    )
    timed = drawable(students, "latency")
    least = min((cost_of(model, "latency") or 0.0 for model in timed), default=0.0)
    alike = sum(
        (cost_of(model, "latency") or 0.0) <= least * (1 + _LATENCY_NOISE) for model in timed
    )
    others = f" (with {alike - 1} more within {100 * _LATENCY_NOISE:.0f} %)" if alike > 1 else ""
    pick(timed, lambda m: (cost_of(m, "latency"), _drop(m)), f"the fastest{others}")
    order = [model for model in students if model["key"] in words]
    return [(model, _without_repeats(words[model["key"]])) for model in order]


def _without_repeats(words: list[str]) -> list[str]:
    """Leave out what follows: the smallest of all is the smallest within any limit."""
    if "the smallest" in words:
        return [word for word in words if not word.startswith("the smallest within")]
    return words


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _facts(model: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> str:
    ratios = model["ratio_to_teacher"]
    accuracy = f"{percent_text(model['accuracy']['mean'], 2)} accuracy"
    drop = model["accuracy_drop_points"]
    if teacher is not None and drop is not None:
        if round(drop, 2) == 0:
            accuracy += " (as the teacher)"
        else:
            side = "below" if drop > 0 else "above"
            accuracy += f" ({abs(drop):.2f} points {side} the teacher)"
    parts = [accuracy]
    file = model["file"]
    if file is not None:
        ratio = "" if teacher is None or ratios["bytes"] is None else (
            f" ({ratio_text(ratios['bytes'])} of its bytes)"
        )  # fmt: skip
        parts.append(f"{bytes_text(file['bytes'])}{ratio}")
        if file["latency_ms_median"] is not None:
            ratio = "" if teacher is None or ratios["latency"] is None else (
                f" ({ratio_text(ratios['latency'])} of its latency)"
            )  # fmt: skip
            parts.append(f"{milliseconds_text(file['latency_ms_median'])} ms{ratio}")
    count = len(model["accuracy"]["values"])
    parts.append("one seed" if count == 1 else f"mean of {count} seeds")
    return ", ".join(parts)


def _distilled_sentence(alone: Mapping[str, Any], distilled: Mapping[str, Any]) -> str:
    gain = 100 * (distilled["accuracy"]["mean"] - alone["accuracy"]["mean"])
    count = min(len(alone["accuracy"]["values"]), len(distilled["accuracy"]["values"]))
    change = f"{abs(gain):.2f} points {'above' if gain >= 0 else 'below'}"
    sentence = f"Taught by the teacher, the student is {change} the same student trained alone"
    if count == 1:
        return f"{sentence} (one seed, so chance is not excluded)."
    spread = 100 * max(alone["accuracy"]["std"] or 0.0, distilled["accuracy"]["std"] or 0.0)
    within = ", which is within that spread" if abs(gain) <= spread else ""
    return (
        f"{sentence} (mean of {count} seeds; standard deviation up to {spread:.2f} points{within})."
    )
