"""Splits that no compound group crosses; derangements without fixed points."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import splits
from cpx_utils.profiles import COMPOUND, ScreenError


def compound_table(n=90):
    rng = np.random.default_rng(0)
    moas = [[f"moa{i % 20}"] if i % 5 else [] for i in range(n)]
    moas[1] = ["moa1", "moa2"]
    rings = ["c1ccccc1", "c1ccncc1", "C1CCNCC1", "c1ccc2ccccc2c1"]
    smiles = [rings[i % 4] + "C" * int(rng.integers(1, 9)) if i % 6 else "CCO" + "C" * (i % 7) for i in range(n)]
    smiles[7] = "not a molecule"
    return pd.DataFrame(
        {
            COMPOUND: [f"c{i:03d}" for i in range(n)],
            "InChIKey14": [f"key{i // 2}" for i in range(n)],
            "SMILES": smiles,
            "MoA": moas,
        }
    )


@pytest.mark.parametrize("split", splits.SPLITS)
def test_folds_cover_every_compound_once_a_repeat_and_part_no_group(split):
    table = compound_table()
    groups = table.set_index(COMPOUND)["InChIKey14"]
    folds = splits.compound_folds(table, groups, n_folds=3, n_repeats=2, seed=1, split=split)
    assert list(folds.columns) == [COMPOUND, "split", "repeat", "fold"]
    for _, one in folds.groupby("repeat"):
        assert sorted(one[COMPOUND]) == sorted(table[COMPOUND])
        assert set(one["fold"]) == {0, 1, 2}
        merged = one.merge(table, on=COMPOUND)
        assert (merged.groupby("InChIKey14")["fold"].nunique() == 1).all()
    pd.testing.assert_frame_equal(
        folds, splits.compound_folds(table, groups, n_folds=3, n_repeats=2, seed=1, split=split)
    )


def test_random_folds_are_balanced_and_repeats_differ():
    table = compound_table()
    folds = splits.compound_folds(table, n_folds=4, n_repeats=2, seed=0)
    sizes = folds.groupby(["repeat", "fold"]).size()
    assert sizes.max() - sizes.min() <= 1
    first, second = (folds[folds["repeat"] == r]["fold"].to_numpy() for r in (0, 1))
    assert (first != second).mean() > 0.5


def test_moa_split_keeps_every_moa_on_one_side():
    table = compound_table()
    folds = splits.compound_folds(table, n_folds=3, seed=0, split="moa").merge(table, on=COMPOUND)
    exploded = folds.explode("MoA").dropna(subset="MoA")
    assert (exploded.groupby("MoA")["fold"].nunique() == 1).all()
    assert folds.loc[folds["MoA"].str.len() == 0, "fold"].nunique() == 3


def test_scaffold_split_keeps_scaffolds_together_but_spreads_acyclic_compounds():
    smiles = [
        "c1ccccc1C",
        "c1ccccc1CC",
        "c1ccncc1C",
        "c1ccncc1CCC",
        *["CC" + "C" * i + "O" for i in range(8)],
    ]
    table = pd.DataFrame({COMPOUND: [f"c{i}" for i in range(12)], "SMILES": smiles})
    fold = splits.compound_folds(table, n_folds=3, seed=0, split="scaffold")["fold"].to_numpy()
    assert fold[0] == fold[1] and fold[2] == fold[3]
    assert len(set(fold[4:])) == 3 and np.bincount(fold).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"split": "by_luck"}, "unknown"),
        ({"SMILES": ""}, {"split": "scaffold"}, "needs SMILES"),
        ({"MoA": [[]] * 90}, {"split": "moa"}, "needs mechanisms"),
        ({"MoA": [["one"]] * 90}, {"split": "moa"}, "1 separable groups"),
        ({}, {"n_folds": 1}, "at least 2 folds"),
    ],
)
def test_impossible_splits_are_refused_in_one_line(change, arguments, message):
    table = compound_table().assign(**change)
    with pytest.raises(ScreenError, match=message) as caught:
        splits.compound_folds(table, **{"n_folds": 3, **arguments})
    assert "\n" not in str(caught.value)


def test_derangements_have_no_fixed_point_and_are_equally_likely():
    rng = np.random.default_rng(0)
    groups = np.array(["b", "a", "d", "c", "a", "b"])
    counts: dict[tuple, int] = {}
    for _ in range(1800):
        partner = splits.derange_groups(groups, rng)
        assert sorted(partner) == [0, 1, 2, 3] and (partner != np.arange(4)).all()
        counts[tuple(partner)] = counts.get(tuple(partner), 0) + 1
    assert len(counts) == 9  # all derangements of four
    expected = 1800 / 9
    assert sum((c - expected) ** 2 / expected for c in counts.values()) < 26.1  # chi-square, 8 df, p = 0.001
    with pytest.raises(ScreenError, match="at least two"):
        splits.derange_groups(np.array(["a", "a"]), rng)


def test_derangement_stays_in_its_stratum_and_pools_lonely_ones():
    rng = np.random.default_rng(0)
    groups = np.arange(11)
    strata = np.array(["x"] * 5 + ["y"] * 5 + ["z"])
    for _ in range(50):
        partner = splits.derange_groups(groups, rng, strata)
        assert sorted(partner) == list(range(11)) and (partner != groups).all()
        whole = [s for s in ("x", "y") if (strata[partner[strata == s]] == s).all()]
        assert len(whole) >= 1  # the lonely z shares with one of the two
        assert partner[10] != 10


def test_deranged_rows_keep_replicates_together_and_match_doses():
    rng = np.random.default_rng(0)
    compounds = np.repeat([f"c{i}" for i in range(10)], 6)
    doses = np.tile([1.0, 1.0, 1.0, 10.0, 10.0, 10.0], 10)
    shuffle = rng.permutation(60)
    compounds, doses = compounds[shuffle], doses[shuffle]
    out = splits.deranged_rows(compounds, doses, rng)
    assert (compounds[out] != compounds).all()
    assert (doses[out] == doses).all()
    assert sorted(out) == list(range(60))
    donors = pd.Series(compounds[out]).groupby(compounds).nunique()
    assert (donors == 1).all()


def test_deranged_rows_take_the_nearest_dose_rank_and_reuse_replicates():
    compounds = np.array(["a"] * 4 + ["b"])
    doses = np.array([1.0, 1.0, 3.0, 10.0, np.nan])
    out = splits.deranged_rows(compounds, doses, np.random.default_rng(0))
    assert out.tolist() == [4, 4, 4, 4, 0]
    without = splits.deranged_rows(np.array(["a", "a", "b", "b"]), None, np.random.default_rng(0))
    assert without.tolist() == [2, 3, 0, 1]


def test_halves_are_equal_and_follow_the_compound_not_the_order():
    names = np.array([f"c{i}" for i in range(21)])
    first = splits.halves(names, seed=3)
    assert first.sum() == 10
    order = np.random.default_rng(0).permutation(21)
    assert (splits.halves(np.repeat(names[order], 2), seed=3) == np.repeat(first[order], 2)).all()
    assert (splits.halves(names, seed=4) != first).any()
    assert sorted(splits.shuffled_rows(9, np.random.default_rng(0))) == list(range(9))


def test_several_kinds_of_split_stand_one_after_the_other(tiny_screen):
    compounds = tiny_screen.compounds
    folds, left_out = splits.folds_of_kinds(compounds, None, ["scaffold", "random", "moa"], n_folds=3, n_repeats=2)
    assert left_out == {} and list(dict.fromkeys(folds["split"])) == ["scaffold", "random", "moa"]
    assert folds.groupby("split")["repeat"].nunique().to_dict() == {"scaffold": 2, "random": 1, "moa": 1}
    for kind, part in folds.groupby("split"):
        n_repeats = part["repeat"].nunique()
        alone = splits.compound_folds(compounds, None, n_folds=3, n_repeats=n_repeats, split=kind)
        pd.testing.assert_frame_equal(part.reset_index(drop=True), alone)


def test_a_further_kind_of_split_that_is_not_possible_is_left_out_with_its_reason(tiny_screen):
    bare = tiny_screen.compounds.assign(SMILES="")
    folds, left_out = splits.folds_of_kinds(bare, None, ["random", "scaffold"], n_folds=3, n_repeats=1)
    assert set(folds["split"]) == {"random"} and "needs SMILES" in left_out["scaffold"]
    with pytest.raises(ScreenError, match="needs SMILES"):
        splits.folds_of_kinds(bare, None, ["scaffold", "random"], n_folds=3, n_repeats=1)
    for wrong in ([], ["random", "random"], ["random", "time"]):
        with pytest.raises(ScreenError, match="name one or more of random, scaffold, moa, each once"):
            splits.folds_of_kinds(bare, None, wrong, n_folds=3, n_repeats=1)
