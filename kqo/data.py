"""Where the data files of the package lie: grammars, rules and code templates."""

from __future__ import annotations

from pathlib import Path

from kqo.errors import ArgumentError

_PACKAGE = Path(__file__).resolve().parent
FOLDERS = ("grammar", "rules", "codegen")


def data_path(*parts: str) -> Path:
    """The path of a data file or folder: ``data_path("grammar", "plan.lark")``.

    A checkout's own folders come first, since an editable install leaves a stale copy behind; an
    installed wheel has them in ``kqo/_data``.

    Raises:
        ArgumentError: the first part is none of :data:`FOLDERS`.
    """
    if not parts or parts[0] not in FOLDERS:
        raise ArgumentError("parts", parts, f"a path that starts with one of {', '.join(FOLDERS)}")
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / parts[0]).is_dir():
        return checkout.joinpath(*parts)
    return _PACKAGE.joinpath("_data", *parts)
