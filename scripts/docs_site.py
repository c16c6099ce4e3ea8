"""Gather the pages of the documentation, add the reference, and build the site, strictly.

    python scripts/docs_site.py          into site/; a broken link or a page without a place fails

The pages are those of the repository, where they stand: build/docs-site has the layout of the
repository, so that every link means the same here and there. What is made for the site alone: the
reference, from docstrings and help pages, and the examples as pages.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build/docs-site"

LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)\s]*)?(\))")

REFERENCE = {  # page -> its heading, and the modules whose public names it shows
    "metagrad": ("farzi.metagrad", ["farzi.metagrad"]),
    "distill": (
        "Students, objectives, starts",
        [
            "farzi.models",
            "farzi.distill.settings",
            "farzi.distill.objectives.base",
            "farzi.distill.starts.base",
            "farzi.synthetic",
            "farzi.artifact",
        ],
    ),
    "data": ("Data and metrics", ["farzi.data", "farzi.metrics", "farzi.export"]),
}


def main() -> int:
    shutil.rmtree(SITE, ignore_errors=True)
    for page in pages():
        copy_page(page)
    for name, text in examples():
        write(f"examples/{name}.md", text)
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        write(f"examples/{notebook.stem}.md", notebook_page(notebook))
    write("reference/farzi.md", top_level())
    write("reference/commands.md", commands())
    for name, (heading, modules) in REFERENCE.items():
        shown = [f"::: {module}\n    options: {{members: {names(module)}}}" for module in modules]
        write(f"reference/{name}.md", "\n\n".join([f"# {heading}", *shown]) + "\n")
    command = [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if built.returncode:
        print(built.stdout, built.stderr, sep="\n")
        return built.returncode
    broken = sorted(broken_links(ROOT / "site"))
    print("\n".join(broken) if broken else f"{ROOT / 'site/index.html'}")
    return int(bool(broken))


class _Links(HTMLParser):
    """The links of a page, and the places in it that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value and tag != "base":
                self.targets.add(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def broken_links(site: Path) -> Iterator[str]:
    """Links between the pages of a site that lead nowhere, each with its page."""
    pages = {path.resolve(): _Links(path.read_text("utf-8")) for path in site.rglob("*.html")}
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or page.name == "404.html":
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if path.is_dir():
                path = path / "index.html"
            if not path.is_file():
                yield f"{page.relative_to(site.resolve())}: {target}: there is no such page"
            elif (
                parts.fragment
                and path in pages
                and (unquote(parts.fragment) not in pages[path].places)
            ):
                yield f"{page.relative_to(site.resolve())}: {target}: there is no such place"


def pages() -> Iterator[Path]:
    yield from sorted(ROOT.glob("*.md"))
    for folder in ("docs", "experiments", "benchmarks"):
        yield from sorted((ROOT / folder).rglob("*.md"))


def copy_page(page: Path) -> None:
    """Copy a page, and the files it links to; a link to a folder leads to the page in it."""

    def link(match: re.Match[str]) -> str:
        before, target, anchor, after = match[1], match[2], match[3] or "", match[4]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (page.parent / target).resolve()
        if path.is_dir():
            target = f"{target.rstrip('/')}/README.md"
        elif path.is_file() and path.suffix != ".md":
            copy = SITE / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        return f"{before}{target}{anchor}{after}"

    write(str(page.relative_to(ROOT)), LINK.sub(link, page.read_text(encoding="utf-8")))


def write(name: str, text: str) -> None:
    path = SITE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def examples() -> Iterator[tuple[str, str]]:
    """A page for every example, with its first words and its code; and one that lists them."""
    listed = []
    for file in sorted((ROOT / "examples").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        words = (ast.get_docstring(ast.parse(text)) or file.stem).splitlines()[0].rstrip(".")
        listed.append(f"- [{words}]({file.stem}.md)")
        yield file.stem, f"# {words}\n\n`examples/{file.name}`\n\n```python\n{text}```\n"
    notebooks = sorted((ROOT / "examples").glob("*.ipynb"))
    listed += [f"- [A notebook: {file.stem}]({file.stem}.md)" for file in notebooks]
    words = "Each runs in a test. Their first lines say how to call them."
    yield "README", "\n\n".join(["# Examples", words, "\n".join(listed)]) + "\n"


def notebook_page(file: Path) -> str:
    """A notebook as a page: its words, and its code."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    shutil.copy(file, SITE / "examples" / file.name)
    return "\n\n".join([*parts, f"[This page as a notebook]({file.name})"]) + "\n"


def top_level() -> str:
    """What `import farzi` offers."""
    import farzi

    shown = []
    for name in sorted(farzi._MODULES, key=lambda name: (name[0].isupper(), name)):
        module = sys.modules[getattr(farzi, name).__module__].__name__
        shown.append(f"::: {module}.{name}")
    shown.insert(1, "::: farzi.distill.source.distill_source")
    words = "What `import farzi` offers; `farzi.distill` is `distill_source`."
    return "\n\n".join(["# Python", words, *shown]) + "\n"


def names(module: str) -> list[str]:
    """The public names of a module."""
    import importlib

    return list(importlib.import_module(module).__all__)


def commands() -> str:
    """The help page of every command, as it is printed."""
    from farzi.cli import COMMANDS, main

    parts = ["# Command line"]
    os.environ["COLUMNS"] = "100"
    for name in COMMANDS:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main([name, "--help"])
        parts += [f"## farzi {name}", f"```text\n{said.getvalue().rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
