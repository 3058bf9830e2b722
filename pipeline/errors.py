"""The one exception that the command line prints as a plain line, without a traceback."""


class PipelineError(Exception):
    """What was wrong, which values are allowed, what to do: one line, written for the user."""
