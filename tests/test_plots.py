"""Figures: what is drawn is what the tables say, in one order and palette."""

import io
import itertools
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from cpx_utils import claims, plots
from cpx_utils.profiles import CP_ONLY, ORACLES

TX_METHODS = ["ridge_tx", "rcca", "autoencoder", "contrastive"]
TITLE = "Contrastive training moves replicates together, but four fifths of the gain is there on deranged pairs too"
MECHANISMS = [
    "glucocorticoid receptor agonist", "tubulin polymerization inhibitor", "HDAC inhibitor", "CDK inhibitor",
    "phosphodiesterase inhibitor (PDE4-selective)", "dopamine receptor antagonist", "histamine H1 receptor antagonist",
]  # fmt: skip
FAMILIES = [
    "G-protein coupled receptors",
    "kinases",
    "protein-protein interactions (bromodomain)",
    "ion channels",
    "other",
]


# --------------------------------------------------------------------------------------------------
# Tables like those of a study


def interval_table(methods=tuple(plots.METHODS), controls=("true_pairs", "deranged", "rows_shuffled")):
    rng = np.random.default_rng(1)
    rows = []
    for number, method in enumerate(methods):
        for control in ("",) if method in CP_ONLY + ORACLES else controls:
            mean = 0.3 + 0.03 * number * (control in ("", "true_pairs")) + rng.normal(0, 0.01)
            rows.append((method, control, mean, mean - 0.02, mean + 0.03))
    return pd.DataFrame(rows, columns=["method", "control", "mean", "ci_low", "ci_high"])


def family_table():
    table = interval_table(TX_METHODS, ("true_pairs", "deranged"))
    parts = [table.assign(family=family, tested=family != "other") for family in FAMILIES]
    return pd.concat(parts, ignore_index=True)


def history_table():
    rng = np.random.default_rng(2)
    rows = []
    for control, fold, seed in itertools.product(("true_pairs", "deranged", "untrained"), range(3), range(2)):
        for epoch in range(1, 20 + 5 * fold + 4 * seed):
            training, validation = 5 * np.exp(-epoch / 9) + rng.normal(0, 0.05), 4 - 0.04 * epoch * (control[0] == "t")
            rows.append(("random", 0, fold, seed, "contrastive", control, epoch, training, validation, 4.2))
    names = ["split", "repeat", "fold", "seed", "method", "control", "epoch", "training", "validation", "chance"]
    return pd.DataFrame(rows, columns=names)


def many_curves():
    names = ["contrastive", "contrastive_soft", "contrastive_replicates", "contrastive_joint"]
    return pd.concat([plots.mean_curves(history_table()).assign(method=name) for name in names], ignore_index=True)


def plate_table(n_plates=60):
    rng = np.random.default_rng(3)
    parts = [
        pd.DataFrame({"plate": f"BR{25000 + plate}", "value": rng.normal(plate * shift, 1, 20), "when": when})
        for when, shift in (("before", 0.1), ("after", 0))
        for plate in range(n_plates)
    ]
    return pd.concat(parts, ignore_index=True)


def correlation_table():
    rng = np.random.default_rng(4)
    middle = {("CP", "replicates"): 0.4, ("CP", "different treatments"): 0.0, ("TX", "replicates"): 0.15}
    parts = [
        pd.DataFrame({"modality": modality, "kind": kind, "correlation": rng.normal(mean, 0.1, 200)})
        for (modality, kind), mean in middle.items()
    ]
    return pd.concat([*parts, parts[-1].assign(kind="different treatments")], ignore_index=True)


def map_table():
    rng = np.random.default_rng(7)
    labels = rng.choice([*MECHANISMS, "other", "other"], 120)
    points = [{"method": name, "x": rng.normal(size=120), "y": rng.normal(size=120)} for name in TX_METHODS]
    return pd.concat([pd.DataFrame(one).assign(label=labels) for one in points], ignore_index=True)


def gain_table():
    rng = np.random.default_rng(10)
    pairs = [("sphered_cp", ""), *itertools.product(TX_METHODS, ("true_pairs", "deranged"))]
    tasks = [f"task {i}" for i in range(30)]
    parts = [{"method": m, "control": c, "task": tasks, "gain": rng.normal(0, 0.04, 30)} for m, c in pairs]
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


