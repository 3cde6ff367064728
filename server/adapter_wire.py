"""Between the Adapters service's messages and the store's records."""

from google.protobuf.timestamp_pb2 import Timestamp

from adapters.alias import Alias, Share
from adapters.names import parse_reference
from adapters.staging import Staging
from adapters.store import AdapterVersion
from lorikeet.v1 import adapters_pb2 as pb
from server.directory import name_for
from server.engine.messages import DEVICE, HOST
from server.errors import InvalidRequest, names_in
from server.places import Places

TIERS: dict[int, str] = {pb.TIER_UNSPECIFIED: DEVICE, pb.TIER_HOST: HOST, pb.TIER_DEVICE: DEVICE}


def version_message(version: AdapterVersion, tenant: str, places: Places) -> pb.AdapterVersion:
    """As this tenant calls it."""
    manifest = version.manifest
    conversion = manifest.conversion
    return pb.AdapterVersion(
        name=name_for(tenant, version),
        version=version.version,
        digest=version.digest,
        create_time=Timestamp(seconds=int(version.created_at)),
        size=manifest.num_bytes,
        rank=manifest.rank,
        num_parameters=manifest.num_parameters,
        base_model=manifest.base_model_name,
        targets=sorted({linear.rpartition(".")[2] for linear in manifest.targets}),
        resident=places.seen(tenant, version.digest, version.pinned) == DEVICE,
        kind=manifest.kind,
        pinned=version.pinned,
        aliases=version.aliases,
        base_mismatches=manifest.mismatches,
        update_error=None if conversion is None else conversion.error,
        logit_error=None if conversion is None else conversion.logit_error,
    )


def upload_message(staging: Staging, expires_at: float) -> pb.UploadStatus:
    sizes = staging.sizes
    files = [
        pb.UploadProgress(file=file.name, size=file.size, committed=sizes[file.name])
        for file in staging.files
    ]
    return pb.UploadStatus(
        upload_id=staging.declaration.upload_id,
        name=staging.declaration.name,
        files=files,
        expire_time=Timestamp(seconds=int(expires_at)),
    )


def alias_message(name: str, alias: str, state: Alias) -> pb.Alias:
    history = [
        pb.AliasState(
            shares=_shares(each.shares),
            change_time=Timestamp(seconds=int(each.changed_at)),
            revision=each.revision,
        )
        for each in state.states
    ]
    return pb.Alias(name=name, alias=alias, shares=_shares(state.shares), etag=state.etag, history=history)


def shares_of(request: pb.SetAliasRequest) -> list[Share]:
    return [Share(share.version, share.weight) for share in request.shares]


def tier_of(tier: int) -> str:
    """Raises InvalidRequest for a number that is no tier."""
    if tier not in TIERS:
        raise InvalidRequest.of("tier", "is none of TIER_HOST and TIER_DEVICE.")
    return TIERS[tier]


def check_reference(adapter_id: str) -> None:
    """Raises InvalidRequest for a malformed one."""
    with names_in("adapter_id"):
        parse_reference(adapter_id)


def _shares(shares: tuple[Share, ...]) -> list[pb.AliasShare]:
    return [pb.AliasShare(version=share.version, weight=share.weight) for share in shares]
