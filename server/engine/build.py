"""From the configuration to an engine that is ready to step."""

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from adapters.errors import InvalidAdapter
from adapters.fingerprint import base_fingerprint, tokenizer_hashes
from adapters.manifest import Manifest
from server.engine.bell import Bell
from server.engine.blocks import BlockPool
from server.engine.config import EngineConfig
from server.engine.copy_lane import CudaLane
from server.engine.device_memory import Arena, HostMemory
from server.engine.engine import Engine
from server.engine.host_cache import HostCache, Load
from server.engine.host_pool import PinnedPool, PlainPool
from server.engine.memory import MemoryPlan, plan_memory
from server.engine.messages import Ready
from server.engine.preparer import Preparer
from server.engine.reader import AdapterReader
from server.engine.runner import Runner, TorchRunner, make_cache
from server.engine.scheduler import Scheduler
from server.engine.slots import AdapterSlots
from server.model.acceleration import accelerate, why_not
from server.model.decoder import Decoder
from server.model.loader import find_folder, load_decoder
from server.model.shapes import base_shapes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

log = logging.getLogger(__name__)


def build_engine(config: EngineConfig) -> tuple[Engine, Ready]:
    """Loads the base; raises UnsupportedModel, ValueError or OSError with a sentence for the operator."""
    begun = time.monotonic()
    # The front needs a core of its own: threads that wait for each other cannot share one with it.
    torch.set_num_threads(config.threads or max(1, len(os.sched_getaffinity(0)) - 1))
    device = _device(config)
    if device.index is not None:
        torch.cuda.set_device(device)
    dtype = _dtype(config, device)
    folder = find_folder(config.base)
    decoder = load_decoder(folder, config.quantization, dtype, device, config.double_quant, _log_progress)
    shapes = base_shapes(decoder.config, base_fingerprint(folder, _recipe(config)), config.quantization)
    hashes = tokenizer_hashes(folder)
    shapes = replace(
        shapes,
        tokenizer_sha256=hashes.get("tokenizer_sha256", ""),
        chat_template_sha256=hashes.get("chat_template_sha256", ""),
    )
    max_context = min(config.max_context or decoder.config.max_context, decoder.config.max_context)
    engine, plan = make_engine(config, decoder, max_context, AdapterReader(config, decoder, shapes))
    ready = Ready(
        family=decoder.config.family,
        vocab_size=decoder.config.vocab_size,
        shapes=shapes,
        block_size=config.block_size,
        num_blocks=plan.num_blocks,
        adapter_slots=config.adapter_slots,
        max_rank=config.max_rank,
        max_context=max_context,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        load_seconds=time.monotonic() - begun,
    )
    return engine, ready


def make_engine(
    config: EngineConfig,
    decoder: Decoder,
    max_context: int,
    read: AdapterReader | Load,
) -> tuple[Engine, MemoryPlan]:
    """Around a decoder that stands on its device. read: digest -> blob; a reader prepares uploads as well."""
    like = decoder.embedding
    accelerated = _accelerates(config, decoder)
    if accelerated:
        decoder = accelerate(decoder)
    step_tokens = config.step_tokens or (4096 if like.is_cuda else 512)
    plan = plan_memory(config, decoder, max_context, step_tokens)
    log.info("\n".join(plan.table()))
    bell, arena = Bell(), None
    if like.is_cuda:
        lane = CudaLane(like.device, bell.ring)
        arena = Arena(plan.adapters, config.adapter_slots, decoder.config, config.max_rank, like, lane)
    size = config.host_cache_bytes
    pool = PinnedPool(size) if like.is_cuda else PlainPool(size)
    host = HostCache(read, size, config.adapter_readers, pool, bell.ring)
    slots = AdapterSlots(config.adapter_slots, host, arena or HostMemory())
    blocks = BlockPool(plan.num_blocks, config.block_size, config.prefix_cache)
    scheduler = Scheduler(blocks, slots, config.max_running, step_tokens, config.drain_after)
    cache = make_cache(decoder, plan.num_blocks, config.block_size)
    runner: Runner
    if accelerated and arena is not None:
        from server.engine.paged_runner import PagedRunner

        limits = (config.max_running, step_tokens, max_context)
        runner = PagedRunner(decoder, cache, config.block_size, slots, arena.memory, *limits)
    else:
        runner = TorchRunner(decoder, cache, config.block_size, slots)
    overlaps = like.is_cuda if config.overlap == "auto" else config.overlap == "on"
    preparer = Preparer(read.prepare if isinstance(read, AdapterReader) else _refuse, bell.ring)
    return Engine(config, scheduler, runner, preparer, overlaps, bell), plan


def _recipe(config: EngineConfig) -> str:
    """All that decides the weights which are served, in a word; trainers round scales as QLoRA does."""
    return (
        "nf4-plain-scales"
        if config.quantization == "nf4" and not config.double_quant
        else config.quantization
    )


def _refuse(folder: Path, manifest: Manifest) -> Manifest:
    raise InvalidAdapter(["this engine has no store"])


def _accelerates(config: EngineConfig, decoder: Decoder) -> bool:
    reason = why_not(decoder) if config.kernels == "auto" else "--kernels torch"
    if reason and decoder.embedding.is_cuda:
        log.info("steps run on torch's kernels: %s", reason)
    return not reason


def _log_progress(done: int, total: int) -> None:
    """A line for every quarter of the base."""
    if done * 4 // total != (done - 1) * 4 // total:
        log.info("loaded %d of %d layers", done, total)


def _device(config: EngineConfig) -> torch.device:
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    if config.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[config.dtype]
