"""The Adapters service's methods on aliases."""

from typing import Any, TypeAlias

from adapters.names import check_alias, check_name
from lorikeet.v1 import adapters_pb2 as pb
from lorikeet.v1.adapters_pb2_grpc import AdaptersServicer
from server.adapter_wire import alias_message, shares_of
from server.caller import current_caller
from server.directory import Directory
from server.errors import InvalidRequest, names_in
from server.journal import Journal

Context: TypeAlias = Any


class AliasMethods(AdaptersServicer):
    """Aliases of the caller's tenant."""

    _directory: Directory
    _journal: Journal

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.Alias:
        _check(request)
        if not request.shares:
            raise InvalidRequest.of("shares", "must hold at least one version.")
        tenant, shares, etag = current_caller().tenant, shares_of(request), _etag(request)
        aliases = self._directory.store.aliases
        async with self._journal.note("SetAlias", f"{request.name}@{request.alias}", context) as line:
            line["shares"] = [[share.version, share.weight] for share in shares]
            with names_in("shares"):
                state = await self._directory.change(
                    lambda: aliases.set(tenant, request.name, request.alias, shares, etag)
                )
        return alias_message(request.name, request.alias, state)

    async def GetAlias(self, request: pb.GetAliasRequest, context: Context) -> pb.Alias:
        _check(request)
        tenant, aliases = current_caller().tenant, self._directory.store.aliases
        state = await self._directory.look(lambda: aliases.get(tenant, request.name, request.alias))
        return alias_message(request.name, request.alias, state)

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        with names_in("name"):
            check_name(request.name)
            await self._directory.resolve(current_caller().tenant, request.name)
        tenant, aliases = current_caller().tenant, self._directory.store.aliases
        found = await self._directory.look(lambda: aliases.list(tenant, request.name))
        messages = [alias_message(request.name, alias, state) for alias, state in found.items()]
        return pb.ListAliasesResponse(aliases=messages)

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        _check(request)
        tenant, etag, aliases = current_caller().tenant, _etag(request), self._directory.store.aliases
        async with self._journal.note("DeleteAlias", f"{request.name}@{request.alias}", context):
            await self._directory.change(lambda: aliases.delete(tenant, request.name, request.alias, etag))
        return pb.DeleteAliasResponse()

    async def RollbackAlias(self, request: pb.RollbackAliasRequest, context: Context) -> pb.Alias:
        _check(request)
        tenant, etag, aliases = current_caller().tenant, _etag(request), self._directory.store.aliases
        async with self._journal.note("RollbackAlias", f"{request.name}@{request.alias}", context) as line:
            state = await self._directory.change(
                lambda: aliases.roll_back(tenant, request.name, request.alias, etag)
            )
            line["shares"] = [[share.version, share.weight] for share in state.shares]
        return alias_message(request.name, request.alias, state)


def _check(request: Any) -> None:
    with names_in("name"):
        check_name(request.name)
    with names_in("alias"):
        check_alias(request.alias)


def _etag(request: Any) -> str | None:
    return request.etag if request.HasField("etag") else None
