"""A Chromium that a notebook's cell drives: `run(work)` gives `work` the browser, and returns its result.

A notebook's thread already runs an event loop, and Playwright needs one of its own. So each call runs in a thread with
its own loop, its own browser, and a limit of time, after which the browser is killed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from shared.errors import LabError
from shared.hardware import host
from shared.load.loops import in_own_loop

if TYPE_CHECKING:
    from playwright.async_api import Browser

Done = TypeVar("Done")
MISSING = "No Chromium or Chrome was found on this machine."
FIX = ".venv/bin/python -m environment.browser installs one; then run this cell again"
# No proxy stands between this machine and itself, and no other machine can be reached. A page in the background gets as
# many frames as one in front.
ARGUMENTS = [
    "--no-sandbox", "--no-proxy-server", "--disable-background-timer-throttling",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
]  # fmt: skip


def run(work: "Callable[[Browser], Awaitable[Done]]", limit_s: float = 600) -> Done:
    """Await `work(browser)`, and end the browser. Raises LabError without a browser, TimeoutError after `limit_s`."""
    path = host.browser()
    if path is None:
        raise LabError(MISSING, FIX)

    async def in_browser() -> Done:
        from playwright.async_api import Error, async_playwright

        async with asyncio.timeout(limit_s), async_playwright() as playwright:
            try:
                browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
            except Error as e:
                raise LabError(f"{path} does not start: {e.message.splitlines()[0]}", FIX) from None
            try:
                return await work(browser)
            finally:
                await browser.close()

    done: Done = in_own_loop(in_browser())
    return done
