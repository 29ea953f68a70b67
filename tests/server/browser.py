"""The page in Debian's Chromium: started once, a fresh profile for each test, and everything that shouldn't happen written down."""
from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
         "--disable-sync").split()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One person's browser at one service: a page, its errors, and every address that was asked for."""

    def __init__(self, browser: Any, url: str, key: str, *, width: int = 1280, height: int = 860, scheme: str = "light", touch: bool = False) -> None:
        self.url, self.key = url, key
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch, accept_downloads=True)
        self.context.set_default_timeout(20_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = self.open()

    def open(self, path: str = "/") -> Any:
        """Another tab."""
        page = self.context.new_page()
        page.on("pageerror", lambda e: self.errors.append(str(e)))
        page.on("dialog", lambda d: (self.errors.append("dialog"), d.dismiss()))
        page.on("console", self._hear)
        page.on("request", lambda r: self.requests.append(r.url))
        page.goto(self.url + path)
        return page

    def _hear(self, message: Any) -> None:
        if message.type == "error" and "the server responded with a status of" not in message.text:
            self.errors.append(message.text)

    def enter(self) -> Any:
        """Gives the key."""
        self.page.fill("#key", self.key)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("dialog", state="detached")
        return self.page

    def ask(self, text: str, *, wait: bool = True) -> None:
        """Sends a message; waits for the answer's end."""
        before = self.page.locator("article.answer").count()
        self.page.fill("#prompt", text)
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("n => document.querySelectorAll('article.answer').length > n", arg=before)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until nothing is under way."""
        self.page.wait_for_selector("article.answer >> nth=-1")
        self.page.wait_for_selector("#stop", state="hidden", timeout=120_000)

    def mode(self, label: str) -> None:
        """Chooses a reasoning mode."""
        self.page.get_by_label(label, exact=True).check()

    def answer(self) -> str:
        """The last answer's text."""
        return self.page.locator("article.answer").last.locator(".prose").inner_text()

    def wide(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def own(self, selector: str) -> str:
        """The text of an element."""
        return self.page.locator(selector).inner_text()

    def close(self) -> None:
        """Ends it; nothing may have gone wrong in the page, and nothing may have been asked of anybody else."""
        self.context.close()
        assert self.errors == []
        foreign = [url for url in self.requests if not url.startswith((self.url + "/", "blob:", "data:"))]
        assert foreign == []
