"""Planted leaks are caught: a copy of the code with the leak in it, and the guard that fails on it.

Two guards. The study's own run in every run, before anything is fitted (`splits.require_apart`, and what
`crossfit.prepare_folds` asks of groups and means). The perturbation compares all that is fitted for a fold with what is
fitted after its test compounds got other profiles, and all compounds other MoAs: nothing may differ.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cpx_utils import bioactivity, claims, crossfit, profiles, splits
from cpx_utils.encoders import METHODS
from cpx_utils.profiles import COMPOUND, ScreenError, compound_groups, feature_columns

FOLD = 1
FITTED = ("lda_identity", "ridge_tx")
PREPARE = "preparation = FeaturePreparation(**parameters).fit(cp.loc[seen, feature_columns(cp)])"
BEFORE_SPLIT = "    cp_fold = cp[COMPOUND].map(fold_of)\n"


@pytest.fixture
def leaky(tmp_path):
    """A function that imports a copy of a module in which some of the source is another."""

    def load(module, *changes):
        source = Path(module.__file__).read_text(encoding="utf-8")
        for old, new in changes:
            assert source.count(old) == 1, f"the leak no longer fits the source: {old}"
            source = source.replace(old, new)
        path = tmp_path / "leaky.py"
        path.write_text(source, encoding="utf-8")
        specification = importlib.util.spec_from_file_location("leaky", path)
        copy = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(copy)
        return copy

    return load


def fitted(module, tables):
    """All arrays that a fold's preparation, training tables and encoders hold."""
    prepared = next(one for one in module.prepare_folds(*tables) if one.fold == FOLD)
    training = prepared.is_training
    arrays = {name: getattr(prepared.preparation, name) for name in ("median_", "mean_", "scale_")}
    arrays |= {"features": np.array(prepared.preparation.features_), "groups": prepared.groups[training].astype(str)}
    arrays |= {"CP": prepared.cp[training], "TX": prepared.tx[prepared.tx_is_training]}
    for method in FITTED:
        encoder = module.fit_encoder(METHODS[method](), prepared)
        arrays |= {f"{method} {name}": values for name, values in encoder._arrays().items()}
    return arrays


def what_leaks(module, tables):
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
    one, other = fitted(module, tables), fitted(module, (*others, turned, folds))
    return [name for name in one if not np.array_equal(one[name], other[name])]


def test_the_study_as_it_is_passes_both_guards(tiny_tables):
    assert what_leaks(crossfit, tiny_tables) == []


# --- scaling and selection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["CP", "TX"])
def test_a_scaler_fitted_on_everything_is_caught_by_both(modality, leaky, tiny_tables):
    everything = {
        "CP": (PREPARE, PREPARE.replace("seen", "treated")),
        "TX": (".fit(tx.loc[tx_training, genes])", ".fit(tx[genes])"),
    }
    module = leaky(crossfit, everything[modality])
    with pytest.raises(ScreenError, match=f"^{modality} features of fold random-0-0 are not centred") as caught:
        next(module.prepare_folds(*tiny_tables))
    assert "\n" not in str(caught.value) and "test compounds took part in scaling" in str(caught.value)
    module._require_own_means = lambda *_: None
    assert modality in what_leaks(module, tiny_tables)


def test_the_means_guard_holds_on_any_fold_and_allows_what_the_transductive_regime_is_for(tiny_tables):
    folds = list(crossfit.prepare_folds(*tiny_tables, with_all=True))
    assert [fold.fold for fold in folds] == [0, 1, 2, -1]
    loose = next(crossfit.prepare_folds(*tiny_tables, regime="transductive"))
    assert np.abs(loose.cp[loose.is_training].mean(axis=0)).max() > crossfit.CENTRED


def test_features_selected_before_the_split_are_caught(leaky, tiny_tables):
    """By the perturbation alone: a run cannot tell which wells had a say in what it was never given."""
    cp, *rest = tiny_tables
    noise = np.random.default_rng(0).normal(size=(len(cp), 8)).astype(np.float32)
    twins = [f"Cells_Twin_{n}" for n in range(8)]  # near the limit of correlation: a few wells decide about them
    values = cp[feature_columns(cp)[:8]].to_numpy() + noise * np.linspace(0.1, 0.6, 8, dtype=np.float32)
    tables = (pd.concat([cp, pd.DataFrame(values, cp.index, twins)], axis=1), *rest)
    early = (
        "    everywhere = FeaturePreparation(**parameters).fit(cp.loc[treated, feature_columns(cp)]).features_\n"
        "    cp = cp[[*METADATA_COLUMNS, *everywhere]]\n"
    )
    module = leaky(crossfit, (BEFORE_SPLIT, early + BEFORE_SPLIT))
    assert what_leaks(crossfit, tables) == []
    assert "features" in what_leaks(module, tables)


# --- compounds on both sides --------------------------------------------------------------------------------


@pytest.fixture
def doses_as_compounds(tiny_tables):
    """The screen as some are published: each dose of a compound under an id of its own, with the same InChIKey."""
    cp, tx, compounds, _ = (table.copy() for table in tiny_tables)
    parts = []
    for name, doses in cp[~cp[profiles.CONTROL]].groupby(COMPOUND)[profiles.DOSE]:
        for number, dose in enumerate(sorted(doses.unique())):
            for table in (cp, tx):
                table.loc[(table[COMPOUND] == name) & (table[profiles.DOSE] == dose), COMPOUND] = f"{name}-{number}"
            parts.append(compounds[compounds[COMPOUND] == name].assign(**{COMPOUND: f"{name}-{number}"}))
    return cp, tx, pd.concat(parts, ignore_index=True)


