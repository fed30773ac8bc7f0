"""A finding: one thing looked at, how it is, and the remedy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class State(StrEnum):
    """How a thing is."""

    OK = "ok"
    NOTE = "note"
    """Not there, and not needed unless one wants it."""
    WARNING = "warning"
    """Something will not work as well as it could."""
    PROBLEM = "problem"
    """``georsr sr`` cannot work."""


MARKS = {State.OK: "+", State.NOTE: "-", State.WARNING: "!", State.PROBLEM: "x"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes
    ----------
    name : str
        What was looked at.
    state : State
    text : str
        What was found.
    remedy : str
        What to do about it; empty where there is nothing to do.
    """

    name: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All findings of an examination."""

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether ``georsr sr`` can work."""
        return all(finding.state is not State.PROBLEM for finding in self.findings)

    def describe(self) -> str:
        """One line a finding, remedies below theirs; then the verdict."""
        width = max((len(finding.name) for finding in self.findings), default=0)
        lines = []
        for finding in self.findings:
            lines.append(f"{MARKS[finding.state]} {finding.name:<{width}}  {finding.text}")
            if finding.remedy:
                lines.append(f"  {'':<{width}}  -> {finding.remedy}")
        problems = sum(finding.state is State.PROBLEM for finding in self.findings)
        verdict = "georsr works" if self.works else f"georsr cannot work: {problems} marked x"
        return "\n".join([*lines, verdict])

    def to_json(self) -> str:
        """Indented JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return json.dumps({"works": self.works, "findings": findings}, indent=2)
