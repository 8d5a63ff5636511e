"""A result in words: the headline, what the page begins with, and what figures are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_kd.report.numbers import (
    ABSENT,
    bytes_text,
    change_text,
    milliseconds_text,
    percent_text,
    ratio_text,
)
from keras_kd.report.pareto import cost_of, drawable
from keras_kd.system.arguments import exceeds

# A file counts as close to the teacher up to this many percentage points.
TOLERATED_DROP = 1.0
# Latencies that differ by less count as equal.
_LATENCY_NOISE = 0.1


def headline(models: Sequence[Mapping[str, Any]], *, searched: bool = False) -> list[str]:
    """Return the sentences.

    Args:
        models: Models with everything derived but this.
        searched: Whether a search selected students by these figures. Defaults to `False`.

    Returns:
        The teacher; the most accurate, the smallest and the fastest student, one sentence per
        student; the least accurate one; the gain from the teacher; and among how many students
        these are the best, or from how many a search selected.
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
        nearest = min(students, key=_points_lost)
        sentences.append(
            f"No student is within {TOLERATED_DROP:g} point of the teacher; the nearest one, "
            f"{nearest['title']}, loses {_points_lost(nearest):.2f} points."
        )
    if len(students) > 1:
        worst, *_, best = sorted(students, key=lambda model: model["accuracy"]["mean"])
        if worst["accuracy"]["mean"] < best["accuracy"]["mean"]:
            sentences.append(
                f"The least accurate student is {worst['title']}: {_facts(worst, teacher)}."
            )
    by_key = {model["key"]: model for model in measured}
    if (pair := _alone_and_taught(by_key)) is not None:
        sentences.append(_distilled_sentence(*pair))
    if len(students) > 1:
        sentences.append(
            f"The search selected from {len(students)} students by these figures, which makes "
            "those of the selected ones slightly optimistic."
            if searched
            else "The most accurate, the smallest and the fastest student are the best of "
            f"{len(students)} by these figures."
        )
    return sentences


