"""The HTML page of a result: one file that asks for nothing else."""

from __future__ import annotations

from typing import Any

from keras_kd.report import plots
from keras_kd.report.numbers import (
    accuracy_text,
    bytes_text,
    change_text,
    count_text,
    milliseconds_text,
    percent_text,
    ratio_text,
)


def render_page(result: dict[str, Any]) -> str:
    """Return the HTML page of a result.

    Args:
        result: A result that `complete_result` has completed.

    Returns:
        A whole HTML document. The same result gives the same text.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_kd.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        accuracy=lambda accuracy: accuracy_text(accuracy["mean"], accuracy["std"]),
        bytes=bytes_text,
        change=change_text,
        count=count_text,
        ms=milliseconds_text,
        percent=percent_text,
        ratio=ratio_text,
    )
    files = [model for model in result["models"] if model["file"] is not None]
    operators = sorted({name for model in files for name in model["file"]["operators"]})
    titles = {model["key"]: model["title"] for model in result["models"]}
    return environment.get_template("report.html").render(
        result=result,
        files=files,
        operators=operators,
        layers_title=titles.get(result.get("layers_of", ""), "the compressed student"),
        size_plot=plots.accuracy_against_size(result["models"]),
        curve_plots=plots.training_curves(result["curves"]),
        sparsity_plot=plots.layer_sparsity(result["layers"]),
    )
