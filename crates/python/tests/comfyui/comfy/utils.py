"""Progress bars."""
_hook = None


def set_progress_bar_global_hook(function):
    global _hook
    _hook = function


class ProgressBar:
    def __init__(self, total, node_id=None):
        self.total, self.current, self.node = total, 0, node_id

    def update_absolute(self, value, total=None, preview=None):
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        if _hook is not None:
            _hook(self.current, self.total, preview, node_id=self.node)

    def update(self, steps):
        self.update_absolute(self.current + steps)
