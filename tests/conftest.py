"""What several test files share."""

import signal
import tomllib
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import settings

from attractor_ae import (
    AttractorDetector,
    AttractorError,
    Autoencoder,
    ExperimentConfig,
    ImageSet,
    load,
    run_training,
)
from attractor_ae.reporting.style import STYLE

# A deadline would be a timing inside a test.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


def pytest_configure(config):
    """Keep the order below; pytest-xdist would begin with the files of the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Begin with the files of slow tests, so that no process waits for another one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep prepared images of the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRACTOR_AE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def coarse_figures():
    """Few pixels, and fonts as outlines: both take most of the time of a figure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "pdf.fonttype", 3)
        patch.setitem(STYLE, "savefig.dpi", 60)
        yield


@pytest.fixture(scope="session", autouse=True)
def heeded_interrupt():
    """Let Ctrl-C be heard, also where the suite was started in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def own_threads():
    """Leave PyTorch's threads as they were: weights are the same to the bit with as many."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """Forty real handwritten digits, four of each class."""
    return load("mnist5k", "train", per_class=4)


@pytest.fixture
def autoencoder() -> Autoencoder:
    """An untrained autoencoder with the published widths."""
    return Autoencoder(generator=torch.Generator().manual_seed(0))


@pytest.fixture
def detector(autoencoder: Autoencoder, digits: ImageSet) -> AttractorDetector:
    """An detector of few members, fitted on real digits; in float32 on every processor."""
    detector = AttractorDetector(
        autoencoder, recursions=3, recursion=1, trials=3, precision="float32"
    )
    return detector.fit(digits.images, digits.labels)


@pytest.fixture(scope="module")
def sweeps_train_here():
    """Train the runs of a sweep in this process; test_sweep.py has the processes."""

    def train_here(tasks, number, threads, reporter):
        for task in tasks:
            config = ExperimentConfig.from_dict(tomllib.loads(task.config))
            root = task.options[1] if task.options else None
            try:
                run_training(config, task.folder, data_root=root, resume=True)
            except AttractorError as error:
                yield task.folder, str(error)
            else:
                yield task.folder, ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attractor_ae.experiment.sweep._in_processes", train_here)
        yield


@pytest.fixture
def unchanged_random_state():
    """Fail the test if it moves the global random state of NumPy or PyTorch."""
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
