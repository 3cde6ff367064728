"""What the breakdown of a step says of kernels that overlap."""

from loadtests.kernel_times import exclusive_times


def test_a_kernel_that_waits_for_another_counts_from_the_others_end() -> None:
    spans = [(0.0, 4.0, "linear"), (1.0, 6.0, "norm"), (9.0, 10.0, "linear")]
    assert exclusive_times(spans) == {"linear": 5.0, "norm": 2.0}


def test_kernels_side_by_side_share_no_time() -> None:
    spans = [(0.0, 10.0, "long"), (2.0, 5.0, "short"), (3.0, 10.0, "equal")]
    times = exclusive_times(spans)
    assert sum(times.values()) == 10.0 - 2.0
    assert times["short"] == 3.0
