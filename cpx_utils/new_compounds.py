"""What the study says about compounds it has never met: are they active, whom do they resemble, what may they do?

A file of new Cell Painting wells is read, each plate expressed in units of its own negative controls, its features laid
beside those of the encoder. Every p-value then is the share of draws under a null that is stated, at least as extreme
as what was seen, and every null is made of wells or compounds that were treated as the new ones are:

- *activity*: a treatment's wells against the negative controls of the same plates. Null: they are exchangeable. The
  labels are permuted within plates, and everything that knows of labels is done again, so p is exact.
- *resemblance* (nearest compounds, mechanisms, predicted outcomes): a new compound against
  library compounds that the same encoder was not trained on either, its `Reference.held_out`. Null: it is one more of
  them. Such p-values are conformal (Vovk, Gammerman and Shafer 2005): exact for one encoder, and a mean over encoders
  where there are several (cross-conformal: Vovk 2015, doi 10.1007/s10472-013-9368-4), which is close to exact.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import hypergeom
from sklearn.covariance import ledoit_wolf

from cpx_utils.bioactivity import ManyTaskRidgeClassifier, label_matrix
from cpx_utils.encoders import Encoder, load_encoder
from cpx_utils.metrics import benjamini_hochberg, cosine_similarity, shared_labels
from cpx_utils.own_screens import read_cell_painting
from cpx_utils.preprocessing import (
    NO_SPREAD,
    TO_DEVIATION,
    FeaturePreparation,
    consensus,
    enough_spread,
    normalise_plates,
    usual_spread,
)
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    PLATE,
    ScreenError,
    compound_groups,
    feature_columns,
    some_names,
    treatments,
    user_path,
    wells_of,
)

MOST = 0.5  # share of a new file's wells that stands for most of them


# --- the file -------------------------------------------------------------------------------------------------


def read_wells(
    path: str | Path, columns: dict[str, str] | None = None, features: str = "", control_compounds: Sequence[str] = ()
) -> pd.DataFrame:
    """Read a table of new wells by the rules of a user's screen; ScreenError for bad ones.

    Parameters
    ----------
    path
        A csv, csv.gz, parquet or h5ad file.
    columns, features
        Role (compound, dose, plate, well, control) to column, and a regular expression of the features; what is empty
        is left to the study's own names.
    control_compounds
        Ids that are negative controls, such as DMSO, beside those that a control column marks.
    """
    path = user_path(path).resolve()
    if not path.is_file():
        raise ScreenError(f"{path} isn't there; name a file of new Cell Painting wells")
    wells = read_cell_painting(path, {role: name for role, name in (columns or {}).items() if name}, features)
    absent = [name for name in control_compounds if name not in set(wells[COMPOUND])]
    if absent:
        known = some_names(dict.fromkeys(wells[COMPOUND]))
        raise ScreenError(f"{path.name}: no well holds the control {some_names(absent)}; it has {known}")
    return wells.assign(**{CONTROL: wells[CONTROL].astype(bool) | wells[COMPOUND].isin(control_compounds)})


def rehearsal(
    wells: pd.DataFrame, folds: pd.DataFrame, *, hidden: float = 0.0, seed: int = 0
) -> tuple[pd.DataFrame, set[str], set[str]]:
    """Let a quarter of the first fold's test compounds play the new ones, and keep the others as held out.

    Returns wells of the new compounds with all controls, without a share `hidden` of their features; ids of the
    held-out compounds; and of those that play the new.
    """
    rng = np.random.default_rng(seed)
    test = rng.permutation(np.sort(folds.loc[folds["fold"] == 0, COMPOUND].astype(str).to_numpy()))
    played = set(test[: max(1, len(test) // 4)])
    features = feature_columns(wells)
    lost = rng.choice(features, round(hidden * len(features)), replace=False)
    return wells_of(wells, sorted(played)).drop(columns=list(lost)), set(test) - played, played


def normalise_new(
    wells: pd.DataFrame, shown: str, library: pd.DataFrame, min_controls: int = 4, as_they_are: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Express every plate in robust units of its own negative controls; leave out plates with too few of them.

    Returns the wells that are used; and a row a plate: `plate, n_wells, n_controls, used, reason`. Raises ScreenError,
    which calls the file as `shown`, where nothing is left; and where the file has no control but the screen's wells
    (`library`) have some: nothing then ties its units to theirs, and every distance would be an effect of the batch.
    Wells for a screen that was normalised before it came (`as_they_are`) have to be normalised in the same way.
    """
    if as_they_are or not wells[CONTROL].any():
        if library[CONTROL].any() and not as_they_are:
            raise ScreenError(
                f"{shown}: no well is a negative control, so its units can't be tied to the library's; mark controls "
                "by control_column or control_compounds"
            )
        plates = wells.groupby(PLATE).agg(n_wells=(CONTROL, "size"), n_controls=(CONTROL, "sum"))
        return wells, plates.rename_axis("plate").reset_index().assign(used=True, reason="taken as they are")
    normalised, plates = normalise_plates(wells, min_controls)
    few = plates["n_controls"].astype(str) + f" negative controls, {min_controls} are needed"
    plates = plates.rename(columns={"normalised": "used"}).assign(reason=few.where(~plates["normalised"], ""))
    kept = normalised[normalised[PLATE].isin(plates.loc[plates["used"], "plate"])]
    if kept[CONTROL].all():
        raise ScreenError(
            f"{shown}: of {(~wells[CONTROL]).sum()} wells with a compound none lies on a plate with {min_controls} "
            f"negative controls to be normalised to (the most are {plates['n_controls'].max()}); mark all of them, or "
            "lower min_controls"
        )
    return kept.reset_index(drop=True), plates


