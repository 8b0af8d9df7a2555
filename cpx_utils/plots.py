"""One function a kind of figure, one palette and one order of methods for the whole study.

A function takes a tidy table, leaves it as it is and returns a :class:`StudyFigure`; nothing is saved here. An empty
table becomes a figure that says why. The same table gives the same picture, byte for byte: nothing draws on a global
state.

The marks mean the same everywhere. Squares in greys are methods that never see transcriptomics (TX), circles are
methods trained on Cell Painting (CP) and TX pairs, one hue each; filled is the true pairing, open is a control.
Black diamonds are oracles, which need the TX of the very compound. Hues stay apart under the common forms of
colour blindness (Wong 2011, doi 10.1038/nmeth.1618).
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from itertools import product

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cpx_utils.profiles import CONTROL_LABELS, CP_ONLY, ORACLES, UNITS

METHODS = {  # in the order of the study: name for a reader, colour
    "raw_cp": ("raw CP", "#8E8E8E"),
    "sphered_cp": ("sphered CP", "#737373"),
    "pca_cp": ("PCA of CP", "#595959"),
    "cell_count": ("cell count alone", "#ABABAB"),
    "lda_identity": ("LDA on identity (no TX)", "#3F3F3F"),
    "ridge_tx": ("ridge CP→TX", "#E69F00"),
    "rcca": ("regularised CCA", "#56B4E9"),
    "autoencoder": ("autoencoder", "#0072B2"),
    "contrastive": ("contrastive", "#D55E00"),
    "contrastive_soft": ("contrastive, soft targets", "#7A0177"),
    "contrastive_replicates": ("contrastive on discriminants", "#E377C2"),
    "contrastive_joint": ("contrastive, joint with replicates", "#117733"),
    "distilled": ("distilled from TX", "#999933"),
    "chemistry": ("structure alone (ECFP4)", "#8C510A"),
    "tx": ("TX itself (oracle)", "#000000"),
    "cp_tx": ("CP and TX (oracle)", "#252525"),
    "tx_encoded": ("its own TX, encoded (oracle)", "#3B1F00"),
}
METHOD_LABELS = {method: label for method, (label, _) in METHODS.items()}
TRUE = ("", "true_pairs")  # no pairs at all, or the true ones
CONTROL_MARKERS = {
    "deranged": "o",
    "rows_shuffled": "s",
    "random_codes": "^",
    "untrained": "v",
    "deranged_in_plate": "D",
}
SPARE_COLOUR = "#332288"  # of methods that aren't entered above
CATEGORY_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#332288", "#999933")
MODALITY_COLOURS = {"CP": "#00785A", "TX": "#AA4499"}
ENDPOINT_LABELS = {
    "tx_strong_tasks": "tasks where TX excels and CP does not",
    "replicate_map": "replicates together",
    "moa_map": "mechanisms of action together",
    "family_auc": "bioactivity by target family",
}
SIZE_ENDPOINTS = {"replicate_map": "replicate mAP", "moa_map": "MoA mAP", "roc_auc": "mean ROC-AUC of tasks"}

SINGLE_WIDTH, FULL_WIDTH = 6.0, 7.2  # inches
SMALL, NORMAL, LARGE = 9.0, 9.5, 11.0  # points
PER_INCH = 12  # letters of the smaller sizes in an inch, about
GREY, PALE, UNTESTED = "#777777", "#D9D9D9", "#B0B0B0"
NOTE = {"size": SMALL, "color": GREY, "x": 0.01, "ha": "left"}  # a sentence under the whole figure
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

_handle = partial(Line2D, [], [], ls="")  # what a legend shows of a marker, or of a line if it has a style


class StudyFigure(Figure):
    """A figure that draws itself in the style of the study; it isn't pyplot's, so a notebook shows it only once."""

    def draw(self, renderer):
        """Draw in the style of the study, whatever the caller's settings are."""
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


