"""What is said about how long rendering will take. No test depends on a time: the clock is one that the work moves."""

import pytest
import torch

from models.rendering import estimate


@pytest.fixture
def rendered(monkeypatch):
    """`render(lr, size)` that takes 1 ms a pixel, the first time 5 s more; and all sizes it was called with."""
    clock, calls = [0.0], []
    monkeypatch.setattr(estimate.time, 'perf_counter', lambda: clock[0])

    def render(lr, size):
        calls.append((tuple(lr.shape[-2:]), tuple(size)))
        clock[0] += lr[..., 0, :, :].numel() * 1e-3 + 5 * (len(calls) == 1)
        return torch.zeros(*lr.shape[:-2], *size)

    return render, calls


def test_the_seconds_of_the_middle_are_those_of_the_whole(rendered):
    render, calls = rendered
    assert estimate.expected_seconds(render, torch.rand(1, 3, 200, 300), (400, 1050)) == pytest.approx(60)
    assert calls == [((64, 64), (128, 224))] * 2
    assert estimate.expected_seconds(render, torch.rand(3, 10, 500), (5, 500)) == pytest.approx(5)


@pytest.mark.parametrize(
    'size, times, said',
    [((1000, 1500), 1, '25 min'), ((500, 600), 1, '5 min'), ((300, 300), 1, ''), ((9, 9), 9, '')],
)
def test_long_work_is_announced_in_one_line(rendered, capsys, size, times, said):
    estimate.announce('a.png', rendered[0], torch.rand(3, *size), size, times)
    assert capsys.readouterr().err == (f'a.png: takes about {said}\n' if said else '')


def test_many_small_images_are_long_work(rendered, capsys):
    estimate.announce('light', rendered[0], torch.rand(1, 3, 48, 48), (96, 96), 2000)
    assert capsys.readouterr().err == 'light: takes about 77 min\n'


@pytest.mark.parametrize('seconds, words', [(12, '10 s'), (89, '90 s'), (120, '2 min'), (9000, '2.5 h')])
def test_in_words(seconds, words):
    assert estimate.in_words(seconds) == words
