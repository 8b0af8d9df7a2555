"""Published numbers on the same screens, and which of them may stand beside a run's own.

Two numbers may be compared where the screen, the quantity and the split are the same; a number of another screen, or
of another measure on this one, says nothing about a run, however alike the words. So `beside` returns exact matches
and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cpx_utils.profiles import ScreenError

HAGHIGHI = ("Haghighi 2022", "10.1038/s41592-022-01667-0")
WAY = ("Way 2022", "10.1016/j.cels.2022.10.001")
MOSHKOV = ("Moshkov 2023", "10.1038/s41467-023-37570-1")
ABOVE_90 = "assays with ROC-AUC > 0.9"
ABOVE_70 = "assays with ROC-AUC > 0.7"
F1 = "MoA classification of 57 MoAs, weighted F1 in percent"
PR_AUC = "multi-label MoA classification, PR-AUC in percent"
R2 = "genes predicted from CP with R2 > 0.2"
# Where a range was published, value and upper are its ends. `total` is what a count is out of.
PUBLISHED = pd.DataFrame(
    [
        ("lincs-pilot1", F1, "CP", "compounds", 22.7, 24.1, np.nan, *HAGHIGHI),
        ("lincs-pilot1", F1, "TX", "compounds", 20.2, 22.9, np.nan, *HAGHIGHI),
        ("lincs-pilot1", F1, "RGCCA of CP", "compounds", 22.3, 23.3, np.nan, *HAGHIGHI),
        ("lincs-pilot1", F1, "best fusion of CP and TX", "compounds", 25.6, 26.6, np.nan, *HAGHIGHI),
        ("lincs-pilot1", R2, "lasso", "compounds", 222, 222, 978, *HAGHIGHI),
        ("lincs-pilot1", R2, "multilayer perceptron", "compounds", 348, 348, 978, *HAGHIGHI),
        ("lincs-pilot1", PR_AUC, "CP", "compounds", 18.8, 18.8, np.nan, *WAY),
        ("lincs-pilot1", PR_AUC, "TX", "compounds", 16.4, 16.4, np.nan, *WAY),
        ("lincs-pilot1", PR_AUC, "CP and TX", "compounds", 16.6, 16.6, np.nan, *WAY),
        ("cdrp-u2os", ABOVE_90, "CP", "scaffold", 28, 28, 270, *MOSHKOV),
        ("cdrp-u2os", ABOVE_90, "TX", "scaffold", 19, 19, 270, *MOSHKOV),
        ("cdrp-u2os", ABOVE_90, "structure", "scaffold", 16, 16, 270, *MOSHKOV),
        ("cdrp-u2os", ABOVE_90, "TX but not CP", "scaffold", 13, 13, 270, *MOSHKOV),
        ("cdrp-u2os", ABOVE_70, "CP", "scaffold", 102, 102, 270, *MOSHKOV),
        ("cdrp-u2os", ABOVE_70, "TX", "scaffold", 71, 71, 270, *MOSHKOV),
        ("cdrp-u2os", ABOVE_70, "structure", "scaffold", 102, 102, 270, *MOSHKOV),
        ("cdrp-u2os", ABOVE_70, "TX but not CP", "scaffold", 29, 29, 270, *MOSHKOV),
    ],
    columns=["screen", "quantity", "of", "split", "value", "upper", "total", "source", "doi"],
)
NOTHING = "No published value of the same quantity on the same screen and split."


def beside(screen: str, split: str, measured: pd.DataFrame) -> pd.DataFrame:
    """Published values of exactly what a run measured, with the run's own beside them.

    Parameters
    ----------
    screen : str
        Name of the run's screen, such as "cdrp-u2os".
    split : str
        The run's split: random, scaffold, moa.
    measured : DataFrame
        ``quantity``, ``of`` (both as spelled in `PUBLISHED`), ``here`` and, for counts, ``total_here``.

    Returns
    -------
    DataFrame
        The matching rows of `PUBLISHED` with ``here`` and ``total_here`` before the source; no rows where the screen,
        the split or the quantity is another.

    Raises
    ------
    ScreenError
        ``measured`` holds the same quantity twice.
    """
    if measured.duplicated(["quantity", "of"]).any():
        raise ScreenError("a quantity to lay beside published ones was measured twice")
    own = measured.reindex(columns=["quantity", "of", "here", "total_here"])
    same = PUBLISHED[(PUBLISHED["screen"] == screen) & (PUBLISHED["split"] == split)]
    table = same.merge(own, on=["quantity", "of"], how="inner")
    return table[[*PUBLISHED.columns[:-2], "here", "total_here", "source", "doi"]]


def assay_counts(auc: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    """How many assays exceed a ROC-AUC of 0.9 and of 0.7, by modality: what Moshkov 2023 counted.

    Parameters
    ----------
    auc : DataFrame
        ``method, task, roc_auc``, one row a method and task.
    methods : mapping
        Method to the name of its modality in `PUBLISHED`: ``{"raw_cp": "CP", "tx": "TX"}``.

    Returns
    -------
    DataFrame
        ``quantity, of, here, total_here``; with CP and TX also "TX but not CP". Empty where nothing was measured.
    """
    known = auc[auc["method"].isin(list(methods))]
    wide = known.assign(of=known["method"].map(dict(methods))).pivot(index="task", columns="of", values="roc_auc")
    rows = []
    for quantity, threshold in ((ABOVE_90, 0.9), (ABOVE_70, 0.7)):
        above = wide > threshold
        if {"CP", "TX"} <= set(above):
            above["TX but not CP"] = above["TX"] & ~above["CP"]
        rows += [(quantity, name, int(above[name].sum()), len(wide)) for name in above]
    return pd.DataFrame(rows, columns=["quantity", "of", "here", "total_here"])
