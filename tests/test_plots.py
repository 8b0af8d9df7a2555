"""Figures: what is drawn is what the tables say, in one order and palette, and no words collide."""

import hashlib
import io
import itertools
from functools import cache
from itertools import product

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text
from sklearn.isotonic import IsotonicRegression

from cpx_utils import plots

TX_METHODS = ["ridge_tx", "rcca", "autoencoder", "contrastive"]
LONG_TITLE = (
    "Contrastive training moves replicates together, but four fifths of the gain is there on deranged pairs too"
)
MECHANISMS = [
    "glucocorticoid receptor agonist", "tubulin polymerization inhibitor", "HDAC inhibitor", "CDK inhibitor",
    "phosphodiesterase inhibitor (PDE4-selective)", "dopamine receptor antagonist", "DNA topoisomerase II inhibitor",
    "bacterial cell wall synthesis inhibitor", "HMG-CoA reductase inhibitor", "histamine H1 receptor antagonist",
]  # fmt: skip
FAMILIES = [
    "G-protein coupled receptors", "nuclear receptors and coregulators", "kinases", "ion channels", "cytotoxicity",
    "proteases and peptidases", "epigenetic regulators", "ubiquitin-proteasome system enzymes", "RNA-binding",
    "transcription factors", "phosphatases", "bacterial viability", "viral entry and replication", "chaperones",
    "transporters", "cytokine signalling", "apoptosis regulators", "GTPases", "Wnt pathway", "redox homeostasis",
    "protein-protein interactions (bromodomain)", "lipid metabolism", "other",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


# --------------------------------------------------------------------------------------------------
# Tables like those of a study


def interval_table(methods=plots.METHOD_ORDER, controls=("true_pairs", "deranged", "rows_shuffled")):
    rng = np.random.default_rng(1)
    rows = []
    for number, method in enumerate(methods):
        without_tx = method in plots.CP_ONLY + plots.ORACLES
        for control in ("",) if without_tx else controls:
            mean = 0.3 + 0.03 * number * (control in ("", "true_pairs")) + rng.normal(0, 0.01)
            rows.append((method, control, mean, mean - 0.02, mean + 0.03))
    return pd.DataFrame(rows, columns=["method", "control", "mean", "ci_low", "ci_high"])


def split_table():
    methods = ("raw_cp", "lda_identity", *TX_METHODS)
    tables = [
        interval_table(methods, controls=("true_pairs", "deranged")).assign(split=split, endpoint=endpoint)
        for split in ("random", "scaffold", "moa")
        for endpoint in ("replicate mAP", "MoA mAP")
    ]
    return pd.concat(tables, ignore_index=True)


def choice_table():
    rng = np.random.default_rng(12)
    rows = []
    for method in ("contrastive", "contrastive_soft"):
        for fold in (0, 1, 2, -1):
            values = 0.3 + 0.05 * rng.normal(size=4)
            for number, value in enumerate(values):
                name = f"temperature={(0.3, 1.0)[number // 2]:g}, input_noise={1 + number % 2}"
                rows.append(("random", 0, fold, method, name, value, number == values.argmin()))
    return pd.DataFrame(rows, columns=["split", "repeat", "fold", "method", "candidate", "value", "chosen"])


def history_table():
    rng = np.random.default_rng(2)
    rows = []
    for control, fold, member in itertools.product(("true_pairs", "deranged"), range(3), range(2)):
        for epoch in range(1, 20 + 5 * fold):
            training, validation = 5 * np.exp(-epoch / 9) + rng.normal(0, 0.05), 4 - 0.04 * epoch * (control[0] == "t")
            rows.append(("random", 0, fold, 0, "contrastive", control, member, epoch, training, validation))
    names = ["split", "repeat", "fold", "seed", "method", "control", "member", "epoch", "training", "validation"]
    return pd.DataFrame(rows, columns=names)


def plate_table(scale, n_plates=40):
    rng = np.random.default_rng(3)
    values = rng.normal(rng.normal(0, scale, (n_plates, 1)), 1, (n_plates, 50))
    return pd.DataFrame(
        {"plate": np.repeat([f"BR{25000 + 7 * i}" for i in range(n_plates)], 50), "value": values.ravel()}
    )


def correlation_table():
    rng = np.random.default_rng(4)
    other = "different treatments"
    middle = {("CP", "replicates"): 0.4, ("CP", other): 0.0, ("TX", "replicates"): 0.15, ("TX", other): 0.01}
    parts = [
        pd.DataFrame({"modality": modality, "kind": kind, "correlation": rng.normal(mean, 0.1, 200)})
        for (modality, kind), mean in middle.items()
    ]
    return pd.concat(parts, ignore_index=True)


def spectrum_table():
    parts = []
    for screen, decay in (("simulated", 0.9), ("cmea-u2os", 0.8)):
        for modality, n in (("CP", 100), ("TX", 300)):
            share = decay ** np.arange(n)
            values = np.cumsum(share) / share.sum()
            parts.append(
                pd.DataFrame(
                    {"screen": screen, "modality": modality, "component": np.arange(1, n + 1), "cumulative": values}
                )
            )
    return pd.concat(parts, ignore_index=True)


def statistics_table():
    names = [
        f"{modality} {what}"
        for what in ("replicate correlation", "variance", "components")
        for modality in ("CP", "TX")
    ]
    rows = [
        (name, q, v, v * 1.2, "cmea-u2os") for name in names for q, v in (("5%", 0.02), ("median", 0.2), ("95%", 0.6))
    ]
    return pd.DataFrame(rows, columns=["group", "statistic", "here", "reference", "source"])


def count_table():
    return pd.DataFrame({"what": ["CP measured", "paired", "with a mechanism of action"], "n": [1917, 1802, 0]})


def matrices():
    rng = np.random.default_rng(5)
    return {name: rng.normal(0, 0.1, (40, 40)) + 0.5 * np.eye(40) for name in ("ridge_tx", "rcca", "contrastive")}


def curve_table():
    rng = np.random.default_rng(6)
    parts = []
    for method, control in itertools.product(TX_METHODS, ("true_pairs", "deranged", "rows_shuffled", "random_codes")):
        ranks = np.sort(rng.uniform(0, 1, 80) ** (2 if control == "true_pairs" else 1))
        share = np.arange(1, 81) / 80
        curve = {"rank_share": ranks, "share_of_compounds": share, "ci_low": share - 0.05, "ci_high": share + 0.05}
        parts.append(pd.DataFrame({"method": method, "control": control, **curve}))
    return pd.concat(parts, ignore_index=True)


def map_table(methods=plots.METHOD_ORDER):
    rng = np.random.default_rng(7)
    labels = rng.choice([*MECHANISMS[:8], "other", "other"], 120)
    parts = [
        pd.DataFrame({"method": method, "x": rng.normal(size=120), "y": rng.normal(size=120), "label": labels})
        for method in methods
    ]
    return pd.concat(parts, ignore_index=True)


def task_table(n=120):
    rng = np.random.default_rng(8)
    families = [FAMILIES[i % len(FAMILIES)] for i in range(n)]
    names = [f"{family} assay {i:03d}" for i, family in enumerate(families)]
    cp, tx = rng.normal(0.62, 0.08, n), rng.normal(0.63, 0.1, n)
    return pd.DataFrame({"task": names, "family": families, "cp_auc": cp, "tx_auc": tx})


def chosen_table():
    rows = [
        (method, how, mean, mean - 0.02, mean + 0.02)
        for method in plots.METHOD_ORDER[1:]
        for how, mean in (("same compounds", 0.05), ("other half", 0.01))
    ]
    return pd.DataFrame(rows, columns=["method", "how", "mean", "ci_low", "ci_high"])


def family_table(methods=TX_METHODS):
    rng = np.random.default_rng(9)
    rows = []
    for number, family in enumerate(FAMILIES):
        n = max(1, 12 - 2 * number)
        for method, control in itertools.product(methods, ("true_pairs", "deranged")):
            effect = rng.normal(0, 0.02)
            rows.append(
                (family, n, method, control, effect, effect - 0.03, effect + 0.03, n >= 3 and family != "other")
            )
    return pd.DataFrame(
        rows, columns=["family", "n_tasks", "method", "control", "effect", "ci_low", "ci_high", "tested"]
    )


def gain_table():
    rng = np.random.default_rng(10)
    parts = [
        pd.DataFrame(
            {"method": m, "control": c, "task": [f"task {i}" for i in range(30)], "gain": rng.normal(0, 0.04, 30)}
        )
        for m, c in [("sphered_cp", ""), *itertools.product(TX_METHODS, ("true_pairs", "deranged"))]
    ]
    return pd.concat(parts, ignore_index=True)


def claims_table():
    verdicts = {1: "inconclusive", 2: "explained without TX", 3: "supported", 4: "not testable"}
    endpoints = {1: "tx_strong_tasks", 2: "replicate_map", 3: "moa_map", 4: "family_auc"}
    rows = []
    for claim, endpoint in endpoints.items():
        name = "learned embeddings do better where TX excels and CP does not, in words as long as usual"
        if claim == 4:
            rows.append((claim, endpoint, "contrastive", "", *[np.nan] * 3, verdicts[4], "", "no families here", name))
            continue
        for method in ("contrastive", "autoencoder"):
            references = {
                "deranged": "deranged control",
                "raw_cp": "CP-only",
                "lda_identity": "best CP-only",
                "pca_cp": "CP-only",
            }
            for number, (reference, role) in enumerate(references.items()):
                ruled = verdicts[claim] if number == 0 and method == "contrastive" else ""
                reason = "the interval against raw CP reaches further down than the smallest gain" if ruled else ""
                effect = 0.01 * claim + 0.001 * number
                rows.append(
                    (
                        claim,
                        endpoint,
                        method,
                        reference,
                        effect,
                        effect - 0.02,
                        effect + 0.02,
                        ruled,
                        role,
                        reason,
                        name,
                    )
                )
            rows.append((claim, f"{endpoint}:kinases", method, "raw_cp", 0.4, 0.3, 0.5, "", "CP-only", "", name))
    columns = ["claim", "endpoint", "method", "reference", "effect", "ci_low", "ci_high", "verdict", "role", "reason"]
    return pd.DataFrame(rows, columns=[*columns, "claim_name"]).assign(screen="simulated")


def part_table():
    rows = [
        (endpoint, method, part, effect, effect - 0.01, effect + 0.01)
        for endpoint in ("replicate mAP", "moa_map")
        for method in TX_METHODS
        for part, effect in (("without TX", 0.04), ("from TX", -0.01))
    ]
    return pd.DataFrame(rows, columns=["endpoint", "method", "part", "effect", "ci_low", "ci_high"])


def size_table():
    rng = np.random.default_rng(12)
    rows = []
    for endpoint in plots.SIZE_ENDPOINTS:
        for method, control in (("lda_identity", ""), *product(["rcca", "contrastive"], ["true_pairs", "deranged"])):
            for n in (40, 100, 200, 400):
                mean = 0.2 + 0.0001 * n * (control != "deranged") + rng.normal(0, 0.003)
                rows.append((method, control, n, endpoint, mean, mean - 0.02, mean + 0.02))
    columns = ["method", "control", "n_compounds", "endpoint", "mean", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def sweep_table(n_settings=3, n_seeds=2):
    rng = np.random.default_rng(5)
    rows = []
    for setting in range(n_settings):
        for _, (claim, endpoint) in itertools.product(range(n_seeds), enumerate(plots.ENDPOINT_LABELS, 1)):
            effect = rng.normal(0.02, 0.02) if claim < 4 else np.nan
            verdict = "supported" if claim == 3 else "inconclusive" if claim < 4 else "not testable"
            rows.append(
                (f"temperature={setting}", float(claim), endpoint, effect, effect - 0.02, effect + 0.02, verdict)
            )
    return pd.DataFrame(rows, columns=["setting", "claim", "endpoint", "effect", "ci_low", "ci_high", "verdict"])


def calibration_table():
    rows = []
    for setting, limit in (("identity only, small", 0.05), ("identity only, default", 0.05), ("shared biology", 0.8)):
        for claim, method in product((1, 2, 3, 4), ("ridge_tx", "rcca", "rcca_replicates")):
            share = limit - 0.03 if limit < 0.5 else 0.9
            wanted = limit if claim < 4 else np.nan
            rows.append((setting, claim, method, 200, share, share - 0.02, share + 0.03, wanted))
    columns = ["setting", "claim", "method", "screens", "share", "ci_low", "ci_high", "limit"]
    return pd.DataFrame(rows, columns=columns)


def scaling_table():
    rows = [
        (work, unit, n, 0.01 * (n / 100) ** exponent, exponent, limit)
        for work, unit, exponent, limit in (("training of many things", "compounds", 0.9, 1), ("maps", "wells", 1.8, 2))
        for n in (100, 200, 400, 800)
    ]
    return pd.DataFrame(rows, columns=["work", "unit", "size", "seconds", "exponent", "limit"])


def mechanism_table(n=25):
    rng = np.random.default_rng(11)
    rows = []
    for i in range(n):
        similarity = rng.uniform(-0.2, 0.8, len(MECHANISMS))
        for rank, j in enumerate(np.argsort(-similarity), 1):
            rows.append((f"BRD-K{10000000 + i}", rank, MECHANISMS[j], similarity[j], j == i % 5))
    return pd.DataFrame(rows, columns=["compound", "rank", "mechanism", "score", "is_known"])


def activity_table(n_compounds=12, n_tasks=48):
    rng = np.random.default_rng(12)
    rows = [
        (f"BRD-K{10000000 + i}", f"assay {j:02d}", FAMILIES[j % len(FAMILIES)], rng.uniform())
        for i, j in itertools.product(range(n_compounds), range(n_tasks))
    ]
    return pd.DataFrame(rows, columns=["compound", "task", "family", "probability"])


def new_compound_tables(n=80):
    """Tables of `new_compounds_page`: a few treatments and mechanisms stand out, a tenth of the features is missing."""
    rng = np.random.default_rng(13)
    p_value = np.where(np.arange(n) % 4 == 0, 1e-4, rng.uniform(1e-4, 1, n))
    distance = np.where(p_value < 0.01, rng.uniform(1.5, 4, n), rng.uniform(0.6, 1.6, n))
    calls = pd.DataFrame({"distance": distance, "p_value": p_value, "smallest_p": 1e-4, "active": p_value < 0.01})
    share = rng.uniform(0.005, 1, n // 2)
    distances = pd.DataFrame({"share_farther": share, "strange": share < 0.02})
    mechanisms = mechanism_table().assign(p_adjusted=lambda table: rng.uniform(0.01, 1, len(table)))
    mechanisms["q_value"] = mechanisms["p_adjusted"].where(mechanisms["rank"] == 1) * 2
    activities = activity_table().drop(columns="probability")
    activities["call"] = rng.choice(list(plots.CALL_COLOURS), len(activities), p=[0.1, 0.55, 0.3, 0.05])
    features = pd.DataFrame({"status": ["used"] * 215 + ["out of range"] * 9 + ["missing"] * 25 + ["extra"] * 40})
    return [calls, distances, mechanisms, activities, features]


# Every figure of the module: the function, its tables, what else it needs.
FIGURES = {
    "method_intervals": (plots.method_intervals, [interval_table()], {"xlabel": "mAP", "chance": 0.1}),
    "method_interval_panels": (
        plots.method_interval_panels,
        [{"a": interval_table(), "b": interval_table(), "c": interval_table()}],
        {"xlabels": "mAP", "titles": ["Replicates cluster better", "MoAs do not", "Tasks"], "chance": [0.1, 0.29, 0.5]},
    ),
    "training_curves": (
        plots.training_curves,
        [history_table()],
        {"best_epochs": [9, 12, 14], "ylabel": "loss", "chance": 4.2},
    ),
    "control_distributions": (plots.control_distributions, [plate_table(2), plate_table(0.1)], {}),
    "replicate_correlations": (plots.replicate_correlations, [correlation_table()], {}),
    "spectra": (plots.spectra, [spectrum_table()], {}),
    "statistics_beside": (plots.statistics_beside, [statistics_table()], {}),
    "missing_and_counts": (plots.missing_and_counts, [count_table()], {}),
    "similarity_matrices": (plots.similarity_matrices, [matrices()], {"label": "cosine similarity"}),
    "retrieval_curves": (plots.retrieval_curves, [curve_table()], {}),
    "data_size_curves": (plots.data_size_curves, [size_table()], {}),
    "verdict_calibration": (plots.verdict_calibration, [calibration_table()], {}),
    "scaling_curves": (plots.scaling_curves, [scaling_table()], {}),
    "sweep_effects": (plots.sweep_effects, [sweep_table()], {}),
    "embedding_maps": (plots.embedding_maps, [map_table()], {"label_order": MECHANISMS[:8]}),
    "task_scatter": (plots.task_scatter, [task_table()], {"tx_min": 0.7, "margin": 0.1}),
    "chosen_and_measured": (plots.chosen_and_measured, [chosen_table()], {}),
    "family_gains": (plots.family_gains, [family_table()], {}),
    "task_gains": (plots.task_gains, [gain_table()], {}),
    "claims_forest": (plots.claims_forest, [claims_table()], {}),
    "gain_decomposition": (plots.gain_decomposition, [part_table()], {}),
    "parameter_choices": (plots.parameter_choices, [choice_table()], {"xlabel": "mean rank of the own TX profile"}),
    "split_intervals": (plots.split_intervals, [split_table()], {}),
    "nearest_mechanisms": (plots.nearest_mechanisms, [mechanism_table()], {}),
    "predicted_activity": (plots.predicted_activity, [activity_table()], {}),
    "new_compounds_page": (plots.new_compounds_page, new_compound_tables(), {}),
}  # fmt: skip


@cache
def draw(name, title=LONG_TITLE):
    """The figure, drawn once for all tests that only look at it."""
    function, tables, options = FIGURES[name]
    return function(*tables, title=title, **options)


@cache
def texts_of(name):
    return visible_texts(draw(name))


def words(fig):
    return [text.get_text() for text in fig.findobj(Text) if text.get_text()]


def row_labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def markers(ax):
    """Lines that are markers, none of them an interval."""
    return [line for line in ax.lines if line.get_marker() not in ("None", None, "")]


def visible_texts(fig):
    """Every text that is drawn, with its box in pixels."""
    fig.draw_without_rendering()
    renderer = fig.canvas.get_renderer()
    unseen = set()
    for axis in [axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                unseen |= {id(tick.label1), id(tick.label2)}
    found = []
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in unseen:
            if isinstance(text, Annotation):
                text.update_positions(renderer)
            found.append((text, Text.get_window_extent(text, renderer)))
    return found


# --------------------------------------------------------------------------------------------------
# All figures


@pytest.mark.parametrize("name", FIGURES)
def test_no_words_collide_or_leave_the_page(name):
    fig, found = draw(name), texts_of(name)
    for (one, box), (other, its) in itertools.combinations(found, 2):
        wide, high = min(box.x1, its.x1) - max(box.x0, its.x0), min(box.y1, its.y1) - max(box.y0, its.y0)
        assert wide <= 1 or high <= 1, f"{one.get_text()!r} lies on {other.get_text()!r}"
    for text, box in found:
        assert box.x0 > -3 and box.y0 > -3, text.get_text()
        assert box.x1 < fig.bbox.width + 3 and box.y1 < fig.bbox.height + 3, text.get_text()
        assert text.get_fontsize() >= plots.SMALL


@pytest.mark.parametrize("name", FIGURES)
def test_labels_and_legends_stay_off_the_data(name):
    fig = draw(name)
    boxes = dict(texts_of(name))
    outside = [
        text for ax in fig.axes for text in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.title)
    ]
    outside += [text for ax in fig.axes for text in (ax._left_title,) if text.get_text()]
    outside += [text for legend in fig.legends for text in legend.get_texts()]
    outside += [ax.get_legend().get_texts()[0] for ax in fig.axes if ax.get_legend()] + [fig._suptitle]
    frames = [ax.get_window_extent() for ax in fig.axes]
    checked = 0
    for text in outside:
        if text in boxes:
            box = boxes[text]
            checked += 1
            for frame in frames:
                wide, high = (
                    min(box.x1, frame.x1) - max(box.x0, frame.x0),
                    min(box.y1, frame.y1) - max(box.y0, frame.y0),
                )
                assert wide <= 2 or high <= 2, f"{text.get_text()!r} lies on a panel"
    assert checked > 3


@pytest.mark.parametrize("name", FIGURES)
def test_tables_stay_as_they_are_and_the_title_is_wrapped_at_the_left(name):
    function, tables, options = FIGURES[name]
    before = [
        {key: value.copy() for key, value in table.items()} if isinstance(table, dict) else table.copy(deep=True)
        for table in tables
    ]
    fig = function(*tables, title=LONG_TITLE, **options)
    for table, copy in zip(tables, before, strict=True):
        for key in copy if isinstance(copy, dict) else [None]:
            one, other = (table, copy) if key is None else (table[key], copy[key])
            assert one.equals(other) if isinstance(one, pd.DataFrame) else np.array_equal(one, other)
    assert isinstance(fig, plots.StudyFigure)
    assert fig._suptitle.get_ha() == "left" and fig._suptitle.get_text().replace("\n", " ") == LONG_TITLE
    assert fig.get_figwidth() in (plots.SINGLE_WIDTH, plots.FULL_WIDTH) and fig.get_figheight() < 9.5
    assert [ax for ax in fig.axes if ax.lines or ax.collections or ax.images or ax.patches]


@pytest.mark.parametrize("name", FIGURES)
def test_empty_tables_are_said_in_words(name):
    function, tables, options = FIGURES[name]
    for empty in (
        [{} if isinstance(table, dict) else pd.DataFrame() for table in tables],
        [{} if isinstance(table, dict) else None for table in tables],
        [{} if isinstance(table, dict) else table.iloc[:0] for table in tables],
    ):
        fig = function(*empty, title="Nothing was found", **options)
        assert any(text.startswith("nothing to show: ") for text in words(fig))
        assert "Nothing was found" in words(fig)


@pytest.mark.parametrize("name", [name for name, (_, tables, _) in FIGURES.items() if not isinstance(tables[0], dict)])
def test_a_missing_column_is_named(name):
    function, tables, options = FIGURES[name]
    needed = [
        column
        for column in tables[0]
        if column
        not in ("group", "screen", "role", "reason", "claim_name", "rank", "score", "is_known", "mechanism", "control")
        and column not in ("split", "repeat", "fold", "seed", "member")
    ]
    with pytest.raises(ValueError, match=f"{name} needs the columns {needed[-1]}; given: "):
        function(tables[0].drop(columns=needed[-1]), *tables[1:], title="", **options)


@pytest.mark.parametrize("name", ["task_gains", "task_scatter"])
def test_same_tables_give_same_bytes(name):
    def pictures():
        fig = draw.__wrapped__(name)
        files = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "cpx"}):
            fig.savefig(files[0], format="svg", metadata={"Date": None}, bbox_inches="tight")
            fig.savefig(files[1], format="png", metadata={"Software": None}, bbox_inches="tight")
        return [hashlib.sha256(file.getvalue()).hexdigest() for file in files]

    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    first = pictures()
    np.random.seed(1)  # noqa: NPY002
    assert pictures() == first


@pytest.mark.parametrize("name", ["similarity_matrices", "embedding_maps", "retrieval_curves"])
def test_vector_files_stay_small(name):
    file = io.BytesIO()
    draw(name).savefig(file, format="svg", bbox_inches="tight")
    assert len(file.getvalue()) < 500_000


def test_the_callers_settings_neither_change_nor_matter():
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "text.parse_math": True}):
        fig = plots.method_intervals(interval_table(["raw_cp", "rcca"]), xlabel="cost in $ or $$", title="in $ and $")
        assert matplotlib.rcParams["font.size"] == 20 and matplotlib.rcParams["axes.grid"]
        found = visible_texts(fig)
    assert max(text.get_fontsize() for text, _ in found) == plots.LARGE
    assert "in $ and $" in words(fig)
    assert not any(line.get_visible() for line in fig.axes[0].get_xgridlines())


