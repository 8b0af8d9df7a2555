"""One function a figure kind, one palette and one order of methods for the whole study.

Every function takes tidy tables, leaves them as they are and returns a :class:`StudyFigure`: nothing is shown,
saved or closed here. A notebook shows it under its cell, as any figure of pyplot's. What cannot be drawn
(an empty table) becomes a figure that says so in words, and a missing column a ``ValueError`` that names it.
The same tables give the same picture: jitter and label placing draw on no global state.

The marks mean the same everywhere. Squares in greys are methods that never see transcriptomics (TX), circles are
methods trained on Cell Painting (CP) and TX pairs, one hue each; filled is the true pairing, open is a control.
Black diamonds are oracles, which need the TX of the very compound. Hues stay apart under the common forms of
colour blindness (Wong 2011, doi 10.1038/nmeth.1618).
"""

from __future__ import annotations

import base64
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise, zip_longest

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

METHOD_ORDER = [
    "raw_cp",
    "sphered_cp",
    "pca_cp",
    "cell_count",
    "lda_identity",
    "ridge_tx",
    "rcca",
    "rcca_replicates",
    "autoencoder",
    "contrastive",
    "contrastive_soft",
    "tx",
    "cp_tx",
]
METHOD_LABELS = {
    "raw_cp": "raw CP",
    "sphered_cp": "sphered CP",
    "pca_cp": "PCA of CP",
    "cell_count": "cell count alone",
    "lda_identity": "LDA on identity (no TX)",
    "ridge_tx": "ridge CP→TX",
    "rcca": "regularised CCA",
    "rcca_replicates": "CCA with replicates",
    "autoencoder": "autoencoder",
    "contrastive": "contrastive",
    "contrastive_soft": "contrastive, soft targets",
    "tx": "TX itself (oracle)",
    "cp_tx": "CP and TX (oracle)",
}
METHOD_COLOURS = {
    "raw_cp": "#8E8E8E",
    "sphered_cp": "#737373",
    "pca_cp": "#595959",
    "cell_count": "#ABABAB",
    "lda_identity": "#3F3F3F",
    "ridge_tx": "#E69F00",
    "rcca": "#56B4E9",
    "rcca_replicates": "#117733",
    "autoencoder": "#0072B2",
    "contrastive": "#D55E00",
    "contrastive_soft": "#7A0177",
    "tx": "#000000",
    "cp_tx": "#252525",
}
CP_ONLY = ("raw_cp", "sphered_cp", "pca_cp", "cell_count", "lda_identity")
ORACLES = ("tx", "cp_tx")
CONTROL_ORDER = ["", "true_pairs", "deranged", "rows_shuffled", "random_codes", "untrained"]
CONTROL_LABELS = {
    "": "",
    "true_pairs": "true pairs",
    "deranged": "deranged pairs",
    "rows_shuffled": "rows shuffled",
    "random_codes": "random codes",
    "untrained": "untrained network",
}
CONTROL_MARKERS = {"deranged": "o", "rows_shuffled": "s", "random_codes": "^", "untrained": "v"}
CONTROL_LINES = {"deranged": "--", "rows_shuffled": ":", "random_codes": "-.", "untrained": (0, (1, 3))}
# Methods that a reader adds take one of these, the same one every time.
SPARE_COLOURS = ("#332288", "#999933", "#882255", "#44AA99")
CATEGORY_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#332288", "#999933")
CATEGORY_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
MODALITY_COLOURS = {"CP": "#00785A", "TX": "#AA4499"}
VERDICT_COLOURS = {
    "supported": "#00785A",
    "explained without TX": "#B35900",
    "not supported": "#A50F15",
    "inconclusive": "#555555",
    "not testable": "#777777",
}
ENDPOINT_LABELS = {
    "tx_strong_tasks": "tasks where TX excels and CP does not",
    "replicate_map": "replicates together",
    "moa_map": "mechanisms of action together",
    "family_auc": "bioactivity by target family",
}
ENDPOINT_UNITS = {"tx_strong_tasks": "ROC-AUC", "replicate_map": "mAP", "moa_map": "mAP", "family_auc": "ROC-AUC"}

SINGLE_WIDTH, FULL_WIDTH = 6.0, 7.2  # inches
SMALL, NORMAL, LARGE = 9.0, 9.5, 11.0  # points
HEAT_WIDTH = 4.6  # of the panel of a heat map with names at its left and a colour bar, about
ROW_AIR, ROW_MARK = 0.14, 0.115  # inches of a row: around its marks, and for each of them
TICK_STEPS = (1, 2, 2.5, 5, 10)  # that a reader can count in
GREY, PALE = "#777777", "#D9D9D9"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "font.size": SMALL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "figure.dpi": 100,
    "image.interpolation": "nearest",
    "text.parse_math": False,  # names of compounds and assays may hold dollar signs
    "lines.markersize": 5.5,
}
SWEEP_ROWS = 60  # settings of a sweep that a page holds
CALL_COLOURS = {"active": "#D55E00", "undecided": PALE, "inactive": "#0072B2", "neither": "#424242"}
FEATURE_COLOURS = {"used": "#009E73", "out of range": "#E69F00", "missing": "#A50F15"}
FEATURE_LABELS = {"used": "as in training", "out of range": "out of range", "missing": "missing, foretold"}


# --------------------------------------------------------------------------------------------------
# The figure, its title, its words


@contextmanager
def _study_style() -> Iterator[None]:
    """The style of the study, whatever the caller's; how files are written stays the caller's."""
    writing = {name: value for name, value in matplotlib.rcParams.items() if name.startswith(("svg.", "pdf."))}
    with matplotlib.style.context(["default", STYLE | writing]):
        yield


