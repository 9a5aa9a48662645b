"""Attractors of an autoencoder, or of any map: fixed points, cycles, spectra, basins.

A `Map` takes points (n, ...) to points of the same shape, row by row; `as_map` makes one from a
network and a mask. In the stated costs, a pass is one application of the map to one point, and a
product of the Jacobian with a vector takes about two. Lengths are Euclidean norms of points.
"""

import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigs
from torch import Tensor
from torch.nn.functional import one_hot

from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import plain_layers
from attractor_ae.core.autoencoder import Autoencoder, FeatureAutoencoder
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.masks import DropoutMasks

Map = Callable[[Tensor], Tensor]
Network = Autoencoder | FeatureAutoencoder

STEADY = 1e-5
"""Default tolerance of `settle`, relative to the length of a point."""
SAME = 0.03
"""Default distance of end points on one attractor, relative to their mean length."""
_TOGETHER = 256  # points per pass of a network
_SPAN = 5  # steps over which a contraction rate is a geometric mean
_DENSE = 40  # below this number of entries, ARPACK has no room, and a dense Jacobian is cheap


def as_map(network: Network, masks: DropoutMasks | None = None, *, exact: bool = False) -> Map:
    """Return the map x -> D(E(x)) of a network under a mask, or with dropout off (None).

    ``exact``: use a copy in float64 with PyTorch's own layers, as required by the functions of the
    Jacobian below.
    """
    network = plain_layers(network) if exact else network
    dtype = next(network.parameters()).dtype

    def f(x: Tensor) -> Tensor:
        parts = x.to(dtype).split(_TOGETHER)
        return torch.cat([network.decode(network.encode(part, masks), masks) for part in parts])

    return f


# ---- convergence


@dataclass(frozen=True, eq=False)
class Settled:
    """Where trajectories end.

    Attributes:
        ends: The last point; of a cycle, that with the smallest sum of entries.
        period: 1 for a fixed point, k > 1 for a cycle, 0 if it still moves, -1 if it diverged.
        steps: Number of steps until the trajectory settled or diverged, or until the end.
        lengths: Lengths of the steps, |x_{r+1} - x_r| / max(|x_0|, |x_1|); NaN after a trajectory
            has ended.
    """

    ends: Float[Tensor, "n ..."]
    period: Int[Tensor, " n"]
    steps: Int[Tensor, " n"]
    lengths: Float[Tensor, "recursions n"]


@torch.no_grad()
def settle(
    f: Map,
    x: Float[Tensor, "n ..."],
    *,
    recursions: int = 500,
    tolerance: float = STEADY,
    longest: int = 8,
    largest: float = 1e6,
) -> Settled:
    """Iterate x_{r+1} = f(x_r) from each point until it repeats, diverges, or steps run out.

    A trajectory settles at the first r with |x_r - x_{r-k}| <= tolerance * max(|x_0|, |x_1|) for a
    period k of at most ``longest``, the smallest that fits. It diverges if an entry
    exceeds ``largest`` or is NaN. Cost: a pass per step and point that moves.

    Raises:
        AttractorError: If ``recursions`` or ``longest`` is less than 1.
    """
    if min(recursions, longest) < 1:
        raise AttractorError("recursions and longest must be at least 1")
    n = len(x)
    ends, period = x.clone(), torch.zeros(n, dtype=torch.int64)
    steps, lengths = torch.full((n,), recursions), torch.full((recursions, n), torch.nan)
    rows, past = torch.arange(n), [x]
    scale = _length(x).clamp_min(1e-30)
    for r in range(recursions):
        if not len(rows):
            break
        new = f(past[0])
        if r == 0:
            scale = torch.maximum(scale, _length(new))
        apart = torch.stack([_length(new - old) / scale for old in past])  # (lags, rows)
        lengths[r, rows] = apart[0].float().cpu()
        again = (apart <= tolerance).cpu()
        lost = ~(new.flatten(1).abs().amax(1) <= largest).cpu()
        found = torch.where(again.any(0), again.int().argmax(0) + 1, 0).masked_fill(lost, -1)
        past = [new, *past][:longest]
        for i in torch.nonzero(found > 1).flatten().tolist():
            cycle = torch.stack([points[i] for points in past[: int(found[i])]])
            new[i] = cycle[cycle.flatten(1).sum(1).argmin()]
        ended = found != 0
        period[rows], ends[rows.to(x.device)] = found, new.to(x.dtype)
        steps[rows[ended]] = r + 1
        if ended.any():
            rows, stay = rows[~ended], ~ended.to(x.device)
            scale, *past = (values[stay] for values in (scale, *past))
    return Settled(ends, period, steps, lengths)


