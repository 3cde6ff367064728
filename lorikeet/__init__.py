"""Lorikeet: hundreds of LoRA adapters over one base model, behind one gRPC address.

>>> from lorikeet import Client
>>> with Client("localhost:50051") as client:
...     for text in client.generate("Once upon a time", adapter="acme"):
...         print(text, end="", flush=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorikeet.version import __version__

if TYPE_CHECKING:
    from lorikeet.client import Client
    from lorikeet.errors import (
        Aborted,
        Cancelled,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        InvalidRequest,
        LorikeetError,
        NotFound,
        PermissionDenied,
        ResourceExhausted,
        ServerError,
        Unauthenticated,
        Unavailable,
    )
    from lorikeet.generation import Generation
    from lorikeet.lifecycle import AdapterCard, AdapterStatus, Alias, AliasState
    from lorikeet.sampling import Sampling
    from lorikeet.sharing import Grant
    from lorikeet.types import AdapterVersion, Chunk, Logprobs, Model, Result, Sample, TokenLogprob, Usage


# Names are imported when first used: `import lorikeet` costs nothing, and `lorikeet --help` needs no grpc.
_HOMES = {
    "lorikeet.client": ("Client",),
    "lorikeet.errors": (
        "Aborted",
        "Cancelled",
        "DataLoss",
        "DeadlineExceeded",
        "FailedPrecondition",
        "InvalidRequest",
        "LorikeetError",
        "NotFound",
        "PermissionDenied",
        "ResourceExhausted",
        "ServerError",
        "Unauthenticated",
        "Unavailable",
    ),
    "lorikeet.generation": ("Generation",),
    "lorikeet.lifecycle": ("AdapterCard", "AdapterStatus", "Alias", "AliasState"),
    "lorikeet.sampling": ("Sampling",),
    "lorikeet.sharing": ("Grant",),
    "lorikeet.types": (
        "AdapterVersion",
        "Chunk",
        "Logprobs",
        "Model",
        "Result",
        "Sample",
        "TokenLogprob",
        "Usage",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Aborted",
    "AdapterCard",
    "AdapterStatus",
    "AdapterVersion",
    "Alias",
    "AliasState",
    "Cancelled",
    "Chunk",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Generation",
    "Grant",
    "InvalidRequest",
    "Logprobs",
    "LorikeetError",
    "Model",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "Result",
    "Sample",
    "Sampling",
    "ServerError",
    "TokenLogprob",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lorikeet' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
