"""Read packed files of others, and unpack no more of them than a stated bound.

A few hundred kilobytes of gzip or Parquet can hold terabytes. What a file unpacks to is bounded by
`most_bytes`, whatever its own size; a file that is not packed is as large as it looks.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from traces.schema import TraceError

#: the environment variable that sets another bound, in GiB
SETTING = "MUSTER_UNPACK_GIB"
MOST_GIB = 2.0
GIB = 1 << 30
#: of a value in memory that is no text
VALUE_BYTES = 8
#: rows of text, and bytes, that are looked at together
BATCH_ROWS, PART_BYTES = 1 << 16, 1 << 24


#: containers within containers
DEEPEST = 4
#: the first bytes of a container, and its name
MARKS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
)
#: endings of names that promise one
ENDINGS = {
    ".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip",
    ".tar": "tar",
}  # fmt: skip
#: a file in a zip archive that says what it is
OFFICE = {
    "[Content_Types].xml": "an Excel workbook or another Office document",
    "META-INF/manifest.xml": "an OpenDocument sheet",
}


class SupportsRead(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; none at the end."""


def most_bytes() -> float:
    """Return how many bytes a file may unpack to.

    Raises:
        TraceError: the setting is no number above 0.
    """
    text = os.environ.get(SETTING, "")
    try:
        gib = float(text) if text else MOST_GIB
    except ValueError:
        gib = 0.0
    if isnan(gib) or gib <= 0:
        raise TraceError(f"{SETTING} is {text!r}; give a number of GiB above 0")
    return gib * GIB


def _check(path: Path, num_bytes: float, more: str = "") -> None:
    """Raise TraceError if a file unpacks to so many bytes, or even more, and may not."""
    most = most_bytes()
    if num_bytes > most:
        raise TraceError(
            f"{str(path)!r} unpacks to {more}{num_bytes / GIB:,.1f} GiB, and {most / GIB:g} GiB "
            f"are allowed; if you know where it comes from, set {SETTING} to more"
        )


def unpacked(path: Path) -> bytes:
    """Return the content of a file, out of every container that it lies in.

    Containers are told by their first bytes: gzip, bzip2, xz, zstd, and zip or tar archives of
    one file.

    Raises:
        TraceError: it cannot be read, a container is damaged, holds several files, or unpacks to
            more than `most_bytes`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(f"jobs file {str(path)!r}: {error.strerror}") from None
    depth = 0
    while (name := _container(content)) and depth < DEEPEST:
        content = _opened(path, name, content)
        depth += 1
    if not depth and names_container(path):
        raise TraceError(
            f"jobs file {str(path)!r} is not a valid {ENDINGS[path.suffix.lower()]} file, though "
            "its name says so; fetch it again, or rename it"
        )
    return content


def is_packed(start: bytes) -> bool:
    """True if the first bytes of a file are those of a container."""
    return bool(_container(start))


def names_container(path: Path) -> bool:
    """True if a file's name says that it is a container."""
    return path.suffix.lower() in ENDINGS


def _container(content: bytes) -> str:
    if content[257:262] == b"ustar":
        return "tar"
    return next((name for mark, name in MARKS if content.startswith(mark)), "")


