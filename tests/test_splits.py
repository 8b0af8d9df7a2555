"""Splits that no compound group crosses; derangements without fixed points."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import splits
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, ScreenError


def compound_table(n=90):
    rng = np.random.default_rng(0)
    moas = [[f"moa{i % 20}"] if i % 5 else [] for i in range(n)]
    moas[1] = ["moa1", "moa2"]
    rings = ["c1ccccc1", "c1ccncc1", "C1CCNCC1", "c1ccc2ccccc2c1"]
    smiles = [rings[i % 4] + "C" * int(rng.integers(1, 9)) if i % 6 else "CCO" + "C" * (i % 7) for i in range(n)]
    smiles[7] = "not a molecule"
    names = [f"c{i:03d}" for i in range(n)]
    keys = [f"key{i // 2}" for i in range(n)]
    return pd.DataFrame({COMPOUND: names, "InChIKey14": keys, "SMILES": smiles, "MoA": moas})


@pytest.mark.parametrize("split", splits.SPLITS)
def test_folds_cover_every_compound_once_a_repeat_and_part_no_group(split):
    table = compound_table()
    folds = splits.compound_folds(table, n_folds=3, n_repeats=2, seed=1, split=split)
    for _, repeat in folds.groupby("repeat"):
        assert sorted(repeat[COMPOUND]) == sorted(table[COMPOUND]) and set(repeat["fold"]) == {0, 1, 2}
        assert (repeat.merge(table, on=COMPOUND).groupby("InChIKey14")["fold"].nunique() == 1).all()
    again = splits.compound_folds(table, n_folds=3, n_repeats=2, seed=1, split=split)
    pd.testing.assert_frame_equal(folds, again)


def test_random_folds_are_balanced_and_repeats_and_seeds_differ():
    table = compound_table().assign(InChIKey14="")
    folds = splits.compound_folds(table, n_folds=4, n_repeats=2, seed=0)
    sizes = folds.groupby(["repeat", "fold"]).size()
    assert sizes.max() - sizes.min() <= 1
    first, second = (folds[folds["repeat"] == repeat]["fold"].to_numpy() for repeat in (0, 1))
    other = splits.compound_folds(table, n_folds=4, seed=1)["fold"].to_numpy()
    assert (first != second).mean() > 0.5 < (first != other).mean()
    unit = np.array([0] * 5 + [1] * 3 + [2] * 3 + [3, 4, 5, 6])  # large units are placed first, small ones even out
    drawn = [splits._balanced_folds(unit, 3, np.random.default_rng(seed)) for seed in range(30)]
    assert all(np.bincount(fold).tolist() == [5, 5, 5] for fold in drawn)
    assert {fold[0] for fold in drawn} == {0, 1, 2}


def test_scaffold_split_keeps_scaffolds_together_but_spreads_acyclic_compounds():
    smiles = ["c1ccccc1C", "c1ccccc1CC", "c1ccncc1C", "c1ccncc1CCC", *["CC" + "C" * i + "O" for i in range(8)]]
    table = pd.DataFrame({COMPOUND: [f"c{i}" for i in range(12)], "SMILES": smiles, "InChIKey14": ""})
    fold = splits.compound_folds(table, n_folds=3, seed=0, split="scaffold")["fold"].to_numpy()
    assert fold[0] == fold[1] and fold[2] == fold[3]
    assert len(set(fold[4:])) == 3 and np.bincount(fold).tolist() == [4, 4, 4]
    # Compounds are linked through others: a and b share a group, b and c a scaffold.
    smiles = ["CCO", "c1ccncc1C", "c1ccncc1CC", None]
    chain = pd.DataFrame({COMPOUND: list("abcd"), "InChIKey14": list("gghi"), "SMILES": smiles})
    fold = splits.compound_folds(chain, n_folds=2, split="scaffold")["fold"]
    assert fold.tolist() in ([0, 0, 0, 1], [1, 1, 1, 0])


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"SMILES": ""}, {"split": "scaffold"}, "split 'scaffold' needs SMILES, and this screen has none"),
        ({"MoA": [[]] * 90}, {"split": "moa"}, "split 'moa' needs mechanisms of action, and this screen has none"),
        (
            {"MoA": [["one"]] * 90},
            {"split": "moa"},
            "1 separable groups of compounds but n_folds is 3: ask for at most",
        ),
        ({}, {"n_folds": 1, "n_repeats": 3}, "n_folds is 1 and n_repeats 3: at least 2 folds and 1 repeat are needed"),
    ],
)
def test_impossible_splits_are_refused_in_one_line(change, arguments, message):
    table = compound_table().assign(**change)
    with pytest.raises(ScreenError, match=message) as caught:
        splits.compound_folds(table, **{"n_folds": 3, **arguments})
    assert "\n" not in str(caught.value)


def test_kinds_of_split_stand_one_after_the_other_and_impossible_ones_are_left_out(tiny_screen):
    compounds = tiny_screen.compounds
    folds, left_out = splits.folds_of_kinds(compounds, ["scaffold", "random", "moa"], n_folds=3, n_repeats=2)
    assert left_out == {} and list(dict.fromkeys(folds["split"])) == ["scaffold", "random", "moa"]
    assert folds.groupby("split")["repeat"].nunique().to_dict() == {"scaffold": 2, "random": 1, "moa": 1}
    bare = compounds.assign(SMILES="")
    folds, left_out = splits.folds_of_kinds(bare, ["random", "scaffold"], n_folds=3, n_repeats=1)
    assert set(folds["split"]) == {"random"} and "needs SMILES" in left_out["scaffold"]
    with pytest.raises(ScreenError, match="needs SMILES"):
        splits.folds_of_kinds(bare, ["scaffold", "random"], n_folds=3, n_repeats=1)
    for wrong in ([], ["random", "random"], ["random", "time"]):
        with pytest.raises(ScreenError, match="name one or more of random, scaffold, moa, each once"):
            splits.folds_of_kinds(bare, wrong, n_folds=3, n_repeats=1)


def test_derangements_have_no_fixed_point_and_are_equally_likely():
    rng = np.random.default_rng(0)
    counts: dict[tuple, int] = {}
    for _ in range(1800):
        partner = splits._deranged(np.zeros(4), rng)
        assert sorted(partner) == [0, 1, 2, 3] and (partner != np.arange(4)).all()
        counts[tuple(partner)] = counts.get(tuple(partner), 0) + 1
    assert len(counts) == 9  # all derangements of four
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 26.1  # chi-square, 8 df, p = 0.001
    with pytest.raises(ScreenError, match="1 compound group cannot be deranged: at least two are needed"):
        splits.deranged_rows(np.array(["a", "a"]), None, rng)


def test_groups_are_deranged_within_their_stratum_and_lonely_ones_with_the_smallest_other():
    strata = np.array(["x", "x", "x", "x", "y", "y", "y", "u", "v"])
    met = set()
    for seed in range(40):
        partner = splits._deranged(strata, np.random.default_rng(seed))
        assert set(partner[:4]) == {0, 1, 2, 3} and set(partner[4:7]) == {4, 5, 6}
        assert partner[7:].tolist() == [8, 7]  # two strata of one group each
        partner = splits._deranged(strata[:8], np.random.default_rng(seed))
        assert set(partner[:4]) == {0, 1, 2, 3} and (partner != np.arange(8)).all()
        met.add(int(partner[7]))
    assert met == {4, 5, 6}


def test_deranged_rows_keep_replicates_together_and_match_doses():
    rng = np.random.default_rng(0)
    shuffle = rng.permutation(60)
    compounds = np.repeat([f"c{i}" for i in range(10)], 6)[shuffle]
    doses = np.tile([1.0, 1.0, 1.0, 10.0, 10.0, 10.0], 10)[shuffle]
    out = splits.deranged_rows(compounds, doses, rng)
    assert (compounds[out] != compounds).all() and (doses[out] == doses).all() and sorted(out) == list(range(60))
    assert (pd.Series(compounds[out]).groupby(compounds).nunique() == 1).all()


def test_plates_that_share_a_treated_compound_are_one_map():
    plates = np.array(["P1", "P1", "P2", "P2", "P3", "P3", "P4", "P4", "P5"])
    compounds = np.array(["a", "DMSO", "a", "b", "b", "DMSO", "c", "DMSO", "DMSO"])
    maps = splits.plate_maps(plates, compounds, compounds != "DMSO")
    same = maps[:, None] == maps
    expected = np.array(["x"] * 6 + ["y", "y", "z"])  # P1 and P3 by way of b on P2; controls link nothing
    np.testing.assert_array_equal(same, expected[:, None] == expected)
    for one in (np.repeat("", 9), np.tile(["P1", "P2", "P3"], 3)):  # no plates; every compound on all of them
        spread = np.repeat(["a", "b", "c"], 3)
        assert len(set(splits.plate_maps(one, spread, np.ones(9, dtype=bool)))) == 1


def test_profiles_that_tell_their_plate_map_are_found_out():
    rng = np.random.default_rng(0)
    wells = pd.DataFrame(rng.normal(size=(300, 20))).add_prefix("Cells_f")
    number = np.arange(300)
    head = pd.DataFrame({PLATE: [f"P{one % 6}" for one in number], WELL: "", COMPOUND: [f"c{one}" for one in number],
                         DOSE: 1.0, CONTROL: False})  # fmt: skip
    share, chance = splits.same_map_share(pd.concat([head, wells], axis=1))
    assert chance == pytest.approx(49 / 299) and abs(share - chance) < 0.08
    told = pd.concat([head, wells + 5 * rng.normal(size=(6, 20))[number % 6]], axis=1)
    assert splits.same_map_share(told)[0] > 0.95
    # Wells of one's own compound don't count, and there may be no other.
    assert splits.same_map_share(told.assign(**{COMPOUND: head[PLATE]}))[0] == 0.0
    assert np.isnan(splits.same_map_share(told.assign(**{COMPOUND: "one"}))).all()


def test_rows_are_deranged_within_maps_also_where_a_compound_has_doses_of_its_own():
    compounds = np.repeat([f"c{i}" for i in range(9)], 2)
    maps = np.repeat([0, 0, 0, 0, 1, 1, 1, 1, 2], 2)  # c8 is alone on its map, and joins the smallest other
    doses = np.tile([1.0, 10.0], 9)
    doses[[0, 8]] = 3.0  # of c0 and c4, on either map
    for seed in range(20):
        out = splits.deranged_rows(compounds, doses, np.random.default_rng(seed), maps)
        moved = maps[out] != maps
        assert (compounds[out] != compounds).all() and len(set(compounds[out])) == 9
        assert moved[-2:].all() and moved.sum() == 4 and (pd.Series(maps[out]).groupby(compounds).nunique() == 1).all()
        assert (np.sort(doses[out].reshape(-1, 2)) == doses[out].reshape(-1, 2)).all()


@pytest.mark.parametrize(
    ("compounds", "doses", "expected"),
    [
        ("aaaab", [1.0, 1.0, 3.0, 10.0, np.nan], [4, 4, 4, 4, 0]),  # fewer replicates are used again
        ("aabb", None, [2, 3, 0, 1]),
        ("aaabb", [1.0, 3.0, 10.0, 5.0, 2.0], [4, 3, 3, 1, 0]),  # the nearest dose rank
        ("aabbb", [2.0, np.nan, np.nan, 0.5, np.nan], [3, 2, 1, 0, 1]),  # missing doses are one, below all others
        ("aaaabb", None, [4, 5, 4, 5, 0, 1]),
    ],
)
def test_deranged_rows_of_two_compounds(compounds, doses, expected):
    doses = None if doses is None else np.array(doses)
    assert splits.deranged_rows(np.array(list(compounds)), doses, np.random.default_rng(0)).tolist() == expected