def test_dose_variants_that_straddle_the_split_are_caught(doses_as_compounds, leaky):
    cp, tx, compounds = doses_as_compounds
    groups = compound_groups(compounds)
    sound = splits.compound_folds(compounds, groups, n_folds=3)
    assert len(list(crossfit.prepare_folds(cp, tx, compounds, sound))) == 3
    careless = leaky(splits, ("links = [_group_labels(names, groups)]", "links = [_group_labels(names, None)]"))
    parted = careless.compound_folds(compounds, groups, n_folds=3)
    with pytest.raises(ScreenError, match=r"the random split \(repeat 0\) parts compounds of the InChIKey") as caught:
        next(crossfit.prepare_folds(cp, tx, compounds, parted))
    assert "\n" not in str(caught.value) and str(caught.value).count("(fold ") == 2
    # Groups that are wrong themselves deceive whoever asks by them, such as notebook 01; the guard asks the keys.
    by_id = leaky(profiles, ('keys.where(keys != "", ids)', "ids"))
    parted = splits.compound_folds(compounds, by_id.compound_groups(compounds), n_folds=3)
    with pytest.raises(ScreenError, match="parts compounds of the InChIKey block"):
        next(crossfit.prepare_folds(cp, tx, compounds, parted))


def test_a_compound_in_two_folds_and_a_mechanism_on_both_sides_are_caught(tiny_tables, leaky):
    _, _, compounds, folds = tiny_tables
    first = folds.iloc[:1]
    twice = pd.concat([folds, first.assign(fold=(first["fold"] + 1) % 3)], ignore_index=True)
    keyless = compounds.assign(InChIKey14="")
    with pytest.raises(ScreenError, match=f"parts rows of the compound '{first[COMPOUND].iloc[0]}'"):
        splits.require_apart(twice, keyless)
    groups = compound_groups(compounds)
    held_out = splits.compound_folds(compounds, groups, n_folds=3, split="moa")
    splits.require_apart(held_out, compounds)
    careless = leaky(splits, ("links.append(_moa_sets(compounds))", "_moa_sets(compounds)"))
    with pytest.raises(ScreenError, match=r"the moa split .* parts compounds of the MoA 'mechanism"):
        splits.require_apart(careless.compound_folds(compounds, groups, n_folds=3, split="moa"), compounds)


def test_halves_to_choose_and_to_measure_tasks_keep_groups_whole(doses_as_compounds):
    _, _, compounds = doses_as_compounds
    groups = compound_groups(compounds)
    names = groups.index.to_numpy()
    first = splits.halves(names, 3, groups)
    assert pd.Series(first).groupby(groups.to_numpy()).nunique().eq(1).all() and first.mean() == 0.5
    parted = splits.halves(names, 3)
    assert pd.Series(parted).groupby(groups.to_numpy()).nunique().gt(1).any(), "without groups they would be parted"
    alone = groups.groupby(groups).head(1)  # where nobody shares a group, groups change nothing
    assert (splits.halves(alone.index, 3, alone) == splits.halves(alone.index, 3)).all()


def test_the_first_claim_chooses_and_measures_on_halves_of_whole_groups(monkeypatch):
    names = [f"c{n}" for n in range(12)]
    rows = [("random", 0, 0, 0, method, "", "ridge", name, "t", n % 2, n / 12)
            for method in ("raw_cp", "tx") for n, name in enumerate(names)]  # fmt: skip
    predictions = pd.DataFrame(rows, columns=[*profiles.KEYS, "model", "compound", "task", "label", "score"])
    groups = pd.Series({name: f"block {n // 2}" for n, name in enumerate(names)})
    drawn = []

    def spy(*arguments):
        drawn.append(splits.halves(*arguments))
        return drawn[-1]

    monkeypatch.setattr(claims, "halves", spy)
    sample = claims.resample_compounds(names, n_bootstrap=3, rng=np.random.default_rng(0), groups=groups)
    dense = bioactivity.dense_predictions(predictions)
    claims.bootstrap_tx_strong_auc(dense, sample, np.random.default_rng(0), groups=groups)
    of_name = groups[sorted(names)].to_numpy()
    assert len(drawn) >= 1 and all(pd.Series(half).groupby(of_name).nunique().eq(1).all() for half in drawn)


# --- labels -------------------------------------------------------------------------------------------------


def test_mechanisms_as_the_classes_to_learn_are_caught_by_both(leaky, tiny_tables):
    labels = ("group_of = compound_groups(compounds)", 'group_of = compounds.set_index(COMPOUND)["MoA"].str[0]')
    module = leaky(crossfit, labels)
    with pytest.raises(
        ScreenError, match=r"group 'mechanism .*' joins .* different structures .*never labels"
    ) as caught:
        next(module.prepare_folds(*tiny_tables))
    assert "\n" not in str(caught.value)
    module._require_compounds_as_groups = lambda *_: None
    assert {"groups", "lda_identity projection_"} <= set(what_leaks(module, tiny_tables))


@pytest.mark.parametrize("modality", ["cp", "tx"])
def test_mechanisms_among_the_features_are_caught(modality, leaky, tiny_tables):
    """By the perturbation: to a run, a column of labels is a feature like any other."""
    labelled = (
        f"    moa = {modality}[COMPOUND].map(compounds.set_index(COMPOUND)['MoA'].str[0])\n"
        f"    moa = pd.get_dummies(moa, prefix='Cells_MoA', dtype=np.float32)\n"
        f"    {modality} = pd.concat([{modality}, moa], axis=1)\n"
        "    group_of = compound_groups(compounds)\n"
    )
    module = leaky(crossfit, ("    group_of = compound_groups(compounds)\n", labelled))
    leaks = what_leaks(module, tiny_tables)
    assert modality.upper() in leaks and any(name.startswith("ridge_tx") for name in leaks)