ESTIMATES = {
    ("raw_cp", ""): 0.30, ("sphered_cp", ""): 0.44, ("pca_cp", ""): 0.43, ("lda_identity", ""): 0.42, ("tx", ""): 0.7,
    ("cp_tx", ""): 0.72, ("tx_encoded", ""): 0.6, ("ridge_tx", "true_pairs"): 0.48,
    ("autoencoder", "true_pairs"): 0.46, ("autoencoder", "deranged"): 0.45, ("contrastive", "untrained"): 0.31,
    ("contrastive", "random_codes"): 0.41, ("contrastive", "deranged"): 0.40, ("contrastive", "true_pairs"): 0.50,
}  # fmt: skip


def endpoint(name, estimates=ESTIMATES, **further):
    """An endpoint as the bootstrap gives it, each model's values around its estimate."""
    rng = np.random.default_rng(13)
    values = {key: np.append(value, value + 0.01 * rng.normal(size=200)) for key, value in estimates.items()}
    return claims.EndpointBootstrap(name, values, 50, n_draws=dict.fromkeys(estimates, 3), **further)


def endpoints():
    families = {name: endpoint(f"family_auc:{name}") for name in ("kinases", "ion channels", "other")}
    families["nuclear receptors"] = replace(families["kinases"], endpoint="family_auc:nuclear receptors", n_units=2)
    return {
        1: claims.EndpointBootstrap("tx_strong_tasks", {}, 2, not_testable="two tasks only"),
        2: endpoint("replicate_map", {key: value for key, value in ESTIMATES.items() if key[0] not in ORACLES}),
        3: endpoint("moa_map", ESTIMATES | {("contrastive", "true_pairs"): 0.405}),
        4: endpoint("family_auc", families=families),
    }


def value_table():
    table = claims.interval_rows(endpoints().values())
    numbers = {name: claim for claim, name in claims.ENDPOINTS.items()}
    return table.assign(claim=table["endpoint"].map(numbers)).dropna(subset="claim")


def claims_table():
    return claims.weigh_claims("made", endpoints(), references=claims.REFERENCES | {2: ["sphered_cp", "pca_cp"]})


def chosen_table():
    shift = {"training compounds": 0.0, "the test compounds": 0.05}
    ends = {name: {key: value + more * (key[0] != "raw_cp") for key, value in ESTIMATES.items()}
            for name, more in shift.items()}  # fmt: skip
    tables = [claims.interval_rows([endpoint("tx_strong_tasks", one)], versus=("raw_cp", "")).assign(chosen_by=name)
              for name, one in ends.items()]  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    return table[table["control"].isin(plots.TRUE)]


def gain_by_family_table():
    families = endpoints()[4].families.values()
    tables = [claims.interval_rows(families, versus=versus).assign(minus=f"minus {words}")
              for versus, words in ((("raw_cp", ""), "raw CP"), ("deranged", "its deranged pairs"))]  # fmt: skip
    table = pd.concat(tables, ignore_index=True).rename(columns={"endpoint": "family", "n_units": "n_tasks"})
    table["family"] = table["family"].str.removeprefix("family_auc:")
    return table.assign(tested=(table["n_tasks"] >= 3) & (table["family"] != "other"))


def size_table():
    parts = [
        interval_table(["lda_identity", "rcca", "contrastive"]).assign(endpoint=endpoint, n_compounds=n)
        for endpoint, n in itertools.product(plots.SIZE_ENDPOINTS, (40, 100, 200, 400))
    ]
    return pd.concat(parts, ignore_index=True)


def activity_table(n_compounds=30, n_tasks=48):
    rng = np.random.default_rng(12)
    pairs = itertools.product(range(n_compounds), range(n_tasks))
    rows = [
        (f"BRD-K{n_compounds - i}", f"{FAMILIES[j % len(FAMILIES)]}: assay {j:02d}", rng.uniform()) for i, j in pairs
    ]
    return pd.DataFrame(rows, columns=["compound", "what", "value"])


def call_table(n=80):
    p_value = np.where(np.arange(n) % 4 == 0, 1e-4, np.linspace(1e-3, 1, n))
    return pd.DataFrame({"distance": 4 - 3 * p_value, "p_value": p_value, "active": p_value < 0.01})


