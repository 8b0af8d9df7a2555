"""The real screen cmea-u2os, on its real bytes, where CPX_MIRROR names a folder that holds them as HOST/PATH."""

import json
import os
from pathlib import Path

import pytest
from study_runs import Study, assert_complete

MIRROR = os.environ.get("CPX_MIRROR", "")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not MIRROR or not Path(MIRROR).is_dir():
        pytest.skip("CPX_MIRROR isn't set to a folder with the real screen's files")
    folder = tmp_path_factory.mktemp("real")
    # 01 to 03 as a user gets them, with fewer controls and candidates; the autoencoder, which nothing below measures,
    # trains briefly
    small = ("04.max_epochs=40", "04.n_members=1", "04.n_derangements=1", "05.map_methods=contrastive",
             "05.n_bootstrap=200", "06.n_bootstrap=200", "06.n_draws=1", "07.n_bootstrap=500",
             "07.data_shares=0.5", "02.n_derangements_linear=4", "02.n_other_controls=0", "03.n_other_controls=0",
             "04.n_other_controls=0", "03.n_derangements=2")  # fmt: skip
    options = ("--mirror", MIRROR, "--data-dir", str(folder / "data"))
    study = Study(folder, "cmea-u2os", "cmea-u2os", *small, options=options)
    study.done = study.run()
    return study


def test_the_real_screen_runs_through_and_says_that_it_has_no_replicates(real):
    assert_complete(real, real.done)
    testability = real.table("tables/testability.csv").set_index("endpoint")
    assert str(testability.loc["replicate_clustering", "testable"]) == "False"
    assert str(testability.loc["retrieval", "testable"]) == "True"
    claims = real.table("tables/claims.csv").query("verdict != ''").set_index("claim")
    assert claims.loc[2, "verdict"] == "not testable" and "wells" in claims.loc[2, "reason"]
    assert "Replicate clustering is not testable" in real.learned("05")
    executed = (real.run_dir / "notebooks" / "05_cluster_replicates_and_moa.ipynb").read_text(encoding="utf-8")
    assert "Replicate clustering is not testable" in executed
    sources = json.loads((real.run_dir / "screen.json").read_text(encoding="utf-8"))["sources"]
    assert sources and all(source["verified"] for source in sources)


def test_unseen_real_compounds_find_their_own_transcriptome(real):
    """5 folds x 3 repeats, default parameters; chance is 0.12, one standard error about 0.03."""
    retrieval = real.table("tables/retrieval.csv").query("split == 'random'")
    counted = retrieval[retrieval["control"] == "true_pairs"].groupby("method").size()
    assert counted["contrastive"] == 162 * 3 and retrieval.groupby("repeat")["fold"].nunique().tolist() == [5, 5, 5]
    near = retrieval["rank"] <= 0.1 * (retrieval["n_candidates"] - 1)
    share = near.groupby([retrieval["method"], retrieval["control"]]).mean()
    assert share["contrastive", "true_pairs"] >= 0.26
    assert 0.08 <= share["contrastive", "deranged"] <= 0.17
    assert share["ridge_tx", "true_pairs"] >= 0.24 and 0.08 <= share["ridge_tx", "deranged"] <= 0.17
