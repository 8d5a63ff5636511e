"""`tfds.load` with the package's own datasets, and one clear error if data cannot be had."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import os
import urllib.error
from collections.abc import Iterator
from typing import Any

from keras_kd.system.quiet import capture_output

# Seconds to connect and to wait for bytes. TFDS itself waits without limit.
_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 60
# TFDS retries 10 times with growing pauses: 200 seconds until a missing network is reported.
_RETRIES = 2
_OWN = ("digits", "fashion_scenes")


def register() -> None:
    """Make `digits` and `fashion_scenes` known to TFDS, so that `tfds.load("digits")` works.

    Doing so twice is fine.
    """
    # TFDS registers a builder when its class is made.
    import keras_kd.datasets.digits
    import keras_kd.datasets.fashion_scenes  # noqa: F401


def load(name: str, *, split: Any = None, **kwargs: Any) -> Any:
    """Load a dataset with `tfds.load`, `digits` and `fashion_scenes` included.

    Where the data is neither on disk nor can be downloaded, one error says so within seconds,
    where TFDS retries for minutes.

    Args:
        name: Name of a TFDS dataset, such as `"digits"`, `"fashion_mnist"`, `"mnist:3.0.1"`.
        split: As in `tfds.load`: `"train"`, `["train", "test"]`, `"train[:80%]"`. Defaults to
            `None`, which gives a dict of all splits.
        **kwargs: Further arguments of `tfds.load`, such as `as_supervised`, `batch_size`,
            `data_dir`, `with_info`.

    Returns:
        What `tfds.load` returns: one or several `tf.data.Dataset`, with a `DatasetInfo` beside
        them for `with_info=True`.

    Raises:
        ValueError: If no dataset has this name (close names are listed) or if it has no such
            split.
        FileNotFoundError: If the data is absent and cannot be downloaded.

    Example:

    ```python
    train, test = kd.datasets.load("digits", split=["train", "test"], as_supervised=True)
    ```
    """
    import tensorflow_datasets as tfds

    register()
    base = name.split("/")[0].split(":")[0]
    # These are prepared in seconds: progress bars and TensorFlow's log are only noise.
    quiet = capture_output() if base in _OWN else contextlib.nullcontext()
    try:
        with quiet, _impatient_downloads():
            try:
                return tfds.load(name, split=split, **kwargs)
            except FileExistsError:  # another process has prepared it in the meantime
                return tfds.load(name, split=split, **kwargs)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(_unknown_name(name, base)) from None
    except Exception as error:
        if not _is_absence(error):
            raise
        raise FileNotFoundError(_absence(name, kwargs.get("data_dir"), error)) from error


def _unknown_name(name: str, base: str) -> str:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(base, known, n=5, cutoff=0.6)
    advice = (
        f"Names close to it: {', '.join(close)}."
        if close
        else "tfds.list_builders() gives the names."
    )
    return f"There is no dataset '{name}' in TensorFlow Datasets. {advice}"


def _is_absence(error: Exception) -> bool:
    """Whether `error` says that data is absent or out of reach (not, say, that a disk is full)."""
    import requests
    from tensorflow_datasets.core.download.util import DownloadError

    if isinstance(error, AssertionError):  # TFDS's way to report absent data
        text = str(error).lower()
        return "could not find data" in text or "manual" in text
    return isinstance(
        error,
        (
            requests.exceptions.RequestException,
            urllib.error.URLError,
            DownloadError,
            ConnectionError,
            TimeoutError,
        ),
    )


def _absence(name: str, data_dir: Any, error: Exception) -> str:
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(str(data_dir or tfds.core.constants.DATA_DIR))
    variable = os.environ.get("TFDS_DATA_DIR")
    setting = f"is '{variable}'" if variable else "is not set"
    reason = " ".join(str(error).split())
    if len(reason) > 300:
        reason = reason[:300] + " ..."
    return (
        f"The dataset '{name}' is not in '{folder}' and could not be downloaded. Connect to the "
        "network, or set the environment variable TFDS_DATA_DIR, before Python starts, to a "
        f"folder that holds the dataset (it {setting}). The dataset 'digits' needs no download. "
        f"The cause: {type(error).__name__}: {reason}"
    )


@contextlib.contextmanager
def _impatient_downloads() -> Iterator[None]:
    """Give TFDS's downloads few retries and a time limit; what it logs about retries is muted."""
    from tensorflow_datasets.core.download import downloader

    open_url = getattr(downloader, "_open_url", None)
    retries = getattr(downloader, "MAX_RETRIES", None)
    if open_url is None or retries is None:  # another version of TFDS: its own patience
        yield
        return
    retry_log = logging.getLogger("urllib3.connectionpool")
    level = retry_log.level
    timeout = (_CONNECT_TIMEOUT, _READ_TIMEOUT)
    downloader._open_url = functools.partial(open_url, timeout=timeout)
    downloader.MAX_RETRIES = min(retries, _RETRIES)
    retry_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        downloader._open_url = open_url
        downloader.MAX_RETRIES = retries
        retry_log.setLevel(level)
