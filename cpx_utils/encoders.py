"""Every way to represent a CP profile, as a scikit-learn estimator with one interface.

`fit(cp, tx, groups)` takes training pairs: prepared CP wells (n_wells, n_cp_features), the TX profile of the same
treatment in the same row (n_wells, n_genes), and the group of each row: its compound, or the structure that several ids
share. `transform(cp)` embeds any CP profile, also of compounds that TX has never seen. Methods that need no TX ignore
it. `save` writes a folder of safetensors and JSON, `load_encoder` reads it; nothing is pickled.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage, shrunk_covariance
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted

from cpx_utils.profiles import ScreenError

CELL_COUNT = r"Number_Object_Number|(^|_)Cells?_?Count(_|$)|(^|_)Count(_|$)"  # how CellProfiler tables call it
# The contrastive form that starts from what replicates teach (contrastive_replicates, contrastive_joint), and needs
# little else.
ON_DISCRIMINANTS = {
    "on_discriminants": True,
    "hidden": (),
    "n_cp_components": 50,
    "n_tx_components": 60,
    "whitening_shrinkage": 0.5,
    "input_noise": 1.0,
    "learning_rate": 0.02,
}
BOUNDS = {"temperature": (0.001, 1000.0), "softness": (0.0, 1.0)}  # what cosines are divided by; a share
ROWS_AT_ONCE = 4096
MIN_CONTROLS = 50  # negative controls; fewer say little of how features vary together
WHITENING_PRIOR = 40  # compounds whose variances are equal in all components
ROUNDING = 1e-10  # of the largest variance: what a direction without any has
MAX_VALIDATION = 300  # held-out compounds: more would cost time and tell early stopping nothing new


class Encoder(TransformerMixin, BaseEstimator):
    """What all representations share: checks, saving and the promise to embed CP alone.

    A subclass brings `_transform(cp)`. If it learns from CP it brings `_fit_cp(cp, groups, controls)`, and if from TX
    `_fit_tx(cp, tx, groups, maps)` and `transform_tx(tx)`, which puts TX profiles into the same space. Arrays that it
    learned have names that end with an underscore, and are saved.
    """

    uses_tx = False
    takes_unpaired = False  # whether it also learns from wells without TX, whose rows of `tx` are NaN

    def fit(
        self,
        cp: np.ndarray,
        tx: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        controls: np.ndarray | None = None,
        maps: np.ndarray | None = None,
    ) -> "Encoder":
        """Fit on training wells: `fit_cp`, then `fit_tx`.

        Parameters
        ----------
        cp
            Prepared CP profiles (n_wells, n_cp_features).
        tx
            TX profile of each row's treatment (n_wells, n_genes); only for methods with `uses_tx`.
        groups
            Compound of each row (n_wells,), or the structure that several ids share.
        controls
            Prepared CP profiles of negative controls (n_controls, n_cp_features), for sphering; may be empty.
        maps
            Plate map of each row (n_wells,), for networks whose batches stay within maps.

        Raises
        ------
        ScreenError
            When this method cannot be fitted on such data, or a parameter is out of bounds.
        """
        groups = np.arange(len(cp)) if groups is None else np.asarray(groups)
        return self.fit_cp(cp, groups, controls).fit_tx(cp, tx, groups, maps)

    def fit_cp(self, cp: np.ndarray, groups: np.ndarray, controls: np.ndarray | None = None) -> "Encoder":
        """Learn what CP alone tells: the first half of `fit`, which pairs and controls that differ in TX only share."""
        self.check_parameters()
        self.n_features_in_ = cp.shape[1]
        self._fit_cp(np.asarray(cp, dtype=np.float64), groups, controls)
        return self

    def fit_tx(
        self, cp: np.ndarray, tx: np.ndarray | None, groups: np.ndarray, maps: np.ndarray | None = None
    ) -> "Encoder":
        """Learn from pairs of the wells that `fit_cp` saw: the second half of `fit`; nothing for methods without TX.

        Once after each `fit_cp`, since some methods drop what they need no longer; `crossfit.fit_draws` fits copies.
        """
        if self.uses_tx:
            if tx is None or len(tx) != len(cp):
                raise ScreenError(f"{type(self).__name__} needs the TX profile of each of the {len(cp)} CP rows")
            self._fit_tx(np.asarray(cp, dtype=np.float64), np.asarray(tx, dtype=np.float64), groups, maps)
        return self

    def check_parameters(self) -> None:
        """Refuse parameters that are out of bounds, as ScreenError; `fit` asks, and whoever wants to know before."""
        for name, (lowest, highest) in BOUNDS.items():
            value = self.get_params().get(name, lowest)
            if not lowest <= value <= highest:
                raise ScreenError(f"{type(self).__name__}: {name} is {value:g}, not from {lowest:g} to {highest:g}")

    def _fit_cp(self, cp, groups, controls):
        pass

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
        check_is_fitted(self)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        method = next(name for name, encoder in METHODS.items() if encoder is type(self))
        parameters = self.get_params()
        if callable(parameters.get("loss")):
            parameters["loss"] = f"{self.loss.__module__}.{self.loss.__name__}"
        description = json.dumps({"method": method, "parameters": parameters}, indent=1)
        (folder / "encoder.json").write_text(description, encoding="utf-8")
        save_file(self._arrays(), folder / "encoder.safetensors")

    def _arrays(self):
        """What was learned, by name."""
        learned = {name: value for name, value in vars(self).items() if name.endswith("_")}
        arrays = {name: np.ascontiguousarray(value) for name, value in learned.items() if isinstance(value, np.ndarray)}
        return arrays | {"n_features_in_": np.array([self.n_features_in_])}

    def _restore(self, arrays):
        """Take back what `_arrays` gave."""
        for name, values in arrays.items():
            setattr(self, name, values)
        self.n_features_in_ = int(arrays["n_features_in_"][0])


def load_encoder(folder: str | Path) -> Encoder:
    """Read an encoder that `save` wrote, and try it on two rows of zeros; ScreenError where it isn't whole."""
    folder = Path(folder)
    try:
        description = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        encoder = METHODS[description["method"]](**description["parameters"])
        arrays = load_file(folder / "encoder.safetensors")
        if not all(np.isfinite(values).all() for values in arrays.values()):
            raise ValueError("its arrays hold values that aren't finite")
        encoder._restore(arrays)
        encoder.transform(np.zeros((2, encoder.n_features_in_)))
        if encoder.uses_tx:
            encoder.transform_tx(np.zeros((2, len(encoder.tx_mean_))))
    except (OSError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, SafetensorError,
            TypeError, ValueError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:300]  # torch explains itself over many lines
        raise ScreenError(f"{folder} holds no encoder of this version of cpx ({reason})") from error
    return encoder


