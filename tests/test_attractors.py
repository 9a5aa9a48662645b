"""Attractors of maps whose attractors are known, and of networks."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from at_terminal import invoke
from PIL import Image
from small_models import FORM, make_model, write_images
from torch.autograd.functional import jacobian

from attractor_ae import AttractorError, Autoencoder, load
from attractor_ae.attractors import (
    as_map,
    blended,
    borne,
    catalogue,
    contraction_rate,
    jacobian_trace,
    latent_field,
    latent_samples,
    lyapunov_exponent,
    memorised,
    nearest,
    noisy,
    occluded,
    outcomes,
    plane,
    power,
    predicted_steps,
    settle,
    spectral_norm,
    spectral_radius,
    spectrum,
)
from attractor_ae.core.masks import trial_masks
from attractor_ae.deploy.attractors import find_attractors
from attractor_ae.reporting.attractors import attractor_rows


def linear(matrix):
    return lambda x: x @ torch.as_tensor(matrix, dtype=x.dtype).T


def rotation(angle, factor=1.0):
    c, s = factor * np.cos(angle), factor * np.sin(angle)
    return np.array([[c, -s], [s, c]])


def some(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["pixels", "standardised"])
def network(request):
    """An untrained network, with weights so large that its Jacobian is not near zero."""
    generator = torch.Generator().manual_seed(1)
    network = Autoencoder(8, image_size=16, space=request.param, generator=generator)
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(1.7)
    return network


@pytest.fixture(scope="module")
def masks(network):
    return trial_masks(network.site_shapes, network.dropout, 0, 0)


@pytest.fixture(scope="module")
def image():
    digits = load("mnist5k", per_class=1, image_format=FORM).images
    return torch.from_numpy(digits[3:4]) / 255


@pytest.fixture(scope="module")
def dense(network, masks, image):
    """The Jacobian of the network itself, in float32 and reverse mode."""
    n = image.numel()
    return jacobian(as_map(network, masks), image).reshape(n, n).double().numpy()


# ---- convergence


def test_a_linear_contraction_settles_when_the_formula_says():
    settled = settle(linear(0.5 * np.eye(3)), some(4, 3), tolerance=1e-3)
    assert settled.period.tolist() == [1] * 4
    # |x_{r+1} - x_r| = 0.5^(r+1) |x_0|, which is at most 1e-3 |x_0| from r + 1 = 10 steps on.
    assert settled.steps.tolist() == [10] * 4
    torch.testing.assert_close(contraction_rate(settled.lengths), torch.full((4,), 0.5))
    assert settled.lengths[10:].isnan().all()


def test_steps_are_predicted_from_the_first_ones():
    settled = settle(linear(0.9 * np.eye(3)), some(4, 3), tolerance=1e-4)
    predicted = predicted_steps(settled.lengths[:8], 1e-4)
    assert torch.equal(predicted.ceil().long(), settled.steps)
    assert predicted_steps(settle(linear(1.1 * np.eye(3)), some(4, 3)).lengths[:8]).isinf().all()


def test_a_slow_rotation_moves_for_ever():
    settled = settle(linear(rotation(1.0)), some(3, 2), recursions=50)
    assert settled.period.tolist() == [0] * 3
    assert settled.steps.tolist() == [50] * 3
    torch.testing.assert_close(contraction_rate(settled.lengths), torch.ones(3))


@pytest.mark.parametrize("period", [2, 3, 5])
def test_a_rotation_by_a_fraction_of_a_turn_is_a_cycle(period):
    f = linear(rotation(2 * np.pi / period))
    settled = settle(f, some(3, 2))
    assert settled.period.tolist() == [period] * 3
    # Whatever point of the cycle is the first, its end is the same.
    assert catalogue(settle(f, torch.cat([some(3, 2), f(some(3, 2))]))).member.tolist() == (
        catalogue(settled).member.tolist() * 2
    )


def test_each_row_ends_in_its_own_way():
    def f(x):  # 0 <- [0, 1), 1 -> 2 -> 1, and x > 3 diverges
        return torch.where(x < 1, x / 2, torch.where(x > 3, x * x, 3 - x))

    settled = settle(f, torch.tensor([[0.5], [1.0], [2.0], [4.0], [torch.nan]]))
    assert settled.period.tolist() == [1, 2, 2, -1, -1]
    assert settled.ends[:3].flatten().tolist() == pytest.approx([0, 1, 1], abs=1e-4)
    assert catalogue(settled).member.tolist() == [1, 0, 0, -1, -1]


def test_no_steps_are_refused():
    with pytest.raises(AttractorError, match="at least 1"):
        settle(linear(np.eye(2)), some(1, 2), recursions=0)


# ---- the Jacobian


def test_arnoldi_agrees_with_the_dense_jacobian(network, masks, image, dense):
    f = as_map(network, masks, exact=True)
    every = np.linalg.eigvals(dense)
    every = every[np.argsort(-np.abs(every))]
    found = spectrum(f, image, 5)
    assert np.abs(every[0]) > 0.01
    np.testing.assert_allclose(np.abs(found[:4]), np.abs(every[:4]), rtol=1e-3)
    for value in found:  # complex pairs are found with their phases
        assert np.abs(every - value).min() < 1e-3 * np.abs(every[0])


def test_singular_value_and_trace_agree_with_the_dense_jacobian(network, masks, image, dense):
    f = as_map(network, masks, exact=True)
    assert spectral_norm(f, image) == pytest.approx(np.linalg.norm(dense, 2), rel=1e-3)
    mean, error = jacobian_trace(f, image, 50)
    assert abs(mean - np.trace(dense)) < 4 * error


def test_the_exact_map_is_the_map(network, masks, image):
    torch.testing.assert_close(
        as_map(network, masks, exact=True)(image).float(), as_map(network, masks)(image).detach()
    )
    assert next(network.parameters()).dtype == torch.float32


def test_a_spiral_has_a_complex_pair():
    matrix = np.zeros((50, 50))
    matrix[:2, :2], matrix[2, 2] = rotation(0.7, 0.9), 0.5
    turn = 0.9 * np.exp(0.7j)
    for f, x in ((linear(matrix), some(1, 50)), (linear(matrix[:3, :3]), some(1, 3))):
        found = spectrum(f, x, 2)[:2]
        np.testing.assert_allclose(sorted(found, key=np.imag), [turn.conj(), turn], atol=1e-6)


def test_a_constant_map_has_radius_zero():
    for width in (3, 60):
        x = some(1, width)
        assert spectral_radius(lambda x: 0 * x + 1, x) == spectral_norm(lambda x: 0 * x + 1, x) == 0


def test_a_two_cycle_attracts_as_the_product_of_its_slopes():
    def logistic(x):
        return 3.2 * x * (1 - x)

    settled = settle(logistic, torch.tensor([[0.3]]), tolerance=1e-6)
    assert settled.period.item() == 2
    # Its points are roots of a quadratic: the multiplier is 4 + 2r - r^2.
    assert spectral_radius(power(logistic, 2), settled.ends) == pytest.approx(0.16, abs=1e-3)


def test_lyapunov_exponents():
    matrix = some(3, 3, seed=4).numpy()
    expected = np.log(np.abs(np.linalg.eigvals(0.5 * matrix)).max())
    maps = [linear(0.5 * matrix)] * 1000
    found = lyapunov_exponent(maps, some(2, 3).double(), skip=50)
    np.testing.assert_allclose(found, expected, atol=4e-3)
    # Of alternating factors it is the mean of the logarithms.
    both = [linear(np.diag([2.0, 0.1])), linear(np.diag([0.25, 0.1]))] * 10
    assert lyapunov_exponent(both, some(1, 2), skip=10).item() == pytest.approx(np.log(0.5) / 2)
    with pytest.raises(AttractorError, match="20 maps"):
        lyapunov_exponent(both, some(1, 2), skip=20)


# ---- attractors and basins


def wells(x):
    """Two wells: points fall to 1 or to -1, and 0 stays."""
    return x + 0.4 * (x - x**3)


def test_a_catalogue_counts_basins():
    x = torch.tensor([[-1.2], [-0.1], [0.1], [0.5], [1.5]])
    found = catalogue(settle(wells, x))
    assert found.points.flatten().tolist() == pytest.approx([1, -1], abs=1e-4)
    assert found.member.tolist() == [1, 1, 0, 0, 0]
    assert found.shares.tolist() == pytest.approx([0.6, 0.4])
    assert found.entropy == pytest.approx(-0.6 * np.log(0.6) - 0.4 * np.log(0.4))
    assert found.purity(torch.tensor([0, 0, 0, 1, -1])) == pytest.approx(3 / 4)
    known = torch.tensor([[0.9], [1.2], [5.0], [5.1]])
    assert found.spurious(known).tolist() == [False, True]


def test_nothing_settles():
    settled = settle(linear(rotation(1.0)), some(3, 2), recursions=9)
    found = catalogue(settled)
    assert len(found.points) == 0
    assert found.member.tolist() == [-1] * 3
    assert np.isnan(found.purity(torch.tensor([0, 1, 2])))


def test_an_image_bears_disturbances_up_to_the_edge_of_its_basin():
    x, y = torch.tensor([[1.0], [0.5], [0.0]]), torch.tensor([[-1.0], [-1.0], [-1.0]])
    levels = np.linspace(0, 1, 11)
    borne_levels = borne(wells, blended(x, y, levels))
    # 1 - 2 s > 0 up to s = 0.4; 0.5 - 1.5 s > 0 up to s = 0.3; 0 is a fixed point itself.
    assert borne_levels.tolist() == [4, 3, 0]


def test_disturbances_start_at_the_image_and_grow():
    x = torch.full((2, 1, 8, 8), 0.2)
    for path in (noisy(x, np.array([0, 0.5, 1])), occluded(x, np.array([0, 0.25, 1]))):
        assert torch.equal(path[0], x)
        apart = (path - x).flatten(2).norm(dim=2)
        assert (apart[2] >= 2 * apart[1] * 0.999).all()
    assert (occluded(x, np.array([0.25]))[0] == 0.5).double().mean() == 0.25


def test_a_plane_is_coloured_by_basins():
    f = lambda x: torch.stack([wells(x[:, 0]), 0.5 * x[:, 1]], dim=1)  # noqa: E731
    corners = torch.tensor([[-1.0, 0], [1, 0], [-1, 1]])
    points, at = plane(corners, 8)
    landed = catalogue(settle(f, points)).member.reshape(8, 8)
    for column, s in enumerate(at):  # x = -1 + 2 s: the sides of 0
        assert len(landed[:, column].unique()) == 1
        assert (landed[0, column] == landed[0, 0]) == (-1 + 2 * s < 0)


def test_outcomes():
    found, labels = torch.tensor([0, 1, -1, 2]), torch.tensor([0, 2, 1, -1])
    assert outcomes(found, labels) == {"own": 0.25, "other": 0.5, "none": 0.25}


def test_the_latent_field_points_where_the_iteration_goes(network):
    codes = some(30, 8)
    at, field, found = latent_field(network, codes, side=5)
    mean = codes.mean(0)
    axes = np.linalg.svd((codes - mean).numpy(), full_matrices=False)[2][:2]
    np.testing.assert_allclose(found, axes, atol=1e-5)
    z = torch.tensor(mean.numpy() + at[0][1] * axes[0] + at[1][3] * axes[1])[None].float()
    with torch.no_grad():
        moved = network.encode(network.decode(z)) - z
    np.testing.assert_allclose(field[:, 3, 1], axes @ moved[0].numpy(), atol=1e-4)
    assert np.abs((codes - mean).numpy() @ axes.T).max() < at.max()


def test_latent_samples_have_the_moments_of_the_codes():
    codes = some(500, 3) @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 0]]) + 4
    found = latent_samples(codes, 20_000)
    torch.testing.assert_close(found.mean(0), codes.mean(0), rtol=0, atol=0.06)
    torch.testing.assert_close(found.T.cov(), codes.T.cov(), rtol=0.05, atol=0.05)


@pytest.mark.slow  # trains until 20 digits are learned by heart
def test_an_overfitted_network_memorises():
    """Radhakrishnan, Belkin, Uhler, PNAS 2020: a deep and wide network without a bottleneck."""
    digits = load("mnist5k", per_class=2, image_format=FORM).images
    x = torch.from_numpy(digits).flatten(1) / 255
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [(torch.nn.Linear(256, 256), torch.nn.SELU()) for _ in range(14)]
        network = torch.nn.Sequential(*itertools.chain(*layers), torch.nn.Linear(256, 256))
    adam = torch.optim.Adam(network.parameters(), lr=4e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 450)
    for _ in range(450):
        loss = (network(x) - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    settled = settle(network, x, recursions=1000)
    exact = copy.deepcopy(network).double()
    found = memorised(exact, x, settled.ends, settled.period)
    assert found.sum() >= 7
    # A start near such an image comes back to it.
    near = x[found] + 0.01 * some(int(found.sum()), 256)
    ends = settle(network, near, recursions=1000).ends
    assert torch.equal(nearest(ends, x)[1], torch.nonzero(found).flatten())


# ---- the command


@pytest.fixture(scope="module")
def digits16():
    images = load("mnist5k", per_class=12, image_format=FORM)
    return images.take(np.flatnonzero(np.arange(120) % 12 < 6)), images.take(
        np.flatnonzero(np.arange(120) % 12 >= 6)
    )


@pytest.mark.slow  # draws figures
def test_the_command_writes_numbers_and_figures(tmp_path, digits16, monkeypatch):
    monkeypatch.setattr("attractor_ae.deploy.attractors._SIDE", 6)
    make_model(*digits16).save(tmp_path / "a.model")
    known, names = digits16[0], [f"{label}/{i}.png" for i, label in enumerate(digits16[0].labels)]
    write_images(tmp_path / "known", known.images, names)
    write_images(tmp_path / "others", 255 - known.images[:9])
    out = tmp_path / "found"
    folders = ["--images", tmp_path / "known", "--images", tmp_path / "others"]
    result = invoke("attractors", tmp_path / "a.model", *folders, "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "attractors.json").read_text())
    assert list(found["masks"]) == ["dropout off", "mask 1", "mask 2", "mask 3"]
    assert "known: images that are attractors, by mask: " in result.output
    _, _, rows = attractor_rows(found)
    assert {row[1] for row in rows if row[4]} == {"known"}  # the others have no own class
    for name, mask in found["masks"].items():
        assert f"{name} ({mask['number']})" in result.output
        sets = mask["sets"]
        assert {n: part["starts"] for n, part in sets.items()} == {
            "known": 60,
            "others": 9,
            "noise": 100,
            "latent samples": 60 + 40,
        }
        for part in sets.values():
            ways = ("fixed_point", "cycle", "moving", "diverged")
            assert sum(part[way] for way in ways) == pytest.approx(1, abs=1e-3)
            assert sum(part["ends_on_class"].values()) == pytest.approx(1, abs=1e-3)
        assert sets["others"]["ends_on_class"]["own"] == 0
        assert 0 <= mask["memorised"] <= 1
    with Image.open(out / "iterations.gif") as animation:
        assert animation.n_frames == 17
    assert {path.name for path in out.glob("*.png")} == {
        "catalogue.png",
        "slice.png",
        "latent-field.png",
    }


def test_a_model_without_images(tmp_path, digits16):
    make_model(*digits16).save(tmp_path / "a.model")
    found = find_attractors(tmp_path / "a.model", tmp_path / "found")
    assert list(found["masks"]["mask 1"]["sets"]) == ["noise"]
    assert "memorised" not in found["masks"]["mask 1"]


def test_a_missing_run_is_one_line(tmp_path):
    result = invoke("attractors", tmp_path / "none.model", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "none.model" in result.output
    assert not (tmp_path / "out").exists()
