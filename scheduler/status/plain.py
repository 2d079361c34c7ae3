"""Makes users' texts safe to show to others: in a terminal, an Event, a page."""

from __future__ import annotations

MOST = 2000  #: characters of one text


def plain(text: str, most: int = MOST) -> str:
    """Return a text of one line in which nothing moves a cursor, hides a part, or goes on for ever.

    What cannot be printed is written as an escape, as `ascii` writes it.
    """
    if len(text) > most:
        text = text[:most] + "..."
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