# --- features -------------------------------------------------------------------------------------------------


def check_features(
    new: pd.DataFrame, library: pd.DataFrame, features: Sequence[str], shown: str, max_missing: float
) -> pd.DataFrame:
    """Lay a new file's features beside those that an encoder was trained on, on the wells of `library`.

    Returns
    -------
    DataFrame
        One row a feature: `feature`, `status` (used, out of range, missing), `reason`, `share_empty` (cells) and
        `share_outside` (wells beyond the library's central 99%). A feature that is flat in all controls and not
        elsewhere has no units, and counts as missing.

    Raises
    ------
    ScreenError
        More than a share `max_missing` are missing, or most of those there are out of range; it calls the file `shown`.
    """
    values, control = new.reindex(columns=list(features)).astype(float), new[CONTROL].to_numpy(bool)
    low, high = library[list(features)].quantile([0.005, 0.995]).to_numpy(float)
    empty = values.isna().mean().to_numpy()
    outside = ((values < low) | (values > high)).mean().to_numpy() / np.where(empty < 1, 1 - empty, np.nan)
    spread, of_controls = ((part.max() - part.min()).to_numpy() for part in (values, values[control]))
    flat = (of_controls <= NO_SPREAD) & (spread > NO_SPREAD)  # never without controls, whose spread is NaN
    cases = (  # the first that holds
        ("missing", "not in the file", ~np.isin(list(features), new.columns)),
        ("missing", "empty in most wells", empty > MOST),
        ("missing", "flat in the negative controls: no units", flat),
        ("out of range", "outside the library's central 99% in most wells", outside > MOST),
    )
    status, reason, found = zip(*cases, strict=True)
    told = {"status": np.select(found, status, "used"), "reason": np.select(found, reason, "")}
    table = pd.DataFrame({"feature": list(features), **told, "share_empty": empty, "share_outside": outside})
    missing, strange = (table.loc[table["status"] == one, "feature"].tolist() for one in ("missing", "out of range"))
    if len(missing) > max_missing * len(table):
        raise ScreenError(
            f"{shown}: {len(missing)} of {len(table)} features that the encoder was trained on are missing "
            f"({len(missing) / len(table):.0%}, the limit is {max_missing:.0%}): {some_names(missing)}; measure them, "
            "or train on the features that both have"
        )
    if len(strange) > MOST * (len(table) - len(missing)):
        raise ScreenError(
            f"{shown}: {len(strange)} of {len(table) - len(missing)} features lie outside the library's range in most "
            f"wells, the first is {strange[0]!r}; give the profiles in the library's units, or controls to normalise to"
        )
    return table


