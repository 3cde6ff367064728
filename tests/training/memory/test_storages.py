from __future__ import annotations

import torch

from training.memory.storages import Storages


def test_views_count_once_and_what_is_gone_counts_no_more() -> None:
    with Storages() as watched:
        made = torch.zeros(256)
        view = made.view(16, 16).t()
        assert (watched.live, watched.peak) == (1024, 1024)
        del made
        assert watched.live == 1024
        del view
        assert (watched.live, watched.peak) == (0, 1024)


def test_what_stood_before_counts_when_it_is_used_unless_ignored() -> None:
    used, ignored = torch.zeros(8), torch.zeros(8)
    with Storages([ignored]) as watched:
        torch.add(used, ignored)
        assert watched.peak == 64
        assert watched.live == 32


def test_the_backward_pass_is_watched_too() -> None:
    weight = torch.zeros(4, 4, requires_grad=True)
    with Storages() as watched:
        (weight * weight).sum().backward()
    assert weight.grad is not None
    assert watched.peak >= 2 * 64
