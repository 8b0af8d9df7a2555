"""The report: complete, escaped, without a network, and as a browser shows it.

The last part needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver). Without them it is
skipped, unless CPX_REQUIRE_BROWSER is set, as .ci/run does: then it fails.
"""

import html
import json
import os
import re
import shutil
import time
from html.parser import HTMLParser

import nbformat
import pytest
from small_report import COMPOUNDS, EVIL_NAMES, METHODS, STAGES, write_run

from cpx_utils import report
from cpx_utils.provenance import read_json, write_json
from cpx_utils.report import formula_html, notebook_html, write_report

PAGES = ["index.html", "map.html", *(f"notebooks/{stage}.html" for stage in STAGES)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose every name from data is an attack: run and figures folder, manifest."""
    return write_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def written(finished):
    """Folder of its report."""
    return write_report(*finished).parent


@pytest.fixture
def run(finished, written, tmp_path):
    """A copy of that run with its report, to be spoiled: run and figures folder, manifest."""
    *folders, manifest = finished
    return [*(shutil.copytree(folder, tmp_path / folder.name) for folder in folders), manifest]


class Parsed(HTMLParser):
    """Text of a page, and whatever in it would run or load something."""

    def __init__(self, page):
        super().__init__()
        self.text, self.active, self.links = "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "iframe", "object", "embed", "link", "svg", "base", "form", "style"):
            self.active.append(tag)
        for name, value in attributes:
            self.links += [value] if name in ("src", "href") else []
            forbidden = r"\s*(javascript|data:text|vbscript)" + r"|\s*(https?:)?//" * (tag != "a")
            if name.startswith("on") or re.match(forbidden, value or "", re.IGNORECASE):
                self.active.append(f"{tag} {name}")

    def handle_data(self, data):
        self.text += data


def words(text):
    return " ".join(text.split())


def test_the_index_shows_everything(written):
    page = (written / "index.html").read_text(encoding="utf-8")
    for expected in (
        "<td>1. where TX excels and CP does not",
        "<td>holds</td>\n      <td>shown</td>\n      <td>supported</td>",
        "<li><b>Learned</b> &lt;script",
        '<a href="notebooks/01_prepare.html">its notebook</a>',
        'href="figures/01_map.csv"',
        "<td>map</td>",
        "Not testable, replicates: no replicates",
        "says nothing\nabout biology",
        "numpy==",
    ):
        assert expected in page
    verdicts = page.partition('aria-label="Verdicts"')[2].partition("</table>")[0]
    assert verdicts.count("<tr") == 3, "the third row is no verdict"
    assert page.index('id="claims"') < page.index('id="notes"') < page.index('id="figures"') < page.index("timings")


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_whole_and_names_from_data_are_text(written, page):
    text = (written / page).read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert parsed.active == ["style"] + ["script"] * (page == "map.html") * (len(parsed.active) - 1)
    for name in EVIL_NAMES:
        assert words(name) in words(parsed.text)
    assert f'content="{report.POLICY.replace(chr(39), "&#39;")}' in text
    local = {link.partition("#")[0] for link in parsed.links if not link.startswith(("https:", "data:image/"))} - {""}
    assert [link for link in local if not (written / page).parent.joinpath(link).is_file()] == []


def table_of_map(folder):
    """The cells of the table on the map's page, by compound."""
    table = (folder / "map.html").read_text(encoding="utf-8").partition("<table")[2].partition("</table>")[0]
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("</tr>")[:-1]]
    rows = [[words(html.unescape(cell)) for cell in row] for row in cells]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


def test_the_map_names_neighbours_of_every_compound(written, run, monkeypatch):
    table = table_of_map(written)
    assert sorted(table) == sorted(map(words, COMPOUNDS))
    assert table["SIM-000"]["mechanisms"] == "<b>bold</b> agonist"
    nearest = [f"{COMPOUNDS[-rank]} ({1 - rank / 10:.2f})" for rank in (1, 2, 3)]
    assert table["SIM-003"]["nearest by contrastive (cosine)"] == words(", ".join(nearest))
    monkeypatch.setattr(report, "MAX_SHOWN", 12)
    text = write_report(*run).with_name("map.html").read_text(encoding="utf-8")
    assert f"Of {len(COMPOUNDS)} test compounds, 12 are drawn" in text
    assert set(table_of_map(run[0] / "report")) > set(map(words, COMPOUNDS[::4])), "those of a named mechanism first"


def test_what_is_missing_or_not_what_was_recorded_is_not_shown(run):
    run_dir, figures_dir, _ = run
    (run_dir / "tables" / "map.csv").write_text("method,compound,x,y,label\n")
    (figures_dir / "01_map.csv").write_text("drawn by another profile")
    record = run_dir / "stages" / "05_cluster.json"
    write_json(record, read_json(record) | {"run": {"notebook": "0" * 64}})
    page = write_report(*run).read_text(encoding="utf-8")
    assert '<figure id="01_map">' not in page and '<figure id="07_map">' in page
    written = {path.relative_to(run_dir / "report").as_posix() for path in (run_dir / "report").rglob("*.html")}
    assert written == {*PAGES} - {"map.html", "notebooks/05_cluster.html"} and "map.html" not in page


