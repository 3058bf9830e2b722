"""The one exception that the command line prints as a plain line, without a traceback."""


class PipelineError(Exception):
    """An error that the user can act on: what was wrong, which values are allowed, what to do.

    Its text is one line: a line break, or any other character that cannot be printed, is shown by
    its escape sequence.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
