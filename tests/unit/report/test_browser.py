"""The report in a real browser: it draws, logs nothing, can be read, and fits a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from farzi.data import PreparedData
from farzi.report import write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here to look at the report with"
)

# Every element with words of its own: its colour against the nearest ground that shows.
LOOK = """
<script>
addEventListener("load", () => {
  const numbers = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = numbers(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  let seen = 0;
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const color = numbers(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(color), light(ground(element))].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(element.outerHTML.slice(0, 90));
  }
  const result = document.createElement("pre");
  result.id = "look";
  result.textContent = JSON.stringify({
    seen, faint, wide: document.documentElement.scrollWidth - innerWidth,
    width: innerWidth, dark: matchMedia("(prefers-color-scheme: dark)").matches,
    buttons: document.querySelectorAll(".code button").length,
    paper: numbers(getComputedStyle(document.body).backgroundColor),
  });
  document.body.append(result);
});
</script>
"""


# Headless Chromium has no window narrower than 500 px, so a phone is a frame: its width is what the
# page's media queries see.
PHONE = """<!doctype html><title>phone</title><body style="margin: 0">
<iframe style="width: 390px; height: 844px; border: 0" srcdoc="{page}"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => setTimeout(() =>
  document.body.append(frame.contentDocument.getElementById("look").cloneNode(true)), 200));
</script>
"""


def browse(file: Path, *flags: str, size: str = "1280,2400") -> subprocess.CompletedProcess[str]:
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--enable-logging=stderr", f"--window-size={size}", *flags, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.fixture(scope="module")
def report(reported: tuple[Path, PreparedData], tmp_path_factory) -> Path:
    return write_report(*reported, out=tmp_path_factory.mktemp("browser") / "report.html")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_can_be_read(report: Path, tmp_path: Path, width: int, dark: bool) -> None:
    looked = tmp_path / "looked.html"
    page = report.read_text().replace("</body>", LOOK + "</body>")
    looked.write_text(PHONE.replace("{page}", html.escape(page)) if width < 500 else page)
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
    flags += ["--virtual-time-budget=5000"] if width < 500 else []
    answer = browse(looked, "--dump-dom", *flags, size=f"{width},2400")
    assert "CONSOLE" not in answer.stderr
    found = json.loads(html.unescape(re.search(r'id="look">(.*?)</pre>', answer.stdout)[1]))
    assert found["width"] == width
    assert found["dark"] is dark
    assert (sum(found["paper"]) < 200) is dark
    assert found["seen"] > 150
    assert found["faint"] == []
    assert found["wide"] <= 0
    assert found["buttons"] >= 3


def test_it_is_drawn(report: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><title>blank</title>")
    sizes = {}
    for page in (report, blank):
        shot = tmp_path / "shot.png"
        answer = browse(page, f"--screenshot={shot}")
        assert "CONSOLE" not in answer.stderr
        content = shot.read_bytes()
        assert struct.unpack(">II", content[16:24]) == (1280, 2400)
        sizes[page] = len(content)
    assert sizes[report] > 5 * sizes[blank] > 0
