"""Every way to represent a CP profile, as a scikit-learn estimator with one interface.

`fit(cp, tx, groups)` takes training pairs: prepared CP wells (n_wells, n_cp_features), the TX profile of the same
treatment in the same row (n_wells, n_genes), and the compound of each row. `transform(cp)` embeds any CP profile,
also of compounds that TX has never seen. Methods that need no TX ignore it. `save` writes a folder of safetensors and
JSON, `load_encoder` reads it; nothing is pickled.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.covariance import ledoit_wolf, shrunk_covariance
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted

from cpx_utils.profiles import ScreenError

CELL_COUNT = r"Number_Object_Number|(^|_)Cells?_?Count(_|$)|(^|_)Count(_|$)"  # how CellProfiler tables call it
CP_BASES = ("pca", "discriminants")
CONTRASTIVE_LOSSES = ("info_nce", "siglip", "cloob", "vicreg", "barlow_twins")
ROWS_AT_ONCE = 4096
USUAL_DISCRIMINANTS = 128  # fewer are a part of these, so that they can be remembered together
MAX_FEATURES = 1_000_000  # of a saved encoder: a number beyond that is damage
LARGEST_WEIGHT = 1e15
MAX_VALIDATION = 300  # held-out compounds: more would cost time and tell early stopping nothing new


class Encoder(TransformerMixin, BaseEstimator):
    """What all representations share: checks, saving and the promise to embed CP alone.

    Subclasses name their learned arrays in `learned`, so that saving needs no code of their own.
    """

    uses_tx = False
    cross_modal = False  # whether `transform_tx` puts TX profiles into the same space, for retrieval
    side_by_side = False  # whether `fit_parts` is faster than one fit after the other, which needs less memory
    learned: tuple[str, ...] = ()

    def fit(
        self,
        cp: np.ndarray,
        tx: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        controls: np.ndarray | None = None,
    ) -> "Encoder":
        """Fit on training wells.

        Parameters
        ----------
        cp
            Prepared CP profiles (n_wells, n_cp_features).
        tx
            TX profile of each row's treatment (n_wells, n_genes); only for methods with `uses_tx`.
        groups
            Compound of each row (n_wells,).
        controls
            Prepared CP profiles of negative-control wells (n_controls, n_cp_features), for sphering; may be empty.

        Raises
        ------
        ScreenError
            When this method cannot be fitted on such data, in words for the reader.
        """
        self._fit(*self._checked(cp, tx, groups), controls)
        return self

    def fit_parts(
        self, parts: list[dict[str, np.ndarray | None]], options: Sequence[dict[str, Any]] = ({},)
    ) -> list[list["Encoder"]]:
        """Fit a clone on each of several sets of training wells, with each of several choices of parameters.

        Parameters
        ----------
        parts
            The arguments of `fit`.
        options
            Parameters for `set_params`; the others stay.

        Returns
        -------
        list of lists
            For each of the options, the fitted encoder of each part.
        """
        return [[clone(self).set_params(**option).fit(**part) for part in parts] for option in options]

    def _checked(self, cp, tx, groups):
        """CP, TX and groups as arrays of the same rows; notes the number of features."""
        cp = np.asarray(cp, dtype=np.float64)
        if self.uses_tx and tx is None:
            raise ScreenError(f"{type(self).__name__} learns from pairs; it needs the TX profile of every row")
        tx = None if tx is None else np.asarray(tx, dtype=np.float64)
        if tx is not None and len(tx) != len(cp):
            raise ScreenError(f"{len(cp)} CP rows and {len(tx)} TX rows are no pairs; both need the same rows")
        self.n_features_in_ = cp.shape[1]
        return cp, tx, np.arange(len(cp)) if groups is None else np.asarray(groups)

    def name_features(self, names: list[str]) -> "Encoder":
        """Tell the encoder what its CP columns are called, in order; only `CellCount` needs to know."""
        return self

    def transform(self, cp: np.ndarray) -> np.ndarray:
        """Embed CP profiles: (n, n_cp_features) -> float32 (n, n_dimensions)."""
        check_is_fitted(self)
        cp = np.asarray(cp)
        if cp.shape[1] != self.n_features_in_:
            raise ScreenError(f"{cp.shape[1]} CP features given, the encoder was trained on {self.n_features_in_}")
        # In blocks, so that double precision never costs a large screen's table twice over.
        starts = range(0, max(len(cp), 1), ROWS_AT_ONCE)
        blocks = [self._transform(cp[start : start + ROWS_AT_ONCE].astype(np.float64)) for start in starts]
        return np.concatenate([block.astype(np.float32) for block in blocks])

    def save(self, folder: str | Path) -> None:
        """Write `encoder.json` (class and parameters) and `encoder.safetensors` (what was learned)."""
        from safetensors.numpy import save_file

        check_is_fitted(self)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        method = next(name for name, encoder in METHODS.items() if encoder is type(self))
        description = {"method": method, "parameters": self.get_params()}
        (folder / "encoder.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
        save_file(self._arrays(), folder / "encoder.safetensors")

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in self.learned}
        return {"n_features_in_": np.array([self.n_features_in_])} | arrays

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.n_features_in_ = int(arrays["n_features_in_"][0])
        for name in self.learned:
            setattr(self, name, arrays[name])


def load_encoder(folder: str | Path) -> Encoder:
    """Read an encoder that `save` wrote, and try it on two rows of zeros.

    Raises
    ------
    ScreenError
        The folder holds none: a file is missing or damaged, the method or a parameter is unknown or of another type,
        arrays don't fit each other or aren't finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    try:
        description = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        encoder = METHODS[description["method"]]()
        _require_types(description["parameters"], encoder.get_params())
        encoder.set_params(**description["parameters"])
        arrays = load_file(folder / "encoder.safetensors")
        if not all((np.abs(values.astype(np.float64)) < LARGEST_WEIGHT).all() for values in arrays.values()):
            raise ValueError("its arrays hold values that aren't finite, or beyond all measure")
        encoder._restore(arrays)
        if not 0 < encoder.n_features_in_ <= MAX_FEATURES:
            raise ValueError(f"it was trained on {encoder.n_features_in_} features")
        _try_on_zeros(encoder)
    except (
        OSError, AttributeError, LookupError, MemoryError, OverflowError, TypeError, ValueError, RuntimeError,
        SafetensorError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:300]  # torch explains itself over many lines
        raise ScreenError(f"{folder} holds no encoder of this version of cpx ({reason})") from error
    return encoder


def _require_types(parameters: dict, defaults: dict) -> None:
    """Refuse a parameter of another type than its default's: a list stands for a tuple, a whole number for a float."""
    for name, value in parameters.items():
        if name not in defaults:
            raise TypeError(f"parameter {name!r} is unknown")
        kind = type(defaults[name])
        given = {list: tuple, int: float if kind is float else int}.get(type(value), type(value))
        if given is not kind or (kind is tuple and not all(type(one) is int for one in value)):
            raise TypeError(f"parameter {name} is {str(value)[:40]!r}, of another type than {defaults[name]!r}")


