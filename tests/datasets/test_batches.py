"""A batch in one piece of memory: every tensor comes back as it was, pinned at once and copied at once."""

import pickle
from unittest import mock

import torch
from claimed import There, claimed
from hypothesis import given
from hypothesis import strategies as st

from datasets.batches import Batch

DTYPES = (torch.uint8, torch.bool, torch.float16, torch.float32, torch.int64, torch.float64)
shapes = st.lists(st.integers(0, 4), max_size=3)


@given(tensors=st.dictionaries(st.text(), st.tuples(st.sampled_from(DTYPES), shapes), min_size=1, max_size=6))
def test_tensors_come_back_as_they_were(tensors):
    given_ = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in tensors.items()}
    found = pickle.loads(pickle.dumps(Batch(given_))).to('cpu')  # as it comes from a worker
    assert list(found) == list(given_)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, given_[name], rtol=0, atol=0)


def test_a_batch_is_pinned_and_copied_once():
    tensors = {'lr': torch.rand(2, 3), 'hr': torch.arange(5, dtype=torch.uint8), 'index': torch.arange(4)}
    with claimed() as device:
        batch = Batch(tensors)
        with mock.patch('torch.Tensor.pin_memory', lambda tensor: pinned.append(tensor) or tensor):
            pinned = []
            assert batch.pin_memory() is batch and len(pinned) == 1
        there = batch.to('cuda')
        assert device.copies.total() == device.launched.total() == 1 and not device.waits
    for name, tensor in there.items():
        assert isinstance(tensor, There) and torch.equal(tensor.held, tensors[name])