class RawCP(Encoder):
    """The prepared CP features themselves: what every learned embedding must beat."""

    def _transform(self, cp):
        return cp


@dataclass(eq=False, repr=False)
class CellCount(Encoder):
    """The number of cells alone: what toxicity tells, and nothing of what the cells look like.

    Cell counts predict many assays as well as whole profiles do, so a profile has to beat them (Seal 2026). `column`
    says which CP feature is the count, where `name_features` doesn't.

    Failure mode: cosine similarity in one dimension knows two directions only, more cells or fewer.
    """

    column: int = 0

    def name_features(self, names):
        """Find the count among the CP features; raises ScreenError where there is none."""
        found = [number for number, name in enumerate(names) if re.search(CELL_COUNT, name)]
        if not found:
            raise ScreenError("no CP feature of this screen counts cells (such as Cells_Number_Object_Number)")
        return self.set_params(column=found[0])

    def _transform(self, cp):
        return cp[:, [self.column]]


class LinearEncoder(Encoder):
    """An embedding that is a linear map of CP, and for cross-modal methods one of TX into the same space."""

    def _transform(self, cp):
        return (cp - self.mean_) @ self.projection_

    def transform_tx(self, tx: np.ndarray) -> np.ndarray:
        """TX profiles in the space of the embedding: (n, n_genes) -> float32 (n, n_dimensions)."""
        return ((tx - self.tx_mean_) @ self.tx_projection_).astype(np.float32)


