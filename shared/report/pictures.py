"""Static pictures of figures. One browser draws all pictures of a program: it starts in two seconds and draws in 0.2.

kaleido's own server waits forever when its browser fails to start or dies. So this module drives the browser itself,
from an event loop in a thread of its own, because a notebook's thread already runs a loop.
"""

import asyncio
import atexit
import contextlib
import functools
import json
import logging
import threading
from collections.abc import Coroutine
from typing import Any

WIDTH, HEIGHT = 760, 420
PATIENCE_S = 30  # for the start of the browser, and for each picture


def picture(figure: str, path: str) -> bytes | None:
    """The figure of this JSON as a PNG, drawn by the browser at `path`; None if the browser fails.

    The next call then starts a new browser.
    """
    with contextlib.suppress(Exception):  # the interactive figure is there in any case
        return drawn(figure, path)
    return None


@functools.lru_cache(maxsize=64)  # the report shows the notebook's figures again; a failure raises, so it isn't cached
def drawn(figure: str, path: str) -> bytes:
    """The picture. Ends the browser and raises if drawing fails."""
    with LOCK:
        browser = running(path)
        try:
            return browser.draw(json.loads(figure))
        except BaseException:
            end()
            raise


class Browser:
    """A browser, and the thread whose event loop drives it. Its methods raise whatever kaleido raises."""

    def __init__(self, path: str) -> None:
        import kaleido

        logging.getLogger("choreographer").setLevel(logging.ERROR)  # it warns when the browser has ended
        self.path = path
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._kaleido = kaleido.Kaleido(path=path, timeout=PATIENCE_S, mathjax=False)
        self._opened = False

    def draw(self, figure: dict[str, Any]) -> bytes:
        if not self._opened:
            self._wait(self._kaleido.open())
            self._opened = True
        opts = {"format": "png", "width": WIDTH, "height": HEIGHT, "scale": 2}
        png: bytes = self._wait(self._kaleido.calc_fig(figure, opts=opts))
        return png

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._wait(self._kaleido.close())
        with contextlib.suppress(Exception):  # a browser that hangs doesn't close
            self._kaleido.subprocess.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)


LOCK = threading.Lock()
RUNNING: list[Browser] = []  # one, or none


def running(path: str) -> Browser:
    """The browser at `path`, which an earlier picture may have started."""
    if RUNNING and RUNNING[0].path != path:
        end()
    if not RUNNING:
        RUNNING.append(Browser(path))
    return RUNNING[0]


@atexit.register
def end() -> None:
    """End the browser, if there is one."""
    while RUNNING:
        RUNNING.pop().close()
