"""What every notebook keeps to, and the whole study on the tiny simulated screen: the contract between its stages."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from cpx_utils.encoders import METHODS
from cpx_utils.profiles import COMPOUND, CONTROL, KEYS, METADATA_COLUMNS, embedding_values, feature_columns
from cpx_utils.provenance import read_json, stage_records

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
HEADINGS = ["Question", "Parameters", "Load", "Method", "Result", "What we learn", "Saved", "Exercises"]


@pytest.fixture(params=NOTEBOOKS, scope="module")
def notebook(request):
    return nbformat.read(NOTEBOOKS[request.param], as_version=4)


def test_a_question_as_title_the_headings_in_order_and_a_why_before_each_code_cell(notebook):
    nbformat.validate(notebook)
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    titles = [line for line in lines if line.startswith("# ")]
    number = notebook.cells[0].id[:2]
    assert len(titles) == 1 and titles[0].startswith(f"# {number} ") and titles[0].endswith("?")
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == HEADINGS
    cells = list(zip(notebook.cells, notebook.cells[1:], strict=False))
    assert [here.id for above, here in cells if here.cell_type == above.cell_type == "code"] == []
    assert re.search(r"!\[.{40,}\]\(diagrams/" + number, notebook.cells[2].source, re.DOTALL), "a diagram in words, too"


def test_committed_without_outputs_stable_ids_and_no_definitions(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"\d\d(-[a-z0-9]+)+", name) for name in ids)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        assert not cell.outputs and cell.execution_count is None
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)], cell.id
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= 20, cell.id


def test_parameters_have_type_value_and_comment_and_are_used(notebook):
    tagged = [cell for cell in notebook.cells if cell.metadata.get("tags")]
    assert [tag for cell in tagged for tag in cell.metadata.tags][-1] == "parameters"
    declared = [node for cell in tagged for node in ast.parse(cell.source).body]
    assert all(isinstance(node, ast.AnnAssign) for node in declared)
    names = {node.target.id for node in declared}
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    loaded = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)
              and isinstance(node.ctx, ast.Load)}  # fmt: skip
    assert {"dataset", "run_dir", "figures_dir"} <= names <= loaded


# --- the tiny simulated screen ------------------------------------------------------------------------------

TINY = [
    *("screen_size=tiny", "split_kinds=random,scaffold", "n_folds=2", "max_epochs=2", "n_fits=1", "n_derangements=2"),
    *("n_derangements_linear=2", "n_bootstrap=20", "n_null=20", "data_shares=0.5", "map_methods="),
    *("min_active=8", "min_shown=6", "tx_min=0.4", "margin=-1"),
]


def run_tiny(folder, *options):
    call = [sys.executable, str(ROOT / "run_all.py"), "--profile", "smoke", "--jobs", "2", *options]
    call += ["--results", str(folder / "results"), "--figures", str(folder / "figures")]
    call += [word for given in TINY for word in ("-p", given)]
    return subprocess.run(call, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a whole run on the tiny screen."""
    folder = tmp_path_factory.mktemp("tiny")
    done = run_tiny(folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "says nothing about biology" in done.stdout.splitlines()[-1]
    return folder


@pytest.fixture(scope="module")
def run_dir(tiny):
    return tiny / "results" / "simulated" / "smoke"


def read(run_dir, name):
    path = run_dir / name
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)


def test_a_run_leaves_notebooks_records_figures_and_a_report(tiny, run_dir):
    records = stage_records(run_dir)
    assert list(records) == list(NOTEBOOKS) == list(read_json(run_dir / "manifest.json")["stages"])
    figures = [figure["name"] for record in records.values() for figure in record["figures"]]
    assert len(figures) >= 20
    for name in figures:
        folder = tiny / "figures" / "simulated-smoke"
        assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and (folder / f"{name}.csv").is_file()
        assert "<svg" in (run_dir / "figures" / f"{name}.svg").read_text()[:2000]
        assert name in (run_dir / "report" / "index.html").read_text()
    for name in NOTEBOOKS:
        executed = nbformat.read(run_dir / "notebooks" / f"{name}.ipynb", as_version=4)
        outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
        written = [output.text for output in outputs if output.get("name") == "stderr"]
        warned = [text for text in written if text.strip() and not text.startswith("\r")]  # tqdm draws its bars there
        assert warned == [], f"{name} warns its reader"
        assert (run_dir / "report" / "notebooks" / f"{name}.html").is_file()


