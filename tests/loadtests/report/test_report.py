"""The page is looked at by a real browser."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtests.drive.records import MetricSample, Run, Shift
from loadtests.drive.store import save
from loadtests.measure import Objective, measure
from loadtests.report.page import run_page
from loadtests.report.plots import COLORS
from loadtests.report.terminal import print_measures
from lorikeet.cli.main import main
from tests.loadtests.measure.records import record

CHROMIUM = shutil.which("chromium")
NASTY = "<b>a & $b$</b>"


def a_run(slower: float = 1.0) -> Run:
    numbers = np.random.default_rng(0)
    records = [
        record(
            index,
            index / 10,
            (0.1 * slower * first, 1),
            (0.1 * slower * first + 0.4, 8),
            tenant=("acme", NASTY)[index % 2],
            adapter=f"load-{index % 3}",
            digest=f"{index % 3}" * 64,
        )
        for index, first in enumerate(numbers.lognormal(0, 0.3, size=200))
    ]
    looks = [MetricSample(float(at), {}, tuple(f"{d}" * 64 for d in range(at % 4))) for at in range(20)]
    return Run(NASTY, "grpc://here", 3, 20.0, 0.0, records, metrics=looks)


def test_the_page_needs_nothing_else_and_names_are_text() -> None:
    page = run_page(a_run(), measure(a_run()), [("failed", "0", "<= 0", "pass")])
    assert NASTY not in page and "&lt;b&gt;a &amp; $b$&lt;/b&gt;" in page
    # Namespaces are names; nothing is fetched.
    urls = set(re.findall(r"https?://[^\"'\s<>)]+", page))
    assert all(
        url.startswith(("http://www.w3.org/", "http://purl.org/", "http://creativecommons.org/"))
        for url in urls
    )
    assert "<script" not in page and page.count("<svg") == 5
    assert page == run_page(a_run(), measure(a_run()), [("failed", "0", "<= 0", "pass")])


def test_without_matplotlib_a_page_has_tables_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = run_page(a_run(), measure(a_run()))
    assert "<svg" not in page and "matplotlib is not installed" in page and "<td>first token</td>" in page


def test_a_rollout_has_a_table_of_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run()
    for each in run.records:
        each.version = "load@2" if each.scheduled >= 10 else "load@1"
    roles = {"load@1": "old", "load@2": "new"}
    run.shifts = [Shift(at, at, {"old": 1 - new, "new": new}, roles) for at, new in ((0.0, 0.0), (10.0, 1.0))]
    print_measures(run, measures := measure(run))
    assert "old 0.0%, new 100.0%" in capsys.readouterr().out
    assert "<td>old 0.0%, new 100.0%</td>" in run_page(run, measures)


def test_what_makes_figures_less_is_written_first() -> None:
    late = a_run()
    for each in late.records:
        each.sent = each.scheduled + 1.0
    page = run_page(late, measure(late, Objective()))
    assert page.index("sent requests late") < page.index("Latency")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_a_browser_shows_the_page(kind: str, tmp_path: Path) -> None:
    for name, run in (("a", a_run()), ("b", a_run(slower=2.0))):
        save(run, tmp_path / f"{name}.jsonl")
    page = tmp_path / "page.html"
    if kind == "run":
        assert main(["loadtest", "report", str(tmp_path / "a.jsonl"), "--html", str(page)]) == 0
    else:
        files = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
        assert main(["loadtest", "compare", *files, "--html", str(page)]) == 1
    pixels = screenshot(page)
    colors = [tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in COLORS[:3]]
    # Lines of every plot's first colours are there, and most of the page is paper.
    assert all((np.abs(pixels - np.array(color)).sum(axis=2) < 24).sum() > 100 for color in colors)
    assert (pixels.min(axis=2) > 240).mean() > 0.7
    # Nothing runs out of the page on its right.
    assert (pixels[:, -16:].min(axis=2) > 240).all()


def screenshot(page: Path) -> np.ndarray:
    """[rows, columns, 3]."""
    assert CHROMIUM is not None
    image, profile = page.with_suffix(".png"), page.with_suffix(".profile")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
    command = [CHROMIUM, *flags, "--window-size=1100,2600", f"--screenshot={image}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return np.asarray(Image.open(image).convert("RGB")).astype(int)


def test_a_comparison_tells_what_is_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    save(a_run(), files[0])
    save(replace(a_run(slower=2.0), target="grpc://there"), files[1])
    assert main(["loadtest", "compare", *map(str, files)]) == 1
    assert "worse" in capsys.readouterr().out
    assert main(["loadtest", "compare", str(files[0]), str(files[0])]) == 0
    assert main(["loadtest", "compare", str(files[0]), "/no/such.jsonl"]) == 1
    assert "there is no file /no/such.jsonl" in capsys.readouterr().err
