"""Adapters as files: kinds, format check, store, names. Torch is in `normal` and what turns files into it."""

from adapters.alias import Alias, Share
from adapters.declaration import Declaration
from adapters.errors import (
    AdapterError,
    AdapterNotFound,
    AliasChanged,
    ChecksumMismatch,
    InvalidAdapter,
    InvalidName,
    NothingToRestore,
    StoreQuotaExceeded,
    StoreUnavailable,
    UploadIncomplete,
    UploadNotFound,
    UploadRejected,
    UploadTaken,
    UploadTooLarge,
    VersionInUse,
)
from adapters.files import (
    CARD_NAME,
    CONFIG_NAME,
    FILE_NAMES,
    OPTIONAL_FILES,
    STORY_NAME,
    TOKENIZER_FILES,
    WEIGHTS_NAME,
)
from adapters.format import inspect
from adapters.manifest import BaseShapes, FileSpec, Manifest, content_digest
from adapters.names import Reference, check_alias, check_name, check_tenant, parse_reference
from adapters.quota import Quota
from adapters.sandbox import Sandbox
from adapters.staging import Staging
from adapters.store import AdapterVersion, LocalStore, Store
from adapters.targets import Target
from adapters.uploads import UploadLimits

__all__ = [
    "CARD_NAME",
    "CONFIG_NAME",
    "FILE_NAMES",
    "OPTIONAL_FILES",
    "STORY_NAME",
    "TOKENIZER_FILES",
    "WEIGHTS_NAME",
    "AdapterError",
    "AdapterNotFound",
    "AdapterVersion",
    "Alias",
    "AliasChanged",
    "BaseShapes",
    "ChecksumMismatch",
    "Declaration",
    "FileSpec",
    "InvalidAdapter",
    "InvalidName",
    "LocalStore",
    "Manifest",
    "NothingToRestore",
    "Quota",
    "StoreQuotaExceeded",
    "Reference",
    "Sandbox",
    "Share",
    "Staging",
    "Store",
    "StoreUnavailable",
    "Target",
    "UploadLimits",
    "UploadIncomplete",
    "UploadNotFound",
    "UploadRejected",
    "UploadTaken",
    "UploadTooLarge",
    "VersionInUse",
    "check_alias",
    "check_name",
    "check_tenant",
    "content_digest",
    "inspect",
    "parse_reference",
]