COLUMNS = {
    "activity.parquet": [COMPOUND, "task", "active"],
    "tasks.parquet": ["task", "target", "family", "source"],
    "compounds.parquet": [COMPOUND, "InChIKey14", "SMILES", "MoA", "target"],
    "folds.parquet": [COMPOUND, "split", "repeat", "fold"],
    "tables/clustering.csv": ["screen", *KEYS, "endpoint", "label", "n", "value"],
    "tables/retrieval.csv": ["screen", *KEYS, "compound", "rank", "n_candidates"],
    "tables/bioactivity.csv": ["screen", *KEYS, "model", "task", "family", "n_active", "n_inactive", "metric", "value"],
    "tables/timings.csv": ["stage", "step", "seconds", "peak_mb"],
    "tables/claims.csv": [
        *("screen", "claim", "endpoint", "method", "reference", "effect", "ci_low", "ci_high", "p_adjusted"),
        *("comparison", "attribution", "verdict"),
    ],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_stages_hand_over_the_columns_of_the_contract(name, run_dir):
    table = read(run_dir, name)
    assert len(table) > 0 and list(table.columns[: len(COLUMNS[name])]) == COLUMNS[name]


def test_profiles_hold_metadata_first_and_float32_features(run_dir):
    for name in ("cp.parquet", "tx.parquet"):
        table = read(run_dir, name)
        assert list(table.columns[:5]) == METADATA_COLUMNS
        assert all(table[feature].dtype == np.float32 for feature in feature_columns(table))


def test_every_method_and_its_deranged_control_embed_the_test_compounds_only(run_dir):
    folds = read(run_dir, "folds.parquet")
    fold_of = folds.set_index(["split", "repeat", COMPOUND])["fold"]
    for method, encoder in METHODS.items():
        wells, consensus = (read(run_dir, f"embeddings/{method}_{kind}.parquet") for kind in ("wells", "consensus"))
        assert {"true_pairs", "deranged"} <= set(wells["control"]) if encoder.uses_tx else set(wells["control"]) == {""}
        assert set(wells["control"]) == set(consensus["control"])
        assert all(np.isfinite(embedding_values(part)).all() for _, part in wells.groupby(KEYS))
        treated = wells[~wells[CONTROL]]
        for table, is_test in ((treated, True), (consensus, (consensus["role"] == "test").to_numpy())):
            keys = list(zip(table["split"], table["repeat"], table[COMPOUND], strict=True))
            assert ((fold_of.loc[keys].to_numpy() == table["fold"].to_numpy()) == is_test).all()
        assert set(consensus.loc[consensus["role"] == "test", COMPOUND]) == set(folds[COMPOUND])
        assert (run_dir / "models" / method / "all" / "encoder.json").is_file()


def test_claims_stand_beside_their_references_and_controls(run_dir):
    claims = read(run_dir, "tables/claims.csv")
    for claim in (1, 2, 3):
        rows = claims[(claims["claim"] == claim) & (claims["method"] == "contrastive")]
        assert {"raw_cp", "lda_identity", "deranged"} <= set(rows["reference"])
        judged = rows[rows["effect"] != ""].astype({"effect": float, "ci_low": float, "ci_high": float})
        assert judged["ci_low"].le(judged["effect"]).all() and judged["effect"].le(judged["ci_high"]).all()
    primary = claims[claims["verdict"] != ""]
    assert sorted(primary["claim"]) == [1, 1, 2, 2, 3, 3, 4, 4] and set(primary["method"]) == {
        "contrastive",
        "autoencoder",
    }
    assert primary["reason"].str.len().gt(10).all()


def test_the_new_compounds_of_the_rehearsal_are_a_quarter_of_the_first_fold(run_dir):
    folds = read(run_dir, "folds.parquet")
    first = folds[(folds["split"] == "random") & (folds["repeat"] == 0) & (folds["fold"] == 0)]
    new = set(read(run_dir, "tables/new_compounds.csv")["compound"])
    assert new < set(first[COMPOUND]) and len(new) == len(first) // 4


def test_nothing_changed_runs_nothing_and_a_parameter_runs_what_depends_on_it(tiny):
    again = run_tiny(tiny)
    assert again.returncode == 0 and again.stdout.count("skipped (unchanged)") == 8
    planned = run_tiny(tiny, "--dry-run", "-p", "temperature=0.2").stdout
    stale = {line.split()[0][:2] for line in planned.splitlines() if re.match(r"\d\d_\w+: (stale|will)", line)}
    assert stale == {"03", "05", "06", "07", "08"}, planned
