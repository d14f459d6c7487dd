"""ComfyUI's queue as packs see it. It stays the object that ComfyUI made: what runs is in it, and what packs put in until it runs.
comfyd's own queue is elsewhere, and is told of every change. Items are kept sorted by their numbers, which is a heap too. The history is
comfyd's, and is asked for whenever somebody looks at it."""
import itertools
import threading

from . import frames

MIRROR_MAX = 1000
# How long comfyd may take to tell what it is asked for.
ANSWER_S = 60.0


class Asked:
    """What is asked of comfyd, by threads that wait for the answer. The one that reads answers must not ask."""

    def __init__(self):
        self._numbers, self._waiting = itertools.count(1), {}

    def ask(self, kind, **fields):
        """What comfyd answers; raises where it does not."""
        number, answered, got = next(self._numbers), threading.Event(), []
        self._waiting[number] = lambda message: (got.append(message), answered.set())
        try:
            frames.send({"ev": kind, "ask": number, **fields})
            if not answered.wait(ANSWER_S):
                raise TimeoutError(f"comfyd has not told the {kind} for {ANSWER_S:.0f} s")
        finally:
            self._waiting.pop(number, None)
        if "error" in got[0]:
            raise RuntimeError(got[0]["error"])
        return got[0].get("json")

    def answer(self, message):
        """comfyd answers."""
        waiting = self._waiting.get(message.get("ask"))
        if waiting is not None:
            waiting(message)


ASKED = Asked()


def _changed_flags():
    """Set by `watch`: called where a pack asks for memory to be freed."""


_on_flags = _changed_flags
_owner = str                                               # whose prompt runs, where users are told apart


def watch(on_flags, owner):
    """Says whom to call when a flag is set, and whom to ask whose prompt runs."""
    global _on_flags, _owner
    _on_flags, _owner = on_flags, owner


def install(queue_class, get):
    """Replaces those methods of `PromptQueue` that change the queue; `get` is what ComfyUI's prompt thread calls, for good."""
    queue_class.get = lambda self, timeout=None: get()
    queue_class.put, queue_class.wipe_queue, queue_class.delete_queue_item = _put, _wipe_queue, _delete_queue_item
    queue_class.get_history, queue_class.wipe_history, queue_class.delete_history_item = _get_history, _wipe_history, _delete_history_item
    # Some look at the attribute; ComfyUI sets it to an empty one, which means nothing here.
    queue_class.history = property(_get_history, lambda self, value: None)
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


def _get_history(self, prompt_id=None, max_items=None, offset=-1, map_function=None):
    told = ASKED.ask("history", prompt_id=prompt_id, max_items=max_items, offset=offset, owner=_owner()) or {}
    for entry in told.values():
        entry["prompt"] = tuple(entry["prompt"])           # as ComfyUI has it
    return told if map_function is None else {key: map_function(entry) for key, entry in told.items()}


def _wipe_history(self):
    frames.event("forget", owner=_owner())


def _delete_history_item(self, id_to_delete):
    frames.event("forget", ids=[id_to_delete], owner=_owner())


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
