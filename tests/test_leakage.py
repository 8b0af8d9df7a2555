"""Nothing of a test compound is known in training, and planted leaks are caught.

Two guards. `splits.require_apart` works in every run, before anything is fitted. The perturbation compares all that is
fitted for a fold with what is fitted after its test compounds got other profiles, and all compounds other MoAs: nothing
may differ.
"""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import crossfit, profiles, splits
from cpx_utils.encoders import METHODS
from cpx_utils.preprocessing import FeaturePreparation
from cpx_utils.profiles import COMPOUND, ScreenError, feature_columns

FOLD = 1


def fitted(tables):
    """All arrays that a fold's preparation, training tables and encoders hold."""
    prepared = next(fold for fold in crossfit.prepare_folds(*tables) if fold.fold == FOLD)
    training = prepared.is_paired_training
    arrays = {name: getattr(prepared.preparation, name) for name in ("median_", "mean_", "scale_")}
    arrays |= {"features": np.array(prepared.preparation.features_), "groups": prepared.groups[training].astype(str)}
    arrays |= {"CP": prepared.cp[training], "TX": prepared.tx[prepared.tx_is_training]}
    for method in ("lda_identity", "ridge_tx"):
        encoder = crossfit.fit_encoder(METHODS[method](), prepared)
        arrays |= {f"{method} {name}": values for name, values in encoder._arrays().items()}
    return arrays


def what_leaks(tables):
    """Names of what is fitted differently after the test compounds' profiles and all compounds' MoAs changed."""
    cp, tx, compounds, folds = tables
    rng = np.random.default_rng(5)
    test = folds.loc[folds["fold"] == FOLD, COMPOUND]
    others = []
    for table in (cp, tx):
        table, rows = table.copy(), table[COMPOUND].isin(test).to_numpy()
        names = feature_columns(table)
        table.loc[rows, names] = rng.normal(2, 7, (rows.sum(), len(names))).astype(np.float32)
        others.append(table)
    turned = compounds.assign(MoA=np.roll(compounds["MoA"].to_numpy(), 7))
    first, second = fitted(tables), fitted((*others, turned, folds))
    return [name for name in first if not np.array_equal(first[name], second[name])]


def test_the_study_as_it_is_passes(tiny_tables):
    assert what_leaks(tiny_tables) == []


def test_a_scaler_fitted_on_everything_is_caught(monkeypatch, tiny_tables):
    whole = FeaturePreparation.fit

    def fit_on_all(self, wells, y=None):
        return whole(self, current[0][wells.columns] if wells.columns[0] in current[0] else wells)

    monkeypatch.setattr(FeaturePreparation, "fit", fit_on_all)
    current = [tiny_tables[0]]
    before = fitted(tiny_tables)
    spoilt = tiny_tables[0].copy()
    test = tiny_tables[3].loc[tiny_tables[3]["fold"] == FOLD, COMPOUND]
    spoilt.loc[spoilt[COMPOUND].isin(test), feature_columns(spoilt)] *= 3
    current[0] = spoilt
    assert not np.array_equal(before["CP"], fitted((spoilt, *tiny_tables[1:]))["CP"])


def test_mechanisms_as_the_classes_to_learn_are_caught(monkeypatch, tiny_tables):
    by_moa = lambda compounds: compounds.set_index(COMPOUND)["MoA"].str[0]  # noqa: E731
    monkeypatch.setattr(crossfit, "compound_groups", by_moa)
    assert {"groups", "lda_identity projection_"} <= set(what_leaks(tiny_tables))


def test_dose_variants_that_straddle_the_split_are_caught(tiny_tables):
    """Some screens give each dose of a compound an id of its own, with the same InChIKey."""
    cp, tx, compounds, _ = (table.copy() for table in tiny_tables)
    parts = []
    for name, doses in cp[~cp[profiles.CONTROL]].groupby(COMPOUND)[profiles.DOSE]:
        for number, dose in enumerate(sorted(doses.unique())):
            for table in (cp, tx):
                table.loc[(table[COMPOUND] == name) & (table[profiles.DOSE] == dose), COMPOUND] = f"{name}-{number}"
            parts.append(compounds[compounds[COMPOUND] == name].assign(**{COMPOUND: f"{name}-{number}"}))
    compounds = pd.concat(parts, ignore_index=True)
    sound = splits.compound_folds(compounds, n_folds=3)
    assert len(list(crossfit.prepare_folds(cp, tx, compounds, sound))) == 3
    parted = splits.compound_folds(compounds.assign(InChIKey14=""), n_folds=3)
    with pytest.raises(ScreenError, match=r"the random split \(repeat 0\) parts compounds of the group") as caught:
        next(crossfit.prepare_folds(cp, tx, compounds, parted))
    assert "\n" not in str(caught.value) and str(caught.value).count("(fold ") == 2


def test_a_compound_in_two_folds_and_a_mechanism_on_both_sides_are_caught(tiny_tables):
    _, _, compounds, folds = tiny_tables
    first = folds.iloc[:1]
    twice = pd.concat([folds, first.assign(fold=(first["fold"] + 1) % 3)], ignore_index=True)
    with pytest.raises(ScreenError, match=f"parts compounds of the group '{first[COMPOUND].iloc[0]}'"):
        splits.require_apart(twice, compounds.assign(InChIKey14=""))
    splits.require_apart(splits.compound_folds(compounds, n_folds=3, split="moa"), compounds)
    with pytest.raises(ScreenError, match=r"the moa split .* parts compounds of the MoA 'mechanism"):
        splits.require_apart(folds.assign(split="moa"), compounds)
