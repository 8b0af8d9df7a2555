"""The simulated screen keeps its promises: what was put in can be found, and what was left out cannot."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from cpx_utils import preprocessing, simulation
from cpx_utils.encoders import RidgeTX
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    ScreenError,
    feature_matrix,
)

TABLES = ("cp", "tx", "compounds", "activity", "tasks")


@pytest.fixture(scope="module")
def default_screen():
    return simulation.simulate_screen("default", seed=0)


@pytest.fixture(scope="module")
def default_truth():
    return simulation.simulate_truth(simulation.simulation_settings("default"), seed=0)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny_screen):
    again, other = (simulation.simulate_screen("tiny", seed=seed) for seed in (0, 1))
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(tiny_screen, name), getattr(again, name), check_exact=True)
    for name in ("cp", "tx"):
        assert feature_matrix(getattr(tiny_screen, name)).tobytes() == feature_matrix(getattr(again, name)).tobytes()
        assert not np.allclose(feature_matrix(getattr(tiny_screen, name)), feature_matrix(getattr(other, name)))
    assert list(tiny_screen.compounds["SMILES"]) != list(other.compounds["SMILES"])
    assert not tiny_screen.activity["active"].equals(other.activity["active"])


def test_without_noise_wells_show_exactly_the_truth():
    quiet = {"tx_noise": 0.0, "cp_noise": 0.0, "plate_strength": 0.0, "tail": 0.0}
    quiet |= {"cp_position": 0.0, "tx_position": 0.0, "cp_handling": 0.0}
    for strength in (0.0, 0.5, 1.0):
        settings = simulation.simulation_settings("tiny", shared_strength=strength, **quiet)
        screen = simulation.simulate_screen("tiny", seed=2, shared_strength=strength, **quiet)
        truth = simulation.simulate_truth(settings, seed=2)
        row_of = {compound: row for row, compound in enumerate(truth["compound"])}
        tx_shared = strength * settings.tx_shared
        parts = (
            (screen.cp, "amplitude", "response", "cp_from_shared", settings.cp_shared, "cp_only", settings.cp_only),
            (screen.tx, "tx_amplitude", "tx_response", "tx_from_shared", tx_shared, "tx_only", settings.tx_only),
        )
        for table, amplitude, response, shared_loadings, shared, own, own_strength in parts:
            values = feature_matrix(table.drop(columns=simulation.CELL_COUNT, errors="ignore"))
            modality = own.split("_")[0]
            for well in range(0, len(table), 17):
                expected = np.zeros(values.shape[1])
                if not table[CONTROL].iloc[well]:
                    row, dose = row_of[table[COMPOUND].iloc[well]], settings.doses.index(table[DOSE].iloc[well])
                    signal = shared * truth["shared"][row] @ truth[shared_loadings]
                    signal = signal + own_strength * truth[own][row] @ truth[f"{modality}_from_{own}"]
                    expected = (truth[amplitude][row] * truth[response][row, dose] * signal)[: values.shape[1]]
                np.testing.assert_allclose(values[well], expected, atol=1e-5)


def readout_auc(screen, truth, latents, kind):
    """Mean ROC-AUC of the families of a kind: a direction in the latents, found on one half, judged on the other."""
    aucs = []
    for family in [name for name, one in simulation.NAMES["families"].items() if one == kind]:
        for task in screen.tasks.loc[screen.tasks["family"] == family, "task"]:
            label = screen.activity[screen.activity["task"] == task].set_index(COMPOUND)["active"]
            label = label.reindex(truth["compound"]).to_numpy(float)
            known = np.flatnonzero(~np.isnan(label))
            first, second = known[::2], known[1::2]
            model = Ridge(alpha=1.0).fit(latents[first], label[first])
            aucs.append(roc_auc_score(label[second], model.predict(latents[second])))
    return np.mean(aucs)


def test_families_read_the_effects_they_should(default_screen, default_truth):
    amplitude = default_truth["amplitude"][:, None]
    latents = {name: amplitude * default_truth[name] for name in ("shared", "cp_only", "tx_only")}
    read = simulation.simulation_settings("default").n_tx_only_read
    latents["tx_only"] = latents["tx_only"][:, :read]
    everything = np.hstack(list(latents.values()))
    auc = {kind: readout_auc(default_screen, default_truth, values, kind) for kind, values in latents.items()}
    assert auc["shared"] > 0.8
    assert auc["cp_only"] > 0.8
    assert auc["tx_only"] > 0.8
    assert readout_auc(default_screen, default_truth, everything, "all") > 0.65
    assert abs(readout_auc(default_screen, default_truth, everything, "none") - 0.5) < 0.04
    for kind, other in (("shared", "cp_only"), ("cp_only", "shared"), ("tx_only", "shared")):
        assert abs(readout_auc(default_screen, default_truth, latents[other], kind) - 0.5) < 0.06


def noise_free(truth, settings):
    """TX profile of each compound at full response (n_compounds, n_genes)."""
    signal = settings.shared_strength * settings.tx_shared * truth["shared"] @ truth["tx_from_shared"]
    return truth["tx_amplitude"][:, None] * (signal + settings.tx_only * truth["tx_only"] @ truth["tx_from_tx_only"])


def predictability(tx, target):
    """Cross-validated R2 of each column of the target by ridge regression on TX."""
    predicted = cross_val_predict(Ridge(alpha=tx.var(axis=0).sum()), tx, target, cv=10)
    return 1 - ((target - predicted) ** 2).sum(axis=0) / ((target - target.mean(axis=0)) ** 2).sum(axis=0)


def moa_map(profiles, moa):
    """Naive mean average precision of finding the compounds of one's own MoA by cosine similarity."""
    unit = profiles / np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-12)
    scores = []
    for query in np.flatnonzero(np.linalg.norm(profiles, axis=1) > 0):
        others = np.delete(np.arange(len(moa)), query)
        hits = (moa[others] == moa[query])[np.argsort(-(unit[others] @ unit[query]), kind="stable")]
        scores.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return np.mean(scores)