@dataclass(frozen=True)
class PlateEncoder:
    """A fitted encoder with its fitted feature preparation, and the features that new wells lack.

    In these every well, of the library too, gets the training median: library and new wells must go through the same
    gap, or they would differ by it. An effect that only missing features show is lost.
    """

    preparation: FeaturePreparation
    encoder: Encoder
    missing: Sequence[str] = ()

    def transform(self, wells: pd.DataFrame) -> np.ndarray:
        """Embeddings of plate-normalised wells, float32 (n_wells, n_dimensions)."""
        there = wells.drop(columns=list(self.missing), errors="ignore")
        complete = there.reindex(columns=self.preparation.features_)
        return self.encoder.transform(self.preparation.transform(complete))


def load_plate_encoder(
    folder: str | Path, new: pd.DataFrame, library: pd.DataFrame, shown: str = "the file", max_missing: float = 1.0
) -> tuple[PlateEncoder, pd.DataFrame]:
    """Read an encoder from `models/METHOD/FOLD` of a run, and lay its features beside those of new wells.

    Returns the encoder, which knows what is missing, and the table of `check_features`, which also says what is raised.
    """
    preparation = FeaturePreparation.load(Path(folder) / "preparation.json")
    checked = check_features(new, library, preparation.features_, shown, max_missing)
    missing = checked.loc[checked["status"] == "missing", "feature"].tolist()
    return PlateEncoder(preparation, load_encoder(folder), missing), checked


