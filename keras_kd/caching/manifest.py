"""The manifest of a cache: what it was made of, and its shards."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import re
import zlib
from typing import Any

from keras_kd.caching.records import PLAIN_TYPES, Leaf
from keras_kd.system.files import write_json
from keras_kd.system.reading import read_json

NAME = "manifest.json"
FORMAT = "keras_kd.teachers.cache 1"
_SHARD_NAME = re.compile(r"[0-9]{5,9}\.tfrecord")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
        file: Its name in the folder.
        view: The view it belongs to, from 0.
        records: Number of records, which is the number of batches.
        size: In bytes.
        crc32: Checksum of the file.
        inputs: Hash of the inputs that its records were made for.
    """

    file: str
    view: int
    records: int
    size: int
    crc32: int
    inputs: str


@dataclasses.dataclass
class Manifest:
    """What a cache was made of, and its shards.

    Attributes:
        fingerprint: What it was made of, see `caching.checks.fingerprint`.
        complete: Whether all shards are there.
        shards: The shards, in order.
        leaves: The tensors of a record.
        outputs: Structure of the outputs, with the keys of the tensors.
        features: Structure of the features, by path.
    """

    fingerprint: dict[str, Any]
    complete: bool = False
    shards: list[Shard] = dataclasses.field(default_factory=list)
    leaves: list[Leaf] = dataclasses.field(default_factory=list)
    outputs: Any = None
    features: Any = None

    def write(self, folder: pathlib.Path) -> None:
        """Write it to its folder, whole or not at all."""
        write_json(folder / NAME, {"format": FORMAT, **dataclasses.asdict(self)})

    def batches(self, view: int = 0) -> int:
        """Return the number of batches of a view."""
        return sum(shard.records for shard in self.shards if shard.view == view)


def read_manifest(folder: pathlib.Path) -> Manifest | None:
    """Return the manifest of a folder, or `None` if the folder is absent or empty.

    Raises:
        ValueError: If the folder holds something else, or the manifest cannot be read.
        NotADirectoryError: If a file stands there.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"Cannot cache in '{folder}': it is a file. Give the path of a folder."
        )
    path = folder / NAME
    if not path.exists():
        others = [p.name for p in folder.glob("*") if not p.name.startswith(".")]
        if others:
            raise ValueError(
                f"Cannot cache in '{folder}': it holds '{min(others)}' and no manifest, so it is "
                "not a cache. Give the path of a new folder."
            )
        return None
    try:
        content = read_json(path)
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        content["shards"] = [_shard(**shard) for shard in content["shards"]]
        content["leaves"] = [_leaf(**leaf) for leaf in content["leaves"]]
        return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise refusal(folder, f"its {NAME} cannot be read ({error})") from None


def _shard(**entries: Any) -> Shard:
    """Return a shard of a manifest, whose name is one that `shard_name` gives, and no path."""
    shard = Shard(**entries)
    if not isinstance(shard.file, str) or not _SHARD_NAME.fullmatch(shard.file):
        raise ValueError(f"{shard.file!r} is not the name of a shard")
    numbers = (shard.view, shard.records, shard.size, shard.crc32)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"the numbers of '{shard.file}' make no sense")
    return shard


def _leaf(**entries: Any) -> Leaf:
    leaf = Leaf(**{**entries, "shape": tuple(entries["shape"])})
    # Handles of resources and variants, which TensorFlow would read too, are no outputs.
    if not {leaf.dtype, leaf.read_as} <= PLAIN_TYPES:
        raise ValueError(f"'{leaf.key}' is of the types {leaf.dtype!r} and {leaf.read_as!r}")
    return leaf


def shard_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"{number:05d}.tfrecord"


def refusal(folder: pathlib.Path, reason: str) -> ValueError:
    """Return the error that says why a cache is not used, and what to do."""
    return ValueError(
        f"The cache in '{folder}' is not used: {reason}. Give another path, or remove that folder "
        "to build the cache again; nothing is overwritten."
    )


def check_shards(folder: pathlib.Path, manifest: Manifest, contents: bool = True) -> None:
    """Refuse shards that are missing, cut short or altered.

    Args:
        folder: The folder of the cache.
        manifest: Its manifest.
        contents: Whether to read every file and compare its checksum, besides its size. Defaults
            to `True`.

    Raises:
        ValueError: With the name of the first such shard.
    """
    for shard in manifest.shards:
        path = folder / shard.file
        if path.is_symlink():
            raise refusal(folder, f"'{shard.file}' is a link to a file elsewhere")
        if not path.is_file():
            raise refusal(folder, f"'{shard.file}' is missing")
        size = path.stat().st_size
        if size != shard.size:
            what = "truncated" if size < shard.size else "altered"
            raise refusal(
                folder, f"'{shard.file}' was {what}: it has {size} bytes instead of {shard.size}"
            )
    if not contents:
        return
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sums = pool.map(lambda shard: file_crc32(folder / shard.file), manifest.shards)
        for shard, crc32 in zip(manifest.shards, sums, strict=True):
            if crc32 != shard.crc32:
                raise refusal(folder, f"'{shard.file}' was altered: its checksum is another")


def file_crc32(path: pathlib.Path) -> int:
    """Return the checksum of a file, read in pieces."""
    crc32 = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            crc32 = zlib.crc32(piece, crc32)
    return crc32