@pytest.mark.parametrize("seed", [0, 1])
def test_without_shared_strength_tx_knows_compounds_and_nothing_else(seed):
    measured = {}
    for strength in (0.0, 1.0):
        settings = simulation.simulation_settings("default", shared_strength=strength)
        truth = simulation.simulate_truth(settings, seed)
        tx, amplitude = noise_free(truth, settings), truth["amplitude"]
        rng = np.random.default_rng(seed)
        chance = [moa_map(tx, rng.permutation(truth["moa"])) for _ in range(3)]
        measured[strength] = {
            "shared": predictability(tx, amplitude[:, None] * truth["shared"]).max(),
            "cp only": predictability(tx, amplitude[:, None] * truth["cp_only"]).max(),
            "activity": np.corrcoef(np.linalg.norm(tx, axis=1), amplitude)[0, 1],
            "potency": np.corrcoef(truth["tx_response"][:, 0], truth["response"][:, 0])[0, 1],
            "MoA": moa_map(tx, truth["moa"]) / np.mean(chance),
        }
    nothing, something = measured[0.0], measured[1.0]
    assert nothing["shared"] < 0.02
    assert something["shared"] > 0.5
    assert nothing["cp only"] < 0.02
    assert abs(nothing["activity"]) < 0.12  # 3 standard errors
    assert something["activity"] > 0.9
    assert abs(nothing["potency"]) < 0.12
    assert something["potency"] == pytest.approx(1)
    assert 0.9 < nothing["MoA"] < 1.1
    assert something["MoA"] > 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": "huge"}, ("huge", "tiny")),
        ({"size": "tiny", "preset": "jump"}, ("jump", "cdrp-bio", "lincs")),
        ({"size": "tiny", "shared_strenght": 0.5}, ("shared_strenght", "shared_strength")),
        ({"size": "tiny", "shared_strength": -1.0}, ("shared_strength", "-1")),
        ({"size": "tiny", "n_treatments_per_plate": 5000, "n_compounds": 1000}, ("n_treatments_per_plate", "1536")),
    ],
)
def test_what_the_simulator_cannot_do_is_said_in_one_line(arguments, words):
    with pytest.raises(ScreenError) as error:
        simulation.simulate_screen(**arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words)


# How far a statistic of a preset may lie from the real screen's value: a difference, or a factor for numbers of
# components. 0.08 tells the presets apart where the real screens differ (a median CP replicate correlation of 0.16 and
# of 0.53) and is more than two seeds usually differ by. R2 of genes are small, so 0.08 would accept anything. Numbers
# of components are ratios by nature.
TOLERANCES = {
    "CP replicate correlation": 0.08,
    "TX replicate correlation": 0.08,
    "treatments above 90% of the null": 0.08,
    "variance of component 1, share": 0.08,
    "participation ratio of the components": "factor 1.5",
    "CP components for a share of the variance": "factor 1.5",
    "TX components for a share of the variance": "factor 1.5",
    "CP feature correlation, absolute": 0.08,
    "TX feature correlation, absolute": 0.08,
    "ridge CP→TX, out-of-fold R² of genes": 0.05,
    "ridge CP→TX, shares": 0.08,  # and 0.05 for the share of genes
}


