"""What a worker is asked to do while it runs, besides its job."""

from enum import IntEnum


class Asked(IntEnum):
    """What the workers are asked; of several, the highest holds."""

    GO_ON = 0
    MOVE = 1
    """Save and end, to be started again: a node is about to go."""
    STOP = 2
    """Save and end."""


class StopRequest:
    """A worker's own copy: another thread sets it, the loop looks at it between two pieces of work."""

    def __init__(self) -> None:
        self.asked = Asked.GO_ON
        self.is_answered = False
        """Whether the loop has come to where it looks; before, it has made nothing that could be saved."""
