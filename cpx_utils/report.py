"""The report of a run: one folder of plain HTML pages that opens anywhere, without a network or JavaScript.

`index.html` shows verdicts, figures, what was learned, what couldn't be tested and where all of it comes
from; each executed notebook is a page of its own. Formulas become MathML, which browsers show by themselves.
"""

import os
import re
import shutil
from collections.abc import Callable
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
nav.pages { justify-content: flex-start; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.long { overflow-wrap: anywhere; min-width: 12rem; }
tr.primary td { font-weight: 600; }
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
.output_area { overflow-x: auto; margin: .5rem 0; } .output_stderr pre { color: var(--soft); }
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
{% macro table(frame, primary=none) %}<div class="wide"><table>
<tr>{% for name in frame.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in frame.rows -%}
<tr{% if primary and row[frame.columns.index(primary)] %} class="primary"{% endif %}>
{%- for value in row %}<td{{ value | cell_class }}>{{ value | cell_text }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endmacro %}
<h1>{{ title }}</h1>
<p class="soft">Does training on paired Cell Painting (CP) and transcriptomics (TX) profiles make the CP
profile of a new compound, for which no TX exists, more useful? Profile {{ manifest.profile }},
seed {{ manifest.seed if manifest.seed is not none else "by notebook" }}.</p>
{% if simulated %}<p class="notice">This screen is simulated: it shows that the study works and says nothing
about biology.</p>{% endif %}
{% if manifest.unverified %}<p class="notice">This run used files whose hash isn't the registry's
(<code>--unverified</code>): its numbers may differ from those of the published files.</p>{% endif %}
<nav class="pages">{% for page in pages %}<a href="notebooks/{{ page }}.html">{{ page }}</a>
{% endfor %}</nav>
{% if claims %}<h2 id="claims">Claims</h2>
<p>A claim's verdict stands on its primary row (bold); effects are differences to the reference, with 95%
intervals.</p>
{{ table(claims, "verdict") }}{% endif %}
{% if untestable %}<h2 id="testability">Not testable on this screen</h2>
<ul>{% for row in untestable %}<li>{{ row.endpoint }}: {{ row.reason }}</li>
{% endfor %}</ul>{% endif %}
{% if learned %}<h2 id="learned">What we learn</h2>
{% for stage, sentences in learned %}<h3><a href="notebooks/{{ stage }}.html">{{ stage }}</a></h3>
<ul>{% for sentence in sentences %}<li>{{ sentence }}</li>
{% endfor %}</ul>
{% endfor %}{% endif %}
<h2 id="figures">Figures</h2>
{% for figure in figures %}<figure id="{{ figure.name }}">
<img src="figures/{{ figure.name }}.png" alt="{{ figure.caption }}" loading="lazy">
<figcaption><a href="notebooks/{{ figure.stage }}.html">{{ figure.name }}</a>.
{{ figure.caption }}</figcaption>
</figure>
{% else %}<p>This run made none.</p>{% endfor %}
<h2 id="provenance">Where it comes from</h2>
{% if notes %}<ul>{% for note in notes %}<li>{{ note }}</li>
{% endfor %}</ul>{% endif %}
{% if sources %}{{ table(sources) }}{% endif %}
<p>Python {{ manifest.python }}, {{ manifest.platform }}, device {{ manifest.device }},
{{ manifest.threads_per_stage }} thread a notebook{% if manifest.git %}, commit {{ manifest.git.commit }}
{%- if manifest.git.dirty %} with uncommitted changes{% endif %}{% endif %}.</p>
{{ table(timings) }}
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
    stages = [stage for stage in records if (run_dir / "notebooks" / f"{stage}.ipynb").is_file()]
    _write_notebook_pages(run_dir, report / PAGES_FOLDER, stages, templates)
    content = _index_content(run_dir, records) | {"figures": figures, "pages": stages}
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
    environment.filters["cell_text"] = _cell_text
    environment.filters["cell_class"] = _cell_class
    environment.filters["literal"] = repr
    return environment


def _cell_text(value: Any) -> str:
    """Show a table's value: numbers with three or four digits, missing ones as nothing."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return "" if value is None else str(value)


def _cell_class(value: Any) -> Any:
    """Return the class attribute of a table's cell: numbers stand right, long words may break."""
    from markupsafe import Markup

    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Markup(' class="number"')
    return Markup(' class="long"') if len(str(value)) > 60 else ""


def _rows(frame: pd.DataFrame) -> dict:
    """Return a table as {"columns", "rows"} of plain values for the template."""
    return {"columns": list(frame.columns), "rows": frame.astype(object).values.tolist()}


def _index_content(run_dir: Path, records: dict[str, dict]) -> dict:
    """Gather what the index shows besides figures."""
    manifest = read_json(run_dir / "manifest.json")
    screen = read_json(run_dir / "screen.json") if (run_dir / "screen.json").is_file() else {}
    tables = run_dir / "tables"
    claims = tables / "claims.csv"
    testability = tables / "testability.csv"
    untestable = []
    if testability.is_file():
        frame = pd.read_csv(testability, keep_default_na=False)
        untestable = frame[~frame["testable"].astype(str).str.lower().eq("true")].to_dict("records")
    timings = pd.DataFrame(
        [
            {"notebook": stage, "seconds": part["seconds"], "peak MB": part["peak_mb"]}
            for stage, part in manifest["stages"].items()
        ],
        columns=["notebook", "seconds", "peak MB"],
    )
    columns = ("file", "address", "sha256", "bytes", "verified", "licence", "citation")
    sources = pd.DataFrame([{name: source.get(name, "") for name in columns} for source in screen.get("sources", [])])
    return {
        "title": f"cpx on {manifest['dataset']}",
        "manifest": manifest,
        "simulated": manifest["dataset"] == "simulated",
        "claims": _rows(_without_empty_text(claims)) if claims.is_file() else None,
        "untestable": untestable,
        "learned": [(stage, record["learned"]) for stage, record in records.items() if record["learned"]],
        "notes": screen.get("notes", []),
        "sources": _rows(sources) if len(sources) else None,
        "timings": _rows(timings),
    }


def _without_empty_text(path: Path) -> pd.DataFrame:
    """Read a table, its empty texts as "" and its empty numbers as NaN."""
    frame = pd.read_csv(path)
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    return frame.assign(**{name: frame[name].astype(object).fillna("") for name in texts})


# --- notebooks as pages -------------------------------------------------------------------------------------


def _write_notebook_pages(run_dir: Path, folder: Path, stages: list[str], templates: Any) -> None:
    """Write each executed notebook as a page that leads to the one before and after."""
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
    export = _exporter()
    for number, stage in enumerate(stages):
        notebook = nbformat.read(run_dir / "notebooks" / f"{stage}.ipynb", as_version=4)
        page = templates.get_template("notebook").render(
            title=stage,
            style=Markup(style),
            content=Markup(notebook_html(notebook, export)),
            before=stages[number - 1] if number else "",
            after=stages[number + 1] if number + 1 < len(stages) else "",
        )
        (folder / f"{stage}.html").write_text(page, encoding="utf-8")


def _exporter() -> Callable[[Any], str]:
    """Return a function that turns a notebook into a piece of HTML without page, scripts or styles."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic")
    return lambda notebook: exporter.from_notebook_node(notebook)[0]


def notebook_html(notebook: Any, export: Callable[[Any], str] | None = None) -> str:
    """Return an executed notebook as a piece of HTML that needs no network and no JavaScript.

    Parameters
    ----------
    notebook
        An nbformat version 4 notebook; it isn't changed.
    export
        What turns it into HTML; None takes nbconvert's.

    Returns
    -------
    str
        Formulas are MathML; scripts, widgets and pictures from elsewhere are left out.
    """
    from copy import deepcopy

    notebook = deepcopy(notebook)
    formulas: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _hide_formulas(cell.source, formulas)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            for kind in [kind for kind in data if "javascript" in kind or "widget" in kind]:
                del data[kind]
            if "text/markdown" in data:
                data["text/markdown"] = _hide_formulas("".join(data["text/markdown"]), formulas)
    page = (export or _exporter())(notebook)
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
