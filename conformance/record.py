"""Runs workflows on a ComfyUI and keeps what it saved, in the layout that check_cases.py reads: `cases.json` and the files beside it."""
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


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
    recorded = json.load(open(index)) if os.path.exists(index) else {}
    complete = True
    for name, workflow in workflows.items():
        if not name.startswith(prefix) or new and name in recorded:
            continue
        try:
            prompt_id = call(base, "/prompt", {"prompt": workflow})["prompt_id"]
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
        recorded[name] = {"workflow": workflow, "expect": saved(base, folder, name.replace("/", "."), entry["outputs"])}
        with open(index, "w") as out:
            json.dump(recorded, out, separators=(",", ":"))
        print("ok  ", name, flush=True)
    return complete


def saved(base, folder, name, outputs):
    """Fetches what the output nodes saved; the names it has in the folder."""
    names = []
    for output in outputs.values():
        for kind in ("images", "latents"):
            for i, file in enumerate(output.get(kind, [])):
                to = f"{name}.{i}.png" if kind == "images" else f"{name}.latent"
                with open(os.path.join(folder, to), "wb") as out:
                    out.write(urllib.request.urlopen(f"{base}/view?" + urllib.parse.urlencode(file)).read())
                names.append(to)
    return names