def _try_on_zeros(encoder: Encoder) -> None:
    """Embed two rows, of TX too where that is possible: shapes that don't fit show before any profile is embedded."""
    codes = [encoder.transform(np.zeros((2, encoder.n_features_in_)))]
    if encoder.cross_modal:
        codes.append(encoder.transform_tx(np.zeros((2, len(encoder.tx_mean_)))))
    shapes = {code.shape for code in codes}
    if len(shapes) > 1 or any(code.ndim != 2 or len(code) != 2 for code in codes):
        raise ValueError(f"it gives embeddings of the shapes {sorted(shapes)} for two profiles")


class RawCP(Encoder):
    """The prepared CP features themselves: what every learned embedding must beat."""

    def _fit(self, cp, tx, groups, controls):
        self.fitted_ = np.ones(1)

    learned = ("fitted_",)

    def _transform(self, cp):
        return cp


class SpheredCP(Encoder):
    r"""ZCA-correlation sphering: directions in which negative controls vary count less.

    .. math:: z = (x - \mu)\, V^{-1/2} P^{-1/2}

    with variances :math:`V` and correlations :math:`P` of the negative controls, or of the training wells where there
    are too few controls. :math:`P` is shrunk towards the identity as Ledoit and Wolf (2004) propose, since a screen
    rarely has many more controls than features.

    References
    ----------
    Kessy 2018 (doi 10.1080/00031305.2016.1277159), equation for ZCA-cor.

    Failure mode: noise directions that controls hardly show are blown up; the shrinkage limits it.
    """

    learned = ("mean_", "whitening_")

    def __init__(self, min_controls: int = 50):
        self.min_controls = min_controls

    def _fit(self, cp, tx, groups, controls):
        use_controls = controls is not None and len(controls) >= self.min_controls
        reference = np.asarray(controls if use_controls else cp, dtype=np.float64)
        self.mean_, self.whitening_ = _sphering(reference)

    def _transform(self, cp):
        return (cp - self.mean_) @ self.whitening_


def _sphering(reference):
    """Mean (n_features,) and ZCA-correlation whitening (n_features, n_features) of reference wells."""
    mean, scale = reference.mean(axis=0), reference.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    correlation, _ = ledoit_wolf((reference - mean) / scale, assume_centered=True)
    values, vectors = np.linalg.eigh(correlation)
    return mean, (vectors / np.sqrt(values)) @ vectors.T / scale[:, None]


class PcaCP(Encoder):
    """Leading principal components of sphered CP.

    Failure mode: the largest variation need not be the one that matters.
    """

    learned = ("mean_", "projection_")

    def __init__(self, n_components: int = 50, sphere: bool = True):
        self.n_components = n_components
        self.sphere = sphere

    def _fit(self, cp, tx, groups, controls):
        covariance = np.cov(cp.T)
        sphering = np.eye(len(covariance))
        if self.sphere:
            sphering = SpheredCP().fit(cp, controls=controls).whitening_
        # Of sphered wells, without sphering them one by one.
        _, vectors = np.linalg.eigh(sphering.T @ covariance @ sphering)
        leading = vectors[:, ::-1][:, : min(self.n_components, *cp.shape)]
        self.projection_ = sphering @ leading  # (n_features, n_components)
        self.mean_ = cp.mean(axis=0) @ self.projection_

    def _transform(self, cp):
        return cp @ self.projection_ - self.mean_


class CellCount(Encoder):
    """The number of cells alone: what toxicity tells, and nothing of what the cells look like.

    Cell counts predict many assays as well as whole profiles do, so a profile has to beat them (Seal 2026).

    Parameters
    ----------
    column
        Which CP feature is the count, where `name_features` doesn't say.

    Failure mode: cosine similarity in one dimension knows two directions only, more cells or fewer.
    """

    learned = ("column_",)

    def __init__(self, column: int = 0):
        self.column = column

    def name_features(self, names):
        """Find the count among the CP features; raises ScreenError where there is none."""
        found = [number for number, name in enumerate(names) if re.search(CELL_COUNT, name)]
        if not found:
            raise ScreenError("no CP feature of this screen counts cells (such as Cells_Number_Object_Number)")
        return self.set_params(column=found[0])

    def _fit(self, cp, tx, groups, controls):
        self.column_ = np.array([self.column])

    def _transform(self, cp):
        return cp[:, self.column_]


class LdaIdentity(Encoder):
    r"""Linear discriminant analysis with the compound as class: what replicates alone teach, without any TX.

    Pairing several CP replicates with one TX profile also tells an encoder which wells belong together. This method
    gets exactly that and nothing else, so a TX method has to beat it. The class is the compound and not the treatment
    (compound at a dose), because a treatment sits in one well position on all replicate plates: discriminants of
    treatments learn positions, which a compound with several doses, and so several positions, shows to be noise. Fisher
    1936 (doi
    10.1111/j.1469-1809.1936.tb02137.x); within-class covariance shrunk as Ledoit and Wolf (2004) propose.

    Failure mode: without replicates there is nothing to learn, and it says so.
    """

    learned = ("mean_", "projection_")

    def __init__(self, n_components: int = 50):
        self.n_components = n_components

    def _fit(self, cp, tx, groups, controls):
        classes, of_well, counts = np.unique(groups, return_inverse=True, return_counts=True)
        if len(classes) < 3 or np.median(counts) < 2:
            raise ScreenError("LDA on compound identity needs replicates, and this screen has one profile a compound")
        wanted = min(self.n_components, len(classes) - 1)
        self.projection_ = _discriminants(cp, of_well, max(wanted, USUAL_DISCRIMINANTS))[:, :wanted]
        self.mean_ = cp.mean(axis=0) @ self.projection_

    def _transform(self, cp):
        return cp @ self.projection_ - self.mean_


def _discriminants(cp, of_well, n_wanted):
    """Leading linear discriminants of compounds, the strongest first: (n_features, up to n_wanted)."""
    means, counts = _group_means(cp, of_well), np.bincount(of_well)
    within, shrinkage = _within_compounds(cp, of_well, means)
    means = means - cp.mean(axis=0)
    total = within + (means * counts[:, None]).T @ means / len(cp)
    within, total = (shrunk_covariance(one, shrinkage) for one in (within, total))
    # scikit-learn's solver "eigen", whose loop over hundreds of classes takes most of its time.
    return eigh(total - within, within)[1][:, ::-1][:, :n_wanted].copy()


def _within_compounds(cp, of_well, means):
    """Covariance (n_features, n_features) of wells around their compound's mean, and its Ledoit-Wolf shrinkage.

    Of the pooled deviations: scikit-learn's "auto" shrinks each class by itself, and two replicates not at all. The
    shrinkage is `sklearn.covariance.ledoit_wolf_shrinkage`, which would work out the covariance again, and its square.
    """
    deviations = cp - means[of_well]
    n_wells, n_features = cp.shape
    within = deviations.T @ deviations / n_wells
    mean_variance = np.trace(within) / n_features
    squared = (within**2).sum()
    beta = (((deviations**2).sum(axis=1) ** 2).sum() / n_wells - squared) / (n_features * n_wells)
    delta = squared / n_features - mean_variance**2
    return within, min(beta, delta) / delta if beta > 0 < delta else 0.0


