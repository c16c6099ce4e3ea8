"""The site's own link check finds what is broken; `make check` builds the site with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def docs_site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts/docs_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_broken_links_are_found(docs_site: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h2 id="here">x</h2><a href="b.html#there">1</a><a href="b.html#nowhere">2</a>'
        '<a href="c.html">3</a><img src="p.svg"><a href="#here">4</a><a href="https://x.org">5</a>'
    )
    (tmp_path / "b.html").write_text('<h2 id="there">y</h2><a href="a.html#gone">6</a>')
    assert sorted(docs_site.broken_links(tmp_path)) == [
        "a.html: b.html#nowhere: there is no such place",
        "a.html: c.html: there is no such page",
        "a.html: p.svg: there is no such page",
        "b.html: a.html#gone: there is no such place",
    ]


def test_a_page_keeps_its_links_and_brings_its_files(
    docs_site: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, site = tmp_path / "repository", tmp_path / "site"
    (repository / "docs/folder").mkdir(parents=True)
    (repository / "code.py").write_text("pass")
    page = repository / "docs/page.md"
    page.write_text("[a](other.md#x) [b](folder/) [c](../code.py) [d](https://x.org)")
    monkeypatch.setattr(docs_site, "ROOT", repository)
    monkeypatch.setattr(docs_site, "SITE", site)
    docs_site.copy_page(page)
    assert (site / "docs/page.md").read_text() == (
        "[a](other.md#x) [b](folder/README.md) [c](../code.py) [d](https://x.org)"
    )
    assert (site / "code.py").read_text() == "pass"


def test_every_place_in_the_navigation_is_made(docs_site: ModuleType) -> None:
    import re

    named = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    made = {f"examples/{name}.md" for name, _ in docs_site.examples()}
    made |= {f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.ipynb")}
    made |= {f"reference/{name}.md" for name in ("farzi", "commands", *docs_site.REFERENCE)}
    assert len(named) > 20
    assert [name for name in named if name not in made and not (ROOT / name).is_file()] == []