CALLS = {"x": "distance", "y": "p_value", "chosen": "active", "xlabel": "distance", "ylabel": "p"}
PANELS = pd.concat([interval_table().assign(kind="treatments"), interval_table(TX_METHODS).assign(kind="mechanisms")])
HALVES = interval_table(TX_METHODS, ("same compounds", "other half")).rename(columns={"control": "how"})
# Every figure of the module: the function, its tables, what else it needs.
FIGURES = {
    "intervals": (plots.intervals, interval_table(), {"xlabel": "mAP", "line": 0.1}),
    "intervals in panels": (plots.intervals, PANELS, {"xlabel": "share found", "facet": "kind"}),
    "intervals of halves": (plots.intervals, HALVES, {"xlabel": "gain", "mark": "how", "filled": ["other half"]}),
    "intervals of families": (plots.intervals, family_table(), {"xlabel": "difference to raw CP in ROC-AUC",
                              "row": "family", "facet": "method", "line": 0, "across": 4, "sharex": True}),
    "paper_comparison": (plots.paper_comparison, value_table(), {}),
    "claims_forest": (plots.claims_forest, claims_table(), {}),
    "chosen_gains": (plots.chosen_gains, chosen_table(), {}),
    "family_gains": (plots.family_gains, gain_by_family_table(), {}),
    "gain_steps": (plots.gain_steps, value_table(), {"method": "contrastive"}),
    "data_size_curves": (plots.data_size_curves, size_table(), {}),
    "training_curves": (plots.training_curves, plots.mean_curves(history_table()),
                        {"ylabel": "loss"}),
    "training_curves of four": (plots.training_curves, many_curves(), {"ylabel": "loss"}),
    "missing_and_counts": (plots.missing_and_counts, pd.DataFrame({"what": ["CP", "paired"], "n": [1917, 0]}), {}),
    "control_distributions": (plots.control_distributions, plate_table(), {}),
    "replicate_correlations": (plots.replicate_correlations, correlation_table(), {}),
    "embedding_maps": (plots.embedding_maps, map_table(), {"label_order": MECHANISMS}),
    "task_gains": (plots.task_gains, gain_table(), {}),
    "heat_map": (plots.heat_map, activity_table(), {"label": "share of known actives that score no higher"}),
    "scatter": (plots.scatter, call_table(), CALLS),
}  # fmt: skip


OWN_TITLES = {  # of those that tell what they show
    "paper_comparison": "Contrastive lies above raw CP in 3 of 3 measured claims",
    "claims_forest": "2 of 6 claims weighed on made are supported",
    "chosen_gains": "Contrastive gains +0.200 on tasks chosen by training compounds, "
                    "+0.250 on tasks chosen by the test compounds",
    "family_gains": "Contrastive gains in 2 of 2 families minus raw CP, 2 of 2 families minus its deranged pairs",
    "gain_steps": "From raw CP to contrastive, step by step",
    "training_curves": "",
    "training_curves of four": "",
}  # fmt: skip


def draw(name, table=None):
    function, own, options = FIGURES[name]
    title = {} if name in OWN_TITLES else {"title": TITLE}
    return function(own if table is None else table, **title, **options)


def words(fig):
    return [" ".join(text.get_text().split()) for text in fig.findobj(Text) if text.get_text()]


def row_labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def markers(ax):
    """Lines that are markers, none of them an interval."""
    return [line for line in ax.lines if line.get_marker() not in ("None", None, "")]


# --------------------------------------------------------------------------------------------------
# All figures


@pytest.mark.parametrize("name", FIGURES)
def test_it_draws_without_a_warning_in_words_large_enough_and_leaves_its_table_alone(name):
    before = FIGURES[name][1].copy(deep=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = draw(name)
        fig.savefig(io.BytesIO(), dpi=50)
    pd.testing.assert_frame_equal(FIGURES[name][1], before)
    assert fig.get_suptitle().replace("\n", " ").startswith(OWN_TITLES.get(name, TITLE))
    assert fig.get_figwidth() in (plots.SINGLE_WIDTH, plots.FULL_WIDTH) and fig.get_figheight() < 9.5
    assert min(text.get_fontsize() for text in fig.findobj(Text) if text.get_text()) >= plots.SMALL


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "claims_forest"])  # that table has rows always
def test_an_empty_table_gives_the_reason(name):
    without_columns = [] if name in OWN_TITLES and "curves" not in name else [pd.DataFrame()]
    for empty in (FIGURES[name][1].iloc[:0], *without_columns):
        assert any(text.startswith("nothing to show: ") for text in words(draw(name, empty)))


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
@pytest.mark.parametrize("palette", [tuple(colour for _, colour in plots.METHODS.values()), plots.CATEGORY_COLOURS])
def test_colours_stay_apart_for_every_eye(vision, palette):
    seen = [_lab(colour, np.array(VISION[vision])) for colour in palette]
    closest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert closest > 10  # 2.3 is the smallest difference that is seen side by side


