"""The report: complete, escaped, and without a network."""

import nbformat
import pandas as pd
import pytest

from cpx_utils.provenance import Workspace, run_manifest, write_json
from cpx_utils.report import formula_html, notebook_html, remote_references, write_report

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def run(tmp_path):
    """A run of two stages whose every name from data is an attack."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    run_dir, figures_dir = tmp_path / "run", tmp_path / "figures"
    for stage in ("01_prepare", "07_weigh"):
        workspace = Workspace(stage, str(run_dir), str(figures_dir))
        fig = plt.figure(figsize=(1, 1))
        workspace.figure(fig, f"{stage[:2]}_map", pd.DataFrame({"x": [1]}), f"Caption {EVIL}")
        plt.close(fig)
        if stage == "01_prepare":
            endpoints = pd.DataFrame({"endpoint": ["replicates", "moa"], "testable": [False, True]})
            workspace.write(endpoints.assign(reason=["no replicates " + EVIL, ""]), "tables/testability.csv")
            source = {"file": EVIL, "address": "https://example.org/a", "verified": False, "bytes": 3}
            write_json(workspace.output_file("screen.json"), {"notes": [EVIL], "sources": [source]})
        else:
            claims = pd.DataFrame(
                {"screen": EVIL, "claim": [1, 2], "endpoint": EVIL, "method": EVIL, "reference": ["raw_cp", ""],
                 "effect": [0.12345678, None], "ci_low": 0.1, "ci_high": 0.2, "verdict": ["supported", ""],
                 "reason": ["for " + EVIL, ""]}
            )  # fmt: skip
            workspace.write(claims, "tables/claims.csv")
        workspace.say(f"**Learned** {EVIL}")
        workspace.finish()
        cells = [nbformat.v4.new_markdown_cell(f"# {stage}\n\n$x^2$"), nbformat.v4.new_code_cell("1")]
        (run_dir / "notebooks").mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), run_dir / "notebooks" / f"{stage}.ipynb")
    manifest = run_manifest(run_dir, dataset="simulated", profile="smoke", seed=0, threads=1, unverified=False)
    write_json(run_dir / "manifest.json", manifest)
    return run_dir, figures_dir


def test_the_index_shows_everything_escaped(run):
    index = write_report(*run)
    page = index.read_text(encoding="utf-8")
    assert "<script" not in page and page.count("&lt;script&gt;") >= 8
    for expected in (
        "0.1235",
        'class="verdict">supported',
        "where TX excels and CP does not",
        "<li><b>Learned</b> &lt;script",
        "against raw_cp +0.123 [+0.100, +0.200]",
        '<a href="notebooks/01_prepare.html">01_prepare</a>',
        "no replicates",
        "says nothing\nabout biology",
        "--unverified",
        "numpy==",
    ):
        assert expected in page
    assert ">moa:" not in page  # only what can't be tested is listed
    assert page.count('class="claim"') == 1  # the other row is no claim's primary comparison
    assert "prefers-color-scheme: dark" in page and '"Segoe UI"' in page
    for link in ("notebooks/01_prepare.html", "notebooks/07_weigh.html", "figures/07_map.png"):
        assert link in page and (index.parent / link).is_file()
    assert remote_references(index.parent) == []


def test_pages_lead_to_each_other(run):
    folder = write_report(*run).parent / "notebooks"
    first = (folder / "01_prepare.html").read_text(encoding="utf-8")
    last = (folder / "07_weigh.html").read_text(encoding="utf-8")
    assert 'rel="next" href="07_weigh.html"' in first and 'rel="prev"' not in first
    assert 'rel="prev" href="01_prepare.html"' in last and 'rel="next"' not in last
    assert 'href="../index.html"' in first and "<math" in first


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
