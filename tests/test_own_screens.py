"""A user's own screens from the TOML file to the verdicts: one with nothing optional, one with everything."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_runs import KEYS, METHODS, QUICK, Study, assert_complete

from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, PLATE, WELL, feature_columns
from cpx_utils.provenance import stage_records
from cpx_utils.simulation import simulate_screen


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A screen without plates, wells, doses, controls, structures, MoA, assays: 40 compounds, one profile each."""
    folder = tmp_path_factory.mktemp("bare")
    rng = np.random.default_rng(7)
    effects = rng.normal(size=(40, 5))
    for name, columns in (("cp", [f"Cells_F{n}" for n in range(24)]), ("tx", [f"GENE{n}" for n in range(30)])):
        values = effects @ rng.normal(size=(5, len(columns))) + rng.normal(size=(40, len(columns)))
        table = pd.DataFrame(values, columns=columns)
        table.insert(0, COMPOUND, [f"drug {number}" for number in range(40)])
        table.to_csv(folder / f"{name}.csv", index=False)
    toml = folder / "screen.toml"
    toml.write_text('name = "bare"\n[cp]\npath = "cp.csv"\n[tx]\npath = "tx.csv"\n', encoding="utf-8")
    study = Study(folder, toml, "bare", *QUICK, "map_methods=[]")
    study.done = study.run()
    return study


def test_a_screen_with_nothing_optional_runs_through_and_says_what_it_cannot_tell(bare):
    assert_complete(bare, bare.done)
    claims = bare.table("tables/claims.csv")
    assert claims["verdict"].tolist() == ["not testable"] * 4 and claims["reason"].str.len().gt(10).all()
    assert bare.done.stdout.count(": not testable (") == 4
    testability = bare.table("tables/testability.csv").set_index("endpoint")["testable"].astype(str)
    assert testability.to_dict() == {
        "replicate_clustering": "False", "activity_calls": "False", "moa_clustering": "False",
        "retrieval": "True", "bioactivity": "False", "target_families": "False",
    }  # fmt: skip
    for number, words in (("01", "replicate clustering"), ("05", "Replicate clustering"), ("06", "Bioactivity")):
        assert words in bare.learned(number) and "ot testable" in bare.learned(number)
    assert bare.learned("07").count("not testable on bare") == 4
    assert "left out" in bare.learned("02"), "LDA on identity needs replicates"
    assert len(bare.table("tables/retrieval.csv")) > 0


OWN_TOML = """\
name = "own"
[cp]
path = "cp.csv.gz"
[tx]
path = "tx.csv.gz"
[columns]
compound = "drug"
plate = "plate id"
well = "position"
dose = "uM"
control = "dmso"
[compounds]
path = "compounds.csv.gz"
[activity]
path = "activity.csv.gz"
[tasks]
path = "tasks.csv.gz"
"""
OWN_COLUMNS = {COMPOUND: "drug", PLATE: "plate id", WELL: "position", DOSE: "uM", CONTROL: "dmso"}


