"""The interactive map of unseen compounds: a page of the report that works without a network.

Positions come from notebook 05's UMAP; nothing is measured on them. The neighbours that the page lists are those
the notebook found by cosine in the full embedding. Bokeh draws, in the colours and marks of the figures; its
library stands in the page.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpx_utils.profiles import COMPOUND, CONTROL, DOSE

MAX_SHOWN = 2000  # compounds: beyond that a page gets slow, and points hide each other
# Bokeh's own tooltips name each value in a blue that is hard to read on white. It escapes what it puts in.
TOOLTIP = """<div style="max-width: 19rem; white-space: normal; color: #1d2530; font-size: 13px; line-height: 1.4">
<b>@compound</b><br>@mechanisms<br>@wells CP wells<br>Nearest by cosine: @nearest</div>"""
# Around points: name, size, width and dashes
RINGS = (("found", 16, 1.5, "dotted"), ("neighbours", 16, 2, "solid"), ("chosen", 22, 3.5, "solid"))
PAGES = Path(__file__).parent / "pages"
IN_TABLE = 3  # neighbours named for each compound in the table and under the pointer
OTHER_COLOUR = "#8C8C8C"  # darker than in figures, where no one has to aim at a point
# matplotlib's marks in Bokeh's words, where there is the same one: for "X" and "<" there is none
MARKERS = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "v": "inverted_triangle", "P": "plus",
           "X": "star", "<": "hex"}  # fmt: skip
SIZES = {"triangle": 11, "inverted_triangle": 11, "diamond": 13, "plus": 12, "star": 13, "square": 9}


def read_map(run_dir: str | Path) -> dict | None:
    """Gather what the map shows from the tables of a run.

    Parameters
    ----------
    run_dir
        With tables/map.csv (method, compound, x, y, label), tables/map_nearest.csv (method, compound, rank,
        neighbour, cosine), compounds.parquet and cp.parquet.

    Returns
    -------
    dict or None
        ``compounds``: DataFrame compound, mechanisms, wells, doses, label of the compounds drawn, at most
        `MAX_SHOWN`, those with a named mechanism first; ``labels``: mechanisms in the order of their colours;
        ``points`` and ``nearest``: the two tables, of the compounds drawn; ``n_test``: how many there are in all.
        None where the run has no map.
    """
    tables = Path(run_dir) / "tables"
    if not ((tables / "map.csv").is_file() and (tables / "map_nearest.csv").is_file()):
        return None
    text = {"compound": str, "neighbour": str, "label": str}
    points = pd.read_csv(tables / "map.csv", dtype=text, keep_default_na=False)
    if points.empty:
        return None
    nearest = pd.read_csv(tables / "map_nearest.csv", dtype=text, keep_default_na=False)
    # The order that the figure's colours follow.
    labels = points["label"].value_counts().drop("other", errors="ignore").index.tolist()
    compounds = points.drop_duplicates("compound")[["compound", "label"]]
    n_test = len(compounds)
    compounds = _described(_bounded(compounds), Path(run_dir))
    # Grey ones are drawn first, so that they hide none that has a name.
    order = compounds["label"].map({label: rank for rank, label in enumerate(["other", *labels[::-1]])})
    compounds = compounds.iloc[np.argsort(order.to_numpy(), kind="stable")].reset_index(drop=True)
    shown = compounds["compound"]
    return {
        "compounds": compounds,
        "labels": labels,
        "points": points[points["compound"].isin(shown)],
        "nearest": nearest[nearest["compound"].isin(shown)],
        "n_test": n_test,
    }


def _bounded(compounds: pd.DataFrame) -> pd.DataFrame:
    """Return at most `MAX_SHOWN` compounds: those of a named mechanism, and of the others an even share."""
    if len(compounds) <= MAX_SHOWN:
        return compounds
    is_named = (compounds["label"] != "other").to_numpy()
    spare = np.flatnonzero(~is_named)
    n_spare = max(MAX_SHOWN - is_named.sum(), 0)
    kept = np.concatenate([np.flatnonzero(is_named), spare[np.linspace(0, len(spare) - 1, n_spare).astype(int)]])
    return compounds.iloc[np.sort(kept[:MAX_SHOWN])]


def _described(compounds: pd.DataFrame, run_dir: Path) -> pd.DataFrame:
    """Add what is known of the compounds: mechanisms (lists), CP wells, doses."""
    known = pd.read_parquet(run_dir / "compounds.parquet", columns=[COMPOUND, "MoA"])
    mechanisms = {name: list(map(str, moas)) for name, moas in zip(known[COMPOUND], known["MoA"], strict=True)}
    wells = pd.read_parquet(run_dir / "cp.parquet", columns=[COMPOUND, DOSE, CONTROL])
    wells = wells[~wells[CONTROL].astype(bool)].groupby(COMPOUND)[DOSE]
    ids = compounds["compound"]
    return compounds.assign(
        mechanisms=[mechanisms.get(name, []) for name in ids],
        wells=ids.map(wells.size()).fillna(0).astype(int),
        doses=ids.map(wells.nunique()).fillna(0).astype(int),
    )


def map_content(known: dict) -> dict:
    """Return what the template of the map shows.

    Parameters
    ----------
    known
        From `read_map`.

    Returns
    -------
    dict
        Among the values `scripts`, the JavaScript that the page holds and its policy must allow, and `more_style`.
    """
    from bokeh.embed import json_item
    from bokeh.resources import Resources
    from markupsafe import Markup

    from cpx_utils.plots import CATEGORY_COLOURS, CATEGORY_MARKERS

    compounds = known["compounds"]
    styles = {
        label: (colour, MARKERS[marker])
        for label, colour, marker in zip(known["labels"], CATEGORY_COLOURS, CATEGORY_MARKERS, strict=False)
    }
    names, methods = _methods(known)
    rows = _rows(compounds, names, methods)
    data = {
        "names": names,
        "mechanisms": compounds["mechanisms"].tolist(),
        "wells": compounds["wells"].tolist(),
        "doses": compounds["doses"].tolist(),
        "methods": methods,
        "plot": json_item(_plot(compounds, methods[0], [row["nearest"][0] for row in rows], styles)),
    }
    library, *_ = Resources(mode="inline", components=["bokeh"]).js_raw  # the rest sets the level of its log
    return {
        "title": f"Map of {len(compounds):,} unseen compounds",
        "n_test": known["n_test"],
        "n_shown": len(compounds),
        "methods": methods,
        "rows": rows,
        "legend": [(label, *styles.get(label, (OTHER_COLOUR, "circle"))) for label in [*styles, "other or unknown"]],
        "data": Markup(_embedded(data)),
        "scripts": [Markup(script) for script in (library, (PAGES / "map.js").read_text(encoding="utf-8"))],
        "more_style": (PAGES / "map.css").read_text(encoding="utf-8"),
    }


def _methods(known: dict) -> tuple[list[str], list[dict]]:
    """Return the compounds' names, those not drawn at last, and by method positions and neighbours by number."""
    from cpx_utils.plots import method_label, order_methods

    shown = known["compounds"]["compound"].tolist()
    names = [*shown, *sorted(set(known["nearest"]["neighbour"]) - set(shown))]
    number = {name: row for row, name in enumerate(names)}
    methods = []
    for key in order_methods(known["points"]["method"].unique()):
        points = known["points"].query("method == @key").set_index("compound")[["x", "y"]].reindex(shown)
        near = known["nearest"].query("method == @key").sort_values("rank", kind="stable")
        near = near.assign(number=near["neighbour"].map(number), cosine=near["cosine"].round(3)).groupby("compound")
        numbers, cosines = (near[column].agg(list).to_dict() for column in ("number", "cosine"))
        methods.append(
            {
                "key": key,
                "label": method_label(key),
                # JSON knows no NaN
                **{axis: [None if np.isnan(value) else round(value, 3) for value in points[axis]] for axis in "xy"},
                "nearest": [numbers.get(name, []) for name in shown],
                "cosine": [cosines.get(name, []) for name in shown],
            }
        )
    return names, methods


