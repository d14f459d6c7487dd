"""What nodes and packs report while they run: progress, previews, texts, and events of their own. comfyd's own events are not theirs
to send."""
import struct
import sys
import threading
import time

from . import frames

INTERVAL = 0.03
OWN = {"status", "progress_state", "executing", "executed", "feature_flags", "execution_start", "execution_cached", "execution_success",
       "execution_error", "execution_interrupted"}
TEXT, PREVIEW, UNENCODED, WITH_METADATA = 3, 1, 2, 4            # ComfyUI's BinaryEventTypes


class Progress:
    """Steps of nodes, thinned out. The last one is told whatever its time."""

    def __init__(self):
        self._lock = threading.Lock()
        self._told = {}             # node -> (time, value, max)
        self._held = {}             # node -> (value, max), not told yet

    def update(self, node, value, maximum):
        """A node is at `value` of `maximum`."""
        node = str(node)
        now = time.monotonic()
        with self._lock:
            when, *last = self._told.get(node, (0.0, None, None))
            if last == [value, maximum]:
                self._held.pop(node, None)
                return
            if now - when < INTERVAL and value < maximum and last[1] == maximum:
                self._held[node] = (value, maximum)
                return
            self._told[node] = (now, value, maximum)
            self._held.pop(node, None)
        frames.event("progress", node=node, value=value, max=maximum)

    def finish(self, node):
        """A node's call is over."""
        with self._lock:
            held = self._held.pop(node, None)
            self._told.pop(node, None)
        if held is not None:
            frames.event("progress", node=node, value=held[0], max=held[1])

    def forget(self):
        """The prompt is over."""
        with self._lock:
            self._told.clear()
            self._held.clear()


PROGRESS = Progress()


def preview(node, image):
    """A picture of how far a node is: ComfyUI's `(format, PIL image, largest side or None)`, sent as pixels."""
    try:
        _preview(node, image)
    except Exception as error:                             # a picture that is none does not fail its node
        print(f"comfyd: a preview was left out: {error!r}", file=sys.stderr)


def _preview(node, image):
    form, picture, largest = image
    lossless = form == "PNG"
    mode = "RGBA" if lossless and ("A" in picture.getbands() or "transparency" in picture.info) else "RGB"
    if largest is not None and max(picture.size) > largest:
        from PIL import Image, ImageOps
        picture = ImageOps.contain(picture, (largest, largest), Image.Resampling.BILINEAR)
    if picture.mode != mode:
        picture = picture.convert(mode)
    width, height = picture.size
    frames.event("preview", [picture.tobytes()], node=None if node is None else str(node), width=width, height=height, channels=len(mode),
                 max=largest, lossless=lossless)


def handler():
    """ComfyUI's progress registry tells this one of every step, in place of the one that writes to websockets."""
    from comfy_execution import progress

    class Reports(progress.ProgressHandler):
        def __init__(self):
            super().__init__("webui")

        def update_handler(self, node_id, value, max_value, state, prompt_id, image=None):
            PROGRESS.update(node_id, value, max_value)
            if image is not None:
                preview(node_id, image)

    return Reports()


def _running_node(server):
    """The node that runs here: that of the context, else the last one."""
    try:
        from comfy_execution.utils import get_executing_context
        context = get_executing_context()
    except ImportError:
        context = None
    return server.last_node_id if context is None else context.node_id


def _text(data):
    """Node and text of ComfyUI's message of type 3."""
    (length,) = struct.unpack_from(">I", data)
    if len(data) < 4 + length:
        raise ValueError("the message ends in the node's id")
    return data[4:4 + length].decode(), data[4 + length:].decode()


def send_sync(self, event, data, sid=None):
    """Stands in for `PromptServer.send_sync`."""
    if isinstance(event, str):
        if event == "progress" and isinstance(data, dict) and isinstance(data.get("value"), (int, float)):
            node = data.get("node") or self.last_node_id
            if node is not None:
                PROGRESS.update(node, data["value"], data.get("max", 1))
        elif event not in OWN and event != "progress":
            frames.event("event", name=event, data=data, sid=sid)
    elif event == WITH_METADATA and isinstance(data, tuple):
        preview((data[1] or {}).get("node_id") or _running_node(self), data[0])
    elif event == UNENCODED:
        preview(_running_node(self), data)
    elif isinstance(data, (bytes, bytearray, memoryview)):
        data = bytes(data)
        try:
            node, text = _text(data) if event == TEXT else (None, None)
        except (struct.error, ValueError):
            node, text = None, None
        if text is not None:
            frames.event("text", node=node, text=text, sid=sid)
        else:
            frames.event("binary", [data], type=int(event), sid=sid)
    else:
        frames.event("event", name=str(event), data=data, sid=sid)
