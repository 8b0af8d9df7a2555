"""LINCS Pilot 1 from published maps: features, rows of dose series, and the real files where CPX_MIRROR names them."""

import os

import numpy as np
import pandas as pd
import pytest

from cpx_utils import annotation, datasets, preprocessing, profiles
from cpx_utils.profiles import COMPOUND, CONTROL, PLATE, WELL, feature_columns

MIRROR = os.environ.get("CPX_MIRROR", "")
AXES = ("UMAP_0", "UMAP_1", "TSNE_0", "TSNE_1")


def test_features_are_bumps_on_a_grid_and_empty_corners_have_none():
    rng = np.random.default_rng(0)
    ranges = dict.fromkeys(AXES, (0.0, 10.0))
    coordinates = pd.DataFrame(rng.uniform(0, 10, (200, 4)), columns=AXES)
    coordinates["UMAP_0"] /= 4  # nothing lies in the right half of this map
    table = datasets.map_features(coordinates, ranges)
    assert (
        {"TSNE_00", "UMAP_00", "UMAP_20"} <= set(table) and "UMAP_50" not in table and table.dtypes.eq("float32").all()
    )
    well = coordinates.loc[7]
    for name in table:
        place, column, row = name[:4], int(name[5]), int(name[6])
        steps = (well[f"{place}_0"] - 2 * column) / 2, (well[f"{place}_1"] - 2 * row) / 2
        assert table.loc[7, name] == pytest.approx(np.exp(-(steps[0] ** 2 + steps[1] ** 2) / 2), rel=1e-5)


def test_a_row_holds_six_doses_of_a_plate_and_each_control_once():
    rows = [("p1", "A01", "c1", False, step) for step in (2, 1, 3, 4, 6, 5)]
    rows += [("p1", "B01", "c2", False, step) for step in (1, 2, 3, 4, 5)]  # lacks a dose
    rows += [("p1", f"H{number:02d}", "DMSO", True, 0) for number in range(13)]
    wells = pd.DataFrame(rows, columns=[PLATE, WELL, COMPOUND, CONTROL, "step"])
    features = pd.DataFrame({"one": np.arange(len(wells)), "two": -np.arange(len(wells))}, dtype=np.float32)
    series = datasets.dose_series(wells, features)
    assert series[COMPOUND].tolist() == ["DMSO", "DMSO", "c1"] and series[CONTROL].tolist() == [True, True, False]
    names = [f"{name}_dose{step}" for step in range(1, 7) for name in ("one", "two")]
    assert feature_columns(series) == names
    assert series.loc[2, names[::2]].tolist() == [1, 0, 2, 3, 5, 4]
    used = series.loc[:1, names[::2]].to_numpy().ravel()
    assert len(set(used)) == 12 and set(used) <= set(range(11, 24))
    pd.testing.assert_frame_equal(series, datasets.dose_series(wells, features))


def test_cells_that_are_few_at_the_highest_dose_make_a_compound_cytotoxic():
    counts = pd.DataFrame({COMPOUND: list("aabbc"), "dose": [1, 10, 1, 10, 20.0], "count": [9, 1, 9, 5, 6.0]})
    activity, tasks = annotation.cytotoxicity(counts, share=0.6)
    assert activity.set_index(COMPOUND)["active"].to_dict() == {"a": 1, "b": 0, "c": 0}
    assert tasks["family"].tolist() == [annotation.TOXICITY]


def test_profiles_that_are_normalised_already_stay_as_they_are(tiny_screen):
    table, report = preprocessing.normalise_plates(tiny_screen.cp, as_they_are=True)
    pd.testing.assert_frame_equal(table, tiny_screen.cp, check_names=False)
    assert not report["normalised"].any()


@pytest.mark.skipif(not MIRROR, reason="CPX_MIRROR isn't set to a folder with the real screens' files")
def test_real_maps_pair_with_maps_and_with_signatures_of_drugs(tmp_path):
    screens = {}
    for name in ("lincs-a549-wells", "lincs-a549-genes"):
        screen = screens[name] = datasets.read_screen(name, mirror=MIRROR, data_dir=str(tmp_path))
        assert screen.normalised and "no CellProfiler feature" in screen.notes[0]
        testable = profiles.testability(screen).set_index("endpoint")["testable"]
        assert testable[["replicate_clustering", "moa_clustering", "retrieval", "bioactivity", "target_families"]].all()
    wells, genes = screens.values()
    assert len(profiles.paired_compounds(wells)) == 1366 and wells.cp[CONTROL].sum() == 544
    reach = annotation.reach(genes).set_index("source")
    assert len(profiles.paired_compounds(genes)) == 564 and len(feature_columns(genes.tx)) == 978
    assert reach.loc["MoA", "tested"] == 117 and reach.iloc[:-1]["tested"].sum() == 77
