"""A headless browser, and a page in it: what it shows, what it asked for, what it complained of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; skip where there is none, but fail where TIMELIKE_BROWSER says that it is needed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        missing = pytest.fail if os.environ.get("TIMELIKE_BROWSER") == "needed" else pytest.skip
        missing(f"no browser to look at the page with: none of {', '.join(names)} is installed")
    with sync_playwright() as playwright:
        # A container's root has no sandbox of its own; what is opened are our own files.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is looked at."""

    def __init__(self, browser: Browser, path: Path, *, width: int = 1280, scheme: str = "light") -> None:
        self.path, self.complaints, self.requests = path, [], []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            assert self.complaints == []
            assert self.requests == [self.path.as_uri()]
        self.context.close()

    def press(self, key: str, times: int = 1) -> None:
        for _ in range(times):
            self.page.keyboard.press(key)

    def text(self, where: str) -> str:
        return self.page.inner_text(where).strip()

    def shown(self, where: str = "#lines", key: str = "id") -> dict[str, str]:
        """Numbers as they are written, by the names of their elements."""
        found: dict[str, str] = self.page.evaluate(
            "([where, key]) => Object.fromEntries([...document.querySelectorAll(`${where} [data-${key}]`)]"
            ".map((e) => [e.dataset[key], e.textContent]))",
            [where, key],
        )
        return found

    def overflow(self) -> float:
        """Pixels by which the page is wider than its window."""
        wide: float = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return wide


def number(text: str) -> float:
    """Read a number as the page writes it."""
    return float(text.replace("\u2212", "-"))
