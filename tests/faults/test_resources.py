"""A full disk, folders that cannot be written, too little memory, failing notebooks: told in lines, and made good."""

import pytest


@pytest.fixture(params=["a mount of one's own", "no mount"])
def mounted(request, faults, monkeypatch):
    """Whether faults are made by mounts; as on machines that allow none, they are made otherwise too."""
    if request.param == "no mount":
        monkeypatch.setattr(faults, "can_mount", lambda: False)
    elif not faults.can_mount():
        pytest.skip("this machine allows no mounts")
    return request.param != "no mount"


def test_a_full_disk_is_told_and_the_study_goes_on_once_there_is_room(mounted, faults, bench):
    (row,) = faults.full_disks(bench, 1)
    assert row["injected"] and row["survived"], row["wrong"]
    if mounted:  # else a limit on the size of files stands for it, which has an error of its own
        assert "No space left on device" in row["said"] and "; make room and run the same again" in row["said"]
    assert row["stages_repeated"] == 0


@pytest.mark.parametrize("name", ["results", "figures"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(name, mounted, faults, bench):
    row = faults.read_only(bench, bench.complete(), name)
    assert row["injected"] and row["survived"] and row["stages_repeated"] == 0, row["wrong"]
    assert "nothing can be written in" in row["said"] and f"give another folder with --{name}" in row["said"]


def test_notebooks_that_fail_side_by_side_are_each_told_in_a_line(faults, bench):
    study = bench.new()
    outcome = study.run(environment={"CPX_FAULT": "02:dies 03:exhausts"}, preexec_fn=faults.limit_memory)
    assert outcome.status == 1 and study.finished() == {"01_prepare"}
    dead, exhausted, blocked = sorted(outcome.said, key=lambda line: ("not run" in line, "03_" in line))
    assert "02_baselines failed in cell [" in dead and "the kernel died, most often for want of memory" in dead
    assert "03_contrastive failed in cell [" in exhausted and "Unable to allocate" in exhausted
    assert all("run fewer notebooks side by side with --jobs 1" in line for line in (dead, exhausted))
    assert blocked == "run_all: not run, since they need it: 05_cluster"
    outcome = study.run(environment={"CPX_FAULT": "05:raises"})
    assert outcome.status == 1 and outcome.ran == ("02_baselines", "03_contrastive")
    assert outcome.said[0].startswith("run_all: 05_cluster failed in cell [") and "'no such gene'" in outcome.said[0]
    row = bench.judge(study, "failed", "", outcome)
    assert row["survived"] and row["stages_repeated"] == 0, row["wrong"]
