"""Open-loop load: every request leaves when it is due, whatever has become of those before it."""

from loadtests.drive.fleet import DriveConfig, drive
from loadtests.drive.progress import Progress
from loadtests.drive.records import Record, Run
from loadtests.drive.target import Connection, Target

__all__ = ["Connection", "DriveConfig", "Progress", "Record", "Run", "Target", "drive"]