def contraction_rate(lengths: Float[Tensor, "recursions n"]) -> Float[Tensor, " n"]:
    """Return |x_{r+1} - x_r| / |x_r - x_{r-1}|, the geometric mean over the last five steps.

    ``lengths`` are those of `Settled`. Towards a fixed point, this tends to the spectral radius of
    its Jacobian. Cost: none. NaN for fewer than two steps.
    """
    last = (~lengths.isnan()).sum(0) - 1  # (n,)
    span = last.clamp(0, _SPAN)
    ends = [lengths.gather(0, row.clamp_min(0)[None])[0] for row in (last, last - span)]
    late, early = (end.clamp_min(torch.finfo(end.dtype).tiny) for end in ends)
    return (late / early) ** (1 / span)


def predicted_steps(
    lengths: Float[Tensor, "recursions n"], tolerance: float = STEADY
) -> Float[Tensor, " n"]:
    """Return the number of steps until steps are shorter than the tolerance, from the first ones.

    r + log(tolerance / length_r) / log(rate), a geometric series, after the last step r of
    ``lengths``; infinite where the rate is not below 1. Cost: none.
    """
    taken = (~lengths.isnan()).sum(0)
    last = lengths.gather(0, (taken - 1).clamp_min(0)[None])[0].clamp_min(1e-30)
    rate = contraction_rate(lengths)
    more = (np.log(tolerance) - last.log()).clamp_max(0) / rate.log()
    return torch.where(rate < 1, taken + more, torch.inf)


# ---- the Jacobian


def spectrum(f: Map, x: Float[Tensor, "1 ..."], count: int = 4) -> NDArray[np.complex128]:
    """Return eigenvalues of the Jacobian of f at a point, largest absolute value first.

    Arnoldi's method (ARPACK; Lehoucq, Sorensen, Yang, 1998) on products with vectors, in forward
    mode. At least ``count`` eigenvalues, or all if a point has few entries. Cost: some 20 to 100
    products; the Jacobian is not stored. For a cycle, give f applied k times: `power`.
    """
    return _eigenvalues(_jacobian(f, x), count)


def spectral_radius(f: Map, x: Float[Tensor, "1 ..."]) -> float:
    """Return the largest absolute eigenvalue of the Jacobian; below 1, a fixed point attracts."""
    return float(abs(spectrum(f, x)[0]))


def spectral_norm(f: Map, x: Float[Tensor, "1 ..."]) -> float:
    """Return the largest singular value of the Jacobian: how much a small change can grow at once.

    The root of the largest eigenvalue of J'J. Cost: some 20 to 100 products with J and with J'.
    """
    operator = _jacobian(f, x)
    return float(abs(_eigenvalues(operator.H @ operator, 1)[0]) ** 0.5)


