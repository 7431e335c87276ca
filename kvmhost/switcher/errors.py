"""What goes wrong with a Switcher before it runs: one exception, always with a way out."""


class SwitcherError(Exception):
    """A Switcher cannot be used as it is.

    message says what is wrong, cause how that is known, next_step what to change.

    >>> str(SwitcherError("no such Switcher: foo", "only seed and hardened are shipped", "name a file"))
    'no such Switcher: foo: only seed and hardened are shipped; name a file'
    """

    def __init__(self, message: str, cause: str, next_step: str) -> None:
        super().__init__(f"{message}: {cause}; {next_step}")
        self.message = message
        self.cause = cause
        self.next_step = next_step