def _draws(reason: str, number: str = "") -> Callable:
    """Make a function one that draws a table in the style of the study, on a global state that stays as it is.

    Rows go whose `number` is missing; where none is left, the figure gives the reason.
    """

    def decorate(function: Callable[..., StudyFigure]) -> Callable[..., StudyFigure]:
        @wraps(function)
        def draw(table: pd.DataFrame, **options) -> StudyFigure:
            table = table.dropna(subset=number) if number and len(table) else table
            # A csv read back has NaN where a method has no control or a task no family.
            table = table.fillna({"control": "", "family": "other"}).reset_index(drop=True)
            with matplotlib.style.context(["default", STYLE]):
                if len(table):
                    return function(table, **options)
                return _words_only(options.get("title", "Nothing to show"), f"nothing to show: {reason}")

        return draw

    return decorate


def _figure(width: float, height: float, title: str) -> StudyFigure:
    """A figure with a wrapped title at its left; `height` is without the title."""
    title = _wrap(title, int(10 * width))
    fig = StudyFigure(figsize=(width, height + 0.18 * (title.count("\n") + 1)), dpi=100, layout="constrained")
    fig.suptitle(title, x=0.01, ha="left", size=LARGE, weight="bold")
    return fig


def _words_only(title: str, words: str) -> StudyFigure:
    """A figure of a title and sentences, where there is nothing to draw."""
    words = _wrap(words, int(SINGLE_WIDTH * PER_INCH))
    fig = _figure(SINGLE_WIDTH, 0.4 + 0.18 * (words.count("\n") + 1), title)
    fig.text(0.01, 0.05, words, **QUIET | {"va": "bottom"})
    return fig