def test_a_notebook_shows_a_figure_once(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, metadata, raw: shown.append((data, metadata)))
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "inline")
    fig = draw.__wrapped__("missing_and_counts")
    assert fig.number in plt.get_fignums()
    fig._ipython_display_()
    assert len(shown) == 1 and shown[0][0]["image/png"].startswith("iVBOR")
    assert shown[0][1] == {"image/png": {"alt": " ".join(fig.get_suptitle().split())}}
    assert fig.number not in plt.get_fignums()


# --------------------------------------------------------------------------------------------------
# Palette, order, words


def _lab(colour, matrix):
    """CIELAB of a colour as seen through a matrix on linear RGB."""
    rgb = np.array(to_rgb(colour))
    linear = np.clip(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear / [0.9505, 1.0, 1.089], 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009 (doi 10.1109/TVCG.2009.113), severity 1.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", [tuple(plots.METHOD_COLOURS.values()), plots.CATEGORY_COLOURS])
def test_colours_stay_apart_for_every_eye(vision, palette):
    seen = [_lab(colour, np.array(VISION[vision])) for colour in palette]
    closest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert closest > 10  # 2.3 is the smallest difference that is seen side by side


def test_every_method_has_a_label_a_colour_and_a_place():
    assert list(plots.METHOD_LABELS) == plots.METHOD_ORDER == list(plots.METHOD_COLOURS)
    for method in plots.CP_ONLY:
        assert len(set(to_rgb(plots.METHOD_COLOURS[method]))) == 1  # grey
    mixed = ["cp_tx", "contrastive", "mine", "concat:rcca", "raw_cp", "rcca", "contrastive"]
    assert plots.order_methods(mixed) == ["raw_cp", "rcca", "concat:rcca", "contrastive", "mine", "cp_tx"]
    assert plots.method_label("concat:ridge_tx") == "[CP, ridge CP→TX]" and plots.method_label("mine") == "mine"
    assert plots.method_colour("concat:rcca") == plots.METHOD_COLOURS["rcca"]
    assert plots.method_colour("mine") in plots.SPARE_COLOURS
    assert plots.order_controls(["deranged", "strange", "", "true_pairs"]) == ["", "true_pairs", "deranged", "strange"]


def test_spread_is_isotonic_regression():
    rng = np.random.default_rng(13)
    for n in (1, 2, 7, 20):
        positions, gap = rng.uniform(0, 5, n), 0.6
        order = np.argsort(positions)
        ranks = gap * np.arange(n)
        expected = IsotonicRegression().fit_transform(np.arange(n), positions[order] - ranks) + ranks
        moved = plots.spread(positions, gap)
        np.testing.assert_allclose(moved[order], expected, atol=1e-9)
        assert (np.diff(moved[order]) > gap - 1e-9).all()
    np.testing.assert_allclose(plots.spread([3.0, 1.0], 0.5), [3.0, 1.0])
    assert plots.spread([], 1.0).shape == (0,)


def test_wrapped_lines_fit_as_drawn():
    wrapped = plots.wrap_text(LONG_TITLE, 2.0, 10, "bold")
    assert wrapped.replace("\n", " ") == LONG_TITLE and wrapped.count("\n") >= 3
    fig = plt.figure(dpi=100)
    for line in wrapped.split("\n"):
        box = fig.text(0, 0, line, size=10, weight="bold", family="DejaVu Sans").get_window_extent()
        assert box.width <= 2.0 * 100 * 1.03  # rounding to pixels
    short = plots.wrap_text(LONG_TITLE, 2.0, 10, "bold", max_lines=2)
    assert short.count("\n") == 1 and short.endswith("…") and plots.text_width(short.split("\n")[1], 10, "bold") <= 2.0
    assert plots.wrap_text("two\nlines", 9) == "two\nlines"


# --------------------------------------------------------------------------------------------------
# What single figures show


def test_method_intervals_draws_every_row_in_order():
    table = interval_table().sample(frac=1, random_state=0)
    fig = plots.method_intervals(table, xlabel="replicate mAP", title="t", chance=0.1)
    ax = fig.axes[0]
    assert row_labels(ax) == [plots.METHOD_LABELS[method] for method in plots.METHOD_ORDER]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    drawn = markers(ax)
    assert len(drawn) == len(table)
    assert sorted(line.get_xdata()[0] for line in drawn) == pytest.approx(sorted(table["mean"]))
    filled = [line for line in drawn if line.get_markerfacecolor() != "white"]
    assert len(filled) == table["control"].isin(["", "true_pairs"]).sum()
    contrastive = [line for line in drawn if line.get_markeredgecolor() == plots.METHOD_COLOURS["contrastive"]]
    assert len(contrastive) == 3 and len({line.get_ydata()[0] for line in contrastive}) == 3
    intervals = [line for line in ax.lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2]
    assert sorted(line.get_xdata()[0] for line in intervals) == pytest.approx(sorted(table["ci_low"]))
    pairs = [(line.get_linestyle(), *line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    upright = {style: start for style, start, end in pairs if start == end}
    raw = table.set_index("method").loc["raw_cp", "mean"]
    assert upright["--"] == 0.1 and upright[":"] == pytest.approx(raw)
    assert {"chance", "control: deranged pairs", "replicate mAP"} <= set(words(fig))


def test_rows_are_as_high_as_their_marks_ask_for():
    table = interval_table()
    methods = plots.order_methods(table["method"])
    heights = dict(zip(methods, np.diff(plots._row_edges(table, methods)), strict=True))
    assert [heights["raw_cp"], heights["tx"]] == pytest.approx([plots.ROW_AIR + plots.ROW_MARK] * 2)
    assert heights["rcca"] == pytest.approx(plots.ROW_AIR + 3 * plots.ROW_MARK)
    fig = draw("method_intervals")
    height = np.ptp(fig.axes[0].get_ylim())
    assert height == pytest.approx(sum(heights.values()) + 0.1)
    inches = fig.axes[0].get_window_extent().height / fig.dpi
    assert inches / height == pytest.approx(1, abs=0.25), "an inch of the axis is about one on the page"
    inside = [line.get_ydata()[0] for line in markers(fig.axes[0]) if line.get_mec() == plots.METHOD_COLOURS["rcca"]]
    assert np.diff(sorted(inside)) == pytest.approx([plots.ROW_MARK] * 2)


def test_statistics_beside_each_other_have_the_same_digits():
    values = [(0.0, 0.02), (-0.004, 0.07), (49.472, 65.5), (2.0, 2.0), (120.4, 99.6), (6.0, 6.3), (np.nan, 3.0)]
    rows = [("g", str(number), *pair, "a screen") for number, pair in enumerate(values)]
    table = pd.DataFrame(rows, columns=["group", "statistic", "here", "reference", "source"])
    said = [text for text in words(plots.statistics_beside(table, title="t")) if " here" in text]
    assert said == ["0.00 here, 0.02 there", "0.00 here, 0.07 there", "49.5 here, 65.5 there", "2 here, 2 there",
                    "120 here, 100 there", "6.00 here, 6.30 there", "none here, 3 there"]  # fmt: skip


def test_shares_that_are_all_zero_get_the_scale_of_shares():
    table = interval_table(["raw_cp", "rcca"]).assign(mean=0.0, ci_low=0.0, ci_high=0.0)
    low, high = plots.method_intervals(table, xlabel="share", title="t").axes[0].get_xlim()
    assert low > -0.1 and high == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-0.041 (random), -.5 and (-3)", "−0.041 (random), −.5 and (−3)"),
        ("cmea-u2os of 2025-11-26, CP-only, p-0.5, A-549, 2-3", "cmea-u2os of 2025-11-26, CP-only, p-0.5, A-549, 2-3"),
    ],
)
def test_negative_numbers_in_titles_have_a_minus_sign(text, shown):
    fig = plots.missing_and_counts(count_table(), title=text)
    assert fig.get_suptitle().replace("\n", " ") == shown


def test_method_intervals_with_gaps():
    table = interval_table(["raw_cp", "mine", "contrastive"])
    table.loc[table["method"] == "raw_cp", ["ci_low", "ci_high"]] = np.nan
    table.loc[table["method"] == "mine", ["mean", "ci_low", "ci_high"]] = np.nan
    table["control"] = table["control"].replace("", np.nan)  # as a csv gives it back
    fig = plots.method_intervals(table, xlabel="mAP", title="t", reference="contrastive")
    assert words(fig).count("not measured") == 1
    assert len(markers(fig.axes[0])) == 4  # raw CP, and contrastive with two controls
    assert row_labels(fig.axes[0]) == ["raw CP", "contrastive", "mine"]


def test_panels_share_rows_and_an_empty_one_says_so():
    tables = {"a": interval_table(), "b": interval_table(["raw_cp", "rcca"]), "c": pd.DataFrame()}
    fig = plots.method_interval_panels(tables, xlabels="mAP", titles={"a": "A", "b": "B", "c": "C"}, chance={"a": 0.1})
    assert len(fig.axes) == 3
    assert [len(markers(ax)) for ax in fig.axes] == [len(interval_table()), 4, 0]
    found = [text.replace("\n", " ") for text in words(fig)]
    assert found.count("not measured") == len(plots.METHOD_ORDER) - 2  # the methods that only the first panel has
    assert found.count("nothing to show: not measured") == 1
    assert fig.axes[0].get_ylim() == fig.axes[1].get_ylim()


def test_training_curves_average_over_runs_and_mark_the_median_epoch():
    history = history_table()
    fig = draw("training_curves")
    ax = fig.axes[0]
    runs = history[history["control"] == "true_pairs"].pivot_table(
        index="epoch", columns=["fold", "member"], values="validation"
    )
    expected = runs.ffill().mean(axis=1)[runs.notna().sum(axis=1) >= 3]
    bold = [
        line
        for line in ax.lines
        if line.get_linewidth() == 2 and line.get_color() == plots.METHOD_COLOURS["contrastive"]
    ]
    assert len(bold) == 1
    np.testing.assert_allclose(bold[0].get_ydata(), expected.to_numpy())
    assert [len(collection.get_segments()) for collection in ax.collections] == [6, 6]
    dashed = [line for line in ax.lines if line.get_linewidth() == 2 and line.get_linestyle() == "--"]
    assert len(dashed) == 1  # deranged
    assert {"best epoch 12", "chance", "training pairs", "unseen compounds"} <= set(words(fig))


def test_choices_show_every_fold_and_count_the_winners():
    table, fig = choice_table(), draw("parameter_choices")
    assert [ax.get_title(loc="left") for ax in fig.axes[::2]] == ["contrastive", "contrastive, soft targets"]
    assert [ax.get_xlabel() for ax in fig.axes] == ["temperature", "input noise"] * 2
    temperature = table["candidate"].str.extract("temperature=([^,]+)")[0]
    for ax, (_, rows) in zip(fig.axes[::2], table.groupby("method"), strict=True):
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0.3", "1"]
        grouped = rows.groupby(temperature)
        assert [text.get_text() for text in ax.texts] == [f"n={n}" for n in grouped["chosen"].sum()]
        for line, (_, part) in zip(ax.lines, grouped, strict=True):
            np.testing.assert_allclose(line.get_ydata(), part.groupby("fold")["value"].mean())
        means = [collection.get_segments()[0][0][1] for collection in ax.collections]
        np.testing.assert_allclose(means, [part.groupby("fold")["value"].mean().mean() for _, part in grouped])
    one = plots.parameter_choices(
        table.query("method == 'contrastive'"), xlabel="mean rank of the own TX profile", title="T"
    )
    boxes = {text.get_text(): box for text, box in visible_texts(one)}
    assert boxes["mean rank of the\nown TX profile"].y1 < boxes["contrastive"].y1 < boxes["T"].y0
    single = choice_table().query("candidate == 'temperature=0.3, input_noise=1'").assign(value=np.nan)
    assert any("nothing to choose" in text for text in words(plots.parameter_choices(single, xlabel="x", title="t")))


def test_control_distributions_draw_medians_of_every_plate():
    before, after = plate_table(2), plate_table(0.1)
    fig = plots.control_distributions(before, after, title="t")
    for ax, table in zip(fig.axes, (before, after), strict=True):
        np.testing.assert_allclose(markers(ax)[0].get_ydata(), table.groupby("plate")["value"].median())
    assert len(fig.axes[1].get_xticks()) == 40
    many = plots.control_distributions(plate_table(2, 130), plate_table(1, 130), title="t")
    assert len(many.axes[1].get_xticks()) <= 42 and "every" in many.axes[1].get_xlabel()
    assert len(markers(many.axes[0])[0].get_xdata()) == 130


def test_replicate_correlations_name_their_medians():
    table = correlation_table()
    found = words(draw("replicate_correlations"))
    for modality, kind in (("CP", "replicates"), ("TX", "different treatments")):
        median = table[(table["modality"] == modality) & (table["kind"] == kind)]["correlation"].median()
        assert f"{kind}: median {median:.2f}".replace("-", "−").replace("−0.00", "0.00") in found


def test_spectra_count_the_components_of_ninety_percent():
    table = spectrum_table()
    found = words(draw("spectra"))
    for screen in ("simulated", "cmea-u2os"):
        own = table[(table["screen"] == screen) & (table["modality"] == "TX") & (table["cumulative"] >= 0.9)]
        assert f"{screen}: {own['component'].min()}" in found


def test_statistics_show_both_numbers_and_what_is_missing():
    table = statistics_table()
    table.loc[0, "here"] = np.nan
    table.loc[1, "reference"] = np.nan
    fig = plots.statistics_beside(table, title="t")
    assert len(fig.axes) == table["group"].nunique()
    found = words(fig)
    assert "none here, 0.02 there" in found and "0.20 here" in found and "0.60 here, 0.72 there" in found
    assert any(text.startswith("CP replicate correlation, beside") for text in found)


def test_counts_are_bars_with_numbers():
    fig = draw("missing_and_counts")
    assert [bar.get_width() for bar in fig.axes[0].patches] == [1917, 1802, 0]
    assert {"1,917", "0"} <= set(words(fig))


def test_similarity_matrices_state_own_and_other_pairs():
    fig = draw("similarity_matrices")
    found = words(fig)
    for name, matrix in matrices().items():
        off = matrix[~np.eye(40, dtype=bool)].mean()
        text = f"own {np.diagonal(matrix).mean():.2f}, others {off:z.2f}".replace("-", "−")
        assert f"{plots.METHOD_LABELS[name]}\n{text}" in found
    images = [image for ax in fig.axes for image in ax.images]
    assert len(images) == 3 and all(image.get_rasterized() for image in images)
    assert len({image.get_clim() for image in images}) == 1


def test_retrieval_curves_count_the_nearest_tenth():
    table = curve_table()
    found = words(draw("retrieval_curves"))
    for method in TX_METHODS:
        own = table[(table["method"] == method) & (table["control"] == "true_pairs")]
        assert f"{plots.METHOD_LABELS[method]}: {100 * (own['rank_share'] <= 0.1).mean():.0f}%" in found
    assert "chance: 10%" in found and sum(text.strip().startswith("deranged pairs") for text in found) == 4
    bands = [part for part in draw("retrieval_curves").axes[0].collections if isinstance(part, PolyCollection)]
    own = table[(table["method"] == plots.order_methods(TX_METHODS)[0]) & (table["control"] == "true_pairs")]
    assert len(bands) == len(TX_METHODS), "one for each method's true pairs"
    heights = bands[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(own["ci_low"].min()) and heights.max() == pytest.approx(own["ci_high"].max())


def test_maps_have_one_panel_a_method_and_warn_the_reader():
    fig = draw("embedding_maps")
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in fig.axes]
    assert titles == [plots.METHOD_LABELS[method] for method in plots.METHOD_ORDER]
    n_points = [sum(len(part.get_offsets()) for part in ax.collections) for ax in fig.axes]
    assert n_points == [120] * len(plots.METHOD_ORDER)
    assert all(part.get_rasterized() for ax in fig.axes for part in ax.collections)
    found = words(fig)
    assert "UMAP: for the eye only, nothing is measured on it" in found and set(MECHANISMS[:8]) <= set(found)


def test_task_scatter_fills_and_counts_the_chosen_tasks():
    table = task_table()
    fig = draw("task_scatter")
    chosen = table[(table["tx_auc"] >= 0.7) & (table["tx_auc"] - table["cp_auc"] >= 0.1)]
    assert any(f"({len(chosen)} of {len(table)})" in text for text in words(fig))
    parts = [part for part in fig.axes[0].collections if len(part.get_offsets())]
    assert sum(len(part.get_offsets()) for part in parts) == len(table)
    filled = [part for part in parts if to_hex(part.get_facecolor()[0]) != "#ffffff"]
    drawn = np.concatenate([part.get_offsets() for part in filled])
    assert {tuple(np.round(point, 9)) for point in drawn} == {
        tuple(point) for point in chosen[["cp_auc", "tx_auc"]].round(9).to_numpy()
    }
    named = [text.get_text().replace("\n", " ") for text in fig.axes[0].texts]
    assert 1 <= len(named) <= 6 and set(named) <= set(chosen["task"])


def test_chosen_and_measured_pairs_two_marks_a_method():
    fig = draw("chosen_and_measured")
    drawn = markers(fig.axes[0])
    assert len(drawn) == 2 * (len(plots.METHOD_ORDER) - 1)
    open_marks = [line for line in drawn if line.get_markerfacecolor() == "white"]
    assert {line.get_xdata()[0] for line in open_marks} == {0.05}
    assert len(row_labels(fig.axes[0])) == len(plots.METHOD_ORDER) - 1


def test_families_are_ordered_counted_and_greyed():
    table = family_table()
    fig = draw("family_gains")
    assert len(fig.axes) == 4 and all(len(markers(ax)) == 2 * len(FAMILIES) for ax in fig.axes)
    labels = [label.replace("\n", " ") for label in row_labels(fig.axes[0])]
    true = (
        table[table["control"] == "true_pairs"]
        .groupby("family")
        .agg(effect=("effect", "mean"), n=("n_tasks", "max"), tested=("tested", "any"))
    )
    tested = true[true["tested"]].sort_values("effect", ascending=False)
    assert labels[: len(tested)] == [f"{family} ({n})" for family, n in tested["n"].items()]
    assert labels[-1].startswith("other (") and len(labels) == len(FAMILIES)
    colours = [label.get_color() for label in fig.axes[0].get_yticklabels()]
    assert colours == ["black"] * len(tested) + [plots.GREY] * (len(FAMILIES) - len(tested))


def test_task_gains_mark_medians_and_shares():
    table = gain_table()
    fig = draw("task_gains")
    ax = fig.axes[0]
    assert row_labels(ax) == ["sphered CP"] + [
        name for method in TX_METHODS for name in (plots.METHOD_LABELS[method], "deranged pairs")
    ]
    drawn = [line.get_xdata()[0] for line in ax.lines if line.get_color() == "black"]
    grouped = table.groupby(["method", "control"])["gain"]
    assert sorted(drawn) == pytest.approx(sorted(grouped.median()))
    gain = grouped.get_group(("contrastive", "true_pairs"))
    median = f"{gain.median():+.3f}".replace("-", "−")
    assert f"{median}, {100 * (gain > 0).mean():.0f}%" in words(fig)
    assert "median, share\nof 30 tasks that gain" in words(fig)
    some = plots.task_gains(table.drop(table.index[0]), title="t")
    assert "median, share\nof tasks that gain" in words(some) and any(text.endswith("% of 29") for text in words(some))


def test_claims_show_the_primary_comparisons_and_the_verdict():
    fig = draw("claims_forest")
    assert len(fig.axes) == 4
    assert [len(markers(ax)) for ax in fig.axes] == [3, 3, 3, 0]
    assert row_labels(fig.axes[0]) == ["raw CP", "LDA on identity, best without TX", "itself on deranged pairs"]
    effects = [line.get_xdata()[0] for line in markers(fig.axes[1])]
    assert effects == pytest.approx([0.021, 0.022, 0.020])  # raw CP, best, deranged; never the family's 0.4
    for ax, verdict in zip(
        fig.axes, ("inconclusive", "explained without TX", "supported", "not testable"), strict=True
    ):
        text = next(text for text in ax.texts if text.get_text() == verdict)
        assert text.get_color() == plots.VERDICT_COLOURS[verdict]
    found = [text.replace("\n", " ") for text in words(fig)]
    assert sum(text.startswith("Claim 3: learned embeddings") for text in found) == 1
    assert "no families here" in found and "contrastive minus reference, ROC-AUC" in found


def test_a_long_reason_stays_off_its_verdict():
    table = claims_table()
    reason = "0 of 9515 CP treatments are on at least 2 wells (at least 2 are needed)"
    table["reason"] = table["reason"].where(table["verdict"] != "not testable", reason)
    fig = plots.claims_forest(table, title="t")
    fig.canvas.draw()
    renderer = fig.canvas.get_renderer()
    told = next(text for ax in fig.axes for text in ax.texts if text.get_text().startswith("0 of 9515"))
    beside = next(text for text in told.axes.texts if text.get_text() == "not testable")
    assert told.get_window_extent(renderer).x1 < beside.get_window_extent(renderer).x0


def test_claims_of_several_screens_have_their_own_panels():
    table = pd.concat([claims_table(), claims_table().assign(screen="cmea-u2os")], ignore_index=True)
    fig = plots.claims_forest(table.drop(columns="claim_name"), title="t")
    assert len(fig.axes) == 8
    assert sum(ax.get_title(loc="left").startswith("cmea-u2os: Claim") for ax in fig.axes) == 4


def test_wide_tables_are_in_the_order_and_words_of_the_study():
    rows = [
        ("rcca", "deranged", "b", 1.0), ("rcca", "true_pairs", "b", 2.0), ("rcca", "true_pairs", "b", 4.0),
        ("raw_cp", np.nan, "b", 5.0), ("raw_cp", np.nan, "a", 6.0), ("concat:rcca", "true_pairs", "c", np.nan),
    ]  # fmt: skip
    table = plots.wide_table(pd.DataFrame(rows, columns=["method", "control", "endpoint", "value"]), "endpoint")
    assert table.index.tolist() == [
        ("raw CP", ""), ("regularised CCA", "true pairs"), ("regularised CCA", "deranged pairs")
    ]  # fmt: skip
    assert list(table.columns) == ["b", "a"] and table["b"].tolist() == [5.0, 3.0, 1.0]
    for nothing in (pd.DataFrame(), pd.DataFrame(rows[-1:], columns=["method", "control", "endpoint", "value"])):
        assert plots.wide_table(nothing, "endpoint").empty


def test_split_intervals_share_an_endpoints_scale():
    fig = draw("split_intervals")
    assert len(fig.axes) == 6
    heads = [f"{split} split" for split in ("random", "scaffold", "MoA")]
    assert [ax.get_title(loc="left") for ax in fig.axes] == heads * 2
    assert [ax.get_xlabel() for ax in fig.axes] == ["replicate mAP"] * 3 + ["MoA mAP"] * 3
    assert len({ax.get_xlim() for ax in fig.axes[:3]}) == 1
    for ax in fig.axes[::3]:
        assert row_labels(ax)[0] == "raw CP" and len(row_labels(ax)) == 2 + len(TX_METHODS)
    one = split_table().query("split == 'random' and endpoint == 'MoA mAP'")
    assert len(plots.split_intervals(one, title="One").axes) == 1


def test_claims_show_the_deranged_control_and_what_would_change_the_verdict():
    table = claims_table()
    supported = table["verdict"] == "supported"
    table["deranged_effect"] = np.where(table["reference"] == "deranged", np.nan, -0.011)
    table["deranged_low"], table["deranged_high"] = table["deranged_effect"] - 0.01, table["deranged_effect"] + 0.01
    table["would_change"] = np.where(supported, "a gain over raw CP smaller by 0.010", "")
    fig = plots.claims_forest(table, title="t")
    drawn = markers(fig.axes[2])
    assert [line.get_xdata()[0] for line in drawn if line.get_markerfacecolor() == "white"] == [-0.011, -0.011]
    assert len(drawn) == 5
    found = " ".join(text.replace("\n", " ") for text in words(fig))
    assert found.count("What would change it: a gain over raw CP smaller by 0.010") == 1


def test_data_size_curves_set_true_pairs_apart_from_controls():
    fig = draw("data_size_curves")
    assert [ax.get_title(loc="left") for ax in fig.axes] == list(plots.SIZE_ENDPOINTS.values())
    for ax in fig.axes:
        styles = {line.get_linestyle() for line in ax.lines if line.get_mfc() == "white"}
        assert styles == {"--"} and len(ax.lines) == 5
        np.testing.assert_array_equal(ax.get_xticks(), [40, 100, 200, 400])
        assert {line.get_marker() for line in ax.lines if line.get_color() == plots.METHOD_COLOURS["lda_identity"]} == {
            "s"
        }
    one = size_table().query("endpoint == 'moa_map'")
    assert len(plots.data_size_curves(one, title="t").axes) == 1


def test_verdict_calibration_draws_shares_in_percent_beside_their_limits():
    fig = draw("verdict_calibration")
    assert len(fig.axes) == 3
    for ax, limit in zip(fig.axes, (5, 5, 80), strict=True):
        dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert [line.get_xdata()[0] for line in dotted] == pytest.approx([limit] * 3)
        assert len(markers(ax)) == 3 and all(len(line.get_xdata()) == 4 for line in markers(ax))
    assert "(200 screens)" in fig.axes[0].get_title(loc="left")


def test_scaling_curves_draw_what_is_allowed_from_the_smallest_size_on():
    fig = draw("scaling_curves")
    assert [ax.get_xlabel() for ax in fig.axes] == ["compounds", "wells"]
    for ax, limit in zip(fig.axes, (1, 2), strict=True):
        allowed, measured = ax.lines
        assert ax.get_xscale() == ax.get_yscale() == "log"
        assert allowed.get_linestyle() == ":"
        assert allowed.get_ydata()[0] == pytest.approx(measured.get_ydata()[0])
        assert allowed.get_ydata()[-1] == pytest.approx(measured.get_ydata()[0] * 8**limit)
        assert list(measured.get_xdata()) == [100, 200, 400, 800]


def test_sweep_effects_draws_every_point_in_its_row_and_counts_what_is_left_out():
    table = sweep_table()
    fig = draw("sweep_effects")
    assert [ax.get_title(loc="left").split(":")[0] for ax in fig.axes] == [f"Claim {number}" for number in (1, 2, 3, 4)]
    for claim, ax in enumerate(fig.axes, 1):
        drawn = [(line.get_ydata()[0], line.get_xdata()[0]) for line in markers(ax)]
        assert [round(y) for y, _ in drawn] == [0, 0, 1, 1, 2, 2]
        own = table.loc[table["claim"] == claim, "effect"].fillna(0)
        assert [x for _, x in drawn] == pytest.approx(own.tolist())
    assert "not testable" in fig.legends[0].get_title().get_text()
    many = plots.sweep_effects(sweep_table(plots.SWEEP_ROWS + 7, 1), title="t")
    assert len(markers(many.axes[0])) == plots.SWEEP_ROWS
    assert "7 more settings are in the table" in " ".join(many.legends[0].get_title().get_text().split())


def test_gain_decomposition_draws_both_parts():
    fig = draw("gain_decomposition")
    for ax in fig.axes:
        widths = [bar.get_width() for bar in ax.patches]
        assert sorted(widths) == pytest.approx([-0.01] * 4 + [0.04] * 4)
    colours = {to_hex(bar.get_facecolor()) for bar in fig.axes[0].patches}
    assert {plots.METHOD_COLOURS[method].lower() for method in TX_METHODS} < colours
    in_legend = {to_hex(patch.get_facecolor()) for patch in fig.legends[0].findobj(Patch)}
    assert colours <= in_legend
    assert "difference in replicate mAP" in words(fig) and "difference in mAP" in words(fig)


def test_nearest_mechanisms_box_what_is_known():
    table = mechanism_table()
    fig = draw("nearest_mechanisms")
    ax = fig.axes[0]
    rows = row_labels(ax)
    assert sorted(rows) == sorted(table["compound"].unique())
    values = ax.collections[0].get_array().reshape(25, len(MECHANISMS))
    wide = table.pivot(index="compound", columns="mechanism", values="score").clip(lower=0)
    best = wide.idxmax(axis=1)
    assert [best[row] for row in rows] == sorted(best, key=lambda name: (-(best == name).sum(), name))
    np.testing.assert_allclose(np.sort(values, axis=1), np.sort(wide.loc[rows].to_numpy(), axis=1))
    assert len(ax.patches) == table["is_known"].sum()


def test_nearest_mechanisms_reads_the_wide_form_and_cuts_long_tables():
    wide = pd.DataFrame({
        "compound": [f"c{i}" for i in range(30)],
        "rank_1": [MECHANISMS[i % 4] for i in range(30)],
        "rank_2": [MECHANISMS[4 + i % 4] for i in range(30)],
        "known": [f"{MECHANISMS[i % 4]}|{MECHANISMS[9]}" for i in range(30)],
    })  # fmt: skip
    fig = plots.nearest_mechanisms(wide, title="t")
    assert len(row_labels(fig.axes[0])) == 25 and len(fig.axes[0].patches) == 25
    assert any("The first 25 of 30 compounds." in text for text in words(fig))
    values = fig.axes[0].collections[0].get_array()
    assert set(np.unique(values[~np.isnan(values)])) == {-2.0, -1.0}


def test_predicted_activity_groups_tasks_by_family():
    table = activity_table()
    fig = draw("predicted_activity")
    ax = fig.axes[0]
    tasks = table.drop_duplicates("task")
    tasks = tasks.assign(last=tasks["family"] == "other").sort_values(["last", "family", "task"])["task"]
    wide = table.pivot(index="compound", columns="task", values="probability")[tasks]
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(wide.shape), wide.to_numpy())
    assert ax.collections[0].get_clim() == (0, 1)
    counts = table.drop_duplicates("task")["family"].value_counts()
    assert f"kinases ({counts['kinases']})" in words(fig)
    assert "48 tasks, by target family" in words(fig)
    few = plots.predicted_activity(activity_table(3, 4), title="t")
    assert {"assay 00", "assay 03"} <= {label.get_text() for label in few.axes[0].get_xticklabels()}


def test_new_compounds_page_counts_what_was_called_and_says_what_is_lacking():
    tables = new_compound_tables()
    said = " | ".join(words(draw("new_compounds_page")))
    calls, _, mechanisms, activities, _ = tables
    assert f"{calls['active'].sum()} of {len(calls)} treatments" in said
    assert f"Mechanism: {(mechanisms['q_value'] <= 0.05).sum()} of 25" in said
    decided = activities["call"].isin(["active", "inactive"]).mean()
    assert f"Outcomes: {decided:.0%} decided" in said
    assert "249 asked for, 40 more in the file" in said and "missing, foretold: 25" in said
    none = [calls.assign(p_value=np.nan, active=False), tables[1], mechanisms.iloc[:0], activities.iloc[:0], tables[4]]
    said = " ".join(" ".join(words(plots.new_compounds_page(*none, title="t"))).split())
    assert "not testable: no negative controls" in said and "no mechanism of action is known" in said
    assert "no assay has labels enough" in said
