"""Which node runs here."""
import contextvars
from typing import NamedTuple, Optional


class ExecutionContext(NamedTuple):
    prompt_id: str
    node_id: str
    list_index: Optional[int]


_current = contextvars.ContextVar("stub_node", default=None)


def get_executing_context():
    return _current.get()


class CurrentNodeContext:
    def __init__(self, prompt_id, node_id, list_index=None):
        self.context = ExecutionContext(prompt_id, node_id, list_index)

    def __enter__(self):
        self.token = _current.set(self.context)

    def __exit__(self, *error):
        _current.reset(self.token)
