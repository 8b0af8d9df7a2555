"""Replicate and MoA endpoints against naive loops and copairs."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, silhouette_samples

from cpx_utils import clustering, metrics
from cpx_utils.clustering import moa_clustering, replicate_clustering
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, KEYS, PLATE, WELL, embedding_table


def plated_wells(n_compounds=8, plates=4, signal=1.0, controls=5, seed=0):
    """Two doses a compound, one well a plate (one compound twice on a plate), controls on every plate."""
    rng = np.random.default_rng(seed)
    rows = [(f"p{p}", f"c{c}", dose, False) for p in range(plates) for c in range(n_compounds) for dose in (1.0, 5.0)]
    rows += [("p0", "c0", 1.0, False)]
    rows += [(f"p{p}", "DMSO", np.nan, True) for p in range(plates) for _ in range(controls)]
    table = pd.DataFrame(rows, columns=[PLATE, COMPOUND, DOSE, CONTROL])
    table.insert(1, WELL, "")
    table = table.iloc[rng.permutation(len(table))].reset_index(drop=True)
    code = pd.factorize(table[COMPOUND] + table[DOSE].astype(str))[0]
    centres = rng.normal(size=(code.max() + 1, 6)) * signal
    points = rng.normal(size=(len(table), 6)) + np.where(table[CONTROL].to_numpy()[:, None], 0, centres[code])
    return table, (points + 3.0).astype(np.float32)


def naive_replicates(table, points):
    control = table[CONTROL].to_numpy()
    points = points - points[control].mean(0)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    key = (table[COMPOUND] + "@" + table[DOSE].astype(str)).to_numpy()
    plate = table[PLATE].to_numpy()
    values = {}
    for i in np.flatnonzero(~control):
        positives = [j for j in range(len(table)) if key[j] == key[i] and plate[j] != plate[i]]
        others = [j for j in range(len(table)) if key[j] != key[i] and not control[j]]
        row = []
        for negatives in (others, np.flatnonzero(control)):
            items = [*positives, *negatives]
            row.append(average_precision_score([1] * len(positives) + [0] * len(negatives), unit[items] @ unit[i]))
        values.setdefault(key[i], []).append(row)
    return {name: np.mean(rows, axis=0) for name, rows in values.items()}


def test_replicate_clustering_equals_a_naive_loop():
    table, points = plated_wells()
    got = replicate_clustering(table, points)
    expected = naive_replicates(table, points)
    assert list(got.columns[:5]) == ["compound", "treatment", "n_wells", "replicate_map", "activity_map"]
    assert len(got) == 16 and got.loc[got["treatment"] == "c0@1", "n_wells"].item() == 5
    for _, row in got.iterrows():
        name = f"{row['compound']}@{float(row['treatment'].split('@')[1])}"
        np.testing.assert_allclose([row["replicate_map"], row["activity_map"]], expected[name], atol=1e-6)


def test_replicate_clustering_equals_copairs_and_scikit_learns_silhouette():
    from copairs.map import average_precision

    table, points = plated_wells(seed=3)
    wells = table[~table[CONTROL]].reset_index(drop=True)
    points = points[~table[CONTROL].to_numpy()]
    wells["treatment"] = wells[COMPOUND] + "@" + wells[DOSE].map("{:.3g}".format)
    by_copairs = average_precision(
        wells[["treatment", PLATE]],
        points,
        ["treatment"],
        [PLATE],
        [],
        ["treatment"],
        distance="cosine",
        progress_bar=False,
    )
    expected = by_copairs.groupby("treatment")["average_precision"].mean()
    got = replicate_clustering(wells, points).set_index("treatment")
    np.testing.assert_allclose(got["replicate_map"], expected[got.index], atol=1e-5)
    assert got["activity_map"].isna().all()  # no controls
    widths = pd.Series(silhouette_samples(points, wells["treatment"], metric="cosine"))
    np.testing.assert_allclose(got["silhouette"], widths.groupby(wells["treatment"]).mean()[got.index], atol=1e-5)


def moa_table():
    moas = [["a"], ["a"], ["a", "b"], ["b"], ["b"], ["c"], ["c"], ["lonely"], [], ["a"]]
    keys = ["k0", "k1", "k2", "k3", "k4", "k5", "k5", "k7", "k8", "k0"]
    names = [f"c{i}" for i in range(10)]
    return pd.DataFrame({COMPOUND: names, "InChIKey14": keys, "MoA": moas})


def test_moa_clustering_equals_a_naive_loop():
    table = moa_table()
    points = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    centre = points.mean(0)
    per_compound, summary = moa_clustering(table, points - centre)
    unit = points - centre
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    expected, nearest = {}, {}
    for i, one in table.iterrows():
        items = [
            j for j, other in table.iterrows() if other["MoA"] and j != i and other["InChIKey14"] != one["InChIKey14"]
        ]
        truth = [bool(set(one["MoA"]) & set(table["MoA"][j])) for j in items]
        if any(truth):
            cosines = unit[items] @ unit[i]
            expected[one[COMPOUND]] = average_precision_score(truth, cosines)
            nearest[one[COMPOUND]] = truth[int(np.argmax(cosines))]
    # c5 and c6 are one molecule and have no other of their MoA; c7 is alone with its MoA; c8 has none.
    assert list(per_compound["compound"]) == ["c0", "c1", "c2", "c3", "c4", "c9"] == list(expected)
    np.testing.assert_allclose(per_compound["average_precision"], list(expected.values()), atol=1e-6)
    assert per_compound["n_positive"].tolist() == [2, 3, 5, 2, 2, 2]
    assert per_compound["nearest_shares_moa"].tolist() == [float(v) for v in nearest.values()]
    assert summary["moa_map"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    assert set(summary) == {"moa_map", "moa_nearest", "moa_ami", "moa_ari", "moa_silhouette"}


def embedded_wells():
    """Two methods' embeddings of the same plated wells, with the keys of the stage contract."""
    tables = []
    for method, control, signal in (("raw_cp", "", 0.5), ("rcca", "true_pairs", 2.0)):
        wells, points = plated_wells(signal=signal)
        keys = pd.DataFrame([("random", 0, 1, 0, method, control)] * len(wells), columns=KEYS)
        tables.append(pd.concat([wells.reset_index(drop=True), keys, embedding_table(points)], axis=1))
    return pd.concat(tables, ignore_index=True)


