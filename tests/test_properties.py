"""What holds for any input: splits, derangements, metrics. Examples are the same in every run."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.extra import numpy as hnp

from cpx_utils import metrics, splits
from cpx_utils.profiles import COMPOUND, ScreenError, compound_groups, nominal_dose

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "cpx-hypothesis")  # what it keeps stays out of the checkout


def examples(n):
    """Settings of `n` examples that depend on no clock, no chance and no earlier run."""
    return settings(
        max_examples=n, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


@st.composite
def compound_tables(draw, least=2):
    """Compounds of which some share an InChIKey block, some have none, and some share MoAs."""
    n = draw(st.integers(least, 40))
    blocks = draw(st.lists(st.sampled_from(["", *(f"BLOCK{i:02d}" for i in range(12))]), min_size=n, max_size=n))
    moas = draw(st.lists(st.lists(st.sampled_from("abcdef"), max_size=2, unique=True), min_size=n, max_size=n))
    names = [f"compound {i}" for i in range(n)]
    return pd.DataFrame({COMPOUND: names, "InChIKey14": blocks, "SMILES": "", "MoA": pd.Series(moas, dtype=object)})


@examples(60)
@given(compound_tables(), st.integers(2, 6), st.integers(0, 2**40), st.sampled_from(["random", "moa"]))
def test_folds_hold_every_compound_once_and_part_nothing(compounds, n_folds, seed, split):
    groups = compound_groups(compounds)
    try:
        folds = splits.compound_folds(compounds, n_folds=n_folds, seed=seed, split=split)
    except ScreenError as error:
        assert "\n" not in str(error) and ("separable groups" in str(error) or "mechanisms of action" in str(error))
        return
    assert sorted(folds[COMPOUND]) == sorted(compounds[COMPOUND]) and set(folds["fold"]) == set(range(n_folds))
    splits.require_apart(folds, compounds)
    assert folds["fold"].groupby(folds[COMPOUND].map(groups)).nunique().eq(1).all()
    if split == "moa":
        sides = folds.merge(compounds).explode("MoA").dropna(subset="MoA")
        assert sides.groupby("MoA")["fold"].nunique().eq(1).all()


@examples(60)
@given(compound_tables(least=6), st.integers(0, 10**6), st.data())
def test_a_compound_moved_away_from_its_group_is_refused(compounds, seed, data):
    groups = compound_groups(compounds)
    company = groups[groups.duplicated(keep=False)]
    if groups.nunique() < 3 or company.empty:
        return
    folds = splits.compound_folds(compounds, n_folds=3, seed=seed)
    moved = data.draw(st.sampled_from(list(company.index)))
    row = folds[COMPOUND] == moved
    spoilt = folds.assign(fold=folds["fold"].where(~row, (folds["fold"] + data.draw(st.integers(1, 2))) % 3))
    with pytest.raises(ScreenError, match=f"compounds of the group '{groups[moved]}'"):
        splits.require_apart(spoilt, compounds)


@examples(100)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([np.nan, 0.1, 1, 10])), min_size=2, max_size=40),
       st.integers(0, 2**32))  # fmt: skip
def test_deranged_rows_give_a_compound_one_other_and_replicates_the_same_dose(rows, seed):
    compounds, doses = np.array([f"c{name}" for name, _ in rows]), np.array([dose for _, dose in rows])
    if len(set(compounds)) < 2:
        return
    given_rows = splits.deranged_rows(compounds, doses, np.random.default_rng(seed))
    table = pd.DataFrame({"own": compounds, "dose": pd.Series(doses).fillna(-1), "given": compounds[given_rows],
                          "given_dose": pd.Series(doses[given_rows]).fillna(-1)})  # fmt: skip
    assert (table["own"] != table["given"]).all()
    partners = table.groupby("own")["given"].agg(["nunique", "first"])
    assert (partners["nunique"] == 1).all() and partners["first"].is_unique
    assert (table.groupby(["own", "dose"])["given_dose"].nunique() == 1).all()


SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, width=32))


def labelled(draw, labels):
    n = draw(st.integers(1, 25))
    given_labels = draw(st.lists(st.sampled_from(labels), min_size=n, max_size=n))
    return np.array(given_labels), np.array(draw(st.lists(SCORES, min_size=n, max_size=n)))


@examples(150)
@given(st.data())
def test_areas_under_curves_equal_counting(data):
    labels, scores = labelled(data.draw, [0.0, 1.0, np.nan])
    active, inactive = scores[labels == 1], scores[labels == 0]
    pairs = [(a > b) + (a == b) / 2 for a in active for b in inactive]
    expected = np.mean(pairs) if pairs else np.nan
    assert metrics.roc_auc(labels[:, None], scores[:, None])[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    known = ~np.isnan(labels)
    at = [labels[known][scores[known] >= score].mean() for score in active]
    expected = np.mean(at) if pairs else np.nan
    assert metrics.pr_auc(labels[:, None], scores[:, None])[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@examples(150)
@given(st.data())
def test_average_precision_equals_counting(data):
    positive, similarity = labelled(data.draw, [False, True])
    candidate = np.array(data.draw(st.lists(st.booleans(), min_size=len(positive), max_size=len(positive))))
    kept, right = similarity[candidate], positive[candidate]
    at = [right[kept >= score].mean() for score in kept[right]]
    expected = np.mean(at) if at else np.nan
    found = metrics.average_precision(similarity[None], positive[None], candidate[None])
    assert found[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@examples(80)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.integers(-2, 2)), st.data())
def test_retrieval_ranks_are_counted_and_lie_within_the_candidates(query, data):
    target = data.draw(hnp.arrays(np.float64, query.shape, elements=st.integers(-2, 2)))
    similarity = metrics.cosine_similarity(query, target)
    rows = zip(similarity, np.diagonal(similarity), strict=True)
    expected = [(row > mine).sum() + np.ceil(((row == mine).sum() - 1) / 2) for row, mine in rows]
    ranks = metrics.retrieval_rank(query, target)
    assert ranks.tolist() == expected and (ranks < len(query)).all()


@examples(80)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_a_nominal_dose_is_near_and_stays(doses):
    doses = np.array([np.nan if dose is None else dose for dose in doses])
    nominal = nominal_dose(doses)
    np.testing.assert_allclose(nominal, doses, rtol=0.0051, atol=1e-300)
    np.testing.assert_allclose(nominal_dose(nominal), nominal, rtol=1e-12)