# --- the library ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """One encoder's view of its training compounds (`library`), of library compounds that it never saw, and the new.

    `library` and `held_out` hold Metadata_Compound, MoA (lists) and `group`, of which no two are on both sides. `codes`
    are consensus embeddings of `library`, `held_out` and `new`, measured from the negative controls: arrays
    (n, n_dimensions) by these names. `new` are the ids of the new compounds.
    """

    new: list[str]
    library: pd.DataFrame
    held_out: pd.DataFrame
    codes: dict[str, np.ndarray]


def make_reference(
    new: pd.DataFrame, wells: pd.DataFrame, compounds: pd.DataFrame, held_out: Collection[str], encoder: PlateEncoder,
    seed: int = 0,
) -> Reference:  # fmt: skip
    """Embed new and known compounds by one encoder.

    Parameters
    ----------
    new, wells, compounds
        New wells and wells of the screen (but those of compounds that play the new), normalised, with their controls;
        and Metadata_Compound, MoA, InChIKey14.
    held_out, encoder
        Compounds of the screen that the encoder was not trained on. Of each, no more wells are used than a new compound
        has (the median), drawn at random by `seed`: averages of more wells are quieter, and would make the new ones
        look strange.
    """
    library = wells[wells[COMPOUND].isin({*compounds[COMPOUND]} - {*held_out}) | wells[CONTROL].astype(bool)]
    others = wells[wells[COMPOUND].isin(held_out)].reset_index(drop=True)
    usual = int(np.median(new.loc[~new[CONTROL].to_numpy(bool), COMPOUND].value_counts()))
    order = pd.Series(np.random.default_rng(seed).random(len(others))).groupby(others[COMPOUND].to_numpy(object))
    parts = {"library": library, "held_out": others[(order.rank() <= usual).to_numpy()], "new": new}
    found = {name: embed_compounds(part, library, encoder) for name, part in parts.items()}
    annotated = compounds.assign(group=compound_groups(compounds).to_numpy()).set_index(COMPOUND)
    tables = [annotated.loc[found[name][0]].reset_index() for name in ("library", "held_out")]
    return Reference(found["new"][0], *tables, {name: codes.astype(float) for name, (_, codes) in found.items()})


def fold_references(
    new: pd.DataFrame, wells: pd.DataFrame, compounds: pd.DataFrame, folds: pd.DataFrame, folder: Path, seed: int = 0
) -> list[Reference]:
    """`make_reference` for each fold of the study: its encoder, and its test compounds as held out.

    `folds` tells the fold of each compound in one repeat of one split (Metadata_Compound, split, repeat, fold), and
    `folder` is where the study saved a method's encoders: `models/METHOD` of a run.
    """
    references = []
    for (split, repeat, fold), test in folds.groupby(["split", "repeat", "fold"]):
        training = wells_of(wells, folds.loc[~folds[COMPOUND].isin(test[COMPOUND]), COMPOUND].tolist())
        encoder, _ = load_plate_encoder(folder / f"{split}-{repeat}-{fold}", new, training)
        references.append(make_reference(new, wells, compounds, set(test[COMPOUND]), encoder, seed))
    return references


def embed_compounds(wells: pd.DataFrame, library: pd.DataFrame, encoder: PlateEncoder) -> tuple[list[str], np.ndarray]:
    """Ids of the compounds of wells, sorted, and their embeddings (n_compounds, n_dimensions).

    Measured from the wells' own negative controls, else from the library's, else from the library's mean.
    """
    origin = next((table[table[CONTROL].astype(bool)] for table in (wells, library) if table[CONTROL].any()), library)
    codes = encoder.transform(wells) - encoder.transform(origin).mean(axis=0)
    metadata, average = consensus(wells[METADATA_COLUMNS], codes, by="compound")
    return metadata[COMPOUND].tolist(), average


# --- activity -------------------------------------------------------------------------------------------------


def library_metric(wells: pd.DataFrame, codes: np.ndarray) -> np.ndarray:
    r"""Map (n_dimensions, n_dimensions) in which distances count in units of the noise between replicates.

    :math:`W P` with :math:`W W^T = S^{-1}` and :math:`P = I - h h^T`. :math:`S` is the covariance of the library's
    treated wells around their treatments, shrunken (Ledoit and Wolf 2004, doi 10.1016/S0047-259X(03)00096-4); around
    their mean where treatments have no replicates. :math:`h` is the direction, after :math:`W`, in which the mean of
    all treated wells differs from the controls: handling, solvent, place on the plate. Treated wells that do nothing
    would be told from controls by it. A compound that acts in just this direction is lost with it. New wells have no
    part in any of this, so that a null of their labels stays exact.
    """
    codes, treated = np.asarray(codes, float), ~wells[CONTROL].to_numpy(bool)
    values, names = pd.DataFrame(codes[treated]), treatments(wells[treated]).to_numpy()
    around = values - values.groupby(names).transform("mean")
    if len(values) - len(np.unique(names)) < max(10, values.shape[1] // 4):
        around = values - values.mean()
    covariance, _ = ledoit_wolf(around.to_numpy(), assume_centered=True)
    size, directions = np.linalg.eigh(covariance)
    metric = directions / np.sqrt(np.maximum(size, 1e-9 * max(size.max(), 1e-12)))
    if treated.all() or codes.shape[1] < 3:  # of one or two dimensions none can be spared
        return metric
    shared = (codes[treated].mean(axis=0) - codes[~treated].mean(axis=0)) @ metric
    shared = shared / max(np.linalg.norm(shared), 1e-12)
    return metric - np.outer(metric @ shared, shared)


def activity_calls(
    new: pd.DataFrame, library: pd.DataFrame, encoder: PlateEncoder, *, fdr: float = 0.05, n_null: int = 2000, seed=0
) -> pd.DataFrame:
    r"""Which treatments differ from the negative controls of their own plates.

    The statistic is :math:`T = \|\sum_p \frac{n_p}{n} (\bar z_{p} - \bar c_p)\|^2`, in the units of `library_metric`:
    the squared length of the mean difference between the treatment's :math:`n_p` wells and the controls on each plate
    :math:`p`. Replicates that point to different sides cancel out. Under the null that the treatment's wells are
    exchangeable with the controls of their plates, :math:`T` is drawn again with the labels permuted within each plate.
    What results is exact with any number of controls; few controls or wells cost power, since no p can be below one
    over the number of arrangements. Replicates that share a well position share its effect: that counts as activity.

    Parameters
    ----------
    new, library
        New wells with the controls of their plates; and wells of the compounds that `encoder` was trained on.
    fdr, n_null, seed
        False discovery rate among the treatments; permutations, more where a single call among so many needs more.

    Returns
    -------
    DataFrame
        One row a treatment: `compound`, `dose`, `treatment`, `n_wells`, `n_plates`, `distance` (square root of T over
        the median of its null: 1 is what controls do), `p_value` (never 0: Phipson and Smyth 2010, doi
        10.2202/1544-6115.1585), `smallest_p` that was possible, `q_value`, `active`, `reason` where there is no test.
    """
    metric = library_metric(library[METADATA_COLUMNS], encoder.transform(library))
    features = [name for name in encoder.preparation.features_ if name in new.columns]
    control, plates, names = new[CONTROL].to_numpy(bool), new[PLATE].to_numpy(str), treatments(new).to_numpy(str)
    values, usual = _filled(new[features].astype(float), plates)
    treated = pd.Series(np.flatnonzero(~control)).groupby(names[~control])
    n_null = int(max(n_null, np.ceil(2 * treated.ngroups / fdr)))
    rows = []
    for name, members in treated:
        compound, dose = new[[COMPOUND, DOSE]].iloc[members.iloc[0]]
        row = {"compound": compound, "dose": dose, "treatment": name, "n_wells": len(members), "n_plates": 0}
        pools, sizes = [], []
        for plate, own in members.groupby(plates[members]):
            others = np.flatnonzero(control & (plates == plate))
            if len(others):
                pools.append(_in_own_units(values[[*own, *others]], usual))
                sizes.append((len(own), len(others)))
        if sizes:
            points = encoder.transform(pd.DataFrame(np.concatenate(pools), columns=features)) @ metric
            weights = _weights(sizes, n_null, np.random.default_rng(seed))
            observed, *null = ((weights @ points) ** 2).sum(axis=1)
            smallest = max(1 / (1 + n_null), 1 / np.prod([float(comb(own + others, own)) for own, others in sizes]))
            row |= {
                "n_wells": sum(own for own, _ in sizes),
                "n_plates": len(sizes),
                "distance": np.sqrt(observed / max(np.median(null), 1e-300)),
                # Rounding must not part an arrangement from itself; and draws may miss one where there are few.
                "p_value": max((1 + (np.array(null) >= observed * (1 - 1e-9)).sum()) / (1 + n_null), smallest),
                "smallest_p": smallest,
            }
        rows.append(row | {"reason": "" if sizes else "no negative controls on its plates"})
    columns = "compound dose treatment n_wells n_plates distance p_value smallest_p q_value active reason".split()
    table = pd.DataFrame(rows, columns=columns)
    q_value = benjamini_hochberg(table["p_value"].astype(float))
    return table.assign(q_value=q_value, active=q_value <= fdr)


def _filled(values: pd.DataFrame, plates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values whose gaps are their plate's median, and the usual spread of each feature: no label can change either."""
    values = values.fillna(values.groupby(plates).transform("median")).fillna(0.0)
    centred = (values - values.groupby(plates).transform("median")).abs()
    spreads = TO_DEVIATION * centred.groupby(plates).median()
    # A feature that is flat on every plate says nothing: divided by infinity it is 0.
    return values.to_numpy(), usual_spread(spreads).fillna(np.inf).to_numpy()


