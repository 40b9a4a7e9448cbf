"""What goes wrong with an arm; in a module of its own, so that processes that do no arithmetic start without numpy."""


class ArmError(RuntimeError):
    """The arm cannot be reached or answers wrongly; the text says what was found and how to mend it."""