def _opened(path: Path, name: str, content: bytes) -> bytes:
    """Return what lies in a container."""
    packed = io.BytesIO(content)
    try:
        if name == "gzip":
            return _within(path, gzip.GzipFile(fileobj=packed))
        if name == "bzip2":
            return _within(path, bz2.BZ2File(packed))
        if name == "xz":
            return _within(path, lzma.LZMAFile(packed))
        if name == "zstd":
            return _within(path, pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd"))
        if name == "zip":
            with zipfile.ZipFile(packed) as archive:
                inside = [one for one in archive.namelist() if not one.endswith("/")]
                return _within(path, archive.open(_only(path, inside)))
        with tarfile.open(fileobj=packed) as tar:
            files = [one.name for one in tar.getmembers() if one.isfile()]
            member = tar.extractfile(_only(path, files))
            assert member is not None
            return _within(path, member)
    except (
        OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
        tarfile.TarError, pa.ArrowException, NotImplementedError,
    ) as error:  # fmt: skip
        raise TraceError(
            f"jobs file {str(path)!r} is not a valid {name} file: {error}; fetch it again"
        ) from None


def _only(path: Path, names: list[str]) -> str:
    """Return the name of the one file of an archive."""
    for mark, what in OFFICE.items():
        if mark in names:
            raise TraceError(f"jobs file {str(path)!r} is {what}; save its sheet as CSV")
    seen = [name for name in names if not name.startswith("__MACOSX/")]
    if len(seen) != 1:
        some = ", ".join(sorted(seen)[:5]) or "none"
        raise TraceError(
            f"jobs file {str(path)!r} is an archive of {len(seen)} files ({some}); "
            "unpack it and name the one with the jobs"
        )
    return seen[0]


def _within(path: Path, file: SupportsRead) -> bytes:
    """Return what a stream holds, which must not be more than `most_bytes`."""
    parts: list[bytes] = []
    size = 0
    while part := file.read(PART_BYTES):
        parts.append(part)
        size += len(part)
        _check(path, size, "more than ")
    return b"".join(parts)


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, content: bytes | None = None
) -> pd.DataFrame:
    """Return a Parquet table, or some of its columns; `content` is what was unpacked of a file.

    Raises:
        TraceError: it cannot be read, or unpacks to more than `most_bytes`.
    """
    wanted = None if columns is None else list(columns)
    try:
        with pq.ParquetFile(path if content is None else io.BytesIO(content)) as file:
            _check_parquet(path, file, content)
            try:
                source = path if content is None else io.BytesIO(content)
                return pd.read_parquet(source, columns=wanted)
            except TypeError:  # it names a type of pandas that pandas itself cannot make again
                plain: pd.DataFrame = file.read(wanted).to_pandas(ignore_metadata=True)
                return plain
    except TraceError:
        raise
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        text = error.strerror if isinstance(error, FileNotFoundError) else error
        raise TraceError(f"{str(path)!r} is not a Parquet table: {text}") from None


def _check_parquet(path: Path, file: pq.ParquetFile, content: bytes | None) -> None:
    """Raise TraceError if a table unpacks to too much, by what it says of itself and its texts.

    A number that stands a billion times takes a few bytes, and so does a long text.
    """
    size = texts = 0.0
    for group in map(file.metadata.row_group, range(file.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            size += max(column.total_uncompressed_size, VALUE_BYTES * column.num_values)
            if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
                texts += column.total_uncompressed_size * column.num_values
    _check(path, size)
    if size + texts > most_bytes():  # only if every row had the longest text that there can be
        _check(path, size + _text_bytes(path, file, most_bytes() - size, content), "more than ")


def _text_bytes(path: Path, file: pq.ParquetFile, most: float, content: bytes | None) -> float:
    """Return the bytes of all texts; of more than `most`, not all are looked at."""
    schema = file.schema
    names = [
        column.path
        for column in map(schema.column, range(len(schema)))
        if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
    ]
    size = 0.0
    again = path if content is None else io.BytesIO(content)
    with pq.ParquetFile(again, read_dictionary=names) as texts:
        for name in names:
            for batch in texts.iter_batches(BATCH_ROWS, columns=[name], use_threads=False):
                size += _length(batch.column(0))
                if size > most:
                    return size
    return size


def _length(cells: pa.Array) -> float:
    """Return the bytes of texts, of which equal ones may be kept once."""
    if isinstance(cells, pa.DictionaryArray):
        words = pc.binary_length(cells.dictionary)
        return float(pc.sum(pc.take(words, cells.indices)).as_py() or 0)
    return float(cells.nbytes)