def test_wide_tables_are_in_the_order_and_words_of_the_study():
    rows = [
        ("rcca", "deranged", "b", 1.0), ("rcca", "true_pairs", "b", 2.0), ("rcca", "true_pairs", "b", 4.0),
        ("raw_cp", np.nan, "b", 5.0), ("raw_cp", np.nan, "a", 6.0), ("concat:rcca", "true_pairs", "c", np.nan),
    ]  # fmt: skip
    table = plots.wide_table(pd.DataFrame(rows, columns=["method", "control", "endpoint", "value"]), "endpoint")
    names = [("raw CP", ""), ("regularised CCA", "true pairs"), ("regularised CCA", "deranged pairs")]
    assert table.index.tolist() == names
    assert list(table.columns) == ["b", "a"] and table["b"].tolist() == [5.0, 3.0, 1.0]


# --------------------------------------------------------------------------------------------------
# What single figures show


def test_intervals_draw_every_value_in_order():
    table = interval_table().sample(frac=1, random_state=0)
    fig = plots.intervals(table, xlabel="replicate mAP", title="t", line=0.1)
    ax = fig.axes[0]
    assert row_labels(ax) == [plots.METHOD_LABELS[method] for method in list(plots.METHODS)]
    drawn = markers(ax)
    assert sorted(line.get_xdata()[0] for line in drawn) == pytest.approx(sorted(table["mean"]))
    filled = [line for line in drawn if line.get_markerfacecolor() != "white"]
    assert len(filled) == table["control"].isin(["", "true_pairs"]).sum()
    tops = [line.get_ydata()[0] for line in drawn if line.get_mec() == plots.METHODS["contrastive"][1]]
    assert len(set(tops)) == 3, "the controls of a method stand below each other"
    flat = [line for line in ax.lines if len(line.get_xdata()) == 2 and len(set(line.get_ydata())) == 1]
    assert sorted(line.get_xdata()[0] for line in flat) == pytest.approx(sorted(table["ci_low"]))
    upright = {line.get_linestyle(): line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1}
    assert upright["--"] == 0.1 and upright[":"] == table.set_index("method").loc["raw_cp", "mean"]
    assert {"chance", "raw CP", "control: deranged pairs", "replicate mAP"} <= set(words(fig))


def test_claims_show_the_comparisons_and_the_verdict_and_say_what_is_not_testable():
    fig, table = draw("claims_forest"), claims_table()
    is_shown = (table["reference"] == "raw_cp") | table["role"].isin(["reference", "control"])
    own = table[is_shown & table["effect"].notna()]
    own = own[own["method"].isin(["contrastive", "autoencoder"]) & own["endpoint"].isin(claims.ENDPOINTS.values())]
    for ax, (_, part) in zip(fig.axes, own.groupby("claim"), strict=True):
        assert sorted(line.get_xdata()[0] for line in markers(ax)) == pytest.approx(sorted(part["effect"]))
    names = ["raw CP", "sphered CP", "PCA of CP", "LDA on identity (no TX)", "itself, deranged pairs"]
    assert row_labels(fig.axes[0]) == [*names, "itself, random codes"]
    heads = [ax.get_title(loc="left").split("\n") for ax in fig.axes]
    verdicts = table[table["verdict"] != ""].set_index(["claim", "method"])["verdict"]
    for claim, head in zip((2, 3, 4), heads, strict=True):
        said = " ".join(head)
        assert said.startswith(f"{claim}. ") and f"contrastive: {verdicts[claim, 'contrastive']}" in said
    for shown in (fig, draw("claims_forest", table[table["claim"] == 1])):
        assert any("Claim 1 is not testable: two tasks only." in text for text in words(shown))
    assert not shown.axes and shown.get_suptitle() == "No claim is testable on made"


def test_mean_curves_are_means_over_seeds_and_short():
    history = history_table()
    curves = plots.mean_curves(history, n_epochs=8)
    assert set(curves["control"]) == {"true_pairs", "deranged"}
    assert curves.groupby(["control", "fold"]).size().max() <= 8
    runs = history.query("control == 'true_pairs' and fold == 1")
    runs = runs.pivot(index="epoch", columns="seed", values="training")
    expected = runs.ffill().mean(axis=1)
    own = curves.query("control == 'true_pairs' and fold == 1")
    np.testing.assert_allclose(own["training"], expected[own["epoch"]] - 4.2)
