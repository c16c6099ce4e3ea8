"""The page: what it says is what the run, the comparison and the data say."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from farzi import cli
from farzi.artifact import read_artifact, write_artifact
from farzi.data import PreparedData
from farzi.errors import DataError
from farzi.report import render_report, write_report
from farzi.report.facts import Cost, gather
from farzi.report.page import MAX_BYTES


class Reader(HTMLParser):
    """Collects the tags of a page and refuses those that are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def read(page: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader.tags


def words(page: str) -> str:
    text = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture(scope="module")
def page(reported: tuple[Path, PreparedData]) -> str:
    return render_report(*reported)


def test_it_is_one_file_that_loads_nothing(page: str) -> None:
    assert len(page.encode()) < MAX_BYTES
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    for tag, attributes in read(page):
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:")), tag


def test_it_can_be_read_by_ear_and_by_keyboard(page: str) -> None:
    tags = read(page)
    names = [tag for tag, _ in tags]
    assert names.count("main") == names.count("h1") == names.count("nav") == 1
    assert dict(tags)["html"] == {"lang": "en"}
    assert names.count("caption") == names.count("table") > 3
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    charts = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(charts) > 6
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"] for tag, attributes in tags if tag == "a"}
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    scrolled = [attributes for _, attributes in tags if attributes.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in scrolled)


def test_it_says_what_the_comparison_says(page: str) -> None:
    text = words(page)
    assert "toy, split by users" in text
    assert "90.0 % of what full data gives" in text
    assert "4.0 × as fast to train: 2 s instead of 8 s" in text
    assert "50.0 ± 1.0" in text  # full's nDCG@10, in percent
    assert "<b>1.400 ± 0.100</b>" in page  # the best loss is the lowest
    assert "<b>50.0 ± 1.0</b>" in page
    assert "−5.0 [−10.0, +0.0]" in text
    assert "+0.100 [+0.050, +0.200]" in text  # a lower loss is to the right


def test_it_says_what_the_run_recorded(page: str, reported: tuple[Path, PreparedData]) -> None:
    run, _ = reported
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fresh = [record["fresh_loss"] for record in records if "fresh_loss" in record]
    assert f"kept: {min(fresh):.3f}" in page
    artifact = read_artifact(run / "artifact")
    assert artifact.source["fingerprint"] in page
    steps = sum(record.get("wall_s", 0.0) for record in records)
    assert gather(run, reported[1]).cost.distil_s == pytest.approx(steps)


def test_the_same_run_gives_the_same_page(page: str, reported: tuple[Path, PreparedData]) -> None:
    assert render_report(*reported) == page


def test_titles_take_the_place_of_ids(reported: tuple[Path, PreparedData]) -> None:
    page = render_report(*reported, titles={"i3": "Le <b>Mépris</b> & more"})
    assert "Le &lt;b&gt;Mépris&lt;/b&gt; &amp; more" in page
    assert "<b>Mépris" not in page
    assert not re.search(r">i3<", page)


def test_tokens_that_are_ids_are_shown_and_called_so(
    reported: tuple[Path, PreparedData], tmp_path: Path
) -> None:
    run, data = reported
    soft = words(render_report(run, data))
    assert "synthetic sequences of soft items" in soft
    assert "on those the outer loop began with" not in soft  # there is a comparison
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "artifact")
    (folder / "comparison.json").unlink()
    artifact = read_artifact(run / "artifact").hardened()
    write_artifact(artifact, folder / "artifact")
    page = render_report(folder, data)
    text = words(page)
    assert "synthetic sequences of items with soft labels" in text
    assert "Each place of a sequence is one item, and has a label" in text
    assert "ids, (B, L);" in text
    assert "on those the outer loop began with" in text
    first = artifact.vocabulary[int(artifact.latent[0, 0])]
    assert f'<td class="words">{first} <span class="share">100' in page
    (folder / "metrics.jsonl").write_text('{"step": 0, "fresh_loss": 2.0}\n')  # no outer step
    assert "on those the outer loop began with" not in words(render_report(folder, data))


def test_real_sequences_can_be_left_out(reported: tuple[Path, PreparedData]) -> None:
    run, data = reported
    assert 'class="real">Nearest real sequence' in render_report(run, data)
    page = render_report(run, data, real=False)
    assert "Nearest real sequence" not in page
    assert "<mark>" not in page
    assert "quotes real sequences" not in page


def test_without_a_comparison_it_says_how_to_make_one(
    reported: tuple[Path, PreparedData], tmp_path: Path
) -> None:
    run, data = reported
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/comparison.json").unlink()
    text = words(render_report(tmp_path / "run", data))
    assert f"farzi compare {tmp_path / 'run'}" in text
    assert "have not been compared with anything yet" in text


