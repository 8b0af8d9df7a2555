"""Profile tables: conventions, testability; their checks are tested on users' screens (test_own_screens.py)."""

from dataclasses import replace

import numpy as np
import pandas as pd

from cpx_utils import profiles
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, Screen


def make_wells(prefix: str, n_compounds: int = 12, n_plates: int = 2, seed: int = 0) -> pd.DataFrame:
    """Two plates, every compound once a plate, two controls a plate, three features."""
    rng = np.random.default_rng(seed)
    rows = []
    for plate in range(n_plates):
        names = [f"C{number:02d}" for number in range(n_compounds)] + ["DMSO", "DMSO"]
        for position, name in enumerate(names):
            rows.append((f"P{plate}", f"A{position:02d}", name, np.nan if name == "DMSO" else 3.33, name == "DMSO"))
    table = pd.DataFrame(rows, columns=profiles.METADATA_COLUMNS)
    for feature in range(3):
        table[f"{prefix}{feature}"] = rng.normal(size=len(table)).astype(np.float32)
    return table


def make_screen(n_compounds: int = 12) -> Screen:
    ids = [f"C{number:02d}" for number in range(n_compounds)]
    compounds = pd.DataFrame(
        {
            COMPOUND: ids,
            "InChIKey14": ["AAAAAAAAAAAAAA", "AAAAAAAAAAAAAA"] + [""] * (n_compounds - 2),
            "SMILES": "",
            "MoA": [["kinase inhibitor"], ["kinase inhibitor"], ["a", "b"], ["a"], ["b"]]
            + [[] for _ in range(n_compounds - 5)],
            "target": [[] for _ in ids],
        }
    )
    activity = pd.DataFrame({COMPOUND: ids, "task": "t1", "active": np.int8([1, 0] * (n_compounds // 2))})
    tasks = pd.DataFrame({"task": ["t1"], "target": [""], "family": ["kinase"], "source": "own"})
    return Screen("tiny", make_wells("Cells_"), make_wells("GENE", seed=1), compounds, activity, tasks)


def test_treatments_join_nominal_doses():
    table = pd.DataFrame({COMPOUND: ["a", "a", "b", "c"], DOSE: [3.33, 3.3333, 10.0, np.nan]})
    assert profiles.treatments(table).tolist() == ["a@3.33", "a@3.33", "b@10", "c"]


def test_require_valid_drops_what_has_no_profile_and_says_so():
    screen = make_screen()
    absent = screen.compounds.iloc[:1].assign(**{COMPOUND: "ghost"})
    labels = pd.DataFrame({COMPOUND: ["ghost", "ghost"], "task": ["t1", "t2"], "active": np.int8([1, 1])})
    lonely = pd.DataFrame({"task": ["t2"], "target": [""], "family": ["other"], "source": ["own"]})
    screen = replace(
        screen,
        compounds=pd.concat([screen.compounds, absent]),
        activity=pd.concat([screen.activity, labels]),
        tasks=pd.concat([screen.tasks, lonely]),
    )
    valid = profiles.require_valid(screen)
    assert "ghost" not in set(valid.compounds[COMPOUND]) | set(valid.activity[COMPOUND])
    assert valid.tasks["task"].tolist() == ["t1"]
    assert valid.notes == (
        "1 listed compounds have no profile and were dropped.",
        "2 labels of compounds without a profile were dropped.",
        "1 tasks without any label were dropped.",
    )


def test_testability_names_what_lacks():
    screen = make_screen()
    screen = replace(
        screen,
        cp=screen.cp[(screen.cp[PLATE] == "P0") & ~screen.cp[CONTROL]],
        compounds=screen.compounds.assign(MoA=[[] for _ in range(12)]),
        activity=screen.activity.iloc[:0],
        tasks=screen.tasks.iloc[:0],
    )
    table = profiles.testability(make_screen(), min_active=6, min_inactive=6)
    assert table["testable"].tolist() == [True] * 5 + [False]
    # two kinase inhibitors share a skeleton and are one structure: only MoAs a and b count
    assert table["reason"][2].startswith("2 MoAs are shared")
    table = profiles.testability(screen).set_index("endpoint")
    assert table["testable"].tolist() == [False, False, False, True, False, False]
    assert table.loc["replicate_clustering", "reason"].startswith("0 of 12 CP treatments are on at least 2 wells")
    assert "0 negative-control wells" in table.loc["activity_calls", "reason"]
    assert table.loc["bioactivity", "reason"] == "the screen has no assay outcomes"


def test_task_counts_against_counting_by_hand():
    screen = make_screen()
    screen = replace(screen, tx=screen.tx[screen.tx[COMPOUND] != "C00"])  # C00 is active, now unpaired
    counts = profiles.task_counts(screen, min_active=6, min_inactive=6)
    assert counts[["n_active", "n_inactive"]].values.tolist() == [[5, 6]]
    assert not counts["tested"][0]


def test_embeddings_of_unequal_length_share_a_table():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    table = profiles.embedding_table(values)
    assert list(table.columns) == ["z000", "z001", "z002"]
    longer = pd.concat([table, profiles.embedding_table(np.ones((2, 5)))], ignore_index=True)
    np.testing.assert_array_equal(profiles.embedding_values(longer.head(2)), values)
    assert profiles.embedding_values(longer).shape == (4, 5)