class SpheredCP(LinearEncoder):
    r"""ZCA-correlation sphering: directions in which negative controls vary count less.

    .. math:: z = (x - \mu)\, V^{-1/2} P^{-1/2}

    with variances :math:`V` and correlations :math:`P` of the negative controls, or of the training wells where there
    are too few controls. :math:`P` is shrunk towards the identity as Ledoit and Wolf (2004) propose, since a screen
    rarely has many more controls than features. Kessy 2018 (doi 10.1080/00031305.2016.1277159), ZCA-cor.

    Failure mode: noise directions that controls hardly show are blown up; the shrinkage limits it.
    """

    def _fit_cp(self, cp, groups, controls):
        enough = controls is not None and len(controls) >= MIN_CONTROLS
        reference = np.asarray(controls if enough else cp, dtype=np.float64)
        self.mean_, scale = reference.mean(axis=0), reference.std(axis=0)
        scale = np.where(scale > 1e-6, scale, 1.0)
        correlation, _ = ledoit_wolf((reference - self.mean_) / scale, assume_centered=True)
        values, vectors = np.linalg.eigh(correlation)
        self.projection_ = (vectors / np.sqrt(values)) @ vectors.T / scale[:, None]


@dataclass(eq=False, repr=False)
class PcaCP(LinearEncoder):
    """Leading principal components of sphered CP.

    Failure mode: the largest variation need not be the one that matters.
    """

    n_components: int = 50

    def _fit_cp(self, cp, groups, controls):
        sphering = SpheredCP().fit(cp, controls=controls).projection_
        # Of sphered wells, without sphering them one by one.
        _, vectors = np.linalg.eigh(sphering.T @ np.cov(cp.T) @ sphering)
        leading = vectors[:, ::-1][:, : min(self.n_components, *cp.shape)]
        self.mean_, self.projection_ = cp.mean(axis=0), sphering @ leading


@dataclass(eq=False, repr=False)
class LdaIdentity(LinearEncoder):
    r"""Linear discriminant analysis with the compound as class: what replicates alone teach, without any TX.

    Pairing several CP replicates with one TX profile also tells an encoder which wells belong together. This method
    gets exactly that and nothing else, so a TX method has to beat it. The class is the compound and not the treatment
    (compound at a dose), because a treatment sits in one well position on all replicate plates: discriminants of
    treatments learn positions, which a compound with several doses, and so several positions, shows to be noise. Fisher
    1936 (doi 10.1111/j.1469-1809.1936.tb02137.x); within-class covariance shrunk as Ledoit and Wolf (2004) propose.

    Failure mode: without replicates there is nothing to learn, and it says so.
    """

    n_components: int = 20

    def _fit_cp(self, cp, groups, controls):
        classes, of_well, counts = np.unique(groups, return_inverse=True, return_counts=True)
        if len(classes) < 3 or np.median(counts) < 2:
            raise ScreenError("LDA on compound identity needs replicates, and this screen has one profile a compound")
        deviations = cp - pd.DataFrame(cp).groupby(of_well).transform("mean").to_numpy()
        # Of the pooled deviations: scikit-learn's "auto" shrinks each class by itself, and two replicates not at all.
        shrinkage = ledoit_wolf_shrinkage(deviations, assume_centered=True)
        covariances = deviations.T @ deviations / len(cp), np.cov(cp.T, bias=True)
        within, total = (shrunk_covariance(one, shrinkage) for one in covariances)
        # scikit-learn's solver "eigen", whose loop over hundreds of classes takes most of its time.
        strongest = eigh(total - within, within)[1][:, ::-1]
        self.mean_ = cp.mean(axis=0)
        self.projection_ = strongest[:, : min(self.n_components, len(classes) - 1)].copy()


