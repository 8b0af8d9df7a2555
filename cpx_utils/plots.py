"""One function a kind of figure, one palette and one order of methods for the whole study.

A function takes a tidy table, leaves it as it is and returns a :class:`StudyFigure`; nothing is saved here. An empty
table becomes a figure that says why, and a missing column a ``ValueError`` that names it. The same table gives the same
picture, byte for byte: nothing draws on a global state.

The marks mean the same everywhere. Squares in greys are methods that never see transcriptomics (TX), circles are
methods trained on Cell Painting (CP) and TX pairs, one hue each; filled is the true pairing, open is a control.
Black diamonds are oracles, which need the TX of the very compound. Hues stay apart under the common forms of
colour blindness (Wong 2011, doi 10.1038/nmeth.1618).
"""

from __future__ import annotations

import base64
import io
import textwrap
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

METHODS = {  # in the order of the study: name for a reader, colour
    "raw_cp": ("raw CP", "#8E8E8E"),
    "sphered_cp": ("sphered CP", "#737373"),
    "pca_cp": ("PCA of CP", "#595959"),
    "cell_count": ("cell count alone", "#ABABAB"),
    "lda_identity": ("LDA on identity (no TX)", "#3F3F3F"),
    "ridge_tx": ("ridge CP→TX", "#E69F00"),
    "rcca": ("regularised CCA", "#56B4E9"),
    "rcca_replicates": ("CCA with replicates", "#117733"),
    "autoencoder": ("autoencoder", "#0072B2"),
    "contrastive": ("contrastive", "#D55E00"),
    "contrastive_soft": ("contrastive, soft targets", "#7A0177"),
    "tx": ("TX itself (oracle)", "#000000"),
    "cp_tx": ("CP and TX (oracle)", "#252525"),
}
METHOD_ORDER = list(METHODS)
METHOD_LABELS = {method: label for method, (label, _) in METHODS.items()}
METHOD_COLOURS = {method: colour for method, (_, colour) in METHODS.items()}
CP_ONLY = ("raw_cp", "sphered_cp", "pca_cp", "cell_count", "lda_identity")
ORACLES = ("tx", "cp_tx")
CONTROL_LABELS = {
    "": "",
    "true_pairs": "true pairs",
    "deranged": "deranged pairs",
    "rows_shuffled": "rows shuffled",
    "random_codes": "random codes",
    "untrained": "untrained network",
}
CONTROL_ORDER = list(CONTROL_LABELS)
TRUE = ("", "true_pairs")  # no pairs at all, or the true ones
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
CALL_COLOURS = {"active": "#D55E00", "undecided": "#D9D9D9", "inactive": "#0072B2", "neither": "#424242"}
ENDPOINT_LABELS = {
    "tx_strong_tasks": "tasks where TX excels and CP does not",
    "replicate_map": "replicates together",
    "moa_map": "mechanisms of action together",
    "family_auc": "bioactivity by target family",
}
ENDPOINT_UNITS = {"tx_strong_tasks": "ROC-AUC", "replicate_map": "mAP", "moa_map": "mAP", "family_auc": "ROC-AUC"}
SIZE_ENDPOINTS = {"replicate_map": "replicate mAP", "moa_map": "MoA mAP", "roc_auc": "mean ROC-AUC of tasks"}
CURVES = (("true_pairs", "training", "-"), ("true_pairs", "validation", "-"), ("deranged", "validation", "--"))
REFERENCE_LABELS = {"raw_cp": "raw CP", "best": "best without TX", "deranged": "itself on deranged pairs"}

SINGLE_WIDTH, FULL_WIDTH = 6.0, 7.2  # inches
SMALL, NORMAL, LARGE = 9.0, 9.5, 11.0  # points
PER_INCH = 12  # letters of the smaller sizes in an inch, about
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0, "alignment": "left"}  # a panel
GREY, PALE = "#777777", "#D9D9D9"
QUIET = {"size": SMALL, "color": GREY, "style": "italic", "va": "center"}  # words where nothing can be drawn
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "font.size": SMALL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # names of compounds and assays may hold dollar signs
    "svg.hashsalt": "cpx",  # otherwise the names inside an SVG are drawn anew each time
}


class StudyFigure(Figure):
    """A figure that draws itself in the style of the study; it isn't pyplot's, so a notebook shows it only once."""

    def draw(self, renderer):
        with matplotlib.style.context(["default", STYLE]):
            super().draw(renderer)

    def _ipython_display_(self):
        from IPython.display import display

        file = io.BytesIO()
        self.savefig(file, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
        picture = base64.b64encode(file.getvalue()).decode("ascii")
        # The title states what was found: what someone who can't see the picture needs first.
        words = {"image/png": {"alt": " ".join(self.get_suptitle().split())}}
        display({"image/png": picture, "text/plain": repr(self)}, metadata=words, raw=True)


def _draws(*columns: str, number: str = "", reason: str) -> Callable:
    """Make a function one that draws a table: in the style of the study, and checked.

    The table must have `columns`; rows go whose `number` isn't finite; where none is left, the figure gives the reason.
    """

    def decorate(function: Callable[..., StudyFigure]) -> Callable[..., StudyFigure]:
        @wraps(function)
        def draw(table, *others, title: str, **options) -> StudyFigure:
            table = _need(table, columns, number)
            with matplotlib.style.context(["default", STYLE]):
                if len(table):
                    return function(table, *others, title=title, **options)
                fig = _figure(SINGLE_WIDTH, 0.75, title)
                _say(fig.subplots(), f"nothing to show: {reason}", SINGLE_WIDTH)
                return fig

        return draw

    return decorate


def _need(table: pd.DataFrame | None, columns: Sequence[str], number: str = "") -> pd.DataFrame:
    """A copy of a table; a csv read back has NaN where a method has no control or a task no family."""
    table = pd.DataFrame(columns=list(columns)) if table is None or not len(table) else pd.DataFrame(table)
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"the figure needs the columns {', '.join(missing)}; given: {', '.join(map(str, table))}")
    for name in {"method", "control", "family"}.intersection(table):
        names = table[name].astype(object).where(table[name].notna(), "other" if name == "family" else "")
        table = table.assign(**{name: names.astype(str)})
    return (table[_finite(table[number])] if number else table).reset_index(drop=True)


