"""How far the prompt's nodes are."""
from .graph import DynamicPrompt


class ProgressHandler:
    def __init__(self, name):
        self.name, self.enabled = name, True

    def set_registry(self, registry):
        pass

    def start_handler(self, node_id, state, prompt_id):
        pass

    def update_handler(self, node_id, value, max_value, state, prompt_id, image=None):
        pass

    def finish_handler(self, node_id, state, prompt_id):
        pass

    def reset(self):
        pass


class ProgressRegistry:
    def __init__(self, prompt_id, dynprompt):
        self.prompt_id, self.dynprompt, self.nodes, self.handlers = prompt_id, dynprompt, {}, {}

    def register_handler(self, handler):
        self.handlers[handler.name] = handler

    def _tell(self, what, node, *more):
        for handler in self.handlers.values():
            if handler.enabled:
                getattr(handler, what)(node, *more)

    def start_progress(self, node):
        self.nodes[node] = {"state": "running", "value": 0.0, "max": 1.0}
        self._tell("start_handler", node, self.nodes[node], self.prompt_id)

    def update_progress(self, node, value, max_value, image=None):
        self.nodes[node] = {"state": "running", "value": value, "max": max_value}
        self._tell("update_handler", node, value, max_value, self.nodes[node], self.prompt_id, image)

    def finish_progress(self, node):
        self.nodes.setdefault(node, {"value": 1.0, "max": 1.0})["state"] = "finished"
        self._tell("finish_handler", node, self.nodes[node], self.prompt_id)


_registry = ProgressRegistry("", DynamicPrompt({}))


def reset_progress_state(prompt_id, dynprompt):
    global _registry
    _registry = ProgressRegistry(prompt_id, dynprompt)


def get_progress_state():
    return _registry


def add_progress_handler(handler):
    handler.set_registry(_registry)
    _registry.register_handler(handler)