@dataclass(eq=False, repr=False)
class RidgeTX(LinearEncoder):
    r"""Ridge regression from CP to TX; the embedding is the predicted TX profile.

    .. math:: W = (X^\top X + \alpha I)^{-1} X^\top Y

    TX is denoised to its leading components first. The penalty is chosen by cross-validation over training compounds,
    not wells: replicates of a compound share their TX profile and would vouch for each other. Hoerl and Kennard 1970
    (doi 10.1080/00401706.1970.10488634).

    Failure mode: predictions shrink towards the mean profile where CP says little.
    """

    uses_tx = True
    alphas = np.logspace(-2, 3, 16)  # times the number of rows
    n_inner_folds = 5

    n_tx_components: int = 50

    def _fit_cp(self, cp, groups, controls):
        n_folds = min(self.n_inner_folds, len(np.unique(groups)))
        self._inner = []  # of each inner fold its rows, and what ridge regression needs of them
        for training, held_out in GroupKFold(n_folds).split(cp, groups=groups):
            mean, values, vectors = _eigenvectors(cp[training])
            codes = (cp[held_out] - mean) @ vectors
            self._inner.append((training, held_out, mean, values, vectors, codes.T @ codes))
        self.mean_, self._values, self._vectors = _eigenvectors(cp)

    def _fit_tx(self, cp, tx, groups, maps):
        pca = leading_components(tx, self.n_tx_components)
        self.tx_mean_, self.tx_projection_ = pca.mean_, pca.components_.T  # (n_genes,), (n_genes, n_components)
        targets = pca.transform(tx)  # (n_wells, n_components), of mean 0
        errors = sum(self._errors(cp, targets, *part) for part in self._inner)
        self.alpha_ = self.alphas[np.argmin(errors)]
        product = self._vectors.T @ ((cp - self.mean_).T @ targets)
        self.projection_ = self._vectors @ (product / (self._values + self.alpha_ * len(cp))[:, None])
        del self._inner, self._values, self._vectors  # as large as many encoders

    def _errors(self, cp, targets, training, held_out, mean, values, vectors, scatter):
        """Squared errors (n_alphas,) on held-out rows, all in coordinates of the training rows' eigenvectors.

        With codes Z and targets Y of the held-out rows and weights B, ||Y - Z B||^2 is ||Y||^2 and the sum over all
        cells of (Z'Z B - 2 Z'Y) B: the rows are seen once, however many penalties are tried.
        """
        centre = targets[training].mean(axis=0)
        product = vectors.T @ (cp[training].T @ (targets[training] - centre))
        expected = targets[held_out] - centre
        about = vectors.T @ ((cp[held_out] - mean).T @ expected)  # Z'Y
        errors = np.full(len(self.alphas), (expected**2).sum())
        for place, alpha in enumerate(self.alphas):
            weights = product / (values + alpha * len(training))[:, None]
            errors[place] += ((scatter @ weights - 2 * about) * weights).sum()
        return errors


def _eigenvectors(cp):
    """Mean of the rows, and eigenvalues and eigenvectors of their scatter around it."""
    mean = cp.mean(axis=0)
    values, vectors = np.linalg.eigh((cp - mean).T @ (cp - mean))
    return mean, np.maximum(values, 0.0), vectors


