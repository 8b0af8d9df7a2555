"""Fewer training pairs: which compounds stay, and that nothing else changes."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import bioactivity, crossfit, sizes
from cpx_utils.encoders import LdaIdentity, RegularisedCCA
from cpx_utils.profiles import COMPOUND


def test_a_share_of_the_compounds_stays_with_all_its_wells(tiny_folds):
    fold = tiny_folds[0]
    smaller = [sizes.fewer_pairs(fold, share, seed=3) for share in (0.1, 0.5, 1.0)]
    kept = [set(one.groups[one.is_training]) for one in smaller]
    assert [len(names) for names in kept] == [5, 24, 48] and kept[0] < kept[1] < kept[2]
    for one, names in zip(smaller, kept, strict=True):
        assert (one.is_training == (fold.is_training & np.isin(fold.groups.astype(str), list(names)))).all()
        assert set(one.tx_treatments.loc[one.tx_is_training, COMPOUND]) == set(
            one.cp_wells.loc[one.is_training, COMPOUND]
        )
        for name in ("cp", "tx", "is_test", "partner"):
            assert getattr(one, name) is getattr(fold, name)
    assert set(sizes.fewer_pairs(fold, 0.5, seed=4).groups[sizes.fewer_pairs(fold, 0.5, 4).is_training]) != kept[1]


@pytest.mark.parametrize("share", [0, -0.5, 1.01])
def test_a_share_outside_its_range_is_refused(share, tiny_folds):
    with pytest.raises(ValueError, match="lies above 0 and up to 1"):
        sizes.fewer_pairs(tiny_folds[0], share, seed=0)


@pytest.fixture(scope="module")
def curve(tiny_folds, tiny_screen):
    folds = tiny_folds[:3]
    encoders = {"rcca": RegularisedCCA(), "lda_identity": LdaIdentity()}
    by_fold = {name: {fold.name: one for fold in folds} for name, one in encoders.items()}
    names = tiny_screen.compounds[COMPOUND].to_numpy()
    labels, _ = bioactivity.label_matrix(tiny_screen.activity, tiny_screen.tasks, names, min_active=8, min_inactive=8)
    assert len(labels.columns) > 1
    options = {"shares": [0.25, 1.0], "n_bootstrap": 100}
    return sizes.data_size_curve(by_fold, folds, tiny_screen.compounds, labels, **options), folds, labels


def test_every_endpoint_is_measured_at_every_size(curve, tiny_screen):
    table = curve[0]
    assert set(table["endpoint"]) == set(sizes.ENDPOINTS)
    assert table.groupby("share")["n_compounds"].first().to_dict() == {0.25: 12, 1.0: 48}
    controls = table.groupby("method")["control"].agg(lambda names: sorted(set(names)))
    assert controls.to_dict() == {"lda_identity": [""], "rcca": ["deranged", "true_pairs"]}
    assert len(table) == 3 * 2 * 3
    assert (table["ci_low"] <= table["mean"]).all() and (table["mean"] <= table["ci_high"]).all()
    n_units = table.groupby("endpoint")["n_units"].first()
    assert 60 <= n_units["moa_map"] <= len(tiny_screen.compounds) == n_units["replicate_map"]
    assert n_units["roc_auc"] == len(curve[2].columns)


def test_all_pairs_give_what_the_study_gives(curve, tiny_screen):
    table, folds, labels = curve
    result = crossfit.crossfit("rcca", lambda seed: RegularisedCCA(), folds, progress=False)
    own = table[(table["method"] == "rcca") & (table["control"] == "true_pairs") & (table["share"] == 1)]
    values = bioactivity.evaluate_folds(bioactivity.predict_folds(result.consensus, labels))
    auc = values[values["metric"] == "roc_auc"].groupby("fold")["value"].mean()
    assert len(auc) == 3
    by_endpoint = own.set_index("endpoint")["mean"]
    assert by_endpoint["roc_auc"] == pytest.approx(values.loc[values["metric"] == "roc_auc", "value"].mean(), abs=0.01)
    assert by_endpoint["moa_map"] > 0 and by_endpoint["replicate_map"] > 0


def test_of_all_pairs_the_studys_own_embeddings_serve_and_nothing_is_fitted_again(curve, tiny_screen, monkeypatch):
    table, folds, labels = curve
    encoders = {"rcca": RegularisedCCA(), "lda_identity": LdaIdentity()}
    results, _ = crossfit.crossfit_all(encoders, folds, {"true_pairs": 1, "deranged": 1}, progress=False)
    by_fold = {name: {fold.name: one for fold in folds} for name, one in encoders.items()}
    whole = {kind: {name: getattr(one, kind) for name, one in results.items()} for kind in ("wells", "consensus")}
    monkeypatch.setattr(sizes, "_fitted", None)
    options = {"shares": [1.0], "n_bootstrap": 100, "whole": whole}
    again = sizes.data_size_curve(by_fold, folds, tiny_screen.compounds, labels, **options)
    keys = ["method", "control", "endpoint"]
    expected = table[table["share"] == 1].sort_values(keys).reset_index(drop=True)
    pd.testing.assert_frame_equal(again.sort_values(keys).reset_index(drop=True), expected)


def test_what_a_screen_lacks_has_no_rows(tiny_folds, tiny_screen):
    folds = tiny_folds[:1]
    by_fold = {"lda_identity": {folds[0].name: LdaIdentity()}}
    nothing = pd.DataFrame(index=tiny_screen.compounds[COMPOUND])
    options = {"shares": [1.0], "replicates": False, "n_bootstrap": 50}
    bare = tiny_screen.compounds.assign(MoA=[[] for _ in range(len(tiny_screen.compounds))])
    assert len(sizes.data_size_curve(by_fold, folds, bare, nothing, **options)) == 0
    table = sizes.data_size_curve(by_fold, folds, tiny_screen.compounds, nothing, **options)
    assert set(table["endpoint"]) == {"moa_map"}
