"""The commit that a benchmark measures, for its report."""

from pipeline.machine import machine_tags, ran_on


def commit() -> str:
    """The first digits of the commit, and whether there are changes that are not committed."""
    return ran_on(machine_tags("cpu")).get("commits", "unknown")
