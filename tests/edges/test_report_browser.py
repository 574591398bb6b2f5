"""The report in a real browser, headless and offline: on a phone, at a desk, by day, by night, on paper.

Skipped where there is no Chromium. One start of it shows the page in frames, each of a width and a colour scheme, so
that the page is judged as it is, under its own policy; the script that judges stands outside of it.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.kit.reports import a_report
from vigil.report.page import render

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FRAMES = [(width, scheme) for width in (320, 360, 768, 1280) for scheme in ("light", "dark")]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="SKIPPED: no Chromium here, so nobody looked at the report")

JUDGE = """
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
function paper(view, element) {
  for (let one = element; one; one = one.parentElement) {
    const [r, g, b, alpha = 1] = channels(view.getComputedStyle(one).backgroundColor);
    if (alpha === 1) return [r, g, b];
  }
  return [255, 255, 255];
}
const seen = element => element.checkVisibility() && !element.closest(".aside, title, desc, style, .patterns");
function judge(frame) {
  const view = frame.contentWindow, page = frame.contentDocument;
  const found = {texts: 0, faint: [], clipped: [], overlaps: []};
  const width = page.documentElement.clientWidth;
  found.width = width;
  found.wider = page.documentElement.scrollWidth - width;
  page.querySelectorAll("details").forEach(one => { one.open = true; });
  found.widerOpen = page.documentElement.scrollWidth - width;
  found.night = luminance(paper(view, page.body)) < 0.5;
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !seen(element)) continue;
    found.texts += 1;
    const style = view.getComputedStyle(element);
    const ink = channels(element instanceof view.SVGElement ? style.fill : style.color);
    const ratio = contrast(luminance(ink), luminance(paper(view, element)));
    if (ratio < 4.5) found.faint.push([text.slice(0, 40), ratio]);
    const range = page.createRange();
    range.selectNodeContents(walker.currentNode);
    if (element.closest(".wide")) continue;  // scrolls by itself
    const own = element.closest("td, th, dt, dd, p, li, h1, h2, h3, summary, caption, figure, small");
    const box = own.getBoundingClientRect();
    for (const line of range.getClientRects()) {
      if (line.width <= 1) continue;
      const left = Math.max(0, box.left - 1.5), right = Math.min(width + 0.5, box.right + 1.5);
      if (line.left < left || line.right > right) found.clipped.push([text.slice(0, 40), line.left, line.right]);
    }
  }
  for (const plot of page.querySelectorAll(".plot > svg")) {
    const boxes = [...plot.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
    boxes.forEach(([a, one], n) => boxes.slice(n + 1).forEach(([b, other]) => {
      if (one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom)
        found.overlaps.push([a, b]);
    }));
  }
  const style = view.getComputedStyle(page.querySelector("rect.whole"));
  found.bars = contrast(luminance(channels(style.fill)), luminance(paper(view, page.body)));
  found.heat = [...page.querySelectorAll(".heat td")].filter(one => one.textContent.trim()).length;
  found.requests = view.performance.getEntriesByType("resource").map(one => one.name);
  found.scripts = page.scripts.length;
  found.stops = page.querySelectorAll("summary, [tabindex='0']").length;
  return found;
}
addEventListener("load", () => {
  const told = [...document.querySelectorAll("iframe")].map(judge);
  document.body.replaceChildren(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(told)}));
});
"""


def chromium(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start it with nothing of anybody's profile, and without a network."""
    assert CHROMIUM is not None
    offline = ("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", "--disable-background-networking")
    quiet = ("--headless", "--disable-gpu", "--no-sandbox", "--no-first-run", "--enable-logging=stderr")
    command = [CHROMIUM, *quiet, *offline, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)


@cache
def page() -> str:
    return render(a_report())


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """What the judge found in each of FRAMES, and what the browser said."""
    directory = tmp_path_factory.mktemp("browser")
    inside = html.escape(page())
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0;color-scheme:{scheme}" srcdoc="{inside}"></iframe>'
        for width, scheme in FRAMES
    )
    harness = directory / "harness.html"
    harness.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}<script>{JUDGE}</script>", "utf-8")
    ended = chromium(directory, "--dump-dom", harness.as_uri())
    answer = re.search(r"<pre>(.*)</pre>", ended.stdout, re.DOTALL)
    assert answer, ended.stderr
    return json.loads(html.unescape(answer[1])), ended.stderr


def test_it_fits_every_width_and_no_text_is_cut_or_lies_on_another(
    judged: tuple[list[dict[str, Any]], str],
) -> None:
    found, _ = judged
    for (width, scheme), one in zip(FRAMES, found, strict=True):
        assert one["texts"] > 1000
        assert one["width"] >= width - 20, "a scroll bar, but no more"
        told = {name: one[name] for name in ("wider", "widerOpen", "clipped", "overlaps")}
        assert told == {"wider": 0, "widerOpen": 0, "clipped": [], "overlaps": []}, (width, scheme)


def test_every_text_and_bar_stands_out_by_day_and_by_night(judged: tuple[list[dict[str, Any]], str]) -> None:
    found, _ = judged
    for (_, scheme), one in zip(FRAMES, found, strict=True):
        assert one["night"] == (scheme == "dark")
        assert one["faint"] == []
        assert one["bars"] >= 3


def test_it_asks_for_nothing_runs_nothing_and_the_browser_has_nothing_to_say(
    judged: tuple[list[dict[str, Any]], str],
) -> None:
    found, said = judged
    assert "CONSOLE" not in said
    for one in found:
        assert (one["requests"], one["scripts"]) == ([], 0)
        assert one["heat"] == 31
        assert one["stops"] == 6, "each table that is folded away and each that scrolls is reached by the keyboard"


def test_on_a_phone_it_is_a_picture_and_on_paper_a_few_pages(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(page(), "utf-8")
    picture = tmp_path / "phone.png"
    chromium(tmp_path, "--window-size=360,4000", f"--screenshot={picture}", report.as_uri())
    content = picture.read_bytes()
    assert struct.unpack(">II", content[16:24]) == (360, 4000)
    assert len(content) > 50_000, "an empty picture packs well"
    paper = tmp_path / "report.pdf"
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", report.as_uri())
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())) <= 10
