import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attractor_ae._errors import AttractorError
from attractor_ae.data import ImageSet, Wanted
from attractor_ae.data.image_set import first_rows, random_rows


def image_set(numbers, classes=("a", "b", "c"), **changed):
    """Make images whose first pixel tells their place, so that their order can be checked."""
    images = np.zeros((len(numbers), 1, 3, 2), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(len(numbers))
    values = {
        "name": "toy",
        "split": "train",
        "images": images,
        "labels": np.asarray(numbers, dtype=np.int64),
        "classes": classes,
    }
    return ImageSet(**(values | changed))


def first(images, n):
    return images.take(first_rows(images.labels, n))


def drawn(images, n, seed):
    return images.take(random_rows(images.labels, n, seed))


def places(chosen):
    return chosen.images[:, 0, 0, 0].tolist()


def test_the_digest_tells_images_labels_and_classes_apart():
    plain = image_set([0, 1, -1])
    assert plain.digest == image_set([0, 1, -1], name="other", split="test").digest
    changed = plain.images.copy()
    changed[2, 0, 2, 1] = 1
    others = [
        image_set([0, 1, -1], images=changed),
        image_set([0, 1, 1]),
        image_set([0, 1]),
        image_set([]),
        image_set([0, 1, -1], classes=("b", "a", "c")),
        image_set([0, 1, -1], images=plain.images.reshape(3, 1, 2, 3)),
    ]
    assert len({image.digest for image in [plain, *others]}) == 7


@settings(deadline=None)
@given(st.lists(st.integers(-1, 2), max_size=60), st.integers(0, 8))
def test_first_per_class_is_the_plain_loop(labels, n):
    seen, expected = {}, []
    for place, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= n:
            expected.append(place)

    chosen = first(image_set(labels), n)

    assert places(chosen) == expected
    assert chosen.labels.tolist() == [labels[place] for place in expected]
    assert (chosen.name, chosen.split, chosen.classes) == ("toy", "train", ("a", "b", "c"))


@pytest.mark.parametrize("seed", [None, 0])
def test_minus_one_per_class_is_everything(seed):
    assert Wanted(-1, seed).rows(np.array([2, 0, 2, 1])).tolist() == [0, 1, 2, 3]


def test_first_per_class_counts_a_set_without_labels_as_one_class():
    assert places(first(image_set([-1] * 5, classes=()), 3)) == [0, 1, 2]


def test_take_keeps_the_given_order_and_repeats():
    chosen = image_set([0, 1, 2]).take([2, 0, 2])
    assert places(chosen) == [2, 0, 2]
    assert chosen.labels.tolist() == [2, 0, 2]
    assert chosen.images.flags.c_contiguous


def test_take_copies():
    whole = image_set([0, 1, 2])
    whole.take([1]).images[:] = 99
    assert places(whole) == [0, 1, 2]


def test_take_nothing():
    chosen = image_set([0, 1]).take([])
    assert chosen.images.shape == (0, 1, 3, 2)
    assert len(chosen) == 0


@pytest.fixture
def _as_users_run_it():
    """Switch the annotation checks of the test suite off: they come before the class's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_as_users_run_it")
@pytest.mark.parametrize(
    ("labels", "changed", "message"),
    [
        ([0], {"images": np.zeros((1, 1, 3, 2))}, "uint8 array of shape .* got float64"),
        ([0], {"images": np.zeros((1, 3, 2), np.uint8)}, r"got uint8 \(1, 3, 2\)"),
        ([0], {"images": np.zeros((1, 1, 3, 4), np.uint8)[..., ::2]}, "C-contiguous"),
        ([0], {"labels": np.zeros(1, np.int32)}, r"int64 array of shape \(1,\), got int32"),
        ([0], {"labels": np.zeros(2, np.int64)}, r"got int64 \(2,\)"),
        ([0, 3], {}, r"labels must be in -1\.\.2, got 0\.\.3"),
        ([-2, 0], {}, r"labels must be in -1\.\.2, got -2\.\.0"),
        ([0], {"labels": [0.5]}, r"got float64 \(1,\)"),
        ([0], {"labels": ["a"]}, "got <U1"),
        ([0], {"classes": ("a", "b", "a")}, "distinct names, got .'a', 'b', 'a'"),
        ([0], {"classes": ()}, r"labels must be in -1\.\.-1, got 0\.\.0"),
    ],
)
def test_refuses_what_is_no_image_set(labels, changed, message):
    with pytest.raises(AttractorError, match=rf"image set 'toy' \(train\): .*{message}"):
        image_set(labels, **changed)


@given(st.lists(st.integers(-1, 2), max_size=60), st.integers(0, 8), st.integers(0, 2**31))
def test_random_per_class_draws_n_of_each_in_order(labels, n, seed):
    images = image_set(labels)
    chosen = drawn(images, n, seed)
    assert places(chosen) == sorted(set(places(chosen)))
    assert chosen.labels.tolist() == [labels[place] for place in places(chosen)]
    for label in (-1, 0, 1, 2):
        assert chosen.labels.tolist().count(label) == min(n, labels.count(label))
    assert places(drawn(images, n, seed)) == places(chosen)
    assert set(places(chosen)) <= set(places(drawn(images, n + 1, seed)))


def test_labels_may_be_a_list_or_a_tensor():
    expected = image_set([2, -1, 0])
    for labels in (
        [2, -1, 0],
        (2, -1, 0),
        torch.tensor([2, -1, 0]),
        torch.tensor([2, -1, 0]).int(),
    ):
        given_so = image_set([2, -1, 0], labels=labels)
        np.testing.assert_array_equal(given_so.labels, expected.labels, strict=True)
        assert given_so.digest == expected.digest
    assert image_set([], labels=[]).labels.dtype == np.int64


def test_random_per_class_draws_every_image_equally_often(unchanged_random_state):
    images = image_set([0] * 10 + [1] * 5)
    counts = np.bincount(np.concatenate([places(drawn(images, 2, seed)) for seed in range(1000)]))
    # 200 of 1000 and 400 of 1000 each; the binomial's deviation is 13 and 15.
    np.testing.assert_allclose(counts, [200] * 10 + [400] * 5, atol=65)


@given(st.lists(st.integers(-1, 7), max_size=60), st.integers(3, 8), st.integers(0, 2**40))
def test_an_open_set_split_divides_the_labelled_images_by_class(labels, count, split):
    names = tuple("abcdefgh"[:count])
    images = image_set([label for label in labels if label < count], names)
    known, unknown = images.open_set(split)
    assert len(known.classes) == round(0.6 * count)
    assert [name for name in names if name in known.classes] == list(known.classes)
    class_of = [names[label] if label >= 0 else "" for label in images.labels]
    assert places(known) == [i for i, name in enumerate(class_of) if name in known.classes]
    others = set(names) - set(known.classes)
    assert places(unknown) == [i for i, name in enumerate(class_of) if name in others]
    assert [known.classes[i] for i in known.labels] == [class_of[i] for i in places(known)]
    assert (unknown.classes, set(unknown.labels.tolist()) - {-1}) == ((), set())
    assert images.open_set(split)[0].digest == known.digest


def test_the_five_open_set_splits_of_ten_classes_differ():
    images = image_set(range(10), tuple("abcdefghij"))
    known = [images.open_set(split)[0].classes for split in range(5)]
    assert len(set(known)) == 5
    assert {name for names in known for name in names} == set(images.classes)


def test_an_open_set_split_needs_three_classes():
    with pytest.raises(AttractorError, match="'toy' has 2 classes"):
        image_set([0, 1], ("a", "b")).open_set(0)