def jacobian_trace(
    f: Map, x: Float[Tensor, "1 ..."], probes: int = 100, *, seed: int = 0
) -> tuple[float, float]:
    """Return an estimate of the trace of the Jacobian, and its standard error.

    The mean of v'Jv over random signs v (Hutchinson, 1990). Cost: a product per probe. The trace
    divided by the number of entries is the average fraction of a change that remains.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (probes, x.numel()))
    operator = _jacobian(f, x)
    values = np.array([v @ operator.matvec(v) for v in signs])
    return float(values.mean()), float(values.std(ddof=1) / probes**0.5)


@torch.no_grad()
def lyapunov_exponent(
    maps: Iterable[Map], x: Float[Tensor, "n ..."], *, skip: int = 10, seed: int = 0
) -> Float[Tensor, " n"]:
    """Return the top Lyapunov exponent of trajectories under a sequence of maps, e.g. of masks.

    The mean of log |J_r v_r| along x_{r+1} = f_r(x_r), with v_{r+1} = J_r v_r / |J_r v_r|, without
    the first ``skip`` steps (Benettin et al., Meccanica 1980). Below 0, trajectories under the same
    sequence of masks meet. For one map at a fixed point: the log of the spectral radius. Cost: a
    product per step and point.

    Raises:
        AttractorError: If there are not more maps than ``skip``.
    """
    v, growth = _normal(x.shape, seed).to(x), []
    for f in maps:
        x, v = _product(f, x, v)
        size = _length(v).clamp_min(torch.finfo(v.dtype).tiny)
        v = (v.flatten(1) / size[:, None]).view_as(v)
        growth.append(size.double().log().cpu())
    if len(growth) <= skip:
        raise AttractorError(f"{len(growth)} maps are too few for skip = {skip}; give more")
    return torch.stack(growth[skip:]).mean(0)


def power(f: Map, k: int) -> Map:
    """Return f applied k times, of which every point of a k-cycle is a fixed point."""
    return lambda x: functools.reduce(lambda point, _: f(point), range(k), x)


def _jacobian(f: Map, x: Tensor) -> LinearOperator:
    """Return the Jacobian of f at x as an operator on vectors; x is taken to float64."""
    point = x.double()

    def vector(v: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(v).to(point).reshape(point.shape)

    def forward(v: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            return _product(f, point, vector(v))[1].flatten().cpu().numpy()

    def backward(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return torch.func.vjp(f, point)[1](vector(v))[0].detach().flatten().cpu().numpy()

    shape = (point.numel(),) * 2
    return LinearOperator(shape, matvec=forward, rmatvec=backward, dtype=np.float64)  # type: ignore[call-arg]


def _eigenvalues(operator: LinearOperator, count: int) -> NDArray[np.complex128]:
    """Return ``count`` eigenvalues or more, largest absolute value first."""
    n = operator.shape[0]
    start = np.random.default_rng(0).standard_normal(n)
    if n < _DENSE:
        found = np.linalg.eigvals(operator.matmat(np.eye(n)))
    elif not np.any(operator.matvec(start)):  # ARPACK refuses it
        found = np.zeros(count)
    else:
        found = eigs(operator, count, which="LM", v0=start, return_eigenvectors=False)
    return found[np.argsort(-np.abs(found), kind="stable")].astype(np.complex128)


# ---- which attractors there are


def memorised(
    f: Map,
    x: Float[Tensor, "n ..."],
    ends: Float[Tensor, "n ..."],
    period: Int[Tensor, " n"],
    closeness: float = 0.1,
) -> Bool[Tensor, " n"]:
    """Return which training points are attractors.

    A trajectory from the point settles at a fixed point, closer to it than ``closeness`` times the
    distance to its nearest other training point, where the spectral radius is below one
    (Radhakrishnan, Belkin, Uhler: "Overparameterized neural networks implement associative memory",
    PNAS 2020; there, the point itself is fixed up to the training loss). ``x`` are all points that
    are compared, ``ends`` and ``period`` where they end (`settle`), and f is an exact map.
    """
    near = _length(ends - x) < closeness * neighbour_distances(x)
    found = (period == 1) & near.cpu()
    for row in torch.nonzero(found).flatten().tolist():
        found[row] = spectral_radius(f, ends[row : row + 1]) < 1
    return found


def neighbour_distances(x: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Return the distance of each point to its nearest other one."""
    return torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(torch.inf).amin(1)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Attractors, largest basin first.

    Attributes:
        points: An end point of each attractor.
        member: The attractor that each start has reached, or -1 if it has not settled.
        period: Period of each attractor.
    """

    points: Float[Tensor, "k ..."]
    member: Int[Tensor, " n"]
    period: Int[Tensor, " k"]

    @property
    def shares(self) -> Float[Tensor, " k"]:
        """Share of the starts that have settled, for each attractor."""
        counts = torch.bincount(self.member[self.member >= 0], minlength=len(self.points))
        return counts / counts.sum().clamp_min(1)

    @property
    def entropy(self) -> float:
        """Basin entropy in nats, -sum p log p of the shares p."""
        return float(torch.special.entr(self.shares).sum())

    def purity(self, labels: Int[Tensor, " n"]) -> float:
        """Share of labelled starts (>= 0) with the most frequent label of their attractor."""
        kept = (self.member >= 0) & (labels >= 0)
        if not kept.any():
            return float("nan")
        counts = one_hot(self.member[kept]).T @ one_hot(labels[kept])
        return float(counts.amax(1).sum() / counts.sum())

    def spurious(self, known: Float[Tensor, "m ..."]) -> Bool[Tensor, " k"]:
        """Return which are further from all points than these are, on average, from each other."""
        return nearest(self.points, known)[0] > neighbour_distances(known).mean()


def catalogue(settled: Settled, tolerance: float = SAME) -> Catalogue:
    """Cluster the end points of trajectories that have settled.

    An end point belongs to the first earlier one within ``tolerance`` times the mean length of end
    points. Cost: (number of starts) x (number of attractors) distances.
    """
    rows, ends = torch.nonzero(settled.period > 0).flatten(), settled.ends.flatten(1)
    limit = tolerance * _length(ends[rows]).mean()
    groups, left = [], rows
    while len(left):
        near = ((ends[left] - ends[left[0]]).norm(dim=1) <= limit).cpu()
        groups.append(left[near])
        left = left[~near]
    groups.sort(key=len, reverse=True)
    member = torch.full((len(settled.period),), -1)
    for i, group in enumerate(groups):
        member[group] = i
    firsts = torch.tensor([group[0] for group in groups], dtype=torch.int64)
    return Catalogue(settled.ends[firsts], member, settled.period[firsts])


def nearest(
    points: Float[Tensor, "n ..."], known: Float[Tensor, "m ..."]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the distance to the nearest known point, and its index."""
    found = torch.cdist(points.flatten(1), known.flatten(1)).min(1)
    return found.values, found.indices.cpu()


