"""The page in a real browser: nothing on the console, every picture shown, no sideways scrolling, tables that sort."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from report_data import NAMES, made_run, made_scores, save_cases

from dynunet_bundle.report.page import write_report

CASES = [f"case_{number}" for number in range(7)]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROBE = """<script>
const frame = document.createElement("iframe");
frame.style.cssText = "border: 0; width: WIDTHpx; height: 900px";
frame.onload = () => {
  const page = frame.contentDocument;
  const images = Array.from(page.images, (image) => image.naturalWidth);
  const column = page.querySelector("#cases th[data-column='1']");
  const order = () => Array.from(page.querySelectorAll("#cases tbody th"), (cell) => cell.textContent);
  column.querySelector("button").click();
  const ascending = order();
  column.querySelector("button").click();
  document.body.dataset.found = JSON.stringify({
    images, ascending, descending: order(), sorted: column.getAttribute("aria-sort"),
    width: frame.contentWindow.innerWidth, content: page.documentElement.scrollWidth,
    body: page.body.scrollWidth,
    contours: ["prediction", "reference"].map((kind) => {
      const count = () => Array.from(page.querySelectorAll(".overlay"), (image) => image.offsetWidth > 0)
        .filter(Boolean).length;
      const before = count();
      page.getElementById(`show-${kind}`).click();
      return [before, count()];
    }),
    panels: Array.from(page.querySelectorAll(".largest .frame"), (panel) => panel.offsetHeight),
    scores: [page.querySelector("#scores .scroll").scrollWidth, page.querySelector("#scores .scroll").clientWidth],
  });
};
frame.srcdoc = PAGE;
document.body.append(frame);
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium or chrome is installed")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    folders = save_cases(folder, CASES)
    scores, run = made_scores(CASES), made_run(CASES)
    for statistics in scores["statistics"].values():
        # all ten measures, with a sign and as many digits as a large organ needs
        for key in ("iou", "sensitivity", "precision", "assd_mm"):
            statistics[key] = dict(statistics["dice"])
        for key in ("volume_ml", "reference_volume_ml"):
            statistics[key] |= {"mean": 1523.4, "median": 1498.2, "ci95": [1401.25, 1633.75]}
        statistics["volume_difference_ml"] |= {"mean": -12.3, "ci95": [-110.25, 44.75]}
    run["plan"]["a_long_setting"] = list(range(200))
    run["cases"][CASES[0]]["flags"] = [
        {"kind": "volume", "label": "head", "message": "without_any_blank" * 20, "value": 1}
    ]
    return write_report(folder / "report.html", **folders, scores=scores, run=run)


def dumped(browser: str, page: Path, *options: str) -> tuple[str, str]:
    """The final document in the browser, and its log."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--v=0", f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", *options]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_browser_has_nothing_to_complain_about(browser: str, page: Path):
    document, log = dumped(browser, page)
    assert "CONSOLE" not in log
    # its own script ran; the content security policy only allows the unchanged script
    assert '<button type="button">' in document


def test_a_browser_refuses_every_other_script(browser: str, page: Path):
    spoiled = page.with_name("spoiled.html")
    script = "<script>document.body.dataset.evil = 'yes'</script></body>"
    spoiled.write_text(page.read_text(encoding="utf-8").replace("</body>", script))
    document, log = dumped(browser, spoiled)
    assert 'data-evil="yes"' not in document
    assert "Content Security Policy" in log


def test_a_narrow_window_shows_all_pictures_without_sideways_scrolling(browser: str, page: Path):
    found = probed(browser, page)
    # six cases with nine slices in three layers: the picture and both contours
    assert len(found["images"]) == 6 * 9 * 3 and min(found["images"]) > 0
    assert found["width"] == 400
    assert found["content"] <= 400 and found["body"] <= 400


def test_contours_can_be_switched_off(browser: str, page: Path):
    assert probed(browser, page)["contours"] == [[108, 54], [54, 0]]


def test_a_press_on_a_heading_sorts_by_the_full_number(browser: str, page: Path):
    found = probed(browser, page)
    scores = made_scores(CASES)["measures"]
    expected = sorted(CASES, key=lambda case: scores[case][NAMES[0]]["dice"])
    assert found["ascending"] == expected
    assert found["descending"] == expected[::-1]
    assert found["sorted"] == "descending"


def test_all_scores_and_equally_high_planes_fit_a_window_of_1100_pixels(browser: str, page: Path):
    found = probed(browser, page, 1100)
    needed, there = found["scores"]
    assert needed <= there < 1100
    planes = found["panels"]
    assert len(planes) == 18
    for first in range(0, 18, 3):
        assert len(set(planes[first : first + 3])) == 1


def probed(browser: str, page: Path, width: int = 400) -> dict[str, Any]:
    """Result of a script in the page, in a frame of the given width in pixels."""
    content = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    text = json.dumps(content).replace("</", "<\\/")
    probe = PROBE.replace("WIDTH", str(width)).replace("PAGE", text)
    wrapper = page.with_name("wrapper.html")
    wrapper.write_text(f"<!DOCTYPE html><body>{probe}</body>")
    document, log = dumped(browser, wrapper, "--virtual-time-budget=5000")
    match = re.search(r'data-found="([^"]*)"', document)
    assert match, log
    return json.loads(unescape(match[1]))
