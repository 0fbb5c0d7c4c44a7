"""Plan files when the system has no more descriptors."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kqo.errors import PlanFileError
from kqo.runtime import planfile


def test_too_many_open_files_are_told_from_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    path = tmp_path / "plan.kqo"
    path.write_bytes(b"x")
    monkeypatch.setattr("safetensors.safe_open", refused)
    with pytest.raises(PlanFileError, match=r"cannot be read: .*Too many open files") as caught:
        planfile.load(path)
    assert "keeps its file open" in str(caught.value.hint)
