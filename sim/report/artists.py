"""Imports what draws for less: matplotlib without the help texts that no command shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: what a class of artists calls when it is made
TELLS = "_update_set_signature_and_docstring"


@contextmanager
def without_help_texts() -> Iterator[None]:
    """Import matplotlib in here: its classes do not list what their `set` takes.

    It inspects each of its 200 classes for that, a third of the time of its import. Nothing else
    depends on the texts, and an import from elsewhere has them.
    """
    from matplotlib.artist import Artist

    artist: Any = Artist
    tell = artist.__dict__.get(TELLS)
    setattr(artist, TELLS, lambda *_, **__: None)
    try:
        yield
    finally:
        if tell is None:  # another version does it by another name
            delattr(artist, TELLS)
        else:
            setattr(artist, TELLS, tell)
