"""The report: complete, escaped, and without a network."""

import re

import nbformat
import pytest
from small_report import EVIL, STAGES, write_run

from cpx_utils import report
from cpx_utils.provenance import Workspace, read_json, sha256_file, write_json
from cpx_utils.report import formula_html, notebook_html, remote_references, write_report


@pytest.fixture
def run(tmp_path):
    """A run of three stages whose every name from data is an attack."""
    return write_run(tmp_path)


def test_the_index_shows_everything_escaped(run):
    index = write_report(*run)
    page = index.read_text(encoding="utf-8")
    assert "<script" not in page and page.count("&lt;script&gt;") >= 8
    for expected in (
        "0.1235",
        'class="verdict">supported',
        "where TX excels and CP does not",
        "<li><b>Learned</b> &lt;script",
        "against raw CP, gain +0.123 [+0.100, +0.200]",
        "Of 2 claims, 1 is supported, 1 explained without TX.",
        '<a href="notebooks/01_prepare.html#cell-id=the-figure">its notebook</a>',
        'alt="Found: &lt;script',
        'href="figures/01_map.csv"',
        "<td>map</td>",
        "no replicates",
        "says nothing\nabout biology",
        "--unverified",
        "numpy==",
    ):
        assert expected in page
    assert ">moa:" not in page  # only what can't be tested is listed
    assert page.count('<li class="claim') == 2  # the third row is no claim's primary comparison
    assert "prefers-color-scheme: dark" in page and '"Segoe UI"' in page
    for link in ("notebooks/01_prepare.html", "notebooks/07_weigh.html", "figures/07_claims.png", "map.html"):
        assert link in page and (index.parent / link).is_file()
    local = [link for link in re.findall(r'(?:href|src)="([^"#]+)', page) if not link.startswith("http")]
    assert [link for link in local if not (index.parent / link).is_file()] == []
    assert remote_references(index.parent) == []


def test_a_comparison_says_against_what_and_how_sure():
    row = {"endpoint": "moa_map", "method": "contrastive", "reference": "deranged", "value_method": 0.25,
           "value_reference": 0.3, "effect": -0.05, "ci_low": -0.125, "ci_high": 0.025}  # fmt: skip
    said = report._comparison(row)
    assert said.endswith(": contrastive 0.250 against itself on deranged pairs 0.300, gain −0.050 [−0.125, +0.025]")
    assert "against LDA on identity (no TX) 0.300" in report._comparison(row | {"reference": "lda_identity"})


def test_pages_lead_to_each_other(run):
    folder = write_report(*run).parent / "notebooks"
    first = (folder / "01_prepare.html").read_text(encoding="utf-8")
    last = (folder / "07_weigh.html").read_text(encoding="utf-8")
    assert 'rel="next" href="05_cluster.html">05 What lies together?' in first and 'rel="prev"' not in first
    assert 'rel="prev" href="05_cluster.html"' in last and 'rel="next"' not in last
    assert 'href="../index.html"' in first and "<math" in first
    for stage in STAGES:
        assert f'href="../notebooks/{stage}.html"' in first


def test_a_run_without_a_map_has_no_page_and_no_link_for_it(run):
    (run[0] / "tables" / "map.csv").write_text("method,compound,x,y,label\n")
    index = write_report(*run)
    assert not (index.parent / "map.html").exists()
    assert all("map.html" not in page.read_text(encoding="utf-8") for page in index.parent.rglob("*.html"))


def test_every_page_forbids_what_comes_from_elsewhere(run):
    for page in write_report(*run).parent.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert f'http-equiv="Content-Security-Policy" content="{report.POLICY.replace(chr(39), "&#39;")}' in text
        assert ("script-src" in text.partition("<title>")[0]) == (page.name == "map.html")


def test_pictures_without_words_say_so_and_others_keep_theirs():
    picture = {"image/png": "iVBORw0KGgo="}
    named = nbformat.v4.new_output("display_data", data=picture, metadata={"image/png": {"alt": "It <rises>"}})
    page = page_of("", [named, nbformat.v4.new_output("display_data", data=picture)])
    assert 'alt="It &lt;rises&gt;"' in page and f'alt="{report.NO_WORDS}"' in page


def test_the_report_is_made_again_only_when_what_it_shows_changed(run):
    index = write_report(*run)
    before = index.stat().st_mtime_ns
    assert write_report(*run).stat().st_mtime_ns == before
    workspace = Workspace("07_weigh", *map(str, run))
    workspace.say("Something else.")
    workspace.finish()
    assert "Something else." in write_report(*run).read_text(encoding="utf-8")
    index.unlink()
    assert write_report(*run).is_file()


