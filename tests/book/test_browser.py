"""The built book in a browser, as its readers have it: offline, light and dark, on a phone, and by axe-core's rules."""

import functools
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import trac

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
HTML, AXE = ROOT / "_build" / "html", ROOT / "_build" / "axe" / "package" / "axe.min.js"
if not HTML.is_dir():
    pytest.skip("the book is not built; make test-browser builds it", allow_module_level=True)
PAGES = sorted(str(path.relative_to(HTML)) for path in HTML.rglob("*.html") if "_static" not in path.parts)
DESKTOP, PHONE = (1300, 900), (390, 844)
SEEN = r"""
const bad = (nodes, what) => [...nodes].map(node => what + ": " + (node.outerHTML ?? node.data).slice(0, 200));
const images = [...document.images];
const source = new DOMParser().parseFromString(arguments[0], "text/html").querySelectorAll(".math").length;
const rendered = document.querySelectorAll(".math mjx-container").length;
const texts = [], walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode;
  if (!text.parentElement.closest("pre, code, script, style, mjx-container")) texts.push(text);
}
return [
  ...(source === rendered ? [] : [`${rendered} of ${source} formulas are rendered`]),
  ...bad(texts.filter(t => /[$]|\\[(\[]/.test(t.data)), "raw LaTeX"),
  ...bad(document.querySelectorAll("mjx-merror, [data-mjx-error]"), "an error in mathematics"),
  ...bad(document.querySelectorAll("mjx-mtext[style*=red]"), "an unknown macro"),
  ...bad(images.filter(i => !i.complete || !i.naturalWidth), "an image that is not loaded"),
  ...bad(images.filter(i => !i.alt.trim()), "an image without an alternative text"),
];
"""
# The ink of the figures is dark: in the dark theme they are inverted, and their ground is the page's.
GROUNDS = """
return [...document.querySelectorAll("article :is(figure, .cell_output) img")].filter(image => {
  const {filter, mixBlendMode} = getComputedStyle(image);
  return !(filter.startsWith("invert(1)") && mixBlendMode === "screen");
}).map(image => "a light figure on a dark page: " + image.alt);
"""
# Of the best practices only the order of headings; what an assistive technology cannot read is in the others.
READABLE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "rules": {"heading-order": {"enabled": True}}}
SCROLLABLE = {"runOnly": ["scrollable-region-focusable"]}
RULES = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"], ...arguments[0]})
  .then(found => done(found.violations
    .filter(v => ["serious", "critical"].includes(v.impact) || v.id === "heading-order")
    .map(v => `${v.id} (${v.impact}), ${v.nodes.length} times: ` + v.nodes.slice(0, 3).map(
      n => n.html.slice(0, 160) + " " + (n.any[0]?.message ?? "")).join(" | "))))
  .catch(error => done([String(error)]));
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/favicon.ico":  # Chromium's own guess on the first page, which redirects and names no icon
            self.path = "/_static/favicon.svg"
        super().do_GET()