# --- notebooks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tex",
    [
        r"\lVert x \rVert_2^2",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\mathcal{L} = -\tfrac{1}{n} \sum_{i=1}^{n} \log \frac{\exp(s_{ii}/\tau)}{\sum_j \exp(s_{ij}/\tau)}",
        r"\hat{W} = (X^\top X + \alpha I)^{-1} X^\top Y",
        r"\begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}",
        r"\Sigma^{-1/2}, \quad \mathbb{E}[x], \mathbf{z} \in \mathbb{R}^d",
    ],
)
def test_formulas_become_mathml_and_code_stays(tex):
    cell = nbformat.v4.new_markdown_cell(f"Let\n\n$${tex}$$\n\nand $a * b * c$; `$y$`.\n\n```\n$z$\n```")
    page = notebook_html(nbformat.v4.new_notebook(cells=[cell]))
    assert page.count("<math") == page.count("</math>") == 2 and page.count('display="block"') == 1
    assert "$y$" in page and "$z$" in page and "<em>" not in page and "\\" not in page
    assert formula_html(r"\nosuchcommand{<b>}").startswith("<code>") and "<b>" not in formula_html(r"\left( <b>")


def test_scripts_widgets_and_pictures_from_elsewhere_are_left_out_and_own_ones_kept(tmp_path):
    (tmp_path / "diagrams").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "diagrams" / "a.png").write_bytes(b"own")
    pictures = '<img src="https://example.org/a.png"><img src="data:image/png;base64,//8=">'
    rich = f'<b onclick="x">kept</b>{EVIL_NAMES[0]}{pictures}'
    data = {"text/html": rich, "text/plain": "plain"}
    script = {"application/javascript": "alert(1)", "text/plain": "plain"}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "alert"}, "text/plain": "bar"}
    outputs = [
        *(nbformat.v4.new_output("display_data", data=shown) for shown in (data, script, widget)),
        nbformat.v4.new_output(
            "display_data", data={"image/png": "AAAA"}, metadata={"image/png": {"alt": "It <rises>"}}
        ),
        nbformat.v4.new_output("stream", name="stderr", text="\r10%|# | 1/9\r99%|## | 9/9\nWarning: mind"),
    ]
    prose = "![far](https://example.org/b.png) ![own](a.png) ![outside](../secret.png) [bad](javascript:alert(1))"
    cells = [nbformat.v4.new_markdown_cell(prose), nbformat.v4.new_code_cell("x", outputs=outputs)]
    page = notebook_html(nbformat.v4.new_notebook(cells=cells), tmp_path / "diagrams")
    for kept in ("<b>kept</b>", "base64,//8=", "base64,b3du", 'alt="It &lt;rises&gt;"', "Warning: mind"):
        assert kept in page
    for left_out in ("example.org", "alert", "%|", "c2VjcmV0", "secret.png"):
        assert left_out not in page


# --- as a browser shows it ----------------------------------------------------------------------------------

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
needs_browser = pytest.mark.skipif(
    None in PROGRAMS.values() and not os.environ.get("CPX_REQUIRE_BROWSER"),
    reason="no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)


@pytest.fixture(scope="module")
def browser(written, tmp_path_factory):
    """Headless Chromium; `open` shows a page of the report, `until` waits for what a script returns."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"]
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-dev-shm-usage",
                 f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(PROGRAMS["chromedriver"]))

    def open_page(page, width=1400):
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        for kind in ("browser", "performance"):
            driver.get_log(kind)  # asking empties it
        driver.get((written / page).as_uri())

    def until(code, *values):
        end = time.monotonic() + 60  # a runner whose cores are busy is slow
        while not (value := driver.execute_script(f"return {code}", *values)):
            assert time.monotonic() < end, f"waited in vain for {code}"
            time.sleep(0.05)
        return value

    driver.open, driver.until = open_page, until
    yield driver
    driver.quit()


@needs_browser
@pytest.mark.parametrize("page", PAGES)
def test_pages_open_without_an_error_or_a_request_to_elsewhere_and_fit_their_window(browser, page):
    for width in (400, 1400):
        browser.open(page, width)
        browser.until("[...document.images].every(e => e.complete && e.naturalWidth > 0 && e.alt)")
        if page == "map.html":
            browser.until("Boolean(window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle)")
        browser.execute_script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        assert browser.execute_script("return document.scrollingElement.scrollWidth") <= width
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith(page) for url in urls)
    assert [url for url in urls if not url.startswith(("file:", "data:", "about:", "blob:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


# The boxes at the pointer, which Bokeh keeps in shadow trees
TOOLTIPS = """(() => { const found = []; const look = root => root.querySelectorAll('*').forEach(e => {
  if (e.classList.contains('bk-Tooltip') && e.checkVisibility()) found.push(e.shadowRoot.textContent);
  if (e.shadowRoot) look(e.shadowRoot); }); look(document); return found.join(' '); })()"""
PIXEL = """(() => { const tabs = Bokeh.index.roots[0]; const tab = tabs.child_views[arguments[0]];
  if (!tab || !tab.frame || !tab.frame.x_scale) return null;
  tab.el.scrollIntoView({block: 'center'});
  const { x, y } = tab.canvas_view.el.getBoundingClientRect(); const at = tab.model.renderers[0].data_source.data;
  const row = [...at.compound].indexOf(arguments[1]); const name = arguments[2];
  return [x + tab.frame.x_scale.compute(at['x ' + name][row]), y + tab.frame.y_scale.compute(at['y ' + name][row])];
})()"""


@needs_browser
@pytest.mark.parametrize("name", ["SIM-000", EVIL_NAMES[0]])
def test_the_map_answers_a_pointer_and_marks_a_chosen_compound_under_every_tab(browser, name):
    browser.open("map.html")
    x, y = browser.until(PIXEL, 0, name, METHODS[0])
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.execute_cdp_cmd(
            "Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        )
    shown = words(browser.until(TOOLTIPS))
    assert name in shown and words(f"{COMPOUNDS[-1]} (0.90)") in shown
    assert ("<b>bold</b> agonist" in shown) == (name == "SIM-000")
    chosen = "Bokeh.index.roots[0].child_views.map(tab => tab.model.renderers[0].data_source.selected.indices.length)"
    browser.until(f"String({chosen}) === '1,1'")
