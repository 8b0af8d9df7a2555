"""The real screen cmea-u2os, on its real bytes, where CPX_MIRROR names a folder that holds them as HOST/PATH."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from cpx_utils.provenance import read_json

ROOT = Path(__file__).resolve().parents[1]
MIRROR = os.environ.get("CPX_MIRROR", "")
SMALL = "n_derangements_linear=4 02.n_other_controls=0 03.n_other_controls=0 03.n_derangements=2".split()


def test_unseen_real_compounds_find_their_own_transcriptome(tmp_path):
    """5 folds x 3 repeats, default parameters; chance is 0.12, one standard error about 0.03."""
    if not Path(MIRROR or "nowhere").is_dir():
        pytest.skip("CPX_MIRROR isn't set to a folder with the real screen's files")
    call = [sys.executable, str(ROOT / "run_all.py"), "--dataset", "cmea-u2os", "--mirror", MIRROR, "--jobs", "2"]
    call += ["--only", "01", "02", "03", "--results", str(tmp_path / "r"), "--figures", str(tmp_path / "f")]
    call += ["--data-dir", str(tmp_path), *(word for given in SMALL for word in ("-p", given))]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "r" / "cmea-u2os" / "default"
    sources = read_json(run_dir / "screen.json")["sources"]
    assert sources and all(source["verified"] for source in sources)
    testable = pd.read_csv(run_dir / "tables" / "testability.csv").set_index("endpoint")["testable"]
    assert testable["retrieval"] and not testable["replicate_clustering"]
    retrieval = pd.concat([pd.read_csv(run_dir / "tables" / f"retrieval_{number}.csv") for number in ("02", "03")])
    retrieval = retrieval[retrieval["split"] == "random"]
    near = 10 * retrieval["rank"] <= retrieval["n_candidates"] - 1
    share = near.groupby([retrieval["method"], retrieval["control"]]).mean()
    for method, least in (("contrastive", 0.26), ("ridge_tx", 0.24)):
        counted = ((retrieval["method"] == method) & (retrieval["control"] == "true_pairs")).sum()
        assert counted == 162 * 3 and share[method, "true_pairs"] >= least
        assert 0.08 <= share[method, "deranged"] <= 0.17
