"""Real screens, on their real bytes, where CPX_MIRROR names a folder that holds them as HOST/PATH."""

import os
from pathlib import Path

import pytest

from cpx_utils import crossfit, datasets, preprocessing, profiles, splits
from cpx_utils.encoders import METHODS
from cpx_utils.metrics import retrieval_scores

MIRROR = os.environ.get("CPX_MIRROR", "")


needs_mirror = pytest.mark.skipif(not Path(MIRROR or "nowhere").is_dir(), reason="CPX_MIRROR names no folder")


@needs_mirror
def test_treatments_of_a_real_screen_find_their_mechanism_as_published(load_benchmark):
    bbbc021 = load_benchmark("bbbc021")
    table = bbbc021.matched(Path(MIRROR) / bbbc021.FOLDER)
    assert (len(table), table["MoA"].nunique()) == (103, 12)
    assert table[["normalised", "sphered"]].mean().min() >= 0.85


@needs_mirror
def test_unseen_real_compounds_find_their_own_transcriptome(tmp_path):
    """5 folds, default parameters; chance is 0.12, one standard error about 0.03."""
    screen = datasets.read_screen("cmea-u2os", mirror=MIRROR, data_dir=str(tmp_path))
    assert screen.sources and all(source["verified"] for source in screen.sources)
    testable = profiles.testability(screen).set_index("endpoint")["testable"]
    assert testable["retrieval"] and not testable["replicate_clustering"]
    cp, tx = (preprocessing.normalise_plates(table)[0] for table in (screen.cp, screen.tx))
    folds = splits.compound_folds(screen.compounds, n_folds=5, n_repeats=1)
    prepared = list(crossfit.prepare_folds(cp, tx, screen.compounds, folds))
    for method, least in (("contrastive", 0.18), ("ridge_tx", 0.22)):
        draws = {"true_pairs": 1, "deranged": 2}
        results, _ = crossfit.crossfit_all({method: METHODS[method]()}, prepared, draws, progress=False)
        near = retrieval_scores(results[method].retrieval).groupby("control")["near"].agg(["size", "mean"])
        assert near.loc["true_pairs", "size"] == 162 and near.loc["true_pairs", "mean"] >= least
        assert 0.08 <= near.loc["deranged", "mean"] <= 0.17
