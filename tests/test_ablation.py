"""The ablation benchmark: changes that exist, differences paired by compound, a table that says what it holds."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils.encoders import METHODS


@pytest.fixture(scope="module")
def ablation(load_benchmark):
    return load_benchmark("ablation")


def test_every_change_is_one_that_the_encoder_knows(ablation):
    for method, changes in ablation.CHANGES.items():
        assert next(iter(changes)) == "full form"
        known = METHODS[method]().get_params()
        assert set(ablation.GRIDS[method]) <= known.keys()
        for form, change in changes.items():
            chosen = {name: values[-1] for name, values in ablation.GRIDS[method].items()}
            parameters = ablation.form_encoder(method, change, chosen).get_params()
            assert set(change or {}) <= known.keys()
            expected = known if change is None else known | chosen | change
            assert parameters == expected, form


def planted(n=40):
    rng = np.random.default_rng(0)
    rows = []
    for compound in range(n):
        easy = rng.normal()
        for _ in range(2):
            for form, gain in (("full form", 0.0), ("PCA inputs", -0.3)):
                value = easy + gain + 0.01 * rng.normal()
                rows.append(("contrastive", form, "true_pairs", "near", f"c{compound}", value))
    return pd.DataFrame(rows, columns=["method", "form", "control", "measure", "compound", "value"])


def test_differences_are_paired_by_compound(ablation):
    values = planted()
    table = ablation.compare(values).set_index("form")
    means = values.groupby(["form", "compound"])["value"].mean().unstack("form")
    change = means["PCA inputs"] - means["full form"]
    one = table.loc["PCA inputs"]
    assert one["difference"] == pytest.approx(change.mean())
    assert one["value"] == pytest.approx(means["PCA inputs"].mean())
    half = 1.96 * change.std() / np.sqrt(len(change))  # the spread between compounds, a hundred times wider, cancels
    assert one["ci_low"] == pytest.approx(change.mean() - half, abs=half / 4)
    assert one["ci_high"] == pytest.approx(change.mean() + half, abs=half / 4)
    assert table.loc["full form", ["difference", "ci_low", "ci_high"]].tolist() == [0, 0, 0]
    assert len(ablation.compare(planted(ablation.MIN_COMPOUNDS - 1))) == 0


def test_the_table_shows_true_beside_deranged(ablation):
    values = pd.concat([planted(), planted().assign(control="deranged", value=0.12)])
    table = ablation.compare(values).assign(screen="simulated")
    lines = ablation.markdown(table).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| simulated | contrastive | full form | ") and lines[2].endswith(" / 0.120 |")
    assert "(−0.3" in lines[3] and "to −0.2" in lines[3]
