"""Modules of others are what their packages contain, with their licences; and the page stays small to read."""

import hashlib
import re
import tomllib
from pathlib import Path

from tests.helpers.webui import TREE

STATIC = TREE / "webui" / "static"
VENDOR = STATIC / "vendor"


def test_every_module_of_others_has_its_hash_and_its_licence() -> None:
    packages = tomllib.loads((VENDOR / "vendor.toml").read_text())
    listed = set()
    for package in packages.values():
        assert package["version"]
        assert package["licence"]
        assert (VENDOR / package["licence_file"]).stat().st_size > 500
        for name, file in package["files"].items():
            assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == file["sha256"], name
            listed.add(VENDOR / name)
    assert set(VENDOR.rglob("*.js")) == listed


def own_files() -> list[Path]:
    return [
        file
        for file in (TREE / "webui").rglob("*")
        if file.suffix in (".py", ".js", ".css") and VENDOR not in file.parents
    ]


def test_files_are_read_in_an_hour() -> None:
    lines = {file.name: len(file.read_text().splitlines()) for file in own_files()}
    assert max(lines.values()) <= 250, lines
    assert sum(lines.values()) <= 3350, sum(lines.values())


def test_the_page_has_no_inline_script_style_or_foreign_address() -> None:
    page = (STATIC / "index.html").read_text()
    assert page.count("<script") == 1
    for forbidden in ("<style", " style=", " onclick", "http://", "https://"):
        assert forbidden not in page
    for file in own_files():
        assert "innerHTML" not in file.read_text()


def imported(module: Path) -> set[Path]:
    """All modules that this one imports when it is loaded, through others, too."""
    named = re.findall(r'^import (?:.* from )?"(.+?)"', module.read_text(), re.MULTILINE)
    direct = {(module.parent / name).resolve() for name in named}
    return direct.union(*map(imported, direct))


def test_the_page_fetches_its_modules_at_once() -> None:
    """Else the browser finds a module only in the one that imports it: four rounds, one after the other."""
    page = (STATIC / "index.html").read_text()
    asked = re.findall(r'<link rel="modulepreload" href="/static/(.+?)">', page)
    assert sorted(asked) == sorted(str(file.relative_to(STATIC.resolve())) for file in imported(STATIC / "main.js"))
