"""The Grants service: which tenants may use whose adapters."""

from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from adapters.grants import Grant
from adapters.names import check_name, check_tenant
from lorikeet.v1 import grants_pb2 as pb
from lorikeet.v1.grants_pb2_grpc import GrantsServicer
from server.caller import current_caller
from server.directory import Directory
from server.errors import names_in

Context: TypeAlias = Any


class GrantService(GrantsServicer):
    """Grants of the caller's tenant."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def Share(self, request: pb.ShareRequest, context: Context) -> pb.Grant:
        _check(request)
        with names_in("tenant"):
            grant = await self._directory.share(current_caller().tenant, request.name, request.tenant)
        return _message(grant)

    async def Unshare(self, request: pb.UnshareRequest, context: Context) -> pb.UnshareResponse:
        _check(request)
        await self._directory.unshare(current_caller().tenant, request.name, request.tenant)
        return pb.UnshareResponse()

    async def ListGrants(self, request: pb.ListGrantsRequest, context: Context) -> pb.ListGrantsResponse:
        found = self._directory.grants_of(current_caller().tenant)
        return pb.ListGrantsResponse(grants=[_message(grant) for grant in found])


def _check(request: pb.ShareRequest | pb.UnshareRequest) -> None:
    with names_in("name"):
        check_name(request.name)
    with names_in("tenant"):
        check_tenant(request.tenant)


def _message(grant: Grant) -> pb.Grant:
    created = Timestamp(seconds=int(grant.created_at))
    return pb.Grant(owner=grant.owner, name=grant.name, tenant=grant.tenant, create_time=created)
