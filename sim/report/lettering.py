"""Letters of pictures: names stand in them as they are, whatever their script."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

FONT = "DejaVu Sans"  #: comes with matplotlib
MOST_TRIED = 200  #: fonts of this machine that are looked into for letters that FONT lacks
LONGEST = 48  #: letters of a name in a picture
#: what XML, and so SVG, has no place for
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def shown(name: str) -> str:
    """Return a name as pictures show it: on one line, without control letters, cut if very long."""
    text = _NOT_TEXT.sub("\ufffd", name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def families(texts: Iterable[str]) -> list[str]:
    """Return the fonts to take for texts, in the order in which letters are looked for.

    Fonts of this machine follow FONT where it lacks a letter. One that no font has is drawn as a
    box; an SVG still holds the letter.
    """
    letters = frozenset(letter for text in texts if not text.isascii() for letter in text)
    return [FONT, *_others(letters)]


@cache
def _others(letters: frozenset[str]) -> tuple[str, ...]:
    from matplotlib import font_manager

    missing = {ord(letter) for letter in letters} - _letters_of(font_manager.findfont(FONT))
    found: list[str] = []
    if not missing:
        return ()
    plain = [
        entry
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight in (400, "normal", "regular")
    ]
    plain.sort(key=lambda entry: ("Sans" not in entry.name, entry.name))
    for entry in plain[:MOST_TRIED]:
        try:
            covered = missing & _letters_of(entry.fname)
        except (OSError, RuntimeError):  # a font that is gone or broken helps no one
            continue
        if covered:
            found.append(entry.name)
            missing -= covered
        if not missing:
            break
    return tuple(found)


@cache
def _letters_of(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())


@contextmanager
def no_word_of_missing_letters() -> Iterator[None]:
    """Draw in here: that no font has a letter is seen in the picture, not on the terminal."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support")
        yield
