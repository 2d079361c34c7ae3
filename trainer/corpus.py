"""Text for the byte-level GPT, without a download: the standard library's source, or a file."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True, slots=True)
class Corpus:
    """All bytes in one row."""

    tokens: Any  #: uint8 tensor, [num_bytes]
    sha256: str
    source: str

    def num_samples(self, context: int) -> int:
        """Return how many samples of `context` bytes and their successors do not overlap.

        Raises:
            ValueError: there is not even one.
        """
        count = (len(self.tokens) - 1) // context
        if count < 1:
            raise ValueError(
                f"data = {self.source!r} has {len(self.tokens)} bytes, one sample takes "
                f"gpt.context + 1 = {context + 1}; give more text or a smaller gpt.context"
            )
        return count

    def batch(self, ids: Any, context: int) -> tuple[Any, Any]:
        """Return bytes and their successors of samples, both int64 [len(ids), context]."""
        places = (ids * context)[:, None] + torch.arange(context + 1)
        text = self.tokens[places].long()
        return text[:, :-1], text[:, 1:]


def load(data: str) -> Corpus:
    """Read `stdlib` or a file; the digest tells whether two runs saw the same bytes.

    Raises:
        ValueError: the file cannot be read.
    """
    if data == "stdlib":
        content = _standard_library()
    else:
        try:
            content = Path(data).read_bytes()
        except OSError as error:
            raise ValueError(
                f"data = {data!r}: {error.strerror}; give a readable file, or 'stdlib'"
            ) from None
    tokens = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
    return Corpus(tokens, hashlib.sha256(content).hexdigest(), data)


def _standard_library() -> bytes:
    """Return every module of this Python outside tests and site-packages, sorted by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path.relative_to(root)
        for path in root.rglob("*.py")
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts)
    )
    return b"".join((root / path).read_bytes() for path in files)
