"""The comparison of CPU and GPU, as far as a machine without a GPU can tell."""

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def device(load_benchmark):
    return load_benchmark("device")


def test_every_network_is_trained_on_every_device(device):
    table = pd.DataFrame(device.train_networks(["cpu"], largest=120))
    assert table["what"].nunique() == len(device.NETWORKS) and set(table["device"]) == {"cpu"}
    found = table.loc[table["item"] == "unseen pairs found first", "value"]
    assert len(found) == len(device.NETWORKS) and (found > 5 / device.N_NEW).all(), "no better than chance"


def test_studies_are_compared_by_effect_and_verdict(device, tmp_path):
    claims = pd.DataFrame({"claim": [1, 2, 2], "endpoint": "e", "method": ["a", "a", "b"], "reference": "r",
                           "effect": [0.1, 0.2, 0.3], "ci_low": 0.0, "ci_high": 0.4,
                           "verdict": ["supported", None, "inconclusive"]})  # fmt: skip
    other = claims.assign(effect=[0.1, 0.25, 0.3], verdict=["inconclusive", None, "inconclusive"])
    runs = {"cpu": tmp_path / "cpu", "cuda": tmp_path / "cuda"}
    for run, table in zip(runs.values(), (claims, other), strict=True):
        (run / "tables").mkdir(parents=True)
        table.to_csv(run / "tables" / "claims.csv", index=False)
    rows = pd.DataFrame(device.compare_studies(runs)).set_index(["what", "item"])["value"]
    assert rows["study, a", "largest difference of an effect"] == pytest.approx(0.05)
    assert rows["study, a", "half width of its interval, median"] == pytest.approx(0.2)
    assert rows["study, a", "verdicts that differ"] == 1 and rows["study, b", "verdicts that differ"] == 0
    other.iloc[:2].to_csv(runs["cuda"] / "tables" / "claims.csv", index=False)
    with pytest.raises(AssertionError, match="compare other things"):
        device.compare_studies(runs)


def test_without_a_gpu_the_comparison_is_refused(device, monkeypatch, capsys):
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["device.py"])
    with pytest.raises(SystemExit):
        device.main()
    assert "no GPU is there" in capsys.readouterr().err