def test_mechanisms_are_clustered_among_test_compounds_only():
    compounds = moa_table()
    points = np.random.default_rng(4).normal(size=(len(compounds), 5)).astype(np.float32)
    role = np.where(np.arange(len(compounds)) < 4, "train", "test")
    keys = pd.DataFrame([("random", 0, 0, 0, "raw_cp", "")] * len(compounds), columns=KEYS)
    head = compounds[[COMPOUND]].reset_index(drop=True).assign(role=role)
    consensus = pd.concat([head, keys, embedding_table(points)], axis=1)
    per_compound, summary = clustering.moa_clustering_by_fold(consensus, compounds)
    expected, numbers = clustering.moa_clustering(
        compounds[role == "test"].reset_index(drop=True), points[role == "test"]
    )
    pd.testing.assert_frame_equal(per_compound[expected.columns], expected, check_dtype=False, atol=1e-6)
    values = summary.set_index("endpoint")["value"]
    assert values.to_dict() == pytest.approx(numbers, nan_ok=True, abs=1e-6)
    assert (summary["n"] == len(expected)).all()


MAP_IDS = [f"c{row:02d}" for row in range(60)]


def consensus_of_two_folds():
    """Sixty compounds, of which each fold tests every other one."""
    rng = np.random.default_rng(0)
    tables = []
    for fold in (0, 1):
        role = np.where(np.arange(60) % 2 == fold, "test", "train")
        keys = pd.DataFrame([("random", 0, fold, 0, "raw_cp", "")] * 60, columns=KEYS)
        head = pd.DataFrame({COMPOUND: MAP_IDS, "role": role})
        tables.append(pd.concat([head, keys, embedding_table(rng.normal(size=(60, 6)))], axis=1))
    return {"raw_cp": pd.concat(tables, ignore_index=True)}


