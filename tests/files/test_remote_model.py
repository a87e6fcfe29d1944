"""Copy models from a file system whose objects have any names, onto a machine of several users."""

import fnmatch
import io
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from apache_beam.io.filesystem import FileMetadata, MatchResult

from beam_gpte.core.errors import InputError
from beam_gpte.files import remote_model
from beam_gpte.files.remote_model import COMPLETE, check_remote_model, fetch_model

MODEL = "mem://bucket/model"


class Objects:
    """Stand in for `FileSystems`: objects by name, which may be any string."""

    def __init__(self, **_: Any) -> None:
        self.contents: dict[str, bytes] = {f"{MODEL}/config.json": b"{}"}
        self.fetched: list[str] = []
        self.fail_at = ""

    def match(self, patterns: list[str]) -> list[MatchResult]:
        start = patterns[0].removesuffix("**")
        found = [
            FileMetadata(name, len(content), 1.0)
            for name, content in self.contents.items()
            if fnmatch.fnmatchcase(name, f"{start}*") or not name.startswith("mem://")
        ]
        return [MatchResult(patterns[0], found)]

    def open(self, path: str, compression_type: str) -> BinaryIO:
        assert compression_type == "uncompressed"
        if path == self.fail_at:
            raise ConnectionError("the network is gone")
        self.fetched.append(path)
        return io.BytesIO(self.contents[path])


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Objects:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(remote_model, "FileSystems", objects := Objects())
    remote_model._own_folder.cache_clear()
    return objects


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "name",
    [
        f"{MODEL}/../../x",
        f"{MODEL}/../model-2/x",
        f"{MODEL}/a/../../../x",
        f"{MODEL}/..",
        f"{MODEL}/./x",
        f"{MODEL}//etc/x",
        f"{MODEL}/a//x",
        "/etc/x",
        "relative/x",
        f"{MODEL}/..\\..\\x",
        f"{MODEL}/C:\\x",
        f"{MODEL}/~root/x",
        f"{MODEL}/x\0.json",
        f"{MODEL}/x\n.json",
        f"{MODEL}/x\udcff",
        f"{MODEL}/{COMPLETE}",
        f"{MODEL}/{'x' * 300}",
        f"{MODEL}/config.json/x",
        f"{MODEL}/",
    ],
)
def test_an_object_is_never_written_outside_the_models_folder(
    objects: Objects, tmp_path: Path, name: str
) -> None:
    objects.contents[name] = b"evil"
    with pytest.raises(InputError) as error:
        fetch_model(MODEL)
    assert repr(name) in str(error.value)
    assert "remove or rename it there" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not [path for path in files_below(tmp_path) if "partial" not in path]
    assert not list(tmp_path.glob("*/partial-*"))


def test_what_a_console_makes_of_a_folder_is_no_object(objects: Objects) -> None:
    objects.contents |= {f"{MODEL}/1_Pooling/": b"", f"{MODEL}/1_Pooling/config.json": b"{1}"}
    folder = fetch_model(MODEL)
    assert folder is not None
    assert files_below(folder) == [COMPLETE, "1_Pooling/config.json", "config.json"]


def test_a_model_is_fetched_once_and_kept_private(objects: Objects, tmp_path: Path) -> None:
    folder = fetch_model(MODEL)
    assert folder is not None
    assert fetch_model(MODEL) == folder
    assert len(objects.fetched) == 1
    assert folder.parent == tmp_path / f"{remote_model.FOLDER}-{os.getuid()}"
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    objects.contents[f"{MODEL}/config.json"] = b"{ }"
    assert fetch_model(MODEL) != folder


def test_a_model_without_all_its_files_is_fetched_anew(objects: Objects) -> None:
    objects.contents[f"{MODEL}/vocab.txt"] = b"words"
    folder = fetch_model(MODEL)
    assert folder is not None
    (folder / "vocab.txt").unlink()  # as programs do that clear /tmp
    assert fetch_model(MODEL) == folder
    assert (folder / "vocab.txt").read_bytes() == b"words"
    (folder / "vocab.txt").write_bytes(b"wor")
    assert fetch_model(MODEL) == folder
    assert (folder / "vocab.txt").read_bytes() == b"words"
    (folder / COMPLETE).unlink()
    assert fetch_model(MODEL) == folder
    assert (folder / COMPLETE).exists()


def test_a_download_that_fails_leaves_nothing(objects: Objects, tmp_path: Path) -> None:
    objects.contents[f"{MODEL}/vocab.txt"] = b"words"
    objects.fail_at = f"{MODEL}/vocab.txt"
    with pytest.raises(ConnectionError):
        fetch_model(MODEL)
    assert not files_below(tmp_path)
    objects.fail_at = ""
    killed = tmp_path / f"{remote_model.FOLDER}-{os.getuid()}" / "partial-killed"
    killed.mkdir(0o700)
    (killed / "model.safetensors").write_bytes(b"half")
    assert fetch_model(MODEL) is not None
    assert not killed.exists()


@pytest.mark.parametrize("kind", ["folder that others may write", "link"])
def test_a_strangers_folder_in_the_way_is_not_used(
    objects: Objects, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    good = fetch_model(MODEL)
    assert good is not None
    place, theirs = good.parent, tmp_path / "theirs"
    place.rename(theirs)
    (theirs / good.name / "config.json").write_bytes(b"[]")  # as long as the good one
    if kind == "link":
        place.symlink_to(theirs)
    else:
        theirs.rename(place)
        place.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        found = fetch_model(MODEL)
    assert found is not None
    assert not found.resolve().is_relative_to(place.resolve())
    assert (found / "config.json").read_bytes() == b"{}"
    assert "is not a private folder of this user; it is not used" in caplog.text
    assert fetch_model(MODEL) == found


def test_two_users_each_have_their_own(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch_model(MODEL)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    second = fetch_model(MODEL)
    assert first is not None
    assert second is not None
    assert first.parent != second.parent
    assert (second / "config.json").exists()


def test_the_size_of_an_object_is_what_was_listed(objects: Objects) -> None:
    class Growing(Objects):
        def match(self, patterns: list[str]) -> list[MatchResult]:
            found = super().match(patterns)
            self.contents[f"{MODEL}/config.json"] += b" "
            return found

    objects.__class__ = Growing
    with pytest.raises(InputError, match="config.json' changed while it was copied"):
        fetch_model(MODEL)


def test_a_bad_object_is_refused_before_a_job_starts(objects: Objects) -> None:
    objects.contents[f"{MODEL}/../x"] = b""
    with pytest.raises(InputError, match=r"object 'mem://bucket/model/\.\./x' has a name that"):
        check_remote_model(MODEL)
