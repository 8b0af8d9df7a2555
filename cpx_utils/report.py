"""The report of a run: one folder of plain HTML pages that opens anywhere, without a network or JavaScript.

`index.html` shows verdicts, figures, what was learned, what couldn't be tested and where all of it comes
from; each executed notebook is a page of its own. Formulas become MathML, which browsers show by themselves.
"""

import copy
import functools
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from cpx_utils.provenance import atomic_path, read_json, sha256_file, stage_records, write_json

PAGES_FOLDER = "notebooks"
FIGURES_FOLDER = "figures"

STYLE = """
:root { --ink: #1d2530; --soft: #5b6675; --page: #ffffff; --card: #f5f7f9; --line: #d9dfe6; --link: #0b5cad;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --soft: #9fabb9; --page: #14181d;
  --card: #1d2329; --line: #343d47; --link: #7db7f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.2rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.4rem; }
h1, h2, h3 { text-wrap: balance; } a { color: var(--link); } .soft { color: var(--soft); }
nav { display: flex; justify-content: space-between; gap: .3rem 1rem; flex-wrap: wrap; margin: 1rem 0; }
nav.sections { justify-content: flex-start; } ul.plain { list-style: none; padding: 0; } .plain li { margin: .3rem 0; }
.wide, .rendered_html { overflow-x: auto; }
table, table.dataframe { border-collapse: collapse; border: 0; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border: 0; border-bottom: 1px solid var(--line); vertical-align: top;
  text-align: left !important; max-width: 26rem; overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; }
details td { white-space: nowrap; }
.claim { margin: .8rem 0; padding: .7rem 1rem; background: var(--card); border-radius: .5rem; }
.claim p { margin: .2rem 0; } .verdict { font-weight: 700; } .claim .verdict { float: right; margin-left: 1rem; }
figure { margin: 1.5rem 0; padding: 1rem; background: var(--card); border-radius: .5rem; }
figure img { background: #fff; border-radius: .3rem; } img { max-width: 100%; height: auto; }
figcaption { margin-top: .6rem; font-size: .92rem; }
.notice { border-left: .3rem solid var(--link); padding: .5rem 1rem; background: var(--card); }
pre { overflow-x: auto; background: var(--card); padding: .7rem .9rem; border-radius: .4rem;
  font-size: .85rem; line-height: 1.45; }
code { font-size: .9em; } details { margin: .6rem 0; } summary { cursor: pointer; }
.anchor-link { visibility: hidden; text-decoration: none; margin-left: .3rem; }
h1:hover .anchor-link, h2:hover .anchor-link, h3:hover .anchor-link { visibility: visible; }
.prompt { color: var(--soft); font: .75rem ui-monospace, monospace; }
.output_area { overflow-x: auto; margin: .8rem 0; } .output_stderr pre { color: var(--soft); }
.output_png img { background: #fff; border-radius: .3rem; } math[display="block"] { margin: .8rem 0; }
@media print { nav { display: none; } body { max-width: none; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
{% block body %}{% endblock %}
</body>
</html>
"""

NOTEBOOK_PAGE = """{% extends "page" %}{% block body %}
{% macro way() %}<nav>
<span>{% if before %}<a rel="prev" href="{{ before }}.html">&larr; {{ before }}</a>{% endif %}</span>
<a href="../index.html">Report</a>
<span>{% if after %}<a rel="next" href="{{ after }}.html">{{ after }} &rarr;</a>{% endif %}</span>
</nav>{% endmacro %}
{{ way() }}
<main>{{ content }}</main>
{{ way() }}
{% endblock %}
"""