def _panels(fig: Figure, n: int, across: int, **options) -> list[Axes]:
    """Panels in reading order, without empty ones."""
    axes = fig.subplots(-(-n // across), across, squeeze=False, **options).ravel()
    for ax in axes[n:]:
        ax.remove()
    return list(axes[:n])


def _legend(fig: Figure, handles: Sequence, title: str | None = None) -> None:
    """A legend below all panels in as many columns as the width holds."""
    labels = [handle.get_label() for handle in handles]
    columns = int(np.clip(14 * fig.get_figwidth() // (max(map(len, labels)) + 6), 1, len(labels)))
    fig.legend(handles, labels, loc="outside lower left", ncols=columns, alignment="left", title=title)


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
    ax.invert_yaxis()


def order_methods(methods: Iterable[str]) -> list[str]:
    """The distinct methods; ``concat:<method>`` follows its method, unknown ones come before the oracles."""
    known = [name for base in METHODS for name in (base, f"concat:{base}")]
    last = known.index(ORACLES[0]) - 0.5
    return sorted(set(methods), key=lambda name: (known.index(name) if name in known else last, name))


def _distinct(table: pd.DataFrame, column: str) -> list:
    """The distinct values of a column: methods and controls in the order of the study, others in the table's."""
    if column == "method":
        return order_methods(table[column])
    values = list(pd.unique(table[column]))
    return sorted(values, key=list(CONTROL_LABELS).index) if column == "control" else values


def order_pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of method and control of a table, in the order of the study."""
    pairs = set(zip(table["method"], table["control"], strict=True))
    return [pair for pair in product(order_methods(table["method"]), CONTROL_LABELS) if pair in pairs]


def method_label(method: str) -> str:
    """Name of a method for a reader; a method that the study does not know keeps its own."""
    base = method.removeprefix("concat:")
    label = METHOD_LABELS.get(base, base)
    return label if method == base else f"[CP, {label}]"


def wide_table(table: pd.DataFrame, columns: str) -> pd.DataFrame:
    """Means of ``value`` for a reader: a row a method and control, by name; a column each of the values of `columns`.

    Values that are NaN are left out; nothing measured gives no rows.
    """
    table = table.dropna(subset="value").fillna({"control": ""})
    wide = table.groupby(["method", "control", columns])["value"].mean().unstack(columns)
    wide = wide.reindex(columns=table[columns].unique()).loc[order_pairs(table)]
    return wide.rename(index=method_label, level="method").rename(index=CONTROL_LABELS, level="control")


def _marker(method: str, control: str, colour: str = "") -> dict:
    """Marker of a method and control: its kind by shape, filled for the true pairing, open for a control."""
    colour = colour or METHODS.get(method.removeprefix("concat:"), ("", SPARE_COLOUR))[1]
    if control not in TRUE:
        return {"marker": CONTROL_MARKERS[control], "mfc": "white", "mec": colour, "mew": 1.2, "ms": 4.8}
    shape = "s" if method in CP_ONLY else "D" if method in ORACLES else "o"
    return {"marker": shape, "mfc": colour, "mec": colour, "mew": 1.0, "ms": 6.0 if shape == "o" else 5.0}


def _kinds(table: pd.DataFrame, mark: str) -> list[Line2D]:
    """Legend of the kinds of markers that occur; empty where methods and controls are all of one kind."""
    kinds = {}  # how each kind is marked
    if mark == "control":
        for method, control in order_pairs(table):
            word = "trained on true CP–TX pairs" if control in TRUE else f"control: {CONTROL_LABELS[control]}"
            word = "never sees TX" if method in CP_ONLY else word
            word = "oracle: needs the compound's own TX" if method in ORACLES else word
            kinds[word] = _marker(method, control, "" if method in ORACLES else GREY)
        kinds = kinds if len(kinds) > 1 else {}
    else:
        for name, look in table.groupby(mark, sort=False)["look"].first().items():
            kinds[method_label(name)] = _marker(name, look, "" if mark == "method" else GREY)
    if not table["tested"].all():
        kinds["too few to be tested"] = _marker("", "", UNTESTED)
    return [_handle(label=word, **marker) for word, marker in kinds.items()]


@_draws(reason="no method was measured")
def intervals(
    table: pd.DataFrame, *, title: str, xlabel: str, row: str = "method", facet: str = "", mark: str = "control",
    filled: Sequence[str] = TRUE, line: float | Mapping[str, float] | None = None, line_label: str = "chance",
    across: int = 3, sharex: bool | str = False, note: str = "", empty: str = "not measured", order: Sequence[str] = (),
) -> StudyFigure:  # fmt: skip
    """Values with their intervals: a row each method, a panel each facet, the marks of a row below each other.

    Parameters
    ----------
    table : DataFrame
        ``method, mean, ci_low, ci_high`` and the columns named by `row`, `facet` and `mark`; one value each. Marks are
        grey where ``tested`` is false.
    row, facet, mark : str
        Columns whose values make the rows, the panels, and the marks within a row. Methods and controls come in the
        order of the study, others in that of the table. Where rows are methods, a dotted line is raw CP's value.
    filled : sequence of str
        Values of `mark` that are drawn filled; the others are open.
    line : one for all facets, or dict from facet
        Where the dashed line is that `line_label` names.
    across, sharex
        Panels side by side; whether all, or those of a "row", have one scale.
    note, empty : str
        A sentence above the legend, and the words in a row that a panel lacks.
    order : sequence of str
        The rows from top to bottom, where the table's order isn't theirs.
    """
    table = table.assign(tested=table["tested"].astype(bool) if "tested" in table else True)
    table = table if facet else table.assign(**{"": ""})
    table["look"] = table[mark] if mark == "control" else np.where(table[mark].isin(filled), "", "deranged")
    rows, facets = _distinct(table, row), _distinct(table, facet)
    rows = [name for name in order if name in rows] or rows
    measured, heights = _placed(table.dropna(subset="mean"), rows, row, facet, mark)
    middles = heights.cumsum() - heights / 2
    across = min(across, len(facets))
    down = -(-len(facets) // across)
    width = FULL_WIDTH if across > 1 else SINGLE_WIDTH
    *heads, foot = (_wrap(method_label(words), int((width - 2) / across * PER_INCH)) for words in (*facets, xlabel))
    words = 0.15 * (max(head.count("\n") for head in heads) + foot.count("\n"))
    fig, lines = _figure(width, 0.5 + down * (0.75 + words + 0.13 * heights.sum()), title), {}
    axes = _panels(fig, len(facets), across, sharey=True, sharex=sharex)
    for ax, name, head in zip(axes, facets, heads, strict=True):
        own = measured[measured[facet] == name]
        _draw_marks(ax, own)
        for middle in middles.drop(own[row].unique()):
            ax.text(0.01, middle, empty, transform=ax.get_yaxis_transform(), **QUIET)
        raw = own[(own["method"] == "raw_cp") & own["look"].isin(TRUE) & (row == "method")]["mean"]
        chance = pd.Series([line.get(name) if isinstance(line, Mapping) else line]).dropna()
        for at, label, style in ((chance, line_label, "--"), (raw, "raw CP", ":")):
            if len(at):
                lines[label] = ax.axvline(at.iloc[0], color=GREY, lw=1, ls=style, zorder=1, label=label)
        ax.set(xlabel=foot, title=head)
        ax.locator_params(axis="x", nbins=5 if across < 3 else 3)
        _rows(ax, middles, [_short(method_label(name), 36) for name in rows])
        ax.tick_params(axis="y", labelleft=ax.get_subplotspec().is_first_col())
    ax.set_ylim(heights.sum(), 0)
    handles = [*_kinds(table, mark), *lines.values()]
    if handles:
        _legend(fig, handles, title=_wrap(note, int(width * PER_INCH)) or None)
    return fig


def _placed(table: pd.DataFrame, rows: list[str], row: str, facet: str, mark: str) -> tuple[pd.DataFrame, pd.Series]:
    """Values with their `place` from the top, the marks of a row below each other, and the height of each row."""
    table = table.sort_values(mark, key=lambda names: names.map(_distinct(table, mark).index))
    heights = table.groupby(row)[mark].nunique().reindex(rows).fillna(1) + 0.8  # a mark is one high, 0.8 is air
    together = table.groupby([row, facet])["mean"]
    below = together.cumcount() - (together.transform("size") - 1) / 2
    middle = table[row].map(heights.cumsum() - heights / 2).astype(float)
    return table.assign(place=middle + below), heights


def _draw_marks(ax: Axes, table: pd.DataFrame) -> None:
    """Draw each value with its interval at its `place`, looking as a control or as true pairs."""
    for value in table.to_dict("records"):
        marker = _marker(value["method"], value["look"], "" if value["tested"] else UNTESTED)
        width = 1.8 if value["look"] in TRUE else 1.1
        ax.plot([value["ci_low"], value["ci_high"]], [value["place"]] * 2, color=marker["mec"], lw=width)
        ax.plot([value["mean"]], [value["place"]], ls="", zorder=3, **marker)


PAPER_METHODS = ("raw_cp", "autoencoder", "contrastive", "tx", "cp_tx")
GAIN_STEPS = {  # from no TX at all to the TX of the new compound itself
    ("raw_cp", ""): "raw CP",
    ("sphered_cp", ""): "sphered CP",
    ("lda_identity", ""): "replicates alone (LDA)",
    ("{}", "untrained"): "untrained",
    ("{}", "random_codes"): "random codes",
    ("{}", "deranged"): "deranged pairs",
    ("{}", "true_pairs"): "true pairs",
    ("tx_encoded", ""): "its own TX, encoded",
}


def _claim_panels(table: pd.DataFrame) -> pd.Series:
    """The claim of each row (``claim, endpoint``) as the head of a panel."""
    words = table["endpoint"].map(ENDPOINT_LABELS) + " (" + table["endpoint"].map(UNITS) + ")"
    return table["claim"].astype(int).astype(str) + ". " + words


def paper_comparison(values: pd.DataFrame) -> StudyFigure:
    """What the paper compares: raw CP, its two methods, TX itself and both, a panel a claim.

    ``claim, endpoint, method, control, mean, ci_low, ci_high`` as of `claims.interval_rows`; other methods and controls
    are left out.
    """
    shown = values[values["method"].isin(PAPER_METHODS) & values["control"].isin(TRUE)]
    wide = shown.pivot_table("mean", "claim", "method").reindex(columns=["raw_cp", "contrastive"]).dropna()
    above = (wide["contrastive"] > wide["raw_cp"]).sum()
    title = f"Contrastive lies above raw CP in {above} of {len(wide)} measured claims"
    shown = shown.assign(panel=_claim_panels(shown))
    return intervals(shown, title=title, xlabel="value on unseen compounds", facet="panel", across=2)


def claims_forest(claims: pd.DataFrame) -> StudyFigure:
    """Gains over raw CP, CP-only references and controls for the methods that carry verdicts, a panel a claim.

    The table of `claims.weigh_claims`. Claims that aren't testable are told with their reason.
    """
    heads = claims[claims["verdict"] != ""].sort_values("claim", kind="stable")
    lacking = heads[heads["verdict"] == "not testable"].drop_duplicates("claim")
    note = "\n".join(f"Claim {head.claim} is not testable: {head.reason}." for head in lacking.itertuples())
    heads = heads[heads["verdict"] != "not testable"]
    if heads.empty:
        return _words_only(f"No claim is testable on {claims['screen'].iloc[0]}", note)
    panels = _claim_panels(heads).groupby(heads["claim"]).first()
    for head in heads.itertuples():
        panels[head.claim] += f"\n{method_label(head.method)}: {head.verdict}"
    shown = claims.merge(heads[["claim", "endpoint", "method"]])
    shown = shown[(shown["reference"] == "raw_cp") | shown["role"].isin(["reference", "control"])]
    labels = {name: method_label(name) for name in order_methods(set(shown["reference"]) - set(CONTROL_LABELS))}
    labels |= {control: f"itself, {words}" for control, words in CONTROL_LABELS.items()}
    shown = shown.assign(label=shown["reference"].map(labels), panel=shown["claim"].map(panels), mean=shown["effect"])
    shown = shown.sort_values("claim", kind="stable")
    n_supported = (heads["verdict"] == "supported").sum()
    title = f"{n_supported} of {len(heads)} claims weighed on {claims['screen'].iloc[0]} are supported"
    return intervals(
        shown, title=title, xlabel="gain over what stands at the left", row="label", facet="panel", across=2,
        mark="method", filled=list(heads["method"]), line=0.0, line_label="no difference", note=note,
        empty="not asked", order=list(labels.values()),
    )  # fmt: skip


def chosen_gains(gains: pd.DataFrame) -> StudyFigure:
    """Gains over raw CP on TX-strong, CP-weak tasks, by who chose the tasks (``chosen_by``)."""
    mean = gains[gains["method"] == "contrastive"].groupby("chosen_by", sort=False)["mean"].first()
    words = [f"{value:+.3f} on tasks chosen by {name}" for name, value in mean.items()]
    title = f"Contrastive gains {', '.join(words)}" if words else "No task is chosen as TX-strong and CP-weak"
    return intervals(
        gains, title=title, xlabel="difference to raw CP in ROC-AUC", mark="chosen_by", filled=["training compounds"],
        line=0.0, line_label="raw CP",
    )  # fmt: skip


def family_gains(families: pd.DataFrame) -> StudyFigure:
    """Gains by target family (``family, n_tasks, tested``), a panel a method and what is subtracted (``minus``)."""
    shown = families[families["method"].isin(["autoencoder", "contrastive"]) & (families["control"] == "true_pairs")]
    shown = shown.sort_values(["tested", "n_tasks", "family"], ascending=[False, False, True], kind="stable")
    shown["panel"] = shown["method"].map(method_label) + " " + shown["minus"]
    shown["family"] += " (" + shown["n_tasks"].astype(str) + ")"
    won = shown[(shown["method"] == "contrastive") & shown["tested"]]
    n_won = (won["ci_low"] > 0).groupby(won["minus"], sort=False).agg(["sum", "size"])
    words = [f"{row['sum']} of {row['size']} families {minus}" for minus, row in n_won.iterrows()]
    title = f"Contrastive gains in {', '.join(words)}" if words else "No target family has tasks enough to be tested"
    return intervals(
        shown, title=title, xlabel="difference in ROC-AUC", row="family", facet="panel", across=2, sharex=True,
        line=0.0, line_label="no difference",
    )  # fmt: skip


def gain_steps(values: pd.DataFrame, method: str) -> StudyFigure:
    """How far each step carries a method from raw CP: `GAIN_STEPS` below each other, a panel a claim.

    `values` as for `paper_comparison`. What true pairs add to deranged ones is TX; what deranged ones add to raw CP
    isn't.
    """
    steps = {(name.format(method), control): label for (name, control), label in GAIN_STEPS.items()}
    keys = pd.Series(list(zip(values["method"], values["control"], strict=True)), index=values.index)
    shown = values[keys.isin(steps)].assign(label=keys.map(steps), panel=_claim_panels(values))
    return intervals(
        shown.sort_values("claim", kind="stable"), title=f"From raw CP to {method_label(method)}, step by step",
        xlabel="value on unseen compounds", row="label", facet="panel", across=2, order=list(steps.values()),
    )  # fmt: skip


@_draws(reason="no endpoint could be measured", number="mean")
def data_size_curves(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Each endpoint by the number of compounds that an encoder was trained on, a panel each of `SIZE_ENDPOINTS`."""
    endpoints = [name for name in SIZE_ENDPOINTS if name in set(table["endpoint"])]
    pairs, sizes = order_pairs(table), np.unique(table["n_compounds"])
    fig, handles = _figure(FULL_WIDTH, 3.5, title), {}
    axes = _panels(fig, len(endpoints), len(endpoints))
    parts = dict(list(table.sort_values("n_compounds").groupby(["endpoint", "method", "control"])))
    for ax, endpoint in zip(axes, endpoints, strict=True):
        # Side by side at each size, since intervals on top of each other can't be read.
        for shift, (method, control) in zip(np.linspace(-0.06, 0.06, len(pairs)), pairs, strict=True):
            own = parts.get((endpoint, method, control), table.iloc[:0])
            x, marker = own["n_compounds"] * np.exp(shift), _marker(method, control)
            ax.vlines(x, own["ci_low"], own["ci_high"], color=marker["mec"], lw=1)
            label = method_label(method) + ("" if control in TRUE else f", {CONTROL_LABELS[control]}")
            look = {"color": marker["mec"], "ls": "-" if control in TRUE else "--", "label": label}
            [handles[label]] = ax.plot(x, own["mean"], lw=1.2, **look, **marker)
        ax.set(xscale="log", title=SIZE_ENDPOINTS[endpoint])
        ax.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        ax.minorticks_off()
    axes[0].set_ylabel("value on unseen compounds")
    axes[len(axes) // 2].set_xlabel("training compounds with TX")
    _legend(fig, list(handles.values()))
    return fig


def mean_curves(history: pd.DataFrame, n_epochs: int = 30) -> pd.DataFrame:
    """Losses of a history of training as `training_curves` draws them, for true and deranged pairs.

    They are minus chance, the loss of codes that say nothing; means over a fold's seeds, at `n_epochs` epochs at most,
    denser where training begins.
    """
    keys = ["split", "repeat", "fold", "method", "control"]
    history = history[history["control"].isin(["true_pairs", "deranged"])]
    history = history.assign(**history[["training", "validation"]].sub(history["chance"], axis=0))
    epochs = np.unique(np.round(np.linspace(1, history["epoch"].max() ** 0.5, n_epochs) ** 2).astype(int))
    means = {value: _mean_runs(history, keys, value).stack() for value in ("training", "validation")}
    means = pd.DataFrame(means).dropna(how="all").reset_index()
    return means[means["epoch"].isin(epochs)].reset_index(drop=True)


def _mean_runs(history: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Means of all runs with the same `keys`, an epoch a column.

    A run that stopped keeps its last value; the mean ends where fewer than half still go on.
    """
    runs = [name for name in history if name not in ("epoch", "training", "validation")]
    wide = history.set_index([*runs, "epoch"])[value].unstack("epoch")
    going = wide.notna().groupby(keys, sort=False).mean() >= 0.5
    return wide.ffill(axis=1).groupby(keys, sort=False).mean().where(going)


@_draws(reason="no network was trained with held-out compounds")
def training_curves(table: pd.DataFrame, *, ylabel: str) -> StudyFigure:
    """Loss minus chance by epoch on training pairs and unseen compounds, a panel a method, means over folds.

    The table is one of `mean_curves`. The title tells the lowest mean on unseen compounds.
    """
    methods = order_methods(table["method"])
    means = {value: _mean_runs(table, ["method", "control"], value) for value in ("training", "validation")}
    unseen = means["validation"]
    lowest = [f"{unseen.loc[method, 'true_pairs'].min():+.2f} by {method_label(method)}" for method in methods]
    across = min(len(methods), 2)
    height = 0.9 + 2.5 * -(-len(methods) // across)
    fig = _figure(FULL_WIDTH, height, f"Lowest loss on unseen compounds, minus chance: {', '.join(lowest)}")
    lines = {
        ("training", "true_pairs"): {"label": "training pairs", "color": GREY},
        ("validation", "true_pairs"): {"label": "unseen compounds", "color": "black"},
        ("validation", "deranged"): {"label": "unseen, deranged pairs", "color": "black", "ls": "--"},
    }
    for ax, method in zip(_panels(fig, len(methods), across), methods, strict=True):
        for (value, control), look in lines.items():
            if (method, control) in means[value].index:
                ax.plot(means[value].loc[method, control].dropna(), lw=2, **look)
        ax.axhline(0.0, color=GREY, ls=":", lw=1, label="chance")
        words = f"{method_label(method)}: lowest at epoch {unseen.loc[method, 'true_pairs'].idxmin():.0f}"
        ax.set(title=words, xlabel="epoch", ylabel=ylabel)
    _legend(fig, fig.axes[0].lines)
    return fig


@_draws(reason="nothing was counted")
def missing_and_counts(table: pd.DataFrame, *, title: str, xlabel: str = "compounds") -> StudyFigure:
    """How many there are of each kind, such as compounds with a structure: ``what, n`` in the order of the table."""
    fig = _figure(SINGLE_WIDTH, 0.55 + 0.27 * len(table), title)
    ax = fig.subplots()
    bars = ax.barh(range(len(table)), table["n"], height=0.62, color=CATEGORY_COLOURS[0])
    ax.bar_label(bars, fmt="{:,.0f}", padding=4)
    _rows(ax, range(len(table)), [_short(what, 48) for what in table["what"]])
    ax.set(xlim=(0, max(table["n"].max(), 1) * 1.12), xlabel=xlabel)
    ax.locator_params(axis="x", nbins=5, integer=True)
    return fig


@_draws(reason="the screen has no control wells on named plates", number="value")
def control_distributions(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """What plates do to negative controls before and after normalisation: ``plate, value, when`` of control wells."""
    plates = table["plate"].unique()
    fig = _figure(FULL_WIDTH, 4.3, title)
    shown = slice(None, None, -(-len(plates) // 42))  # a tick label set upright needs about 0.15 inch
    for ax, (when, own) in zip(fig.subplots(2, 1, sharex=True), table.groupby("when", sort=False), strict=True):
        values = own.groupby("plate")["value"].agg(list).reindex(plates)
        ax.axhline(0, color=PALE, lw=1, zorder=0)
        ax.boxplot(list(values), whis=(5, 95), showfliers=False, manage_ticks=False)
        ax.set(title=f"{when} normalisation", xlabel="plate", ylabel="feature value\nof the controls")
        ax.set_xticks(np.arange(len(plates))[shown] + 1, [_short(name, 16) for name in plates[shown]], rotation=90)
        ax.label_outer()
    fig.supxlabel("Box: a plate's median and middle half; whiskers: its middle 90%. The scales differ.", **NOTE)
    return fig


@_draws(reason="no treatment of this screen has replicates", number="correlation")
def replicate_correlations(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """Densities of the correlation of two wells, a panel a modality, by kind: ``replicates, different treatments``."""
    import seaborn

    modalities = [name for name in MODALITY_COLOURS if (table["modality"] == name).any()]
    fig = _figure(FULL_WIDTH, 2.9, title)
    for ax, modality in zip(_panels(fig, len(modalities), len(modalities), sharex=True), modalities, strict=True):
        own = table[table["modality"] == modality]
        colours = {"different treatments": "#9A9A9A", "replicates": MODALITY_COLOURS[modality]}
        look = {"palette": colours, "common_norm": False, "fill": True, "cut": 0, "warn_singular": False}
        seaborn.kdeplot(own, x="correlation", hue="kind", ax=ax, **look)
        ax.get_legend().set_title(None)
        ax.set(title=modality, xlabel="correlation of two wells", yticks=[])
    return fig


@_draws(reason="no embedding was mapped", number="x")
def embedding_maps(table: pd.DataFrame, *, title: str, label_order: Sequence[str]) -> StudyFigure:
    """Two-dimensional maps of the embeddings, a panel a method: the first eight of `label_order` in colour."""
    grey = {"other": ("#C4C4C4", "o")}  # drawn first, so that it hides none that has a name
    looks = grey | dict(zip(label_order, zip(CATEGORY_COLOURS, "os^DvPX<", strict=True), strict=False))
    table = table.assign(label=table["label"].where(table["label"].isin(looks), "other"))
    methods = order_methods(table["method"])
    across = min(len(methods), 3)
    side = FULL_WIDTH / max(across, 2)
    fig = _figure(FULL_WIDTH, 0.5 - (-len(methods) // across) * (side + 0.1) + 0.09 * len(looks), title)
    for ax, method in zip(_panels(fig, len(methods), across), methods, strict=True):
        for label, (colour, marker) in looks.items():
            own = table[(table["method"] == method) & (table["label"] == label)]
            look = {"s": 3 if label == "other" else 16, "color": colour, "marker": marker}
            ax.scatter(own["x"], own["y"], lw=0.3, ec="white", rasterized=True, **look)
        ax.set(title=_wrap(method_label(method), int(side * 10)), xticks=[], yticks=[], box_aspect=1)
    handles = [_handle(label=_short(label, 36), marker=marker, color=hue) for label, (hue, marker) in looks.items()]
    _legend(fig, handles, title="UMAP: for the eye only, nothing is measured on it")
    return fig


@_draws(reason="no task was measured", number="gain")
def task_gains(table: pd.DataFrame, *, title: str) -> StudyFigure:
    """The gain of tasks over raw CP in ROC-AUC (``gain``) by method and control: their median and middle half."""
    gains = table.groupby(["method", "control"])["gain"]
    middle = pd.DataFrame({"ci_low": gains.quantile(0.25), "mean": gains.median(), "ci_high": gains.quantile(0.75)})
    xlabel = f"difference to raw CP in ROC-AUC: median and middle half of {table['task'].nunique()} tasks"
    return intervals(middle.reset_index(), title=title, xlabel=xlabel, line=0.0, line_label="raw CP")


@_draws(reason="no compound is new, or the library has nothing to compare it with", number="value")
def heat_map(table: pd.DataFrame, *, title: str, label: str) -> StudyFigure:
    """What new compounds were compared with: ``compound, what, value``, the first 25 compounds in the table's order.

    Of what they were compared with, the 30 are shown in which these compounds differ most.
    """
    compounds = table["compound"].unique()
    matrix = table.pivot_table("value", "compound", "what").loc[compounds[:25]]
    widest = matrix.std().sort_values(ascending=False, kind="stable").index[:30]
    matrix = matrix[sorted(widest)]
    rows, columns = ([_short(name, 32) for name in axis] for axis in (matrix.index, matrix.columns))
    fig = _figure(FULL_WIDTH, 0.7 + max(map(len, columns)) / PER_INCH + max(0.19 * len(rows), 1.4), title)
    ax = fig.subplots()
    image = ax.pcolormesh(matrix.to_numpy(dtype=float), edgecolors="white", lw=0.6, rasterized=True, cmap="viridis")
    _rows(ax, np.arange(len(rows)) + 0.5, rows)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    ax.tick_params(length=0)
    fig.colorbar(image, ax=ax, label=_wrap(label, max(16, 3 * len(rows))), aspect=16, pad=0.01)
    counts = f"{len(rows)} of {len(compounds)} compounds, {len(columns)} of {table['what'].nunique()} columns"
    fig.supxlabel(f"{counts}: those that differ most between compounds.", **NOTE)
    return fig


@_draws(reason="nothing was measured on both axes")
def scatter(table: pd.DataFrame, *, title: str, x: str, y: str, chosen: str, xlabel: str, ylabel: str) -> StudyFigure:
    """Two columns against each other, a dot a row: filled in colour where the column `chosen` is true."""
    fig = _figure(FULL_WIDTH, 3.8, title)
    ax = fig.subplots()
    for is_chosen, word, colour in ((False, f"not {chosen}", "white"), (True, chosen, CATEGORY_COLOURS[5])):
        own = table[table[chosen] == is_chosen]
        ax.plot(own[x], own[y], "o", ms=5, mec=GREY, mew=0.6, mfc=colour, label=f"{word} ({len(own)})")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, alignment="left")
    return fig
