"""Chromium over a pipe: the DevTools protocol on file descriptors 3 and 4, without a driver or another library.

async with Chromium(directory) as chromium:
    page = await chromium.page("http://127.0.0.1:8080/")
    await page.click("#rows a")
    assert await page.js("document.title") == "..."
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

BINARY = shutil.which("chromium")
WAIT = 20.0
"""Seconds that anything in a page may take on a busy machine."""
PHONE, DESKTOP = (390, 844), (1280, 900)
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "about:blank",
)


class Chromium:
    """A browser with a profile of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        """Start it."""
        commands, answers = os.pipe(), os.pipe()
        self._process = await asyncio.to_thread(self._start, commands[0], answers[1])
        os.close(commands[0])
        os.close(answers[1])
        self._out = os.fdopen(commands[1], "wb", buffering=0)
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=2**26)
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), os.fdopen(answers[0], "rb", buffering=0)
        )
        self._reading = asyncio.create_task(self._read())
        return self

    def _start(self, commands: int, answers: int) -> subprocess.Popen[bytes]:
        assert BINARY is not None

        def as_three_and_four() -> None:
            low, high = os.dup(commands), os.dup(answers)
            os.dup2(low, 3)
            os.dup2(high, 4)

        self._directory.mkdir(exist_ok=True)
        log = (self._directory / "chromium.log").open("wb")
        with log:
            return subprocess.Popen(
                [BINARY, f"--user-data-dir={self._directory / 'profile'}", *_OPTIONS],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                close_fds=False,
                preexec_fn=as_three_and_four,  # noqa: PLW1509 - it only duplicates descriptors
            )

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        assert self._process is not None
        self._reading.cancel()
        self._transport.close()
        self._out.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, 5)
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def send(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await asyncio.to_thread(self._out.write, json.dumps(message).encode() + b"\0")
        found: dict[str, Any] = await asyncio.wait_for(answer, WAIT)
        return found

    async def page(self, url: str = "about:blank", size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Page:
        """Open a page; all pages share cookies and storage."""
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.send(f"{domain}.enable")
        await page.send("Emulation.setFocusEmulationEnabled", enabled=True)  # every tab is visible
        await page.resize(size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await page.send("Emulation.setEmulatedMedia", features=[scheme])
        if url != "about:blank":
            await page.go(url)
        return page

    async def _read(self) -> None:
        while True:
            message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(AssertionError(message["error"]))
                else:
                    answer.set_result(message["result"])
            elif message.get("sessionId") in self._pages:
                self._pages[message["sessionId"]].on_event(message["method"], message["params"])


class Page:
    """One tab."""

    def __init__(self, chromium: Chromium, session: str, target: str) -> None:
        self._chromium = chromium
        self._session = session
        self._target = target
        self.complaints: list[str] = []
        """Errors and warnings of the console, exceptions, and responses of the server that failed."""
        self.requests: list[str] = []

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to the tab."""
        return await self._chromium.send(method, self._session, **parameters)

    def on_event(self, method: str, params: dict[str, Any]) -> None:
        """Keep what the tests ask for."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.complaints.append(str([item.get("value") for item in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        await self.send("Page.navigate", url=url)  # answered when the new document is there
        await self.until("document.readyState === 'complete'")

    async def reload(self) -> None:
        """Load the page again."""
        await self.js("window.before = true")
        await self.send("Page.reload")
        await self.until("!window.before && document.readyState === 'complete'")

    async def js(self, code: str) -> Any:
        """Return the value of an expression in the page."""
        found = await self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, code: str, seconds: float = WAIT) -> Any:
        """Return the value of an expression once it is true; a navigation in between does not matter."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            with contextlib.suppress(AssertionError):
                if found := await self.js(code):
                    return found
            await asyncio.sleep(0.05)
        text = await self.js("document.body.innerText")
        raise AssertionError(f"{code}: not within {seconds:.0f} s; the page shows:\n{text[:2000]}")

    async def click(self, selector: str) -> None:
        """Click the element, once it is there."""
        name = json.dumps(selector)
        await self.until(f"!!document.querySelector({name})")
        place = await self.js(
            f"(() => {{ const e = document.querySelector({name}); e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    async def fill(self, selector: str, text: str) -> None:
        """Write a text into a field."""
        await self.until(f"!!document.querySelector({json.dumps(selector)})")
        await self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.send("Input.insertText", text=text)

    async def press(self, *keys: str) -> None:
        """Press keys one after another."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            for kind in ("keyDown", "keyUp"):
                more = {"text": text} if text and kind == "keyDown" else {}
                code = {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, 0)
                await self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    async def resize(self, size: tuple[int, int]) -> None:
        """Give the tab the size of a desktop or of a phone."""
        width, height = size
        phone = width < 600
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    async def screenshot(self, file: Path) -> None:
        """Store a picture of the whole page."""
        height = await self.js("Math.min(3000, document.documentElement.scrollHeight)")
        width = await self.js("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = await self.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(shot["data"]))

    async def close(self) -> None:
        """Close the tab."""
        await self._chromium.send("Target.closeTarget", targetId=self._target)
