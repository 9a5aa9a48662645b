import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attractor_ae._random import Stream, generator

keys = st.tuples(
    st.integers(0, 2**63 - 1),
    st.sampled_from(Stream),
    st.lists(st.integers(0, 2**31), max_size=3).map(tuple),
)


@given(keys, keys)
def test_a_stream_is_its_seed_and_key_and_nothing_else(a, b):
    first, again, other = (generator(s, stream, *key) for s, stream, key in (a, a, b))
    numbers = first.bytes(32)
    assert again.bytes(32) == numbers
    assert (other.bytes(32) == numbers) == (a == b)


def test_neighbouring_streams_are_uncorrelated():
    rows = np.stack([generator(0, Stream.TRIAL_MASKS, t).random(4000) for t in range(20)])
    off_diagonal = np.corrcoef(rows)[np.triu_indices(20, 1)]
    # A correlation of 4000 pairs has a standard deviation of 1/sqrt(4000) = 0.016.
    assert np.abs(off_diagonal).max() < 5 * 0.016