def test_an_artifact_alone_has_a_report_too(
    reported: tuple[Path, PreparedData], tmp_path: Path
) -> None:
    run, data = reported
    shutil.copytree(run / "artifact", tmp_path / "shared")
    written = write_report(tmp_path / "shared", data)
    assert written == tmp_path / "shared.report.html"
    assert "How it went" not in words(written.read_text())


@pytest.mark.parametrize(
    ("full", "distilled", "pays"), [(8.0, 2.0, 10.0), (2.0, 8.0, None), (None, 2.0, None)]
)
def test_when_a_distillation_pays(full, distilled, pays) -> None:
    assert Cost(20.0, 40.0, full, distilled, 1, 1).break_even == pays


def test_a_distillation_that_never_pays_says_so(
    reported: tuple[Path, PreparedData], tmp_path: Path
) -> None:
    run, data = reported
    values = json.loads((run / "comparison.json").read_text())
    values["rows"][1]["seconds"] = 9.0
    text = words(render_report(run, data, comparison=values))
    assert "in time, this distillation does not pay at all" in text


def test_seconds_to_full_data_s_loss_come_first(reported: tuple[Path, PreparedData]) -> None:
    run, data = reported
    values = json.loads((run / "comparison.json").read_text())
    full, farzi = values["rows"]
    farzi["seconds"] = 9.0
    full["reached"] = [{"share": 0.95, "seconds": 4.0, "runs": 3}]
    farzi["reached"] = [
        {"share": 0.95, "seconds": 0.2, "runs": 2},
        {"share": 1.0, "seconds": 0.5, "runs": 3},
    ]
    cost = gather(run, data, comparison=values).cost
    text = words(render_report(run, data, comparison=values))
    assert "16.0 × as fast to the validation loss of full data: 0.5 s instead of 8 s" in text
    assert "to train to 95 % to 100 %" in text
    assert "9 s 0.2 s (2 of 3) 0.5 s" in text
    assert "in time, this distillation does not pay there" in text
    assert cost.break_even is None
    assert cost.equal_break_even == pytest.approx(cost.distil_s / 7.5)

    farzi["reached"][1]["runs"] = 2
    text = words(render_report(run, data, comparison=values))
    assert "as fast to the validation loss" not in text
    assert "in time, this distillation does not pay at all" in text


@pytest.mark.parametrize("reached", [3, "soon", [1], [{"share": "all"}], [{"share": 1.0}], None])
def test_what_is_no_time_is_left_out(reported: tuple[Path, PreparedData], reached) -> None:
    run, data = reported
    values = json.loads((run / "comparison.json").read_text())
    values["rows"][1]["reached"] = reached
    assert render_report(run, data, comparison=values) == render_report(run, data)


def test_broken_records_are_one_error(reported: tuple[Path, PreparedData], tmp_path: Path) -> None:
    run, data = reported
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/comparison.json").write_text('{"rows": [1]}')
    with pytest.raises(DataError, match="is no comparison"):
        render_report(tmp_path / "run", data)
    (tmp_path / "run/comparison.json").unlink()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 0, "fresh_loss": 2.0}\n{"step": 1, "ou')
    assert "Validation loss" not in render_report(tmp_path / "run", data)


def test_the_command_writes_it_beside_the_run(
    reported: tuple[Path, PreparedData], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = reported
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    titles = tmp_path / "titles.csv"
    titles.write_text("item_id,title\ni3,Third\n")
    out = tmp_path / "page.html"
    command = [
        "report",
        str(run),
        "--titles",
        str(titles),
        "--out",
        str(out),
        "--no-real",
        "--json",
    ]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(out)
    assert "Third" in out.read_text()


def test_distill_and_compare_end_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from toy import write_log

    log = write_log(tmp_path / "log.tsv")
    small = {"num_sequences": 6, "length": 8, "latent_dim": 4, "student.width": 8}
    small |= {"teachers.num_runs": 1, "teachers.max_epochs": 2, "inner.steps": 4}
    small |= {"inner.window": 4, "outer.num_students": 1, "outer.students_per_step": 1}
    small |= {"outer.validation_seeds": 1}
    flags = [part for name in small for part in ("--set", f"{name}={small[name]}")]
    run = str(tmp_path / "run")
    distil = ["distill", str(log), "--outer-steps", "1", *flags]
    assert cli.main([*distil, "--out", run]) == 0
    assert f"report: {run}/report.html" in capsys.readouterr().err
    assert "not been compared" in (tmp_path / "run/report.html").read_text()
    quick = ["--rows", "full", "farzi", "--seeds", "1", "--grid-lr", "0.02", "--grid-dropout", "0"]
    assert cli.main(["compare", run, *quick, "--max-epochs", "2"]) == 0
    assert "not been compared" not in (tmp_path / "run/report.html").read_text()
    assert cli.main([*distil, "--out", str(tmp_path / "quiet"), "--no-report"]) == 0
    assert not (tmp_path / "quiet/report.html").exists()
