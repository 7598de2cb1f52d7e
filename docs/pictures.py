"""Take the pictures of the README: the report of a finished comparison, and TensorBoard on the same
run.

    genlab compare configs/quickstart.py --out runs/first
    python docs/pictures.py runs/first docs/images

Needs chromium and chromedriver, which tests/browser.py drives. Each picture is a PNG below 300 kB.
"""

import base64
import contextlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Browser, start_browser

MAX_BYTES = 300_000
START_S = 60.0  # the most that TensorBoard takes to answer
WIDTH = 1240  # pixels of the report
BOARD_WIDTH = 1600  # three charts beside each other
MARGIN = 16  # pixels around a part of the report
BOARD_TAGS = "train/loss_|prompt00/samples_mel"
# Clicks the label or button that begins with a text: TensorBoard has no names for them.
CLICK = (
    "for (const found of document.querySelectorAll('button, mat-checkbox'))"
    "  if (found.innerText.includes(arguments[0])) { (found.querySelector('input') || "
    "found).click(); return true; }"
    "return false;"
)


def shrink(source: Path, target: Path) -> None:
    """Save a screenshot with few colours, so that it stays below `MAX_BYTES`."""
    picture = Image.open(source).convert("RGB")
    for colours in (256, 128, 64, 32):
        picture.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size < MAX_BYTES:
            return
    raise SystemExit(f"{target}: {target.stat().st_size} bytes, expected fewer than {MAX_BYTES}")


@contextlib.contextmanager
def serve_board(run_dir: Path) -> Iterator[str]:
    """Run TensorBoard on a free port, and yield its address once it answers."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run_dir), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        line = next(line for line in server.stderr if " at http://" in line)
        address = line.split(" at ")[1].split()[0]
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def crop(browser: Browser, first: str, last: str, target: Path) -> None:
    """Take the part of the page from the top of element `first` to the bottom of element `last`."""
    script = (
        "const [a, b] = Array.from(arguments, s => "
        "document.querySelector(s).getBoundingClientRect());"
        "return [a.top + scrollY, b.bottom + scrollY]"
    )
    top, bottom = browser.run(script, first, last)
    clip = {
        "x": 0,
        "y": top - MARGIN,
        "width": WIDTH,
        "height": bottom - top + 2 * MARGIN,
        "scale": 1,
    }
    values = {"captureBeyondViewport": True, "clip": clip}
    shot = browser.post("goog/cdp/execute", cmd="Page.captureScreenshot", params=values)
    target.write_bytes(base64.b64decode(shot["data"]))


def take_report(browser: Browser, run_dir: Path, target: Path) -> None:
    """Take the answer, the scores as dots, and the players of the first prompt, one above the
    other.
    """
    browser.resize(WIDTH, 900)
    browser.open(run_dir / "report.html")
    browser.wait("return document.readyState == 'complete'")
    parts = []
    for number, (first, last) in enumerate(
        ((".kind", "#scores .dots > :nth-child(6)"), ("#listen article", "#listen article"))
    ):
        part = target.with_name(f"part{number}.png")
        crop(browser, first, last, part)
        parts.append(Image.open(part).convert("RGB"))
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    whole.paste(parts[0], (0, 0))
    whole.paste(parts[1], (0, parts[0].height))
    whole.save(target)


def take_board(browser: Browser, address: str, target: Path) -> None:
    """Take TensorBoard's charts once they are drawn, without the pane of its settings."""
    browser.resize(BOARD_WIDTH, 800)
    browser.post(
        "url", url=f"{address}?darkMode=false&runFilter=arms&tagFilter={BOARD_TAGS}#timeseries"
    )
    browser.wait("return document.querySelectorAll('card-view').length > 2", seconds=60.0)
    for name in ("Enable step selection and data table", "Settings"):
        browser.run(CLICK, name)
        time.sleep(1.0)
    time.sleep(8.0)  # a worker draws the lines, and the page does not say when it is done
    browser.picture(target)


def main() -> None:
    """Take both pictures of the run that the command line names."""
    run_dir, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw.png"
        with start_browser(Path(scratch) / "downloads") as browser:
            take_report(browser, run_dir, raw)
            shrink(raw, out / "report.png")
            with serve_board(run_dir) as address:
                take_board(browser, address, raw)
                shrink(raw, out / "tensorboard.png")
    print(f"{out / 'report.png'}\n{out / 'tensorboard.png'}")


if __name__ == "__main__":
    main()
