"""Adapters as files: kinds, format check, store, names. Torch is in `normal` and what turns files into it."""

from adapters.errors import (
    AdapterError,
    AdapterNotFound,
    ChecksumMismatch,
    InvalidAdapter,
    InvalidName,
    StoreUnavailable,
    UploadRejected,
    UploadTooLarge,
)
from adapters.files import CONFIG_NAME, FILE_NAMES, OPTIONAL_FILES, TOKENIZER_FILES, WEIGHTS_NAME
from adapters.format import inspect
from adapters.manifest import BaseShapes, FileSpec, Manifest, content_digest
from adapters.names import Reference, check_name, check_tenant, parse_reference
from adapters.sandbox import inspect_in_sandbox
from adapters.staging import Staging
from adapters.store import AdapterVersion, LocalStore
from adapters.targets import Target

__all__ = [
    "CONFIG_NAME",
    "FILE_NAMES",
    "OPTIONAL_FILES",
    "TOKENIZER_FILES",
    "WEIGHTS_NAME",
    "AdapterError",
    "AdapterNotFound",
    "AdapterVersion",
    "BaseShapes",
    "ChecksumMismatch",
    "FileSpec",
    "InvalidAdapter",
    "InvalidName",
    "LocalStore",
    "Manifest",
    "Reference",
    "Staging",
    "StoreUnavailable",
    "Target",
    "UploadRejected",
    "UploadTooLarge",
    "check_name",
    "check_tenant",
    "content_digest",
    "inspect",
    "inspect_in_sandbox",
    "parse_reference",
]