INDEX_PAGE = """{% extends "page" %}{% block body %}
<h1>{{ title }}</h1>
<p class="soft">Does training on paired Cell Painting (CP) and transcriptomics (TX) profiles make the CP
profile of a new compound, for which no TX exists, more useful? Profile {{ manifest.profile }},
seed {{ manifest.seed if manifest.seed is not none else "by notebook" }}.</p>
{% if simulated %}<p class="notice">This screen is simulated: it shows that the study works and says nothing
about biology.</p>{% endif %}
{% if manifest.unverified %}<p class="notice">This run used files whose hash isn't the registry's
(<code>--unverified</code>): its numbers may differ from those of the published files.</p>{% endif %}
<nav class="sections">{% if verdicts %}<a href="#claims">Claims</a>{% endif %}
{% if learned %}<a href="#learned">What we learn</a>{% endif %}
<a href="#figures">Figures</a> <a href="#notebooks">Notebooks</a> <a href="#provenance">Where it comes from</a></nav>
{% if verdicts %}<h2 id="claims">Claims</h2>
<p>The gain of training with TX over the reference, with a 95% interval, and what follows from it.</p>
{% for claim in verdicts %}<div class="claim"><p class="verdict">{{ claim.verdict }}</p>
<p><b>{{ claim.claim }}.</b> {{ claim.text }}</p>
<p>{{ claim.numbers }}</p>{% if claim.reason %}<p class="soft">{{ claim.reason }}</p>{% endif %}</div>
{% endfor %}
<details><summary>All comparisons</summary>{{ comparisons | table }}</details>{% endif %}
{% if untestable %}<h2 id="testability">Not testable on this screen</h2>
<ul>{% for row in untestable %}<li>{{ row.endpoint }}: {{ row.reason }}</li>
{% endfor %}</ul>{% endif %}
{% if learned %}<h2 id="learned">What we learn</h2>
{% for stage, sentences in learned %}<h3><a href="notebooks/{{ stage }}.html">{{ questions.get(stage, stage) }}</a></h3>
<ul>{% for sentence in sentences %}<li>{{ sentence | emphasised }}</li>
{% endfor %}</ul>
{% endfor %}{% endif %}
<h2 id="figures">Figures</h2>
{% for figure in figures %}<figure id="{{ figure.name }}">
<img src="figures/{{ figure.name }}.png" alt="{{ figure.caption }}" loading="lazy">
<figcaption><a href="notebooks/{{ figure.stage }}.html">{{ figure.name }}</a>.
{{ figure.caption }}</figcaption>
</figure>
{% else %}<p>This run made none.</p>{% endfor %}
<h2 id="notebooks">Notebooks</h2>
<ul class="plain">
{% for stage, question in questions.items() %}<li><a href="notebooks/{{ stage }}.html">{{ question }}</a></li>
{% endfor %}</ul>
<h2 id="provenance">Where it comes from</h2>
{% if notes %}<ul>{% for note in notes %}<li>{{ note }}</li>
{% endfor %}</ul>{% endif %}
{% if sources is not none %}{{ sources | table }}{% endif %}
<p>Python {{ manifest.python }}, {{ manifest.platform }}, device {{ manifest.device }},
{{ manifest.threads_per_stage }} thread a notebook{% if manifest.git %}, commit {{ manifest.git.commit }}
{%- if manifest.git.dirty %} with uncommitted changes{% endif %}{% endif %}.</p>
{{ timings | table }}
<details><summary>Parameters of each notebook</summary>
{% for stage, part in manifest.stages.items() %}<h3>{{ stage }}</h3>
<pre>{% for name, value in part.parameters.items() %}{{ name }} = {{ value | literal }}
{% endfor %}</pre>
{% endfor %}</details>
<details><summary>Packages</summary>
<pre>{% for name, version in manifest.packages.items() %}{{ name }}=={{ version }}
{% endfor %}</pre></details>
{% endblock %}
"""


def write_report(run_dir: str | Path, figures_dir: str | Path) -> Path:
    """Write the report of a finished run, unless the one there was made from the same files.

    Parameters
    ----------
    run_dir
        Folder of the run: stage records, manifest.json, executed notebooks, tables/claims.csv where there are
        claims.
    figures_dir
        Folder of its pictures.

    Returns
    -------
    pathlib.Path
        `run_dir/report/index.html`.
    """
    from markupsafe import Markup

    run_dir, figures_dir = Path(run_dir), Path(figures_dir)
    report = run_dir / "report"
    made_from = _inputs(run_dir)
    stamp = report / ".made_from.json"
    index = report / "index.html"
    if index.is_file() and stamp.is_file() and read_json(stamp) == made_from:
        return index
    if report.exists():
        shutil.rmtree(report)
    records = stage_records(run_dir)
    figures = [
        figure | {"stage": stage}
        for stage, record in records.items()
        for figure in record["figures"]
        # made into another folder, when the call before had other --figures
        if (figures_dir / f"{figure['name']}.png").is_file()
    ]
    (report / FIGURES_FOLDER).mkdir(parents=True)
    for figure in figures:
        name = figure["name"] + ".png"
        shutil.copyfile(figures_dir / name, report / FIGURES_FOLDER / name)
    templates = _templates()
    questions = _write_notebook_pages(run_dir, report / PAGES_FOLDER, templates)
    content = _index_content(run_dir, records) | {"figures": figures, "questions": questions}
    with atomic_path(index) as temporary:
        page = templates.get_template("index").render(style=Markup(STYLE), **content)
        temporary.write_text(page, encoding="utf-8")
    write_json(stamp, made_from)
    return index


