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
        assert name == "tasks" or not getattr(tiny_screen, name).equals(getattr(other, name))


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_without_noise_wells_show_exactly_the_truth(strength):
    quiet = {"tx_noise": 0.0, "cp_noise": 0.0, "plate_strength": 0.0, "tail": 0.0, "shared_strength": strength}
    quiet |= {"cp_position": 0.0, "tx_position": 0.0, "cp_handling": 0.0}
    settings = simulation.simulation_settings("tiny", **quiet)
    screen, truth = simulation.simulate_screen("tiny", seed=2, **quiet), simulation.simulate_truth(settings, seed=2)
    row_of = {compound: row for row, compound in enumerate(truth["compound"])}
    shared = {"cp": settings.cp_shared, "tx": strength * settings.tx_shared}
    own = {"cp": settings.cp_only, "tx": settings.tx_only}
    potency = {
        "cp": truth["amplitude"][:, None] * truth["response"],
        "tx": truth["tx_amplitude"][:, None] * truth["tx_response"],
    }
    for name, table in (("cp", screen.cp.drop(columns=simulation.CELL_COUNT)), ("tx", screen.tx)):
        signal = shared[name] * truth["shared"] @ truth[f"{name}_from_shared"]
        signal = signal + own[name] * truth[f"{name}_only"] @ truth[f"{name}_from_{name}_only"]
        values = feature_matrix(table)
        for well, (compound, dose) in enumerate(zip(table[COMPOUND], table[DOSE], strict=True)):
            expected = np.zeros(values.shape[1])
            if compound in row_of:
                row = row_of[compound]
                expected = (potency[name][row, settings.doses.index(dose)] * signal[row])[: values.shape[1]]
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
    for kind, values in latents.items():
        assert readout_auc(default_screen, default_truth, values, kind) > 0.8
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


def test_without_shared_strength_tx_knows_compounds_and_nothing_else():
    measured = {}
    for strength in (0.0, 1.0):
        settings = simulation.simulation_settings("default", shared_strength=strength)
        truth = simulation.simulate_truth(settings, 0)
        tx, amplitude = noise_free(truth, settings), truth["amplitude"]
        rng = np.random.default_rng(0)
        chance = [moa_map(tx, rng.permutation(truth["moa"])) for _ in range(3)]
        measured[strength] = {
            "shared": predictability(tx, amplitude[:, None] * truth["shared"]).max(),
            "cp only": predictability(tx, amplitude[:, None] * truth["cp_only"]).max(),
            "activity": np.corrcoef(np.linalg.norm(tx, axis=1), amplitude)[0, 1],
            "potency": np.corrcoef(truth["tx_response"][:, 0], truth["response"][:, 0])[0, 1],
            "MoA": moa_map(tx, truth["moa"]) / np.mean(chance),
        }
    nothing, something = measured[0.0], measured[1.0]
    assert nothing["shared"] < 0.02 and something["shared"] > 0.5 and nothing["cp only"] < 0.02
    assert abs(nothing["activity"]) < 0.12 and something["activity"] > 0.9  # 0.12: 3 standard errors
    assert abs(nothing["potency"]) < 0.12 and something["potency"] == pytest.approx(1)
    assert 0.9 < nothing["MoA"] < 1.1 and something["MoA"] > 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": "huge"}, ("huge", "tiny")),
        ({"size": "tiny", "preset": "jump"}, ("jump", "cdrp-bio", "lincs")),
        ({"size": "tiny", "shared_strenght": 0.5}, ("shared_strenght", "shared_strength")),
        ({"size": "tiny", "shared_strength": -1.0}, ("shared_strength", "-1")),
        ({"size": "tiny", "n_treatments_per_plate": 5000, "n_compounds": 1000}, ("n_treatments_per_plate", "384")),
    ],
)
def test_what_the_simulator_cannot_do_is_said_in_one_line(arguments, words):
    with pytest.raises(ScreenError) as error:
        simulation.simulate_screen(**arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words)


@pytest.fixture(scope="module")
def statistics_of_presets(default_screen):
    """Statistics of each preset at default size, with the steps of notebook 01."""
    found = {}
    for preset, real in simulation.IMITATES.items():
        screen = default_screen if preset == "cdrp-bio" else simulation.simulate_screen("default", 0, preset)
        raw = {"CP": screen.cp, "TX": screen.tx}
        # Each plate by itself, as those who published the real values normalised.
        wells = {name: preprocessing.normalise_plates(table, shrink=False)[0] for name, table in raw.items()}
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
    assert table["here"].notna().all()
    off = table[table["deviation"] > 1]  # tolerances
    assert off.empty, off.to_string()


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
