"""The report of a run: one folder of plain HTML pages that opens anywhere, without a network.

`index.html` shows verdicts, figures, what was learned, what couldn't be tested and where all of it comes
from; each executed notebook is a page of its own, and so is the map of unseen compounds, the only one with
JavaScript. Formulas become MathML, which browsers show by themselves. Each page forbids its browser to load
anything from elsewhere. The templates lie in `pages/`.
"""

import base64
import contextlib
import copy
import functools
import hashlib
import os
import re
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import (
    FIGURE_PREFIX,
    UNFINISHED,
    atomic_path,
    read_json,
    sha256_file,
    stage_records,
    write_json,
)

PAGES_FOLDER = "notebooks"
FIGURES_FOLDER = "figures"
STAMP = ".made_from.json"
TEMPLATES = Path(__file__).parent / "pages"
# What a page may load: pictures beside it or inside it, its own style, nothing else.
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
NO_WORDS = "Picture that the code above makes; it has no description of its own."


def write_report(run_dir: str | Path, figures_dir: str | Path) -> Path:
    """Write the report of a finished run, unless the one there was made from the same files and is whole.

    It is written aside and then put in the place of the old one, so that a reader finds one or the other.

    Parameters
    ----------
    run_dir
        Folder of the run: stage records, manifest.json, executed notebooks, tables/claims.csv where there are
        claims, tables/map.csv where there is a map.
    figures_dir
        Folder of its pictures.

    Returns
    -------
    pathlib.Path
        `run_dir/report/index.html`.
    """
    run_dir, figures_dir = Path(run_dir), Path(figures_dir)
    report = run_dir / "report"
    made_from = _inputs(run_dir)
    known = None
    with contextlib.suppress(OSError, ScreenError):  # there is none, or it is damaged
        known = read_json(report / STAMP)
    if known == {"made_from": made_from, "files": _hashes(report)}:
        return report / "index.html"
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=run_dir) as folder:
        aside, old = Path(folder, report.name), Path(folder, "old")
        _write_pages(run_dir, figures_dir, aside)
        write_json(aside / STAMP, {"made_from": made_from, "files": _hashes(aside)})
        if report.exists():
            report.replace(old)
        aside.replace(report)
    return report / "index.html"


def _hashes(report: Path) -> dict[str, str]:
    files = [path for path in sorted(report.rglob("*")) if path.is_file() and path.name != STAMP]
    return {path.relative_to(report).as_posix(): sha256_file(path) for path in files}


def _write_pages(run_dir: Path, figures_dir: Path, report: Path) -> None:
    """Write all that a report holds into a new folder."""
    from cpx_utils.interactive_map import map_content, read_map

    records = stage_records(run_dir)
    notebooks = _notebooks(run_dir, records)
    figures = _copy_figures(records, notebooks, figures_dir, report / FIGURES_FOLDER)
    content = _index_content(run_dir, records) | {"figures": figures}
    compounds = read_map(run_dir)
    shared = {
        "questions": {stage: question for stage, (question, _) in notebooks.items()},
        "has_map": compounds is not None,
        "simulated": content["simulated"],
    }
    _write_notebook_pages(notebooks, report / PAGES_FOLDER, shared)
    if compounds is not None:
        _write_page(report / "map.html", "map", shared | map_content(compounds))
    _write_page(report / "index.html", "index", shared | content)


def _inputs(run_dir: Path) -> dict[str, str]:
    """Return the hashes of what the report is made from; a stage's record stands for its tables and figures."""
    ours = [Path(__file__), Path(__file__).with_name("interactive_map.py"), *sorted(TEMPLATES.iterdir())]
    files = [*sorted((run_dir / "stages").glob("*.json")), run_dir / "tables" / "claims.csv", *ours]
    # The manifest's own time-bound parts follow from the records.
    return {path.name: sha256_file(path) for path in files if path.is_file()}


