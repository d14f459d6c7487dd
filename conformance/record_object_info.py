"""Writes what a ComfyUI tells of its classes, without the texts, which are comfyd's own: `record_object_info.py URL > object_info.json`. Of the files
that combos list only those are in it that the server's folders hold: record with input/example.png, the folder input/3d and
models/checkpoints/sd15_random.safetensors, all empty."""
import json
import sys
import urllib.request

TEXTS = ("tooltip", "description", "output_tooltips", "search_aliases", "price_badge")


def stripped(value):
    if isinstance(value, dict):
        return {key: stripped(part) for key, part in value.items() if key not in TEXTS}
    return [stripped(part) for part in value] if isinstance(value, list) else value


info = json.load(urllib.request.urlopen(sys.argv[1].rstrip("/") + "/object_info"))
# An input may be called as a text is.
info = {name: stripped({**told, "input": {}}) | {"input": {
    group: {name: stripped(config) if isinstance(config, (dict, list)) else config for name, config in inputs.items()}
    for group, inputs in told["input"].items()}} for name, told in info.items()}
json.dump(info, sys.stdout, separators=(",", ":"))
