"""What an import could not keep, and what it had to assume."""

from __future__ import annotations

from collections.abc import Iterator


class Notes:
    """Sentences about an import; one about several objects has all their names."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, sentence: str, name: str = "") -> None:
        """Note a sentence, about the object of this name if there is one."""
        names = self._names.setdefault(sentence, [])
        if name and name not in names:
            names.append(name)

    def __iter__(self) -> Iterator[str]:
        for sentence, names in self._names.items():
            if not names:
                yield sentence
                continue
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            yield f"{shown}: {sentence}"

    def __len__(self) -> int:
        return len(self._names)
