"""Choosing parameters on training compounds: the splits, both scores against loops, and what may not matter."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from cpx_utils import tuning
from cpx_utils.clustering import replicate_clustering
from cpx_utils.encoders import METHODS, ContrastiveEncoder, LdaIdentity, RegularisedCCA, RidgeTX
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, ScreenError, treatments

GRID = {"n_tx_components": [2, 20], "shrinkage": [0.1, 0.9]}


@pytest.fixture(scope="module")
def choice(tiny_folds):
    return tuning.choose(RegularisedCCA(), GRID, tiny_folds[0], n_splits=2)


def test_candidates_are_all_combinations_in_the_grids_order():
    assert tuning.candidates(GRID) == [
        {"n_tx_components": n, "shrinkage": shrinkage} for n in (2, 20) for shrinkage in (0.1, 0.9)
    ]
    assert tuning.candidates({}) == [{}]
    assert tuning.in_words({"temperature": 0.30, "n": 5, "cp_basis": "pca"}) == "temperature=0.3, n=5, cp_basis=pca"


def test_drawn_candidates_try_every_value_equally_often():
    grid = {"temperature": [0.1, 0.3, 1.0], "input_noise": [0.5, 1.0, 2.0], "patience": [10, 20, 40], "basis": ["pca"]}
    drawn = tuning.candidates(grid, 12, seed=3)
    assert len({tuning.in_words(one) for one in drawn}) == len(drawn) <= 12
    assert all(one in tuning.candidates(grid) for one in drawn)
    assert drawn == tuning.candidates(grid, 12, seed=3) != tuning.candidates(grid, 12, seed=4)
    for n in (1, 6, 9):
        drawn = tuning.candidates(grid | {"more": list(range(100))}, n)  # so many that none is drawn twice
        for name in ("temperature", "input_noise", "patience"):
            counts = [sum(one[name] == value for one in drawn) for value in grid[name]]
            assert sum(counts) == n and max(counts) - min(counts) <= 1
    assert tuning.candidates(grid, 27) == tuning.candidates(grid, 0) == tuning.candidates(grid, 99)


def test_main_effects_combine_the_values_that_did_best_on_average():
    options = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 3, "b": "y"}]
    assert tuning.main_effects(options, [5.0, 1.0, 2.0, np.nan]) == {"a": 2, "b": "y"}
    assert tuning.main_effects(options, [1.0, 1.0, 1.0, 1.0]) == {"a": 1, "b": "x"}  # the first of equals
    assert tuning.main_effects(options, [np.nan] * 4) == {"a": 1, "b": "x"}


def test_where_candidates_are_drawn_the_best_values_are_tried_together(tiny_folds, monkeypatch):
    grid = {"n_tx_components": [2, 10, 20], "shrinkage": [0.1, 0.5, 0.9], "n_dimensions": [2, 4, 8]}
    drawn = tuning.candidates(grid, 4, seed=9)
    # Scores that add up: more components, less shrinkage and more dimensions are better.
    scores = lambda one: [-one["n_tx_components"] + 10 * one["shrinkage"] - one["n_dimensions"]] * 3  # noqa: E731
    monkeypatch.setattr(tuning, "_held_out_scores", lambda encoder, options, *rest: [scores(one) for one in options])
    choice = tuning.choose(RegularisedCCA(), grid, tiny_folds[0], n_candidates=4, seed=9)
    means = {
        name: {v: np.mean([scores(o)[0] for o in drawn if o[name] == v] or [np.inf]) for v in grid[name]}
        for name in grid
    }
    best = {name: min(values, key=values.get) for name, values in means.items()}
    assert choice.table["candidate"].tolist() == [tuning.in_words(one) for one in [*drawn, best]]
    assert best not in drawn and choice.parameters == min([*drawn, best], key=scores)
    every = tuning.choose(RegularisedCCA(), grid, tiny_folds[0], n_candidates=0)
    assert len(every.table) == 27 and every.parameters == {"n_tx_components": 20, "shrinkage": 0.1, "n_dimensions": 8}


def test_on_large_screens_some_compounds_decide(tiny_folds):
    fold = tiny_folds[0]
    parts = list(tuning.inner_splits(fold, 2, 0, max_groups=20))
    everyone = {name for part in parts for rows in part for name in fold.groups[rows]}
    assert len(everyone) == 20 and len(parts) == 2
    (training, held_out), (other_training, other_held_out) = parts
    np.testing.assert_array_equal(training, other_held_out)
    np.testing.assert_array_equal(held_out, other_training)
    assert not (training & held_out).any() and not ((training | held_out) & ~fold.is_training).any()
    choice = tuning.choose(RegularisedCCA(), GRID, fold, n_splits=2, max_groups=20)
    assert choice.table["n_compounds"].unique().tolist() == [20]


def test_no_more_parts_are_held_out_than_scores_are_needed(tiny_folds, monkeypatch):
    fold = tiny_folds[0]
    held_out = [fold.cp_wells[COMPOUND][rows].nunique() for _, rows in tuning.inner_splits(fold, 3, 0)]
    for enough, n_parts in ((1, 1), (held_out[0], 1), (held_out[0] + 1, 2), (10**6, 3)):
        monkeypatch.setattr(tuning, "ENOUGH_SCORES", enough)
        choice = tuning.choose(RegularisedCCA(), GRID, fold, n_splits=3)
        assert choice.table["n_compounds"].unique().tolist() == [sum(held_out[:n_parts])]


@pytest.mark.parametrize("n_splits", [2, 3])
def test_training_compounds_are_held_out_once_whole_groups_at_a_time(n_splits, tiny_folds):
    fold = tiny_folds[1]
    groups = fold.groups.copy()
    names = np.unique(groups[fold.is_training].astype(str))
    groups[np.isin(groups.astype(str), names[:6])] = "one large group"
    fold = replace(fold, groups=groups)
    parts = list(tuning.inner_splits(fold, n_splits, 0))
    assert len(parts) == n_splits
    held = np.sum([held_out for _, held_out in parts], axis=0)
    np.testing.assert_array_equal(held, fold.is_training.astype(int))
    for training, held_out in parts:
        np.testing.assert_array_equal(training | held_out, fold.is_training)
        assert not set(groups[training]) & set(groups[held_out])
        assert abs(len(set(groups[held_out])) - len(set(groups[fold.is_training])) / n_splits) < 1
    again, other = (list(tuning.inner_splits(fold, n_splits, seed)) for seed in (0, 1))
    np.testing.assert_array_equal(again[0][1], parts[0][1])
    assert not np.array_equal(other[0][1], parts[0][1])


def naive_rank_shares(encoder, fold, held_out):
    """Share of the other held-out compounds whose TX is nearer than the own one, compound by compound."""
    cp, tx = encoder.transform(fold.cp).astype(float), encoder.transform_tx(fold.tx).astype(float)
    compounds = sorted(set(fold.cp_wells.loc[held_out, COMPOUND]))

    def mean_over_doses(table, codes, rows):
        doses = table.loc[rows, DOSE].to_numpy()
        return np.mean([codes[rows][doses == dose].mean(axis=0) for dose in np.unique(doses)], axis=0)

    query = [mean_over_doses(fold.cp_wells, cp, (fold.cp_wells[COMPOUND] == one).to_numpy()) for one in compounds]
    of_tx = fold.tx_treatments[COMPOUND]
    target = [mean_over_doses(fold.tx_treatments, tx, (of_tx == one).to_numpy()) for one in compounds]
    shares = []
    for i, one in enumerate(query):
        cosine = [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in target]
        shares.append(sum(value > cosine[i] for value in cosine) / (len(compounds) - 1))
    return shares


def test_retrieval_scores_equal_a_loop_and_the_lowest_wins(choice, tiny_folds):
    fold = tiny_folds[0]
    assert list(choice.table.columns) == tuning.CHOICE_COLUMNS
    assert choice.table["candidate"].tolist() == [tuning.in_words(one) for one in tuning.candidates(GRID)]
    values = []
    for parameters in tuning.candidates(GRID):
        shares = []
        for training, held_out in tuning.inner_splits(fold, 2, 0):
            own_tx = fold.tx[fold.partner[training]]
            of_rows = {"groups": fold.groups[training], "controls": fold.controls}
            encoder = RegularisedCCA(**parameters).fit(fold.cp[training], own_tx, **of_rows)
            shares += naive_rank_shares(encoder, fold, held_out)
        values.append((np.mean(shares), np.std(shares, ddof=1) / np.sqrt(len(shares)), len(shares)))
    np.testing.assert_allclose(choice.table[["value", "standard_error", "n_compounds"]], values, rtol=1e-9)
    assert choice.table["n_compounds"].unique().tolist() == [48]
    best = int(np.argmin([value for value, _, _ in values]))
    assert choice.parameters == tuning.candidates(GRID)[best]
    assert choice.table["chosen"].tolist() == [number == best for number in range(4)]
    assert choice.parameters["n_tx_components"] == 20  # two components cannot tell 24 compounds apart


def test_replicate_scores_are_mean_average_precision_and_the_highest_wins(tiny_folds):
    fold = tiny_folds[0]
    choice = tuning.choose(LdaIdentity(), {"n_components": [1, 8]}, fold, score="replicates", n_splits=2)
    control = fold.cp_wells[CONTROL].to_numpy()
    values = []
    for n_components in (1, 8):
        scores = []
        for training, held_out in tuning.inner_splits(fold, 2, 0):
            encoder = LdaIdentity(n_components).fit(fold.cp[training], groups=fold.groups[training])
            wells = fold.cp_wells[held_out | control].reset_index(drop=True)
            scores += replicate_clustering(wells, encoder.transform(fold.cp[held_out | control]))[
                "replicate_map"
            ].tolist()
        values.append(np.mean(scores))
    np.testing.assert_allclose(choice.table["value"], values, rtol=1e-6)
    assert choice.parameters == {"n_components": (1, 8)[int(np.argmax(values))]} == {"n_components": 8}


def test_equal_candidates_leave_the_first_and_a_single_one_is_not_fitted(tiny_folds, monkeypatch):
    same = tuning.choose(RidgeTX(n_tx_components=4), {"n_inner_folds": [5, 5]}, tiny_folds[0])
    assert same.table["chosen"].tolist() == [True, False]
    monkeypatch.setattr(RidgeTX, "_fit", None)
    for grid in ({}, {"n_tx_components": [4]}):
        alone = tuning.choose(RidgeTX(), grid, tiny_folds[0])
        assert alone.parameters == {name: values[0] for name, values in grid.items()}
        assert alone.table["chosen"].tolist() == [True] and alone.table["value"].isna().all()


def test_where_nothing_can_be_scored_the_first_candidate_stays(tiny_folds):
    fold = tiny_folds[0]
    first = ~pd.Series(treatments(fold.cp_wells)).duplicated().to_numpy()
    single = replace(fold, is_training=fold.is_training & first)  # one well a treatment: no replicates
    choice = tuning.choose(METHODS["pca_cp"](), {"n_components": [3, 9]}, single, score="replicates")
    assert choice.parameters == {"n_components": 3}
    assert choice.table["value"].isna().all()


def test_garbage_in_test_compounds_changes_no_choice_bit_for_bit(choice, tiny_folds):
    fold = tiny_folds[0]
    rng = np.random.default_rng(3)
    cp, tx = fold.cp.copy(), fold.tx.copy()
    cp[fold.is_test] = 50 * rng.standard_cauchy(cp[fold.is_test].shape)
    tx[~fold.tx_is_training] = 50 * rng.standard_cauchy(tx[~fold.tx_is_training].shape)
    dirty = tuning.choose(RegularisedCCA(), GRID, replace(fold, cp=cp, tx=tx), n_splits=2)
    pd.testing.assert_frame_equal(dirty.table, choice.table, check_exact=True)
    assert dirty.parameters == choice.parameters


def test_ensembles_are_scored_by_one_member_and_the_encoder_stays_unfitted(tiny_folds, monkeypatch):
    members = []
    fit = ContrastiveEncoder._fit_inputs
    monkeypatch.setattr(
        ContrastiveEncoder, "_fit_inputs", lambda self, *given: (members.append(self.n_members), fit(self, *given))
    )
    encoder = ContrastiveEncoder(n_members=3, max_epochs=2)
    before = clone(encoder).get_params()
    choice = tuning.choose(encoder, {"temperature": [0.3, 1.0]}, tiny_folds[0], n_splits=3)
    assert members == [1] * 6
    assert encoder.get_params() == before and not hasattr(encoder, "history_")
    assert set(choice.parameters) == {"temperature"}


@pytest.mark.parametrize(
    ("encoder", "grid", "score", "message"),
    [
        (RidgeTX(), {"depth": [1, 2]}, "retrieval", "RidgeTX has no parameter 'depth' to choose"),
        (RidgeTX(), {}, "luck", "score 'luck' is unknown: choose one of retrieval, replicates"),
        (LdaIdentity(), {}, "retrieval", "LdaIdentity gives TX profiles no codes; choose by replicates"),
    ],
)
def test_what_cannot_be_chosen_is_said_in_one_line(encoder, grid, score, message, tiny_folds):
    with pytest.raises(ScreenError, match=message) as error:
        tuning.choose(encoder, grid, tiny_folds[0], score=score)
    assert "\n" not in str(error.value)