class StudyFigure(Figure):
    """A matplotlib figure that draws itself in the style of the study, whatever the notebook's own settings are."""

    def draw(self, renderer):
        with _study_style():
            super().draw(renderer)

    def _ipython_display_(self):
        """Show the picture in a notebook, once: also where the figure is the last line of its cell, which would
        otherwise show it a second time among the figures that pyplot still holds."""
        from IPython.display import display

        file = io.BytesIO()
        self.savefig(file, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
        picture = base64.b64encode(file.getvalue()).decode("ascii")
        # The title states what was found: what someone who can't see the picture needs first.
        words = {"image/png": {"alt": " ".join(self.get_suptitle().split())}}
        display({"image/png": picture, "text/plain": repr(self)}, metadata=words, raw=True)
        if "inline" in matplotlib.get_backend():
            plt.close(self)


def _styled(function: Callable[..., StudyFigure]) -> Callable[..., StudyFigure]:
    """Draw in the style of the study and leave the caller's settings alone."""

    @wraps(function)
    def draw(*args, **kwargs):
        with _study_style():
            return function(*args, **kwargs)

    return draw


def text_width(text: str, size: float = SMALL, weight: str = "normal") -> float:
    """Width in inches of one line of text in the study's font at `size` points."""
    font = FontProperties(family=STYLE["font.family"], size=size, weight=weight)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def wrap_text(text: str, width: float, size: float = SMALL, weight: str = "normal", max_lines: int = 0) -> str:
    """Break text into lines of at most `width` inches, at spaces, as set in the study's font.

    Parameters
    ----------
    text : str
        Line breaks in it are kept.
    width : float
        Inches. A single word that is longer stands alone on its line.
    size, weight
        Of the letters.
    max_lines : int
        If given, what is beyond this many lines is cut, with an ellipsis.

    Returns
    -------
    str
    """
    lines: list[str] = []
    for paragraph in str(text).split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and text_width(longer, size, weight) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    if max_lines:
        lines = [*lines[: max_lines - 1], *([" ".join(lines[max_lines - 1 :])] if len(lines) >= max_lines else [])]
        lines = [_shorten(line, width, size, weight) for line in lines]
    return "\n".join(lines)


def _shorten(line: str, width: float, size: float, weight: str) -> str:
    if text_width(line, size, weight) <= width:
        return line
    while line and text_width(line + "…", size, weight) > width:
        line = line[:-1]
    return line.rstrip() + "…"


def _true_minus(text: str) -> str:
    """The hyphen of a negative number as a minus sign; hyphens within and between words and numbers stay."""
    return re.sub(r"(?<![\w.)-])-(?=\.?\d)", "−", text)


def _figure(width: float, height: float, title: str) -> StudyFigure:
    """A figure with a wrapped title at its left; `height` is without the title."""
    wrapped = wrap_text(_true_minus(title), width - 0.3, LARGE, "bold") if title else ""
    lines = wrapped.count("\n") + 1 if wrapped else 0
    size = (width, height + 0.17 * lines)
    fig = plt.figure(FigureClass=StudyFigure, figsize=size, layout="constrained")
    if wrapped:
        fig.suptitle(wrapped, x=0.01, ha="left", size=LARGE, weight="bold", linespacing=1.15)
    return fig


def _nothing(title: str, reason: str, width: float = SINGLE_WIDTH) -> StudyFigure:
    """The figure of what cannot be drawn: its title, and why."""
    fig = _figure(width, 0.75, title)
    ax = fig.subplots()
    ax.set_axis_off()
    words = wrap_text(f"nothing to show: {reason}", width - 0.3, NORMAL)
    ax.text(0, 0.5, words, size=NORMAL, color=GREY, va="center", style="italic", transform=ax.transAxes)
    return fig


def _need(table: pd.DataFrame | None, columns: Iterable[str], drawn_by: str) -> pd.DataFrame:
    """A copy of the table, its index reset; an absent table is an empty one; missing columns are named."""
    if table is None:
        return pd.DataFrame(columns=list(columns))
    table = pd.DataFrame(table)
    missing = [column for column in columns if column not in table]
    if missing and len(table):
        raise ValueError(f"{drawn_by} needs the columns {', '.join(missing)}; given: {', '.join(map(str, table))}")
    return table.reset_index(drop=True).copy() if not missing else pd.DataFrame(columns=list(columns))


def _note(fig: Figure, text: str) -> None:
    """A sentence under the whole figure."""
    fig.supxlabel(
        wrap_text(text, fig.get_figwidth() - 0.3, SMALL), x=0.01, ha="left", size=SMALL, color=GREY, linespacing=1.2
    )


def _legend(
    fig: Figure, handles: Sequence, *, beside: Axes | None = None, title: str = "", labels: Sequence[str] = ()
) -> None:
    """A legend outside the panels: right of a panel, or below all in as many columns as the width holds.

    Names are the handles' own, or `labels`; then a handle may also be a tuple, whose parts stand side by side.
    """
    labels = list(labels) or [str(handle.get_label()) for handle in handles]
    options = {"handles": handles, "labels": labels, "title": title or None, "alignment": "left", "borderpad": 0.1}
    options["handler_map"] = {tuple: HandlerTuple(ndivide=None, pad=0)}
    if beside is not None:
        beside.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0, **options)
        return
    widest = max(text_width(line) for label in labels for line in label.split("\n"))
    columns = int(np.clip((fig.get_figwidth() - 0.1) // (widest + 0.5), 1, len(handles)))
    fig.legend(loc="outside lower left", ncols=columns, handlelength=1.6, columnspacing=1.2, **options)


def spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """Move positions apart to at least `gap` of each other, as little as possible in the squared sense, order kept.

    Isotonic regression of the positions less their rank times the gap, by pooling neighbours that violate the order
    (Barlow et al. 1972).
    """
    positions = np.asarray(positions, dtype=float)
    order = np.argsort(positions, kind="stable")
    blocks: list[list[float]] = []  # [mean, size]
    for rank, value in enumerate(positions[order]):
        blocks.append([value - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, size = blocks.pop()
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * size) / (blocks[-1][1] + size), blocks[-1][1] + size]
    pooled = np.concatenate([[mean] * int(size) for mean, size in blocks]) if blocks else np.zeros(0)
    result = np.empty(len(positions))
    result[order] = pooled + gap * np.arange(len(positions))
    return result


# --------------------------------------------------------------------------------------------------
# Methods and controls


def _base(method: str) -> str:
    return method.removeprefix("concat:")


def order_methods(methods: Iterable[str]) -> list[str]:
    """The distinct methods in the order of the study; ``concat:<method>`` follows its method, unknown ones come
    before the oracles."""
    first_oracle = METHOD_ORDER.index(ORACLES[0])

    def place(method: str):
        base = _base(method)
        known = base in METHOD_ORDER
        return (METHOD_ORDER.index(base) if known else first_oracle - 0.5, "" if known else base, method != base)

    return sorted({str(method) for method in methods}, key=place)


def order_controls(controls: Iterable[str]) -> list[str]:
    """The distinct controls, the true pairing first."""
    known = {name: number for number, name in enumerate(CONTROL_ORDER)}
    return sorted({str(name) for name in controls}, key=lambda name: (known.get(name, len(known)), name))


def method_label(method: str) -> str:
    """Name of a method for a reader; a method that the study does not know keeps its own."""
    label = METHOD_LABELS.get(_base(method), _base(method))
    return f"[CP, {label}]" if method.startswith("concat:") else label


def method_colour(method: str) -> str:
    """Colour of a method, ``concat:<method>`` and unknown methods included; always the same for the same name."""
    base = _base(method)
    return METHOD_COLOURS.get(base) or SPARE_COLOURS[zlib.crc32(base.encode()) % len(SPARE_COLOURS)]


def _panel_name(method: str, width: float) -> str:
    """A method's name over a panel, broken before what stands in brackets where it is too wide."""
    label = method_label(method)
    if text_width(label, NORMAL) > width:
        label = label.replace(" (", "\n(")
    return wrap_text(label, width, NORMAL)


def control_label(control: str) -> str:
    """Name of a control for a reader."""
    return CONTROL_LABELS.get(control, control)


def wide_table(table: pd.DataFrame, columns: str, value: str = "value") -> pd.DataFrame:
    """Means for a reader: a row for each method and control, by their names and in the order of the study.

    Parameters
    ----------
    table : DataFrame
        ``method, control``, ``columns`` and ``value``; values that are NaN are left out.
    columns : str
        Whose values become columns, in the order of the table.
    value : str
        What is averaged.

    Returns
    -------
    DataFrame
        Index method and control (names), one column each value of ``columns``; no rows where nothing was measured.
    """
    table = _clean_names(_need(table, ["method", "control", columns, value], "wide_table"))
    table = table[_finite(table[value])]
    means = table.astype({value: float}).groupby(["method", "control", columns], sort=False)[value].mean()
    wide = means.unstack(columns).reindex(columns=list(dict.fromkeys(table[columns])))
    rows = [
        (method, control)
        for method in order_methods(table["method"])
        for control in order_controls(table.loc[table["method"] == method, "control"])
    ]
    wide = wide.loc[rows]
    names = [(method_label(method), control_label(control)) for method, control in rows]
    wide.index = pd.MultiIndex.from_tuples(names, names=["method", "control"])
    return wide


def _is_true(control: str) -> bool:
    return control in ("", "true_pairs")


def _marker(method: str, control: str) -> dict:
    """Marker of a method and control: its kind by shape, filled for the true pairing, open for a control."""
    colour = method_colour(method)
    if not _is_true(control):
        shape = CONTROL_MARKERS.get(control, "P")
        return {"marker": shape, "mfc": "white", "mec": colour, "mew": 1.2, "ms": 4.8}
    shape = "s" if method in CP_ONLY else "D" if method in ORACLES else "o"
    return {"marker": shape, "mfc": colour, "mec": colour, "mew": 1.0, "ms": 5.0 if shape != "o" else 6.0}


def _clean_names(table: pd.DataFrame) -> pd.DataFrame:
    """Method and control as text: a csv read back has NaN where a method has no control."""
    if "control" not in table:
        table["control"] = ""
    table["control"] = table["control"].astype(object).where(table["control"].notna(), "").astype(str)
    table["method"] = table["method"].astype(str)
    return table


def _kind_handles(table: pd.DataFrame) -> list[Line2D]:
    """Legend of the marker shapes that occur; empty where all rows are of one kind."""
    pairs = set(zip(table["method"], table["control"], strict=True))
    plain = {"ls": "", "color": "none"}
    found = []
    if any(method in CP_ONLY for method, _ in pairs):
        found.append(Line2D([], [], marker="s", ms=5, mfc=GREY, mec=GREY, label="never sees TX", **plain))
    if any(_is_true(control) and method not in (*CP_ONLY, *ORACLES) for method, control in pairs):
        found.append(Line2D([], [], marker="o", ms=6, mfc=GREY, mec=GREY, label="trained on true CP–TX pairs", **plain))
    for control in order_controls(control for _, control in pairs if not _is_true(control)):
        shape = CONTROL_MARKERS.get(control, "P")
        label = f"control: {control_label(control)}"
        found.append(Line2D([], [], marker=shape, ms=4.8, mfc="white", mec=GREY, mew=1.2, label=label, **plain))
    if any(method in ORACLES for method, _ in pairs):
        label = "oracle: needs the compound's own TX"
        found.append(Line2D([], [], marker="D", ms=5, mfc="black", mec="black", label=label, **plain))
    return found if len(found) > 1 else []


# --------------------------------------------------------------------------------------------------
# Axes


def _rows(
    ax: Axes, labels: Sequence[str], *, colours: Sequence[str] | None = None, edges: np.ndarray | None = None
) -> None:
    """Name the rows of a horizontal figure, the first on top; they are one high each, or lie between `edges`."""
    edges = np.arange(len(labels) + 1) - 0.5 if edges is None else edges
    ax.set_yticks((edges[:-1] + edges[1:]) / 2, labels)
    ax.set_ylim(edges[-1] + 0.05, edges[0] - 0.05)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for tick, colour in zip(ax.get_yticklabels(), colours or [], strict=False):
        tick.set_color(colour)


def _few_ticks(ax: Axes, n: int = 5) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(n, steps=TICK_STEPS))


def _interval(ax: Axes, y: float, low: float, high: float, colour: str, *, width: float = 1.6) -> None:
    if np.isfinite(low) and np.isfinite(high):
        ax.plot([low, high], [y, y], color=colour, lw=width, solid_capstyle="butt", zorder=2)


def _series(
    ax: Axes, rows: pd.DataFrame, y: float, *, value: str = "mean", colour: str = "", step: float | None = None
) -> None:
    """The marks of one row: every control of a method with its interval, the true pairing on top.

    `step` is from one mark to the next on the axis; by default they fill a row that is one high.
    """
    controls = order_controls(rows["control"])
    step = min(0.26, 0.8 / max(len(controls), 1)) if step is None else step
    offsets = (np.arange(len(controls)) - (len(controls) - 1) / 2) * step
    for control, offset in zip(controls, offsets, strict=True):
        for _, row in rows[rows["control"] == control].iterrows():
            marker = _marker(row["method"], control)
            if colour:
                marker |= {"mec": colour, "mfc": colour if _is_true(control) else "white"}
            line = 1.8 if _is_true(control) else 1.1
            _interval(ax, y + offset, row["ci_low"], row["ci_high"], marker["mec"], width=line)
            if np.isfinite(row[value]):
                ax.plot([row[value]], [y + offset], ls="", zorder=3, **marker)


def _line_labels(ax: Axes, lines: Sequence[tuple[float, str, str]]) -> None:
    """Vertical lines with their names above the panel: (position, name, line style). Neighbours look away."""
    places = sorted(line for line in lines if np.isfinite(line[0]))
    for number, (x, name, style) in enumerate(places):
        ax.axvline(x, color=GREY, lw=1, ls=style, zorder=1)
        side, away = ("center", 0) if len(places) == 1 else ("right", -2) if number == 0 else ("left", 2)
        place = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
        ax.annotate(name, (x, 1.0), (away, 2), ha=side, va="bottom", size=SMALL, color="#555555", **place)


def _unmeasured(ax: Axes, y: float) -> None:
    transform = ax.get_yaxis_transform()
    # The white ground keeps a line of reference from crossing the words.
    look = {"size": SMALL, "color": GREY, "style": "italic", "bbox": {"fc": "white", "ec": "none", "pad": 1}}
    ax.text(0.01, y, "not measured", transform=transform, va="center", **look)


def _grid(fig: Figure, n: int, columns: int, **options) -> list[Axes]:
    """Panels in reading order, without empty ones."""
    rows = -(-n // columns)
    axes = fig.subplots(rows, columns, squeeze=False, **options).ravel()
    for ax in axes[n:]:
        ax.remove()
    return list(axes[:n])


def _finite(values: pd.Series) -> np.ndarray:
    return np.isfinite(pd.to_numeric(values, errors="coerce").to_numpy(dtype=float))


def _decimal(value: float, digits: int = 2, sign: str = "-") -> str:
    """A number with a true minus sign, and without one where it rounds to zero; sign "+" shows the plus too."""
    return f"{value:{sign}z.{digits}f}".replace("-", "−")


def _fewest_gaps(n: int, choices: Sequence[int]) -> int:
    """Panels side by side that leave the fewest places empty; the most at once where equal."""
    return n if n < min(choices) else min(choices, key=lambda across: (-n % across, -across))


# --------------------------------------------------------------------------------------------------
# Methods beside each other


def _intervals_panel(
    ax: Axes,
    table: pd.DataFrame,
    methods: list[str],
    edges: np.ndarray,
    chance: float | None,
    reference: str | None,
    chance_label: str = "chance",
) -> None:
    for y, method in zip((edges[:-1] + edges[1:]) / 2, methods, strict=True):
        rows = table[table["method"] == method]
        if _finite(rows["mean"]).any():
            _series(ax, rows, y, step=ROW_MARK)
        else:
            _unmeasured(ax, y)
    lines = [] if chance is None else [(float(chance), chance_label, "--")]
    name = "raw_cp" if reference is None else reference
    own = table[(table["method"] == name) & table["control"].map(_is_true) & _finite(table["mean"])]
    if len(own):
        lines.append((float(own["mean"].iloc[0]), method_label(name), ":"))
    _line_labels(ax, lines)
    _rows(ax, _method_names(methods), edges=edges)
    _few_ticks(ax)
    drawn = table.loc[table["method"].isin(methods), ["mean", "ci_low", "ci_high"]].to_numpy(dtype=float)
    if not np.nan_to_num(drawn).any() and chance is None:  # all are 0: no scale of its own would mean anything
        ax.set_xlim(-0.05, 1)


def _method_names(methods: Sequence[str]) -> list[str]:
    """Names of methods for the rows at the left of a panel."""
    return [wrap_text(method_label(method), 1.75) for method in methods]


def _row_edges(table: pd.DataFrame, methods: Sequence[str]) -> np.ndarray:
    """Where the rows of the methods begin and end, in inches from the top: as high as their controls ask for."""
    controls = table.groupby("method")["control"].nunique()
    lines = [name.count("\n") + 1 for name in _method_names(methods)]
    marks = [max(int(controls.get(method, 1)), n) for method, n in zip(methods, lines, strict=True)]
    return np.concatenate([[0], np.cumsum(ROW_AIR + ROW_MARK * np.array(marks))])


@_styled
def method_intervals(
    table: pd.DataFrame, *, xlabel: str, title: str, chance: float | None = None, reference: str | None = None
) -> StudyFigure:
    """One row a method: its value with the interval, its controls beneath it.

    Parameters
    ----------
    table : DataFrame
        ``method, control, mean, ci_low, ci_high``; a row of NaN is named and said not to be measured.
    xlabel : str
        What was measured, with its unit.
    chance : float, optional
        Dashed line.
    reference : str, optional
        Method whose value is the dotted line; default raw CP where it was measured.

    Returns
    -------
    StudyFigure
    """
    table = _clean_names(_need(table, ["method", "control", "mean", "ci_low", "ci_high"], "method_intervals"))
    if not _finite(table["mean"]).any():
        return _nothing(title, "no method was measured")
    methods = order_methods(table["method"])
    handles = _kind_handles(table)
    edges = _row_edges(table, methods)
    fig = _figure(SINGLE_WIDTH, 0.85 + edges[-1] + 0.35 * (len(handles) > 0), title)
    ax = fig.subplots()
    _intervals_panel(ax, table, methods, edges, chance, reference)
    ax.set_xlabel(xlabel)
    if handles:
        _legend(fig, handles)
    return fig


def _each(values, names: list[str]) -> dict:
    """One value a panel from a dict, a sequence in the panels' order, or one value for all."""
    if isinstance(values, Mapping):
        return {name: values.get(name) for name in names}
    if isinstance(values, str) or values is None or np.isscalar(values):
        return dict.fromkeys(names, values)
    return dict(zip(names, values, strict=True))


@_styled
def method_interval_panels(
    tables: Mapping[str, pd.DataFrame],
    *,
    xlabels: Mapping[str, str] | Sequence[str] | str,
    titles: Mapping[str, str] | Sequence[str] | str,
    chance: Mapping[str, float] | Sequence[float] | float | None = None,
    chance_label: str = "chance",
    title: str = "",
) -> StudyFigure:
    """Several endpoints side by side, the rows shared: see :func:`method_intervals`.

    Parameters
    ----------
    tables : dict from panel name to DataFrame
        ``method, control, mean, ci_low, ci_high`` each. An empty table's panel says so.
    xlabels, titles, chance
        One a panel: by name, in order, or one for all.
    chance_label : str
        Name of the dashed line, such as "no difference".
    title : str
        Over the whole figure.

    Returns
    -------
    StudyFigure
    """
    columns = ["method", "control", "mean", "ci_low", "ci_high"]
    cleaned = {name: _clean_names(_need(table, columns, "method_interval_panels")) for name, table in tables.items()}
    everything = pd.concat(cleaned.values()) if cleaned else pd.DataFrame(columns=columns)
    if not _finite(everything["mean"]).any():
        return _nothing(title, "no method was measured on any endpoint")
    names = list(cleaned)
    labels, heads, chances = (_each(values, names) for values in (xlabels, titles, chance))
    methods = order_methods(everything["method"])
    across = len(names) if len(names) <= 3 else 2
    down = -(-len(names) // across)
    edges = _row_edges(everything, methods)
    fig = _figure(FULL_WIDTH, 0.35 + down * (0.85 + edges[-1]), title)
    wide = (FULL_WIDTH - 2.0) / across - 0.15
    for number, (ax, name) in enumerate(zip(_grid(fig, len(names), across, sharey=True), names, strict=True)):
        if _finite(cleaned[name]["mean"]).any():
            _intervals_panel(ax, cleaned[name], methods, edges, chances[name], None, chance_label)
        else:
            _rows(ax, _method_names(methods), edges=edges)
            ax.text(0.03, 0.5, wrap_text("nothing to show: not measured", wide), transform=ax.transAxes, color=GREY)
        ax.tick_params(axis="y", labelleft=number % across == 0)
        ax.set_title(wrap_text(heads[name] or name, wide, NORMAL), pad=16)
        ax.set_xlabel(wrap_text(labels[name] or "", wide, NORMAL))
        _few_ticks(ax, 4)
        if not len(ax.lines):
            ax.set(xticks=[], xlabel="")
            ax.spines["bottom"].set_visible(False)
    handles = _kind_handles(everything)
    if handles:
        _legend(fig, handles)
    return fig


SPLIT_LABELS = {"moa": "MoA"}


def split_label(split: str) -> str:
    """Name of a split for a reader."""
    return SPLIT_LABELS.get(split, split)


@_styled
def split_intervals(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """One row of panels an endpoint, a panel a split, to see whether a gain depends on what is held out.

    Parameters
    ----------
    table : DataFrame
        ``split, endpoint, method, control, mean, ci_low, ci_high``; splits and endpoints in the order of the table.

    Returns
    -------
    StudyFigure
        The scale of an endpoint is shared by the splits.
    """
    columns = ["split", "endpoint", "method", "control", "mean", "ci_low", "ci_high"]
    table = _clean_names(_need(table, columns, "split_intervals"))
    table = table[_finite(table["mean"])]
    if not len(table):
        return _nothing(title, "no method was measured on any split")
    splits, endpoints = ([str(name) for name in dict.fromkeys(table[key])] for key in ("split", "endpoint"))
    methods = order_methods(table["method"])
    width = FULL_WIDTH if len(splits) > 1 else SINGLE_WIDTH
    edges = _row_edges(table, methods)
    fig = _figure(width, 0.35 + len(endpoints) * (0.75 + edges[-1]), title)
    panels = fig.subplots(len(endpoints), len(splits), squeeze=False, sharex="row", sharey=True)
    for endpoint, axes in zip(endpoints, panels, strict=True):
        for split, ax in zip(splits, axes, strict=True):
            own = table[(table["split"] == split) & (table["endpoint"] == endpoint)]
            _intervals_panel(ax, own, methods, edges, None, None)
            head = f"{split_label(split)} split"
            ax.set_title(wrap_text(head, (width - 2.0) / len(splits), NORMAL), pad=16)
            ax.tick_params(axis="y", labelleft=ax is axes[0])
            ax.set_xlabel(endpoint)
            _few_ticks(ax, 4)
    handles = _kind_handles(table)
    if handles:
        _legend(fig, handles)
    return fig


# --------------------------------------------------------------------------------------------------
# Training


def _mean_curve(runs: pd.DataFrame, value: str) -> pd.Series:
    """Mean over runs by epoch. A run that stopped early keeps its last value, since its network stays what it is;
    the mean ends where fewer than half of the runs still go on."""
    keys = [key for key in ("split", "repeat", "fold", "seed", "member") if key in runs]
    wide = runs.pivot_table(index="epoch", columns=keys, values=value, aggfunc="mean")
    going = wide.notna().mean(axis=1) >= 0.5
    return wide.ffill().mean(axis=1)[going]


def _thin_lines(ax: Axes, runs: pd.DataFrame, value: str, colour: str) -> None:
    keys = [key for key in ("split", "repeat", "fold", "seed", "member") if key in runs]
    groups = runs.sort_values("epoch").groupby(keys, sort=True, dropna=False) if keys else [((), runs)]
    lines = [one[["epoch", value]].to_numpy(dtype=float) for _, one in groups]
    alpha = float(np.clip(4 / max(len(lines), 1), 0.08, 0.35))
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.6, alpha=alpha, rasterized=True))
    ax.autoscale_view()


def _training_panel(ax: Axes, runs: pd.DataFrame, method: str, best_epochs: np.ndarray, chance: float | None) -> None:
    true = runs[runs["control"].map(_is_true)]
    deranged = runs[runs["control"] == "deranged"]
    colour = method_colour(method)
    ends: list[tuple[float, str, str]] = []
    parts = [
        (true, "training", "#8A8A8A", "-", "training pairs"),
        (true, "validation", colour, "-", "unseen compounds"),
        (deranged, "validation", "#8A8A8A", "--", "unseen compounds,\nderanged pairs"),
    ]
    for part, value, hue, style, name in parts:
        part = part[_finite(part[value])]
        if not len(part):
            continue
        if part is not deranged and style == "-":
            _thin_lines(ax, part, value, hue)
        mean = _mean_curve(part, value)
        ax.plot(mean.index, mean.to_numpy(), color=hue, lw=2, ls=style)
        ends.append((float(mean.iloc[-1]), name, hue if hue == colour else "#555555"))
    if chance is not None:
        ax.axhline(chance, color=GREY, lw=1, ls=":")
        ends.append((float(chance), "chance", "#555555"))
    best = best_epochs[np.isfinite(best_epochs)]
    if len(best):
        _line_labels(ax, [(float(np.median(best)), f"best epoch {np.median(best):.0f}", (0, (4, 3)))])
    ax.margins(x=0.02)
    low, high = ax.get_ylim()
    gap = (high - low) * 0.11
    for (_, name, hue), y in zip(ends, spread([end[0] for end in ends], gap), strict=True):
        ax.text(1.02, y, name, transform=ax.get_yaxis_transform(), color=hue, va="center", size=SMALL, linespacing=1.0)
    ax.set_ylim(low, high)


@_styled
def training_curves(
    history: pd.DataFrame,
    *,
    best_epochs: Iterable[float] | Mapping[str, Iterable[float]],
    ylabel: str,
    title: str,
    chance: float | None = None,
) -> StudyFigure:
    """Loss by epoch on training pairs and unseen compounds: thin lines the single runs, bold their means.

    Parameters
    ----------
    history : DataFrame
        ``split, repeat, fold, seed, method, control, member, epoch, training, validation``. A panel a method. Runs
        that stopped early keep their last value in the mean, which ends where fewer than half still go on.
    best_epochs : iterable of float, or mapping from method to such
        Where training stopped; the vertical line is their median.
    chance : float, optional
        Loss of a guess.

    Returns
    -------
    StudyFigure
    """
    history = _clean_names(_need(history, ["method", "control", "epoch", "training", "validation"], "training_curves"))
    history = history[_finite(history["training"]) | _finite(history["validation"])]
    if not len(history):
        return _nothing(title, "no network was trained with held-out compounds")
    methods = order_methods(history["method"])
    by_method = best_epochs if isinstance(best_epochs, Mapping) else dict.fromkeys(methods, best_epochs)
    across = min(len(methods), 2)
    down = -(-len(methods) // across)
    fig = _figure(SINGLE_WIDTH if across == 1 else FULL_WIDTH, 3.3 * down, title)
    for number, (ax, method) in enumerate(zip(_grid(fig, len(methods), across), methods, strict=True)):
        best = np.asarray(list(by_method.get(method) or []), dtype=float).ravel()
        _training_panel(ax, history[history["method"] == method], method, best, chance)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=TICK_STEPS))
        if number % across == 0:
            ax.set_ylabel(ylabel)
        if len(methods) > 1:
            ax.set_title(method_label(method), pad=16)
    return fig


@_styled
def parameter_choices(table: pd.DataFrame, *, xlabel: str, title: str) -> StudyFigure:
    """What the folds saw when they chose among parameters: a row of panels a method, a panel a parameter.

    Parameters
    ----------
    table : DataFrame
        ``split, repeat, fold, method, candidate, value, chosen``; a candidate is written as in
        `cpx_utils.crossfit.choose`. Each dot is a fold's mean over the candidates with that value of the parameter;
        above stands how many folds chose it.
    xlabel : str
        What candidates were scored by.

    Returns
    -------
    StudyFigure
    """
    columns = ["repeat", "fold", "method", "candidate", "value", "chosen"]
    table = _need(table, columns, "parameter_choices")
    table = table[_finite(table["value"])]
    if not len(table):
        return _nothing(title, "there was one candidate, and nothing to choose")
    pairs = table["candidate"].map(lambda words: dict(part.split("=", 1) for part in words.split(", ")))
    settings = pd.DataFrame(list(pairs), index=table.index)
    varied = {
        method: [name for name in settings if settings.loc[rows.index, name].nunique() > 1]
        for method, rows in table.groupby("method")
    }
    methods = [method for method in order_methods(table["method"]) if varied[method]]
    fig = _figure(FULL_WIDTH, 0.5 + 1.75 * len(methods), title)
    axes = fig.subplots(len(methods), max(map(len, varied.values())), sharey="row", squeeze=False)
    for row, method in zip(axes, methods, strict=True):
        for ax, name in zip_longest(row, varied[method]):
            if name is None:
                ax.set_axis_off()
                continue
            own = table[table["method"] == method]
            _choice_panel(ax, own, settings.loc[own.index, name], method_colour(method))
            words = name.replace("_", " ").removeprefix("n ").replace("cp ", "CP ").replace("tx ", "TX ")
            ax.set_xlabel(words)
        row[0].set_title(method_label(method), pad=14)
    # The panels alone: a longer label would reach the title.
    fig.supylabel(wrap_text(xlabel, 1.75 * len(methods) - 0.6, NORMAL), size=NORMAL)
    _note(fig, "A dot a fold: mean of the candidates with this value; bar: mean of the folds; n: folds that chose it.")
    return fig


def _choice_panel(ax: Axes, rows: pd.DataFrame, setting: pd.Series, colour: str) -> None:
    """Score of the candidates by one parameter's value, fold by fold, and how often each value was chosen."""
    values = sorted(setting.unique(), key=float) if setting.str.fullmatch(r"[-+.\de]+").all() else setting.unique()
    for x, value in enumerate(values):
        with_value = rows[setting == value]
        folds = with_value.groupby(["split", "repeat", "fold"])["value"].mean().to_numpy()
        places = x + (np.linspace(-0.2, 0.2, len(folds)) if len(folds) > 1 else np.zeros(1))
        ax.plot(places, folds, "o", ms=3.5, mec=colour, mfc="white", mew=0.9)
        ax.hlines(folds.mean(), x - 0.32, x + 0.32, color=colour, lw=1.6)
        won = f"n={with_value['chosen'].sum()}"
        ax.text(x, 1.0, won, transform=ax.get_xaxis_transform(), ha="center", va="bottom", size=SMALL, color="#555555")
    ax.set_xticks(range(len(values)), values)
    ax.set_xlim(-0.6, len(values) - 0.4)


# --------------------------------------------------------------------------------------------------
# The screen itself


def _plate_panel(ax: Axes, table: pd.DataFrame, plates: list[str], colour: str) -> None:
    """A plate's values as its middle 90% (thin), middle half (thick) and median (dot)."""
    values = table[_finite(table["value"])].groupby("plate")["value"]
    quantiles = values.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack().reindex(plates).to_numpy(dtype=float)
    x = np.arange(len(plates))
    thick = float(np.clip(150 / len(plates), 1.2, 7))
    ax.axhline(0, color=PALE, lw=1, zorder=0)
    ax.vlines(x, quantiles[:, 0], quantiles[:, 4], color=colour, lw=min(0.9, thick / 3))
    ax.vlines(x, quantiles[:, 1], quantiles[:, 3], color=colour, lw=thick, alpha=0.55)
    ax.plot(x, quantiles[:, 2], ls="", marker="o", ms=np.clip(thick, 1.6, 3.2), mfc="black", mec="none", zorder=3)
    ax.set_xlim(-0.7, len(plates) - 0.3)


def _plate_ticks(ax: Axes, plates: list[str]) -> None:
    # A tick label set upright needs about 0.15 inch.
    step = max(1, -(-len(plates) // 42))
    shown = range(0, len(plates), step)
    upright = len(plates) > 8 or max(map(len, plates)) > 60 // len(plates)
    names = [wrap_text(plates[i], 1.2, max_lines=1) for i in shown]
    ax.set_xticks(list(shown), names, rotation=90 if upright else 0)
    ax.set_xlabel("plate" if step == 1 else f"plate (every {step}th named)")


@_styled
def control_distributions(before: pd.DataFrame, after: pd.DataFrame, *, title: str) -> StudyFigure:
    """What plates do to negative controls before and after normalisation, one column a plate.

    Parameters
    ----------
    before, after : DataFrame
        ``plate, value``: for each plate the values of its control wells, such as the median of every feature. Each
        panel has its own scale: units differ.

    Returns
    -------
    StudyFigure
    """
    parts = {
        "before normalisation": _need(before, ["plate", "value"], "control_distributions"),
        "after normalisation": _need(after, ["plate", "value"], "control_distributions"),
    }
    parts = {name: part[_finite(part["value"])].assign(plate=part["plate"].astype(str)) for name, part in parts.items()}
    plates = list(dict.fromkeys(plate for part in parts.values() for plate in part["plate"]))
    if not plates:
        return _nothing(title, "the screen has no control wells on named plates")
    fig = _figure(FULL_WIDTH, 4.3, title)
    axes = fig.subplots(2, 1, sharex=True)
    for ax, (name, part), colour in zip(axes, parts.items(), ("#8A8A8A", CATEGORY_COLOURS[0]), strict=True):
        _plate_panel(ax, part, plates, colour)
        ax.set_title(name)
        ax.set_ylabel("feature value\nof the controls")
    axes[0].tick_params(axis="x", length=0)
    _plate_ticks(axes[1], plates)
    _note(
        fig,
        "Dot: a plate's median; thick line: its middle half; thin line: its middle 90%. The two panels' scales differ.",
    )
    return fig


def _modality_order(values: Iterable[str]) -> list[str]:
    return sorted({str(value) for value in values}, key=lambda name: [*MODALITY_COLOURS, name].index(name))


def _modality_colour(name: str) -> str:
    return MODALITY_COLOURS.get(name, CATEGORY_COLOURS[0])


@_styled
def replicate_correlations(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Densities of the correlation of replicates beside that of unrelated wells, a panel a modality.

    Parameters
    ----------
    table : DataFrame
        ``modality`` (CP, TX), ``kind`` (``replicates`` or ``different treatments``), ``correlation``.

    Returns
    -------
    StudyFigure
    """
    table = _need(table, ["modality", "kind", "correlation"], "replicate_correlations")
    table = table[_finite(table["correlation"])]
    if not len(table):
        return _nothing(title, "no treatment of this screen has replicates")
    import seaborn  # costs most of a second, and only this figure smooths

    modalities = _modality_order(table["modality"])
    fig = _figure(FULL_WIDTH if len(modalities) > 1 else SINGLE_WIDTH, 2.7, title)
    axes = _grid(fig, len(modalities), len(modalities), sharex=True)
    panels = []
    for ax, modality in zip(axes, modalities, strict=True):
        own = table[table["modality"] == modality]
        medians = []
        for kind, colour in (("different treatments", "#9A9A9A"), ("replicates", _modality_colour(modality))):
            values = own.loc[own["kind"] == kind, "correlation"].to_numpy(dtype=float)
            if not len(values):
                continue
            if np.ptp(values) > 0:
                seaborn.kdeplot(x=values, ax=ax, color=colour, fill=True, alpha=0.35, lw=1.5, cut=0, gridsize=150)
            medians.append((float(np.median(values)), kind, colour))
        panels.append((ax, medians))
        ax.set_title(modality, pad=28)
        ax.set_xlabel("correlation of two wells")
        ax.set_ylabel("density" if ax is axes[0] else "")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    for ax, medians in panels:  # when the shared scale is known
        _median_labels(ax, medians)
    return fig


def _median_labels(ax: Axes, medians: list[tuple[float, str, str]]) -> None:
    places = sorted(medians)
    for number, (x, kind, colour) in enumerate(places):
        ax.axvline(x, color=colour, lw=1.2, ls="--")
        side = "right" if x > np.mean(ax.get_xlim()) + 0.15 * np.ptp(ax.get_xlim()) else "left"
        place = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
        text = f"{kind}: median {_decimal(x)}"
        hue = colour if kind == "replicates" else "#555555"
        ax.annotate(text, (x, 1.0), (0, 2 + 11 * (len(places) - 1 - number)), ha=side, size=SMALL, color=hue, **place)


@_styled
def spectra(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """How many components hold the variance of a modality: cumulative share by component, a line a screen.

    Parameters
    ----------
    table : DataFrame
        ``screen, modality, component`` (1 is the largest), ``cumulative`` (0 to 1).

    Returns
    -------
    StudyFigure
    """
    table = _need(table, ["screen", "modality", "component", "cumulative"], "spectra")
    table = table[_finite(table["cumulative"]) & _finite(table["component"])]
    if not len(table):
        return _nothing(title, "no spectrum was computed")
    modalities, screens = _modality_order(table["modality"]), list(dict.fromkeys(table["screen"].astype(str)))
    fig = _figure(FULL_WIDTH if len(modalities) > 1 else SINGLE_WIDTH, 2.8 + 0.16 * len(screens), title)
    axes = _grid(fig, len(modalities), len(modalities), sharey=True)
    for ax, modality in zip(axes, modalities, strict=True):
        own = table[table["modality"] == modality]
        handles = []
        for number, screen in enumerate(screens):
            one = own[own["screen"].astype(str) == screen].sort_values("component")
            if not len(one):
                continue
            colour = CATEGORY_COLOURS[number % len(CATEGORY_COLOURS)]
            style = ("-", "--", "-.", ":")[number % 4]
            reached = one.loc[one["cumulative"] >= 0.9, "component"]
            count = f"{int(reached.iloc[0])}" if len(reached) else "more than there are"
            label = f"{wrap_text(screen, 2.0, max_lines=1)}: {count}"
            handles += ax.plot(one["component"], one["cumulative"], color=colour, ls=style, lw=1.8, label=label)
        ax.axhline(0.9, color=PALE, lw=1, zorder=0)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("component, largest first (logarithmic)")
        ax.set_title(modality)
        if handles:  # below, since curves that rise leave no corner surely free
            place = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.22), "borderpad": 0, "handlelength": 2.4}
            ax.legend(handles=handles, title="components that hold 90%", alignment="left", **place)
    axes[0].set_ylabel("variance explained so far")
    return fig


def _numbers(values: Sequence[float]) -> list[str]:
    """Numbers that stand beside each other, all to the same digits: none for counts and from 100 on."""
    known = [value for value in values if np.isfinite(value)]
    largest = max(map(abs, known), default=0)
    counts = largest >= 1 and all(float(value).is_integer() for value in known)
    digits = 0 if counts or largest >= 100 else 1 if largest >= 10 else 2
    return [f"{value:z,.{digits}f}".replace("-", "−") for value in values]


@_styled
def statistics_beside(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Statistics of this screen beside a reference, a panel a group, since units differ.

    Parameters
    ----------
    table : DataFrame
        ``statistic, here, reference, source`` and, for panels, ``group``. A missing reference leaves the filled dot
        alone. ``source`` names where the reference comes from.

    Returns
    -------
    StudyFigure
    """
    table = _need(table, ["statistic", "here", "reference", "source"], "statistics_beside")
    table = table[_finite(table["here"]) | _finite(table["reference"])]
    if not len(table):
        return _nothing(title, "no statistic was computed")
    table["group"] = table["group"].fillna("").astype(str) if "group" in table else ""
    groups = list(dict.fromkeys(table["group"]))
    across = 1 if len(groups) <= 3 else 2
    parts = [table[table["group"] == group].reset_index(drop=True) for group in groups]
    heights = [max(map(len, parts[i : i + across])) for i in range(0, len(parts), across)]
    width = SINGLE_WIDTH if across == 1 else FULL_WIDTH
    fig = _figure(width, 0.45 + 0.6 * len(heights) + (0.34 if across == 1 else 0.24) * sum(heights), title)
    axes = _grid(fig, len(groups), across, height_ratios=[n + 0.6 for n in heights])
    for ax, group, rows in zip(axes, groups, parts, strict=True):
        sources = rows.loc[_finite(rows["reference"]), "source"].dropna().astype(str).unique()
        shared = sources[0] if len(sources) == 1 else ""
        _dumbbells(ax, rows.assign(source="") if shared else rows)
        head = f"{group}, beside {shared}" if group and shared else group or (f"beside {shared}" if shared else "")
        ax.set_title(wrap_text(head, width / across - 0.9, NORMAL))
    own = Line2D([], [], ls="", marker="o", ms=6, color=CATEGORY_COLOURS[0], label="this screen")
    other = Line2D([], [], ls="", marker="o", ms=6, mfc="white", mec="#444444", mew=1.3, label="reference")
    _legend(fig, [own, other])
    return fig


def _dumbbells(ax: Axes, rows: pd.DataFrame) -> None:
    """One row a statistic: here and reference, joined, with both numbers at the right."""
    here, there = (pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float) for name in ("here", "reference"))
    for y, (own, other) in enumerate(zip(here, there, strict=True)):
        _interval(ax, y, own, other, PALE, width=3)
        ax.plot([other], [y], ls="", marker="o", ms=6.5, mfc="white", mec="#444444", mew=1.3, zorder=3)
        ax.plot([own], [y], ls="", marker="o", ms=5.5, color=CATEGORY_COLOURS[0], zorder=4)
        source = "" if pd.isna(rows["source"][y]) else wrap_text(str(rows["source"][y]), 1.9, max_lines=1)
        mine, theirs = _numbers([own, other])
        numbers = f"{mine} here" if np.isfinite(own) else "none here"
        numbers += f", {theirs} there" if np.isfinite(other) else ""
        place = {"transform": ax.get_yaxis_transform(), "va": "center"}
        ax.text(1.07, y, f"{numbers}\n{source}".strip(), size=SMALL, color="#555555", linespacing=1.1, **place)
    both = np.concatenate([here, there])
    both = both[np.isfinite(both)]
    if both.min() > 0 and both.max() / both.min() > 30:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        _few_ticks(ax, 3)
        if both.min() >= 0:
            ax.set_xlim(-0.06 * max(both.max(), 1e-9), 1.06 * max(both.max(), 1e-9))
    _rows(ax, [wrap_text(str(name), 1.9, max_lines=3) for name in rows["statistic"]])


@_styled
def missing_and_counts(table: pd.DataFrame, *, title: str, xlabel: str = "compounds") -> StudyFigure:
    """How many there are of each kind, such as compounds that are paired, that have a structure, an assay.

    Parameters
    ----------
    table : DataFrame
        ``what, n``, drawn in the order given.
    xlabel : str
        What is counted.

    Returns
    -------
    StudyFigure
    """
    table = _need(table, ["what", "n"], "missing_and_counts")
    table = table[_finite(table["n"])].reset_index(drop=True)
    if not len(table):
        return _nothing(title, "nothing was counted")
    fig = _figure(SINGLE_WIDTH, 0.55 + 0.27 * len(table), title)
    ax = fig.subplots()
    counts = table["n"].to_numpy(dtype=float)
    ax.barh(range(len(table)), counts, height=0.62, color=CATEGORY_COLOURS[0])
    for y, n in enumerate(counts):
        ax.annotate(f"{n:,.0f}", (n, y), (4, 0), textcoords="offset points", va="center", size=SMALL)
    _rows(ax, [wrap_text(str(what), 2.4, max_lines=2) for what in table["what"]])
    ax.set_xlim(0, max(counts.max(), 1) * 1.12)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=TICK_STEPS))
    ax.set_xlabel(xlabel)
    return fig


# --------------------------------------------------------------------------------------------------
# Retrieval and maps


def _off_diagonal_mean(matrix: np.ndarray) -> float:
    n = min(matrix.shape)
    total, count = np.nansum(matrix), np.isfinite(matrix).sum()
    diagonal = np.diagonal(matrix)[:n]
    rest = count - np.isfinite(diagonal).sum()
    return float((total - np.nansum(diagonal)) / rest) if rest else np.nan


@_styled
def similarity_matrices(
    matrices: Mapping[str, np.ndarray],
    *,
    title: str,
    label: str,
    xlabel: str = "TX of test compound",
    ylabel: str = "CP of test compound",
) -> StudyFigure:
    """Similarity of every row to every column, matrices side by side on one scale; own pairs are the diagonal.

    Parameters
    ----------
    matrices : dict from method or name to array (n_rows, n_columns)
    label : str
        What the colours measure.
    xlabel, ylabel : str

    Returns
    -------
    StudyFigure
    """
    matrices = {name: np.asarray(matrix, dtype=float) for name, matrix in matrices.items()}
    matrices = {name: matrix for name, matrix in matrices.items() if np.isfinite(matrix).any()}
    if not matrices:
        return _nothing(title, "no method maps CP and TX into one space")
    across = _fewest_gaps(len(matrices), (2, 3)) if len(matrices) != 3 else 3
    down = -(-len(matrices) // across)
    finite = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices.values()])
    top = float(np.quantile(np.abs(finite), 0.995)) or 1.0
    low, palette = (-top, "RdBu_r") if finite.min() < 0 else (0, "Reds")
    side = (FULL_WIDTH - 1.2) / max(across, 2) + 0.4
    fig = _figure(FULL_WIDTH if across > 1 else 4.6, 0.3 + down * side, title)
    axes = _grid(fig, len(matrices), across)
    for number, (ax, (name, matrix)) in enumerate(zip(axes, matrices.items(), strict=True)):
        image = ax.imshow(matrix, rasterized=True, cmap=palette, vmin=low, vmax=top)
        own, others = np.nanmean(np.diagonal(matrix)), _off_diagonal_mean(matrix)
        means = f"own {_decimal(own)}, others {_decimal(others)}"
        ax.set_title(f"{_panel_name(name, FULL_WIDTH / across - 0.6)}\n{means}")
        ax.set_xlabel(xlabel)
        if number % across == 0:
            ax.set_ylabel(ylabel)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True, steps=TICK_STEPS))
        ax.spines[:].set_visible(True)
    tall = down * side * 0.7
    label = wrap_text(label, tall, NORMAL)
    fig.colorbar(image, ax=axes, label=label, shrink=0.7, aspect=12 * max(down, 1.5), extend="both")
    _note(fig, "Own: mean of the diagonal, the compounds' own pairs; others: mean off the diagonal.")
    return fig


