"""The report of a run: one folder of plain HTML pages that opens anywhere, without a network.

`index.html` shows verdicts, what was learned, figures and where all of it comes from; each executed notebook is a page
of its own, and so is the map of unseen compounds, the only one with JavaScript. Formulas become MathML, which browsers
show by themselves. Each page forbids its browser to load anything from elsewhere. The templates lie in `pages/`.
"""

import base64
import functools
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import bleach
import jinja2
import nbformat
import pandas as pd
from bokeh.embed import components
from bokeh.models import CDSView, ColumnDataSource, GroupFilter, HoverTool, TabPanel, Tabs, TapTool
from bokeh.plotting import figure
from bokeh.resources import INLINE
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from cpx_utils.plots import CATEGORY_COLOURS, method_label, order_methods
from cpx_utils.profiles import CLAIM_TEXTS, COMPOUND
from cpx_utils.provenance import FIGURE_PREFIX, UNFINISHED, read_json, sha256_file, stage_records

PAGES = Path(__file__).parent / "pages"
# What a page may load: pictures beside it or inside it, its own style, and scripts named by their hashes.
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
RULINGS = ["claim", "method", "comparison", "attribution", "verdict", "reason"]
COMPARISONS = ["claim", "endpoint", "method", "reference", "effect", "ci_low", "ci_high", "p_adjusted"]
SOURCES = ["file", "address", "bytes", "sha256", "verified", "licence", "citation"]

MAX_SHOWN = 2000  # compounds on the map: beyond that a page gets slow, and points hide each other
OTHER = "other or unknown"
MARKS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "star", "hex")
TOOLTIP = """<div style="max-width: 19rem; white-space: normal; font-size: 13px"><b>@compound</b><br>@mechanisms<br>
Nearest by cosine: @{nearest METHOD}</div>"""

# Elements and attributes that a notebook's prose and tables may bring into a page. Formulas are MathML.
TAGS = """a b blockquote br code dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i img li ol p pre span strong sub
summary sup table tbody td th thead tr ul math mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle
msub msubsup msup mtable mtd mtext mtr munder munderover""".split()
ATTRIBUTES = {
    "*": "class id display mathvariant stretchy fence columnalign width minsize maxsize".split(),
    "a": lambda tag, name, value: name == "title" or (name == "href" and not value.strip().startswith("data")),
    "img": lambda tag, name, value: name == "alt" or (name == "src" and value.startswith("data:image/")),
}


def write_report(run_dir: str | Path, figures_dir: str | Path, manifest: dict) -> Path:
    """Write the report of a finished run.

    It is written aside and then put in the place of the old one. Its first page, `run_dir/report/index.html`, is
    returned.

    Parameters
    ----------
    run_dir
        Folder of the run: stage records, executed notebooks; tables of claims, of timings and of the map, if any.
    figures_dir
        Folder of its pictures.
    manifest
        The run's, of `provenance.run_manifest`.
    """
    run_dir, figures_dir = Path(run_dir), Path(figures_dir)
    report, aside = run_dir / "report", run_dir / f"{UNFINISHED}report"
    records = stage_records(run_dir)
    notebooks = {}
    for stage, record in records.items():
        path = run_dir / "notebooks" / f"{stage}.ipynb"
        if "run" in record and _is_recorded(path, record["run"]["notebook"]):  # else it ran by hand since
            notebooks[stage] = nbformat.read(path, as_version=4)
    headings = {stage: one.cells[0].source.partition("\n")[0].lstrip("# ") for stage, one in notebooks.items()}
    content = _index_content(run_dir, records, manifest)
    compounds = _map_content(run_dir)
    shared = {"questions": headings, "has_map": compounds is not None, "simulated": content["simulated"]}
    for stage, notebook in notebooks.items():
        page = {"title": headings[stage], "content": Markup(notebook_html(notebook, run_dir / "notebooks"))}
        _write_page(aside / "notebooks" / f"{stage}.html", "notebook", shared | page)
    if compounds is not None:
        _write_page(aside / "map.html", "map", shared | compounds)
    figures = _copy_figures(records, figures_dir, aside / "figures")
    _write_page(aside / "index.html", "index", shared | content | {"figures": figures})
    shutil.rmtree(report, ignore_errors=True)
    aside.replace(report)
    return report / "index.html"


def _write_page(path: Path, template: str, content: dict) -> None:
    """Write a page of the report, all that comes from data escaped; its policy allows `content["scripts"]` alone."""
    loader = jinja2.FileSystemLoader(PAGES)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=loader)
    environment.filters |= {"table": _table, "emphasised": _emphasised, "literal": repr}
    digests = [hashlib.sha256(script.encode()).digest() for script in content.get("scripts", ())]
    allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    policy = f"{POLICY}; script-src {' '.join(allowed)}" if allowed else POLICY
    style = Markup((PAGES / "report.css").read_text(encoding="utf-8"))
    known = {"policy": policy, "style": style, "page": path.stem, "up": "../" if template == "notebook" else ""}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template(f"{template}.html").render(known | content), encoding="utf-8")