def _group_means(values, of_row):
    """Means of the rows of each group, (n_groups, n_features); `of_row` holds group numbers from 0 on."""
    means = np.zeros((of_row.max() + 1, values.shape[1]))
    np.add.at(means, of_row, values)
    return means / np.bincount(of_row)[:, None]


class RidgeTX(Encoder):
    r"""Ridge regression from CP to TX; the embedding is the predicted TX profile.

    .. math:: W = (X^\top X + \alpha I)^{-1} X^\top Y

    TX is denoised to its leading components first. The penalty is chosen by cross-validation over training compounds,
    not wells: replicates of a compound share their TX profile and would vouch for each other.

    References
    ----------
    Hoerl and Kennard 1970 (doi 10.1080/00401706.1970.10488634).

    Failure mode: predictions shrink towards the mean profile where CP says little.
    """

    uses_tx = True
    cross_modal = True
    learned = ("mean_", "weights_", "tx_mean_", "tx_components_")
    alphas = np.logspace(-2, 3, 16)  # times the number of rows

    def __init__(self, n_tx_components: int = 50, n_inner_folds: int = 5):
        self.n_tx_components = n_tx_components
        self.n_inner_folds = n_inner_folds

    def _fit(self, cp, tx, groups, controls):
        pca = leading_components(tx, self.n_tx_components)
        self.tx_mean_, self.tx_components_ = pca.mean_, pca.components_  # (n_genes,), (n_components, n_genes)
        scores = pca.transform(tx)  # (n_wells, n_components)
        part = np.empty(len(cp), dtype=np.int64)
        folds = GroupKFold(min(self.n_inner_folds, len(np.unique(groups)))).split(cp, groups=groups)
        for number, (_, rows) in enumerate(folds):
            part[rows] = number
        self.mean_ = cp.mean(axis=0)
        errors, weights = _ridge_path(cp - self.mean_, scores, part, self.alphas)
        best = np.argmin(errors)
        self.alpha_, self.weights_ = self.alphas[best], weights(best)  # (n_features, n_components)

    def _transform(self, cp):
        return (cp - self.mean_) @ self.weights_

    def transform_tx(self, tx: np.ndarray) -> np.ndarray:
        """TX profiles (n, n_genes) in the coordinates of the prediction: float32 (n, n_components)."""
        return ((tx - self.tx_mean_) @ self.tx_components_.T).astype(np.float32)


def _ridge_path(x, y, part, alphas):
    """Squared error of ridge regression on parts held out, by penalty (times n rows), and its weights on all rows.

    Parameters
    ----------
    x
        Centred rows (n, n_features).
    y
        Targets (n, n_targets).
    part
        Number of each row's part, from 0 on.
    alphas
        Penalties, all above 0.

    Returns
    -------
    errors, weights
        (n_alphas,), and a function of a penalty's number that gives (n_features, n_targets).
    """
    y = y - y.mean(axis=0)
    products = [(x[part == number].T @ y[part == number], y[part == number].sum(axis=0)) for number in np.unique(part)]
    product = sum(one for one, _ in products)  # (n_features, n_targets)
    spectra = _ridge_spectra(x, part)
    errors = np.zeros(len(alphas))
    for number, (own, sum_own) in enumerate(products):
        n_train, mean, values, vectors, scatter = spectra[number]
        n_own = len(x) - n_train
        centre = -sum_own / n_train  # mean of the others' targets, since all together have mean 0
        within = vectors.T @ (product - own - n_train * np.outer(mean, centre))
        about = vectors.T @ (own - np.outer(mean, sum_own) + np.outer(n_own * mean - x[part == number].sum(0), centre))
        total = ((y[part == number] - centre) ** 2).sum()
        for place, alpha in enumerate(alphas):
            weights = within / (values + alpha * n_train)[:, None]
            errors[place] += total - 2 * (about * weights).sum() + ((scatter @ weights) * weights).sum()
    _, _, values, vectors, _ = spectra[-1]
    projected = vectors.T @ product
    return errors, lambda place: vectors @ (projected / (values + alphas[place] * len(x))[:, None])


def _ridge_spectra(x, part):
    """What ridge regression on centred rows needs of them alone, for each part left out, and last for none.

    The number and mean of the rows that stay, eigenvalues and -vectors of their scatter, and the scatter of the others
    around that mean, in coordinates of the eigenvectors.
    """
    grams = [x[part == number].T @ x[part == number] for number in np.unique(part)]
    sums = [x[part == number].sum(axis=0) for number in np.unique(part)]
    nothing = np.zeros_like(grams[0]), np.zeros(x.shape[1]), 0
    left_out = [*zip(grams, sums, np.bincount(part), strict=True), nothing]
    total = sum(grams)
    spectra = []
    for own, sum_own, n_own in left_out:
        n_train = len(x) - n_own
        mean = -sum_own / n_train
        values, vectors = np.linalg.eigh(total - own - n_train * np.outer(mean, mean))
        cross = np.outer(sum_own, mean)
        scatter = own - cross - cross.T + n_own * np.outer(mean, mean)
        spectra.append((n_train, mean, np.maximum(values, 0.0), vectors, vectors.T @ scatter @ vectors))
    return tuple(spectra)


class RegularisedCCA(Encoder):
    r"""Regularised canonical correlation analysis, CP side.

    Directions :math:`a, b` that maximise :math:`a^\top C_{xy} b` with
    :math:`a^\top (C_{xx} + \kappa I) a = b^\top (C_{yy} + \lambda I) b = 1`, on leading components of both modalities;
    each coordinate is scaled by its canonical correlation, so that uncorrelated directions fade.

    Parameters
    ----------
    n_dimensions
        Canonical variates.
    n_cp_components, n_tx_components
        Leading components of each modality; at most a third of the number of training compounds.
    shrinkage
        Of the whitening: 0 gives all components unit variance, 1 keeps their variances up to one factor.
    cp_basis
        What the CP side starts from: `discriminants` of LDA on identity, so that it stands on what replicates teach
        already (features, where the screen has no replicates), or `pca` of the features.

    References
    ----------
    Hotelling 1936 (doi 10.1093/biomet/28.3-4.321); ridge terms as in Vinod 1976 (doi 10.1016/0304-4076(76)90010-5).

    Failure mode: with more components than compounds, correlations of 1 that mean nothing; hence few components and
    the ridge terms.
    """

    uses_tx = True
    cross_modal = True
    learned = ("mean_", "projection_", "tx_mean_", "tx_projection_", "correlations_")

    def __init__(
        self,
        n_dimensions: int = 32,
        n_cp_components: int = 60,
        n_tx_components: int = 60,
        shrinkage: float = 0.3,
        cp_basis: str = "discriminants",
    ):
        self.n_dimensions = n_dimensions
        self.n_cp_components = n_cp_components
        self.n_tx_components = n_tx_components
        self.shrinkage = shrinkage
        self.cp_basis = cp_basis

    def _fit(self, cp, tx, groups, controls):
        basis = cp_basis(cp, groups, self.cp_basis, self.n_cp_components)  # (n_features, n_basis)
        limit = component_limit(groups)
        codes = cp @ basis  # (n_wells, n_basis)
        cp_pca = leading_components(codes, min(self.n_cp_components, limit))
        tx_pca = leading_components(tx, min(self.n_tx_components, limit))
        from_basis = _whitening(cp_pca, self.shrinkage)  # (n_basis, n_cp_components)
        tx_white = _whitening(tx_pca, self.shrinkage)  # (n_genes, n_tx_components)
        self.mean_, self.tx_mean_ = cp.mean(axis=0), tx_pca.mean_
        cross = ((codes - cp_pca.mean_) @ from_basis).T @ ((tx - self.tx_mean_) @ tx_white) / (len(cp) - 1)
        left, correlations, right = np.linalg.svd(cross, full_matrices=False)
        kept = slice(0, self.n_dimensions)
        self.correlations_ = correlations[kept]
        self.projection_ = basis @ from_basis @ left[:, kept] * self.correlations_  # (n_features, n_dimensions)
        self.tx_projection_ = tx_white @ right[kept].T * self.correlations_  # (n_genes, n_dimensions)

    def _transform(self, cp):
        return (cp - self.mean_) @ self.projection_

    def transform_tx(self, tx: np.ndarray) -> np.ndarray:
        """Canonical variates of TX profiles: (n, n_genes) -> float32 (n, n_dimensions)."""
        return ((tx - self.tx_mean_) @ self.tx_projection_).astype(np.float32)


