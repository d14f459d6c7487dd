"""How the import of the packs went: how long each took, which classes it brought, and why it failed."""
import functools
import inspect
import logging
import os
import time
import traceback
import sys

from . import guard

TEXT_MAX = 20000
RECORDS = []            # what the manifest tells of each, in the order of import


class _Listener(logging.Handler):
    """Hears what ComfyUI logs of failures while the exceptions are still there."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.heard = []             # of the module that is being imported
        self.prestartup = {}        # path of a script -> why it failed

    def emit(self, record):
        try:
            text = record.getMessage()
        except Exception:
            return
        active = sys.exc_info()[1]
        if "startup-script" in text and active is not None:
            reason = "".join(traceback.format_exception(type(active), active, active.__traceback__))
            path = text.partition(": ")[2].partition(" / ")[0]
            self.prestartup[os.path.abspath(path)] = reason[-TEXT_MAX:]
        elif len(self.heard) < 100:
            self.heard.append(text)


LISTENER = _Listener()


def listen():
    """From now on; to be called before ComfyUI starts."""
    logging.getLogger().addHandler(LISTENER)


def deaf():
    """ComfyUI is up: nothing is imported any more."""
    logging.getLogger().removeHandler(LISTENER)


def watch(nodes):
    """Wraps `nodes.load_custom_node`."""
    load = nodes.load_custom_node

    @functools.wraps(load)
    async def load_custom_node(module_path, *arguments, **named):
        before = dict(nodes.NODE_CLASS_MAPPINGS)
        LISTENER.heard.clear()
        # The last line of a process that hangs or ends here says which pack it was.
        print(f"comfyd: {os.path.basename(os.path.abspath(module_path))} is loaded", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            loaded = load(module_path, *arguments, **named)
            loaded = await loaded if inspect.isawaitable(loaded) else loaded
        except guard.ENDS:
            logging.warning("%sCannot import %s: it wants to end the process", traceback.format_exc(), module_path)
            loaded = False
        seconds = time.perf_counter() - began
        parent = named.get("module_parent", arguments[1] if len(arguments) > 1 else "custom_nodes")
        error = None if loaded else _reason(module_path)
        if parent == "custom_nodes" or error is not None:
            classes = [name for name, cls in nodes.NODE_CLASS_MAPPINGS.items() if before.get(name) is not cls]
            path = os.path.abspath(module_path)
            RECORDS.append({"name": os.path.basename(path), "path": path, "seconds": round(seconds, 4), "classes": classes, "error": error,
                            "parent": parent})
        return loaded

    nodes.load_custom_node = load_custom_node


def _reason(path):
    heard = "\n".join(text.strip() for text in LISTENER.heard)
    return heard[-TEXT_MAX:] or f"{os.path.basename(path)} brings no classes, and ComfyUI does not say why"


def told():
    """What the manifest says of them."""
    modules = [dict(record) for record in RECORDS]
    for script, reason in LISTENER.prestartup.items():
        folder = os.path.dirname(script)
        module = next((record for record in modules if record["path"] == folder), None)
        if module is None:
            module = {"name": os.path.basename(folder), "path": folder, "seconds": 0.0, "classes": [], "error": None,
                      "parent": "custom_nodes"}
            modules.append(module)
        module["error"] = "\n".join(filter(None, (f"its prestartup_script.py failed:\n{reason}", module["error"])))
    return modules