def _finite(values: pd.Series) -> np.ndarray:
    return np.isfinite(pd.to_numeric(values, errors="coerce").to_numpy(dtype=float))


def _figure(width: float, height: float, title: str) -> StudyFigure:
    """A figure with a wrapped title at its left; `height` is without the title."""
    title = _wrap(title, int(10 * width))
    fig = StudyFigure(figsize=(width, height + 0.18 * (title.count("\n") + 1)), dpi=100, layout="constrained")
    fig.suptitle(title, x=0.01, ha="left", size=LARGE, weight="bold")
    return fig


def _panels(fig: Figure, n: int, across: int, **options) -> list[Axes]:
    """Panels in reading order, without empty ones."""
    axes = fig.subplots(-(-n // across), across, squeeze=False, **options).ravel()
    for ax in axes[n:]:
        ax.remove()
    return list(axes[:n])


def _say(ax: Axes, reason: str, width: float) -> None:
    """Words in place of a panel `width` inches wide."""
    ax.set_axis_off()
    ax.text(0, 0.5, _wrap(reason, int(width * PER_INCH)), transform=ax.transAxes, **QUIET)


def _note(fig: Figure, text: str) -> None:
    """A sentence under the whole figure."""
    text = _wrap(text, int(fig.get_figwidth() * PER_INCH))
    fig.supxlabel(text, x=0.01, ha="left", size=SMALL, color=GREY)


def _legend(fig: Figure, handles: Sequence, labels: Sequence[str] = (), title: str | None = None) -> None:
    """A legend below all panels in as many columns as the width holds; a tuple's parts stand side by side."""
    labels = list(labels) or [handle.get_label() for handle in handles]
    columns = int(np.clip(14 * fig.get_figwidth() // (max(map(len, labels)) + 6), 1, len(labels)))
    together = {"handler_map": {tuple: HandlerTuple(ndivide=None, pad=0)}, "alignment": "left", "title": title}
    fig.legend(handles, labels, loc="outside lower left", ncols=columns, **together)


def _wrap(text: str, n: int) -> str:
    """Text in lines of at most `n` letters; line breaks in it stay."""
    return "\n".join(textwrap.fill(line, n) for line in text.split("\n"))


def _short(text: str, n: int) -> str:
    """Text of at most `n` letters, cut with an ellipsis."""
    return str(text) if len(str(text)) <= n else str(text)[: n - 1].rstrip() + "…"


def _rows(ax: Axes, places: Sequence[float], labels: Sequence[str]) -> None:
    """Name the rows of a horizontal figure, the first on top."""
    ax.set_yticks(places, labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    if not ax.yaxis_inverted():  # once where panels share their rows
        ax.invert_yaxis()


def order_methods(methods: Iterable[str]) -> list[str]:
    """The distinct methods; ``concat:<method>`` follows its method, unknown ones come before the oracles."""
    first_oracle = METHOD_ORDER.index(ORACLES[0])

    def place(method: str):
        base = method.removeprefix("concat:")
        known = base in METHODS
        return (METHOD_ORDER.index(base) if known else first_oracle - 0.5, "" if known else base, method != base)

    return sorted({str(method) for method in methods}, key=place)


def order_controls(controls: Iterable[str]) -> list[str]:
    """The distinct controls, the true pairing first."""
    known = {name: number for number, name in enumerate(CONTROL_ORDER)}
    return sorted({str(name) for name in controls}, key=lambda name: (known.get(name, len(known)), name))


def order_pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of method and control of a table, in the order of the study."""
    pairs = set(zip(table["method"], table["control"], strict=True))
    controls = order_controls(table["control"])
    return [(method, name) for method in order_methods(table["method"]) for name in controls if (method, name) in pairs]


def method_label(method: str) -> str:
    """Name of a method for a reader; a method that the study does not know keeps its own."""
    base = method.removeprefix("concat:")
    label = METHOD_LABELS.get(base, base)
    return label if method == base else f"[CP, {label}]"


def method_colour(method: str) -> str:
    """Colour of a method, ``concat:<method>`` and unknown methods included; always the same for the same name."""
    base = method.removeprefix("concat:")
    return METHOD_COLOURS.get(base) or SPARE_COLOURS[zlib.crc32(base.encode()) % len(SPARE_COLOURS)]


def control_label(control: str) -> str:
    """Name of a control for a reader."""
    return CONTROL_LABELS.get(control, control)


def split_label(split: str) -> str:
    """Name of a split for a reader."""
    return {"moa": "MoA"}.get(split, split)


def wide_table(table: pd.DataFrame, columns: str, value: str = "value") -> pd.DataFrame:
    """Means of `value` for a reader: a row a method and control, by name; a column each of the values of `columns`.

    Values that are NaN are left out; nothing measured gives no rows.
    """
    table = _need(table, ["method", "control", columns, value], value)
    means = table.astype({value: float}).groupby(["method", "control", columns], sort=False)[value].mean()
    pairs = order_pairs(table)
    wide = means.unstack(columns).reindex(columns=list(dict.fromkeys(table[columns]))).loc[pairs]
    names = [(method_label(method), control_label(control)) for method, control in pairs]
    wide.index = pd.MultiIndex.from_tuples(names, names=["method", "control"])
    return wide


def _marker(method: str, control: str, colour: str = "") -> dict:
    """Marker of a method and control: its kind by shape, filled for the true pairing, open for a control."""
    colour = colour or method_colour(method)
    if control not in TRUE:
        return {"marker": CONTROL_MARKERS.get(control, "P"), "mfc": "white", "mec": colour, "mew": 1.2, "ms": 4.8}
    shape = "s" if method in CP_ONLY else "D" if method in ORACLES else "o"
    return {"marker": shape, "mfc": colour, "mec": colour, "mew": 1.0, "ms": 6.0 if shape == "o" else 5.0}


def _handle(label: str, **look) -> Line2D:
    """What a legend shows of a marker, or of a line if it has a style."""
    return Line2D([], [], label=label, **{"ls": ""} | look)


def _kinds(table: pd.DataFrame) -> list[Line2D]:
    """Legend of the marker shapes that occur; empty where all rows are of one kind."""
    pairs = order_pairs(table)
    alone, oracle = (any(method in some for method, _ in pairs) for some in (CP_ONLY, ORACLES))
    trained = any(control in TRUE and method not in (*CP_ONLY, *ORACLES) for method, control in pairs)
    controls = order_controls(control for _, control in pairs if control not in TRUE)
    kinds = [_handle("never sees TX", **_marker("raw_cp", "", GREY))] * alone
    kinds += [_handle("trained on true CP–TX pairs", **_marker("rcca", "", GREY))] * trained
    kinds += [_handle(f"control: {control_label(name)}", **_marker("rcca", name, GREY)) for name in controls]
    kinds += [_handle("oracle: needs the compound's own TX", **_marker("tx", ""))] * oracle
    return kinds if len(kinds) > 1 else []


@_draws("method", "mean", "ci_low", "ci_high", reason="no method was measured")
def intervals(
    table: pd.DataFrame,
    *,
    title: str,
    xlabel: str | Mapping[str, str],
    row: str = "method",
    facet: str = "",
    mark: str = "control",
    filled: Sequence[str] = TRUE,
    line: float | Mapping[str, float] | None = None,
    line_label: str = "chance",
    across: int = 3,
    sharex: bool | str = False,
) -> StudyFigure:
    """Values with their intervals: a row each method, a panel each facet, the marks of a row below each other.

    Parameters
    ----------
    table : DataFrame
        ``method, mean, ci_low, ci_high`` and the columns named by `row`, `facet` and `mark`; one value each. Marks are
        grey where ``tested`` is false. A row without a finite mean is said not to be measured.
    xlabel, line : one for all facets, or dict from facet
        What was measured, with its unit; and where the dashed line is that `line_label` names.
    row, facet, mark : str
        Columns whose values make the rows, the panels, and the marks within a row. Methods and controls come in the
        order of the study, others in that of the table. Where rows are methods, a dotted line is raw CP's value.
    filled : sequence of str
        Values of `mark` that are drawn filled; the others are open.
    across, sharex
        Panels side by side; whether all, or those of a "row", have one scale.
    """
    table = table.assign(tested=table["tested"].astype(bool) if "tested" in table else True)
    order = {"method": order_methods, "control": order_controls}
    table = table.astype({name: str for name in {row, facet, mark} - {""}})
    rows, facets, marks = (
        order.get(name, lambda values: list(dict.fromkeys(values)))(table[name]) if name else [""]
        for name in (row, facet, mark)
    )
    measured = table[_finite(table["mean"])]
    heights = measured.groupby(row)[mark].nunique().reindex(rows).fillna(1) + 0.8  # a mark is one high, 0.8 is air
    ends = np.cumsum(heights)
    across = min(across, len(facets))
    down = -(-len(facets) // across)
    width = FULL_WIDTH if across > 1 else SINGLE_WIDTH
    wide = int((width - 2) / across * PER_INCH)
    heads = [_wrap(method_label(name) if facet == "method" else name, wide) for name in facets]
    feet = [_wrap(xlabel if isinstance(xlabel, str) else xlabel[name], wide) for name in facets]
    words = 0.15 * max(f"{head}{foot}".count("\n") for head, foot in zip(heads, feet, strict=True))
    fig, lines = _figure(width, 0.5 + down * (0.75 + words + 0.13 * ends.iloc[-1]), title), {}
    axes = _panels(fig, len(facets), across, sharey=True, sharex=sharex)
    for ax, name, head, foot in zip(axes, facets, heads, feet, strict=True):
        own = measured[measured[facet] == name] if facet else measured
        for place, middle in (ends - heights / 2).items():
            _row_of_marks(ax, own[own[row] == place], middle, marks, mark, filled)
        raw = own[(own["method"] == "raw_cp") & own[mark].isin(filled) & (row == "method")]["mean"]
        chance = pd.Series([line.get(name) if isinstance(line, Mapping) else line]).dropna()
        for at, label, style in ((chance, line_label, "--"), (raw, "raw CP", ":")):
            if len(at):
                lines[label] = ax.axvline(at.iloc[0], color=GREY, lw=1, ls=style, zorder=1, label=label)
        ax.set(xlabel=foot, title=head)
        ax.locator_params(axis="x", nbins=5 if across < 3 else 3)
        _rows(ax, ends - heights / 2, [_short(method_label(one) if row == "method" else one, 36) for one in rows])
        ax.tick_params(axis="y", labelleft=ax.get_subplotspec().is_first_col())
    ax.set_ylim(ends.iloc[-1], 0)
    if mark == "control":
        handles = _kinds(table)
    elif mark == "method":
        handles = [_handle(method_label(name), **_marker(name, "")) for name in marks]
    else:
        handles = [_handle(name, **_marker("rcca", "" if name in filled else "deranged", GREY)) for name in marks]
    handles += [] if table["tested"].all() else [_handle("too few to be tested", **_marker("rcca", "", "#B0B0B0"))]
    if handles or lines:
        _legend(fig, [*handles, *lines.values()])
    return fig


def _row_of_marks(ax: Axes, rows: pd.DataFrame, middle: float, marks: list[str], mark: str, filled) -> None:
    """The marks of one row of a panel, one below the other around its middle."""
    if not len(rows):
        ax.text(0.01, middle, "not measured", transform=ax.get_yaxis_transform(), **QUIET)
    rows = rows.sort_values(mark, key=lambda values: values.map(marks.index))
    for y, (_, one) in zip(middle + np.arange(len(rows)) - (len(rows) - 1) / 2, rows.iterrows(), strict=True):
        control = one[mark] if mark == "control" else "" if one[mark] in filled else "deranged"
        marker = _marker(one["method"], control, "" if one["tested"] else "#B0B0B0")
        ax.plot([one["ci_low"], one["ci_high"]], [y, y], color=marker["mec"], lw=1.8 if control in TRUE else 1.1)
        ax.plot([one["mean"]], [y], ls="", zorder=3, **marker)


@_draws("claim", "endpoint", "method", "reference", "effect", "ci_low", "ci_high", "verdict", "role", "claim_name",
        "deranged_effect", "deranged_low", "deranged_high", reason="no claim was weighed")  # fmt: skip
def claims_forest(claims: pd.DataFrame, *, title: str) -> StudyFigure:
    """The verdict of each claim (``claim_name`` in words) with the comparisons behind it, a panel a claim.

    The method of the row with the verdict is drawn: against raw CP, the best method without TX, and itself on deranged
    pairs; and, open, its deranged control against the same.
    """
    parts, labels, verdicts = [], {}, []
    for claim, own in claims.groupby("claim", sort=False):
        verdict = own["verdict"].fillna("")
        head = own.loc[verdict.ne("").idxmax()]
        own = own[(own["endpoint"] == head["endpoint"]) & (own["method"] == head["method"])]
        best = own["role"] == "best CP-only"
        label = own["reference"].where(~best, "best").map(REFERENCE_LABELS)
        panel = f"Claim {claim}: {head['claim_name']}\n{verdict[head.name]}"
        against = ", ".join(method_label(name) for name in own.loc[best, "reference"])
        unit = ENDPOINT_UNITS.get(head["endpoint"], "endpoint")
        labels[panel] = f"{method_label(head['method'])} − reference, {unit}" if head["method"] else ""
        labels[panel] += f"\n(best without TX: {against})" if against else ""
        verdicts.append(verdict[head.name])
        own = own.assign(panel=panel, label=label, control="true_pairs", mean=own["effect"])
        names = {"deranged_effect": "mean", "deranged_low": "ci_low", "deranged_high": "ci_high"}
        deranged = own.drop(columns=list(names.values())).rename(columns=names).assign(control="deranged")
        parts += [own.dropna(subset="label"), deranged.dropna(subset=["label", "mean"])]
        parts += [own.iloc[:1].assign(label=REFERENCE_LABELS["raw_cp"], mean=np.nan)] if label.isna().all() else []
    table = pd.concat(parts, ignore_index=True)
    table["label"] = pd.Categorical(table["label"], REFERENCE_LABELS.values())
    look = {"row": "label", "facet": "panel", "line": 0.0, "line_label": "no difference", "across": 2}
    fig = intervals(table.sort_values("label", kind="stable"), title=title, xlabel=labels, **look)
    for ax, verdict in zip(fig.axes, verdicts, strict=True):
        ax.set_title(ax.get_title("left"), color=VERDICT_COLOURS.get(verdict, GREY))
    return fig


@_draws("method", "control", "n_compounds", "endpoint", "mean", "ci_low", "ci_high", number="mean",
        reason="no endpoint could be measured")  # fmt: skip
def data_size_curves(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Each endpoint by the number of compounds that an encoder was trained on, a panel each of `SIZE_ENDPOINTS`."""
    endpoints = [name for name in SIZE_ENDPOINTS if (table["endpoint"] == name).any()]
    looks = {pair: {"color": method_colour(pair[0]), **_marker(*pair)} for pair in order_pairs(table)}
    looks = {pair: look | {"lw": 1.2, "ls": "-" if pair[1] in TRUE else "--"} for pair, look in looks.items()}
    sizes = np.sort(table["n_compounds"].unique()).astype(float)
    fig = _figure(FULL_WIDTH, 3.5, title)
    axes = _panels(fig, len(endpoints), len(endpoints))
    for ax, endpoint in zip(axes, endpoints, strict=True):
        # Side by side at each size, since intervals on top of each other can't be read.
        for shift, (pair, look) in zip(np.linspace(-0.06, 0.06, len(looks)), looks.items(), strict=True):
            own = table[(table["endpoint"] == endpoint) & (table["method"] == pair[0]) & (table["control"] == pair[1])]
            own = own.sort_values("n_compounds")
            x = own["n_compounds"].to_numpy(dtype=float) * np.exp(shift)
            ax.vlines(x, own["ci_low"], own["ci_high"], color=look["color"], lw=1)
            ax.plot(x, own["mean"], **look)
        ax.set(xscale="log", title=SIZE_ENDPOINTS[endpoint])
        ax.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        ax.minorticks_off()
    axes[0].set_ylabel("value on unseen compounds")
    axes[len(axes) // 2].set_xlabel("training compounds with TX")
    names = [method_label(method) + ("" if one in TRUE else f", {control_label(one)}") for method, one in looks]
    _legend(fig, [_handle(name, **look) for name, look in zip(names, looks.values(), strict=True)])
    return fig


def mean_curves(history: pd.DataFrame, n_epochs: int = 30) -> pd.DataFrame:
    """Losses of a history of training as `training_curves` draws them, for true and deranged pairs.

    They are means over a fold's seeds and members, at `n_epochs` epochs at most, denser where training begins.
    """
    keys = ["split", "repeat", "fold", "method", "control"]
    history = _need(history, [*keys, "seed", "member", "epoch", "training", "validation"])
    history = history[history["control"].isin(["true_pairs", "deranged"])]
    parts = [history.head(0)[[*keys, "epoch", "training", "validation"]]]
    for names, runs in history.groupby(keys, sort=False):
        epochs = np.unique(np.round(np.linspace(1, history["epoch"].max() ** 0.5, n_epochs) ** 2).astype(int))
        means = {value: _mean_run(runs, ["seed", "member"], value) for value in ("training", "validation")}
        part = pd.DataFrame(means).reindex(epochs).dropna(how="all").rename_axis("epoch").reset_index()
        parts.append(part.assign(**dict(zip(keys, names, strict=True))))
    return pd.concat(parts[len(parts) > 1 :], ignore_index=True)[[*keys, "epoch", "training", "validation"]]


def _mean_run(runs: pd.DataFrame, keys: list[str], value: str) -> pd.Series:
    """Mean by epoch. A run that stopped keeps its last value; the mean ends where fewer than half still go on."""
    wide = runs.pivot_table(index="epoch", columns=keys, values=value, aggfunc="mean")
    going = wide.notna().mean(axis=1) >= 0.5
    return wide.ffill().mean(axis=1)[going]


@_draws("split", "repeat", "fold", "method", "control", "epoch", "training", "validation",
        reason="no network was trained with held-out compounds")  # fmt: skip
def training_curves(table: pd.DataFrame, *, best_epochs: Mapping[str, Sequence], ylabel: str, title: str):
    """Loss by epoch on training pairs and unseen compounds, a panel a method: thin lines the folds, bold their mean.

    The table is one of `mean_curves`. A vertical line is the median of a method's `best_epochs`, where it stopped.
    """
    methods = order_methods(table["method"])
    fig = _figure(FULL_WIDTH if len(methods) > 1 else SINGLE_WIDTH, 3.4, title)
    for ax, method in zip(_panels(fig, len(methods), len(methods)), methods, strict=True):
        own, colour = table[table["method"] == method], method_colour(method)
        best = pd.Series(best_epochs[method], dtype=float).median()
        ax.axvline(best, color=GREY, lw=1, ls=":")
        ax.set(title=f"{method_label(method)}, best epoch {best:.0f}", xlabel="epoch", ylabel=ylabel)
        for control, value, style in CURVES:
            runs, hue = own[(own["control"] == control) & _finite(own[value])], GREY if value == "training" else colour
            for _, fold in runs.groupby(["split", "repeat", "fold"]) if style == "-" else []:
                ax.plot(fold["epoch"], fold[value], color=hue, lw=0.6, alpha=0.35)
            if len(runs):
                ax.plot(_mean_run(runs, ["split", "repeat", "fold"], value), color=hue, lw=2, ls=style)
    hues = [method_colour(method) for method in methods]
    coloured = [tuple(_handle("", color=hue, lw=2, ls=style) for hue in hues) for style in ("-", "--")]
    handles = [_handle("", color=GREY, lw=2, ls="-"), *coloured, _handle("", color=GREY, lw=1, ls=":")]
    _legend(fig, handles, ["training pairs", "unseen compounds", "unseen, deranged pairs", "best epoch (median)"])
    return fig


@_draws("what", "n", number="n", reason="nothing was counted")
def missing_and_counts(table: pd.DataFrame, *, title: str, xlabel: str = "compounds") -> StudyFigure:
    """How many there are of each kind, such as compounds with a structure: ``what, n`` in the order of the table."""
    fig = _figure(SINGLE_WIDTH, 0.55 + 0.27 * len(table), title)
    ax = fig.subplots()
    bars = ax.barh(range(len(table)), table["n"].astype(float), height=0.62, color=CATEGORY_COLOURS[0])
    ax.bar_label(bars, fmt="{:,.0f}", padding=4)
    _rows(ax, range(len(table)), [_short(what, 48) for what in table["what"]])
    ax.set(xlim=(0, max(table["n"].max(), 1) * 1.12), xlabel=xlabel)
    ax.locator_params(axis="x", nbins=5, integer=True)
    return fig


@_draws("plate", "value", "when", number="value", reason="the screen has no control wells on named plates")
def control_distributions(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """What plates do to negative controls before and after normalisation: ``plate, value, when`` of control wells."""
    plates = list(dict.fromkeys(table["plate"].astype(str)))
    fig = _figure(FULL_WIDTH, 4.3, title)
    x, step = np.arange(len(plates)), -(-len(plates) // 42)  # a tick label set upright needs about 0.15 inch
    for ax, (when, part) in zip(fig.subplots(2, 1, sharex=True), table.groupby("when", sort=False), strict=False):
        values = part["value"].astype(float).groupby(part["plate"].astype(str))
        shares = values.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack().reindex(plates)
        ax.axhline(0, color=PALE, lw=1, zorder=0)
        ax.vlines(x, shares[0.05], shares[0.95], color=CATEGORY_COLOURS[0], lw=0.8)
        ax.vlines(x, shares[0.25], shares[0.75], color=CATEGORY_COLOURS[4], lw=np.clip(150 / len(plates), 1.2, 7))
        ax.plot(x, shares[0.5], ls="", marker="o", ms=3, color="black")
        ax.set(title=f"{when} normalisation", xlabel="plate", ylabel="feature value\nof the controls")
        ax.set_xticks(x[::step], [_short(name, 16) for name in plates[::step]], rotation=90)
        ax.label_outer()
    _note(fig, "Dot: a plate's median; thick line: its middle half; thin line: its middle 90%. The scales differ.")
    return fig


@_draws("modality", "kind", "correlation", number="correlation", reason="no treatment of this screen has replicates")
def replicate_correlations(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Densities of the correlation of two wells, a panel a modality, by kind: ``replicates, different treatments``."""
    import seaborn

    modalities = [name for name in MODALITY_COLOURS if (table["modality"] == name).any()]
    fig = _figure(FULL_WIDTH, 2.9, title)
    for ax, modality in zip(_panels(fig, len(modalities), len(modalities), sharex=True), modalities, strict=True):
        for kind, colour in (("different treatments", "#9A9A9A"), ("replicates", MODALITY_COLOURS[modality])):
            values = table.loc[(table["modality"] == modality) & (table["kind"] == kind), "correlation"].astype(float)
            if values.nunique() > 1:
                seaborn.kdeplot(x=values, ax=ax, color=colour, fill=True, alpha=0.35, lw=1.5, cut=0, gridsize=150)
            label = f"{kind}, median {values.median():.2f}"
            ax.axvline(values.median(), color=colour, lw=1.4, ls="--", label=label)
        # Above the panel, since densities leave no corner surely free.
        ax.legend(title=modality, loc="lower left", bbox_to_anchor=(0, 1), alignment="left")
        ax.set(xlabel="correlation of two wells", ylabel="density" if modality == modalities[0] else "", yticks=[])
        ax.spines["left"].set_visible(False)
    return fig


@_draws("group", "statistic", "here", "reference", "source", reason="no statistic was computed")
def statistics_beside(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Statistics of this screen beside a reference from a named source, a panel a group, since units differ."""
    groups = list(dict.fromkeys(table["group"]))
    sizes = [(table["group"] == group).sum() for group in groups]
    heights = [max(sizes[i : i + 2]) + 1.5 for i in range(0, len(sizes), 2)]
    own, other = {"marker": "o", "color": CATEGORY_COLOURS[0]}, {"marker": "o", "mfc": "white", "mec": "black"}
    fig = _figure(FULL_WIDTH, 0.4 + 0.23 * sum(heights) + 0.35 * len(heights), title)
    for ax, group in zip(_panels(fig, len(groups), 2, height_ratios=heights), groups, strict=True):
        rows = table[table["group"] == group]
        y, here, there = range(len(rows)), rows["here"].astype(float), rows["reference"].astype(float)
        ax.hlines(y, here, there, color=PALE, lw=3)
        ax.plot(there, y, ls="", **other)
        ax.plot(here, y, ls="", ms=5, **own)
        _rows(ax, y, [_short(name, 24) for name in rows["statistic"]])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.locator_params(axis="x", nbins=4)
        sources = ", ".join(dict.fromkeys(rows["source"].dropna().astype(str)))
        ax.set_title(_wrap(f"{group}, beside {sources}" if sources else group, 38))
    _legend(fig, [_handle("this screen", **own), _handle("reference", **other)])
    return fig


@_draws("pairs", reason="no method maps CP and TX into one space")
def similarity_matrices(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Cosine similarity of CP (rows) to TX (columns) of compounds; own pairs are the diagonal.

    A panel each value of ``pairs``; all other columns of the table are the matrix.
    """
    names = list(dict.fromkeys(table["pairs"]))
    fig = _figure(FULL_WIDTH, 0.6 + (FULL_WIDTH - 1.2) / max(len(names), 2), title)
    axes = _panels(fig, len(names), len(names))
    top = table.drop(columns="pairs").abs().stack().quantile(0.995)
    for ax, name in zip(axes, names, strict=True):
        matrix = table[table["pairs"] == name].drop(columns="pairs").to_numpy(dtype=float)
        image = ax.imshow(matrix, rasterized=True, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        own = np.eye(*matrix.shape, dtype=bool)
        ax.set_title(f"{name}: mean of\nown pairs {matrix[own].mean():.2f}, others {matrix[~own].mean():.2f}")
        ax.set(xlabel="TX of test compound", ylabel="CP of test compound" if ax is axes[0] else "")
    fig.colorbar(image, ax=axes, label="cosine similarity", shrink=0.7, extend="both")
    return fig


@_draws("method", "control", "rank_share", "share_of_compounds", "ci_low", "ci_high", number="rank_share",
        reason="no method maps CP and TX into one space")  # fmt: skip
def retrieval_curves(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Share of compounds whose own TX profile is among the nearest x%: the further up and left, the better.

    ``rank_share`` is the rank of the own profile over the number of candidates; intervals are drawn for true pairs.
    """
    pairs = order_pairs(table)
    fig = _figure(FULL_WIDTH, max(3.8, 0.9 + 0.187 * (len(pairs) + 3)), title)
    ax = fig.subplots()
    for method, control in pairs:
        own = table[(table["method"] == method) & (table["control"] == control)].sort_values("rank_share")
        x, y, low, high = own[["rank_share", "share_of_compounds", "ci_low", "ci_high"]].to_numpy(dtype=float).T
        label = method_label(method) if control in TRUE else f"   {control_label(control)}"
        label += f": {y[x <= 0.1 + 1e-9].max(initial=0):.0%}"
        style = {"ls": CONTROL_LINES.get(control, "-"), "lw": 2 if control in TRUE else 1.2, "label": label}
        ax.plot([0, *x, 1], [0, *y, y[-1]], color=method_colour(method), **style)
        if control in TRUE:
            ax.fill_between(x, low, high, color=method_colour(method), alpha=0.15, lw=0, zorder=0)
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (1, 1.5)), label="chance: 10%")
    ax.axvline(0.1, color=PALE, lw=1, zorder=0)
    ax.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="nearest share of all TX profiles (band: 95% interval)")
    ax.set_ylabel("compounds that found their own")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(title="own profile among\nthe nearest 10% for", **BESIDE)
    return fig


@_draws("method", "x", "y", "label", number="x", reason="no embedding was mapped")
def embedding_maps(table: pd.DataFrame, *, title: str, label_order: Sequence[str]) -> StudyFigure:
    """Two-dimensional maps of the embeddings, a panel a method: the first eight of `label_order` in colour."""
    looks = dict(zip(label_order, zip(CATEGORY_COLOURS, CATEGORY_MARKERS, strict=True), strict=False))
    methods = order_methods(table["method"])
    across = min(len(methods), 3 if len(methods) <= 6 else 4)
    down = -(-len(methods) // across)
    side = FULL_WIDTH / max(across, 2)
    fig = _figure(FULL_WIDTH, 0.5 + down * (side + 0.1) + 0.09 * len(looks), title)
    for ax, method in zip(_panels(fig, len(methods), across), methods, strict=True):
        own = table[table["method"] == method]
        grey = own[~own["label"].isin(looks)]
        ax.scatter(grey["x"], grey["y"], s=3, color="#C4C4C4", lw=0, rasterized=True)
        for label, (colour, marker) in looks.items():
            one = own[own["label"] == label]
            ax.scatter(one["x"], one["y"], s=16, color=colour, marker=marker, lw=0.3, ec="white", rasterized=True)
        ax.set_title(_wrap(method_label(method), int(side * 10)))
        ax.set(xticks=[], yticks=[], box_aspect=1)
    handles = [_handle(_short(label, 36), marker=marker, color=colour) for label, (colour, marker) in looks.items()]
    handles.append(_handle("other", marker="o", ms=2.5, color="#C4C4C4"))
    _legend(fig, handles, title="UMAP: for the eye only, nothing is measured on it")
    return fig


@_draws("task", "family", "cp_auc", "tx_auc", number="cp_auc", reason="no task was measured with both CP and TX")
def task_scatter(table: pd.DataFrame, *, title: str, tx_min: float, margin: float) -> StudyFigure:
    """Every task by the ROC-AUC that raw CP and measured TX reach on it; shaded: TX strong and CP weak.

    Chosen are tasks with ``tx_auc >= tx_min`` and ``tx_auc - cp_auc >= margin``; six of them are numbered and named.
    """
    table = table.astype({"cp_auc": float, "tx_auc": float})
    points = table[["cp_auc", "tx_auc"]]
    gap = table["tx_auc"] - table["cp_auc"]
    chosen = (table["tx_auc"] >= tx_min) & (gap >= margin)
    low, high = min(0.45, points.min(axis=None) - 0.03), max(points.max(axis=None) + 0.05, tx_min + 0.02)
    fig = _figure(FULL_WIDTH, 4.3, title)
    ax = fig.subplots()
    # The families with most chosen tasks, then most tasks, have a colour.
    counts = table.assign(chosen=chosen).groupby("family")["chosen"].agg(["sum", "size"]).drop("other", errors="ignore")
    named = counts.sort_values(["sum", "size"], ascending=False, kind="stable").index[: len(CATEGORY_COLOURS) - 1]
    shown = table["family"].where(table["family"].isin(named), "other families")
    looks = dict(zip(named, zip(CATEGORY_COLOURS, CATEGORY_MARKERS, strict=True), strict=False))
    for family, (colour, marker) in (looks | {"other families": ("#9A9A9A", "o")}).items():
        label = f"{_short(family, 28)} ({(shown == family).sum()})"
        for part, face, name in ((~chosen, "white", None), (chosen, colour, label)):
            own = points[part & (shown == family)]
            ax.plot(*own.to_numpy().T, ls="", marker=marker, ms=5, mfc=face, color=colour, label=name)
    rule = f"chosen (filled): TX ≥ {tx_min:g} and\nTX − CP ≥ {margin:g} ({chosen.sum()} of {len(table)})"
    edges = [low, max(tx_min - margin, low), high - margin, low]
    ax.fill(edges, [tx_min, tx_min, high, high], color="#FFF1D6", lw=0, zorder=0, label=rule)
    ax.plot([low, high], [low, high], color=GREY, lw=1, ls="--", zorder=1, label="TX as good as CP")
    for number, place in enumerate(gap[chosen].sort_values(ascending=False, kind="stable").index[:6], 1):
        ax.annotate(str(number), points.loc[place], (4, 3), textcoords="offset points")
        ax.plot([], [], ls="", label=f"{number}  {_short(table['task'][place], 30)}")
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.set(xlabel="raw CP, ROC-AUC", ylabel="measured TX (oracle), ROC-AUC")
    ax.legend(**BESIDE)
    return fig


@_draws("method", "control", "task", "gain", number="gain", reason="no task was measured")
def task_gains(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Every task's gain over raw CP in ROC-AUC as a dot, with the median of each method and control."""
    rng, labels = np.random.default_rng(0), []  # of the vertical jitter, which means nothing
    fig = _figure(FULL_WIDTH, 0.9 + 0.27 * len(order_pairs(table)), title)
    ax = fig.subplots()
    ax.axvline(0, color=GREY, lw=1, ls=":")
    for y, (method, control) in enumerate(order_pairs(table)):
        gains = table.loc[(table["method"] == method) & (table["control"] == control), "gain"].to_numpy(dtype=float)
        colour, size = method_colour(method), np.clip(900 / len(gains), 4, 16)
        look = {"fc": colour if control in TRUE else "white", "ec": colour, "lw": 0.6, "alpha": 0.65}
        ax.scatter(gains, y + rng.uniform(-0.28, 0.28, len(gains)), s=size, rasterized=True, **look)
        ax.plot([np.median(gains)] * 2, [y - 0.38, y + 0.38], color="black", lw=2, zorder=4)
        name = method_label(method) if control in TRUE else control_label(control)
        labels.append(f"{name}: {np.median(gains):+.3f}, {np.mean(gains > 0):.0%}")
    _rows(ax, range(len(labels)), labels)
    ax.set(ylim=(len(labels) - 0.5, -0.5), title="left: median, share of tasks that gain")
    ax.set_xlabel("difference to raw CP in ROC-AUC, a dot a task")
    return fig


def _heat(title: str, matrix: pd.DataFrame, label: str, **look) -> tuple[StudyFigure, Axes]:
    """A matrix with the names of its rows and columns and a colour bar."""
    rows, columns = ([_short(name, 32) for name in axis] for axis in (matrix.index, matrix.columns))
    fig = _figure(FULL_WIDTH, 0.7 + max(map(len, columns)) / PER_INCH + max(0.19 * len(rows), 1.4), title)
    ax = fig.subplots()
    image = ax.pcolormesh(matrix.to_numpy(dtype=float), edgecolors="white", lw=0.6, rasterized=True, **look)
    ax.set_facecolor("#F2F2F2")
    _rows(ax, np.arange(len(rows)) + 0.5, rows)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    ax.tick_params(length=0)
    fig.colorbar(image, ax=ax, label=_wrap(label, max(16, 3 * len(rows))), aspect=16, pad=0.01)
    return fig, ax


@_draws("compound", "mechanism", "rank", "score", "is_known", number="score",
        reason="no compound is new, or no mechanism of action is known in the library")  # fmt: skip
def nearest_mechanisms(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Similarity (``score``) of the first new compounds to mechanisms of action, their own (``is_known``) boxed."""
    compounds = list(dict.fromkeys(table["compound"]))
    shown = table[table["compound"].isin(compounds[:25])]
    # One that ranks first counts most; being a compound's own counts half a first rank.
    weight = (1 / shown["rank"].astype(float) + 0.5 * shown["is_known"].astype(bool)).groupby(shown["mechanism"]).sum()
    columns = list(weight.sort_values(ascending=False, kind="stable").index[:24])
    matrix = shown.pivot_table(index="compound", columns="mechanism", values="score").clip(lower=0)
    matrix = matrix.reindex(index=compounds[:25], columns=columns)
    # The palest blue is kept off the scale: it would look like an empty field.
    top = max(matrix.max(axis=None), 0.05)
    fig, ax = _heat(title, matrix, "similarity, 0 or less palest", vmin=-0.25 * top, vmax=top, cmap="Blues")
    fig.axes[-1].set_ylim(0, top)
    own = shown[shown["is_known"].astype(bool) & shown["mechanism"].isin(columns)]
    for compound, mechanism in zip(own["compound"], own["mechanism"], strict=True):
        place = columns.index(mechanism) + 0.06, compounds.index(compound) + 0.06
        ax.add_patch(Rectangle(place, 0.88, 0.88, fill=False, ec=CATEGORY_COLOURS[5], lw=1.6, zorder=4))
    counts = f"{len(matrix)} of {len(compounds)} compounds, {len(columns)} of {len(weight)} mechanisms"
    _note(fig, f"{counts}: nearest to most, or known. Boxed: the compound's own known mechanism.")
    return fig


@_draws("compound", "task", "family", "probability", number="probability",
        reason="the library has no task to predict, or no compound is new")  # fmt: skip
def predicted_activity(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Predicted probability of activity of the first new compounds in the tasks that differ most, by target family."""
    compounds = list(dict.fromkeys(table["compound"]))
    matrix = table.pivot_table(index="compound", columns=["family", "task"], values="probability")
    matrix = matrix.loc[compounds[:40]]
    widest = matrix.std().fillna(0).sort_values(ascending=False, kind="stable").index[:30]
    matrix = matrix[sorted(widest, key=lambda one: (one[0] == "other", one))]
    families = matrix.columns.get_level_values("family")
    matrix.columns = [task if family in task else f"{family}: {task}" for family, task in matrix.columns]
    fig, ax = _heat(title, matrix, "predicted probability of activity", vmin=0, vmax=1, cmap="viridis")
    ax.vlines(np.flatnonzero(families[1:] != families[:-1]) + 1, 0, len(matrix), color="white", lw=2.5)
    counts = f"{len(matrix)} of {len(compounds)} compounds, {len(widest)} of {table['task'].nunique()} tasks"
    _note(fig, f"{counts}: those that differ most between compounds.")
    return fig


@_draws("distance", "p_value", "smallest_p", "active", reason="no compound is new")
def new_compounds_page(
    calls: pd.DataFrame, mechanisms: pd.DataFrame, activities: pd.DataFrame, *, title: str, fdr: float
) -> StudyFigure:
    """One page about a file of new compounds, at a false discovery rate: which treatments are active, the nearest
    mechanisms of ten compounds (``compound, rank, mechanism, p_adjusted, q_value``), and outcomes (``family, call``).
    """
    calls = calls[_finite(calls["p_value"])].astype({"active": bool})
    first = _need(mechanisms, ["compound", "rank", "mechanism", "p_adjusted", "q_value"]).query("rank == 1")
    activities = _need(activities, ["family", "call"])
    fig = _figure(FULL_WIDTH, 6.0, title)
    above, below = fig.subfigures(2, 1)  # each with room for its own names
    axes = [*above.subplots(1, 2), below.subplots()]
    if len(calls):
        colours = calls["active"].map({True: CALL_COLOURS["active"], False: "#9B9B9B"})
        axes[0].scatter(calls["distance"], calls["p_value"], s=16, lw=0.4, ec="white", color=colours)
        axes[0].axhline(calls["smallest_p"].min(), color=GREY, lw=0.8, ls="--")
        axes[0].set(yscale="log", xlabel="distance from controls (theirs: 1)", ylabel="p (dashed: smallest possible)")
        axes[0].invert_yaxis()
        axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if len(first):
        shown = first.sort_values(["p_adjusted", "compound"], kind="stable").head(10)
        faces = (shown["q_value"] <= fdr).map({True: CATEGORY_COLOURS[0], False: "white"})
        axes[1].scatter(shown["p_adjusted"], range(len(shown)), s=30, ec=CATEGORY_COLOURS[0], color=faces)
        names = shown["compound"].map(lambda name: _short(name, 13)) + ": " + shown["mechanism"]
        _rows(axes[1], range(len(shown)), [_short(name, 30) for name in names])
        axes[1].set(xlim=(1.05, -0.05), xlabel="p (filled: called)")
    if len(activities):
        kept = activities["family"].value_counts().index[:10]
        family = activities["family"].where(activities["family"].isin(kept), "all others")
        shares = pd.crosstab(family, activities["call"], normalize="index").reindex(columns=list(CALL_COLOURS))
        shares = shares.fillna(0).sort_values(["active", "inactive"])
        shares.plot.barh(stacked=True, ax=axes[2], color=CALL_COLOURS, width=0.72)
        axes[2].set(xlim=(0, 1), xlabel="share of predictions", ylabel="")
        axes[2].legend(**BESIDE)
    decided = activities["call"].isin(["active", "inactive"])
    titles = [
        f"Active: {calls['active'].sum()} of {len(calls)} treatments, {fdr:.0%} FDR",
        f"Mechanism called: {(first['q_value'] <= fdr).sum()} of {len(first)}",
        f"Outcomes decided: {decided.sum()} of {len(activities)}",
    ]
    reasons = ["no negative controls on its plates", "none is known in the library", "no assay has labels enough"]
    for ax, words, rows, reason in zip(axes, titles, (calls, first, activities), reasons, strict=True):
        ax.set_title(words)
        if not len(rows):
            _say(ax, f"nothing to show: {reason}", 3)
    return fig
