"""The report as a browser shows it: no error, no request to elsewhere, a map that answers, pages that fit.

Needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver). Without them the tests are skipped,
unless CPX_REQUIRE_BROWSER is set, as .ci/run does: then they fail.
"""

import json
import os
import shutil
import time
from itertools import pairwise
from urllib.parse import quote

import pandas as pd
import pytest
from small_report import EVIL, METHODS, STAGES, compound_names, map_points, write_run

from cpx_utils import report

FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage").split()  # fmt: skip
PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
PAGES = ["index.html", "map.html", *(f"notebooks/{stage}.html" for stage in STAGES)]
PATIENCE = 60  # seconds; a runner whose cores are busy is slow
missing = [name for name, path in PROGRAMS.items() if path is None]
pytestmark = pytest.mark.skipif(
    bool(missing) and not os.environ.get("CPX_REQUIRE_BROWSER"),
    reason=f"{' and '.join(missing)} not found (Debian: apt-get install chromium chromium-driver)",
)


class Browser:
    """Headless Chromium on a report, one page at a time."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder

    def open(self, page, width=1400, scheme="light"):
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get("about:blank")  # the same page again would only move to its anchor
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get((self.folder / page.partition("#")[0]).as_uri() + page[len(page.partition("#")[0]) :])
        if page.startswith("map.html"):
            self.until(lambda: self.js("return Boolean(window.Bokeh && Bokeh.documents.length && "
                                       "document.querySelector('#plot').childElementCount)"))  # fmt: skip
        return self

    def js(self, code, *values):
        return self.driver.execute_script(code, *values)

    def until(self, condition):
        """Return the first true value that `condition` gives; fail when patience is at its end."""
        end = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)
        return value

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def events(self, name):
        """What the network part of the browser told since the page was opened; asking empties the log."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [event["params"] for event in events if event["method"] == f"Network.{name}"]

    def text(self, selector):
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def points(self):
        """Compound to position, as drawn."""
        return self.js(
            "const { compound, x, y } = Bokeh.documents[0].get_model_by_name('points').data;"
            "return Object.fromEntries([...compound].map((name, i) => [name, [x[i], y[i]]]))"
        )

    def pixel(self, place):
        """Where a point of the map is on the screen."""
        return self.js(
            "const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('map'));"
            "const { x, y } = view.canvas_view.el.getBoundingClientRect();"
            "return [x + view.frame.x_scale.compute(arguments[0]), y + view.frame.y_scale.compute(arguments[1])]",
            *place,
        )

    def mouse(self, kind, x, y, **options):
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **options})

    def press(self, key):
        """Press a key where the focus is."""
        from selenium.webdriver.common.keys import Keys

        self.driver.switch_to.active_element.send_keys(getattr(Keys, key))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    assert not missing, f"CPX_REQUIRE_BROWSER is set and {' and '.join(missing)} isn't installed"
    folder = tmp_path_factory.mktemp("report")
    report.write_report(*write_run(folder))
    options = Options()
    options.binary_location = PROGRAMS["chromium"]
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # With the driver's path selenium looks for nothing itself.
    driver = webdriver.Chrome(options=options, service=Service(PROGRAMS["chromedriver"]))
    try:
        yield Browser(driver, folder / "run" / "report")
    finally:
        driver.quit()


@pytest.mark.parametrize("page", PAGES)
def test_pages_open_without_an_error_and_ask_for_nothing_from_elsewhere(browser, page):
    browser.open(page)
    browser.js("document.querySelectorAll('img').forEach(e => { e.loading = 'eager'; })")
    browser.until(lambda: browser.js("return [...document.images].every(e => e.complete && e.naturalWidth > 0)"))
    requests = [event["request"]["url"] for event in browser.events("requestWillBeSent")]
    assert any(url.endswith(page) for url in requests)
    assert [url for url in requests if not url.startswith(("file:", "data:", "about:"))] == []
    assert browser.errors() == []