def test_the_map_shows_the_first_folds_test_compounds_and_their_true_neighbours(monkeypatch):
    seen = []

    def layout(values, nearest, distance, n_neighbours, seed):  # the study's own run draws by UMAP
        seen.append((nearest, distance))
        return values[:, :2]

    monkeypatch.setattr(clustering, "_umap", layout)
    compounds = pd.DataFrame(
        {COMPOUND: MAP_IDS, "MoA": [[f"m{min(row // 10, 3)}"] if row < 50 else [] for row in range(60)]}
    )
    consensus = consensus_of_two_folds()
    points, nearest = clustering.map_of_test_compounds(consensus, compounds, n_moas=2, n_nearest=3)
    assert points["compound"].tolist() == MAP_IDS[::2]
    assert points["label"].value_counts().to_dict() == {"other": 15, "m3": 10, "m0": 5}
    assert (seen[0][0][:, 0] == np.arange(30)).all() and (seen[0][1][:, 0] == 0).all()  # each comes first itself
    assert nearest["compound"].tolist() == list(np.repeat(MAP_IDS[::2], 3))
    assert nearest["rank"].tolist() == [1, 2, 3] * 30
    part = consensus["raw_cp"].query("fold == 0 and role == 'test'")
    cosines = metrics.cosine_similarity(part.filter(regex="^z").to_numpy(dtype=float)) - 9 * np.eye(30)
    expected = np.array(MAP_IDS[::2])[np.argsort(-cosines, axis=1)[:, :3]]
    assert nearest["neighbour"].tolist() == expected.ravel().tolist()
    np.testing.assert_allclose(nearest["cosine"], -np.sort(-cosines, axis=1)[:, :3].ravel(), atol=1e-5)


# --- permutation nulls --------------------------------------------------------------------------------------


def naive_map_of_set(similarity, members, plates, relatives):
    """Mean average precision of a pseudo-treatment; true relatives and wells of its own plate are left out."""
    values = []
    for query, plate in zip(members, plates, strict=True):
        positives = [m for m, other in zip(members, plates, strict=True) if m != query and other != plate]
        out = set(members) - set(positives) | set(relatives[query])
        items = [j for j in range(len(similarity)) if j not in out]
        truth = [j in positives for j in items]
        if any(truth):
            values.append(average_precision_score(truth, similarity[query, items]))
    return np.mean(values)


@pytest.mark.parametrize("decimals", [None, 1])
def test_replicate_p_values_equal_a_naive_loop(decimals):
    table, points = plated_wells(seed=2)
    points = points if decimals is None else points.round(0)  # ties
    got = clustering.replicate_p_values(table, points, n_null=25, seed=4)
    expected = replicate_clustering(table, points)
    assert list(got.columns) == ["compound", "treatment", "n_wells", "replicate_map", "p_value", "found"]
    np.testing.assert_allclose(got["replicate_map"], expected["replicate_map"], atol=1e-12)

    queries, codes, _ = clustering._queries(table, points)
    similarity = metrics.cosine_similarity(codes)
    treatment, plate = queries["number"].to_numpy(), queries["plate"].to_numpy()
    compound, names = pd.factorize(queries["compound"])[0], queries["treatment"].unique()
    relatives = {i: np.flatnonzero(treatment == treatment[i]) for i in range(len(treatment))}
    rng = np.random.default_rng(4)
    # c0 at 1 micromolar, the first treatment, is twice on p0; all others are once on each plate.
    for plates, mine in (([0, 0, 1, 2, 3], names[:1]), ([0, 1, 2, 3], names[1:])):
        sets = clustering._pseudo_treatments(np.array(plates), plate, compound, 25, rng)
        assert len(sets) == 25 and (plate[sets] == plates).all()
        assert all(len(set(compound[row])) == len(row) for row in sets)
        null = np.array([naive_map_of_set(similarity, row.tolist(), plates, relatives) for row in sets])
        for name in mine:
            row = got[got["treatment"] == name].iloc[0]
            kept = null[[row["compound"] not in set(queries["compound"].iloc[one]) for one in sets]]
            at_least = (kept >= row["replicate_map"] - 1e-6).sum()
            assert 0 < len(kept) < 25 and row["p_value"] == pytest.approx((1 + at_least) / (1 + len(kept)))


def within_binomial(share, n, level=0.05, sigmas=3.3):
    """Whether a share of n lies within sampling error of the level (two-sided 0.1%)."""
    return abs(share - level) < sigmas * np.sqrt(level * (1 - level) / n)


