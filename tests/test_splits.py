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


def refusal(work, *arguments, **options):
    with pytest.raises(ScreenError) as error:
        work(*arguments, **options)
    return str(error.value)


def test_refusals_say_what_was_asked_for_and_what_would_do():
    table = compound_table().head(4).assign(MoA=[["a"], ["a"], ["b"], None])
    folds = splits.compound_folds
    assert refusal(folds, table, n_folds=2, split="luck") == (
        "split 'luck' is unknown: choose one of random, scaffold, moa"
    )
    few = "n_folds is 1 and n_repeats 3: at least 2 folds and 1 repeat are needed"
    assert refusal(folds, table, n_folds=1, n_repeats=3) == few
    assert refusal(folds, table, n_folds=2, n_repeats=0).startswith("n_folds is 2 and n_repeats 0: ")
    assert refusal(folds, table, n_folds=4, split="moa") == (
        "split 'moa' has 3 separable groups of compounds but n_folds is 4: ask for at most 3 folds or another split"
    )
    assert set(folds(table, n_folds=3, split="moa")["fold"]) == {0, 1, 2}
    assert "has 0 separable groups" in refusal(folds, table.iloc[:0], n_folds=2)
    named = "groups must name one group for every compound of the compounds table"
    for groups in (np.array(["x", "y"]), np.array(["x", "y", "z", None], dtype=object), pd.Series({"c000": "x"})):
        assert refusal(folds, table, groups, n_folds=2) == named
    no_smiles = "split 'scaffold' needs SMILES, and this screen has none: use split 'random'"
    for bare in (table.drop(columns="SMILES"), table.assign(SMILES=""), table.assign(SMILES=np.nan)):
        assert refusal(folds, bare, n_folds=2, split="scaffold") == no_smiles
    no_moa = "split 'moa' needs mechanisms of action, and this screen has none: use split 'random'"
    for bare in (table.drop(columns="MoA"), table.assign(MoA=[[]] * 4), table.assign(MoA=[None] * 4)):
        assert refusal(folds, bare, n_folds=2, split="moa") == no_moa
    assert refusal(splits.folds_of_kinds, table, None, ["luck", "moa"], n_folds=2, n_repeats=1) == (
        "split_kinds is ['luck', 'moa']: name one or more of random, scaffold, moa, each once"
    )
    one = "1 compound group cannot be deranged: at least two are needed"
    assert refusal(splits.derange_groups, np.array(["a", "a"]), np.random.default_rng(0)) == one


def test_groups_come_by_row_or_by_name_and_join_what_scaffolds_part():
    table = compound_table(12)
    by_row = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    by_name = pd.Series(by_row, index=table[COMPOUND]).sample(frac=1, random_state=0)
    expected = splits.compound_folds(table, by_row, n_folds=3, seed=2)
    pd.testing.assert_frame_equal(splits.compound_folds(table, by_name, n_folds=3, seed=2), expected)
    assert (expected["split"] == "random").all() and (expected["repeat"] == 0).all()
    assert expected.index.tolist() == list(range(12))
    # A group and a scaffold of the same name are not the same.
    pair = pd.DataFrame({COMPOUND: ["a", "b", "c"], "SMILES": ["c1ccccc1C", "CCO", "CCN"]})
    folds = splits.compound_folds(pair, np.array(["g", "c1ccccc1", "h"]), n_folds=3, split="scaffold")
    assert sorted(folds["fold"]) == [0, 1, 2]
    # Compounds are linked through others: a-b share a group, b-c a scaffold.
    chain = pd.DataFrame({COMPOUND: list("abcd"), "SMILES": ["CCO", "c1ccncc1C", "c1ccncc1CC", "CCCO"]})
    unreadable = pd.DataFrame({COMPOUND: list("abc"), "SMILES": ["no", "molecule", "c1ccncc1C"]})
    folds = splits.compound_folds(unreadable, n_folds=3, split="scaffold")["fold"]
    assert sorted(folds) == [0, 1, 2]
    groups = np.array(["g", "g", "h", "i"])
    for last in ("CCCO", None, np.nan):  # a compound without a structure is a scaffold of its own
        chain.loc[3, "SMILES"] = last
        folds = splits.compound_folds(chain, groups, n_folds=2, split="scaffold")["fold"]
        assert folds.tolist() in ([0, 0, 0, 1], [1, 1, 1, 0])


def test_repeats_and_seeds_draw_anew():
    table = compound_table(40)
    one = splits.compound_folds(table, n_folds=4, n_repeats=3, seed=5)
    assert one["repeat"].tolist() == [0] * 40 + [1] * 40 + [2] * 40
    drawn = one["fold"].to_numpy().reshape(3, 40)
    assert len({tuple(row) for row in drawn}) == 3
    first = splits.compound_folds(table, n_folds=4, seed=5)["fold"]
    assert (first == drawn[0]).all()
    assert (
        splits.compound_folds(table, n_folds=4)["fold"] == splits.compound_folds(table, n_folds=4, seed=0)["fold"]
    ).all()
    assert (splits.compound_folds(table, n_folds=4, seed=6)["fold"] != first).any()
    several, _ = splits.folds_of_kinds(table, None, ["random"], n_folds=4, n_repeats=3, seed=5)
    pd.testing.assert_frame_equal(several, one)
    by_default, _ = splits.folds_of_kinds(table, None, ["random"], n_folds=4, n_repeats=1)
    assert (by_default["fold"] == splits.compound_folds(table, n_folds=4)["fold"]).all()


