"""Opens pages in headless Chromium, and checks what a reader sees of them.

`tests/conftest.py` has the fixtures `browser` (a driver) and `axe` (axe-core's source). A page is
looked at in both of `LAYOUTS`:

    for view in LAYOUTS:
        open_page(browser, path.as_uri(), view)
        check_layout(browser, view)

`check_accessibility(browser, axe, view)` does the same with axe-core, in all of `VIEWS`.
"""

import os
import pathlib
import shutil
from typing import Any, NamedTuple

import pytest


class View(NamedTuple):
    """A width of the window in pixels, and the reader's `prefers-color-scheme`."""

    width: int
    scheme: str


VIEWS = tuple(View(width, scheme) for width in (390, 1400) for scheme in ("light", "dark"))
LAYOUTS = (View(390, "light"), View(1400, "dark"))
"""For what depends on the width alone, and for pages whose colours are a theme's."""


def start_browser() -> Any:
    """Starts headless Chromium that knows no host but this machine, with a microphone that beeps.

    Skips the test where Chromium, its driver or selenium is missing.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    for argument in ("device", "ui"):
        options.add_argument(f"--use-fake-{argument}-for-media-stream")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.add_argument("--window-size=1280,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


def read_axe() -> str:
    """Returns the source of axe-core from the file that the environment variable AXE_JS names.

    Skips the test where there is none.
    """
    path = os.environ.get("AXE_JS")
    if not path:
        pytest.skip("needs axe-core: AXE_JS=axe.min.js, from the tarball of `npm pack axe-core`")
    return pathlib.Path(path).read_text(encoding="utf-8")


def wait_for(browser: Any, script: str, *arguments: Any) -> Any:
    """Runs JavaScript until it returns something true, and returns that."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 120).until(lambda d: d.execute_script(script, *arguments))


def open_page(browser: Any, address: str, view: View) -> None:
    """Opens a page, in a window of this width and with this colour scheme."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": view.width,
            "height": 1000,
            "deviceScaleFactor": 1,
            "mobile": view.width < 600,
        },
    )
    set_scheme(browser, view.scheme)
    browser.get(address)


def set_scheme(browser: Any, scheme: str) -> None:
    """Sets the reader's `prefers-color-scheme`: light or dark."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def check_layout(browser: Any, view: View) -> None:
    """Asserts that the page does not scroll sideways, cuts off no text, and logs no error."""
    scroll_width = browser.execute_script("return document.documentElement.scrollWidth")
    assert scroll_width <= view.width, f"{view}: the page is {scroll_width} pixels wide"
    cut_off = browser.execute_script(_CUT_OFF)
    assert cut_off == [], f"{view}: text is cut off: {cut_off}"
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == [], f"{view}: {severe}"


def check_accessibility(browser: Any, axe: str, view: View, *without: str) -> None:
    """Asserts that axe-core finds no violation, and that text has a contrast of at least 4.5.

    axe-core does not judge text in SVG; its contrast is measured here.

    Args:
      browser: the driver, with the page open.
      axe: the source of axe-core.
      view: how the page is shown.
      *without: CSS selectors of parts that another library makes.
    """
    browser.execute_script(axe)
    violations = browser.execute_async_script(_RUN_AXE, list(without))
    assert violations == [], f"{view}: {violations}"
    low = browser.execute_script(_LOW_CONTRAST_IN_SVG)
    assert low == [], f"{view}: low contrast: {low}"


# Text whose box is not inside the window, the boxes of all ancestors that hide what overflows, and
# its <svg>. Ancestors that scroll sideways end the search, because the reader can scroll there.
_CUT_OFF = """
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, parent = node.parentElement;
  if (!node.data.trim() || !parent.checkVisibility({opacityProperty: true,
    visibilityProperty: true}) || parent.closest("script, style, option, [aria-hidden=true]")) {
    continue;
  }
  const range = document.createRange();
  range.selectNodeContents(node);
  const box = range.getBoundingClientRect();
  if (box.width < 2 || box.height < 2) continue;
  let low = 0, high = innerWidth, scrolls = false;
  for (let each = parent; each && each !== document.body; each = each.parentElement) {
    const overflow = getComputedStyle(each).overflowX, outer = each.getBoundingClientRect();
    if (outer.width < 2 || outer.height < 2) { scrolls = true; break; }  // for screen readers
    if (overflow === "auto" || overflow === "scroll") { scrolls = true; break; }
    if (overflow !== "visible" || each.tagName === "svg") {
      low = Math.max(low, outer.left);
      high = Math.min(high, outer.right);
    }
  }
  if (!scrolls && (box.left < low - 1 || box.right > high + 1)) {
    found.push(`${node.data.trim().slice(0, 60)}: ${box.left.toFixed()} to ` +
      `${box.right.toFixed()}, but ${low.toFixed()} to ${high.toFixed()} is shown`);
  }
}
return found;
"""

# Large text is held to the contrast of other text.
_RUN_AXE = """
const [without, done] = arguments;
const expected = 4.5;
axe.configure({checks: [{id: "color-contrast", options: {contrastRatio: {
  normal: {expected}, large: {expected}}}}]});
axe.run({include: [["body"]], exclude: without.map((selector) => [selector])},
  {resultTypes: ["violations"]}).then(
    (result) => done(result.violations.flatMap((violation) => violation.nodes.map((node) =>
      `${violation.id}: ${node.target}: ${node.failureSummary}`))),
    (error) => done([String(error)]));
"""

# The background is the tile of a treemap that holds the text, or else what the page paints there.
_LOW_CONTRAST_IN_SVG = """
const parse = (css) => {
  const [r, g, b, alpha = 1] = css.match(/[\\d.]+/g).map(Number);
  return {rgb: [r, g, b], alpha};
};
const luminance = (rgb) => rgb.map((c) => c / 255).map((c) =>
  c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, i) =>
    sum + c * [0.2126, 0.7152, 0.0722][i], 0);
function behind(element) {
  const tile = element.closest(".slice, .pathbar")?.querySelector("path.surface");
  if (tile) return getComputedStyle(tile).fill;
  for (let each = element; each; each = each.parentElement) {
    const color = getComputedStyle(each).backgroundColor;
    if (each.tagName !== "text" && parse(color).alpha === 1) return color;
  }
  return "rgb(255, 255, 255)";
}
const found = [];
for (const text of document.querySelectorAll("svg text")) {
  if (!text.textContent.trim() || !text.checkVisibility() || !text.getBBox().width) continue;
  const [a, b] = [getComputedStyle(text).fill, behind(text)].map((css) =>
    luminance(parse(css).rgb));
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) {
    found.push(`${text.textContent}: ${ratio.toFixed(2)}, ${getComputedStyle(text).fill} on ` +
      behind(text));
  }
}
return found;
"""