def _rows(compounds: pd.DataFrame, names: list[str], methods: list[dict]) -> list[dict]:
    """Return the table that says the same as the map: compound, mechanisms, wells, nearest by each method."""
    rows = compounds[["compound", "mechanisms", "wells"]].to_dict("records")
    for number, row in enumerate(rows):
        row["mechanisms"] = "; ".join(row["mechanisms"])
        near = (zip(method["nearest"][number][:IN_TABLE], method["cosine"][number], strict=False) for method in methods)
        row["nearest"] = [", ".join(f"{names[other]} ({cosine:.2f})" for other, cosine in pairs) for pairs in near]
    return rows


def _plot(compounds: pd.DataFrame, method: dict, nearest: list[str], styles: dict[str, tuple[str, str]]) -> Any:
    """Return the Bokeh figure: points, and above them what is chosen, its neighbours and what was searched."""
    from bokeh.models import ColumnDataSource, HoverTool, TapTool
    from bokeh.plotting import figure

    plot = figure(
        name="map", tools="pan,wheel_zoom,box_zoom,reset", toolbar_location="above", sizing_mode="stretch_width",
        height=520, background_fill_color="white", border_fill_color="white", outline_line_color="#D9D9D9",
    )  # fmt: skip
    plot.axis.visible = False
    plot.grid.visible = False
    plot.toolbar.logo = None
    style = [styles.get(label, (OTHER_COLOUR, "circle")) for label in compounds["label"]]
    is_named = compounds["label"].isin(list(styles))
    points = ColumnDataSource(name="points", data={
        "x": [np.nan if value is None else value for value in method["x"]],
        "y": [np.nan if value is None else value for value in method["y"]],
        "compound": compounds["compound"].tolist(),
        "mechanisms": ["; ".join(names) or "mechanism unknown" for names in compounds["mechanisms"]],
        "wells": compounds["wells"].tolist(),
        "nearest": nearest,
        "colour": [colour for colour, _ in style],
        "marker": [marker for _, marker in style],
        "size": [SIZES.get(marker, 10) if named else 6 for (_, marker), named in zip(style, is_named, strict=True)],
    })  # fmt: skip
    empty = {"x": [], "y": []}
    links = ColumnDataSource(name="links", data={"x0": [], "y0": [], "x1": [], "y1": []})
    plot.segment("x0", "y0", "x1", "y1", source=links, line_color="#1d2530", line_width=1.2, line_alpha=0.7)
    drawn = plot.scatter("x", "y", source=points, marker="marker", size="size", fill_color="colour",
                         line_color="white", line_width=0.5, nonselection_alpha=1)  # fmt: skip
    for name, size, width, dash in RINGS:
        rings = ColumnDataSource(name=name, data=empty)
        line = {"line_color": "#1d2530", "line_width": width, "line_dash": dash}
        plot.scatter("x", "y", source=rings, size=size, fill_alpha=0, **line)
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=TOOLTIP, limit=2), TapTool(renderers=[drawn]))
    return plot


def _embedded(data: dict) -> str:
    """Return data as JSON that may stand inside a script element, whatever names it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
