"""Runs workflows on a ComfyUI and keeps what it saved, in the layout that check_cases.py reads: `cases.json` and the files beside it."""
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


# Where an output node says what it saved.
KINDS = ("images", "a_images", "b_images", "audio", "latents")


def in_order(outputs):
    """What the nodes show, in the order of their ids: that in which they ran is each server's own."""
    by_number = lambda node: (0, int(node), node) if node.isdigit() else (1, 0, node)
    return [outputs[node] for node in sorted(outputs, key=by_number)]


def call(base, path, data=None):
    body = json.dumps(data).encode() if data is not None else None
    request = urllib.request.Request(base + path, body, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=900).read() or b"null")


def record(base, folder, workflows, prefix="", new=False):
    """Runs the workflows (name -> graph) whose names begin with `prefix`, with `new` only those that are not there. What was recorded before
    and is not now stays. Returns whether all ran."""
    base = base.rstrip("/")
    os.makedirs(folder, exist_ok=True)
    index = os.path.join(folder, "cases.json")
    recorded, style = {}, {"separators": (",", ":")}
    if os.path.exists(index):
        text = open(index).read()
        recorded = json.loads(text)
        if text.startswith("{\n"):
            style = {"indent": 1}
    complete = True
    for name, workflow in workflows.items():
        if not name.startswith(prefix) or new and name in recorded:
            continue
        try:
            answer = call(base, "/prompt", {"prompt": workflow})
            if answer["node_errors"]:
                print("refused in part", name, json.dumps(answer["node_errors"])[:500], file=sys.stderr)
                complete = False
                continue
            prompt_id = answer["prompt_id"]
        except urllib.error.HTTPError as error:
            print("refused", name, error.read().decode()[:500], file=sys.stderr)
            complete = False
            continue
        while prompt_id not in (history := call(base, "/history/" + prompt_id)):
            time.sleep(0.05)
        entry = history[prompt_id]
        if entry["status"]["status_str"] != "success":
            print("failed", name, json.dumps(entry["status"]["messages"][-1])[:500], file=sys.stderr)
            complete = False
            continue
        tolerances = {key: value for key, value in recorded.get(name, {}).items() if key.endswith("_tol")}
        recorded[name] = {"workflow": workflow, "expect": saved(base, folder, name.replace("/", "."), entry["outputs"]), **tolerances}
        if texts := [text for output in in_order(entry["outputs"]) for text in output.get("text", [])]:
            recorded[name]["texts"] = texts
        with open(index, "w") as out:
            json.dump(recorded, out, **style)
        print("ok  ", name, flush=True)
    return complete


def saved(base, folder, name, outputs):
    """Fetches what the output nodes saved; the names it has in the folder."""
    names = []
    for output in in_order(outputs):
        for kind in KINDS:
            for file in output.get(kind, []):
                ending = file["filename"].rsplit(".", 1)[-1]
                to = f"{name}.{len(names)}.{ending}" if kind != "latents" else f"{name}.latent"
                with open(os.path.join(folder, to), "wb") as out:
                    out.write(urllib.request.urlopen(f"{base}/view?" + urllib.parse.urlencode(file)).read())
                names.append(to)
    return names