def _in_own_units(pool: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Wells in robust units of all of them together, by the rule of `normalise_plates` where they hardly vary.

    Units of the controls alone would break the symmetry of the null: controls lie closer to a centre made of them.
    """
    pool = pool - np.median(pool, axis=0)
    spread = TO_DEVIATION * np.median(np.abs(pool), axis=0)
    return pool / enough_spread(spread, usual)


def _weights(sizes: Sequence[tuple[int, int]], n_null: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (1 + n_null, n_pooled_wells) that turn pooled wells into the mean difference to the controls.

    On each plate, the treatment's own wells come first in the pool, then the others. The first row of weights is as
    observed; in the others every set of as many wells of the pool is as likely to play the treatment.
    """
    n, parts = sum(own for own, _ in sizes), []
    for own, others in sizes:
        if own == 1:
            plays = np.arange(own + others) == rng.integers(own + others, size=(n_null, 1))
        else:
            luck = rng.random((n_null, own + others))
            plays = luck <= np.partition(luck, own - 1, axis=1)[:, [own - 1]]
        plays = np.vstack([np.arange(own + others) < own, plays])
        parts.append(np.where(plays, 1 / n, -own / n / others))
    return np.hstack(parts)


# --- resemblance ----------------------------------------------------------------------------------------------


def _pooled(values: list[pd.DataFrame], nulls: list[np.ndarray]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean over references of tables (new compounds, candidates), and p: the share of all nulls that is as large."""
    exceed = [(len(null) - np.searchsorted(np.sort(null), table)) for null, table in zip(nulls, values, strict=True)]
    exceed = [pd.DataFrame(n, table.index, table.columns) for n, table in zip(exceed, values, strict=True)]
    n_null = [table.notna() * len(null) for null, table in zip(nulls, values, strict=True)]
    sums = [pd.concat(tables).groupby(level=0, sort=False).sum() for tables in (exceed, n_null)]
    return pd.concat(values).groupby(level=0, sort=False).mean(), (1 + sums[0]) / (1 + sums[1])


def _ranked(by: str, kind: str, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Long form of tables of one shape (new compounds, candidates of a `kind`), ranked within each compound.

    A row a pair: `compound`, `rank` (1 = highest `by`), the candidate, a column each table, and of the first ranks
    `q_value` by the p-values of the last table (Benjamini and Hochberg).
    """
    table = pd.DataFrame({name: values.stack() for name, values in tables.items()}, dtype=float)
    table = table.rename_axis(["compound", kind]).reset_index()
    table.insert(1, "rank", table.groupby("compound", sort=False)[by].rank(ascending=False, method="first").astype(int))
    table = table.sort_values(["compound", "rank"], ignore_index=True)
    p_of_first = table[list(tables)[-1]].where(table["rank"] == 1)
    return table.assign(q_value=benjamini_hochberg(p_of_first))


def nearest_compounds(references: Sequence[Reference], n_nearest: int = 10) -> pd.DataFrame:
    """The library compounds that lie nearest to each new compound, and whether that is nearer than strangers lie.

    Cosine similarity of consensus embeddings, mean over the encoders that were trained on the neighbour. Null: the new
    compound is to the library what a held-out compound is to the library compounds that share neither mechanism nor
    structure with it. p compares with the *nearest* of those, so it holds for the whole list of neighbours at once
    (single-step maxT: Westfall and Young 1993). Where mechanisms are unknown, relatives may hide in the null, and p is
    too large rather than too small. It says nothing of a plate whose wells all share a shift.

    Columns `compound`, `rank` (1 = nearest), `neighbour`, `similarity`, `MoA` (of the neighbour, joined by |),
    `p_value`, and of rank 1 `q_value` among the new compounds.
    """
    values, nulls = [], []
    for reference in references:
        library, held_out = reference.library, reference.held_out
        of_new, of_strangers = (
            cosine_similarity(reference.codes[name], reference.codes["library"]) for name in ("new", "held_out")
        )
        values.append(pd.DataFrame(of_new, reference.new, library[COMPOUND]))
        related = shared_labels(held_out["MoA"], library["MoA"])
        related |= held_out["group"].to_numpy(object)[:, None] == library["group"].to_numpy(object)
        nulls.append(np.where(related, -np.inf, of_strangers).max(axis=1, initial=-np.inf))
    mean, p_value = _pooled(values, nulls)
    table = _ranked("similarity", "neighbour", {"similarity": mean, "p_value": p_value})
    table = table[table["rank"] <= n_nearest].reset_index(drop=True)
    library = pd.concat([reference.library for reference in references]).drop_duplicates(COMPOUND)
    table.insert(4, "MoA", table["neighbour"].map(library.set_index(COMPOUND)["MoA"].str.join("|")))
    return table


def nearest_mechanisms(references: Sequence[Reference], compounds: pd.DataFrame, n_neighbours: int = 3) -> pd.DataFrame:
    r"""Rank the library's mechanisms of action by how close their compounds lie to each new compound.

    The score :math:`s_m` of a mechanism is the mean cosine similarity of its `n_neighbours` nearest compounds (all, if
    it has fewer). Large or tight mechanisms score high with everything, so evidence is the score in units of what
    library compounds without the mechanism get, :math:`e_m = (s_m - \mu_m) / \sigma_m`. Null: the new compound is to
    these mechanisms what a held-out compound is to those that it does not have; p compares with the *best* wrong
    mechanism of each, and so answers for having looked at all of them (single-step maxT: Westfall and Young 1993).

    p is calibrated for compounds drawn as the library's were. Compounds of one mechanism resemble each other, so for a
    compound whose mechanism the library lacks they are fewer draws than their number says, and p may be too small.
    Held-out compounds without annotation count as having none of the mechanisms. If they do have some, p is too large.

    Columns `compound`, `rank` (1 = most evidence), `mechanism`, `score`, `evidence` (means over encoders),
    `n_compounds` of the mechanism, `p_adjusted`, of rank 1 `q_value` among the new compounds, and `is_known`: does the
    compound have the mechanism, by the MoA (lists) of `compounds`?
    """
    scores, evidence, nulls = zip(*(_evidence(reference, n_neighbours) for reference in references), strict=True)
    mean, p_value = _pooled(evidence, nulls)
    score = pd.concat(scores).groupby(level=0, sort=False).mean()
    table = _ranked(
        "evidence", "mechanism", {"score": score, "evidence": mean.sort_index(axis=1), "p_adjusted": p_value}
    )
    library = pd.concat([reference.library for reference in references]).drop_duplicates(COMPOUND)
    table.insert(5, "n_compounds", table["mechanism"].map(library["MoA"].map(set).explode().value_counts()))
    known = set(compounds[[COMPOUND, "MoA"]].explode("MoA").itertuples(index=False, name=None))
    pairs = zip(table["compound"], table["mechanism"], strict=True)
    return table.assign(is_known=[pair in known for pair in pairs])


def _evidence(reference: Reference, n_neighbours: int) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Scores and evidence of new compounds (n_new, n_mechanisms), and the best wrong evidence of each held-out one.

    What is usual is judged without library compounds that share a held-out compound's mechanisms: a foreign compound
    has no relatives among them either.
    """
    library, held_out = reference.library["MoA"], reference.held_out["MoA"]
    mechanisms = sorted({name for names in library for name in names})
    has, own = (shared_labels(moas, [[name] for name in mechanisms]) for moas in (library, held_out))
    codes = np.concatenate([reference.codes[name] for name in ("library", "held_out", "new")])
    similarity = cosine_similarity(codes, reference.codes["library"])
    scores = np.empty((len(codes), len(mechanisms)))
    for column, rows in enumerate(has.T):
        n = min(n_neighbours, int(rows.sum()))
        scores[:, column] = np.partition(similarity[:, rows], -n, axis=1)[:, -n:].mean(axis=1)
    of_library, scores = np.split(scores, [len(library)])
    # Moments over the library compounds without the mechanism that are no relatives of the one that is judged.
    foreign = ~shared_labels([*held_out, *[[]] * len(reference.new)], library)
    n = np.maximum(foreign @ (~has).astype(float), 1)
    usual = np.where(has, 0.0, of_library)
    mean = foreign @ usual / n
    spread = np.sqrt(np.maximum(foreign @ usual**2 / n - mean**2, 0))
    evidence = (scores - mean) / np.where(spread > 1e-6, spread, 1.0)
    wrong = np.where(own, -np.inf, evidence[: len(own)]).max(axis=1, initial=-np.inf)
    tables = (pd.DataFrame(values[len(own) :], reference.new, mechanisms) for values in (scores, evidence))
    return *tables, wrong


def mechanisms_found(ranked: pd.DataFrame, within: int) -> pd.DataFrame:
    """For new compounds whose mechanism is known and in the library: is it among the first `within` ranks?

    From `nearest_mechanisms`; index compound, columns `found` (bool) and `chance` (of finding it).
    """
    known = ranked[ranked["is_known"].astype(bool)].groupby("compound", sort=False)["rank"].agg(["min", "size"])
    chance = hypergeom.sf(0, max(ranked["mechanism"].nunique(), 1), known["size"].to_numpy(int), within)
    return pd.DataFrame({"found": known["min"] <= within, "chance": chance}, index=known.index)


# --- predicted outcomes ---------------------------------------------------------------------------------------


def predict_activities(
    references: Sequence[Reference], activity: pd.DataFrame, tasks: pd.DataFrame,
    *, min_active: int = 25, confidence: float = 0.8,
) -> pd.DataFrame:  # fmt: skip
    """Predicted outcome of each new compound in each assay: a call that keeps the truth as often as it promises.

    Linear models on the library's embeddings give scores. Held-out compounds of known outcome turn them into a call by
    class-conditional conformal prediction (Vovk 2005; Norinder 2014, doi 10.1021/ci5001168): `p_active` is the share of
    held-out *actives* that score no higher, `p_inactive` of held-out *inactives* that score no lower. A class is ruled
    out where its p is at most 1 - confidence, and what is left is the call. Of truly active compounds at least
    `confidence` keep "active" in their call, and so of inactive ones, whatever the model is worth: a bad one leaves
    more undecided.

    A task needs `min_active` active and inactive library compounds. Columns `compound`, `task`, `family`, `p_active`,
    `p_inactive`, `call`: active, inactive, undecided (neither class is ruled out) or neither (both are: unlike the
    library's compounds of either class). Without held-out compounds of a class its p is NaN.
    """
    known = pd.concat([table for one in references for table in (one.library, one.held_out)])[COMPOUND].unique()
    labels, _ = label_matrix(activity, tasks, known, min_active=min_active, min_inactive=min_active)
    scored = []  # by each encoder: held-out compounds, new ones, and outcomes of the held-out
    for one in references:
        model = ManyTaskRidgeClassifier()
        model.fit(one.codes["library"], labels.loc[one.library[COMPOUND]].to_numpy(float))
        scores = (model.decision_function(one.codes[name]) for name in ("held_out", "new"))
        scored.append((*scores, labels.loc[one.held_out[COMPOUND]].to_numpy(float)))
    new = references[0].new
    table = pd.MultiIndex.from_product([new, labels.columns], names=["compound", "task"]).to_frame(index=False)
    table["family"] = table["task"].map(tasks.set_index("task")["family"])
    # actives that score no higher, inactives that score no lower
    for name, label, sign in (("p_active", 1, -1.0), ("p_inactive", 0, 1.0)):
        p_values = pd.DataFrame(np.nan, new, labels.columns)
        for column, task in enumerate(labels.columns):
            nulls = [sign * held_out[truth[:, column] == label, column] for held_out, _, truth in scored]
            values = [pd.DataFrame({task: sign * of_new[:, column]}, new) for _, of_new, _ in scored]
            if any(map(len, nulls)):
                p_values[task] = _pooled(values, nulls)[1]
        table[name] = p_values.to_numpy().ravel()
    not_active, not_inactive = (table[name] <= 1 - confidence for name in ("p_active", "p_inactive"))
    calls = [not_active & not_inactive, not_inactive, not_active]
    return table.assign(call=np.select(calls, ["neither", "active", "inactive"], default="undecided"))


# --- one row a compound ---------------------------------------------------------------------------------------


def compound_summary(
    wells: pd.DataFrame, plates: pd.DataFrame, calls: pd.DataFrame,
    neighbours: pd.DataFrame, mechanisms: pd.DataFrame,
) -> pd.DataFrame:  # fmt: skip
    """Everything about a new compound in one row, also of those whose plates could not be used.

    From all wells of the file, as read, the plates of `normalise_new`, and the tables of the functions above. `active`
    where any treatment is called (NaN where none could be tested), `activity_q` the smallest, the first neighbour and
    mechanism with their q, and why a compound was `left_out`.
    """
    treated = wells.loc[~wells[CONTROL].to_numpy(bool), METADATA_COLUMNS]
    used = treated[treated[PLATE].isin(plates.loc[plates["used"], "plate"])]
    by_compound = used.assign(treatment=treatments(used)).groupby(COMPOUND)
    table = pd.DataFrame({
        "n_wells": treated.groupby(COMPOUND).size(),
        "n_used_wells": by_compound.size(),
        "n_plates": by_compound[PLATE].nunique(),
        "n_treatments": by_compound["treatment"].nunique(),
    })  # fmt: skip
    table = table.fillna(0).astype(int)
    tested = calls[calls["p_value"].notna()].groupby("compound")
    table = table.assign(active=tested["active"].any().astype(object), activity_q=tested["q_value"].min())
    for kind, ranked in (("neighbour", neighbours), ("mechanism", mechanisms)):
        first = ranked[ranked["rank"] == 1].set_index("compound")
        table = table.assign(**{kind: first[kind], f"{kind}_q": first["q_value"]})
    table["left_out"] = np.where(table["n_used_wells"] == 0, "all its plates were left out", "")
    return table.rename_axis("compound").reset_index()
