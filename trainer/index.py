"""The index of a checkpoint as JSON, so that reading a checkpoint runs no code in it.

torch.distributed.checkpoint keeps its index, `.metadata`, as a pickle, and pickles can hold code.
The trainer writes its own index beside it, reads no other, and accepts only tensors and plain
values.

    python -m trainer.index FOLDER    # writes one for a checkpoint of torch that you trust
"""

from __future__ import annotations

import io
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

INDEX = "index.json"
#: a file that ranks write: no other is opened
SHARE = re.compile(r"__\d+_\d+\.distcp")
Count = int
Sizes = list[Count]


class _Tensor(msgspec.Struct):
    dtype: str
    size: Sizes
    chunks: list[tuple[Sizes, Sizes]]  #: offset and size of each part


class _Part(msgspec.Struct):
    name: str
    offset: Sizes | None  #: in the tensor
    number: int | None  #: among its parts
    file: str
    begin: int
    length: int


class _Index(msgspec.Struct):
    tensors: dict[str, _Tensor]
    values: list[str]  #: names of what is no tensor
    parts: list[_Part]
    version: int = 1


def _written(metadata: Metadata, storage: dict[Any, Any]) -> bytes:
    """Return the index of a checkpoint, given torch's."""
    tensors, values = {}, []
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            chunks = [(list(one.offsets), list(one.sizes)) for one in entry.chunks]
            dtype = str(entry.properties.dtype).removeprefix("torch.")
            tensors[name] = _Tensor(dtype, list(entry.size), chunks)
        else:
            values.append(name)
    parts = []
    for at, where in storage.items():
        offset = None if at.offset is None else list(at.offset)
        parts.append(
            _Part(at.fqn, offset, at.index, where.relative_path, where.offset, where.length)
        )
    return msgspec.json.encode(_Index(tensors, values, parts))


def _read(path: Path) -> Metadata:
    """Return torch's index of a checkpoint from ours.

    Raises:
        ValueError: it cannot be read, or says what cannot be.
    """
    try:
        found = msgspec.json.decode((path / INDEX).read_bytes(), type=_Index)
        tensors = {name: _tensor(one) for name, one in found.tensors.items()}
        parts = dict(map(_part, found.parts))
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{INDEX}: {error}") from None
    values = {name: BytesStorageMetadata() for name in found.values}
    return Metadata(state_dict_metadata={**tensors, **values}, storage_data=parts)


def _tensor(one: _Tensor) -> TensorStorageMetadata:
    dtype = getattr(torch, one.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{one.dtype!r} is not a numeric type")
    chunks = [ChunkStorageMetadata(_size(offset), _size(size)) for offset, size in one.chunks]
    return TensorStorageMetadata(TensorProperties(dtype=dtype), _size(one.size), chunks)


def _part(one: _Part) -> tuple[MetadataIndex, _StorageInfo]:
    if not SHARE.fullmatch(one.file) or one.begin < 0 or one.length < 0:
        raise ValueError(f"{one.file!r} from {one.begin}, {one.length} bytes: no part of it")
    offset = None if one.offset is None else _size(one.offset)
    return MetadataIndex(one.name, offset, one.number), _StorageInfo(
        one.file, one.begin, one.length
    )


def _size(numbers: Sizes) -> torch.Size:
    if any(number < 0 for number in numbers):
        raise ValueError(f"{numbers} is not a size")
    return torch.Size(numbers)


class Writer(dcp.FileSystemWriter):
    """Writes a checkpoint with both indexes; torch's, which commits it, comes last."""

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """Write the indexes."""
        storage = {one.index: one.storage_data for ranks in results for one in ranks}
        put(Path(self.path, INDEX), _written(metadata, storage))
        super().finish(metadata, results)


def put(path: Path, content: bytes) -> None:
    """Write a file that has its name only once all of it is on the disk.

    As `scheduler.whole` does it, which an image with nothing but the trainer lacks.
    """
    part = path.with_name(f".partial-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class Reader(dcp.FileSystemReader):
    """Reads a checkpoint by our index."""

    def read_metadata(self) -> Metadata:
        """Return the index.

        Raises:
            ValueError: it cannot be read.
        """
        metadata = _read(Path(self.path))
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class Planner(DefaultLoadPlanner):
    """Takes tensors and plain values, and no other object."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        """Put a value that is not a tensor into its place."""
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


def main() -> int:
    """Write the index of a checkpoint of torch that the caller trusts."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    metadata = dcp.FileSystemReader(folder).read_metadata()
    put(folder / INDEX, _written(metadata, metadata.storage_data))
    print(folder / INDEX)
    return 0


if __name__ == "__main__":
    sys.exit(main())