def lead(result: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """Return what the page begins with: one sentence, and three numbers with a caption each.

    Args:
        result: A completed result.

    Returns:
        They are of the `shipped` model; without one, of the smallest file within a point of the
        teacher, else of the most accurate student. `("", [])` where its accuracy is not known.
    """
    known = [model for model in result["models"] if model["accuracy"]["mean"] is not None]
    by_key = {model["key"]: model for model in known}
    teacher = by_key.get("teacher")
    students = [model for model in known if model is not teacher]
    students = [model for model in students if model["file"] is not None] or students or known
    shipped = result.get("shipped")
    if not students or (shipped is not None and shipped not in by_key):
        return "", []
    best = max(students, key=lambda model: model["accuracy"]["mean"])
    close = [model for model in _close(students) if teacher and model["file"] is not None]
    shown = by_key.get(shipped) or min(
        close, key=lambda model: (cost_of(model, "bytes"), _points_lost(model)), default=best
    )
    spread = shown["accuracy"]["std"]
    seeds = f", {measured_seeds(shown)} seeds" if spread is not None else ""
    figures = [
        (
            percent_text(shown["accuracy"]["mean"]),
            f"accuracy of {shown['title']}"
            + (f" (± {100 * spread:.1f}{seeds})" if spread is not None else ""),
        )
    ]
    sentence = f"{shown['title']}: {_facts(shown, teacher)}."
    if (pair := _alone_and_taught(by_key)) is not None:
        alone, taught = pair
        sentence = _distilled_sentence(alone, taught)
        gain = 100 * (taught["accuracy"]["mean"] - alone["accuracy"]["mean"])
        versus = f"{taught['title']} compared with {alone['title']}"
        figures.append((f"{gain:+.1f}".replace("-", "−"), f"points of accuracy, {versus}"))
    elif (drop := shown["accuracy_drop_points"]) is not None:
        versus = f"{shown['title']} compared with the teacher"
        figures.append((change_text(drop), f"points of accuracy, {versus}"))
    if shown["file"] is not None:
        figures.append(_size_figure(shown, result["models"]))
    return sentence, figures


def _size_figure(shown: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    size, ratio = bytes_text(shown["file"]["bytes"]), shown["ratio_to_teacher"]["bytes"]
    if ratio in (None, 1.0):
        return size, f"size of {shown['title']}"
    teacher = next(model for model in models if model["key"] == "teacher")
    theirs = bytes_text(teacher["file"]["bytes"])
    return ratio_text(ratio), (
        f"of the teacher's size: {shown['title']} has {size}, {teacher['title']} {theirs}"
    )


def measured_on(model: Mapping[str, Any]) -> str:
    """Return what was measured: `"file"`, `"Keras model"`, or a dash where nothing was."""
    if model["accuracy_of"] == "file":
        return "file"
    figures = [model["accuracy"]["mean"], *(model.get("metrics") or {}).values()]
    return ABSENT if all(figure is None for figure in figures) else "Keras model"


def over_seeds(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sentences on seeds: of how many the accuracy is, and what the first one's is.

    Args:
        models: The models of a completed result.
    """
    counts = sorted({measured_seeds(model) for model in models} - {0})
    sentences = []
    if counts == [1]:
        sentences.append("Accuracy is that of one seed.")
    elif counts:
        over = f"{counts[0]} seeds"
        if len(counts) > 1:
            over = f"the seeds of each model, {counts[0]} to {counts[-1]}"
        sentences.append(f"Accuracy is the mean ± sample standard deviation over {over}.")
    if several_seeds(models):
        sentences.append(
            "Size, latency, agreement, other metrics, classes, calibration and layers are those "
            "of the first seed."
        )
    return sentences


def several_seeds(models: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a model was measured with more than one seed."""
    return any(len(model["seeds"]) > 1 for model in models)


def samples_name(result: Mapping[str, Any]) -> str:
    """Return what the measured samples are called: `"test samples"`, or `"samples"`."""
    return f"{result.get('part') or ''} samples".lstrip()


def measured_seeds(model: Mapping[str, Any]) -> int:
    """Return the number of seeds that the mean accuracy is of."""
    return sum(value is not None for value in model["accuracy"]["values"])


def _points_lost(model: Mapping[str, Any]) -> float:
    drop: float | None = model["accuracy_drop_points"]
    return 0.0 if drop is None else drop


def _close(students: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [model for model in students if not exceeds(_points_lost(model), TOLERATED_DROP)]


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
            lambda m: (size(m), _points_lost(m)),
            f"the smallest within {TOLERATED_DROP:g} point of the teacher",
        )
    pick(files, lambda m: (size(m), _points_lost(m)), "the smallest")
    pick(
        drawable(students, "zipped_bytes"),
        lambda m: (cost_of(m, "zipped_bytes"), _points_lost(m)),
        "the smallest when zipped",
    )
    timed = drawable(students, "latency_ms")
    least = min((cost_of(model, "latency_ms") or 0.0 for model in timed), default=0.0)
    alike = sum(
        (cost_of(model, "latency_ms") or 0.0) <= least * (1 + _LATENCY_NOISE) for model in timed
    )
    others = f" (with {alike - 1} more within {100 * _LATENCY_NOISE:.0f} %)" if alike > 1 else ""
    pick(timed, lambda m: (cost_of(m, "latency_ms"), _points_lost(m)), f"the fastest{others}")
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
    count = measured_seeds(model)
    accuracy += f" as the mean of {count} seeds" if count > 1 else ""
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
        if file["latency_ms"] is not None:
            ratio = "" if teacher is None or ratios["latency_ms"] is None else (
                f" ({ratio_text(ratios['latency_ms'])} of its latency)"
            )  # fmt: skip
            batch = file.get("latency_batch", 1)
            batch = f" for {batch} examples" if batch > 1 else ""
            parts.append(f"{milliseconds_text(file['latency_ms'])} ms{batch}{ratio}")
    if count == 1:
        parts.append("one seed")
    return ", ".join(parts)


def _alone_and_taught(
    by_key: Mapping[str, Mapping[str, Any]],
) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Return the student trained alone and the same one taught, `None` if they are not the same."""
    alone, taught = by_key.get("student_alone"), by_key.get("distilled")
    if alone is None or taught is None or alone.get("run") != taught.get("run"):
        return None
    sizes = {model["parameters"] for model in (alone, taught)} - {None}
    return None if len(sizes) > 1 else (alone, taught)


def _distilled_sentence(alone: Mapping[str, Any], distilled: Mapping[str, Any]) -> str:
    gain = 100 * (distilled["accuracy"]["mean"] - alone["accuracy"]["mean"])
    counts = sorted({measured_seeds(alone), measured_seeds(distilled)})
    change = f"{abs(gain):.2f} points {'above' if gain >= 0 else 'below'}"
    sentence = f"Taught by the teacher, the student is {change} the same student trained alone"
    if counts == [1]:
        return f"{sentence} (one seed, so chance is not excluded)."
    spread = 100 * max(alone["accuracy"]["std"] or 0.0, distilled["accuracy"]["std"] or 0.0)
    within = ", which is within that spread" if abs(gain) <= spread else ""
    seeds = " and ".join(str(count) for count in counts)
    return (
        f"{sentence} (mean of {seeds} seeds; standard deviation up to {spread:.2f} points{within})."
    )
