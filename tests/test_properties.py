"""What holds for any input: splits, derangements, metrics, and the readers of descriptions and parameters.

Examples are the same in every run, and nothing is remembered from one to the next.
"""

import json
import string
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
from cpx_utils.pipeline import EXAMPLES, Parameter, checked_value
from cpx_utils.profiles import COMPOUND, ScreenError, compound_groups, nominal_dose
from cpx_utils.user_screens import SECTIONS, examine_user_screen, read_description, read_user_screen

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "cpx-hypothesis")  # what it keeps stays out of the checkout


def examples(n):
    """Settings of `n` examples that depend on no clock, no chance and no earlier run."""
    return settings(
        max_examples=n, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


# --- splits -------------------------------------------------------------------------------------------------


@st.composite
def compound_tables(draw, least=2):
    """Compounds of which some share an InChIKey block, some have none, and some share MoAs."""
    n = draw(st.integers(least, 40))
    blocks = draw(st.lists(st.sampled_from(["", *(f"BLOCK{i:02d}" for i in range(12))]), min_size=n, max_size=n))
    moas = draw(st.lists(st.lists(st.sampled_from("abcdef"), max_size=2, unique=True), min_size=n, max_size=n))
    names = [f"compound {i}" for i in range(n)]
    return pd.DataFrame({COMPOUND: names, "InChIKey14": blocks, "SMILES": "", "MoA": pd.Series(moas, dtype=object)})


@examples(80)
@given(
    compound_tables(), st.integers(2, 6), st.integers(1, 3), st.integers(0, 2**40), st.sampled_from(["random", "moa"])
)
def test_folds_hold_every_compound_once_and_part_no_group(compounds, n_folds, n_repeats, seed, split):
    groups = compound_groups(compounds)
    options = {"n_folds": n_folds, "n_repeats": n_repeats, "seed": seed, "split": split}
    try:
        folds = splits.compound_folds(compounds, groups, **options)
    except ScreenError as error:
        assert "\n" not in str(error) and ("separable groups" in str(error) or "mechanisms of action" in str(error))
        return
    assert (folds.groupby([COMPOUND, "repeat"]).size() == 1).all() and len(folds) == n_repeats * len(compounds)
    assert folds["fold"].between(0, n_folds - 1).all()
    splits.require_apart(folds, compounds)
    assert folds.assign(group=folds[COMPOUND].map(groups)).groupby(["repeat", "group"])["fold"].nunique().eq(1).all()
    for _, one in folds.groupby("repeat"):
        assert one["fold"].nunique() == n_folds, "no test fold is empty"
        if split == "moa":
            sides = one.merge(compounds).explode("MoA").dropna(subset="MoA")
            assert sides.groupby("MoA")["fold"].nunique().eq(1).all()
    pd.testing.assert_frame_equal(folds, splits.compound_folds(compounds, groups, **options))


@examples(80)
@given(compound_tables(least=6), st.integers(0, 10**6), st.data())
def test_a_compound_moved_away_from_its_group_is_refused(compounds, seed, data):
    groups = compound_groups(compounds)
    company = groups[groups.duplicated(keep=False)]
    if groups.nunique() < 3 or company.empty:
        return
    folds = splits.compound_folds(compounds, groups, n_folds=3, seed=seed)
    moved = data.draw(st.sampled_from(list(company.index)))
    row = folds[COMPOUND] == moved
    spoilt = folds.assign(fold=folds["fold"].where(~row, (folds["fold"] + data.draw(st.integers(1, 2))) % 3))
    with pytest.raises(ScreenError, match=f"InChIKey block '{groups[moved]}'"):
        splits.require_apart(spoilt, compounds)


@examples(80)
@given(compound_tables(), st.integers(0, 2**32))
def test_halves_keep_groups_whole_and_are_as_equal_as_groups_allow(compounds, seed):
    groups = compound_groups(compounds)
    first = pd.Series(splits.halves(groups.index.to_numpy(), seed, groups), index=groups.to_numpy())
    sides = first.groupby(level=0).agg(["nunique", "first"])
    assert (sides["nunique"] == 1).all()
    assert sides["first"].sum() == groups.nunique() // 2


# --- derangements -------------------------------------------------------------------------------------------


@examples(150)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(0, 2**32), st.booleans())
def test_derangements_are_permutations_without_fixed_points(groups, seed, stratified):
    groups = np.array(groups)
    distinct = np.unique(groups)
    strata = groups % 3 if stratified else None
    if len(distinct) < 2:
        with pytest.raises(ScreenError, match="cannot be deranged"):
            splits.derange_groups(groups, np.random.default_rng(seed), strata)
        return
    partner = splits.derange_groups(groups, np.random.default_rng(seed), strata)
    assert sorted(partner) == list(range(len(distinct)))
    assert (partner != np.arange(len(distinct))).all()
    if stratified:
        size = np.bincount(distinct % 3, minlength=3)
        if (size != 1).all():  # a stratum of one must go elsewhere
            assert (distinct[partner] % 3 == distinct % 3).all()


