import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdapterState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADAPTER_STATE_UNSPECIFIED: _ClassVar[AdapterState]
    ADAPTER_STATE_UPLOADING: _ClassVar[AdapterState]
    ADAPTER_STATE_CHECKING: _ClassVar[AdapterState]
    ADAPTER_STATE_REJECTED: _ClassVar[AdapterState]
    ADAPTER_STATE_STORED: _ClassVar[AdapterState]
    ADAPTER_STATE_ON_HOST: _ClassVar[AdapterState]
    ADAPTER_STATE_ON_DEVICE: _ClassVar[AdapterState]
    ADAPTER_STATE_DRAINING: _ClassVar[AdapterState]
    ADAPTER_STATE_DELETED: _ClassVar[AdapterState]

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_HOST: _ClassVar[Tier]
    TIER_DEVICE: _ClassVar[Tier]
ADAPTER_STATE_UNSPECIFIED: AdapterState
ADAPTER_STATE_UPLOADING: AdapterState
ADAPTER_STATE_CHECKING: AdapterState
ADAPTER_STATE_REJECTED: AdapterState
ADAPTER_STATE_STORED: AdapterState
ADAPTER_STATE_ON_HOST: AdapterState
ADAPTER_STATE_ON_DEVICE: AdapterState
ADAPTER_STATE_DRAINING: AdapterState
ADAPTER_STATE_DELETED: AdapterState
TIER_UNSPECIFIED: Tier
TIER_HOST: Tier
TIER_DEVICE: Tier

class UploadRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: UploadChunk
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[_Union[UploadChunk, _Mapping]] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("name", "files", "upload_id", "allow_base_mismatch")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    ALLOW_BASE_MISMATCH_FIELD_NUMBER: _ClassVar[int]
    name: str
    files: _containers.RepeatedCompositeFieldContainer[UploadFile]
    upload_id: str
    allow_base_mismatch: bool
    def __init__(self, name: _Optional[str] = ..., files: _Optional[_Iterable[_Union[UploadFile, _Mapping]]] = ..., upload_id: _Optional[str] = ..., allow_base_mismatch: bool = ...) -> None: ...