@pytest.fixture(scope="module")
def statistics_of_presets(default_screen):
    """Statistics of each preset at default size, with the steps of notebook 01."""
    found = {}
    for preset, real in simulation.IMITATES.items():
        screen = default_screen if preset == "cdrp-bio" else simulation.simulate_screen("default", 0, preset)
        raw = {"CP": screen.cp, "TX": screen.tx}
        wells = {name: preprocessing.normalise_plates(table)[0] for name, table in raw.items()}
        correlations = {name: preprocessing.replicate_correlations(table) for name, table in wells.items()}
        profiles = {
            name: preprocessing.consensus(table[METADATA_COLUMNS], feature_matrix(table), by="compound")[1]
            for name, table in wells.items()
        }
        profiles["CP"] = np.arcsinh(profiles["CP"])
        found[preset] = simulation.screen_statistics(correlations, profiles, RidgeTX(), real)
    return found


@pytest.mark.parametrize("preset", simulation.PRESETS)
def test_a_preset_resembles_its_real_screen(statistics_of_presets, preset):
    table = statistics_of_presets[preset]
    assert set(table["source"]) == {simulation.IMITATES[preset], "cmea-u2os"} and len(table) == 31
    assert set(table["group"]) == set(TOLERANCES)
    off = []
    for row in table.itertuples():
        allowed = 0.05 if "R²" in row.statistic else TOLERANCES[row.group]
        if isinstance(allowed, str):
            factor = float(allowed.removeprefix("factor "))
            near = 1 / factor <= row.here / row.reference <= factor
        else:
            near = abs(row.here - row.reference) <= allowed
        if not near:
            off.append(f"{row.group}, {row.statistic}: {row.here:.3f}, {row.source} {row.reference:g} +- {allowed}")
    assert not off, "\n".join(off)


def test_statistics_are_those_of_numpy_and_deviations_are_counted_in_tolerances():
    rng = np.random.default_rng(3)
    profiles = {name: rng.normal(size=(60, 6)) @ rng.normal(size=(6, 30)) for name in ("CP", "TX")}
    profiles["TX"][:, 0] = 1.0  # a constant feature takes no part
    found = pd.DataFrame({"kind": ["replicates"] * 3 + ["different treatments"] * 5, "correlation": np.arange(8) / 10})
    table = simulation.screen_statistics({"CP": found, "TX": found}, profiles, RidgeTX(), "LINCS Pilot 1")
    assert set(table["source"]) == {"LINCS Pilot 1", "cmea-u2os"} and table["here"].notna().all()
    row = table.set_index(["group", "statistic"])
    shares = np.sort(np.linalg.eigvalsh(np.corrcoef(profiles["TX"][:, 1:].T)))[::-1] / 29
    assert row["here"]["variance of component 1, share", "TX"] == pytest.approx(shares[0])
    assert row["here"]["participation ratio of the components", "TX"] == pytest.approx(1 / (shares**2).sum())
    needed = int(row["here"]["TX components for a share of the variance", "80%"])
    assert shares[:needed].sum() >= 0.8 > shares[: needed - 1].sum()
    median = row.loc[("CP replicate correlation", "median")]
    assert median["here"] == 0.1 and median["deviation"] == pytest.approx((0.53 - 0.1) / 0.08)
    needed = row.loc[("CP components for a share of the variance", "80%")]
    assert needed["deviation"] == pytest.approx(abs(np.log(needed["here"] / 8)) / np.log(1.5))
    genes = row.loc[("ridge CP→TX, shares", "genes, R² above 0.1")]
    assert genes["deviation"] == pytest.approx(abs(genes["here"] - 18 / 978) / 0.05)


def test_ridge_predicts_what_can_be_predicted_and_nothing_else():
    rng = np.random.default_rng(5)
    cp = rng.normal(size=(120, 10))
    related = cp @ rng.normal(size=(10, 40)) + 0.1 * rng.normal(size=(120, 40))
    related[:, 0] = 1.0  # a gene that never varies has no R2
    r2, nearest = simulation.predictability(cp, related, RidgeTX())
    assert len(r2) == 39 and np.median(r2) > 0.9 and nearest > 0.9
    r2, nearest = simulation.predictability(cp, rng.normal(size=(120, 40)), RidgeTX())
    assert np.quantile(r2, 0.95) < 0.05 and nearest < 0.3
    r2, nearest = simulation.predictability(cp[:8], related[:8], RidgeTX())
    assert np.isnan(r2).all() and np.isnan(nearest)