@torch.no_grad()
def end_labels(
    detector: AttractorDetector,
    ends: Float[Tensor, "n ..."],
    period: Int[Tensor, " n"],
    masks: DropoutMasks | None = None,
    least: float = 0.5,
) -> Int[Tensor, " n"]:
    """Return the label that the last head of a detector gives to each end point of `settle`.

    -1 (none) if the trajectory has not settled, or the probability is below ``least``.
    """
    z = torch.cat([detector.network.encode(p.float(), masks) for p in ends.split(_TOGETHER)])
    path = z.nan_to_num().expand(detector.recursions, -1, -1)
    likely, label = detector.head_.predict_proba(path, [len(path) - 1])[0].cpu().max(-1)
    return torch.where((period > 0) & (likely >= least), detector.classes_.cpu()[label], -1)


def outcomes(found: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> dict[str, float]:
    """Return the shares of starts that end on their own class, another class, and none."""
    own = (found == labels) & (labels >= 0)
    shares = {"own": own, "other": (found >= 0) & ~own, "none": found < 0}
    return {name: float(rows.double().mean()) for name, rows in shares.items()}


def latent_samples(
    codes: Float[Tensor, "m latent"], n: int, *, seed: int = 0
) -> Float[Tensor, "n latent"]:
    """Return random codes with the mean and covariance of the given ones."""
    centred = codes - codes.mean(0)
    noise = _normal((n, len(codes)), seed).to(codes)
    return codes.mean(0) + noise @ centred / len(codes) ** 0.5


# ---- basins


def noisy(
    x: Float[Tensor, "n ..."], levels: NDArray[np.float64], *, seed: int = 0
) -> Float[Tensor, "levels n ..."]:
    """Return points with Gaussian noise: one draw per point, multiplied by each level."""
    noise = _normal(x.shape, seed).to(x)
    return torch.stack([x + level * noise for level in levels])


def occluded(
    x: Float[Tensor, "n c h w"], levels: NDArray[np.float64]
) -> Float[Tensor, "levels n c h w"]:
    """Return images with a grey square in the centre; the levels are its areas, in [0, 1]."""
    height, width = x.shape[-2:]
    result = x.expand(len(levels), *x.shape).clone()
    for covered, level in zip(result, levels, strict=True):
        h, w = (round(side * level**0.5) for side in (height, width))
        top, left = (height - h) // 2, (width - w) // 2
        covered[..., top : top + h, left : left + w] = 0.5
    return result


def blended(
    x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."], levels: NDArray[np.float64]
) -> Float[Tensor, "levels n ..."]:
    """Return (1 - level) x + level y."""
    return torch.stack([torch.lerp(x, y, level) for level in levels])


def borne(
    f: Map, paths: Float[Tensor, "levels n ..."], tolerance: float = SAME
) -> Int[Tensor, " n"]:
    """Return the number of levels up to which an image still reaches its attractor.

    ``paths[0]`` are the images, and the following levels disturb them more and more. -1 for an
    image that does not settle itself. Cost: that of `settle` from all points of the paths.
    """
    levels, n = paths.shape[:2]
    member = catalogue(settle(f, paths.flatten(0, 1)), tolerance).member.reshape(levels, n)
    stays = ((member == member[0]) & (member >= 0)).int().cumprod(0)
    return stays.sum(0) - 1


def plane(
    corners: Float[Tensor, "3 ..."], side: int, margin: float = 0.3
) -> tuple[Float[Tensor, "points ..."], NDArray[np.float64]]:
    """Return a grid of side x side points through three points, and the grid's coordinates.

    The point in row i and column j is a + s_j (b - a) + s_i (c - a), s from -margin to 1 + margin.
    """
    at = np.linspace(-margin, 1 + margin, side)
    grid = torch.cartesian_prod(*[torch.from_numpy(at).to(corners)] * 2)  # (points, 2): s_i, s_j
    return corners[0] + torch.tensordot(grid, corners[[2, 1]] - corners[0], 1), at


@torch.no_grad()
def latent_field(
    network: Network,
    codes: Float[Tensor, "m latent"],
    masks: DropoutMasks | None = None,
    *,
    side: int = 24,
    reach: float = 1.3,
) -> tuple[NDArray[np.float64], NDArray[np.float64], Float[Tensor, "2 latent"]]:
    """Return the latent vector field V(z) = E(D(z)) - z on the plane of two principal components.

    Zeros of V are fixed points of the latent iteration (Fumero et al., "Navigating the latent space
    dynamics of neural models", arXiv 2505.22785). Cost: side x side passes.

    The plane goes through the mean of the codes, to ``reach`` times their largest coordinate.

    Returns:
        The coordinates along the axes, (2, side); V in the plane, (2, side, side), with rows along
        the second axis; the axes.
    """
    mean = codes.mean(0)
    axes = torch.linalg.svd(codes - mean, full_matrices=False)[2][:2]  # (2, latent)
    wide = reach * ((codes - mean) @ axes.T).abs().amax(0).double().cpu().numpy()
    at = np.linspace(-wide, wide, side).T
    z = mean + torch.tensor(np.stack(np.meshgrid(*at), axis=-1).reshape(-1, 2)).to(codes) @ axes
    moved = torch.cat([network.encode(network.decode(p, masks), masks) for p in z.split(_TOGETHER)])
    field = ((moved - z) @ axes.T).double().cpu().numpy()
    return at, field.T.reshape(2, side, side), axes


def _product(f: Map, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(x) and the product of the Jacobian with v."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own, at the first call
        y, product, *_ = torch.func.jvp(f, (x,), (v,))
    return y, product


def _length(x: Tensor) -> Float[Tensor, " n"]:
    return x.flatten(1).norm(dim=1)


def _normal(shape: Iterable[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
