"""The user's own mesh files for the arm's looks; nothing of the physics depends on them."""

from __future__ import annotations

from pathlib import Path

LINKS = ("base_link", *(f"link{i}" for i in range(1, 7)))
SUFFIXES = (".stl", ".obj")


def find(folder: Path) -> dict[str, Path]:
    """Link name -> file, for the links that have one, in the URDF's link frames and metres.

    Raises ValueError if there is none at all: a mistyped folder must not look like an arm without meshes.
    """
    files = {path.stem.lower(): path.resolve() for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES}
    found = {link: files[link] for link in LINKS if link in files}
    if not found:
        raise ValueError(
            f"no meshes in {folder}: expected files such as link1.stl or link1.obj (of {', '.join(LINKS)}), in metres"
        )
    return found