def _copy_figures(records: dict[str, dict], figures_dir: Path, folder: Path) -> list[dict]:
    """Copy the pictures and their data; return what the index says of each."""
    folder.mkdir(parents=True)
    figures = []
    for stage, record in records.items():
        for known in record["figures"]:
            files = [figures_dir / f"{known['name']}{suffix}" for suffix in (".png", ".csv")]
            # Drawn into another folder, when the call before had other --figures, or since drawn by another profile
            if all(_is_recorded(path, record["writes"].get(FIGURE_PREFIX + path.name)) for path in files):
                for path in files:
                    shutil.copyfile(path, folder / path.name)
                figures.append(known | {"stage": stage})
    return figures


def _is_recorded(path: Path, digest: str | None) -> bool:
    """Say whether a file is, byte for byte, what a record says."""
    return path.is_file() and sha256_file(path) == digest


def _table(frame: pd.DataFrame, name: str) -> Markup:
    """Return a table as HTML, called `name` for a screen reader; it scrolls in a box that the keyboard reaches."""
    text = frame.to_html(index=False, na_rep="", float_format="%.4g", border=0, escape=True)
    return Markup(f'<div class="wide" role="region" tabindex="0" aria-label="{escape(name)}">{text}</div>')


def _emphasised(sentence: str) -> Markup:
    """Return a sentence as HTML, escaped, with Markdown's **bold** and `code` as such."""
    bold = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(sentence)))
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", bold))


def _index_content(run_dir: Path, records: dict[str, dict], manifest: dict) -> dict:
    """Gather what the index shows besides figures."""
    screen = read_json(run_dir / "screen.json") if (run_dir / "screen.json").is_file() else {}
    tables = {}  # those of notebooks that were left out are empty
    for name in ("testability", "claims", "timings"):
        path = run_dir / "tables" / f"{name}.csv"
        tables[name] = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["testable", "claim", "verdict"])
    judged = tables["claims"].dropna(subset="verdict")
    texts = [f"{claim}. {CLAIM_TEXTS.get(claim, '')}" for claim in judged["claim"]]
    return {
        "title": f"cpx on the {manifest['dataset']} screen",
        "manifest": manifest,
        "simulated": manifest["dataset"] == "simulated",
        "untestable": tables["testability"].query("not testable").to_dict("records"),
        "learned": [(stage, record["learned"]) for stage, record in records.items() if record["learned"]],
        "notes": screen.get("notes", []),
        "sources": pd.DataFrame(screen.get("sources", []), columns=SOURCES),
        "timings": tables["timings"],
        "verdicts": judged.assign(claim=texts).reindex(columns=RULINGS),
        "comparisons": tables["claims"].reindex(columns=COMPARISONS),
    }


