"""Every error's status. One that is a fault of ours is logged under the id that its caller is told."""

import logging
import secrets

from google.rpc import status_pb2  # type: ignore[import-untyped]

from server.status import incident_status, to_status

log = logging.getLogger(__name__)


def status_of(error: Exception, what: str) -> status_pb2.Status:
    """`what` failed, for the log."""
    status = to_status(error)
    if status is not None:
        return status
    incident = secrets.token_hex(8)
    log.error("incident %s in %s", incident, what, exc_info=error)
    return incident_status(incident)