@pytest.fixture(scope="session")
def address():
    """Where the book is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    for word in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"):
        options.add_argument(word)
    options.add_argument("--disable-background-networking")
    options.add_argument("--disable-component-update")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    options.binary_location = shutil.which("chromium")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(120)
    # No colour is read in the middle of its change.
    reduced = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", reduced)
    yield driver
    driver.quit()


def size(browser, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def load(browser, url):
    """Open a page and wait until its mathematics and its pictures are there."""
    size(browser, *DESKTOP)
    browser.get(url)
    browser.execute_script("document.querySelectorAll('img[loading=lazy]').forEach(i => i.loading = 'eager')")
    browser.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([window.MathJax?.startup?.promise, document.fonts.ready,"
        " ...[...document.images].map(i => i.decode().catch(() => 0))]).then(() => done())"
    )


def theme(browser, name):
    browser.execute_script(
        "document.documentElement.dataset.theme = document.documentElement.dataset.mode = arguments[0]", name
    )


def requests(browser, address):
    """What went wrong in the page's requests and on its console."""
    found, sent = [], {}
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = sent[message["params"]["requestId"]] = message["params"]["request"]["url"]
            if not url.startswith((address, "data:", "blob:", "chrome:", "chrome-untrusted:")):  # its own new tab
                found.append(f"a request that leaves the host: {url}")
        elif message["method"] == "Network.responseReceived":
            response = message["params"]["response"]
            if response["status"] >= 400:
                found.append(f"{response['status']}: {response['url']}")
        elif message["method"] == "Network.loadingFailed" and not message["params"].get("canceled"):
            url = sent.get(message["params"]["requestId"])  # none for what Chromium asks when it starts
            if url:
                found.append(f"{message['params']['errorText']}: {url}")
    return found + [f"on the console: {e['message']}" for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_the_book_is_built_with_every_notebook():
    assert {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")} < set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page(page, address, browser):
    load(browser, address + page)
    found = requests(browser, address)
    source = HTML / browser.current_url.removeprefix(address).partition("#")[0]  # index.html leads to another page
    found += browser.execute_script(SEEN, source.read_text(encoding="utf-8"))
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    for name in ("light", "dark"):
        theme(browser, name)
        found += [f"{name}: {violation}" for violation in browser.execute_async_script(RULES, READABLE)]
    found += browser.execute_script(GROUNDS)
    size(browser, *PHONE)
    browser.execute_async_script("setTimeout(arguments[0], 400)")  # the theme waits 300 ms after a change of size
    found += [f"on a phone: {violation}" for violation in browser.execute_async_script(RULES, SCROLLABLE)]
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    if wide > PHONE[0]:
        found.append(f"on a phone {wide} pixels wide")
    assert not found, "\n".join(found)


def test_the_theme_button_makes_the_page_dark(address, browser):
    load(browser, address + "notebooks/04_partition.html")
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    for _ in range(3):  # from automatic to light to dark, in an order of the theme's own
        browser.find_element(By.CSS_SELECTOR, "button.theme-switch-button").click()
        if browser.execute_script("return document.documentElement.dataset.theme") == "dark":
            break
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert dark != back and max(int(x) for x in dark.strip("rgb()").split(",")) < 64


def test_the_explorer_answers_its_sliders_by_key(address, browser):
    load(browser, address + "notebooks/04_partition.html")
    counts = browser.find_element(By.CSS_SELECTOR, "[role=status]")
    for slider in browser.find_elements(By.CSS_SELECTOR, "input[type=range][id^=explorer]"):
        seen = {counts.text}
        for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT):
            slider.send_keys(*[key] * 5)
            seen.add(counts.text)
        assert len(seen) > 1, f"{slider.get_attribute('id')} changes nothing"


@pytest.mark.parametrize(("page", "name"), [("06_training", "forces"), ("09_labels", "labels"), ("10_limits", "limit")])
def test_a_figure_answers_its_controls_by_key(page, name, address, browser):
    load(browser, address + f"notebooks/{page}.html")
    figure = browser.find_element(By.CSS_SELECTOR, f".{name}, .{name}-explorer")
    said, picture = (figure.find_element(By.CSS_SELECTOR, part) for part in (".result", "svg"))
    controls = browser.find_elements(By.CSS_SELECTOR, f":is(input, select)[id^={name}], .{name} .handle")
    assert len(controls) == {"forces": 6, "labels": 4, "limit": 3}[name]
    for control in controls:
        seen = {said.text + picture.get_attribute("innerHTML")}
        for key in (Keys.ARROW_UP, Keys.ARROW_DOWN, Keys.ARROW_DOWN):
            control.send_keys(key)
            seen.add(said.text + picture.get_attribute("innerHTML"))
        assert len(seen) > 1, f"{control.get_attribute('outerHTML')[:80]} changes nothing"
    assert not requests(browser, address)


def test_an_episode_plays_by_its_button_alone_where_motion_is_reduced(address, browser):
    load(browser, address + "notebooks/09_labels.html")
    figure = browser.find_element(By.CSS_SELECTOR, ".labels-explorer")
    step, button = (figure.find_element(By.CSS_SELECTOR, one) for one in ("#labels-step", "button"))
    figure.find_element(By.CSS_SELECTOR, "#labels-x").send_keys(Keys.ARROW_DOWN)
    assert (button.text, step.get_attribute("value")) == ("Play", "200")  # the browser here asks for less motion
    button.send_keys(Keys.SPACE)
    WebDriverWait(browser, 20).until(lambda _: 0 < int(step.get_attribute("value")) < 200)
    button.send_keys(Keys.SPACE)
    assert button.text == "Play" and int(step.get_attribute("value")) < 200


@pytest.mark.parametrize(
    ("page", "grip", "by", "shown"),
    [
        ("06_training", ".forces [data-name=good] .grip", (-60, 40), ".forces [data-name=good]"),
        ("10_limits", ".limit-explorer svg[role=img]", (120, 0), "#limit-limit"),
    ],
)
def test_a_figure_is_dragged(page, grip, by, shown, address, browser):
    load(browser, address + f"notebooks/{page}.html")
    grip, value = (browser.find_element(By.CSS_SELECTOR, one) for one in (grip, shown))
    before = value.get_attribute("aria-valuetext")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", grip)
    ActionChains(browser).drag_and_drop_by_offset(grip, *by).perform()
    assert value.get_attribute("aria-valuetext") != before


@pytest.fixture
def swipe(browser):
    """A finger on the middle of an element: swipe(element, start, by) in pixels from there; (0, 0) is a tap."""

    def touch(kind, *points):
        places = [{"x": x, "y": y} for x, y in points]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": places})

    def swipe(element, start, by):
        box = element.rect
        top = browser.execute_script("return scrollY")
        x, y = box["x"] + box["width"] / 2 + start[0], box["y"] + box["height"] / 2 - top + start[1]
        touch("Start", (x, y))
        for step in range(1, 9) if any(by) else ():
            touch("Move", (x + by[0] * step / 8, y + by[1] * step / 8))
        touch("End")
        browser.execute_async_script("setTimeout(arguments[0], 600)")  # the page scrolls on, a tap becomes a click
        return browser.execute_script("return scrollY") - top

    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    yield swipe
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_a_finger_drags_an_action_and_scrolls_beside_it(address, browser, swipe):
    load(browser, address + "notebooks/06_training.html")
    picture, good = (browser.find_element(By.CSS_SELECTOR, f".forces {one}") for one in ("svg", "[data-name=good]"))
    before = good.get_attribute("aria-valuetext")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", picture)
    assert swipe(good.find_element(By.CSS_SELECTOR, ".grip"), (0, 0), (0, 80)) == 0
    dragged = good.get_attribute("aria-valuetext")
    assert dragged != before
    assert swipe(picture, (0, 150), (0, -120)) > 50 and good.get_attribute("aria-valuetext") == dragged


def test_a_finger_drags_the_limit_by_its_line_and_scrolls_beside_it(address, browser, swipe):
    load(browser, address + "notebooks/10_limits.html")
    picture, value = (browser.find_element(By.CSS_SELECTOR, one) for one in (".limit-explorer svg", "#limit-limit"))
    line = picture.find_element(By.CSS_SELECTOR, "line.limit")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", picture)
    assert swipe(line, (5, 0), (80, 5)) == 0
    dragged = int(value.get_attribute("value"))
    assert dragged > 25
    assert swipe(line, (90, 0), (0, -120)) > 50 and int(value.get_attribute("value")) == dragged
    swipe(line, (-90, 0), (0, 0))
    assert int(value.get_attribute("value")) < dragged


def test_the_counts_of_the_explorer_are_those_of_trac_partition(address, browser):
    load(browser, address + "notebooks/04_partition.html")
    browser.execute_script(
        "const limit = document.querySelector('#explorer-limit'); limit.value = 40;"
        "limit.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    shown = [int(bold.text) for bold in browser.find_elements(By.CSS_SELECTOR, "[role=status] b")]
    segments = trac.partition(trac.load("BallCircle"), cost_limit=40, segment_ratio=1.0)
    desirable = int(segments.labels.sum())
    assert shown == [desirable, len(segments) - desirable, segments.total - len(segments)]


def test_the_search_finds_regret(address, browser):
    load(browser, address + "search.html?q=regret")
    WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    links = browser.find_elements(By.CSS_SELECTOR, "#search-results li a")
    assert any("05_score" in link.get_attribute("href") for link in links)
    assert not requests(browser, address)