def _inputs(run_dir: Path) -> dict[str, str]:
    """Return the hashes of what the report is made from; a stage's record stands for its figures."""
    files = [*sorted((run_dir / "stages").glob("*.json")), run_dir / "tables" / "claims.csv", Path(__file__)]
    # The manifest's own time-bound parts follow from the records.
    return {path.name: sha256_file(path) for path in files if path.is_file()}


def _templates() -> Any:
    """Return the jinja2 environment: everything that comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        loader=jinja2.DictLoader({"page": PAGE, "notebook": NOTEBOOK_PAGE, "index": INDEX_PAGE}),
    )
    environment.filters["table"] = _table
    environment.filters["emphasised"] = _emphasised
    environment.filters["literal"] = repr
    return environment


def _table(frame: pd.DataFrame) -> Any:
    """Return a table as HTML: numbers with three or four digits, missing ones as nothing."""
    from markupsafe import Markup

    text = frame.to_html(index=False, na_rep="", float_format="%.4g", border=0, classes="", escape=True)
    return Markup(f'<div class="wide">{text}</div>')


def _emphasised(sentence: str) -> Any:
    """Return a sentence as HTML, escaped, with Markdown's **bold** and `code` as such."""
    from markupsafe import Markup, escape

    bold = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(sentence)))
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", bold))


def _index_content(run_dir: Path, records: dict[str, dict]) -> dict:
    """Gather what the index shows besides figures."""
    manifest = read_json(run_dir / "manifest.json")
    screen = read_json(run_dir / "screen.json") if (run_dir / "screen.json").is_file() else {}
    testability = run_dir / "tables" / "testability.csv"
    untestable = []
    if testability.is_file():
        frame = pd.read_csv(testability)
        untestable = frame[~frame["testable"]].to_dict("records")
    timings = [
        {"notebook": stage, "seconds": part["seconds"], "peak MB": part["peak_mb"]}
        for stage, part in manifest["stages"].items()
    ]
    columns = ["file", "address", "bytes", "sha256", "verified", "licence", "citation"]
    sources = screen.get("sources", [])
    return {
        "title": f"cpx on the {manifest['dataset']} screen",
        "manifest": manifest,
        "simulated": manifest["dataset"] == "simulated",
        "untestable": untestable,
        "learned": [(stage, record["learned"]) for stage, record in records.items() if record["learned"]],
        "notes": screen.get("notes", []),
        "sources": pd.DataFrame(sources).reindex(columns=columns) if sources else None,
        "timings": pd.DataFrame(timings),
        **_claims(run_dir / "tables" / "claims.csv"),
    }


def _claims(path: Path) -> dict:
    """Return the claims' verdicts, each with its primary comparison in words, and all comparisons."""
    from cpx_utils.claims import CLAIM_TEXTS

    if not path.is_file():
        return {"verdicts": [], "comparisons": None}
    claims = pd.read_csv(path)
    verdicts = []
    for row in claims[claims["verdict"].notna()].fillna({"reason": "", "reference": ""}).itertuples():
        numbers = f"{row.endpoint}: {row.method}"
        if row.reference:
            numbers += f" against {row.reference}"
        if not pd.isna(row.effect):
            numbers += f" {row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
        text = CLAIM_TEXTS.get(row.claim, "")
        verdict = {"claim": row.claim, "text": text, "verdict": row.verdict, "numbers": numbers, "reason": row.reason}
        verdicts.append(verdict)
    return {"verdicts": verdicts, "comparisons": claims.drop(columns=["screen", "reason"])}


# --- notebooks as pages -------------------------------------------------------------------------------------


def _write_notebook_pages(run_dir: Path, folder: Path, templates: Any) -> dict[str, str]:
    """Write each executed notebook as a page that leads to those beside it; return stage to first heading."""
    import nbformat
    from markupsafe import Markup
    from pygments.formatters import HtmlFormatter

    folder.mkdir(parents=True)
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    style = "\n".join(
        [
            STYLE,
            HtmlFormatter(style="default").get_style_defs(".highlight"),
            "@media (prefers-color-scheme: dark) {",
            dark,
            "}",
            ".highlight, .highlight pre { background: var(--card); }",
        ]
    )
    paths = [run_dir / "notebooks" / f"{stage}.ipynb" for stage in stage_records(run_dir)]
    stages = [path.stem for path in paths if path.is_file()]
    questions = {}
    for before, stage, after in zip(["", *stages], stages, [*stages[1:], ""], strict=False):
        notebook = nbformat.read(run_dir / "notebooks" / f"{stage}.ipynb", as_version=4)
        headings = [cell.source for cell in notebook.cells if cell.source.startswith("# ")]
        questions[stage] = headings[0].partition("\n")[0].lstrip("# ") if headings else stage
        page = templates.get_template("notebook").render(
            title=questions[stage],
            style=Markup(style),
            content=Markup(notebook_html(notebook)),
            before=before,
            after=after,
        )
        (folder / f"{stage}.html").write_text(page, encoding="utf-8")
    return questions


