"""A page in headless Chromium, logged in as WEB_USER: `python -m tests.k8s.browser URL TEXT PICTURE`.

Waits until the page shows TEXT, leaves a picture of it and prints what can be read. The login dialog is
answered over Chromium's DevTools protocol: credentials in an address would stop the page's own requests.
"""

import asyncio
import base64
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

READY_SECONDS = 60.0


class Page:
    """One tab, over its web socket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; login dialogs that come meanwhile are answered."""
        number = await self._send(method, parameters)
        while True:
            message = await self._socket.receive_json(timeout=READY_SECONDS)
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            await self._answer(message)

    async def _send(self, method: str, parameters: dict[str, Any]) -> int:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        return number

    async def _answer(self, message: dict[str, Any]) -> None:
        request = {"requestId": message.get("params", {}).get("requestId")}
        if message.get("method") == "Fetch.requestPaused":
            await self._send("Fetch.continueRequest", request)
        elif message.get("method") == "Fetch.authRequired":
            login = {"username": os.environ["WEB_USER"], "password": os.environ["WEB_PASSWORD"]}
            answer = {"response": "ProvideCredentials", **login}
            await self._send("Fetch.continueWithAuth", {**request, "authChallengeResponse": answer})


async def look(port: int, url: str, text: str, picture: Path) -> str:
    """What the page shows once it shows `text`. TimeoutError where it never does."""
    async with aiohttp.ClientSession() as session:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                async with session.put(f"http://127.0.0.1:{port}/json/new") as answer:
                    address = (await answer.json())["webSocketDebuggerUrl"]
                    break
            except aiohttp.ClientError:
                assert time.monotonic() < deadline, "the browser did not come up"
                await asyncio.sleep(0.2)
        async with session.ws_connect(address, max_msg_size=0) as socket:
            page = Page(socket)
            await page.call("Fetch.enable", handleAuthRequests=True)
            await page.call("Page.navigate", url=url)
            deadline = time.monotonic() + READY_SECONDS
            while True:
                read = await page.call(
                    "Runtime.evaluate", expression="document.body ? document.body.innerText : ''"
                )
                shown = str(read["result"].get("value", ""))
                if text in shown:
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{url} never showed {text!r}, but:\n{shown}")
                await asyncio.sleep(0.3)
            await asyncio.sleep(1)  # charts are drawn after the text
            shot = await page.call("Page.captureScreenshot", format="png")
            picture.write_bytes(base64.b64decode(shot["data"]))
            return shown


def main() -> None:
    """Look at one page."""
    url, text, picture = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1500,900"]
        options += ["--remote-debugging-port=9222", f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(["chromium", *options], stderr=subprocess.DEVNULL) as browser:
            try:
                print(json.dumps(asyncio.run(look(9222, url, text, Path(picture)))))
            finally:
                browser.terminate()


if __name__ == "__main__":
    main()