def test_the_policy_of_a_page_forbids_what_comes_from_elsewhere(browser):
    for page in PAGES:
        browser.open(page)
        browser.js(
            "document.addEventListener('securitypolicyviolation', e => { window.stopped = e.effectiveDirective; });"
            "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))"
        )
        assert browser.until(lambda: browser.js("return window.stopped")) == "img-src"
        assert [event["blockedReason"] for event in browser.events("loadingFailed")] == ["csp"]


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_their_window(browser, page, width):
    browser.open(page, width)
    browser.js("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    shown, wanted = browser.js("const e = document.scrollingElement; return [e.clientWidth, e.scrollWidth]")
    assert wanted <= shown <= width


# Ratio of luminances (WCAG 2.2, 1.4.3) of every piece of text to what is behind it, the worst of each page.
CONTRAST = """
const luminance = (rgb) => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const background = e => {
  for (; e; e = e.parentElement) {
    const colour = numbers(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour.slice(0, 3);
  }
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let worst = [99, ""];
for (let node; node = walker.nextNode();) {
  const e = node.parentElement;
  const isShown = e.checkVisibility({checkVisibilityCSS: true}) && !e.closest("script, style, noscript, svg");
  if (!isShown || !node.textContent.trim()) continue;
  const [a, b] = [numbers(getComputedStyle(e).color).slice(0, 3), background(e)].map(luminance);
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < worst[0]) worst = [ratio, `${e.tagName} ${e.className}: ${node.textContent.slice(0, 40)}`];
}
return [...worst, getComputedStyle(document.body).backgroundColor];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_text_stands_out_in_light_and_dark(browser, page, scheme):
    browser.open(page if page != "map.html" else "map.html#compound=SIM-000", scheme=scheme)
    browser.js("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    ratio, where, ground = browser.js(CONTRAST)
    assert (sum(map(int, ground.strip("rgb()").split(","))) < 200) == (scheme == "dark")
    assert ratio >= 4.5, where


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_what_a_screen_reader_and_a_keyboard_need(browser, page):
    browser.open(page)
    assert browser.js("return document.documentElement.lang") == "en"
    levels = browser.js("return [...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.js("return [...document.images].filter(e => !e.alt).length") == 0
    unnamed = "return [...document.querySelectorAll('input, select')].filter(e => !e.labels.length).length"
    assert browser.js(unnamed) == 0
    browser.js("document.body.focus()")
    browser.press("TAB")
    assert browser.js("return document.activeElement.className") == "skip"
    browser.press("ENTER")
    browser.until(lambda: browser.js("return document.activeElement.id") == "content")


def test_names_from_data_are_text(browser):
    browser.open("index.html")
    for selector in ("figcaption", "#learned ~ ul", "#testability ~ ul", ".claim"):
        assert EVIL in browser.text(selector)
    for page in PAGES:
        browser.open(page)
        ours = 2 if page == "map.html" else 0
        assert browser.js("return document.querySelectorAll('script:not([type])').length") == ours


# --- the map ------------------------------------------------------------------------------------------------


def drawn_of(method):
    """Where the table puts the compounds."""
    table = map_points()
    return {row.compound: [row.x, row.y] for row in table[table["method"] == method].itertuples()}


def nearest_of(browser, method, compound):
    """The neighbours that the run's table lists, the nearest first."""
    table = pd.read_csv(browser.folder.parent / "tables" / "map_nearest.csv")
    return table[(table["method"] == method) & (table["compound"] == compound)].sort_values("rank")


def tooltips(browser):
    """Words of the boxes at the pointer, which Bokeh keeps in shadow trees."""
    return browser.js(
        "const found = []; const look = root => root.querySelectorAll('*').forEach(e => {"
        "  if (e.classList.contains('bk-Tooltip') && e.checkVisibility()) found.push(e.shadowRoot.textContent);"
        "  if (e.shadowRoot) look(e.shadowRoot); }); look(document); return found.join(' ')"
    )


@pytest.mark.parametrize("name", ["SIM-004", EVIL])
def test_the_map_answers_a_hover(browser, name):
    browser.open("map.html")
    browser.js("document.querySelector('#plot').scrollIntoView({block: 'center'})")
    x, y = browser.pixel(browser.points()[name])
    browser.mouse("mouseMoved", x + 30, y + 30)
    browser.mouse("mouseMoved", x, y)
    words = browser.until(lambda: tooltips(browser))
    mechanism = "<b>bold</b> agonist" if name == EVIL else "kinase inhibitor"
    assert name in words and mechanism in words and "CP wells" in words
    first = nearest_of(browser, METHODS[0], name).iloc[0]
    assert f"{first['neighbour']} ({first['cosine']:.2f})" in words
    assert browser.errors() == []


def test_a_click_chooses_a_compound(browser):
    browser.open("map.html")
    browser.js("document.querySelector('#plot').scrollIntoView({block: 'center'})")
    x, y = browser.pixel(browser.points()["SIM-007"])
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.mouse(kind, x, y, button="left", clickCount=1)
    browser.until(lambda: browser.text("#chosen-name") == "SIM-007")


def test_the_map_answers_a_search_by_keyboard_alone(browser):
    browser.open("map.html")
    browser.js("document.querySelector('#search').focus()")
    box = browser.driver.switch_to.active_element
    box.send_keys("KINASE")
    known = map_points().drop_duplicates("compound")
    with_it = known.loc[known["label"] == "kinase inhibitor", "compound"].tolist()
    browser.until(lambda: browser.texts("#matches a") == with_it)
    assert f"{len(with_it)} compounds found" in browser.text("#found")
    ringed = browser.js("return Bokeh.documents[0].get_model_by_name('found').data.x.length")
    assert ringed == len(with_it)
    box.clear()
    box.send_keys("sim-01")
    browser.until(lambda: browser.texts("#matches a") == [f"SIM-01{digit}" for digit in range(10)])
    box.clear()
    box.send_keys("<script")
    browser.until(lambda: browser.texts("#matches a") == [EVIL])
    browser.press("ENTER")
    browser.until(lambda: browser.text("#chosen-name") == EVIL)
    assert "<b>bold</b> agonist" in browser.text("#chosen-text") and "2 CP wells" in browser.text("#chosen-text")
    browser.until(lambda: browser.js("return document.activeElement.id") == "chosen-name")
    browser.press("TAB")
    neighbour = browser.js("return document.activeElement.textContent")
    assert neighbour == browser.texts("#neighbours a")[0] in compound_names()
    browser.press("ENTER")
    browser.until(lambda: browser.text("#chosen-name") == neighbour)
    browser.driver.back()
    browser.until(lambda: browser.text("#chosen-name") == EVIL)
    box.clear()
    box.send_keys("no such thing")
    browser.until(lambda: "0 compounds found" in browser.text("#found"))
    assert browser.errors() == []


def test_neighbours_are_the_nearest_by_cosine_and_change_with_the_method(browser):
    from selenium.webdriver.support.select import Select

    browser.open(f"map.html#compound={quote('SIM-003')}")
    seen = []
    for number, method in enumerate(METHODS):
        Select(browser.driver.find_element("id", "method")).select_by_value(str(number))
        expected = nearest_of(browser, method, "SIM-003")["neighbour"]
        browser.until(lambda expected=expected: browser.texts("#neighbours a") == expected.tolist())
        places = browser.points()
        assert places == drawn_of(method)
        chosen = browser.js("const d = Bokeh.documents[0].get_model_by_name('chosen').data; return [d.x[0], d.y[0]]")
        assert chosen == places["SIM-003"]
        seen.append(places)
    assert seen[0] != seen[1]
    assert browser.errors() == []


def test_the_table_tells_the_same_without_the_map(browser):
    browser.open("map.html")
    rows = browser.js(
        "return [...document.querySelectorAll('main details tbody tr')]"
        ".map(row => [...row.children].map(cell => cell.textContent))"
    )
    assert sorted(row[0] for row in rows) == sorted(compound_names())
    row = next(row for row in rows if row[0] == "SIM-003")
    for column, method in zip(row[3:], METHODS, strict=True):
        expected = nearest_of(browser, method, "SIM-003").head(3)
        assert column == ", ".join(f"{one.neighbour} ({one.cosine:.2f})" for one in expected.itertuples())