@functools.cache
def _exporter() -> Any:
    """Return what turns a notebook into a piece of HTML without page, scripts or styles."""
    from nbconvert import HTMLExporter

    return HTMLExporter(template_name="basic")


def notebook_html(notebook: Any) -> str:
    """Return an executed notebook as a piece of HTML that needs no network and no JavaScript.

    Parameters
    ----------
    notebook
        An nbformat version 4 notebook; it isn't changed.

    Returns
    -------
    str
        Formulas are MathML; scripts, widgets, progress bars and pictures from elsewhere are left out.
    """
    notebook = copy.deepcopy(notebook)
    formulas: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _hide_formulas(cell.source, formulas)
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                lines = re.split(r"[\r\n]+", output.text)
                output.text = "\n".join(line for line in lines if "%|" not in line).strip()
            data = output.get("data", {})
            for kind in [kind for kind in data if "javascript" in kind or "widget" in kind]:
                del data[kind]
            if "text/markdown" in data:
                data["text/markdown"] = _hide_formulas("".join(data["text/markdown"]), formulas)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
    page, _ = _exporter().from_notebook_node(notebook)
    page = re.sub(r"<script\b.*?</script\s*>", "", page, flags=re.IGNORECASE | re.DOTALL)
    page = re.sub(r"<link\b[^>]*>", "", page, flags=re.IGNORECASE)
    page = re.sub(
        r"<(img|iframe|video|audio|source|embed|object)\b[^>]*?\b(?:src|data)\s*=\s*[\"']?(?:https?:)?//[^>]*>",
        "",
        page,
        flags=re.IGNORECASE,
    )
    return re.sub(r"xformulax(\d+)x", lambda match: formulas[int(match[1])], page)


# Code in fences or between backticks is left alone; then $$...$$ and $...$ as pandoc understands them: a
# single dollar opens before a character and closes after one, so that "$5 and $6" stays money.
_FORMULA = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)|(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
    r"|\$\$(?P<block>.+?)\$\$"
    r"|(?<![\\$])\$(?=[^\s$])(?P<line>(?:\\.|[^$\\`])*?(?:\\.|[^\s\\$`]))\$(?![\d$])",
    flags=re.DOTALL | re.MULTILINE,
)


def _hide_formulas(source: str, formulas: list[str]) -> str:
    """Replace the formulas of a Markdown text by marks that pass through; add their MathML to `formulas`."""

    def mark(match: re.Match) -> str:
        if match["code"]:
            return match[0]
        formulas.append(formula_html(match["block"] or match["line"], block=match["block"] is not None))
        return f"xformulax{len(formulas) - 1}x"

    return _FORMULA.sub(mark, source)


def formula_html(tex: str, block: bool = False) -> str:
    """Return a TeX formula as MathML; as escaped code if it can't be converted.

    Parameters
    ----------
    tex
        Without its dollars.
    block
        Whether it stands on a line of its own.
    """
    from html import escape

    from latex2mathml.converter import convert

    # latex2mathml knows these by other names
    for pattern, plain in (
        (r"\{aligned\}|\{align\*?\}", "{align*}"),
        (r"\\arg\b", r"\\operatorname{arg}"),
        (r"\\[dt]frac\b", r"\\frac"),
        (r"\\lVert\b|\\rVert\b", r"\\Vert "),
    ):
        tex = re.sub(pattern, plain, tex.strip())
    try:
        formula = convert(tex, display="block" if block else "inline")
    except Exception:  # the converter fails in many ways; the formula's source is still readable
        formula = ""
    # It passes on what it doesn't know, with its backslash or as a bare ampersand.
    if not formula or "\\" in formula or re.search(r"&(?!#?\w+;)", formula):
        return f"<code>{escape(tex)}</code>"
    return formula


def remote_references(folder: str | Path) -> list[str]:
    """Return what the pages of a folder would load from a network, as "page: address"; links are fine."""
    pattern = re.compile(
        r"<(?:script|link|img|iframe|source|video|audio|embed|object)\b[^>]*?"
        r"(?:src|href|data)\s*=\s*[\"']?((?:https?:)?//[^\"'\s>]+)"
        r"|(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)",
        flags=re.IGNORECASE,
    )
    found = []
    for page in sorted(Path(folder).rglob("*.html")):
        for match in pattern.finditer(page.read_text(encoding="utf-8")):
            found.append(f"{os.path.relpath(page, folder)}: {match[1] or match[2]}")
    return found
