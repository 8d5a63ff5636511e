"""`keras-kd report`: results of other commands as one page."""

from __future__ import annotations

from typing import Any

import click

from keras_kd.cli.command import Command, Option
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.shared_options import out_option

COMMAND = Command(
    "report",
    summary="one HTML page, one JSON and one model card of what was measured",
    description="""\
Make one self-contained HTML page, one JSON file and one Markdown model card of the results of
`measure`, with the training curves of `distill` and `compress` where theirs are given too. Results
of `keras-kd demo` (report.json) can stand beside them.""",
    example="""\
  keras-kd measure runs/export/*.tflite --teacher big.keras --data pictures --part validation \\
                   --out runs/measure
  keras-kd report runs/measure/result.json runs/distill/result.json --out runs/report""",
    settings=(
        click.Argument(["results"], nargs=-1, required=True, metavar="RESULT...",
                       help="result.json of measure, distill, compress; report.json of demo"),
        Option("title", "the title of the page"),
        out_option("runs/report"),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Write the page."""
    from keras_kd.cli.out_folder import OutFolder
    from keras_kd.cli.report_result import read_results, report_of
    from keras_kd.report import format_table, model_card, write_report

    results = read_results(settings["results"])
    folder = OutFolder(COMMAND, settings, settings["results"])
    if (done := folder.done(console)) is not None:
        return Outcome(done, _text(done))
    report = report_of(results, settings, folder.path)
    with folder.begun():
        page, numbers = write_report(report, folder.path)
        card = model_card(report, folder.path / "model_card.md", overwrite=True)
        result = folder.finish(
            {
                "page": page.as_posix(),
                "json": numbers.as_posix(),
                "card": card.as_posix(),
                "table": format_table(report),
            }
        )
    return Outcome(result, _text(result))


def _text(result: dict[str, Any]) -> str:
    card = f", card: {result['card']}" if "card" in result else ""
    return f"{result['table']}\nPage: {result['page']}{card}"
