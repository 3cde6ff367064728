"""The gate before an alias: better than the base, as good as the current version, and served as trained.

judge -> upload -> compare -> move the alias
  |        |          |             |
  +--------+----------+--- refuse --+     the alias is as it was, and nothing new stays stored
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lorikeet.client import Client
from lorikeet.errors import Aborted, FailedPrecondition, InvalidRequest, LorikeetError
from lorikeet.types import AdapterVersion
from training.progress import Report
from training.publish.canary import find_parity, text_problems
from training.publish.plan import PublishPlan
from training.publish.pointer import Pointer, current_version, read_pointer, shares_with
from training.publish.report import PublishReport
from training.publish.standing import Standing, objections, of_base, of_candidate, of_version
from training.publish.trained import Trained

# Others that publish under the same alias at the same time may be this many before us.
_LOOKS = 5


class _Refused(Exception):
    """What objects to the adapter, and the report as far as it is known."""

    def __init__(self, reasons: list[str], report: PublishReport) -> None:
        super().__init__(*reasons)
        self.report = replace(report, published=False, reasons=tuple(reasons))


def publish(
    trained: Trained, client: Client, plan: PublishPlan, report: Report | None = None
) -> PublishReport:
    """Publishes or refuses, and writes `publish_report.json` into the folder either way.

    Raises a LorikeetError where the server cannot be asked, and `InvalidConfig` for an `against` that is not.
    """
    began = time.monotonic()
    try:
        outcome = Gate(trained, client, plan, report).pass_through()
    except _Refused as refusal:
        outcome = refusal.report
    outcome = replace(outcome, seconds=round(time.monotonic() - began, 3))
    outcome.write(trained.folder)
    return outcome


@dataclass(frozen=True, slots=True)
class Gate:
    """One adapter before one alias."""

    trained: Trained
    client: Client
    plan: PublishPlan
    report: Report | None = None

    def pass_through(self) -> PublishReport:
        """The report of a published adapter; raises _Refused with that of a refused one."""
        pointer = read_pointer(self.client, self.plan.name, self.plan.alias)
        judged = self._judge(pointer)
        with self._offered(judged) as stored:
            known = replace(judged, version=stored.id, digest=stored.digest)
            known = self._compare(known)
            return self._move(known, pointer, stored.version)

    def _judge(self, pointer: Pointer) -> PublishReport:
        known = PublishReport(
            published=True,
            reasons=(),
            server=self.client.target,
            name=self.plan.name,
            alias=self.plan.alias,
            base=of_base(self.trained, self.client, self.plan, self.report),
            candidate=of_candidate(self.trained, self.plan),
        )
        return self._against(known, pointer)

    def _against(self, known: PublishReport, pointer: Pointer) -> PublishReport:
        """`known` with the current version's standing; refused where the adapter is worse."""
        version = current_version(self.client, pointer, self.plan)
        known = replace(known, current=self._standing(version), shares_before=pointer.shares)
        assert known.candidate is not None and known.base is not None
        reasons = list(objections(known.candidate, known.base, known.current, self.plan.margin))
        if reasons:
            raise _Refused(reasons, known)
        return known

    def _standing(self, version: str) -> Standing | None:
        return of_version(self.trained, self.client, version, self.plan, self.report) if version else None

    @contextmanager
    def _offered(self, known: PublishReport) -> Iterator[AdapterVersion]:
        """The uploaded version; what ends this early takes it back: a bare name is the newest version."""
        name, adapters = self.plan.name, self.client.adapters
        stood = {version.version for version in adapters.list() if version.name == name}
        try:
            stored = adapters.upload(
                self.trained.folder, name, allow_base_mismatch=self.plan.allow_base_mismatch
            )
        except (InvalidRequest, FailedPrecondition) as error:
            raise _Refused([f"the server refuses it: {_sentence(error)}"], known) from error
        try:
            yield stored
        except BaseException:
            if stored.version not in stood:
                adapters.delete(stored.id)
            raise

    def _compare(self, known: PublishReport) -> PublishReport:
        """`known` with the parity; refused where server and trainer disagree."""
        canaries = self.trained.held[: self.plan.prompts]
        problems = text_problems(self.trained, self.client, known.version, canaries)
        if not problems:
            parity = find_parity(self.trained, self.client, known.version, self.plan)
            known, problems = replace(known, parity=parity), parity.problems()
        if problems:
            raise _Refused(problems, known)
        return known

    def _move(self, known: PublishReport, pointer: Pointer, version: int) -> PublishReport:
        """Moves the alias from the state judged; where others were faster, judges by theirs."""
        plan = self.plan
        for looks in range(1, _LOOKS + 1):
            shares = shares_with(pointer, version, plan.share)
            try:
                moved = self.client.adapters.set_alias(plan.name, plan.alias, shares, etag=pointer.etag)
                return replace(known, shares_after=moved.shares, looks=looks)
            except Aborted:
                pointer = read_pointer(self.client, plan.name, plan.alias)
                known = self._against(replace(known, looks=looks + 1), pointer)
        raise _Refused([f"{plan.name}@{plan.alias} moved {_LOOKS} times meanwhile: try again"], known)


def _sentence(error: LorikeetError) -> str:
    violations = [violation.sentence for violation in getattr(error, "violations", ())]
    return "; ".join([error.message, *(text for text in violations if text not in error.message)])