@dataclass(eq=False, repr=False)
class RegularisedCCA(LinearEncoder):
    r"""Regularised canonical correlation analysis, CP side.

    Directions :math:`a, b` that maximise :math:`a^\top C_{xy} b` with
    :math:`a^\top (C_{xx} + \kappa I) a = b^\top (C_{yy} + \lambda I) b = 1`, on leading components of TX and of CP's
    discriminants (of CP itself without replicates); each coordinate is scaled by its canonical correlation, so that
    uncorrelated directions fade. Hotelling 1936 (doi 10.1093/biomet/28.3-4.321); ridge terms as in Vinod 1976 (doi
    10.1016/0304-4076(76)90010-5).

    Parameters
    ----------
    n_dimensions
        Canonical variates.
    n_cp_components, n_tx_components
        Leading components of each modality; at most a third of the number of training compounds.
    shrinkage
        Of the whitening: 0 gives all components unit variance, 1 keeps their variances up to one factor.

    Failure mode: with more components than compounds, correlations of 1 that mean nothing; hence few components and
    the ridge terms.
    """

    uses_tx = True

    n_dimensions: int = 32
    n_cp_components: int = 60
    n_tx_components: int = 60
    shrinkage: float = 0.3

    def _fit_cp(self, cp, groups, controls):
        self.mean_, self._cp_white = cp_components(cp, groups, True, self.n_cp_components, self.shrinkage)

    def _fit_tx(self, cp, tx, groups, maps):
        self.tx_mean_, tx_white = whitened_components(tx, groups, self.n_tx_components, self.shrinkage)
        cross = ((cp - self.mean_) @ self._cp_white).T @ ((tx - self.tx_mean_) @ tx_white) / (len(cp) - 1)
        left, correlations, right = np.linalg.svd(cross, full_matrices=False)
        kept = slice(0, self.n_dimensions)
        self.correlations_ = correlations[kept]
        self.projection_ = self._cp_white @ left[:, kept] * self.correlations_  # (n_features, n_dimensions)
        self.tx_projection_ = tx_white @ right[kept].T * self.correlations_  # (n_genes, n_dimensions)