def notebook_html(notebook: Any, folder: str | Path = ".") -> str:
    """Return an executed notebook as a piece of HTML that needs no network and no JavaScript.

    Formulas become MathML; scripts, widgets, progress bars and pictures from elsewhere are left out.

    Parameters
    ----------
    notebook
        An nbformat version 4 notebook.
    folder
        Where the pictures lie that its text refers to: they become part of the page.
    """
    for output in [output for cell in notebook.cells for output in cell.get("outputs", ())]:
        if output.get("name") == "stderr":
            output.text = "\n".join(line for line in re.split(r"[\r\n]+", output.text) if "%|" not in line).strip()
    exporter = HTMLExporter(template_name="basic", sanitize_html=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    renderer = IPythonRenderer(escape=False, embed_images=True, path=str(folder), exclude_anchor_links=True)
    renderer.inline_math, renderer.block_math = formula_html, functools.partial(formula_html, block=True)
    exporter.register_filter("markdown2html", MarkdownWithMath(renderer=renderer).render)
    exporter.register_filter("clean_html", _harmless)
    return exporter.from_notebook_node(notebook)[0]


def _harmless(page: str) -> str:
    """Return HTML without anything that runs or loads; nbconvert's own sanitiser would take headings and pictures, too.

    The words of other elements stay, so styles (pandas brings one with each table) and scripts go as a whole before.
    """
    page = re.sub(r"<(style|script)\b.*?</\1\s*>", "", page, flags=re.IGNORECASE | re.DOTALL)
    protocols = ["http", "https", "mailto", "data"]
    return bleach.clean(page, tags=TAGS, attributes=ATTRIBUTES, protocols=protocols, strip=True)


def formula_html(tex: str, block: bool = False) -> str:
    """Return a TeX formula without its dollars as MathML, a `block` on a line of its own; as code if that fails."""
    others = {"{aligned}": "{align*}", r"\tfrac": r"\frac", r"\lVert": r"\Vert ", r"\rVert": r"\Vert "}
    for name, known in others.items():  # latex2mathml knows these by another name
        tex = tex.replace(name, known)
    try:
        formula = convert(tex.strip(), display="block" if block else "inline")
    except Exception:  # the converter fails in many ways; the formula's source is still readable
        formula = ""
    # It passes on what it doesn't know, with its backslash or as a bare ampersand.
    if not formula or "\\" in formula or re.search(r"&(?!#?\w+;)", formula):
        return f"<code>{escape(tex)}</code>"
    return formula


def _map_content(run_dir: Path) -> dict | None:
    """Return what the map's page shows, None where the run has no map.

    Positions are those of notebook 05's UMAP, neighbours the nearest by cosine in the full embedding.
    """
    files = [run_dir / "tables" / name for name in ("map.csv", "map_nearest.csv")]
    if not files[1].is_file():
        return None
    names = dict.fromkeys(["method", "compound", "neighbour", "label"], str)
    points, nearest = (pd.read_csv(path, dtype=names, keep_default_na=False) for path in files)
    if points.empty:
        return None
    near = nearest[nearest["rank"] <= 3].sort_values("rank", kind="stable")
    near = near.assign(nearest=near["neighbour"] + near["cosine"].map(" ({:.2f})".format))
    near = near.groupby(["compound", "method"])["nearest"].agg(", ".join)
    placed = points.set_index(["compound", "method"])[["x", "y"]].join(near).unstack("method")
    placed.columns = [f"{value} {method}" for value, method in placed.columns]
    # The order that the figure's colours follow
    labels = points["label"].value_counts().drop("other", errors="ignore").index[: len(MARKS)].tolist()
    compounds = points.drop_duplicates("compound").set_index("compound")["label"]
    compounds = compounds.where(compounds.isin(labels), OTHER).sort_values(key=lambda label: label == OTHER)
    known = pd.read_parquet(run_dir / "compounds.parquet").set_index(COMPOUND)["MoA"].map("; ".join)
    mechanisms = known.reindex(compounds.index).replace("", None).fillna("mechanism unknown")
    table = pd.DataFrame({"label": compounds, "mechanisms": mechanisms}).head(MAX_SHOWN).join(placed).reset_index()
    methods = order_methods(points["method"].unique())
    columns = {f"nearest {method}": f"nearest by {method_label(method)} (cosine)" for method in methods}
    table[[*columns]] = table[[*columns]].fillna("")
    script, plot = components(_map_plot(table, methods, labels), wrap_script=False)
    return {
        "title": f"Map of {len(table):,} unseen compounds",
        "n_test": len(compounds),
        "n_shown": len(table),
        "plot": Markup(plot),
        "compounds": table[["compound", "mechanisms", *columns]].rename(columns=columns),
        "scripts": [Markup(part) for part in (*INLINE.js_raw, script)],
    }


def _map_plot(table: pd.DataFrame, methods: list[str], labels: list[str]) -> Any:
    """Return a tab for each method; a compound chosen in one is chosen in all, since they share their source."""
    source = ColumnDataSource(table)
    # Grey ones are drawn first, so that they hide none that has a name.
    styles = {OTHER: ("#8C8C8C", "circle")} | dict(zip(labels, zip(CATEGORY_COLOURS, MARKS, strict=True), strict=False))
    tabs = []
    for method in methods:
        plot = figure(tools="pan,wheel_zoom,box_zoom,reset", height=640, sizing_mode="stretch_width")
        plot.axis.visible = plot.grid.visible = False
        plot.toolbar.logo = None
        for label, (colour, mark) in styles.items():
            plot.scatter(
                f"x {method}", f"y {method}", source=source, legend_label=label, fill_color=colour, marker=mark,
                view=CDSView(filter=GroupFilter(column_name="label", group=label)), size=6 if label == OTHER else 12,
                line_color="white", selection_line_color="black", selection_line_width=2, nonselection_alpha=0.4,
            )  # fmt: skip
        plot.add_layout(plot.legend[0], "below")
        plot.legend.update(click_policy="hide", ncols=2, location="left", border_line_color=None)
        plot.add_tools(HoverTool(tooltips=TOOLTIP.replace("METHOD", method), limit=2), TapTool())
        tabs.append(TabPanel(child=plot, title=method_label(method)))
    return Tabs(tabs=tabs, sizing_mode="stretch_width")