@examples(120)
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


# --- metrics ------------------------------------------------------------------------------------------------

SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, width=32))


def labelled(draw, labels):
    n = draw(st.integers(1, 25))
    given_labels = draw(st.lists(st.sampled_from(labels), min_size=n, max_size=n))
    return np.array(given_labels), np.array(draw(st.lists(SCORES, min_size=n, max_size=n)))


@examples(200)
@given(st.data())
def test_roc_auc_is_the_share_of_pairs_in_order(data):
    labels, scores = labelled(data.draw, [0.0, 1.0, np.nan])
    active, inactive = scores[labels == 1], scores[labels == 0]
    pairs = [(a > b) + (a == b) / 2 for a in active for b in inactive]
    expected = np.mean(pairs) if pairs else np.nan
    assert metrics.roc_auc(labels, scores)[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    flipped = metrics.roc_auc(labels, -scores)[0]
    assert flipped == pytest.approx(1 - expected, abs=1e-12, nan_ok=True)


@examples(200)
@given(st.data())
def test_pr_auc_is_the_mean_precision_at_the_actives(data):
    labels, scores = labelled(data.draw, [0.0, 1.0, np.nan])
    known = ~np.isnan(labels)
    at = [labels[known][scores[known] >= score].mean() for score in scores[labels == 1]]
    expected = np.mean(at) if at and (labels == 0).any() else np.nan
    assert metrics.pr_auc(labels, scores)[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    several = metrics.pr_auc(np.column_stack([labels, labels]), np.column_stack([scores, 8 * scores]))
    assert several == pytest.approx([expected] * 2, abs=1e-12, nan_ok=True)


@examples(200)
@given(st.data())
def test_average_precision_equals_counting(data):
    positive, similarity = labelled(data.draw, [False, True])
    candidate = np.array(data.draw(st.lists(st.booleans(), min_size=len(positive), max_size=len(positive))))
    kept, right = similarity[candidate], positive[candidate]
    at = [right[kept >= score].mean() for score in kept[right]]
    expected = np.mean(at) if at else np.nan
    found = metrics.average_precision(similarity[None], positive[None], candidate[None])
    assert found[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    order = np.random.default_rng(0).permutation(len(positive))
    again = metrics.average_precision(similarity[None, order], positive[None, order], candidate[None, order])
    np.testing.assert_array_equal(found, again)
    ranked = np.where(candidate, similarity, -np.inf)[None]
    few = metrics.average_precision_of_few(ranked, np.where(right, kept, 0.0)[None], right[None])
    assert few[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@examples(100)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.integers(-2, 2)), st.data())
def test_retrieval_ranks_are_counted_and_lie_within_the_candidates(query, data):
    target = data.draw(hnp.arrays(np.float64, query.shape, elements=st.integers(-2, 2)))
    ranks = metrics.retrieval_rank(query, target)
    similarity = metrics.cosine_similarity(query, target)
    own = np.diagonal(similarity)
    expected = [
        (row > mine).sum() + np.ceil(((row == mine).sum() - 1) / 2) for row, mine in zip(similarity, own, strict=True)
    ]
    assert ranks.tolist() == expected and (ranks < len(query)).all()
    assert (np.abs(similarity) <= 1 + 1e-9).all()


@examples(100)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_a_nominal_dose_is_near_and_stays(doses):
    doses = np.array([np.nan if dose is None else dose for dose in doses])
    nominal = nominal_dose(doses)
    np.testing.assert_allclose(nominal, doses, rtol=0.0051, atol=1e-300)
    np.testing.assert_allclose(nominal_dose(nominal), nominal, rtol=1e-12)


# --- readers ------------------------------------------------------------------------------------------------

WORDS = st.one_of(st.sampled_from([*SECTIONS, "path", "name", "compound", "seeds", "grid", ""]), st.text(max_size=8))
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)


def as_toml(value) -> str:
    """A value as TOML writes it: JSON, but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(name)} = {as_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def assert_told_in_one_line(call) -> None:
    """Check that a call gives its result or a ScreenError of one line."""
    try:
        call()
    except ScreenError as error:
        assert "\n" not in str(error) and str(error)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("toml") / "screen.toml"


@pytest.mark.parametrize("read", [read_description, examine_user_screen])
@examples(100)
@given(description=st.dictionaries(WORDS, VALUES, max_size=6))
def test_any_toml_is_read_or_refused_in_one_line(read, place, description):
    lines = [f"{as_toml(name)} = {as_toml(value)}" for name, value in description.items()]
    place.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    assert_told_in_one_line(lambda: read(place))


@pytest.mark.parametrize("read", [read_description])
@examples(100)
@given(content=st.one_of(st.binary(max_size=60), st.text("[]{}='\"\n.,#0aé\t-", max_size=60).map(str.encode)))
def test_any_bytes_in_place_of_toml_are_refused_in_one_line(read, place, content):
    place.write_bytes(content)
    with pytest.raises(ScreenError) as refused:
        read(place)
    assert "\n" not in str(refused.value)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
PATHS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=30)


@examples(100)
@given(NAMES, PATHS, PATHS, st.dictionaries(st.sampled_from(SECTIONS["columns"]), PATHS, max_size=5))
def test_a_sound_description_comes_back_as_it_was_written(place, name, cp, tx, columns):
    described = {"name": name, "cp": {"path": cp}, "tx": {"path": tx}, "columns": columns}
    place.write_text("\n".join(f"{key} = {as_toml(value)}" for key, value in described.items()), encoding="utf-8")
    if len(set(columns.values())) < len(columns):
        with pytest.raises(ScreenError, match="each has its own column"):
            read_description(place)
    else:
        assert read_description(place) == described


IDS = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() and text.lower() not in {"na", "nan", "n/a", "null", "none", "<na>", "#n/a", "1.#ind"}
    and not text.startswith(("-nan", "-1.#", "#", "1.#"))
)  # fmt: skip


@examples(40)
@given(st.lists(IDS, min_size=2, max_size=6, unique=True))
def test_ids_of_any_letters_come_through_a_screen(place, ids):
    folder = place.parent
    for name, feature in (("cp", "Cells_A"), ("tx", "TP53")):
        pd.DataFrame({COMPOUND: ids, feature: np.arange(len(ids))}).to_csv(folder / f"{name}.csv", index=False)
    place.write_text('name = "m"\n[cp]\npath = "cp.csv"\n[tx]\npath = "tx.csv"\n', encoding="utf-8")
    screen = read_user_screen(place)
    assert screen.cp[COMPOUND].tolist() == ids and sorted(screen.compounds[COMPOUND]) == sorted(ids)


TYPED = st.one_of(st.text(max_size=12), st.text(string.digits + '+-.,eE_[]{}" ', max_size=12), VALUES)


@pytest.mark.parametrize("kind", EXAMPLES)
@examples(100)
@given(value=TYPED)
def test_a_parameter_is_of_its_kind_or_refused_in_one_line(kind, value):
    parameter = Parameter("size", kind, None, "", ())
    try:
        converted = checked_value(parameter, value)
    except ScreenError as error:
        assert "\n" not in str(error) and EXAMPLES[kind] in str(error)
        return
    inner = kind.removeprefix("list[").removesuffix("]")
    for item in converted if kind.startswith("list") else [converted]:
        assert type(item).__name__ == inner and (inner != "float" or np.isfinite(item))
    assert checked_value(parameter, converted) == converted
