"""Files that were changed, cut short or taken away are noticed and made again, each by its own stage."""

import pytest


@pytest.mark.parametrize("how", ["one byte changed", "truncated"])
def test_damage_to_every_kind_of_file_at_once_is_made_good(faults, bench, how):
    study = bench.complete()
    for path, _ in faults.ARTIFACTS.values():
        faults.damage(study.folder / path, how, bench.random)
    row = bench.judge(study, how, "every kind of file", spoilt=faults.STAGES)
    assert row["survived"], row["wrong"]


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("executed notebook", "one byte changed"),
        ("stage record", "truncated"),
        ("safetensors", "gone"),
        ("page of the report", "one byte changed"),
    ],
)
def test_damage_costs_the_stage_that_made_the_file_and_no_other(faults, bench, kind, how):
    study = bench.complete()
    path, stage = faults.ARTIFACTS[kind]
    before = (study.folder / path).read_bytes()
    faults.damage(study.folder / path, how, bench.random)
    assert not (study.folder / path).is_file() or (study.folder / path).read_bytes() != before
    row = bench.judge(study, kind, how, spoilt=(stage,))
    assert row["survived"] and row["stages_repeated"] == 0, row["wrong"]


def test_a_screen_that_vanishes_is_told_and_what_was_made_of_it_is_kept(faults, bench):
    (row,) = faults.vanished_inputs(bench, 1)
    assert row["injected"] and row["survived"], row["wrong"]
    assert "01_prepare failed in cell [" in row["said"] and "screen.csv isn't there" in row["said"]
    assert row["stages_repeated"] == 0