@pytest.mark.parametrize("n_replicates", [2, 4])
def test_p_values_of_replicates_are_uniform_without_signal_also_beside_active_treatments(n_replicates):
    """Screens of 100 treatments, one well on each plate, of which the first n_active have centres of their own."""
    names = [f"c{number:04d}" for number in range(100)]
    wells = pd.DataFrame(
        {PLATE: np.repeat([f"p{i}" for i in range(n_replicates)], 100), COMPOUND: names * n_replicates, WELL: ""}
    )
    wells = wells.assign(**{DOSE: np.nan, CONTROL: False})
    shares = {}
    for n_active in (0, 50):
        null, active = [], []
        for screen in range(10):
            rng = np.random.default_rng([n_active, screen])
            centres = np.zeros((100, 20))
            centres[:n_active] = 1.5 * rng.normal(size=(n_active, 20))
            points = np.tile(centres, (n_replicates, 1)) + rng.normal(size=(len(wells), 20))
            p = clustering.replicate_p_values(wells, points, n_null=1000, seed=screen)["p_value"].to_numpy()
            null, active = [*null, *p[n_active:]], [*active, *p[:n_active]]
        shares[n_active] = np.mean(np.array(null) < 0.05)
        assert not active or np.mean(np.array(active) < 0.05) > 0.85
    assert within_binomial(shares[0], 1000) and shares[50] < 0.085, shares


def test_nothing_to_tell_apart_gives_no_evidence():
    table, points = plated_wells()
    collapsed = clustering.replicate_p_values(table, np.ones_like(points), n_null=50)
    assert collapsed["p_value"].eq(1).all()  # every null draw is as good
    few = table[table[COMPOUND].isin(["c0", "c1", "c2", "DMSO"])].reset_index(drop=True)
    p = clustering.replicate_p_values(few, points[: len(few)], n_null=50)["p_value"]
    assert p.isna().all()  # four plates, and two other compounds
    lonely = table.drop_duplicates([COMPOUND, DOSE]).reset_index(drop=True)
    assert clustering.replicate_p_values(lonely, points[: len(lonely)])["p_value"].isna().all()


def test_found_at_a_false_discovery_rate_fold_by_fold():
    from statsmodels.stats.multitest import multipletests

    found = clustering.by_fold([embedded_wells()], clustering.replicate_p_values, n_null=500, seed=2)
    assert list(found.columns) == [*KEYS, "compound", "treatment", "n_wells", "replicate_map", "p_value", "found"]
    assert len(found) == 32
    for _, part in found.groupby("method"):
        expected = multipletests(part["p_value"], method="fdr_bh")[1] <= 0.05
        assert part["found"].tolist() == expected.astype(float).tolist()
    by_method = found.groupby("method")["found"].mean()
    assert by_method["rcca"] > by_method["raw_cp"]


def test_the_position_null_finds_what_positions_alone_make_alike():
    """Four compounds a position on two maps: by hand, and with a planted edge effect."""
    rng = np.random.default_rng(0)
    rows = [
        (f"p{n_map}{copy}", well, f"c{n_map}{well}")
        for n_map in range(4) for copy in range(2) for well in ("A01", "A02", "B01", "B02")
    ]  # fmt: skip
    wells = pd.DataFrame(rows, columns=[PLATE, WELL, COMPOUND]).assign(**{DOSE: np.nan, CONTROL: False})
    values = rng.normal(size=(len(wells), 5)).astype(np.float32)
    got = clustering.position_null(wells, values).set_index("compound")["position_map"]
    similarity = metrics.cosine_similarity(values, values)
    by_hand = {}
    for i, query in wells.iterrows():
        other = (wells[PLATE] != query[PLATE]) & (wells[COMPOUND] != query[COMPOUND])
        positive = (wells[WELL] == query[WELL])[other].to_numpy()
        value = average_precision_score(positive, similarity[i][other.to_numpy()])
        by_hand.setdefault(query[COMPOUND], []).append(value)
    assert got.to_dict() == pytest.approx({name: np.mean(value) for name, value in by_hand.items()}, abs=1e-6)
    edge = values + 20 * np.eye(5, dtype=np.float32)[pd.factorize(wells[WELL])[0]]
    assert clustering.position_null(wells, edge)["position_map"].min() > 0.99
    assert clustering.position_null(wells.assign(**{WELL: ""}), values).empty
    keyed = wells.assign(split="random", repeat=0, fold=0, seed=0, method="m", control="")
    table = pd.concat([keyed, embedding_table(values)], axis=1)
    by_fold = clustering.by_fold([table], clustering.position_null)
    assert by_fold["position_map"].tolist() == pytest.approx(got.tolist()) and set(by_fold["method"]) == {"m"}
    assert clustering.by_fold([], clustering.position_null).empty
