"""CUDA C++ compiled at run time: no compiler and no headers on the user's machine, and a cache on disk.

The sources stand in `cuda/`; each kernel is one file behind `common.cuh`, specialised by macros.
"""

import ctypes
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from cuda.bindings import driver, nvrtc

from server.kernels.compile_cache import cache_folder, cached
from server.kernels.device import processors
from server.kernels.once import once

SOURCES = Path(__file__).parent / "cuda"
# A kernel's configuration is filled in and handed over as one: not only the engine's thread launches some.
_launching = Lock()


class KernelError(RuntimeError):
    """A kernel could not be compiled, loaded or launched."""


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel. config: all of a launch but its grid and stream, made once."""

    function: Any
    config: Any
    threads: int

    @classmethod
    def of(cls, function: Any, threads: int, shared_bytes: int, cluster: int, overlaps: bool) -> "Kernel":
        """shared_bytes: dynamic shared memory. cluster: blocks along x that work together.

        overlaps: programmatic dependent launch; it begins while the one before ends, and waits for it itself.
        """
        config = driver.CUlaunchConfig()
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = shared_bytes
        attributes = _attributes(cluster, overlaps)
        config.numAttrs, config.attrs = len(attributes), attributes
        return cls(function, config, threads)

    def launch(self, grid: tuple[int, int, int], arguments: ctypes.Structure) -> None:
        """On torch's current stream; the structure's fields are the kernel's parameters, in order."""
        if 0 in grid:
            return
        config, stream = self.config, torch.cuda.current_stream().cuda_stream
        at = ctypes.addressof(arguments)
        offsets = _offsets(type(arguments))
        pointers = (ctypes.c_void_p * len(offsets))(*[at + offset for offset in offsets])
        with _launching:
            config.gridDimX, config.gridDimY, config.gridDimZ = grid
            config.hStream = stream
            check(driver.cuLaunchKernelEx(config, self.function, ctypes.addressof(pointers), 0))


@cache
def _offsets(structure: type[ctypes.Structure]) -> list[int]:
    """Of its fields."""
    return [getattr(structure, field[0]).offset for field in structure._fields_]


def _attributes(cluster: int, overlaps: bool) -> list[Any]:
    attributes = []
    if cluster > 1:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        dimensions = attribute.value.clusterDim
        dimensions.x, dimensions.y, dimensions.z = cluster, 1, 1
        attributes.append(attribute)
    if overlaps:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        attributes.append(attribute)
    return attributes


def check(result: tuple[Any, ...]) -> Any:
    """What a driver call gives beside its status; raises KernelError."""
    status, *values = result
    if int(status) != 0:
        raise KernelError(f"{status!r}")
    return values[0] if values else None


def load(
    source: str,
    macros: Mapping[str, int | str],
    threads: int,
    shared_bytes: int = 0,
    cluster: int = 1,
    overlaps: bool = False,
    prelude: str = "",
    headers: tuple[str, ...] = (),
    name: str = "",
) -> Kernel:
    """A kernel of cuda/<source>.cu for the current device, named as its source unless told.

    Before the source stand cuda/<header>.cuh of each of `headers`, then `prelude`.
    """
    torch.cuda.current_stream()
    module = _module(source, headers, prelude, tuple(sorted(macros.items())))
    function = check(driver.cuModuleGetFunction(module, (name or source).encode()))
    if shared_bytes > 48 * 1024:
        # All there is: the same function is launched with less and with more.
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        check(driver.cuFuncSetAttribute(function, attribute, processors().shared_bytes))
    return Kernel.of(function, threads, shared_bytes, cluster, overlaps and capability() >= (9, 0))


@once
def _module(
    source: str, headers: tuple[str, ...], prelude: str, macros: tuple[tuple[str, int | str], ...]
) -> Any:
    text = _text(source, headers, prelude)
    binary = _cubin(source, text, {**dict(macros), **_table_macros()}, _architecture())
    return check(driver.cuModuleLoadData(binary))


def context_of_this_thread() -> Callable[[], object]:
    """By which another thread loads kernels for the same device."""
    torch.cuda.current_stream()
    context = check(driver.cuCtxGetCurrent())
    return partial(_enter, context)


def _enter(context: Any) -> None:
    check(driver.cuCtxSetCurrent(context))


def capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability()


def _architecture() -> str:
    """The instructions of one generation are asked for by an `a`: wgmma needs it."""
    major, minor = capability()
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")


def _table_macros() -> dict[str, int | str]:
    """Where dynamic shared memory begins: a table's address must be a constant of the program."""
    at = 1024 if capability() >= (9, 0) else 0
    return {"TABLE_BASE": f"{at}u", "TABLE_AT": f'"{at}"'}


def _text(source: str, headers: tuple[str, ...], prelude: str) -> str:
    first = [(SOURCES / f"{header}.cuh").read_text() for header in ("common", *headers)]
    return "\n".join([*first, prelude, (SOURCES / f"{source}.cu").read_text()])


def _cubin(name: str, source: str, macros: Mapping[str, int | str], architecture: str) -> bytes:
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "-default-device"]
    options += [f"-D{key}={value}" for key, value in sorted(macros.items())]
    version = nvrtc.nvrtcVersion()[1:]
    key = hashlib.sha256(repr((source, options, version)).encode()).hexdigest()
    path = cache_folder() / f"{name}-{key[:32]}.cubin"
    return cached(path, lambda: compile_source(name, source, options))


def compile_source(name: str, source: str, options: list[str]) -> bytes:
    """Raises KernelError with the compiler's own words."""
    program = check(nvrtc.nvrtcCreateProgram(source.encode(), f"{name}.cu".encode(), 0, [], []))
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if int(status) != 0:
        log = bytearray(check(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise KernelError(f"{name} does not compile: {log.decode(errors='replace')}")
    binary = bytearray(check(nvrtc.nvrtcGetCUBINSize(program)))
    check(nvrtc.nvrtcGetCUBIN(program, binary))
    nvrtc.nvrtcDestroyProgram(program)
    return bytes(binary)
