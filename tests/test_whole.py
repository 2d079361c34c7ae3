"""What has its name is whole: files and folders that are interrupted, fail, or meet another."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scheduler import whole


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write_half(path: Path, error: type[BaseException]) -> None:
    with whole.replacing(path) as part:
        part.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_what_ends_early_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    for name, before in (("new.csv", None), ("old.csv", "old")):
        path = tmp_path / name
        if before is not None:
            path.write_text(before)
        with pytest.raises(error):
            write_half(path, error)
        assert (path.read_text() if path.exists() else None) == before
    assert entries(tmp_path) == {"old.csv"}


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_an_interrupt_at_each_step_leaves_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole.os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        whole.write_text(tmp_path / "a.txt", "whole", durable=True)
    assert entries(tmp_path) == set()


def test_an_interrupt_after_the_rename_leaves_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupt(source: Path, target: Path) -> None:
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(whole.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        whole.write_text(tmp_path / "a.txt", "whole")
    assert entries(tmp_path) == {"a.txt"}
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_the_part_is_hidden_and_keeps_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv.gz"
    with whole.replacing(path) as part:
        assert part.name.startswith(f".partial-{os.getpid()}-")
        assert part.name.endswith("-jobs.csv.gz")
        assert whole.PART.fullmatch(part.name)
        assert whole.parts_of(path) == [part]
        assert whole.parts_of(tmp_path / "csv.gz") == []
        assert not path.exists()
    assert whole.parts_of(tmp_path / "none" / "a") == []


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".json")
    whole.write_text(path, "{}")
    assert entries(tmp_path) == {path.name}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_mode_bits_stay(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("old")
    path.chmod(mode)
    whole.write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text() == "new"


def test_a_secret_is_nobody_elses_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "admin.kubeconfig"
    path.write_text("earlier, and open to all")
    path.chmod(0o644)
    with whole.replacing(path, mode=0o600) as part:
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        part.write_text("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    whole.write_text(tmp_path / "a", "")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("there.csv", "not-yet.csv"):
        link = tmp_path / name
        link.symlink_to(tmp_path / "disk" / name)
        whole.write_text(link, "new")
        assert link.is_symlink()
        assert (tmp_path / "disk" / name).read_text() == "new"
    assert entries(tmp_path / "disk") == {"there.csv", "not-yet.csv"}


def test_a_fifo_is_written_to_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    whole.write_text(path, "rows")
    reader.join()
    assert read == ["rows"]
    assert path.is_fifo()
    assert entries(tmp_path) == {"pipe.csv"}


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/fd/1"])
def test_a_device_and_what_is_open_are_written_to(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole.write_text(name, "rows")
    assert capfd.readouterr().out == ("" if name == "/dev/null" else "rows")


@pytest.mark.parametrize(
    ("name", "says"), [("none/a.csv", "No such file"), ("folder", "Is a directory")]
)
def test_errors_name_the_file_that_people_know(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=says) as found:
        whole.write_text(tmp_path / name, "")
    assert found.value.filename == str(tmp_path / name)
    assert entries(tmp_path) == {"folder"}


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(OSError, match="No space left") as found, whole.replacing(path):
        raise OSError(28, "No space left on device")  # as write() says it
    assert found.value.filename == str(path)
    assert entries(tmp_path) == set()


# -- folders -----------------------------------------------------------------------------------


def anything(folder: Path) -> None:
    """Let everything be replaced."""


def filling(text: str) -> Callable[[Path], None]:
    return lambda folder: whole.write_text(folder / "a", text)


CALLS = ("mkdir", "open", "replace", "fsync", "rename")


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("has_earlier", [False, True], ids=["new", "earlier"])
def test_a_folder_is_whole_wherever_it_is_interrupted(
    has_earlier: bool, is_after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt the first call of the system, then the second, until none is left."""
    for nth in range(1, 100):
        place = tmp_path / str(nth)
        place.mkdir()
        target = place / "run"
        if has_earlier:
            whole.put_folder(target, anything, filling("old"))
        left = nth
        with monkeypatch.context() as patched:
            for name in CALLS:
                real = getattr(os, name)

                def call(*args: object, _real: Any = real, **kw: Any) -> object:
                    nonlocal left
                    left -= 1
                    if left == 0 and not is_after:
                        raise KeyboardInterrupt
                    result = _real(*args, **kw)
                    if left == 0:
                        raise KeyboardInterrupt
                    return result

                patched.setattr(os, name, call)
            with suppress(KeyboardInterrupt):
                whole.put_folder(target, anything, filling("new"), within=place / "unfinished")
        text = (target / "a").read_text() if target.exists() else None
        assert text in ("new", "old" if has_earlier else None), nth
        assert not list(place.rglob(".partial-*")), nth
        if left > 0:
            assert text == "new"
            assert nth > 10
            return
    pytest.fail("it never came to its end")


def test_an_earlier_folder_that_must_stay_stays(tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise ValueError("it stays")

    whole.put_folder(tmp_path / "run", refuse, filling("old"))
    with pytest.raises(ValueError, match="it stays"):
        whole.put_folder(tmp_path / "run", refuse, filling("new"))
    assert (tmp_path / "run" / "a").read_text() == "old"
    assert entries(tmp_path) == {"run"}


def test_an_error_in_a_folder_names_the_place_it_would_have(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "jobs.parquet"))

    with pytest.raises(OSError, match="No space left") as found:
        whole.put_folder(tmp_path / "run", anything, fails)
    assert found.value.filename == str(tmp_path / "run" / "jobs.parquet")
    assert entries(tmp_path) == set()
