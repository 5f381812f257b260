"""The scripts of the documentation site: its pictures, its check of the built pages, the README's length."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def script(name: str) -> ModuleType:
    """A module of scripts/docs, which is no package."""
    specification = importlib.util.spec_from_file_location(
        name, ROOT / "scripts" / "docs" / f"{name}.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Data classes look up the module that they are of.
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def test_the_pictures_are_what_their_scripts_draw() -> None:
    run, rooms = script("run_picture"), script("rooms_picture")
    recording = run.RECORDING.read_text(encoding="utf-8")
    assert run.PICTURE.read_text(encoding="utf-8") == run.picture(recording)
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.picture()


def test_the_picture_of_the_rooms_shows_each_room() -> None:
    shown = [name for names, _ in script("rooms_picture").ROOMS for name in names]
    source = ROOT / "src" / "excise"
    assert {path.parent.name for path in source.glob("*/__init__.py")} <= set(shown)
    assert [
        name
        for name in shown
        if not (source / name).exists() and not (source / f"{name}.py").exists()
    ] == []


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ('<script src="https://example.com/a.js"></script>', "loads https://example.com/a.js"),
        ('<link rel="stylesheet" href="//example.com/a.css">', "loads //example.com/a.css"),
        ('<img src="http://example.com/a.png">', "loads http://example.com/a.png"),
        (
            "<style>@font-face { src: url(https://example.com/a.woff) }</style>",
            "loads https://example.com/a.woff",
        ),
        ('<a href="http://example.com">', "links to http://example.com"),
        ('<a href="https://example">', "links to https://example"),
    ],
)
def test_a_page_that_loads_from_another_host_is_found(page: str, told: str, tmp_path: Path) -> None:
    check_site = script("check_site")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert any(told in line for line in check_site.complaints(tmp_path))
    (tmp_path / "page.html").write_text(
        '<script src="a.js"></script><a href="https://example.com">'
    )
    assert list(check_site.complaints(tmp_path)) == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
