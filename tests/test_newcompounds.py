"""Nearest mechanisms and predicted activities, against naive loops and planted answers."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import newcompounds
from cpx_utils.encoders import RawCP
from cpx_utils.preprocessing import FeaturePreparation
from cpx_utils.profiles import COMPOUND, CONTROL, METADATA_COLUMNS


@pytest.fixture(scope="module")
def planted():
    """A library of 6 mechanisms x 10 compounds around their centres, and one new compound of each mechanism."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 8))
    mechanism = np.repeat(np.arange(6), 10)
    library = pd.DataFrame({
        COMPOUND: [f"L{row:02d}" for row in range(60)],
        "MoA": [[f"m{number}"] for number in mechanism],
    })  # fmt: skip
    library.at[0, "MoA"] = ["m0", "m5"]
    library.at[59, "MoA"] = []
    codes = centres[mechanism] + 0.3 * rng.normal(size=(60, 8))
    new = pd.DataFrame({COMPOUND: [f"N{number}" for number in range(6)], "MoA": [[f"m{n}"] for n in range(6)]})
    return library, codes, new, centres + 0.3 * rng.normal(size=centres.shape)


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_scores_and_chance_equal_a_naive_loop(planted):
    library, codes, new, new_codes = planted
    ranked = newcompounds.nearest_mechanisms(new, new_codes, library, codes, n_neighbours=3)
    assert len(ranked) == 6 * 6
    members = [row for row in range(60) if "m5" in library["MoA"][row]]
    assert len(members) == 10  # ten of its own, less the one without MoA, and compound 0
    row = ranked[(ranked["compound"] == "N2") & (ranked["mechanism"] == "m5")].iloc[0]
    similarity = {member: cosine(new_codes[2], codes[member]) for member in members}
    assert row["score"] == pytest.approx(np.mean(sorted(similarity.values())[-3:]), abs=1e-6)
    assert row["nearest"] == f"L{max(similarity, key=similarity.get):02d}"
    others = [
        np.mean(sorted(cosine(codes[other], codes[member]) for member in members)[-3:])
        for other in range(60)
        if other not in members
    ]
    assert row["chance"] == pytest.approx(np.mean([score >= row["score"] for score in others]))


def test_the_planted_mechanism_comes_first(planted):
    library, codes, new, new_codes = planted
    ranked = newcompounds.nearest_mechanisms(new, new_codes, library, codes)
    first = ranked[ranked["rank"] == 1].set_index("compound")
    assert [first.loc[f"N{n}", "mechanism"] for n in range(6)] == [f"m{n}" for n in range(6)]
    assert (first["chance"] < 0.05).all()
    known = newcompounds.is_known_mechanism(ranked, new)
    assert np.array_equal(known, ranked["mechanism"].str[1:] == ranked["compound"].str[1:])
    found = newcompounds.mechanisms_found(ranked, new, within=2)
    assert (found["found"] == 1).all() and found["chance"].to_numpy() == pytest.approx(2 / 6)
    both = new.assign(MoA=[["m0", "m1"]] * 6)
    chance = newcompounds.mechanisms_found(ranked, both, within=2)["chance"].iloc[0]
    assert chance == pytest.approx(1 - (4 / 6) * (3 / 5))


def test_a_library_without_mechanisms_ranks_none(planted):
    library, codes, new, new_codes = planted
    bare = library.assign(MoA=[[] for _ in range(60)])
    ranked = newcompounds.nearest_mechanisms(new, new_codes, bare, codes)
    assert len(ranked) == 0 and "score" in ranked
    assert len(newcompounds.mechanisms_found(ranked, new, within=5)) == 0


def test_predicted_activities_are_calibrated():
    rng = np.random.default_rng(1)
    codes, new_codes = rng.normal(size=(600, 10)), rng.normal(size=(600, 10))
    labels = pd.DataFrame({
        "easy": (codes[:, 0] + 0.5 * rng.normal(size=600) > 0.7).astype(float),
        "hopeless": (rng.random(600) < 0.3).astype(float),
        "one class": np.zeros(600),
    })  # fmt: skip
    labels.iloc[::5, 0] = np.nan
    predicted = newcompounds.predict_activities(codes, labels, new_codes)
    assert predicted.shape == (600, 3) and predicted["one class"].isna().all()
    truth = new_codes[:, 0] + 0.5 * rng.normal(size=600) > 0.7
    likely = predicted["easy"] > 0.5
    assert truth[likely].mean() > 0.6 > 0.2 > truth[~likely].mean()
    assert predicted["easy"].mean() == pytest.approx(truth.mean(), abs=0.06)
    # Without information the prediction is the share of actives and hardly varies.
    assert predicted["hopeless"].mean() == pytest.approx(0.3, abs=0.06) and predicted["hopeless"].std() < 0.08


def test_new_wells_are_measured_from_their_own_controls():
    rng = np.random.default_rng(2)
    names = [f"Cells_{number}" for number in range(5)]
    preparation = FeaturePreparation(tame_tails=False).fit(pd.DataFrame(rng.normal(size=(50, 5)), columns=names))
    encoder = RawCP().fit(np.zeros((3, 5)))
    metadata = pd.DataFrame([("P", f"W{row}", f"c{row % 3}", np.nan, row % 3 == 0) for row in range(9)])
    metadata.columns = METADATA_COLUMNS
    wells = pd.concat([metadata, pd.DataFrame(rng.normal(3, 1, size=(9, 5)), columns=names)], axis=1)
    compounds, codes = newcompounds.embed_compounds(wells, preparation, encoder)
    assert compounds[COMPOUND].tolist() == ["c1", "c2"]
    prepared = preparation.transform(wells[names])
    controls = metadata[CONTROL].to_numpy(bool)
    expected = [prepared[(metadata[COMPOUND] == name).to_numpy()].mean(0) for name in ("c1", "c2")]
    np.testing.assert_allclose(codes, np.stack(expected) - prepared[controls].mean(0), atol=1e-6)
