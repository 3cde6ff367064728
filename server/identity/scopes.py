"""What a credential must be allowed for each RPC. What is not in the table is refused to everybody."""

from collections.abc import Mapping, Sequence

INFER = "infer"
READ = "adapter.read"
WRITE = "adapter.write"
ADMIN = "admin"
SCOPES = (INFER, READ, WRITE, ADMIN)
# What a tenant's own certificate or a new key may do unless told otherwise.
TENANT_SCOPES = (INFER, READ, WRITE)
# For everybody, without a credential.
PUBLIC = "public"

RPCS: dict[str, dict[str, str]] = {
    "lorikeet.v1.Inference": {"Generate": INFER, "GetModel": INFER, "Tokenize": INFER},
    "lorikeet.v1.Adapters": {
        **dict.fromkeys(("Get", "GetCard", "List", "GetAlias", "ListAliases", "Watch"), READ),
        **dict.fromkeys(("Upload", "QueryUpload", "Delete", "SetAlias", "DeleteAlias"), WRITE),
        **dict.fromkeys(("RollbackAlias", "Warm", "Pin", "Unpin"), WRITE),
    },
    "lorikeet.v1.Grants": {"Share": WRITE, "Unshare": WRITE, "ListGrants": READ},
    "grpc.health.v1.Health": {"Check": PUBLIC, "Watch": PUBLIC},
    # Served only where the operator allows it.
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": PUBLIC},
}


def scope_of(method: str, rpcs: Mapping[str, Mapping[str, str]] = RPCS) -> str | None:
    """The scope that `/package.Service/Method` asks for; None: nobody may call it."""
    service, _, name = method.removeprefix("/").partition("/")
    return rpcs.get(service, {}).get(name)


def check_scopes(scopes: Sequence[str]) -> frozenset[str]:
    """Raises ValueError for a scope that does not exist."""
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ValueError(f"no such scope: {', '.join(unknown)}; there are {', '.join(SCOPES)}")
    return frozenset(scopes)
