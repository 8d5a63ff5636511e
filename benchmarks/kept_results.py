"""What the measuring scripts keep: results in files, and their means with deviations as text."""

import json
import statistics

from keras_kd.system.arguments import with_added
from keras_kd.system.files import atomic_path


def spread(values, digits=2):
    """Return the mean, and with several values ± their sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def percent(share):
    """Return a share in percent as text, `""` of `None`."""
    return "" if share is None else f"{100 * share:.2f}"


def once(path, make):
    """Return what `make` gives, kept in a JSON file."""
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def check_settings(folder, settings, defaults=None):
    """Keep a run's settings in its folder; end the program where it holds a run of others.

    Args:
        folder: The folder.
        settings: A dictionary of all that the results depend on.
        defaults: By setting, what was added to a dictionary later, with the values of before.
    """
    path = folder / "settings.json"
    settings = json.loads(json.dumps(settings, default=str))
    kept = with_added(once(path, lambda: settings), settings, defaults or {})
    if differing := sorted(name for name in settings if kept.get(name) != settings[name]):
        raise SystemExit(
            f"'{folder}' holds runs of other settings: {', '.join(differing)} (see {path.name} in "
            "it). Give another folder with --out, or remove that one."
        )


def write_results(folder, table, measured):
    """Write a run's table and what it is made from."""
    for name, text in (("table.md", table), ("results.json", json.dumps(measured, default=str))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text + "\n")
