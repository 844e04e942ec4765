"""The page and the reuse map, in a real Chromium; without one these tests fail."""

from __future__ import annotations

import gc
import json
import re
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright
from sqlalchemy import insert, select

from semshare_agents.llm import SemShareLLM
from semshare_agents.registry import DriftSample
from semshare_agents.registry import tables as t
from tests import tiny
from tests.serving import serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
FIRST_PAINT_MS = 1000
TURNS = 1000
SIZES = {"desktop": (1200, 900), "phone": (390, 844)}


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "no Chromium: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        await browser.close()


async def filled(open_llm: OpenLLM) -> SemShareLLM:
    """Turn 3 has exact, moved and computed tokens, turn 6 semantic ones too; that one was measured."""
    llm = await open_llm(reuse="moved", similarity_threshold=0.3)
    text = tiny.words(60, seed=5)
    talk = llm.session("alice <b>", system="You are one.")
    await talk.send(text)
    await talk.send(tiny.words(8, seed=6))
    await llm.generate([tiny.system("Another system prompt."), tiny.user(text)])
    await llm.generate([tiny.user("<script>alert(1)</script> " + tiny.words(3, seed=8))], reuse="off")
    told = tiny.words(120, seed=50)
    await llm.generate([tiny.user(told)])
    reworded = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(told))
    last = await llm.generate([tiny.user(reworded)], reuse="semantic")
    assert last.report.turn_id == 6
    scope = await llm.pipeline.memory.registry.scope(
        "default", llm.pipeline.memory.spec.fingerprint, llm.pipeline.model.name
    )
    await llm.pipeline.memory.registry.add_drift(scope, DriftSample(6, "semantic", 0.0123, 0.95, 32))
    return llm


async def opened(browser: Browser, url: str, size: str, scheme: str) -> Page:
    width, height = SIZES[size]
    viewport: Any = {"width": width, "height": height}
    context = await browser.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"script error: {error}"))
    page.on("console", lambda message: pytest.fail(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith((url, "data:")) else pytest.fail(request.url))
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
async def test_page_and_map(
    open_llm: OpenLLM, chromium: Browser, size: str, scheme: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    llm = await filled(open_llm)
    shots = Path(request.config.getoption("--screenshots") or tmp_path)
    async with serving(llm) as url:
        page = await opened(chromium, url, size, scheme)
        await page.goto(url)
        assert await page.locator("tbody >> a[href^=turn]").count() >= 4
        body = await page.inner_text("body")
        assert "alice <b>" in body
        assert "nothing stored matches this prompt" in body
        assert re.search(r"memory\s+[\d.]+ of 64.0 MiB", body)
        assert re.search(r"semantic\s+1\s+0.0123\s+0.950", body)
        assert await page.locator("svg.chart rect.semantic").count() >= 1
        await page.screenshot(path=shots / f"index-{size}-{scheme}.png", full_page=True)
        await page.click("a[href='turn?id=3']")
        tokens = await page.locator(".map .run i").count()
        row = next(r for r in await llm.pipeline.memory.registry.turns() if r.id == 3)
        assert tokens == row.prompt_tokens
        kinds = json.loads(row.report)["tokens"]
        for kind in ("exact", "moved", "semantic", "computed"):
            assert await page.locator(f".map .run.{kind} i").count() == kinds[kind]
        moved = page.locator(".map .run.moved").first
        await moved.locator("i").nth(5).hover()
        told = await page.inner_text(".told")
        assert "from turn 2" in told
        assert "moved by +" in told
        # No sideways scrolling of the page itself.
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.screenshot(path=shots / f"turn-{size}-{scheme}.png", full_page=True)
        await page.goto(f"{url}/turn?id=4")
        assert "<script>alert(1)</script>" in await page.inner_text(".map")
        await page.goto(f"{url}/turn?id=6")
        await page.locator(".map .run.semantic i").first.hover()
        told = await page.inner_text(".told")
        assert re.search(r"semantic: .* from turn 5, about token \d+, mean distance 0\.\d\d", told), told
        await page.screenshot(path=shots / f"semantic-{size}-{scheme}.png", full_page=True)


async def test_map_by_keyboard(open_llm: OpenLLM, chromium: Browser) -> None:
    llm = await filled(open_llm)
    async with serving(llm) as url:
        page = await opened(chromium, url, "desktop", "light")
        await page.goto(f"{url}/turn?id=3")
        for _ in range(10):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.classList.contains('run')"):
                break
        heard = [await page.inner_text(".told")]
        for _ in range(2):
            await page.keyboard.press("ArrowRight")
            heard.append(await page.inner_text(".told"))
        await page.keyboard.press("Home")
        assert len(set(heard)) == 3
        assert await page.inner_text(".told") == heard[0]
        assert all(":" in line for line in heard)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_has_contrast(open_llm: OpenLLM, chromium: Browser, scheme: str) -> None:
    """At least 4.5:1 for the text of every kind of token (WCAG AA)."""
    llm = await filled(open_llm)
    async with serving(llm) as url:
        page = await opened(chromium, url, "desktop", scheme)
        await page.goto(f"{url}/turn?id=3")
        for kind in ("exact", "moved", "semantic", "computed"):
            colours = await page.evaluate(
                """kind => {
                  const e = document.querySelector('.swatch.' + kind);
                  return [getComputedStyle(e).backgroundColor, getComputedStyle(document.body).color];
                }""",
                kind,
            )
            back, text = (luminance(c) for c in colours)
            light, dark = max(back, text), min(back, text)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (kind, colours)


def luminance(colour: str) -> float:
    parts = [int(p) / 255 for p in colour[4:-1].split(",")]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.alone
async def test_a_thousand_turns_are_painted_in_time(
    open_llm: OpenLLM, chromium: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = await filled(open_llm)
    registry = llm.pipeline.memory.registry
    async with registry.database.writing() as c:
        row = dict((await c.execute(select(t.turns).where(t.turns.c.id == 3))).one()._mapping)
        del row["id"]
        await c.execute(insert(t.turns), [{**row, "created_at": time.time()} for _ in range(TURNS)])
    # As `semshare serve` does; this process has a test suite's objects besides.
    gc.collect()
    gc.freeze()
    async with serving(llm) as url:
        paints = []
        for _ in range(5):
            page = await opened(chromium, url, "desktop", "light")
            await page.goto(url)
            paints.append(
                await page.evaluate(
                    """() => new Promise(done => new PerformanceObserver(list => {
                      const paint = list.getEntriesByName('first-contentful-paint')[0];
                      if (paint) done(paint.startTime);
                    }).observe({type: 'paint', buffered: true}))"""
                )
            )
        with capsys.disabled():
            print(f"\nfirst paint at {TURNS:,} turns: {', '.join(f'{p:.0f}' for p in paints)} ms")
        gc.unfreeze()
        assert statistics.median(paints) <= FIRST_PAINT_MS
        await page.click("text=older")
        assert await page.locator("tbody tr").count() == 50