def cp_basis(cp: np.ndarray, groups: np.ndarray, name: str, n_components: int) -> np.ndarray:
    """What the CP side of a TX method starts from, as a linear map of the CP features.

    Parameters
    ----------
    cp, groups
        Training wells (n_wells, n_features) and their compounds.
    name
        `discriminants`: those of LDA on identity, in which replicate noise has unit variance; a screen without
        replicates has none, and its features stay as they are. `pca`: the features as they are.
    n_components
        Number of discriminants.

    Returns
    -------
    array (n_features, n_basis)

    Raises
    ------
    ScreenError
        For another name.
    """
    if name not in CP_BASES:
        raise ScreenError(f"cp_basis {name!r} is unknown: choose one of {', '.join(CP_BASES)}")
    if name == "discriminants":
        try:
            return LdaIdentity(n_components).fit(cp, groups=groups).projection_
        except ScreenError:  # no replicates
            pass
    return np.eye(cp.shape[1])


def leading_components(values: np.ndarray, n_wanted: int) -> PCA:
    """Leading principal components of (n, n_features) values, as many as there can be."""
    # From the covariance where rows are many: the same components, several times faster.
    solver = "covariance_eigh" if len(values) > values.shape[1] else "full"
    return PCA(min(n_wanted, *values.shape), svd_solver=solver).fit(values)