@functools.cache
def _templates() -> Any:
    """Return the jinja2 environment: everything that comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(TEMPLATES)
    )
    environment.filters["table"] = _table
    environment.filters["emphasised"] = _emphasised
    environment.filters["literal"] = repr
    return environment


def _write_page(path: Path, template: str, content: dict) -> None:
    """Write a page of the report; `content` may bring more style, and scripts, which its policy then allows."""
    from markupsafe import Markup

    folder_up = "" if path.parent.name == "report" else "../"
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8") + content.get("more_style", "")
    hashes = [hashlib.sha256(script.encode()).digest() for script in content.get("scripts", ())]
    allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes]
    policy = f"{POLICY}; script-src {' '.join(allowed)}" if allowed else POLICY
    known = {"policy": policy, "page": path.stem, "up": folder_up}
    page = _templates().get_template(f"{template}.html").render(known | content | {"style": Markup(style)})
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _copy_figures(records: dict[str, dict], notebooks: dict, figures_dir: Path, folder: Path) -> list[dict]:
    """Copy the pictures and their data; return what the index says of each."""
    folder.mkdir(parents=True)
    figures = []
    for stage, record in records.items():
        for figure in record["figures"]:
            picture = figures_dir / f"{figure['name']}.png"
            files = [picture.with_suffix(suffix) for suffix in (".png", ".csv")]
            # Drawn into another folder, when the call before had other --figures, or since drawn by another profile
            if not all(_is_recorded(path, record["writes"].get(FIGURE_PREFIX + path.name)) for path in files):
                continue
            for path in files:
                shutil.copyfile(path, folder / path.name)
            # A PNG's width and height stand after its signature and the head of its first chunk. With them a page
            # doesn't jump while pictures load.
            width, height = struct.unpack(">II", picture.read_bytes()[16:24])
            place = f"{PAGES_FOLDER}/{stage}.html{_cell_of(figure['name'], notebooks.get(stage))}"
            figures.append({"title": ""} | figure | {"stage": stage, "width": width, "height": height, "place": place})
    return figures


def _is_recorded(path: Path, digest: str | None) -> bool:
    """Say whether a file is, byte for byte, what a record says of it."""
    return path.is_file() and sha256_file(path) == digest


def _cell_of(figure: str, notebook: tuple | None) -> str:
    """Return the anchor of the cell that makes a figure, "" if there is none."""
    cells = notebook[1].cells if notebook else []
    made_by = [cell.get("id") for cell in cells if cell.cell_type == "code" and f'"{figure}"' in cell.source]
    return f"#cell-id={made_by[0]}" if made_by and made_by[0] else ""


def _table(frame: pd.DataFrame, name: str) -> Any:
    """Return a table as HTML: numbers with three or four digits, missing ones as nothing.

    It scrolls in a box of its own, which the keyboard reaches and a screen reader calls `name`.
    """
    from markupsafe import Markup, escape

    text = frame.to_html(index=False, na_rep="", float_format="%.4g", border=0, classes="", escape=True)
    return Markup(f'<div class="wide" role="region" tabindex="0" aria-label="{escape(name)}">{text}</div>')


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
        **_timings(manifest, records),
        **_claims(run_dir / "tables" / "claims.csv"),
    }


def _timings(manifest: dict, records: dict[str, dict]) -> dict:
    """Return time and memory of the notebooks and of the steps inside them."""
    timings = [
        {"notebook": stage, "seconds": part["seconds"], "peak MB": part["peak_mb"]}
        for stage, part in manifest["stages"].items()
    ]
    steps = [
        {"notebook": stage, "step": step["step"], "seconds": step["seconds"], "peak MB": step["peak_mb"]}
        for stage, record in records.items()
        for step in record["steps"]
    ]
    return {"timings": pd.DataFrame(timings), "steps": pd.DataFrame(steps) if steps else None}


def _claims(path: Path) -> dict:
    """Return a sentence of all verdicts, each verdict with its primary comparison in words, and all comparisons."""
    from cpx_utils.claims import CLAIM_TEXTS, VERDICTS

    if not path.is_file():
        return {"verdicts": [], "comparisons": None, "summary": ""}
    claims = pd.read_csv(path)
    verdicts = [
        {
            "claim": row.claim,
            "text": CLAIM_TEXTS.get(row.claim, ""),
            "verdict": row.verdict,
            "kind": row.verdict.lower().replace(" ", "-"),
            "numbers": _comparison(row._asdict()),
            "reason": row.reason,
        }
        for row in claims[claims["verdict"].notna()].fillna({"reason": "", "reference": ""}).itertuples()
    ]
    counts = claims["verdict"].value_counts().reindex(VERDICTS, fill_value=0)
    n_supported = counts.pop("supported")
    parts = [f"{n_supported or 'none'} {'is' if n_supported < 2 else 'are'} supported"]
    parts += [f"{n} {verdict}" for verdict, n in counts.items() if n]
    return {
        "verdicts": verdicts,
        "comparisons": claims.drop(columns=["screen", "reason"]),
        "summary": f"Of {len(verdicts)} claims, {', '.join(parts)}.",
    }


def _comparison(row: dict) -> str:
    """Return a row of the claims table as a line: what, of which method, against which, the gain."""
    from cpx_utils.claims import UNITS
    from cpx_utils.plots import ENDPOINT_LABELS, method_label

    words = ENDPOINT_LABELS.get(row["endpoint"], row["endpoint"])
    words += f" ({UNITS[row['endpoint']]})" if row["endpoint"] in UNITS else ""
    words += f": {method_label(row['method'])}"
    known = row.get("value_method"), row.get("value_reference")
    values = ["" if value is None or pd.isna(value) else f" {value:.3f}" for value in known]
    words += values[0]
    if row["reference"]:
        itself = row["reference"] == "deranged"
        words += f" against {'itself on deranged pairs' if itself else method_label(row['reference'])}{values[1]}"
    if not pd.isna(row["effect"]):
        gain = f"{row['effect']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"
        words += f", gain {gain.replace('-', '−')}"
    return words


# --- notebooks as pages -------------------------------------------------------------------------------------


def _notebooks(run_dir: Path, records: dict[str, dict]) -> dict[str, tuple[str, Any]]:
    """Return first heading and content of each executed notebook, by stage."""
    import nbformat

    notebooks = {}
    for stage, record in records.items():
        path = run_dir / "notebooks" / f"{stage}.ipynb"
        by_hand = "run" not in record and path.is_file()  # nobody recorded which notebook that was
        if by_hand or _is_recorded(path, record.get("run", {}).get("notebook")):
            notebook = nbformat.read(path, as_version=4)
            headings = [cell.source for cell in notebook.cells if cell.source.startswith("# ")]
            notebooks[stage] = headings[0].partition("\n")[0].lstrip("# ") if headings else stage, notebook
    return notebooks


def _write_notebook_pages(notebooks: dict[str, tuple[str, Any]], folder: Path, shared: dict) -> None:
    """Write each executed notebook as a page that leads to those beside it."""
    from markupsafe import Markup

    stages = list(notebooks)
    for before, stage, after in zip(["", *stages], stages, [*stages[1:], ""], strict=False):
        question, notebook = notebooks[stage]
        content = {"title": question, "content": Markup(notebook_html(notebook)), "more_style": _code_style()}
        _write_page(folder / f"{stage}.html", "notebook", shared | content | {"before": before, "after": after})


@functools.cache
def _code_style() -> str:
    """Return the colours of code, light and dark."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("xcode", "github-dark"))
    background = ".highlight, .highlight pre { background: var(--card); }"
    return f"\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{background}\n"


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
            for kind in {"image/png", "image/jpeg"} & output.get("data", {}).keys():
                output.setdefault("metadata", {}).setdefault(kind, {}).setdefault("alt", NO_WORDS)
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
    page = page.replace("<th></th>", "<td></td>")  # pandas leaves corners empty: those are no headings
    # Tables that are wider than the page scroll in their own box: the keyboard must reach it.
    reachable = '<div tabindex="0" role="group" aria-label="Table" class="output_html'
    page = page.replace('<div class="output_html', reachable)
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
