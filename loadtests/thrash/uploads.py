"""Uploads: how long until an adapter answers, and what those who run feel of fifty of them."""

import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.drive.grpc_target import GrpcTarget
from loadtests.thrash.config import ThrashConfig
from loadtests.thrash.storms import Storm, asked, workload_of
from loadtests.variants import Variants
from lorikeet import Client

# Alone, one after another.
NUM_ALONE = 5
# As many as a server takes at once.
AT_ONCE = 8
# Beyond the numbers of the storms' variants: no bytes that the store has already.
FIRST_VARIANT = 1_000_000


@dataclass(frozen=True)
class UploadFigures:
    """servable: median seconds from the start of an upload alone to the first token of its adapter.

    beside: what the first storm's requests felt while `uploads` more were taken in, evenly over all of it.
    upload_p50: seconds that one of those took.
    """

    megabytes: float
    servable: float
    servable_longest: float
    uploads: int
    upload_p50: float
    beside: Storm


def play_uploads(config: ThrashConfig, target: GrpcTarget, template: Path) -> UploadFigures:
    """After the storms, over the same server."""
    variants = Variants(template)
    with Client(target.address) as client:
        alone = [_servable(client, variants, FIRST_VARIANT + number) for number in range(NUM_ALONE)]
        beside, seconds = _beside(config, target, client, variants)
    return UploadFigures(
        megabytes=sum(file.stat().st_size for file in template.iterdir()) / 1e6,
        servable=statistics.median(alone),
        servable_longest=max(alone),
        uploads=len(seconds),
        upload_p50=statistics.median(seconds),
        beside=beside,
    )


def _servable(client: Client, variants: Variants, number: int) -> float:
    """Seconds; the file is written before they begin to count."""
    with variants(number) as folder:
        begun = time.perf_counter()
        version = client.adapters.upload(folder, f"upload-{number}")
        list(client.generate([9, 10], adapter=version.name, max_new_tokens=1, ignore_eos=True))
        return time.perf_counter() - begun


def _beside(
    config: ThrashConfig, target: GrpcTarget, client: Client, variants: Variants
) -> tuple[Storm, list[float]]:
    """The first storm again, with other prompts, and the seconds that each upload beside it took."""
    count, done = config.counts[0], list[Future[float]]()
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def begun(start: float) -> None:
            for number in range(config.uploads):
                at = start + number * config.seconds / config.uploads
                done.append(pool.submit(_upload, client, variants, FIRST_VARIANT + NUM_ALONE + number, at))

        load = replace(workload_of(config, count), seed=FIRST_VARIANT)
        storm = Storm.of(count, asked(load, target, begun=begun))
    return storm, [each.result() for each in done]


def _upload(client: Client, variants: Variants, number: int, at: float) -> float:
    """Begun at that time of the monotonic clock, or as soon after it as its turn comes."""
    with variants(number) as folder:
        time.sleep(max(0.0, at - time.monotonic()))
        begun = time.perf_counter()
        client.adapters.upload(folder, f"upload-{number}")
        return time.perf_counter() - begun
