"""How numbers and settings are written in the table, on the page and in the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABSENT = "–"


def bytes_text(count: float | None) -> str:
    """Write a size in bytes, with 1 kB = 1,000 bytes: `"58.2 kB"`."""
    if count is None:
        return ABSENT
    if count < 999.5:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 999.5:
            return f"{_three_digits(count)} {unit}"
    return f"{_three_digits(count / 1000)} GB"


def count_text(count: int | None) -> str:
    """Write a count with separators: `"1,234,567"`."""
    return ABSENT if count is None else f"{count:,}"


def percent_text(fraction: float | None, decimals: int = 1) -> str:
    """Write a fraction as a percentage, with one decimal unless told otherwise: `"93.1 %"`."""
    return ABSENT if fraction is None else f"{100 * fraction:.{decimals}f} %"


def accuracy_text(mean: float | None, std: float | None) -> str:
    """Write an accuracy as a percentage, with its spread in points: `"93.12 ± 0.20 %"`."""
    if mean is None:
        return ABSENT
    return f"{100 * mean:.2f} %" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f} %"


def change_text(drop_points: float | None) -> str:
    """Write a drop in accuracy as a signed change in points: a drop of 0.6 is `"−0.60"`."""
    if drop_points is None:
        return ABSENT
    rounded = round(drop_points, 2)
    if rounded == 0:
        return "0.00"
    return f"{'−' if rounded > 0 else '+'}{abs(rounded):.2f}"


def metric_text(value: float | None) -> str:
    """Write a metric other than accuracy with four digits: `"0.8312"`, `"12.35"`."""
    return ABSENT if value is None else f"{value:.4g}"


def ratio_text(ratio: float | None) -> str:
    """Write a ratio to the teacher: 0.0091 is `"1/110"`, 0.83 is `"0.83×"`."""
    if ratio is None:
        return ABSENT
    if 0 < ratio < 0.5:
        return f"1/{_three_digits(1 / ratio).removesuffix('.0')}"
    return f"{ratio:.2f}×"


def milliseconds_text(milliseconds: float | None) -> str:
    """Write a latency with three digits: `"0.0523"`, `"1.27"`, `"31.0"`."""
    if milliseconds is None:
        return ABSENT
    return f"{milliseconds:#.3g}".removesuffix(".")


def signed_points_text(points: float | None) -> str:
    """Write a change in percentage points with its sign: `"+0.40"`, `"−1.20"`."""
    return ABSENT if points is None else change_text(-points)


def setting_text(value: Any) -> str:
    """Write the value of a setting; a dict as `"epochs = 3; stages = prune(0.5), int8"`."""
    if isinstance(value, Mapping):
        entries = (
            f"{name} = {_bracketed(entry) if isinstance(entry, Mapping) else setting_text(entry)}"
            for name, entry in value.items()
        )
        return "; ".join(entries) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_bracketed, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _bracketed(value: Any) -> str:
    text = setting_text(value)
    return f"[{text}]" if isinstance(value, (Mapping, list, tuple)) else text


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
