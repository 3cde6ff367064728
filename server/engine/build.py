"""From the configuration to an engine that is ready to step."""

import logging
import os
import time

import psutil
import torch

from adapters.blobs import Blobs
from adapters.errors import InvalidAdapter
from adapters.files import CONFIG_NAME
from adapters.manifest import content_digest
from adapters.normal import load
from adapters.peft_config import read_config
from adapters.targets import find_targets
from server.engine.blocks import BlockPool
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.host_cache import HostCache
from server.engine.messages import Ready
from server.engine.runner import Runner, make_cache
from server.engine.scheduler import Scheduler
from server.engine.slots import AdapterSlots
from server.model.adapter import AdapterBlob, make_blob
from server.model.config import ModelConfig
from server.model.decoder import Decoder
from server.model.loader import find_folder, load_decoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What the KV cache may take of the memory that is left, and at most on a CPU.
CACHE_SHARE = 0.85
CPU_CACHE_BYTES = 1 << 30

log = logging.getLogger(__name__)


def build_engine(config: EngineConfig) -> tuple[Engine, Ready]:
    """Loads the base; raises UnsupportedModel, ValueError or OSError with a sentence for the operator."""
    begun = time.monotonic()
    # The front needs a core of its own: threads that wait for each other cannot share one with it.
    torch.set_num_threads(config.threads or max(1, len(os.sched_getaffinity(0)) - 1))
    device = _device(config)
    dtype = _dtype(config, device)
    decoder = load_decoder(
        find_folder(config.base), config.quantization, dtype, device, config.double_quant, _log_progress
    )
    max_context = min(config.max_context or decoder.config.max_context, decoder.config.max_context)
    num_blocks = _num_blocks(config, decoder, max_context)
    host = HostCache(AdapterReader(config, decoder.config, dtype, device), config.host_cache_bytes)
    slots = AdapterSlots(config.adapter_slots, host, device)
    blocks = BlockPool(num_blocks, config.block_size, config.prefix_cache)
    step_tokens = config.step_tokens or (512 if device.type == "cpu" else 4096)
    scheduler = Scheduler(blocks, slots, config.max_running, step_tokens)
    runner = Runner(decoder, make_cache(decoder, num_blocks, config.block_size), config.block_size, slots)
    ready = Ready(
        family=decoder.config.family,
        vocab_size=decoder.config.vocab_size,
        linears=decoder.config.linear_shapes(),
        block_size=config.block_size,
        num_blocks=num_blocks,
        adapter_slots=config.adapter_slots,
        max_rank=config.max_rank,
        max_context=max_context,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        load_seconds=time.monotonic() - begun,
    )
    return Engine(config, scheduler, runner), ready


def _log_progress(done: int, total: int) -> None:
    """A line for every quarter of the base."""
    if done * 4 // total != (done - 1) * 4 // total:
        log.info("loaded %d of %d layers", done, total)


class AdapterReader:
    """digest -> blob, on a reader thread; what is read is proven to be what the digest names."""

    def __init__(
        self, config: EngineConfig, base: ModelConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._blobs = Blobs(config.adapter_store / "blobs", config.adapter_store / "trash")
        self._max_rank = config.max_rank
        self._base = base
        self._shapes = base.linear_shapes()
        self._dtype = dtype
        self._pinned = device.type == "cuda"

    def __call__(self, digest: str) -> AdapterBlob:
        """Raises InvalidAdapter or OSError."""
        folder, manifest = self._blobs.folder(digest), self._blobs.manifest(digest)
        if content_digest(manifest.files) != digest:
            raise InvalidAdapter(
                [f"adapter {digest} is damaged in the store: its manifest names other files"]
            )
        # The digest covers the files and not the manifest, so what that says of scales is found again.
        if manifest.targets != find_targets(read_config(folder / CONFIG_NAME, self._max_rank), self._shapes):
            raise InvalidAdapter(["it was checked against another base, or its manifest was changed on disk"])
        weights = load(folder, manifest)
        for name, pair in weights.items():
            if (pair.b.shape[0], pair.a.shape[1]) != self._shapes[name]:
                raise InvalidAdapter([f"{name} does not fit this base; the adapter was made for another one"])
        blob = make_blob(weights, self._base, self._dtype)
        # In a masked product 0 * inf would reach other adapters' tokens.
        if not blob.flat.isfinite().all():
            raise InvalidAdapter([f"its weights overflow {self._dtype}, in which this server computes"])
        return blob.pinned() if self._pinned else blob


def _device(config: EngineConfig) -> torch.device:
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    if config.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[config.dtype]


def _num_blocks(config: EngineConfig, decoder: Decoder, max_context: int) -> int:
    """As configured, or what fits the memory left."""
    size = config.block_size
    if config.cache_tokens:
        return max(1, config.cache_tokens // size)
    c = decoder.config
    token_bytes = 2 * c.num_layers * c.kv_size * decoder.embedding.element_size()
    if decoder.embedding.is_cuda:
        free = torch.cuda.mem_get_info(decoder.embedding.device)[0]
        return max(1, int(free * CACHE_SHARE) // (token_bytes * size))
    budget = min(CPU_CACHE_BYTES, psutil.virtual_memory().available // 4)
    enough = config.max_running * max_context
    return max(1, min(budget // token_bytes, enough) // size)
