"""What goes wrong with networks, in one line that says what to do."""


class CniError(Exception):
    """A network cannot be had, or not be given back."""
