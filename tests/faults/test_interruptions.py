"""Runs that are killed or interrupted at any moment go on, lose nothing and leave nothing behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

RUN_ALL = Path(__file__).resolve().parents[2] / "run_all.py"


def test_a_study_that_is_interrupted_again_and_again_comes_to_its_end(bench):
    study = bench.new()
    finished = set()
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL)
    for number in numbers:
        outcome = bench.interrupt(study, (number,), bench.random.uniform(0.1, 0.5))
        assert outcome.status in (0, -number, 128 + number) and (outcome.is_clear or outcome.status == 0)
        if outcome.status == 128 + number:
            assert outcome.said == (
                "run_all: interrupted; finished notebooks are kept, and the same command goes on from there",
            )
        assert study.finished() >= finished, "a finished stage was lost"
        finished = study.finished()
    row = bench.judge(study, "interrupted", "again and again")
    assert row["survived"], row["wrong"]
    assert row["stages_repeated"] == 0


def test_a_second_signal_does_not_keep_the_first_from_ending_what_runs(bench):
    study = bench.new()
    outcome = bench.interrupt(study, (signal.SIGINT, signal.SIGTERM), 0.6)
    # The second may come when everything is ended and nobody handles signals any more.
    assert outcome.status in (130, 143, -signal.SIGTERM)
    assert len(outcome.said) == 1 and "interrupted" in outcome.said[0]
    assert study.leftovers() == [] or all(name.startswith("study/") for name in study.leftovers())
    row = bench.judge(study, "both", "")
    assert row["survived"] and row["stages_repeated"] == 0, row["wrong"]


def test_an_interrupt_before_anything_began_ends_run_all_without_a_traceback(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(RUN_ALL), "--results", str(tmp_path / "r"), "--dry-run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.time() + 30
    while "run_all" not in Path(f"/proc/{process.pid}/cmdline").read_text() and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # while it imports
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130) and out == "" and "Traceback" not in err
