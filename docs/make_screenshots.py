"""Take docs/*.png of the page that serves an archive: python docs/make_screenshots.py archives/demo

Needs Chromium (`apt-get install chromium`) and Playwright. The searches are ones that the demo's archive answers.
"""

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
COLOURS = 255  # of a palette: a third of the bytes, and nobody sees it
WAIT_MS = 120_000
LAPTOP, PHONE = {"width": 1180, "height": 860}, {"width": 390, "height": 844}


def search(page: Any) -> None:
    page.goto("/?q=a+red+sailboat")


def arithmetic(page: Any) -> None:
    """As a person does it: from a hit, and the slider moved."""
    page.goto("/?q=a+red+sailboat")
    page.get_by_role("link", name="More like this").first.click()
    page.get_by_text("More of this, less of that").click()
    page.get_by_label("+ more of").fill("blue")
    page.get_by_label("− less of").fill("red")
    page.get_by_label("λ, how much of it").fill("1.4")
    page.wait_for_url("**scale=1.4**")


def photo(page: Any) -> None:
    page.goto("/?q=a+green+windmill+in+the+snow")
    page.locator(".hit .open").first.click()
    page.wait_for_url("**/photo/**")


def dark(page: Any) -> None:
    page.goto("/?q=a+steam+train+in+the+mountains&mode=hybrid&after=1900&before=1939")


def phone(page: Any) -> None:
    page.goto("/?q=a+balloon+over+a+field")


SHOTS: dict[str, Any] = {
    "page-search": (search, {"viewport": LAPTOP}),
    "page-arithmetic": (arithmetic, {"viewport": LAPTOP}),
    "page-photo": (photo, {"viewport": LAPTOP}),
    "page-dark": (dark, {"viewport": LAPTOP, "color_scheme": "dark"}),
    "page-phone": (phone, {"viewport": PHONE, "device_scale_factor": 1.5}),
}


def main(archive: str) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "serve", archive, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr
    try:
        address = next(line for line in server.stderr if " at http" in line).partition(" at ")[2].split("/ ")[0]
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            first = browser.new_page(base_url=address)
            while not first.goto("/?q=warm").ok:  # until the model is there: the times shown are those of every day
                pass
            for name, (go, how) in SHOTS.items():
                page = browser.new_context(base_url=address, **how).new_page()
                page.set_default_timeout(WAIT_MS)
                go(page)
                page.wait_for_load_state("networkidle")
                shot = Image.open(BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS)
                shot.save(DOCS / f"{name}.png", optimize=True)
                page.context.close()
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(sys.argv[1])