@_styled
def retrieval_curves(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Share of compounds whose own TX profile is among the nearest x%: the further up and left, the better.

    Parameters
    ----------
    table : DataFrame
        ``method, control, rank_share`` (rank of the own profile over the number of candidates, 0 to 1),
        ``share_of_compounds`` (0 to 1, cumulative), ``ci_low, ci_high`` (its interval; drawn for true pairs).

    Returns
    -------
    StudyFigure
        The legend says how many compounds have their own profile among the nearest tenth; chance is 10%.
    """
    columns = ["method", "control", "rank_share", "share_of_compounds", "ci_low", "ci_high"]
    table = _clean_names(_need(table, columns, "retrieval_curves"))
    table = table[_finite(table["rank_share"]) & _finite(table["share_of_compounds"])]
    if not len(table):
        return _nothing(title, "no method maps CP and TX into one space")
    n_curves = len(table[["method", "control"]].drop_duplicates())
    fig = _figure(SINGLE_WIDTH, max(3.5, 0.8 + 0.187 * (n_curves + 3)), title)
    ax = fig.subplots()
    ax.axvline(0.1, color=PALE, lw=1, zorder=0)
    handles = []
    for method in order_methods(table["method"]):
        own = table[table["method"] == method]
        for control in order_controls(own["control"]):
            curve = own[own["control"] == control].sort_values(["rank_share", "share_of_compounds"])
            x, y = curve["rank_share"].to_numpy(dtype=float), curve["share_of_compounds"].to_numpy(dtype=float)
            within = y[x <= 0.1 + 1e-9].max(initial=0.0)
            name = method_label(method) if _is_true(control) else f"   {control_label(control)}"
            style = "-" if _is_true(control) else CONTROL_LINES.get(control, "--")
            width = 2.0 if _is_true(control) else 1.2
            line = {"color": method_colour(method), "ls": style, "lw": width, "label": f"{name}: {100 * within:.0f}%"}
            handles += ax.plot(np.r_[0, x, 1], np.r_[0, y, y[-1]], **line)
            if _is_true(control):
                band = curve["ci_low"].to_numpy(dtype=float), curve["ci_high"].to_numpy(dtype=float)
                ax.fill_between(x, *band, color=method_colour(method), alpha=0.15, lw=0, zorder=0)
    handles += ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (1, 1.5)), label="chance: 10%")
    ax.set(xlim=(0, 1), ylim=(0, 1.01))
    ax.set(xlabel="nearest share of all TX profiles", ylabel="compounds that found their own")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    _legend(fig, handles, beside=ax, title="own profile among\nthe nearest 10% for")
    _note(fig, "Band: 95% interval over compounds.")
    return fig


SIZE_ENDPOINTS = {"replicate_map": "replicate mAP", "moa_map": "MoA mAP", "roc_auc": "mean ROC-AUC of tasks"}


@_styled
def data_size_curves(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Each endpoint by the number of compounds that an encoder was trained on, a panel an endpoint.

    Parameters
    ----------
    table : DataFrame
        ``method, control, n_compounds, endpoint`` (a key of `SIZE_ENDPOINTS`), ``mean, ci_low, ci_high``.

    Returns
    -------
    StudyFigure
        Filled markers and full lines for true pairs and methods without TX, open and dashed for controls.
    """
    columns = ["method", "control", "n_compounds", "endpoint", "mean", "ci_low", "ci_high"]
    table = _clean_names(_need(table, columns, "data_size_curves"))
    table = table[_finite(table["mean"])]
    if not len(table):
        return _nothing(title, "no endpoint could be measured")
    endpoints = [name for name in SIZE_ENDPOINTS if (table["endpoint"] == name).any()]
    fig = _figure(FULL_WIDTH, 3.5, title)
    axes = _grid(fig, len(endpoints), len(endpoints))
    sizes = np.sort(table["n_compounds"].unique()).astype(float)
    handles: dict[tuple[str, str], Line2D] = {}
    for ax, endpoint in zip(axes, endpoints, strict=True):
        own = table[table["endpoint"] == endpoint]
        lines = [(m, c) for m in order_methods(own["method"]) for c in order_controls(own["control"])]
        lines = [one for one in lines if ((own["method"] == one[0]) & (own["control"] == one[1])).any()]
        # Side by side at each size, since intervals on top of each other can't be read.
        for shift, (method, control) in zip(np.linspace(-0.06, 0.06, len(lines)), lines, strict=True):
            rows = own[(own["method"] == method) & (own["control"] == control)].sort_values("n_compounds")
            x, true = rows["n_compounds"].to_numpy(dtype=float) * np.exp(shift), _is_true(control)
            colour = method_colour(method)
            ax.vlines(x, rows["ci_low"], rows["ci_high"], color=colour, lw=1.3 if true else 0.9)
            label = method_label(method) if true else f"{method_label(method)}, {control_label(control)}"
            style = {"ls": "-" if true else "--", "lw": 1.5 if true else 1, "color": colour}
            mark = _marker(method, control) | {"ms": 4.5}
            handles[method, control] = ax.plot(x, rows["mean"], label=label, **style, **mark)[0]
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.minorticks_off()
        ax.set_title(SIZE_ENDPOINTS[endpoint])
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
    axes[0].set_ylabel("value on unseen compounds")
    axes[len(axes) // 2].set_xlabel("training compounds with TX")
    order = {method: number for number, method in enumerate(order_methods(name for name, _ in handles))}
    _legend(fig, [handles[key] for key in sorted(handles, key=lambda key: (order[key[0]], not _is_true(key[1])))])
    return fig


@_styled
def verdict_calibration(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """How often a claim is called supported, by setting, with 95% intervals: a panel a setting.

    Parameters
    ----------
    table : DataFrame
        ``setting, claim, method, screens, share, ci_low, ci_high`` and ``limit`` (the rate that must not be passed, or
        that must be reached), from `benchmarks/verdict_calibration.py`.

    Returns
    -------
    StudyFigure
    """
    columns = ["setting", "claim", "method", "screens", "share", "ci_low", "ci_high", "limit"]
    table = _need(table, columns, "verdict_calibration")
    if not len(table):
        return _nothing(title, "no screen was simulated")
    settings = list(dict.fromkeys(table["setting"]))
    fig = _figure(FULL_WIDTH, 3.2, title)
    axes = _grid(fig, len(settings), len(settings), sharey=True)
    methods = order_methods(table["method"])
    for ax, setting in zip(axes, settings, strict=True):
        own = table[table["setting"] == setting]
        for shift, method in zip(np.linspace(-0.22, 0.22, len(methods)), methods, strict=True):
            rows = own[own["method"] == method]
            y, colour = rows["claim"].to_numpy(dtype=float) + shift, method_colour(method)
            ax.hlines(y, 100 * rows["ci_low"], 100 * rows["ci_high"], color=colour, lw=1.6)
            ax.plot(100 * rows["share"], y, ls="", marker="o", ms=5, color=colour, label=method_label(method))
        for claim, limit in own.groupby("claim")["limit"].first().dropna().items():
            ax.plot([100 * limit] * 2, [claim - 0.45, claim + 0.45], color=GREY, ls=":", lw=1.2)
        ax.set(xlim=(-2, 102), title=f"{setting}\n({own['screens'].iloc[0]} screens)")
        ax.set_xlabel("called supported (%)")
        ax.set_yticks([1, 2, 3, 4], [f"claim {number}" for number in (1, 2, 3, 4)])
    axes[0].invert_yaxis()
    _legend(fig, axes[0].get_legend_handles_labels()[0])
    return fig


@_styled
def scaling_curves(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Time against size on logarithmic axes, a panel a kind of work; dotted, the growth that is allowed.

    Parameters
    ----------
    table : DataFrame
        ``work, unit`` (what grows), ``size, seconds, exponent`` (fitted) and ``limit`` (the exponent of the dotted
        line), from `benchmarks/run.py`.

    Returns
    -------
    StudyFigure
    """
    table = _need(table, ["work", "unit", "size", "seconds", "exponent", "limit"], "scaling_curves")
    if not len(table):
        return _nothing(title, "nothing was measured")
    works = list(dict.fromkeys(table["work"]))
    columns = min(3, len(works))
    fig = _figure(FULL_WIDTH, 2.3 * -(-len(works) // columns) + 0.3, title)
    for ax, work in zip(_grid(fig, len(works), columns), works, strict=True):
        own = table[table["work"] == work].sort_values("size")
        size, seconds = own["size"].to_numpy(float), own["seconds"].to_numpy(float)
        exponent, limit = own["exponent"].iloc[0], own["limit"].iloc[0]
        ax.plot(size, seconds[0] * (size / size[0]) ** limit, color=GREY, ls=":", lw=1.2)
        ax.plot(size, seconds, marker="o", ms=4.5, color=CATEGORY_COLOURS[0])
        ax.set(xscale="log", yscale="log", xlabel=own["unit"].iloc[0], ylabel="seconds")
        ax.set_title(f"{wrap_text(work, 2.1, NORMAL)}\nexponent {exponent:.2f}, dotted {limit:.0f}")
        ax.set_xticks(size, [f"{one:,.0f}" for one in size])
        ax.set_yticks(seconds[[0, -1]], [f"{one:.2g}" for one in seconds[[0, -1]]])
        ax.minorticks_off()
    return fig


@_styled
def embedding_maps(table: pd.DataFrame, *, title: str, label_order: Sequence[str]) -> StudyFigure:
    """Two-dimensional maps of the embeddings, a panel a method, the named labels coloured.

    Parameters
    ----------
    table : DataFrame
        ``method, x, y, label``; labels not in `label_order` are small and grey.
    label_order : sequence of str
        At most eight are told apart; further ones are grey too.

    Returns
    -------
    StudyFigure
    """
    table = _clean_names(_need(table, ["method", "x", "y", "label"], "embedding_maps"))
    table = table[_finite(table["x"]) & _finite(table["y"])]
    if not len(table):
        return _nothing(title, "no embedding was mapped")
    labels = [str(name) for name in label_order if str(name) != "other"][: len(CATEGORY_COLOURS)]
    methods = order_methods(table["method"])
    across = _fewest_gaps(len(methods), (3, 4, 5)) if len(methods) != 4 else 4
    down = -(-len(methods) // across)
    side = FULL_WIDTH / max(across, 2)
    fig = _figure(FULL_WIDTH if across > 1 else 4.4, down * (side + 0.2) + 0.2 + 0.2 * -(-len(labels) // 3), title)
    styles = list(zip(labels, CATEGORY_COLOURS, CATEGORY_MARKERS, strict=False))
    for ax, method in zip(_grid(fig, len(methods), across), methods, strict=True):
        own = table[table["method"] == method]
        named = own["label"].astype(str)
        grey = own[~named.isin(labels)]
        ax.scatter(grey["x"], grey["y"], s=3, color="#C4C4C4", lw=0, rasterized=True)
        for label, colour, marker in styles:
            one = own[named == label]
            ax.scatter(one["x"], one["y"], s=16, color=colour, marker=marker, lw=0.3, ec="white", rasterized=True)
        ax.set_title(_panel_name(method, side - 0.15))
        ax.set(xticks=[], yticks=[], box_aspect=1)
        ax.spines[:].set_visible(True)
        ax.spines[:].set_color(PALE)
    handles = [
        Line2D([], [], ls="", marker=marker, ms=5.5, color=colour, label=wrap_text(label, 3.2, max_lines=1))
        for label, colour, marker in styles
    ]
    handles.append(Line2D([], [], ls="", marker="o", ms=2.5, color="#C4C4C4", label="other"))
    _legend(fig, handles, title="UMAP: for the eye only, nothing is measured on it")
    return fig


# --------------------------------------------------------------------------------------------------
# Bioactivity


def _leading_families(table: pd.DataFrame, chosen: np.ndarray, n: int) -> list[str]:
    """The families with most chosen tasks, then most tasks; "other" is none."""
    counts = table.assign(chosen=chosen).groupby("family")["chosen"].agg(["sum", "size"]).drop("other", errors="ignore")
    return sorted(counts.index, key=lambda name: (-counts.loc[name, "sum"], -counts.loc[name, "size"], name))[:n]


# Where a name may stand around its point, in points. Only beside it is it plain whose name it is; else a line says so.
BESIDE = ((6, 0), (-6, 0))
AWAY = tuple((dx, dy) for dy in (12, -12, 22, -22, 34) for dx in (12, -12, 28, -28))


def _label_points(ax: Axes, points: np.ndarray, labels: Sequence[str], avoid: np.ndarray) -> int:
    """Name points where there is a free place; those that find none stay without. Returns how many were named."""
    renderer = ax.figure.canvas.get_renderer()
    ax.figure.draw_without_rendering()
    frame = ax.get_window_extent(renderer)
    marks = ax.transData.transform(avoid)
    reach = 4 * ax.figure.dpi / 72  # a mark's radius and some air, in pixels
    taken: list = []
    for (x, y), label in zip(points, labels, strict=True):
        for dx, dy in BESIDE + AWAY:
            line = {"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 0, "shrinkB": 3} if dy else None
            text = ax.annotate(
                label, (x, y), (dx, dy), textcoords="offset points", size=SMALL, va="center",
                ha="left" if dx > 0 else "right", arrowprops=line, linespacing=1.0,
            )  # fmt: skip
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # legible across a line
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # of the words, without the line
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            others = marks[np.hypot(*(marks - ax.transData.transform((x, y))).T) > 0.5]
            covered = ((others > box.min - reach) & (others < box.max + reach)).all(axis=1).any()
            box = box.padded(reach / 2)
            if inside and not covered and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
    return len(taken)


@_styled
def task_scatter(table: pd.DataFrame, *, title: str, tx_min: float, margin: float, n_named: int = 6) -> StudyFigure:
    """Every task by what raw CP and measured TX reach on it; shaded: TX strong and CP weak.

    Parameters
    ----------
    table : DataFrame
        ``task, family, cp_auc, tx_auc`` (ROC-AUC).
    tx_min, margin : float
        Chosen tasks have ``tx_auc >= tx_min`` and ``tx_auc - cp_auc >= margin``.
    n_named : int
        So many of the chosen tasks, those with the largest difference, are named where there is room.

    Returns
    -------
    StudyFigure
    """
    table = _need(table, ["task", "family", "cp_auc", "tx_auc"], "task_scatter")
    table = table[_finite(table["cp_auc"]) & _finite(table["tx_auc"])].reset_index(drop=True)
    if not len(table):
        return _nothing(title, "no task was measured with both CP and TX")
    table["family"] = table["family"].fillna("other").astype(str)
    points = table[["cp_auc", "tx_auc"]].to_numpy(dtype=float)
    gap = points[:, 1] - points[:, 0]
    chosen = (points[:, 1] >= tx_min) & (gap >= margin)
    low = min(0.45, float(points.min()) - 0.03)
    high = max(min(1.01, float(points.max()) + 0.05), tx_min + 0.02)
    fig = _figure(SINGLE_WIDTH, 4.1, title)
    ax = fig.subplots()
    corner = tx_min - margin
    ax.fill([low, max(corner, low), high - margin, low], [tx_min, tx_min, high, high], color="#FFF1D6", lw=0, zorder=0)
    ax.plot([low, high], [low, high], color=GREY, lw=1, ls="--", zorder=1)
    families = _leading_families(table, chosen, len(CATEGORY_COLOURS) - 1)
    handles = _family_points(ax, table, families, chosen)
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.set_xlabel("raw CP, ROC-AUC")
    ax.set_ylabel("measured TX (oracle), ROC-AUC")
    rule = f"chosen (filled): TX ≥ {tx_min:g} and\nTX − CP ≥ {margin:g} ({chosen.sum()} of {len(table)})"
    handles.append(Patch(color="#FFF1D6", label=rule))
    handles.append(Line2D([], [], color=GREY, ls="--", lw=1, label="TX as good as CP"))
    _legend(fig, handles, beside=ax)
    widest = [i for i in np.argsort(-gap, kind="stable") if chosen[i]][:n_named]
    _label_points(ax, points[widest], [wrap_text(str(table["task"][i]), 1.45, max_lines=3) for i in widest], points)
    return fig


def _family_points(ax: Axes, table: pd.DataFrame, families: list[str], chosen: np.ndarray) -> list[Line2D]:
    handles = []
    rest = ~table["family"].isin(families)
    parts = [(family, table["family"] == family) for family in families]
    parts += [("other families" if families else "tasks", rest)] if rest.any() else []
    for number, (family, own) in enumerate(parts):
        colour = CATEGORY_COLOURS[number] if family in families else "#9A9A9A"
        marker = CATEGORY_MARKERS[number] if family in families else "o"
        own = own.to_numpy(dtype=bool)
        for part, face, size in ((own & ~chosen, "white", 18), (own & chosen, colour, 28)):
            ax.scatter(
                table.loc[part, "cp_auc"], table.loc[part, "tx_auc"], s=size, marker=marker, fc=face, ec=colour, lw=0.9,
                zorder=3, rasterized=True,
            )  # fmt: skip
        label = wrap_text(f"{family} ({own.sum()})", 1.7, max_lines=2)
        handles.append(Line2D([], [], ls="", marker=marker, ms=5.5, color=colour, label=label))
    return handles


@_styled
def chosen_and_measured(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Gain on chosen tasks, measured where they were chosen and on other compounds: the first flatters.

    Parameters
    ----------
    table : DataFrame
        ``method, how`` (``same compounds`` or ``other half``), ``mean, ci_low, ci_high``: difference to raw CP in
        ROC-AUC.

    Returns
    -------
    StudyFigure
    """
    table = _clean_names(_need(table, ["method", "how", "mean", "ci_low", "ci_high"], "chosen_and_measured"))
    if not _finite(table["mean"]).any():
        return _nothing(title, "no task was chosen: on none does TX excel where CP does not")
    methods = order_methods(table["method"])
    names = {
        "same compounds": "chosen and measured on the same compounds: flatters every method",
        "other half": "chosen on one half of the compounds, measured on the other",
    }
    fig = _figure(SINGLE_WIDTH, 1.05 + 0.38 * len(methods), title)
    ax = fig.subplots()
    _line_labels(ax, [(0.0, "raw CP", ":")])
    for y, method in enumerate(methods):
        rows = table[table["method"] == method].drop_duplicates("how").set_index("how")
        colour = method_colour(method)
        ends = {}
        for how, offset, face in (("same compounds", -0.17, "white"), ("other half", 0.17, colour)):
            if how not in rows.index or not np.isfinite(rows.loc[how, "mean"]):
                continue
            row = rows.loc[how]
            ends[how] = (row["mean"], y + offset)
            _interval(ax, y + offset, row["ci_low"], row["ci_high"], colour, width=1.1 if face == "white" else 1.8)
            ax.plot([row["mean"]], [y + offset], ls="", marker="o", ms=5.5, mfc=face, mec=colour, mew=1.2, zorder=3)
        if not ends:
            _unmeasured(ax, y)
    _rows(ax, _method_names(methods))
    _few_ticks(ax)
    ax.set_xlabel("difference to raw CP in ROC-AUC, mean over the chosen tasks")
    mark = {"ls": "", "marker": "o", "ms": 5.5, "mec": GREY, "mew": 1.2}
    faces = {"same compounds": "white", "other half": GREY}
    shown = [how for how in names if (table["how"] == how).any()]
    _legend(fig, [Line2D([], [], mfc=faces[how], label=names[how], **mark) for how in shown])
    return fig


def _family_order(table: pd.DataFrame) -> list[str]:
    """Tested families by falling effect of the true pairs, then untested ones, "other" last."""
    true = table[table["control"].map(_is_true)]
    effect = true.groupby("family")["effect"].mean()
    tested = table.groupby("family")["tested"].any()
    return sorted(tested.index, key=lambda f: (f == "other", not tested[f], -np.nan_to_num(effect.get(f, np.nan)), f))


@_styled
def family_gains(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Gain in each target family, a panel a method, rows shared; families of too few tasks grey.

    Parameters
    ----------
    table : DataFrame
        ``family, n_tasks, method, control, effect, ci_low, ci_high`` (difference to raw CP in ROC-AUC), ``tested``
        (bool).

    Returns
    -------
    StudyFigure
    """
    columns = ["family", "n_tasks", "method", "control", "effect", "ci_low", "ci_high", "tested"]
    table = _clean_names(_need(table, columns, "family_gains"))
    if not _finite(table["effect"]).any():
        return _nothing(title, "no target family was measured")
    table["family"] = table["family"].fillna("other").astype(str)
    table["tested"] = table["tested"].fillna(False).astype(bool)
    families, methods = _family_order(table), order_methods(table["method"])
    counts, tested = table.groupby("family")["n_tasks"].max(), table.groupby("family")["tested"].any()
    labels = [wrap_text(f"{family} ({counts[family]:.0f})", 2.35, max_lines=2) for family in families]
    across = min(len(methods), 4)
    down = -(-len(methods) // across)
    height = _family_row_height(table, labels) * len(families)
    fig = _figure(FULL_WIDTH if across > 1 else SINGLE_WIDTH, down * (height + 0.8) + 0.45, title)
    axes = _grid(fig, len(methods), across, sharey=True, sharex=True)
    for number, (ax, method) in enumerate(zip(axes, methods, strict=True)):
        ax.axvline(0, color=GREY, lw=1, ls=":", zorder=1)
        for y, family in enumerate(families):
            own = table[(table["method"] == method) & (table["family"] == family)]
            _series(ax, own, y, value="effect", colour="" if tested[family] else "#B0B0B0")
        _rows(ax, labels, colours=["black" if tested[family] else GREY for family in families])
        ax.tick_params(axis="y", labelleft=number % across == 0)
        wide = (fig.get_figwidth() - 2.5) / across - 0.1
        ax.set_title(_panel_name(method, wide))
        ax.set_xlabel(wrap_text("difference to raw CP in ROC-AUC", wide, NORMAL))
        _few_ticks(ax, 4 if across < 4 else 2)
        if across == 4:  # no room for zeros behind the point
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    _family_legend(fig, table)
    return fig


def _family_row_height(table: pd.DataFrame, labels: list[str]) -> float:
    controls = int(table.groupby(["method", "family"])["control"].nunique().max())
    return max(0.17 + 0.07 * controls, 0.3 if any("\n" in label for label in labels) else 0)


def _family_legend(fig: Figure, table: pd.DataFrame) -> None:
    handles = _kind_handles(table)
    if not table["tested"].all():
        handles.append(
            Line2D([], [], ls="", marker="o", ms=6, color="#B0B0B0", label="too few tasks: shown, not tested")
        )
    if handles:
        _legend(fig, handles, title="In brackets: number of tasks")
    else:
        _note(fig, "In brackets: number of tasks")


@_styled
def task_gains(table: pd.DataFrame, *, title: str, seed: int = 0) -> StudyFigure:
    """Every task's gain over raw CP as a dot, with the median of each method and control.

    Parameters
    ----------
    table : DataFrame
        ``method, control, task, gain`` (difference in ROC-AUC).
    seed : int
        Of the vertical jitter, which means nothing.

    Returns
    -------
    StudyFigure
    """
    table = _clean_names(_need(table, ["method", "control", "task", "gain"], "task_gains"))
    table = table[_finite(table["gain"])]
    if not len(table):
        return _nothing(title, "no task was measured")
    rows = [
        (method, control)
        for method in order_methods(table["method"])
        for control in order_controls(table.loc[table["method"] == method, "control"])
    ]
    rng = np.random.default_rng(seed)
    fig = _figure(SINGLE_WIDTH, 0.85 + 0.34 * len(rows), title)
    ax = fig.subplots()
    _line_labels(ax, [(0.0, "raw CP", ":")])
    counts = table.groupby(["method", "control"]).size()
    same = counts.nunique() == 1
    of = f"of {counts.iloc[0]} tasks" if same else "of tasks"
    ax.text(1.02, 1.0, f"median, share\n{of} that gain", transform=ax.transAxes, va="bottom", size=SMALL)
    for y, (method, control) in enumerate(rows):
        gains = table.loc[(table["method"] == method) & (table["control"] == control), "gain"].to_numpy(dtype=float)
        colour, true = method_colour(method), _is_true(control)
        jitter = y + rng.uniform(-0.28, 0.28, len(gains))
        size = float(np.clip(900 / len(gains), 4, 16))
        ax.scatter(
            gains, jitter, s=size, fc=colour if true else "white", ec=colour, lw=0.6, alpha=0.65, rasterized=True
        )
        median = float(np.median(gains))
        ax.plot([median, median], [y - 0.38, y + 0.38], color="black", lw=2, zorder=4)
        text = f"{_decimal(median, 3, '+')}, {100 * np.mean(gains > 0):.0f}%"
        text += "" if same else f" of {len(gains)}"
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", size=SMALL)
    names = [
        wrap_text(method_label(method), 1.75) if _is_true(control) else f"{control_label(control)}"
        for method, control in rows
    ]
    _rows(ax, names, colours=["black" if _is_true(control) else GREY for _, control in rows])
    _few_ticks(ax)
    ax.set_xlabel("difference to raw CP in ROC-AUC, a dot a task")
    return fig


# --------------------------------------------------------------------------------------------------
# Claims


def _claim_groups(claims: pd.DataFrame) -> list[tuple[pd.Series, pd.DataFrame]]:
    """For each screen and claim: the row with the verdict, and the comparisons of its method and endpoint."""
    groups = []
    for _, own in claims.groupby(["screen", "claim"], sort=False):
        ruled = own[own["verdict"] != ""]
        head = (ruled if len(ruled) else own).iloc[0]
        same = own[(own["endpoint"] == head["endpoint"]) & (own["method"] == head["method"]) & _finite(own["effect"])]
        wanted = same["reference"].isin(["raw_cp", "deranged"]) | (same["role"] == "best CP-only")
        order = same["reference"].map(lambda name: {"raw_cp": 0, "deranged": 2}.get(name, 1))
        groups.append((head, same[wanted].assign(order=order[wanted]).sort_values("order", kind="stable")))
    return groups


def _reference_label(row: pd.Series) -> str:
    if row["reference"] == "deranged":
        return "itself on deranged pairs"
    name = method_label(row["reference"])
    return f"{name.removesuffix(' (no TX)')}, best without TX" if row["role"] == "best CP-only" else name


def _claim_words(head: pd.Series, rows: pd.DataFrame, several: bool, width: float) -> tuple[str, str, str]:
    """Name, verdict and (reason, what would change it) of a claim, wrapped to their places.

    `width` is that of a panel without comparisons, in inches.
    """
    name = head["claim_name"] or ENDPOINT_LABELS.get(head["endpoint"], head["endpoint"])
    if not name.lower().startswith("claim"):
        name = f"Claim {head['claim']}: {name}"
    name = wrap_text(f"{head['screen']}: {name}" if several else name, 5.1, NORMAL, "bold")
    reason = head["reason"] if head["verdict"] else ""
    if reason and head["would_change"] and len(rows):
        reason += f". What would change it: {head['would_change']}"
    return (
        name,
        wrap_text(head["verdict"], 1.6, NORMAL, "bold"),
        wrap_text(_true_minus(reason), 1.65 if len(rows) else width),
    )


def _claim_rows(words: tuple[str, str, str], rows: pd.DataFrame) -> float:
    """Height of a claim's panel in rows: of its comparisons, or of the words beside them."""
    if not len(rows):
        return 0.6 * (1 + words[2].count("\n"))
    lines = 1.2 + words[1].count("\n") + (1 + words[2].count("\n") if words[2] else 0)
    return max(len(rows), 0.5 * lines)


def _claim_panel(ax: Axes, head: pd.Series, rows: pd.DataFrame, words: tuple[str, str, str]) -> None:
    name, ruled, reason = words
    ax.set_title(name, weight="bold", pad=5)
    colour = VERDICT_COLOURS.get(head["verdict"], GREY)
    ax.text(1.03, 1.0, ruled, transform=ax.transAxes, va="top", size=NORMAL, weight="bold", color=colour)
    quiet = {"size": SMALL, "color": "#555555", "linespacing": 1.15, "va": "top"}
    if not len(rows):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.text(0, 1.0, reason or "no comparison was made", transform=ax.transAxes, style="italic", **quiet)
        return
    beneath = -13 * (ruled.count("\n") + 1)
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    ax.annotate(reason, (1.03, 1.0), (0, beneath), **place, **quiet)
    ax.axvline(0, color=GREY, lw=1, ls=":", zorder=1)
    for y, (_, row) in enumerate(rows.iterrows()):
        hue = method_colour(row["method"])
        _interval(ax, y, row["ci_low"], row["ci_high"], hue, width=2)
        ax.plot([row["effect"]], [y], ls="", marker="o", ms=6.5, color=hue, zorder=3)
        if np.isfinite(row["deranged_effect"]):
            beneath = y + 0.3  # the axis points down
            _interval(ax, beneath, row["deranged_low"], row["deranged_high"], hue, width=0.9)
            ax.plot([row["deranged_effect"]], [beneath], ls="", marker="o", ms=4.5, mfc="white", color=hue, zorder=3)
    _rows(ax, [wrap_text(_reference_label(row), 2.25) for _, row in rows.iterrows()])
    _few_ticks(ax)
    unit = ENDPOINT_UNITS.get(head["endpoint"], "endpoint")
    ax.set_xlabel(f"{method_label(head['method'])} minus reference, {unit}", labelpad=1)


@_styled
def claims_forest(claims: pd.DataFrame, *, title: str) -> StudyFigure:
    """The verdict of each claim with the comparisons behind it, a panel a claim: units differ.

    Parameters
    ----------
    claims : DataFrame
        The claims table: ``screen, claim, endpoint, method, reference, effect, ci_low, ci_high, verdict``, and where
        there are, ``claim_name`` (the claim in words), ``role``, ``reason``, ``would_change`` and ``deranged_effect,
        deranged_low, deranged_high``. The method of the row that carries the verdict is drawn: against raw CP, the
        best method without TX, and itself trained on deranged pairs; and, open and smaller, its deranged control
        against the same references.

    Returns
    -------
    StudyFigure
    """
    needed = ["claim", "endpoint", "method", "reference", "effect", "ci_low", "ci_high", "verdict"]
    claims = _need(claims, needed, "claims_forest")
    if not len(claims):
        return _nothing(title, "no claim was weighed")
    for name in ("deranged_effect", "deranged_low", "deranged_high"):
        claims[name] = claims[name].astype(float) if name in claims else np.nan
    for name in ("screen", "claim_name", "role", "reason", "would_change", "verdict", "method", "reference"):
        claims[name] = claims[name].astype(object).where(claims[name].notna(), "").astype(str) if name in claims else ""
    groups = _claim_groups(claims)
    several = claims["screen"].nunique() > 1
    # The names of references, where there are any, leave less room for the panels.
    width = 3.4 if any(len(rows) for _, rows in groups) else 5.2
    words = [_claim_words(head, rows, several, width) for head, rows in groups]
    heights = [_claim_rows(said, rows) for said, (_, rows) in zip(words, groups, strict=True)]
    # Inches for the name of the claim and, under comparisons, for their axis.
    around = [
        0.2 + 0.15 * said[0].count("\n") + (0.5 if len(rows) else 0)
        for said, (_, rows) in zip(words, groups, strict=True)
    ]
    fig = _figure(FULL_WIDTH, 0.35 + 0.3 * sum(heights) + sum(around), title)
    fig.get_layout_engine().set(h_pad=0.07)
    axes = fig.subplots(len(groups), 1, squeeze=False, height_ratios=heights).ravel()
    for ax, (head, rows), said in zip(axes, groups, words, strict=True):
        _claim_panel(ax, head, rows, said)
    if any(len(rows) for _, rows in groups):
        _note(
            fig,
            "Lines: 95% intervals. Right of the dotted line the method is better than the reference at the left. "
            "Open: the same method on deranged pairs, against the same reference.",
        )
    return fig


@_styled
def gain_decomposition(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """The gain over raw CP in two parts: what training without matched TX gives already, and what matched TX adds.

    Parameters
    ----------
    table : DataFrame
        ``endpoint, method, part`` (``without TX``: deranged pairs minus raw CP; ``from TX``: true minus deranged
        pairs), ``effect, ci_low, ci_high``.

    Returns
    -------
    StudyFigure
    """
    table = _clean_names(
        _need(table, ["endpoint", "method", "part", "effect", "ci_low", "ci_high"], "gain_decomposition")
    )
    table = table[_finite(table["effect"])]
    if not len(table):
        return _nothing(title, "no method was trained on true and on deranged pairs")
    endpoints = list(dict.fromkeys(table["endpoint"].astype(str)))
    methods = order_methods(table["method"])
    across = min(len(endpoints), 2)
    down = -(-len(endpoints) // across)
    fig = _figure(FULL_WIDTH if across > 1 else SINGLE_WIDTH, 0.4 + down * (0.75 + 0.42 * len(methods)), title)
    axes = _grid(fig, len(endpoints), across, sharey=True)
    for number, (ax, endpoint) in enumerate(zip(axes, endpoints, strict=True)):
        own = table[table["endpoint"].astype(str) == endpoint]
        for y, method in enumerate(methods):
            _parts(ax, y, own[own["method"] == method], method_colour(method))
        ax.axvline(0, color="#555555", lw=0.8, zorder=3)
        _rows(ax, _method_names(methods))
        ax.tick_params(axis="y", labelleft=number % across == 0)
        ax.set_title(wrap_text(ENDPOINT_LABELS.get(endpoint, endpoint), 2.6, NORMAL))
        ax.set_xlabel(f"difference in {ENDPOINT_UNITS.get(endpoint, endpoint)}")
        _few_ticks(ax, 4)
    coloured = tuple(Patch(fc=method_colour(method)) for method in methods)
    words = ["without TX: deranged pairs − raw CP", "from TX: true pairs − deranged pairs, in the method's colour"]
    _legend(fig, [Patch(fc="#C9C9C9"), coloured], labels=words)
    return fig


def _parts(ax: Axes, y: float, rows: pd.DataFrame, colour: str) -> None:
    for part, offset, face in (("without TX", -0.19, "#C9C9C9"), ("from TX", 0.19, colour)):
        for _, row in rows[rows["part"] == part].iterrows():
            ax.barh(y + offset, row["effect"], height=0.34, color=face, zorder=2)
            if np.isfinite(row["ci_low"]) and np.isfinite(row["ci_high"]):
                ax.plot([row["ci_low"], row["ci_high"]], [y + offset] * 2, color="black", lw=1.1, zorder=4)


# --------------------------------------------------------------------------------------------------
# New compounds


def _long_mechanisms(table: pd.DataFrame) -> pd.DataFrame:
    """Rows ``compound, rank, mechanism, similarity, known`` from the wide or the long form."""
    if "mechanism" in table:
        scores = [name for name in ("similarity", "score") if name in table]
        long = table.assign(similarity=table[scores[0]] if scores else np.nan)
        if "is_known" in table:
            own = table[table["is_known"].astype(bool)].groupby("compound")["mechanism"].agg(list)
            long["known"] = long["compound"].map(own)
        long["rank"] = table["rank"] if "rank" in table else long.groupby("compound").cumcount() + 1
    else:
        ranks = sorted(int(name[5:]) for name in table if name.startswith("rank_") and name[5:].isdigit())
        parts = []
        for rank in ranks:
            scores = [name for name in (f"similarity_{rank}", f"score_{rank}") if name in table]
            similarity = table[scores[0]] if scores else np.nan
            parts.append(table.assign(rank=rank, mechanism=table[f"rank_{rank}"], similarity=similarity))
        long = pd.concat(parts, ignore_index=True) if parts else table.assign(rank=0, mechanism=None, similarity=np.nan)
    long["known"] = long["known"] if "known" in long else long["moa"] if "moa" in long else ""
    long = long[long["mechanism"].notna() & (long["mechanism"].astype(str) != "")]
    return long[["compound", "rank", "mechanism", "similarity", "known"]].astype({"compound": str, "mechanism": str})


def _known_set(value) -> set[str]:
    if isinstance(value, str):
        return {part.strip() for part in value.split("|") if part.strip()}
    return {str(part) for part in value} if isinstance(value, list | tuple | set | np.ndarray) else set()


@_styled
def nearest_mechanisms(
    table: pd.DataFrame, *, title: str, max_compounds: int = 25, max_mechanisms: int = 24
) -> StudyFigure:
    """New compounds and the mechanisms of action that lie nearest: the darker, the nearer.

    Parameters
    ----------
    table : DataFrame
        Wide: ``compound, rank_1, rank_2 ...`` (names of mechanisms) with ``similarity_1 ...`` (or ``score_1 ...``),
        where there are; or long: ``compound, mechanism, rank, similarity`` (or ``score``). Without similarities the
        rank is drawn. The compound's own mechanisms are boxed: ``known`` (or ``moa``), joined by ``|`` or a list, or
        in the long form ``is_known`` (bool).
    max_compounds, max_mechanisms : int
        The first so many compounds, and the mechanisms that are nearest to most of them or their own.

    Returns
    -------
    StudyFigure
    """
    table = _need(table, ["compound"], "nearest_mechanisms")
    long = _long_mechanisms(table) if len(table) else pd.DataFrame(columns=["compound", "mechanism"])
    if not len(long):
        return _nothing(title, "no new compound, or no mechanism of action is known in the training screen")
    compounds = list(dict.fromkeys(long["compound"]))
    shown = long[long["compound"].isin(compounds[:max_compounds])]
    known = {compound: _known_set(values.iloc[0]) for compound, values in long.groupby("compound")["known"]}
    kept = _leading_mechanisms(shown, known, max_mechanisms)
    rows, columns = _block_order(shown[shown["mechanism"].isin(kept)], compounds[:max_compounds])
    matrix, label = _mechanism_matrix(shown, rows, columns)
    upright = max(text_width(name) for name in columns) if len(columns) > 6 else 0.4
    fig = _figure(FULL_WIDTH, 0.5 + min(upright, 2.4) + max(0.19 * len(rows), 1.1), title)
    ax = fig.subplots()
    image = ax.pcolormesh(matrix, cmap="Blues", edgecolors="white", lw=0.6, rasterized=True, **_shades(matrix))
    n_boxed = _box_known(ax, rows, columns, known)
    _heat_axes(ax, rows, columns)
    bar = _colour_bar(fig, ax, image, label, len(rows))
    bar.ax.set_ylim(np.nanmin(matrix), max(np.nanmax(matrix), np.nanmin(matrix) + 1e-6))
    if label.startswith("rank"):
        bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=TICK_STEPS))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{-value:.0f}"))
    n_mechanisms = shown["mechanism"].nunique()
    notes = {
        f"The first {max_compounds} of {len(compounds)} compounds.": len(compounds) > max_compounds,
        f"{len(columns)} of {n_mechanisms} mechanisms: nearest to most, or known.": n_mechanisms > len(columns),
        "Boxed: the compound's own known mechanism.": n_boxed > 0,
        "Pale grey: not among the nearest of that compound.": np.isnan(matrix).any(),
    }
    if any(notes.values()):
        _note(fig, " ".join(words for words, needed in notes.items() if needed))
    return fig


def _leading_mechanisms(shown: pd.DataFrame, known: dict[str, set[str]], n: int) -> list[str]:
    """The mechanisms that rank first for most compounds; being a compound's own counts half a first rank."""
    own = [name in known[one] for one, name in zip(shown["compound"], shown["mechanism"], strict=True)]
    weight = (1.0 / shown["rank"].astype(float) + 0.5 * np.asarray(own)).groupby(shown["mechanism"]).sum()
    return sorted(weight.index, key=lambda name: (-weight[name], name))[:n]


def _mechanism_matrix(shown: pd.DataFrame, rows: list[str], columns: list[str]) -> tuple[np.ndarray, str]:
    """What is drawn, larger is nearer, NaN where nothing is known of a pair; and its name."""
    by_rank = not _finite(shown["similarity"]).any()
    shade = -shown["rank"].astype(float) if by_rank else shown["similarity"].astype(float)
    matrix = shown.assign(shade=shade).pivot_table(index="compound", columns="mechanism", values="shade", aggfunc="max")
    matrix = matrix.reindex(index=rows, columns=columns).to_numpy(dtype=float)
    if not by_rank and np.nanmin(matrix) < 0 < np.nanmax(matrix):
        return np.where(matrix < 0, 0.0, matrix), "similarity, 0 or less palest"
    return matrix, "rank, 1 is the nearest" if by_rank else "similarity"


def _colour_bar(fig: Figure, ax: Axes, image, label: str, n_rows: int):
    return fig.colorbar(image, ax=ax, label=label, shrink=0.6 if n_rows > 12 else 1, aspect=16, pad=0.01)


def _shades(matrix: np.ndarray) -> dict:
    low, high = np.nanmin(matrix), np.nanmax(matrix)
    # The palest blue is kept off the scale: it would look like an empty field.
    return {"vmin": low - 0.25 * max(high - low, 0.05), "vmax": high if high > low else low + 0.05}


def _block_order(shown: pd.DataFrame, compounds: list[str]) -> tuple[list[str], list[str]]:
    """Compounds of one nearest mechanism together, and mechanisms in the order in which they turn up."""
    best = shown.sort_values("rank", kind="stable")
    first = best.groupby("compound", sort=False)["mechanism"].first()
    sizes = first.value_counts()
    rows = [name for name in compounds if name in first.index]
    rows.sort(key=lambda name: (-sizes[first[name]], first[name], compounds.index(name)))
    turns = best.set_index("compound").loc[rows, "mechanism"]
    leading = list(dict.fromkeys(first[rows]))
    rows += [name for name in compounds if name not in first.index]  # none of theirs is drawn: said by an empty row
    return rows, leading + [name for name in dict.fromkeys(turns) if name not in leading]


def _box_known(ax: Axes, rows: list[str], columns: list[str], known: dict[str, set[str]]) -> int:
    boxed = [(x, y) for y, row in enumerate(rows) for x, column in enumerate(columns) if column in known.get(row, ())]
    for x, y in boxed:
        ax.add_patch(Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, fill=False, ec=CATEGORY_COLOURS[5], lw=1.6, zorder=4))
    return len(boxed)


def _heat_axes(ax: Axes, rows: Sequence[str], columns: Sequence[str], *, angle: float = 90) -> None:
    ax.set_facecolor("#F2F2F2")
    ax.set_ylim(len(rows), 0)
    ax.set_yticks(np.arange(len(rows)) + 0.5, [wrap_text(name, 1.6, max_lines=1) for name in rows])
    few = len(columns) <= 6
    names = [wrap_text(name, 0.85 if few else 2.4, max_lines=4 if few else 1) for name in columns]
    ax.set_xticks(np.arange(len(columns)) + 0.5, names, rotation=0 if few else angle)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


@_styled
def predicted_activity(
    table: pd.DataFrame, *, title: str, label: str = "predicted probability of activity", max_compounds: int = 40
) -> StudyFigure:
    """Predicted activity of new compounds (rows) in every task (columns, by target family).

    Parameters
    ----------
    table : DataFrame
        ``compound, task, family, probability`` (0 to 1).
    label : str
        Of the colours.
    max_compounds : int
        The first so many are drawn.

    Returns
    -------
    StudyFigure
    """
    table = _need(table, ["compound", "task", "family", "probability"], "predicted_activity")
    table = table[_finite(table["probability"])]
    if not len(table):
        return _nothing(
            title, "no activity was predicted: the training screen has no tested task, or no compound is new"
        )
    table["family"] = table["family"].fillna("other").astype(str)
    tasks = table[["family", "task"]].drop_duplicates("task")
    tasks = tasks.assign(last=tasks["family"] == "other").sort_values(["last", "family", "task"], kind="stable")
    everyone = list(dict.fromkeys(table["compound"].astype(str)))
    matrix = table.assign(compound=table["compound"].astype(str)).pivot_table(
        index="compound", columns="task", values="probability"
    )
    matrix = matrix.reindex(index=everyone[:max_compounds], columns=tasks["task"])
    named = len(tasks) <= 32
    flat = _flat_families(tasks["family"].tolist())
    words = tasks["task"].astype(str) if named else []
    below = 0.6 if len(words) <= 6 else min(max(map(text_width, words)), 2.4)
    above = 0.5 if flat else 0.3 + min(max(map(text_width, tasks["family"])) + 0.25, 2.3)
    fig = _figure(FULL_WIDTH, 0.3 + above + below + max(0.165 * len(matrix), 1.2), title)
    ax = fig.subplots()
    image = ax.pcolormesh(matrix.to_numpy(dtype=float), cmap="viridis", vmin=0, vmax=1, rasterized=True)
    _heat_axes(ax, list(matrix.index), list(tasks["task"].astype(str)) if named else [])
    ax.set_xlim(0, len(tasks))
    ax.set_xlabel("" if named else f"{len(tasks)} tasks, by target family")
    _family_brackets(ax, tasks["family"].tolist())
    _colour_bar(fig, ax, image, wrap_text(label, 1.2 if len(matrix) < 12 else 9), len(matrix))
    if len(everyone) > max_compounds:
        _note(fig, f"The first {max_compounds} of {len(everyone)} compounds.")
    return fig


def _flat_families(families: list[str]) -> bool:
    """Whether every family's run of columns is wide enough for its name to be set flat above it."""
    return min(families.count(name) for name in set(families)) * HEAT_WIDTH / len(families) >= 0.9


def _family_brackets(ax: Axes, families: list[str]) -> None:
    """Name the runs of columns of one family above them: flat where all have room, else upright, moved apart, with
    a line to the place."""
    starts = [0, *[i for i in range(1, len(families)) if families[i] != families[i - 1]], len(families)]
    runs = list(pairwise(starts))
    pitch = HEAT_WIDTH / len(families)
    flat = _flat_families(families)
    middles = [(start + stop) / 2 for start, stop in runs]
    places = middles if flat else spread(middles, 0.155 / pitch)
    across = ax.get_xaxis_transform()
    lifted = across + ScaledTranslation(0, (5 if flat else 14) / 72, ax.figure.dpi_scale_trans)
    line = {"arrowstyle": "-", "color": "#AAAAAA", "lw": 0.6, "shrinkA": 0, "shrinkB": 0}
    for (start, stop), middle, place in zip(runs, middles, places, strict=True):
        ax.axvline(stop, color="white", lw=1.2)
        gap = min(0.03 / pitch, 0.25 * (stop - start))
        ax.plot([start + gap, stop - gap], [1.01] * 2, color="#555555", lw=1.4, transform=across, clip_on=False)
        wide, n_lines = ((stop - start) * pitch - 0.1, 3) if flat else (2.2, 1)
        count = f" ({stop - start})"
        name = wrap_text(families[start], wide - text_width(count) * (not flat), max_lines=n_lines) + count
        ax.annotate(
            name, (middle, 1.015), (place, 1.0), xycoords=across, textcoords=lifted, rotation=0 if flat else 90,
            ha="center", va="bottom", size=SMALL, annotation_clip=False, arrowprops=None if flat else line,
        )  # fmt: skip


@_styled
def sweep_effects(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """What the verdict on each claim rests on, at every setting of a sweep: a panel a claim, a row a setting.

    Parameters
    ----------
    table : DataFrame
        ``setting, claim, endpoint, effect, ci_low, ci_high, verdict``, settings in the order of the table; the points
        of a setting that differ in their seed share its row, one beneath the other.

    Returns
    -------
    StudyFigure
    """
    columns = ["setting", "claim", "endpoint", "effect", "ci_low", "ci_high", "verdict"]
    table = _need(table, columns, "sweep_effects")
    if not len(table):
        return _nothing(title, "no point has a claims table")
    every = list(dict.fromkeys(table["setting"]))
    settings, claims = every[:SWEEP_ROWS], sorted(table["claim"].unique())
    repeats = int(table.groupby(["setting", "claim"]).size().max())
    labels = [wrap_text(setting, 1.6) for setting in settings]
    lines = max(label.count("\n") + 1 for label in labels)
    fig = _figure(FULL_WIDTH, 1.8 + max(0.14 + 0.13 * lines, 0.2 + 0.1 * repeats) * len(settings), title)
    wide = (FULL_WIDTH - 1.8) / len(claims) - 0.2
    for number, (ax, claim) in enumerate(zip(_grid(fig, len(claims), len(claims), sharey=True), claims, strict=True)):
        own = table[table["claim"] == claim]
        endpoint = own["endpoint"].iloc[0]
        ax.axvline(0, color=GREY, lw=1, ls=":", zorder=1)
        for y, setting in enumerate(settings):
            _sweep_row(ax, y, own[own["setting"] == setting])
        _rows(ax, labels)
        ax.tick_params(axis="y", labelleft=number == 0)
        ax.set_title(
            wrap_text(f"Claim {_plain(claim)}: {ENDPOINT_LABELS.get(endpoint, endpoint)}", wide, NORMAL), pad=8
        )
        ax.set_xlabel(wrap_text(f"gain, {ENDPOINT_UNITS.get(endpoint, 'endpoint')}", wide, NORMAL))
        _few_ticks(ax, 3)
    seen = [verdict for verdict in VERDICT_COLOURS if verdict in set(table["verdict"])]
    more = f" {len(every) - len(settings)} more settings are in the table." if len(every) > len(settings) else ""
    words = "Gain: the method of the verdict over the reference that it has to beat, with its 95% interval."
    words += " Crosses at 0 were not testable." if "not testable" in seen else ""
    marks = [Line2D([], [], label=verdict, ls="", ms=5.5, **_verdict_mark(verdict)) for verdict in seen]
    _legend(fig, marks, title=wrap_text(words + more, FULL_WIDTH - 0.3))
    return fig


def _plain(claim) -> str:
    """The number of a claim, also where missing values in its column have made it a float."""
    return str(claim).removesuffix(".0")


def _verdict_mark(verdict: str) -> dict:
    """Marker and colour of a verdict; only what is supported is filled."""
    marker = {"explained without TX": "s", "not supported": "v", "not testable": "x"}.get(verdict, "o")
    open_mark = {} if verdict == "supported" or marker == "x" else {"markerfacecolor": "white"}
    return {"marker": marker, "color": VERDICT_COLOURS.get(verdict, GREY), **open_mark}


def _sweep_row(ax: Axes, y: float, rows: pd.DataFrame) -> None:
    """The points of one setting, spread over its row."""
    shifts = np.linspace(-0.22, 0.22, len(rows)) if len(rows) > 1 else np.zeros(len(rows))
    for shift, (_, row) in zip(shifts, rows.iterrows(), strict=True):
        mark = _verdict_mark(row["verdict"])
        _interval(ax, y + shift, row["ci_low"], row["ci_high"], mark["color"])
        ax.plot([np.nan_to_num(row["effect"])], [y + shift], ls="", ms=5 if len(rows) < 3 else 3.5, zorder=3, **mark)


@_styled
def new_compounds_page(
    calls: pd.DataFrame,
    distances: pd.DataFrame,
    mechanisms: pd.DataFrame,
    activities: pd.DataFrame,
    features: pd.DataFrame,
    *,
    title: str,
    fdr: float = 0.05,
    n_rows: int = 10,
) -> StudyFigure:
    """One page about a file of new compounds: activity, library, mechanisms, predicted outcomes, features.

    Parameters
    ----------
    calls : DataFrame
        ``distance, p_value, smallest_p, active``, one row a treatment.
    distances : DataFrame
        ``share_farther, strange``, one row a compound.
    mechanisms : DataFrame
        ``compound, rank, mechanism, p_adjusted, q_value`` and, where known, ``is_known``.
    activities : DataFrame
        ``family, call``.
    features : DataFrame
        ``status``.
    fdr : float
        At which treatments, mechanisms and strange compounds were called.
    n_rows : int
        Compounds named in the panel of mechanisms.

    Returns
    -------
    StudyFigure
    """
    calls = _need(calls, ["distance", "p_value", "smallest_p", "active"], "new_compounds_page")
    distances = _need(distances, ["share_farther", "strange"], "new_compounds_page")
    mechanisms = _need(mechanisms, ["compound", "rank", "mechanism", "p_adjusted", "q_value"], "new_compounds_page")
    activities = _need(activities, ["family", "call"], "new_compounds_page")
    features = _need(features, ["status"], "new_compounds_page")
    if not any(map(len, (calls, distances, mechanisms, activities, features))):
        return _nothing(title, "no compound is new", FULL_WIDTH)
    fig = _figure(FULL_WIDTH, 6.4, title)
    # Rows of their own, since names of compounds and families ask for room that the other panels needn't leave.
    rows = fig.add_gridspec(3, 1, height_ratios=[3, 3.7, 0.6])
    activity, library = (fig.add_subplot(place) for place in rows[0].subgridspec(1, 2))
    mechanism, outcome = (fig.add_subplot(place) for place in rows[1].subgridspec(1, 2, width_ratios=[1.2, 1]))
    _activity_panel(activity, calls[_finite(calls["p_value"])], fdr)
    _library_panel(library, distances)
    _mechanism_panel(mechanism, mechanisms, fdr, n_rows)
    _outcome_panel(outcome, activities, n_rows)
    _feature_panel(fig.add_subplot(rows[2]), features)
    return fig


def _empty_panel(ax: Axes, title: str, reason: str) -> None:
    ax.set_title(title)
    ax.set_axis_off()
    ax.text(0, 0.6, wrap_text(reason, 2.6, NORMAL), size=NORMAL, color=GREY, style="italic", transform=ax.transAxes)


def _plain_numbers(axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _activity_panel(ax: Axes, calls: pd.DataFrame, fdr: float) -> None:
    if not len(calls):
        _empty_panel(ax, "Active?", "not testable: no negative controls on the plates of the new compounds")
        return
    active = calls["active"].to_numpy(bool)
    ax.set_title(f"Active: {active.sum()} of {len(calls)} treatments at {fdr:.0%} FDR")
    for chosen, colour in ((~active, "#9B9B9B"), (active, CALL_COLOURS["active"])):
        part = calls[chosen]
        ax.plot(part["distance"], part["p_value"], "o", ms=4, mec="white", mew=0.4, color=colour)
    ax.axvline(1, color=GREY, lw=0.8, ls=":")
    lowest = calls["smallest_p"].min()
    ax.axhline(lowest, color=GREY, lw=0.8, ls="--")
    ax.set_yscale("log")
    ax.set_ylim(1.6, lowest / 1.8)
    _plain_numbers(ax.yaxis)
    ax.set_xlabel("distance from controls (1: what controls do)")
    ax.set_ylabel("p (dashed: smallest possible)")


def _library_panel(ax: Axes, distances: pd.DataFrame) -> None:
    known = distances[_finite(distances["share_farther"])]
    if not len(known):
        _empty_panel(ax, "Like the library?", "no held-out compound of the library to compare with")
        return
    ax.set_title(f"Unlike the library: {int(known['strange'].sum())} of {len(known)} compounds")
    ax.hist(known["share_farther"], bins=np.linspace(0, 1, 11), color="#56B4E9", edgecolor="white")
    ax.axhline(len(known) / 10, color="black", lw=1, ls="--")
    ax.set_xlabel("share of library farther out (dashed: expected)")
    ax.set_ylabel("new compounds")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=TICK_STEPS))


def _mechanism_panel(ax: Axes, mechanisms: pd.DataFrame, fdr: float, n_rows: int) -> None:
    first = mechanisms[mechanisms["rank"] == 1].sort_values(["p_adjusted", "compound"], kind="stable")
    if not len(first):
        _empty_panel(ax, "Which mechanism?", "no mechanism of action is known in the library")
        return
    called = int((first["q_value"] <= fdr).sum())
    ax.set_title(f"Mechanism: {called} of {len(first)} compounds")
    shown = first.head(n_rows)
    y = np.arange(len(shown))
    known = shown["is_known"].to_numpy(bool) if "is_known" in shown else np.zeros(len(shown), bool)
    found = (shown["q_value"] <= fdr).to_numpy(bool)
    colour = CALL_COLOURS["inactive"]
    ax.hlines(y, shown["p_adjusted"], 1, color=PALE, lw=1.2)
    for mask, fill in ((found, colour), (~found, "white")):
        ax.plot(shown["p_adjusted"][mask], y[mask], "o", ms=5.5, mfc=fill, mec=colour, mew=1.2)
    pairs = zip(shown["compound"], shown["mechanism"], known, strict=True)
    names = [f"{'✓ ' if own else ''}{compound}: {mechanism}" for compound, mechanism, own in pairs]
    ax.set_yticks(y, [wrap_text(name, 2.5, max_lines=1) for name in names])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.set_xlim(1.2, min(shown["p_adjusted"].min(), 0.05) / 1.5)
    _plain_numbers(ax.xaxis)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("p (filled: called" + ("; ✓ known)" if known.any() else ")"))


def _outcome_panel(ax: Axes, activities: pd.DataFrame, n_rows: int) -> None:
    if not len(activities):
        _empty_panel(ax, "Predicted outcomes", "no assay has labels enough in the library")
        return
    family = activities["family"].fillna("other")
    kept = family.value_counts().index[: n_rows if family.nunique() <= n_rows else n_rows - 1]
    family = family.where(family.isin(kept), "all others")
    shares = pd.crosstab(family, activities["call"], normalize="index")
    shares = shares.reindex(columns=list(CALL_COLOURS), fill_value=0.0).sort_values(["active", "inactive"])
    decided = activities["call"].isin(["active", "inactive"]).mean()
    ax.set_title(f"Outcomes: {decided:.0%} decided", loc="right")
    left = np.zeros(len(shares))
    for call, colour in CALL_COLOURS.items():
        values = shares[call].to_numpy()
        if values.sum():
            ax.barh(np.arange(len(shares)), values, left=left, color=colour, height=0.72, label=call)
        left = left + values
    ax.set_yticks(np.arange(len(shares)), [wrap_text(name, 1.15, max_lines=1) for name in shares.index])
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of predictions")
    ax.legend(loc="upper right", bbox_to_anchor=(1.05, -0.2), ncols=4, handlelength=1, columnspacing=0.9)


def _feature_panel(ax: Axes, features: pd.DataFrame) -> None:
    counts = features["status"].value_counts()
    asked, left = int(sum(counts.get(name, 0) for name in FEATURE_COLOURS)), 0
    extra = int(counts.get("extra", 0))
    ax.set_title(f"Features: {asked} asked for" + (f", {extra} more in the file" if extra else ""))
    for status, colour in FEATURE_COLOURS.items():
        n = int(counts.get(status, 0))
        if n:
            ax.barh(0, n, left=left, color=colour, height=0.8, label=f"{FEATURE_LABELS[status]}: {n}")
        left += n
    ax.set_xlim(0, max(asked, 1))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=TICK_STEPS))
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.65), ncols=3, handlelength=1, columnspacing=1.2)