def write_own_screen(folder: Path, cp, tx, compounds, activity, tasks) -> Path:
    """Write a screen as csv.gz with columns of its own names; return its TOML."""
    compounds = compounds.rename(columns={COMPOUND: "compound", "SMILES": "smiles", "MoA": "moa"})
    compounds = compounds.assign(**{name: compounds[name].map("|".join) for name in ("moa", "target")})
    tables = {
        "cp": cp.rename(columns=OWN_COLUMNS),
        "tx": tx.rename(columns=OWN_COLUMNS),
        "compounds": compounds[["compound", "smiles", "moa", "target"]],
        "activity": activity.rename(columns={COMPOUND: "compound"}),
        "tasks": tasks,
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv.gz", index=False)
    (folder / "screen.toml").write_text(OWN_TOML, encoding="utf-8")
    return folder / "screen.toml"


@pytest.fixture(scope="module")
def own_screen():
    return simulate_screen("tiny", seed=3, n_compounds=60, n_cp_features=40, n_genes=50)


OWN = (*QUICK, "map_methods=[]", "min_active=8", "min_shown=8", "split_kinds=random")


@pytest.fixture(scope="module")
def own(tmp_path_factory, own_screen):
    """A screen with replicates, doses, controls, MoA and assays; its notebook 08 embeds a file of new wells."""
    folder = tmp_path_factory.mktemp("own")
    screen = own_screen
    toml = write_own_screen(folder, screen.cp, screen.tx, screen.compounds, screen.activity, screen.tasks)
    new = simulate_screen("tiny", seed=4, n_compounds=12, n_cp_features=40, n_genes=50).cp
    new[COMPOUND] = new[COMPOUND].where(new[CONTROL], "new " + new[COMPOUND])
    new.rename(columns=OWN_COLUMNS).to_csv(folder / "new.csv.gz", index=False)
    study = Study(folder, toml, "own", *OWN, f"new_profiles={folder / 'new.csv.gz'}", "compound_column=drug",
                  "plate_column=plate id", "control_column=dmso")  # fmt: skip
    study.toml = toml
    study.new = sorted(new.loc[~new[CONTROL], COMPOUND].unique())
    study.done = study.run()
    return study


def test_a_screen_with_everything_runs_through_under_its_own_names(own, own_screen):
    assert_complete(own, own.done)
    cp = own.table("cp.parquet")
    assert list(cp.columns[:5]) == METADATA_COLUMNS and set(cp[COMPOUND]) == set(own_screen.cp[COMPOUND])
    testability = own.table("tables/testability.csv").set_index("endpoint")["testable"].astype(str)
    for endpoint in ("replicate_clustering", "activity_calls", "moa_clustering", "retrieval", "bioactivity"):
        assert testability[endpoint] == "True"
    verdicts = own.table("tables/claims.csv").query("verdict != ''").set_index("claim")["verdict"]
    assert "not testable" not in verdicts.loc[[1, 2, 3]].tolist()
    assert "says nothing about biology" not in own.done.stdout


def test_new_wells_of_a_file_are_embedded_and_annotated(own):
    embedded = own.table("tables/new_embeddings.csv")
    assert sorted(embedded[COMPOUND]) == own.new
    mechanisms, activities = own.table("tables/new_mechanisms.csv"), own.table("tables/new_activities.csv")
    assert set(mechanisms["compound"]) == set(activities["compound"]) == set(own.new)
    assert activities["probability"].between(0, 1).all()
    for name, column in (("treatments", "p_value"), ("neighbours", "p_value"), ("mechanisms", "p_adjusted")):
        assert own.table(f"tables/new_{name}.csv")[column].between(0, 1, inclusive="right").all()
    assert "contrastive/all/encoder.safetensors" in "".join(
        stage_records(own.run_dir)["08_embed_new_compounds"]["reads"]
    )


def new_plate(folder: Path, name: str, missing: float = 0.0) -> Path:
    """The new file of `own` once more, without the last share of its features."""
    table = pd.read_csv(folder / "new.csv.gz")
    features = [column for column in table if column.startswith(("Cells_", "Cytoplasm_", "Nuclei_"))]
    lost = features[len(features) - round(missing * len(features)) :]
    table.drop(columns=lost).to_csv(folder / name, index=False)
    return folder / name


def test_a_plate_that_lacks_a_tenth_of_its_features_is_embedded_and_that_is_said(own):
    path = new_plate(own.toml.parent, "tenth.csv", 0.1)
    done = own.run("--only", "08", parameters=(f"new_profiles={path}",))
    assert done.status == 0, done.stderr
    features = own.table("tables/new_features.csv")
    n_missing, n_asked = (features["status"] == "missing").sum(), (features["status"] != "extra").sum()
    assert 0 < n_missing <= 0.2 * n_asked
    assert f"{n_missing} of {n_asked} features that the encoder uses are missing" in own.learned("08")
    assert sorted(own.table("tables/new_compounds.csv")["compound"]) == own.new
    # A file that changes under the same name runs the notebook again, and nothing else does.
    arguments = {"parameters": (f"new_profiles={path}",)}
    assert own.run("--only", "08", **arguments).ran == []
    new_plate(own.toml.parent, "tenth.csv", 0.05)
    assert own.run("--only", "08", **arguments).ran == ["08_embed_new_compounds"]


def test_a_plate_that_lacks_most_of_its_features_is_refused_in_one_line(own):
    path = new_plate(own.toml.parent, "most.csv", 0.6)
    done = own.run("--only", "08", parameters=(f"new_profiles={path}",))
    assert done.status == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "most.csv: " in done.stderr and "the limit is 20%" in done.stderr and "in all)" in done.stderr


def test_nothing_fitted_knows_of_the_test_compounds(own, own_screen, tmp_path):
    """The strict regime: other CP, TX, MoA and outcomes of a fold's test compounds change nothing that is fitted."""
    folds = own.table("folds.parquet")
    test = folds.loc[folds["fold"] == 0, COMPOUND].to_numpy()
    rng = np.random.default_rng(0)
    kept, spoilt = test[::2], test[1::2]  # CP of the kept ones stays, so that their embeddings can be compared
    turned = dict(zip(test, np.roll(test, 1), strict=True))
    cp, tx, compounds, activity = (
        table.copy() for table in (own_screen.cp, own_screen.tx, own_screen.compounds, own_screen.activity)
    )
    for table, changed in ((cp, spoilt), (tx, test)):
        rows = table[COMPOUND].isin(changed).to_numpy()
        features = feature_columns(table)
        table.loc[rows, features] = rng.normal(3, 9, size=(rows.sum(), len(features))).astype(np.float32)
    moa = compounds.set_index(COMPOUND)["MoA"]
    compounds["MoA"] = [moa[turned.get(name, name)] for name in compounds[COMPOUND]]
    activity[COMPOUND] = [turned.get(name, name) for name in activity[COMPOUND]]
    toml = write_own_screen(tmp_path, cp, tx, compounds, activity, own_screen.tasks)
    other = Study(tmp_path, toml, "own", *OWN)
    done = other.run("--only", "01", "02", "03", "04", "06")
    assert done.status == 0, done.stderr

    pd.testing.assert_frame_equal(other.table("folds.parquet"), folds)
    first, second = own.files(), other.files()
    models = [name for name in first if "/models/" in name]
    assert len(models) >= 2 * 4 * len(METHODS)
    unseen = [name for name in models if "/random-0-0/" in name]
    assert [name for name in unseen if first[name] != second[name]] == []
    for method in METHODS:  # the comparison has teeth: the other folds trained on what was changed
        assert (
            first[f"default/models/{method}/random-0-1/preparation.json"]
            != second[f"default/models/{method}/random-0-1/preparation.json"]
        )
        pair = [table[(table["fold"] == 0) & table[COMPOUND].isin(kept)].reset_index(drop=True)
                for table in (study.table(f"embeddings/{method}_wells.parquet") for study in (own, other))]  # fmt: skip
        # Where other folds chose other numbers of discriminants, the table has more or fewer columns, empty here.
        pair = [table.dropna(axis=1, how="all") for table in pair]
        assert len(pair[0]) > 0
        pd.testing.assert_frame_equal(*pair, check_exact=True)
    keys = [*KEYS, "model", "compound", "task"]
    predictions = [study.table("tables/predictions.parquet") for study in (own, other)]
    predictions = [
        table[(table["fold"] == 0) & table["compound"].isin(kept) & ~table["method"].isin(["tx", "cp_tx"])]
        for table in predictions
    ]
    both = predictions[0].merge(predictions[1], on=keys, suffixes=("", "_other"))
    assert len(both) > 500 and (both["label"] != both["label_other"]).any()
    assert (both["score"] == both["score_other"]).all()
