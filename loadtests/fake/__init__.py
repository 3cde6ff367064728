"""A server with known delays, in a process of its own: what the driver is measured against."""

from loadtests.fake.process import Fake, faking
from loadtests.fake.script import Script

__all__ = ["Fake", "Script", "faking"]