class UploadFile(_message.Message):
    __slots__ = ("name", "size", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class UploadChunk(_message.Message):
    __slots__ = ("file", "offset", "data")
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    file: str
    offset: int
    data: bytes
    def __init__(self, file: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class QueryUploadRequest(_message.Message):
    __slots__ = ("upload_id",)
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    def __init__(self, upload_id: _Optional[str] = ...) -> None: ...

class UploadStatus(_message.Message):
    __slots__ = ("upload_id", "name", "files", "expire_time")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    name: str
    files: _containers.RepeatedCompositeFieldContainer[UploadProgress]
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, upload_id: _Optional[str] = ..., name: _Optional[str] = ..., files: _Optional[_Iterable[_Union[UploadProgress, _Mapping]]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UploadProgress(_message.Message):
    __slots__ = ("file", "size", "committed")
    FILE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    file: str
    size: int
    committed: int
    def __init__(self, file: _Optional[str] = ..., size: _Optional[int] = ..., committed: _Optional[int] = ...) -> None: ...

class AdapterVersion(_message.Message):
    __slots__ = ("name", "version", "digest", "create_time", "size", "rank", "num_parameters", "base_model", "targets", "resident", "kind", "pinned", "aliases", "base_mismatches", "update_error", "logit_error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    BASE_MISMATCHES_FIELD_NUMBER: _ClassVar[int]
    UPDATE_ERROR_FIELD_NUMBER: _ClassVar[int]
    LOGIT_ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    digest: str
    create_time: _timestamp_pb2.Timestamp
    size: int
    rank: int
    num_parameters: int
    base_model: str
    targets: _containers.RepeatedScalarFieldContainer[str]
    resident: bool
    kind: str
    pinned: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    base_mismatches: _containers.RepeatedScalarFieldContainer[str]
    update_error: float
    logit_error: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., size: _Optional[int] = ..., rank: _Optional[int] = ..., num_parameters: _Optional[int] = ..., base_model: _Optional[str] = ..., targets: _Optional[_Iterable[str]] = ..., resident: bool = ..., kind: _Optional[str] = ..., pinned: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., base_mismatches: _Optional[_Iterable[str]] = ..., update_error: _Optional[float] = ..., logit_error: _Optional[float] = ...) -> None: ...

class AdapterCard(_message.Message):
    __slots__ = ("version", "readme", "training_json")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    README_FIELD_NUMBER: _ClassVar[int]
    TRAINING_JSON_FIELD_NUMBER: _ClassVar[int]
    version: AdapterVersion
    readme: str
    training_json: str
    def __init__(self, version: _Optional[_Union[AdapterVersion, _Mapping]] = ..., readme: _Optional[str] = ..., training_json: _Optional[str] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("adapter_id",)
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    def __init__(self, adapter_id: _Optional[str] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[AdapterVersion]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[AdapterVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "upload_id")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    upload_id: str
    def __init__(self, adapter_id: _Optional[str] = ..., upload_id: _Optional[str] = ...) -> None: ...

class AdapterStatus(_message.Message):
    __slots__ = ("state", "reasons", "upload", "version", "running")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    state: AdapterState
    reasons: _containers.RepeatedScalarFieldContainer[str]
    upload: UploadStatus
    version: AdapterVersion
    running: int
    def __init__(self, state: _Optional[_Union[AdapterState, str]] = ..., reasons: _Optional[_Iterable[str]] = ..., upload: _Optional[_Union[UploadStatus, _Mapping]] = ..., version: _Optional[_Union[AdapterVersion, _Mapping]] = ..., running: _Optional[int] = ...) -> None: ...

class DeleteAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "force", "wait")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    force: bool
    wait: _duration_pb2.Duration
    def __init__(self, adapter_id: _Optional[str] = ..., force: bool = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DeleteAdapterResponse(_message.Message):
    __slots__ = ("versions", "running")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[AdapterVersion]
    running: int
    def __init__(self, versions: _Optional[_Iterable[_Union[AdapterVersion, _Mapping]]] = ..., running: _Optional[int] = ...) -> None: ...

class WarmAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "tier")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    tier: Tier
    def __init__(self, adapter_id: _Optional[str] = ..., tier: _Optional[_Union[Tier, str]] = ...) -> None: ...

class PinAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "tier")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    tier: Tier
    def __init__(self, adapter_id: _Optional[str] = ..., tier: _Optional[_Union[Tier, str]] = ...) -> None: ...

class UnpinAdapterRequest(_message.Message):
    __slots__ = ("adapter_id",)
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    def __init__(self, adapter_id: _Optional[str] = ...) -> None: ...

class AliasShare(_message.Message):
    __slots__ = ("version", "weight")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    version: int
    weight: int
    def __init__(self, version: _Optional[int] = ..., weight: _Optional[int] = ...) -> None: ...

class AliasState(_message.Message):
    __slots__ = ("shares", "change_time", "revision")
    SHARES_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[AliasShare]
    change_time: _timestamp_pb2.Timestamp
    revision: int
    def __init__(self, shares: _Optional[_Iterable[_Union[AliasShare, _Mapping]]] = ..., change_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("name", "alias", "shares", "etag", "history")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    name: str
    alias: str
    shares: _containers.RepeatedCompositeFieldContainer[AliasShare]
    etag: str
    history: _containers.RepeatedCompositeFieldContainer[AliasState]
    def __init__(self, name: _Optional[str] = ..., alias: _Optional[str] = ..., shares: _Optional[_Iterable[_Union[AliasShare, _Mapping]]] = ..., etag: _Optional[str] = ..., history: _Optional[_Iterable[_Union[AliasState, _Mapping]]] = ...) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("name", "alias", "shares", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    alias: str
    shares: _containers.RepeatedCompositeFieldContainer[AliasShare]
    etag: str
    def __init__(self, name: _Optional[str] = ..., alias: _Optional[str] = ..., shares: _Optional[_Iterable[_Union[AliasShare, _Mapping]]] = ..., etag: _Optional[str] = ...) -> None: ...

class GetAliasRequest(_message.Message):
    __slots__ = ("name", "alias")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    alias: str
    def __init__(self, name: _Optional[str] = ..., alias: _Optional[str] = ...) -> None: ...

class ListAliasesRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListAliasesResponse(_message.Message):
    __slots__ = ("aliases",)
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    aliases: _containers.RepeatedCompositeFieldContainer[Alias]
    def __init__(self, aliases: _Optional[_Iterable[_Union[Alias, _Mapping]]] = ...) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("name", "alias", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    alias: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., alias: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class DeleteAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RollbackAliasRequest(_message.Message):
    __slots__ = ("name", "alias", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    alias: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., alias: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...
