import numpy as np
import pytest
import torch

from attractor_ae import AttractorError
from attractor_ae.attractors import as_map, end_labels, settle
from attractor_ae.core.dynamics import Trajectory
from attractor_ae.core.masks import trial_masks
from attractor_ae.reporting import ReconstructionBlock, middle_blocks, reconstruction_figure
from attractor_ae.reporting.style import PAGE_WIDTH


def trajectory(recursions, n=1, channels=1):
    return Trajectory(torch.zeros(recursions, n, 4), torch.rand(recursions, n, channels, 8, 8))


def shown(cell):
    return cell.images[0].get_array().squeeze()


def test_reconstructions_stand_in_rows_of_masks_and_columns_of_recursions():
    images = torch.rand(2, 1, 8, 8)
    trajectories = [trajectory(3, 2) for _ in range(5)]

    def of_image(i):
        rows = slice(i, i + 1)
        return [Trajectory(t.latents[:, rows], t.reconstructions[:, rows]) for t in trajectories]

    given = [
        ReconstructionBlock(image, of_image(i), name)
        for i, (image, name) in enumerate(zip(images, ["left", "right"], strict=True))
    ]
    figure = reconstruction_figure(given, per_row=2)
    blocks = figure.subfigs
    assert [block.get_suptitle() for block in blocks] == ["left", "right"]
    for i, block in enumerate(blocks):
        cells = np.array(block.axes).reshape(5, 4)
        assert [cell.get_title() for cell in cells[0]] == ["input", "$x_{1}$", "$x_{2}$", "$x_{3}$"]
        assert [row[0].get_ylabel() for row in cells] == [f"mask {k}" for k in range(1, 6)]
        for trial in range(5):
            np.testing.assert_allclose(shown(cells[trial, 0]), images[i, 0], rtol=1e-6)
            for r in range(3):
                expected = trajectories[trial].reconstructions[r, i, 0]
                np.testing.assert_allclose(shown(cells[trial, 1 + r]), expected, rtol=1e-6)


def test_blocks_of_several_models_stand_beside_each_other():
    long = "trained on sviro_uncertainty: test-adults-and-seats-and-objects"
    blocks = [
        ReconstructionBlock(torch.rand(1, 8, 8), [trajectory(2) for _ in range(3)], "short"),
        ReconstructionBlock(torch.rand(3, 8, 8), [trajectory(4, channels=3)], long),
    ]
    figure = reconstruction_figure(blocks, per_row=2)
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles[0].strip() == "short"
    assert titles[1].replace("\n", "").replace(" ", "") == long.replace(" ", "")
    # As many lines each: the images below them are level.
    assert titles[0].count("\n") == titles[1].count("\n") > 0
    for part, block in zip(figure.subfigs, blocks, strict=True):
        cells = np.array(part.axes).reshape(3, 5)
        for trial in range(3):
            for column in range(5):
                cell = cells[trial, column]
                there = trial < len(block.trajectories) and column <= len(
                    block.trajectories[0].reconstructions
                )
                assert cell.axison == there
                if there and column:
                    expected = block.trajectories[trial].reconstructions[column - 1, 0]
                    np.testing.assert_allclose(
                        shown(cell), expected.permute(1, 2, 0).squeeze(), rtol=1e-6
                    )


@pytest.mark.parametrize("tolerance", [1e-5, 1.3e-4])  # the second separates |x_0| and |x_1|
def test_the_end_of_a_trajectory_and_the_classes_of_its_images(
    detector, digits, monkeypatch, tolerance
):
    monkeypatch.setattr("attractor_ae.reporting.reconstructions._STEADY", tolerance)
    detector.recursions = 2
    detector.fit(digits.images, digits.labels)
    (block,) = middle_blocks(detector, [digits], trials=2)
    point = detector.network.space.points(torch.from_numpy(digits.images[[len(digits) // 2]]) / 255)
    for trial in range(2):
        masks = trial_masks(
            detector.network.site_shapes, detector.network.dropout, detector.seed, trial
        )
        f = as_map(detector.network, masks)
        settled = settle(f, point, recursions=100, tolerance=tolerance)
        label = end_labels(detector, settled.ends, settled.period, masks, least=0.0)
        assert settled.period == 1
        *first, end = block.captions[trial]
        assert end == f"{digits.classes[int(label)]}\nr = {int(settled.steps)}"
        torch.testing.assert_close(
            block.trajectories[trial].reconstructions[-1], settled.ends, rtol=1e-3, atol=1e-4
        )
        z = detector.network.encode(point, masks).detach()[None]
        p = detector.head_.predict_proba(z, [0])[0, 0]
        assert first[0] == f"{digits.classes[int(p.argmax())]}\n{100 * float(p.max()):.1f} %"
        assert first[2:] == ["\n", "\n"]  # no head reads x_2 and x_3
    drawn = reconstruction_figure([block]).subfigs[0].axes
    assert [cell.get_xlabel() for cell in drawn[:5]] == list(block.captions[0])
    assert [cell.get_title() for cell in drawn[:5]][-2:] == ["$x_{3}$", "end"]


def test_many_blocks_are_no_wider_than_a_page():
    block = ReconstructionBlock(torch.rand(1, 8, 8), [trajectory(6)], "block")
    assert reconstruction_figure([block]).get_figwidth() < 3.5
    wide = reconstruction_figure([block] * 6, per_row=6).get_figwidth()
    assert wide == pytest.approx(PAGE_WIDTH)


def test_colour_images_and_values_outside_the_range_are_shown():
    seven = Trajectory(torch.zeros(1, 1, 4), torch.full((1, 1, 3, 8, 8), 7.0))
    figure = reconstruction_figure([ReconstructionBlock(torch.rand(3, 8, 8), [seven], "colour")])
    drawn = figure.subfigs[0].axes[1].images[0].get_array()
    assert drawn.shape == (8, 8, 3)
    assert (drawn == 1).all()


@pytest.mark.parametrize("blocks", [[], [ReconstructionBlock(torch.rand(1, 8, 8), [], "none")]])
def test_nothing_is_not_drawn(blocks):
    with pytest.raises(AttractorError, match="nothing to draw"):
        reconstruction_figure(blocks)
