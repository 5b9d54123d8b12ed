"""Debian's Chromium, driven without a window: what a page shows, says on its console and asks of the network."""

import json
import shutil
from pathlib import Path

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def missing() -> str | None:
    """Why there is no browser to test with, or None."""
    if not any(shutil.which(name) for name in CHROMIUM) or not shutil.which("chromedriver"):
        return "Chromium and its driver are not installed (Debian: apt install chromium chromium-driver)"
    try:
        import selenium  # noqa: F401  only whether it is there
    except ImportError:
        return "selenium is not installed (pip install '.[test]')"
    return None


class Browser:
    """One window. `width` is in CSS pixels, also below what a real window can be."""

    def __init__(self, profile: Path, language: str = "en"):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = next(path for name in CHROMIUM if (path := shutil.which(name)))
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--lang={language}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)

    def open(self, page: Path | str, width: int, dark: bool = False) -> None:
        """A file, or an address."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
        )
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(page if isinstance(page, str) else page.as_uri())

    def value(self, expression: str):
        return self.driver.execute_script(f"return {expression}")

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def screenshot(self, file: Path) -> None:
        """The whole page."""
        import base64

        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot",
            {
                "captureBeyondViewport": True,
                "clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1},
            },
        )
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.driver.quit()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    window = Browser(tmp_path_factory.mktemp("chromium"))
    yield window
    window.close()
