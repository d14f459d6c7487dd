"""Writes what ComfyUI's classes have and `/object_info` does not show: `record_properties.py COMFYUI object_info.json > properties.json`, in
ComfyUI's environment. Only classes that are in object_info.json, and only what differs from a class that has nothing of the kind."""
import asyncio
import inspect
import json
import os
import shutil
import sys
import tempfile

root, known = sys.argv[1], json.load(open(sys.argv[2]))
sys.path.insert(0, root)
sys.argv = ["main.py", "--cpu", "--base-directory", base := tempfile.mkdtemp()]
shutil.copytree(os.path.join(root, "custom_nodes"), os.path.join(base, "custom_nodes"))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import utils.extra_config  # noqa: E402, F401
import nodes  # noqa: E402
from comfy_api.internal import _ComfyNodeInternal  # noqa: E402
from comfy_api.latest import io  # noqa: E402

asyncio.new_event_loop().run_until_complete(nodes.init_extra_nodes(init_custom_nodes=True, init_api_nodes=False))


def method(node, classic, schema):
    """A class's own method, by its name in either way of declaring classes."""
    if not issubclass(node, _ComfyNodeInternal):
        return getattr(node, classic, None)
    own, base = getattr(node, schema, None), getattr(io.ComfyNode, schema, None)
    return own if getattr(own, "__func__", own) is not getattr(base, "__func__", base) else None


def flagged(types, option):
    inputs = [pair for group in ("required", "optional") for pair in types.get(group, {}).items()]
    return sorted(name for name, config in inputs if len(config) > 1 and config[1].get(option))


properties = {}
for name in sorted(known):
    node = nodes.NODE_CLASS_MAPPINGS[name]
    types = node.INPUT_TYPES()
    validate = method(node, "VALIDATE_INPUTS", "validate_inputs")
    spec = inspect.getfullargspec(validate) if validate else None
    found = {
        "input_is_list": bool(getattr(node, "INPUT_IS_LIST", False)),
        "not_idempotent": bool(getattr(node, "NOT_IDEMPOTENT", False)),
        "fingerprint": method(node, "IS_CHANGED", "fingerprint_inputs") is not None,
        "validates": sorted(a for a in spec.args if a not in ("s", "cls", "self")) + ["*"] * bool(spec.varkw) if spec else [],
        "lazy": flagged(types, "lazy"),
        "raw_link": flagged(types, "rawLink"),
    }
    if any(found.values()):
        properties[name] = {key: value for key, value in found.items() if value}
print(json.dumps(properties, indent=1))
