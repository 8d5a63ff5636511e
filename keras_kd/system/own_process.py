"""Running one of the package's scripts in a process of its own, which a damaged file may end."""

from __future__ import annotations

import subprocess
import sys


def run_script(script: str, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a script with what this process can import, and wait for its end.

    Args:
        script: Path of the script.
        arguments: What stands in its `sys.argv`.
        seconds: How long it may take.

    Returns:
        The ended process, with what it printed.

    Raises:
        subprocess.TimeoutExpired: If it takes longer.
    """
    # The script's own folder must not be on the path, and everything importable here must be.
    code = (
        f"import runpy, sys; sys.path[:] = {sys.path!r}; "
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
    )