def cp_components(
    cp: np.ndarray, groups: np.ndarray, on_discriminants: bool, n_wanted: int, shrinkage: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """`whitened_components` of CP as it is, or of its discriminants.

    These are as many of LDA on identity as asked for, in which replicate noise has unit variance, so that a TX method
    stands on what replicates teach already. A screen without replicates has none, and its features stay as they are.
    """
    start = np.eye(cp.shape[1])  # (n_features, n_basis)
    if on_discriminants:
        with suppress(ScreenError):  # no replicates
            start = LdaIdentity(n_wanted).fit(cp, groups=groups).projection_
    _, components = whitened_components(cp @ start, groups, n_wanted, shrinkage)
    return cp.mean(axis=0), start @ components


def leading_components(values: np.ndarray, n_wanted: int) -> PCA:
    """Leading principal components of (n, n_features) values, as many as there can be."""
    # From the covariance where rows are many: the same components, several times faster.
    solver = "covariance_eigh" if len(values) > values.shape[1] else "full"
    return PCA(min(n_wanted, *values.shape), svd_solver=solver).fit(values)


def whitened_components(
    values: np.ndarray, groups: np.ndarray, n_wanted: int, shrinkage: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (n_features,) of rows, and the map (n_features, n_components) to leading components drawn to unit variance.

    At most a third as many as compounds: with more, chance alone correlates them with anything. `shrinkage` draws their
    variances towards the mean; at 1 components keep their variances, up to one common factor. None: by the weight of
    `WHITENING_PRIOR` against the number of compounds, since few say little of small variances. Directions in which rows
    don't vary, such as those of genes that repeat others, are left out (zeros).
    """
    n_compounds = len(np.unique(groups))
    pca = leading_components(values, min(n_wanted, max(2, n_compounds // 3)))
    variance = pca.explained_variance_
    if shrinkage is None:
        shrinkage = WHITENING_PRIOR / (WHITENING_PRIOR + n_compounds)
    ridged = (1 - shrinkage) * variance + shrinkage * variance.mean()
    return pca.mean_, pca.components_.T / np.sqrt(np.where(variance > ROUNDING * variance[0], ridged, np.inf))


@dataclass(eq=False, repr=False, kw_only=True)
class NetworkEncoder(Encoder):
    """What the networks share: leading components as input, training, early stopping, saving.

    A step sees one well of each compound (with `n_views` 2 another one, too, as its answer), so none competes with
    itself. Training stops when the loss on held-out training compounds no longer improves; then a network is trained
    again on all training compounds for as many epochs, since with few compounds every one counts.

    Parameters
    ----------
    n_dimensions, hidden
        Length of the code; widths of hidden layers, none of which makes the heads linear.
    n_cp_components, n_tx_components
        Leading principal components that the heads see; at most a third of the number of training compounds.
    on_discriminants
        Whether CP components are those of its discriminants (`cp_components`) or of the features as they are.
    whitening_shrinkage
        0 gives all components unit variance; 1 keeps their variances, up to one common factor; None, 0.1 with 360
        training compounds and more with fewer (`whitened_components`).
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
    batches_within_maps
        Whether a batch holds compounds of one plate map alone: then telling plates apart wins nothing.
    device, seed
        `auto` (a GPU if there is one), `cpu` or `cuda`; seed of weights, noise, batches and the held-out compounds.

    Attributes
    ----------
    history_ : list of dict
        `epoch`, `training` and `validation` loss: of the held-out compounds, and of as many others; `chance`: that of
        codes which say the same of every compound.
    best_epoch_ : int
        The number of epochs chosen: the lowest validation loss, smoothed over five epochs.
    """

    uses_tx = True
    network: ClassVar[str]  # class of `cpx_utils.networks`
    n_views = 1  # wells of a compound in a batch

    n_dimensions: int = 32
    hidden: tuple[int, ...] = (256,)
    n_cp_components: int = 100
    n_tx_components: int = 20
    on_discriminants: bool = False
    whitening_shrinkage: float | None = None
    input_noise: float = 0.5
    dropout: float = 0.2
    weight_decay: float = 0.01
    learning_rate: float = 0.005
    batch_size: int = 256
    max_epochs: int = 200
    max_steps: int = 1000
    patience: int = 20
    validation_share: float = 0.15
    batches_within_maps: bool = False
    device: str = "auto"
    seed: int = 0

    def _fit_cp(self, cp, groups, controls):
        n_wanted, shrinkage = self.n_cp_components, self.whitening_shrinkage
        self.cp_mean_, self.cp_components_ = cp_components(cp, groups, self.on_discriminants, n_wanted, shrinkage)

    def _fit_tx(self, cp, tx, groups, maps):
        paired = ~np.isnan(tx).any(axis=1)
        tx_parts = whitened_components(tx[paired], groups[paired], self.n_tx_components, self.whitening_shrinkage)
        self.tx_mean_, self.tx_components_ = tx_parts
        inputs = self._inputs("cp", cp), self._inputs("tx", tx)
        _, of_well, counts = np.unique(groups, return_inverse=True, return_counts=True)
        wells = np.split(np.argsort(of_well, kind="stable"), np.cumsum(counts)[:-1])  # rows of each compound
        maps = maps if self.batches_within_maps else None
        n_held_out = min(round(self.validation_share * len(wells)), MAX_VALIDATION) if self.max_epochs else 0
        self.history_, self.best_epoch_ = [], self._most_epochs(len(wells))
        # A generator for each training, so that neither depends on when the other one stopped.
        on_trial, at_last = np.random.default_rng(self.seed).spawn(2)
        if n_held_out >= 2:
            order = on_trial.permutation(len(wells))
            held_out, training = ([wells[i] for i in some] for some in np.split(order, [n_held_out]))
            self.history_ = self._train(inputs, training, self._most_epochs(len(training)), on_trial, maps, held_out)
            unseen = pd.Series([line["validation"] for line in self.history_])
            self.best_epoch_ = int(unseen.rolling(5, center=True, min_periods=1).mean().idxmin()) + 1
        self._train(inputs, wells, self.best_epoch_, at_last, maps)

    def _train(self, inputs, wells, n_epochs, rng, maps, held_out=()):
        """Train a new network on the wells of compounds; its loss by epoch. torch's own random state stays."""
        import torch

        from cpx_utils.networks import pick_device, train

        torch.set_num_threads(1)  # small matrices: more threads wait for each other, and round differently
        device = pick_device(self.device)
        options = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "batch_size", "patience")}
        options |= {"rng": rng, "n_views": self.n_views, "maps": maps, "held_out": held_out}
        with torch.random.fork_rng(devices=[] if device == "cpu" else None):
            torch.manual_seed(int(rng.integers(2**31)))
            self.network_ = self._untrained().to(device)
            return train(self.network_, self._loss, inputs, wells, n_epochs, **options)

    def _untrained(self):
        """A network of this form, with weights as torch draws them."""
        from cpx_utils import networks

        n_inputs = self.cp_components_.shape[1], self.tx_components_.shape[1]
        make = getattr(networks, self.network)
        return make(*n_inputs, self.n_dimensions, self.hidden, self.dropout, self.input_noise)

    def _inputs(self, modality, profiles):
        """Components of profiles as the heads see them: (n, n_features) -> float32 (n, n_components)."""
        mean, components = getattr(self, f"{modality}_mean_"), getattr(self, f"{modality}_components_")
        return ((profiles - mean) @ components).astype(np.float32)

    def _most_epochs(self, n_compounds):
        """Epochs within both limits; at least one, unless no training is wanted at all."""
        return min(self.max_epochs, max(1, self.max_steps // -(-n_compounds // self.batch_size)))

    def _transform(self, cp):
        return self.network_.codes("cp", self._inputs("cp", cp))

    def transform_tx(self, tx: np.ndarray) -> np.ndarray:
        """Codes of TX profiles alone: (n, n_genes) -> float32 (n, n_dimensions)."""
        return self.network_.codes("tx", self._inputs("tx", tx))

    def _arrays(self):
        state = self.network_.state_dict().items()
        return super()._arrays() | {f"network.{name}": value.cpu().numpy() for name, value in state}

    def _restore(self, arrays):
        import torch

        from cpx_utils.networks import pick_device

        names = [name for name in arrays if name.startswith("network.")]
        state = {name.removeprefix("network."): torch.as_tensor(arrays.pop(name)) for name in names}
        super()._restore(arrays)
        with torch.device("meta"):  # takes no memory, however large the parameters say that it is
            network = self._untrained()
        network.load_state_dict(state, assign=True)
        # What was trained on a GPU must open on a laptop.
        self.network_ = network.to(pick_device("auto" if self.device == "cuda" else self.device)).eval()


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
        The name of a function of `cpx_utils.losses`, or any function `loss(cp_codes, tx_codes, temperature)` of two
        tensors (n_pairs, n_dimensions) that gives a scalar: it is what trains. A saved encoder keeps its name alone,
        so one with a loss from elsewhere still embeds, and can't be trained again.
    temperature
        :math:`\tau`, above 0; the lower, the sharper a profile must win against all others.

    The other parameters and the attributes are those of `NetworkEncoder`. van den Oord 2018 (arXiv 1807.03748),
    Radford 2021 (arXiv 2103.00020).

    Failure mode: inactive compounds look alike and are still each other's wrong answers; and several CP replicates
    with one TX profile teach replicates even where TX says nothing, which is what the deranged control shows.
    """

    network = "TwoTower"

    temperature: float = 0.3
    loss: str | Callable = "info_nce"

    def check_parameters(self):
        """Refuse a temperature out of bounds, or an unknown loss, as ScreenError."""
        super().check_parameters()
        self._loss_function()

    def _loss_function(self):
        from cpx_utils import losses

        name = str(self.loss).removeprefix("cpx_utils.losses.")
        known = self.loss if callable(self.loss) else getattr(losses, name, None)
        if known is None:
            raise ScreenError(f"loss {self.loss!r} is none of cpx_utils.losses; give a name there, or the function")
        return known

    def _loss(self, network, cp, tx):
        return self._loss_function()(*network(cp, tx), self.temperature)


@dataclass(eq=False, repr=False, kw_only=True)
class SoftContrastiveEncoder(ContrastiveEncoder):
    """The contrastive encoder with targets softened by TX similarity (`losses.soft_info_nce`).

    Inactive compounds all have nearly the same TX profile. `ContrastiveEncoder` still asks a CP profile to tell its
    own from theirs, and learns noise by it; here they share the answer. `softness`, from 0 to 1, is the share of the
    answer that goes to similar TX profiles; `loss` gets the targets behind the temperature. The rest is the same.
    Srinivasa 2023 (CWCL, arXiv 2309.14580).

    Failure mode: two mechanisms that TX cannot tell apart are no longer asked to differ in CP either.
    """

    loss: str | Callable = "soft_info_nce"
    softness: float = 0.5

    def _loss(self, network, cp, tx):
        from cpx_utils.losses import soft_targets

        return self._loss_function()(*network(cp, tx), self.temperature, soft_targets(tx, self.softness))


@dataclass(eq=False, repr=False, kw_only=True)
class JointContrastiveEncoder(ContrastiveEncoder):
    r"""CP agrees with TX on pairs, and replicates of a compound agree with each other, in one loss.

    .. math:: L = L(f(x), g(y)) + w\, L(f(x), f(x'))

    with :math:`x'` another well of the same compound, in the same form of loss: supervised contrastive learning
    (Khosla 2020, arXiv 2004.11362) with one positive. Compounds without TX (rows of NaN) take part in the second term.
    `replicate_weight` is :math:`w`; the higher, the more replicates and the fewer mechanisms come together. The other
    parameters and the attributes are those of `ContrastiveEncoder`; the study starts from `ON_DISCRIMINANTS`.

    Failure mode: replicates share more than their compound, such as a well position; what they share is learned.
    """

    n_views = 2
    takes_unpaired = True

    replicate_weight: float = 0.2

    def _loss(self, network, cp, tx, other_cp):
        loss, is_paired = self._loss_function(), ~tx[:, 0].isnan()
        own, other = (network.encode_cp(network.noisy(wells)) for wells in (cp, other_cp))
        replicates = self.replicate_weight * loss(own, other, self.temperature)
        if not is_paired.any():
            return replicates
        codes = network.encode_tx(network.noisy(tx[is_paired]))
        return replicates + loss(own[is_paired], codes, self.temperature)


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

    The other parameters and the attributes are those of `NetworkEncoder`. Early stopping watches the error with TX
    absent. Ngiam 2011 (ICML), section 3.

    Failure mode: what varies most is rebuilt first, whether it matters or not; with a high `cp_weight` the code is
    little more than principal components.
    """

    network = "BimodalAutoencoder"

    tx_dropout: float = 0.5
    cp_weight: float = 0.05
    n_cp_components: int = 50

    def _loss(self, network, cp, tx):
        """Reconstruction error of both, from spoilt inputs in training and else from CP alone, as for new compounds."""
        import torch

        from cpx_utils.losses import reconstruction

        draw = torch.rand_like(cp[:, :1]) if network.training else torch.zeros_like(cp[:, :1])
        has_tx = (draw >= self.tx_dropout).float() * float(network.training)  # (n_pairs, 1)
        has_cp = (draw < self.tx_dropout + (1 - self.tx_dropout) / 2).float() if network.training else 1 - has_tx
        cp_out, tx_out = network(cp, tx, has_cp, has_tx)
        return self.cp_weight * reconstruction(cp_out, cp) + reconstruction(tx_out, tx)


METHODS: dict[str, type[Encoder]] = {
    "raw_cp": RawCP,
    "sphered_cp": SpheredCP,
    "pca_cp": PcaCP,
    "cell_count": CellCount,
    "lda_identity": LdaIdentity,
    "ridge_tx": RidgeTX,
    "rcca": RegularisedCCA,
    "autoencoder": AutoencoderEncoder,
    "contrastive": ContrastiveEncoder,
    "contrastive_soft": SoftContrastiveEncoder,
    "contrastive_joint": JointContrastiveEncoder,
}
