"""The page of a server as tests use it."""

import asyncio
import threading
from contextlib import contextmanager

import uvicorn
from moments import until

from itrex_chat.server.access import Access
from itrex_chat.server.app import application
from itrex_chat.server.journal import Journal
from itrex_chat.server.limits import Limits
from itrex_chat.server.metrics import Metrics
from itrex_chat.server.models import Models
from itrex_chat.server.safety import Guard
from itrex_chat.server.service import Service

ENDED = '.answer:is([data-state="done"], [data-state="stopped"], [data-state="failed"])'
CSS = "css selector"  # selenium is imported where it is there


class Page:
    """The page of a server, opened anew."""

    def __init__(self, browser, address: str, width: int = 1400, dark: bool = False):
        self.browser, self.address = browser, address
        browser.open(f"{address}/", width, dark)
        until(lambda: browser.value("document.querySelector('#examples button, dialog[open], .notice:not([hidden])')"))

    def all(self, selector: str) -> list:
        return self.browser.driver.find_elements(CSS, selector)

    def texts(self, selector: str) -> list[str]:
        return [found.get_property("textContent") for found in self.all(selector)]

    def press(self, selector: str, place: int = 0) -> None:
        self.browser.driver.execute_script("arguments[0].click()", self.all(selector)[place])

    def fill(self, selector: str, text: str) -> None:
        self.browser.driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            self.all(selector)[0],
            text,
        )

    def ask(self, question: str, tokens: int = 16) -> None:
        """Ask, and wait until all columns have answered."""
        self.fill("#tokens", str(tokens))
        self.fill("#question", question)
        self.press("#send")
        self.wait()

    def wait(self) -> None:
        until(lambda: self.all("#send:not([hidden])") and len(self.all(ENDED)) == len(self.all(".answer")))

    def is_clean(self) -> None:
        """Nothing was said on the console, and nobody else was asked for anything."""
        assert self.browser.console() == []
        assert [found for found in self.browser.requests() if not found.startswith((f"{self.address}/", "blob:"))] == []


@contextmanager
def without_models(access: Access, **parts: object):
    """The address of a server of no models in this process, which has these `parts` of a Service."""
    metrics = Metrics()
    service = Service(
        Models([], {}, None, 1, 1.0, metrics.passed, lambda name, error: None), Limits(), metrics, **parts
    )
    app = Journal(Guard(application(service), service, access), metrics)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(running.serve()))
    thread.start()
    try:
        until(lambda: running.started or not thread.is_alive())
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()
