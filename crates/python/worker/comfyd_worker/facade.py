"""ComfyUI's queue as packs see it. It stays the object that ComfyUI made: what runs is in it, and what packs put in until it runs.
comfyd's own queue is elsewhere, and is told of every change. Items are kept sorted by their numbers, which is a heap too."""
from . import frames

MIRROR_MAX = 1000


def _changed_flags():
    """Set by `watch`: called where a pack asks for memory to be freed."""


_on_flags = _changed_flags


def watch(callback):
    """Says whom to call when a flag is set."""
    global _on_flags
    _on_flags = callback


def install(queue_class, get):
    """Replaces those methods of `PromptQueue` that change the queue; `get` is what ComfyUI's prompt thread calls, for good."""
    queue_class.get = lambda self, timeout=None: get()
    queue_class.put, queue_class.wipe_queue, queue_class.delete_queue_item = _put, _wipe_queue, _delete_queue_item
    set_flag = queue_class.set_flag

    def _set_flag(self, name, data):
        set_flag(self, name, data)
        _on_flags()

    queue_class.set_flag = _set_flag


def _put(self, item):
    if not isinstance(item, (tuple, list)) or len(item) < 5 or not isinstance(item[0], (int, float)) or not isinstance(item[1], str):
        raise TypeError("an item of the queue is (number, prompt id, prompt, extra data, outputs to run)")
    told = list(item[:5])
    if len(item) > 5 and isinstance(item[5], dict) and isinstance(told[3], dict):
        told[3] = {**told[3], **item[5]}                   # secrets, which comfyd takes out again at its own door
    with self.mutex:
        self.queue.append(item)
        self.queue.sort(key=lambda other: other[0])
        del self.queue[MIRROR_MAX:]
    frames.event("enqueue", item=told)


def _wipe_queue(self):
    with self.mutex:
        self.queue = []
    frames.event("wipe")


def _delete_queue_item(self, function):
    with self.mutex:
        found = next((item for item in self.queue if function(item)), None)
        if found is None:
            return False
        self.queue.remove(found)
    frames.event("remove", ids=[found[1]])
    return True


def begin(queue, item):
    """A prompt runs now."""
    with queue.mutex:
        queue.currently_running = {queue.task_counter: item}
        queue.task_counter += 1
        queue.queue = [other for other in queue.queue if other[1] != item[1]]


def end(queue):
    """No prompt runs now."""
    with queue.mutex:
        queue.currently_running = {}