def contents(folder):
    """Bytes of a report; Bokeh numbers what is on its map anew each time."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("map.html", report.STAMP)
    }


def test_a_damaged_report_is_made_again_and_a_failure_leaves_the_old_one(run, monkeypatch):
    folder = write_report(*run).parent
    before = contents(folder)
    for name in ("index.html", "figures/07_claims.png", report.STAMP):
        (folder / name).write_bytes((folder / name).read_bytes()[:-9])
        write_report(*run)
        assert contents(folder) == before
    (folder / "notebooks" / "01_prepare.html").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(report, "_write_notebook_pages", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_report(*run)
    assert (folder / "index.html").is_file(), "the old one is still there"
    assert [path.name for path in run[0].iterdir() if path.name.startswith(".")] == []
    write_report(*run)
    assert contents(folder) == before


def test_figures_and_notebooks_that_are_not_what_was_recorded_are_not_shown(run):
    run_dir, figures_dir = run
    (figures_dir / "01_map.csv").write_text("drawn by another profile")
    executed = run_dir / "notebooks" / "05_cluster.ipynb"
    path = run_dir / "stages" / "05_cluster.json"
    write_json(path, read_json(path) | {"run": {"notebook": sha256_file(executed)}})
    index = write_report(*run)
    page = index.read_text(encoding="utf-8")
    assert '<figure id="01_map">' not in page and '<figure id="07_claims">' in page
    assert (index.parent / "notebooks" / "05_cluster.html").is_file()
    executed.write_text("damaged")
    index.unlink()
    write_report(*run)
    assert sorted(path.stem for path in (index.parent / "notebooks").iterdir()) == ["01_prepare", "07_weigh"]


def page_of(markdown="", outputs=()):
    code = nbformat.v4.new_code_cell("x", outputs=list(outputs))
    return notebook_html(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown), code]))


def test_formulas_become_mathml_and_money_and_code_stay():
    page = page_of(
        "Let $s_{ij} * t * u$ and\n\n$$\\sum_i x_i$$\n\nIt costs $5 and $6; `$y$`.\n\n```\n$z$\n```\n\\$n\\$"
    )
    assert page.count("<math") == 2 and 'display="block"' in page
    assert "<em>" not in page and "xformulax" not in page
    for kept in ("$5 and $6", "$y$", "$z$"):
        assert kept in page


@pytest.mark.parametrize(
    "tex",
    [
        r"\lVert x \rVert_2^2",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\underset{k}{\arg\max}\ \tfrac{1}{n}",
        r"\mathcal{L} = -\frac{1}{n} \sum_{i=1}^{n} \log \frac{\exp(s_{ii}/\tau)}{\sum_j \exp(s_{ij}/\tau)}",
        r"\hat{W} = (X^\top X + \alpha I)^{-1} X^\top Y",
        r"\begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}",
        r"\Sigma^{-1/2}, \quad \mathbb{E}[x], \mathbf{z} \in \mathbb{R}^d",
    ],
)
def test_formulas_of_the_study_can_be_shown(tex):
    from xml.etree import ElementTree

    formula = formula_html(tex, block=True)
    assert ElementTree.fromstring(formula).tag.endswith("math")


@pytest.mark.parametrize("tex", [r"\nosuchcommand{<b>}", r"\frac{a", r"\left( x"])
def test_formulas_that_cannot_be_converted_are_shown_as_escaped_code(tex):
    formula = formula_html(tex)
    assert formula.startswith(("<code>", "<math")) and "<b>" not in formula


def test_scripts_widgets_and_remote_pictures_are_left_out():
    data = {
        "text/html": f'<b>kept</b>{EVIL}<img src="https://example.org/a.png"><img src="data:image/png;base64,//8=">',
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
        "application/javascript": "alert(1)",
        "text/plain": "plain",
    }
    page = page_of("![far](https://example.org/b.png)", [nbformat.v4.new_output("display_data", data=data)])
    assert "<b>kept</b>" in page and "base64,//8=" in page
    assert "example.org" not in page and "alert" not in page


def test_remote_references_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<script src="https://cdn.example/x.js"></script><a href="https://fine.example">fine</a>'
        '<link href="//cdn.example/y.css"><style>@import "https://z.example/z.css";</style>'
    )
    assert remote_references(tmp_path) == [
        "a.html: https://cdn.example/x.js", "a.html: //cdn.example/y.css", "a.html: https://z.example/z.css",
    ]  # fmt: skip