def component_limit(groups: np.ndarray) -> int:
    """A third of the number of training compounds: with more components, chance alone correlates them."""
    return max(2, len(np.unique(groups)) // 3)


def _whitening(pca, shrinkage):
    """Map to components of unit variance, with a ridge of `shrinkage` times their mean variance."""
    variance = pca.explained_variance_
    return pca.components_.T / np.sqrt((1 - shrinkage) * variance + shrinkage * variance.mean())


class ReplicateCCA(Encoder):
    r"""Directions on which the wells of a compound agree with each other and with their TX profiles.

    With CP whitened by the covariance within compounds, :math:`B` the covariance between compounds and :math:`C` the
    cross-covariance of wells with whitened TX, the embedding spans the leading eigenvectors of

    .. math:: w\, B / \lVert B \rVert + (1 - w)\, C C^\top / \lVert C C^\top \rVert

    At :math:`w = 1` it is LDA on identity, at :math:`w = 0` a CCA that knows the replicate noise. In between, TX helps
    to tell weak signal from noise. Fisher 1936; Kettenring 1971 (doi 10.1093/biomet/58.3.433) for correlation among
    more than two sets.

    Parameters
    ----------
    n_dimensions
        Eigenvectors kept.
    replicate_weight
        :math:`w`.
    n_tx_components, shrinkage
        Leading TX components, and how their variances are shrunk together, as in `RegularisedCCA`.

    Failure mode: a TX that has nothing to do with CP draws directions away from the replicates; deranged pairs fall
    below LDA on identity. Without replicates it cannot be fitted.
    """

    uses_tx = True
    learned = ("mean_", "projection_")

    def __init__(
        self,
        n_dimensions: int = 20,
        replicate_weight: float = 0.3,
        n_tx_components: int = 60,
        shrinkage: float = 0.3,
    ):
        self.n_dimensions = n_dimensions
        self.replicate_weight = replicate_weight
        self.n_tx_components = n_tx_components
        self.shrinkage = shrinkage

    def _fit(self, cp, tx, groups, controls):
        _, of_well, counts = np.unique(groups, return_inverse=True, return_counts=True)
        if np.median(counts) < 2:
            raise ScreenError("CCA with replicates needs replicates, and this screen has one profile a compound")
        whitening, between = _between_compounds(cp, of_well)
        self.mean_ = cp.mean(axis=0)
        tx_pca = leading_components(tx, min(self.n_tx_components, component_limit(groups)))
        tx_codes = (tx - tx_pca.mean_) @ _whitening(tx_pca, self.shrinkage)  # (n_wells, n_tx_components)
        cross = whitening.T @ ((cp - self.mean_).T @ tx_codes) / len(cp)  # (n_features, n_tx_components)
        weight = self.replicate_weight
        joint = weight * between + (1 - weight) * cross @ cross.T / np.linalg.norm(cross, 2) ** 2
        last = len(joint) - 1
        leading = eigh(joint, subset_by_index=[max(last + 1 - self.n_dimensions, 0), last])[1][:, ::-1]
        self.projection_ = whitening @ leading

    def _transform(self, cp):
        return (cp - self.mean_) @ self.projection_


def _between_compounds(cp, of_well):
    """Whitening by the covariance within compounds; their covariance then, of norm 1: (n_features, n_features)."""
    means, counts = _group_means(cp, of_well), np.bincount(of_well)  # (n_compounds, n_features)
    within, shrinkage = _within_compounds(cp, of_well, means)
    within = shrunk_covariance(within * len(cp) / (len(cp) - len(means)), shrinkage)
    values, vectors = np.linalg.eigh(within)
    whitening = vectors / np.sqrt(values)
    whitened = (means - cp.mean(axis=0)) @ whitening
    # Noise of the means is subtracted, so that only what compounds differ in is left.
    between = whitened.T @ whitened / len(means) - np.eye(len(values)) / counts.mean()
    return whitening, between / np.linalg.norm(between, 2)


@dataclass(eq=False, repr=False, kw_only=True)
class NetworkEncoder(Encoder):
    """What both networks share: leading components as input, the training loop, early stopping, saving.

    A step sees one well of each compound, so no compound competes with itself. Training stops when the loss on
    held-out training compounds no longer improves; then networks are trained again on all training compounds for as
    many epochs, since with few compounds every one counts. Several members, each with weights, noise and held-out
    compounds of its own, agree on that number of epochs and put their codes side by side: a few dozen held-out
    compounds alone would choose it by chance. At last, on all training compounds, they see the same batches.

    Parameters
    ----------
    n_members
        Networks of the ensemble.
    n_dimensions
        Length of one member's code.
    hidden
        Widths of hidden layers; none makes the heads linear, which serves small screens best.
    n_cp_components, n_tx_components
        Leading principal components that the heads see; at most a third of the number of training compounds.
    cp_basis
        What the CP components are taken of: `discriminants` of LDA on identity, so that the heads start from what
        replicates teach already (features, where the screen has no replicates), or `pca` of the features.
    whitening_shrinkage
        0 gives all components unit variance; 1 keeps their variances, up to one common factor.
    input_noise
        Standard deviation of the Gaussian noise added to inputs of about unit variance, new in every step.
    dropout, weight_decay, learning_rate, batch_size
        As usual (AdamW); `batch_size` counts compounds.
    max_epochs, max_steps, patience
        An epoch shows one random well of every compound, a step one batch. Training ends after `max_epochs` or
        `max_steps` (whole epochs, at least one), or after `patience` epochs without a new lowest loss on the held-out
        compounds. With `max_epochs` 0 weights stay as they were drawn.
    validation_share
        Share of the training compounds held out for that, 300 of them at most; 0 trains for `max_epochs`.
    device
        `auto` (a GPU if there is one), `cpu` or `cuda`.
    seed
        Seed of weights, noise, batches and the held-out compounds.

    Attributes
    ----------
    history_ : list of dict
        `member`, `epoch`, `training` and `validation` loss of the training with held-out compounds.
    best_epoch_ : int
        The number of epochs chosen.
    """

    uses_tx: ClassVar[bool] = True
    cross_modal: ClassVar[bool] = True
    side_by_side: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]] = ("cp_mean_", "cp_components_", "tx_mean_", "tx_components_")
    amounts: ClassVar[tuple[str, ...]] = ("input_noise",)  # what may differ among networks side by side

    n_members: int = 3
    n_dimensions: int = 32
    hidden: tuple[int, ...] = ()
    n_cp_components: int = 50
    n_tx_components: int = 60
    cp_basis: str = "discriminants"
    whitening_shrinkage: float = 0.5
    input_noise: float = 1.0
    dropout: float = 0.0
    weight_decay: float = 0.01
    learning_rate: float = 0.02
    batch_size: int = 256
    max_epochs: int = 400
    max_steps: int = 1000
    patience: int = 40
    validation_share: float = 0.15
    device: str = "auto"
    seed: int = 0

    def _fit(self, cp, tx, groups, controls):
        self._fit_networks([self], [self._training_set(cp, tx, groups)])

    def fit_parts(self, parts, options=({},)):
        """As `Encoder.fit_parts`, with many networks trained side by side where heads are linear.

        Those of all parts are, and those of options that differ in `learning_rate` or `amounts` alone. A step then
        shows each network as many compounds as the smallest part has: of a larger one, a few drawn at random wait for
        a later epoch.
        """
        fitted = [[clone(self).set_params(**option) for _ in parts] for option in options]
        alike: dict[str, list] = {}
        for part, *encoders in zip(parts, *fitted, strict=True):
            wells = encoders[0]._checked(part["cp"], part["tx"], part["groups"])
            for encoder in encoders:
                encoder.n_features_in_ = encoders[0].n_features_in_
                training_set = encoder._training_set(*wells)
                alike.setdefault(encoder._common_settings(training_set), []).append((encoder, training_set))
        for some in alike.values():
            some.sort(key=lambda one: one[0].learning_rate)  # networks of one rate are moved by one call
            some[0][0]._fit_networks(*zip(*some, strict=True))
        return fitted

    def _training_set(self, cp, tx, groups):
        """What networks are trained on: components of CP and TX, and each compound's rows (`_wells_by_compound`)."""
        self.device_ = _device(self.device)
        self._fit_inputs(cp, tx, groups)
        return self._cp_inputs(cp), self._tx_inputs(tx), *_wells_by_compound(groups)

    def _common_settings(self, training_set):
        """What must be the same for networks to be trained side by side, in words."""
        cp, tx, _, counts = training_set
        own = {"learning_rate", *self.amounts}
        settings = {name: value for name, value in self.get_params().items() if name not in own}
        sizes = cp.shape[1], tx.shape[1], self._n_validation(len(counts)) > 0
        draws = self.input_noise > 0  # without noise none is drawn, and what is drawn after it differs
        return repr((settings, sizes, draws, self._has_closed_gradients()))

    def _fit_networks(self, encoders, training_sets):
        """Fit encoders of the same `_common_settings`, this one among them, each on its own `_training_set`."""
        import torch

        *inputs, rows, counts = zip(*training_sets, strict=True)
        data = [torch.as_tensor(np.concatenate(some), dtype=torch.float32, device=self.device_) for some in inputs]
        starts = np.cumsum([0, *(len(cp) for cp in inputs[0][:-1])])
        compounds = [(own + start, n) for own, n, start in zip(rows, counts, starts, strict=True)]
        watched, final = [], []
        for encoder, own in zip(encoders, compounds, strict=True):
            encoder.history_, n_validation = [], self._n_validation(len(own[0]))
            # A generator for each training, so that none depends on when another member's stopped.
            on_trial, at_last = np.random.default_rng(self.seed).spawn(2)
            for number, rng in enumerate(on_trial.spawn(self.n_members) if n_validation else []):
                parts = np.split(rng.permutation(len(own[0])), [n_validation])
                validation, training = (tuple(one[part] for one in own) for part in parts)
                watched.append(_Member(encoder, number, rng, training, validation))
            order = int(at_last.integers(2**31))
            final += [
                _Member(encoder, number, rng, own, order=order)
                for number, rng in enumerate(at_last.spawn(self.n_members))
            ]
        if watched:
            self._train_all(data, watched)
        for encoder, own in zip(encoders, compounds, strict=True):
            encoder.history_.sort(key=lambda line: (line["member"], line["epoch"]))
            encoder.best_epoch_ = _best_epoch(encoder.history_) if watched else self._most_epochs(len(own[0]))
        networks = iter(self._train_all(data, final))
        for encoder in encoders:
            encoder.networks_ = list(islice(networks, self.n_members))

    def _n_validation(self, n_compounds):
        """Training compounds held out to find the number of epochs; none where there is nothing to find."""
        n_validation = min(round(self.validation_share * n_compounds), MAX_VALIDATION)
        return n_validation if n_validation >= 2 and self.max_epochs > 0 else 0

    def _most_epochs(self, n_compounds):
        """Epochs within both limits; at least one, unless no training is wanted at all."""
        return min(self.max_epochs, max(1, self.max_steps // -(-n_compounds // self.batch_size)))

    def _fit_inputs(self, cp, tx, groups):
        basis = cp_basis(cp, groups, self.cp_basis, self.n_cp_components)  # (n_features, n_basis)
        limit = component_limit(groups)
        cp_pca = leading_components(cp @ basis, min(self.n_cp_components, limit))
        tx_pca = leading_components(tx, min(self.n_tx_components, limit))
        self.cp_mean_, self.tx_mean_ = cp.mean(axis=0), tx_pca.mean_
        self.cp_components_ = basis @ _whitening(cp_pca, self.whitening_shrinkage)  # (n_features, n_cp_components)
        self.tx_components_ = _whitening(tx_pca, self.whitening_shrinkage)  # (n_genes, n_tx_components)

    def _cp_inputs(self, cp):
        return (cp - self.cp_mean_) @ self.cp_components_

    def _tx_inputs(self, tx):
        return (tx - self.tx_mean_) @ self.tx_components_

    def _has_closed_gradients(self):
        """Whether `_closed_gradients` sets the gradients of a step, without automatic differentiation.

        On a few hundred compounds a step is so short that the bookkeeping of automatic differentiation takes longer
        than the products themselves. Networks side by side have no weight in common, so each gets its own gradient.
        """
        return not self.hidden

    def _train_all(self, data, members):
        """Train a network for each member: side by side where heads are linear, else one after the other."""
        if self._has_closed_gradients():
            return self._train(data, members)
        return [network for member in members for network in member.encoder._train(data, [member])]

    def _train(self, data, members):
        """Train members together, each for its encoder's `best_epoch_`, or with held-out compounds until it stops.

        A network that has ended leaves, and the others go on faster.
        """
        import torch

        from cpx_utils.networks import AdamW, keep, side_by_side, write_back

        cp, tx = data
        is_stacked = self._has_closed_gradients()
        watch = _Watch(data, members, is_stacked) if members[0].validation is not None else None
        n_compounds = min(len(member.training[0]) for member in members)
        most = self._most_epochs(n_compounds)
        generators: dict[int, torch.Generator] = {}
        orders: dict[tuple[int, int], np.random.Generator] = {}
        for member in members:
            number = int(member.rng.integers(2**31))
            member.noise = generators.setdefault(number, torch.Generator(device=cp.device).manual_seed(number))
            member.epochs = most if watch else member.encoder.best_epoch_
            member.batches_rng = member.rng
            if member.order is not None:
                key = id(member.encoder), member.order
                member.batches_rng = orders.setdefault(key, np.random.default_rng(member.order))
        with torch.random.fork_rng(devices=[]):  # weights and dropout are seeded; the caller's state stays
            for member in members:
                torch.manual_seed(int(member.rng.integers(2**31)))
                member.network = member.encoder._network(cp.shape[1], tx.shape[1]).to(cp.device)
            network = side_by_side([one.network for one in members]) if is_stacked else members[0].network
            rates = [member.encoder.learning_rate for member in members]
            optimiser = AdamW(network.parameters(), rates, self.weight_decay)
            set_gradients = self._closed_gradients if is_stacked else self._automatic_gradients
            present, amounts = members, self._amounts(members, cp.device)
            for epoch in range(1, max(member.epochs for member in members) + 1):
                network.train()
                noise = [member.noise for member in present]
                for batch in self._batches_of(present, n_compounds):
                    set_gradients(network, *(_rows_of(one, batch, is_stacked) for one in data), noise, amounts)
                    optimiser.step()
                ended = np.array([epoch == member.epochs for member in present])
                if watch:
                    ended |= watch.note(network.eval(), epoch, amounts)
                if ended.all():
                    break
                if ended.any():
                    write_back(network, [one.network for one in present], np.flatnonzero(ended))
                    stay = np.flatnonzero(~ended)
                    present = [present[place] for place in stay]
                    keep(network, optimiser, stay)
                    amounts = self._amounts(present, cp.device)
                    if watch:
                        watch.keep(stay)
        if is_stacked:
            write_back(network, [one.network for one in present], range(len(present)))
        return [member.network.eval() for member in members]

    def _batches_of(self, members, n_compounds):
        """An epoch's batches: for each a list of the rows of every member, or of every run of members that share them.

        Runs count only where all are equally long.
        """
        runs = [list(run) for _, run in groupby(members, key=lambda member: id(member.batches_rng))]
        batches = [_batches(*run[0].training, n_compounds, self.batch_size, run[0].batches_rng) for run in runs]
        if len({len(run) for run in runs}) > 1:
            batches = [own for own, run in zip(batches, runs, strict=True) for _ in run]
        return zip(*batches, strict=True)

    def _amounts(self, members, device):
        """Each of `amounts` by name: a number where all members agree, else a tensor (n_networks, 1, 1)."""
        import torch

        values = {name: [getattr(member.encoder, name) for member in members] for name in self.amounts}
        return {
            name: some[0] if len(set(some)) == 1 else torch.tensor(some, device=device).view(-1, 1, 1)
            for name, some in values.items()
        }

    def _automatic_gradients(self, network, cp, tx, torch_rngs, amounts):
        """Set the gradients of one step by automatic differentiation."""
        network.zero_grad()
        self._loss(network, cp, tx, torch_rngs, amounts).backward()

    def _encode(self, part: str, inputs: np.ndarray) -> np.ndarray:
        """Unit-length codes of every member's head `part`, side by side: (n, n_members * n_dimensions)."""
        import torch

        inputs = torch.as_tensor(inputs, dtype=torch.float32, device=self.device_)
        with torch.no_grad():
            codes = [getattr(network, part)(inputs) for network in self.networks_]
            codes = [torch.nn.functional.normalize(code, dim=1) for code in codes]
        return torch.cat(codes, dim=1).cpu().numpy()

    def _arrays(self):
        state = {
            f"network.{member}.{name}": value.cpu().numpy()
            for member, network in enumerate(self.networks_)
            for name, value in network.state_dict().items()
        }
        return super()._arrays() | state

    def _restore(self, arrays):
        import torch

        super()._restore(arrays)
        # What was trained on a GPU must open on a laptop.
        self.device_ = _device("auto" if self.device == "cuda" else self.device)
        self.networks_ = []
        largest = max(values.size for values in arrays.values())
        widths = [*self.hidden, self.n_dimensions]
        members = {name.split(".")[1] for name in arrays if name.startswith("network.")}
        if len(members) != self.n_members or min(widths) < 1 or max(map(prod, pairwise([1, *widths]))) > largest:
            raise ValueError("its networks are of other sizes than its parameters say")
        for member in range(self.n_members):
            prefix = f"network.{member}."
            network = self._network(self.cp_components_.shape[1], self.tx_components_.shape[1])
            network.load_state_dict(
                {
                    name.removeprefix(prefix): torch.as_tensor(value)
                    for name, value in arrays.items()
                    if name.startswith(prefix)
                }
            )
            self.networks_.append(network.to(self.device_).eval())


@dataclass(eq=False, repr=False, kw_only=True)
class ContrastiveEncoder(NetworkEncoder):
    r"""A head for CP and one for TX, trained so that each CP profile finds its own TX profile among all others.

    .. math::
        L = -\tfrac{1}{2N} \sum_i \Big(\log \frac{e^{s_{ii}/\tau}}{\sum_j e^{s_{ij}/\tau}}
            + \log \frac{e^{s_{ii}/\tau}}{\sum_j e^{s_{ji}/\tau}}\Big),
        \qquad s_{ij} = \cos(f(x_i), g(y_j))

    Parameters
    ----------
    loss
        `info_nce` (above), `siglip`, `cloob`, `vicreg` or `barlow_twins`, as in `cpx_utils.losses`.
    softness
        Share of the answer that goes to similar TX profiles instead of the own one (`losses.soft_targets`); only for
        `info_nce`, and 0 is the equation above.
    temperature
        :math:`\tau`; the lower, the sharper a profile must win against all others. `vicreg` and `barlow_twins` have
        none.
    learn_temperature
        Whether :math:`\tau` is trained along, from `temperature` on.

    Notes
    -----
    The other parameters and the attributes are those of `NetworkEncoder`. van den Oord 2018 (arXiv 1807.03748),
    Radford 2021 (arXiv 2103.00020).

    Failure mode: inactive compounds look alike and are still each other's wrong answers; and several CP replicates
    with one TX profile teach replicates even where TX says nothing, which is what the deranged control shows.
    """

    amounts: ClassVar[tuple[str, ...]] = ("input_noise", "temperature")

    loss: str = "info_nce"
    softness: float = 0.0
    temperature: float = 0.3
    learn_temperature: bool = False

    def _network(self, n_cp, n_tx):
        from cpx_utils.networks import TwoTower

        if self.loss not in CONTRASTIVE_LOSSES:
            raise ScreenError(f"loss {self.loss!r} is unknown: choose one of {', '.join(CONTRASTIVE_LOSSES)}")
        if not 0 <= self.softness <= 1:
            raise ScreenError(f"softness is {self.softness:g}; it is a share of the answer, from 0 to 1")
        if self.softness and self.loss != "info_nce":
            raise ScreenError(f"softness softens the targets of info_nce, and {self.loss} has none: set it to 0")
        if not self.temperature > 0:
            raise ScreenError(f"temperature is {self.temperature:g}; it divides similarities and must be above 0")
        return TwoTower(
            n_cp, n_tx, self.n_dimensions, self.hidden, self.dropout, self.temperature, self.learn_temperature
        )

    def _has_closed_gradients(self):
        from cpx_utils.losses import LOWEST_SAFE_TEMPERATURE

        linear = not self.hidden and not self.learn_temperature
        return linear and self.loss == "info_nce" and LOWEST_SAFE_TEMPERATURE <= self.temperature <= 10

    def _loss(self, network, cp, tx, torch_rngs, amounts):
        codes = network(*(_noisy(one, amounts["input_noise"], torch_rngs) for one in (cp, tx)))
        return self._pair_loss(network, *codes, tx)

    def _closed_gradients(self, network, cp, tx, torch_rngs, amounts):
        import torch

        from cpx_utils.losses import info_nce_gradients, soft_targets
        from cpx_utils.networks import set_linear_gradients

        with torch.no_grad():
            target = _each(soft_targets(tx, self.softness), len(torch_rngs)) if self.softness else None
            noisy = [_noisy(one, amounts["input_noise"], torch_rngs) for one in (cp, tx)]
            gradients = info_nce_gradients(*network(*noisy), amounts["temperature"], target)
            for head, inputs, gradient in zip((network.cp, network.tx), noisy, gradients, strict=True):
                set_linear_gradients(head, inputs, gradient)

    def _validation_loss(self, network, cp, tx, amounts):
        return self._pair_loss(network, *network(cp, tx), tx)

    def _pair_loss(self, network, cp_codes, tx_codes, tx):
        from cpx_utils import losses

        if self.softness:
            target = losses.soft_targets(tx, self.softness)
            return losses.soft_info_nce(cp_codes, tx_codes, network.temperature, target)
        function = getattr(losses, self.loss)
        if self.loss in ("vicreg", "barlow_twins"):
            return function(cp_codes, tx_codes)
        return function(cp_codes, tx_codes, network.temperature)

    def _transform(self, cp):
        return self._encode("cp", self._cp_inputs(cp))

    def transform_tx(self, tx: np.ndarray) -> np.ndarray:
        """TX profiles in the shared space: (n, n_genes) -> float32 (n, n_dimensions)."""
        return self._encode("tx", self._tx_inputs(tx))


@dataclass(eq=False, repr=False, kw_only=True)
class SoftContrastiveEncoder(ContrastiveEncoder):
    """The contrastive encoder with targets softened by TX similarity.

    Inactive compounds all have nearly the same TX profile. `ContrastiveEncoder` still asks a CP profile to tell its
    own from theirs, and learns noise by it; here they share the answer. Parameters and attributes are the same.
    Srinivasa 2023 (CWCL, arXiv 2309.14580).

    Failure mode: two mechanisms that TX cannot tell apart are no longer asked to differ in CP either.
    """

    softness: float = 0.5


@dataclass(eq=False, repr=False, kw_only=True)
class AutoencoderEncoder(NetworkEncoder):
    r"""A bimodal autoencoder: one shared code from CP, from TX or from both, which must rebuild both.

    .. math:: L = \lambda\, \lVert x - \hat x(h) \rVert^2 + \lVert y - \hat y(h) \rVert^2

    with the code :math:`h` the mean of what the present modalities say. TX is dropped at random in training, so that CP
    alone gives the code, as it must for new compounds. Errors are means over components.

    Parameters
    ----------
    tx_dropout
        Share of training pairs whose code comes from CP alone; of the others, half see TX alone.
    cp_weight
        :math:`\lambda`; the lower, the more the code serves TX.

    Notes
    -----
    The other parameters and the attributes are those of `NetworkEncoder`. Early stopping watches the error with TX
    absent. Ngiam 2011 (ICML), section 3.

    Failure mode: what varies most is rebuilt first, whether it matters or not; with a high `cp_weight` the code is
    little more than principal components.
    """

    amounts: ClassVar[tuple[str, ...]] = ("input_noise", "tx_dropout", "cp_weight")

    tx_dropout: float = 0.5
    cp_weight: float = 0.3

    def _network(self, n_cp, n_tx):
        from cpx_utils.networks import BimodalAutoencoder

        return BimodalAutoencoder(n_cp, n_tx, self.n_dimensions, self.hidden, self.dropout)

    def _loss(self, network, cp, tx, torch_rngs, amounts):
        from cpx_utils.losses import reconstruction

        cp_out, tx_out = network(*self._spoiled(cp, tx, torch_rngs, amounts))
        return amounts["cp_weight"] * reconstruction(cp_out, cp) + reconstruction(tx_out, tx)

    def _spoiled(self, cp, tx, torch_rngs, amounts):
        """What a training step encodes: noisy CP and TX, and which of them are present, each (..., n_pairs, 1)."""
        noisy = [_noisy(one, amounts["input_noise"], torch_rngs) for one in (cp, tx)]
        draw, tx_dropout = _drawn("uniform_", cp[..., :1], torch_rngs), amounts["tx_dropout"]
        has_tx = (draw >= tx_dropout).float()
        has_cp = (draw < tx_dropout + (1 - tx_dropout) / 2).float()  # of the rest, half see TX alone
        return *noisy, has_cp, has_tx

    def _closed_gradients(self, network, cp, tx, torch_rngs, amounts):
        *noisy, has_cp, has_tx = self._spoiled(cp, tx, torch_rngs, amounts)
        targets = [_each(one, len(torch_rngs)) for one in (cp, tx)]
        network.set_reconstruction_gradients(noisy, (has_cp, has_tx), targets, (amounts["cp_weight"], 1.0))

    def _validation_loss(self, network, cp, tx, amounts):
        import torch

        from cpx_utils.losses import reconstruction

        yes, no = torch.ones_like(cp[..., :1]), torch.zeros_like(cp[..., :1])
        cp_out, tx_out = network(cp, tx, yes, no)
        cp_weight = torch.as_tensor(amounts["cp_weight"], device=cp.device).reshape(-1)
        return cp_weight * reconstruction(cp_out, cp) + reconstruction(tx_out, tx)

    def _transform(self, cp):
        return self._encode("encode_cp", self._cp_inputs(cp))

    def transform_tx(self, tx: np.ndarray) -> np.ndarray:
        """Codes of TX profiles alone: (n, n_genes) -> float32 (n, n_dimensions)."""
        return self._encode("encode_tx", self._tx_inputs(tx))


@dataclass
class _Member:
    """One network of an encoder: the wells of its compounds as `_wells_by_compound` gives them, and its training."""

    encoder: NetworkEncoder
    number: int
    rng: np.random.Generator
    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray] | None = None
    order: int | None = None  # seed of batches that all members of the encoder share; without one `rng` draws them
    batches_rng: np.random.Generator | None = None
    noise: Any = None
    epochs: int = 0
    network: Any = None


class _Watch:
    """The loss of held-out compounds after each epoch, and which networks still wait for a new lowest one.

    Beside it, in `history_`, stands the loss of as many training compounds, without noise or dropout either: a loss
    that depends on the number of compounds is only comparable between equal numbers.
    """

    def __init__(self, data, members, is_stacked):
        n_watched = min(len(member.validation[0]) for member in members)
        self._members = members
        self._rows = {
            name: [
                _rows_of(values, [getattr(member, name)[0][:n_watched, 0] for member in members], is_stacked)
                for values in data
            ]
            for name in ("training", "validation")
        }
        self._lowest = np.full(len(members), np.inf)
        self._waited = np.zeros(len(members), dtype=int)

    def note(self, network, epoch, amounts):
        """Note each network's losses; a boolean array (n_networks,), True of those that have waited long enough."""
        import torch

        encoder = self._members[0].encoder
        with torch.no_grad():
            losses = {name: encoder._validation_loss(network, *rows, amounts) for name, rows in self._rows.items()}
        losses = {name: values.reshape(-1).cpu().numpy().astype(float) for name, values in losses.items()}
        for place, member in enumerate(self._members):
            line = {name: float(values[place]) for name, values in losses.items()}
            member.encoder.history_.append({"member": member.number, "epoch": epoch, **line})
        better = losses["validation"] < self._lowest
        self._lowest = np.where(better, losses["validation"], self._lowest)
        self._waited = np.where(better, 0, self._waited + 1)
        return self._waited >= encoder.patience

    def keep(self, places):
        """Go on with the networks at these places."""
        self._members = [self._members[place] for place in places]
        self._rows = {name: [values[places] for values in rows] for name, rows in self._rows.items()}
        self._lowest, self._waited = self._lowest[places], self._waited[places]


def _rows_of(values, rows, is_stacked):
    """Rows of a tensor for each list of them, stacked: (n_lists, n, d); or those of a single list (n, d)."""
    import torch

    picked = torch.as_tensor(np.concatenate(rows), device=values.device)
    found = values.index_select(0, picked)
    return found.view(len(rows), -1, values.shape[1]) if is_stacked else found


def _drawn(distribution, like, torch_rngs):
    """Random numbers for each network from its generator, which networks of one seed share, and what it gives.

    Of the shape of `like`; where that is stacked, (n_networks, ...), with all networks in front.
    """
    import torch

    shape = (len(torch_rngs), *like.shape[1:]) if like.ndim == 3 else like.shape
    drawn = torch.empty(shape, dtype=like.dtype, device=like.device)
    known: dict[torch.Generator, torch.Tensor] = {}
    for part, torch_rng in zip([drawn] if len(torch_rngs) == 1 else drawn, torch_rngs, strict=True):
        if torch_rng in known:
            part.copy_(known[torch_rng])
        else:
            known[torch_rng] = getattr(part, distribution)(generator=torch_rng)
    return drawn


def _noisy(values, amount, torch_rngs):
    """Each network's values with noise of its own; without noise the values, still shared by runs of networks."""
    if isinstance(amount, (int, float)) and not amount:
        return values
    return _drawn("normal_", values, torch_rngs).mul_(amount).add_(_each(values, len(torch_rngs)))


def _each(values, n_networks):
    """Values of runs of networks, (n_runs, ...), for each network of a run: (n_networks, ...)."""
    if values.ndim < 3 or len(values) in (1, n_networks):  # one run broadcasts
        return values
    return values.repeat_interleave(n_networks // len(values), dim=0)


def _device(name: str) -> str:
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ScreenError(f"no device is called {name!r}; devices are auto, cpu and cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ScreenError("device cuda was asked for and no GPU is there; use auto or cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _wells_by_compound(groups):
    """Row numbers of each compound's wells (n_compounds, most wells), padded with the first, and how many it has."""
    order = np.argsort(groups, kind="stable")
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    place = np.arange(counts.max())
    return order[starts[:, None] + np.where(place < counts[:, None], place, 0)], counts


def _batches(rows, counts, n_compounds, batch_size, rng):
    """Row numbers of an epoch in batches: one random well of every compound, or of `n_compounds` drawn from them."""
    chosen = rows[np.arange(len(rows)), (rng.random(len(rows)) * counts).astype(int)]
    rng.shuffle(chosen)
    return np.array_split(chosen[:n_compounds], -(-n_compounds // batch_size))


def _best_epoch(history):
    """Epoch with the lowest validation loss, averaged over members and smoothed over five epochs.

    A member that stopped early counts with its last loss, so that the mean isn't of the patient ones alone.
    """
    curves = pd.DataFrame(history).pivot(index="epoch", columns="member", values="validation").ffill()
    return int(curves.mean(axis=1).rolling(5, center=True, min_periods=1).mean().idxmin())


METHODS: dict[str, type[Encoder]] = {
    "raw_cp": RawCP,
    "sphered_cp": SpheredCP,
    "pca_cp": PcaCP,
    "cell_count": CellCount,
    "lda_identity": LdaIdentity,
    "ridge_tx": RidgeTX,
    "rcca": RegularisedCCA,
    "rcca_replicates": ReplicateCCA,
    "autoencoder": AutoencoderEncoder,
    "contrastive": ContrastiveEncoder,
    "contrastive_soft": SoftContrastiveEncoder,
}