def test_a_kind_that_is_left_out_says_its_own_reason():
    table = compound_table(12).assign(SMILES="")
    groups = np.arange(12) // 2
    folds, left_out = splits.folds_of_kinds(
        table, groups, ["random", "scaffold", "moa"], n_folds=3, n_repeats=2, seed=1
    )
    assert left_out == {"scaffold": "split 'scaffold' needs SMILES, and this screen has none: use split 'random'"}
    assert folds.index.tolist() == list(range(36)) and list(dict.fromkeys(folds["split"])) == ["random", "moa"]
    assert (folds.groupby(["split", "repeat", np.tile(groups, 3)])["fold"].nunique() == 1).all()


def test_large_units_are_placed_first_and_small_ones_even_out():
    unit = np.array([0] * 5 + [1] * 3 + [2] * 3 + [3, 4, 5, 6])
    first = set()
    for seed in range(30):
        folds = splits._balanced_folds(unit, 3, np.random.default_rng(seed))
        assert np.bincount(folds).tolist() == [5, 5, 5]
        assert all(len(set(folds[unit == one])) == 1 for one in range(7))
        first.add(folds[0])
    assert first == {0, 1, 2}  # no fold is always the one with the large unit


def test_rdkit_complains_of_smiles_again_afterwards(capfd):
    from rdkit import Chem

    table = compound_table(12)  # one of its SMILES is "not a molecule"
    splits.compound_folds(table, n_folds=3, split="scaffold")
    assert capfd.readouterr().err == ""
    Chem.MolFromSmiles("nothing")
    assert "SMILES Parse Error" in capfd.readouterr().err


def test_lonely_groups_are_deranged_among_themselves_or_with_the_smallest_stratum():
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    #                  the first row of group 0 says where it stands
    strata = np.array(["x", "q", "x", "x", "x", "y", "y", "y", "u", "v"])
    for seed in range(40):
        partner = splits.derange_groups(groups, np.random.default_rng(seed), strata)
        assert set(partner[[0, 1, 2, 3]]) == {0, 1, 2, 3} and set(partner[[4, 5, 6]]) == {4, 5, 6}
        assert partner[[7, 8]].tolist() == [8, 7]  # two strata of one group each
    met = set()
    for seed in range(40):
        partner = splits.derange_groups(groups[:-1], np.random.default_rng(seed), strata[:-1])
        assert set(partner[[0, 1, 2, 3]]) == {0, 1, 2, 3} and (partner != np.arange(8)).all()
        met.add(int(partner[7]))
    assert met == {4, 5, 6}  # the smaller of the two others
    for seed in range(20):
        partner = splits.derange_groups(np.arange(6), np.random.default_rng(seed), np.array(list("xxxyyz")))
        assert set(partner[:3]) == {0, 1, 2} and set(partner[3:]) == {3, 4, 5}
    every = {tuple(splits.derange_groups(groups, np.random.default_rng(seed))) for seed in range(60)}
    assert any(partner[7] < 4 for partner in every)  # without strata groups meet across them


def test_doses_are_matched_by_set_then_by_rank():
    rng = np.random.default_rng(0)
    compounds = np.repeat(list("abcdef"), [3, 3, 3, 2, 2, 2])
    doses = np.array([1, 3, 10] * 3 + [1, 3] * 3, dtype=float)
    for _ in range(20):
        out = splits.deranged_rows(compounds, doses, rng)
        assert (doses[out] == doses).all() and (compounds[out] != compounds).all()
        assert sorted(out) == list(range(15))
    # Doses that differ by rounding only are the same set; a compound with fewer doses gives its highest to the rest.
    out = splits.deranged_rows(np.array(list("aabb")), np.array([1, 1 / 3, 1, 0.3333333333]), rng)
    assert out.tolist() == [2, 3, 0, 1]
    out = splits.deranged_rows(np.array(list("aaabb")), np.array([1.0, 3.0, 10.0, 5.0, 2.0]), rng)
    assert out.tolist() == [4, 3, 3, 1, 0]
    # A missing dose ranks below all others, and all missing ones are one dose.
    out = splits.deranged_rows(np.array(list("aabbb")), np.array([2.0, np.nan, np.nan, 0.5, np.nan]), rng)
    assert out.tolist() == [3, 2, 1, 0, 1]
    out = splits.deranged_rows(np.array(list("aabb")), np.array([0, None, None, 0], dtype=object), rng)
    assert out.tolist() == [3, 2, 1, 0]  # missing isn't zero
    out = splits.deranged_rows(np.array(list("aaaabb")), None, rng)
    assert out.tolist() == [4, 5, 4, 5, 0, 1]


def test_halves_and_shuffled_rows_are_permutations_by_their_seed():
    for n in (2, 3, 8):
        first = splits.halves(np.arange(n), seed=1)
        chosen = np.random.default_rng(1).permutation(n)[: n // 2]
        assert first.dtype == bool and set(np.flatnonzero(first)) == set(chosen)
    assert (splits.shuffled_rows(9, np.random.default_rng(2)) == np.random.default_rng(2).permutation(9)).all()
