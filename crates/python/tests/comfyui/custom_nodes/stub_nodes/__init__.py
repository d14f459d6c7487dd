"""Classes for tests. `name KIND -> KIND` as in ComfyUI; `*` is any type.

values
    StubEcho       value * -> *                             gives the value back, the same object
    StubAdd        a INT, b INT -> INT
    StubText       text STRING -> STRING
    StubOutput     value * (output node)                    ui {"text": [str(value)]}
    StubList       count INT -> INT (list)                  0, 1, 2, …
    StubSum        values INT (takes lists) -> INT
    StubObject     name STRING -> STUB_OBJECT               an object that cannot cross; it counts those that live
    StubUseObject  object STUB_OBJECT -> STRING             its name
    StubAlive      -> INT                                   how many objects live (once)
    StubSame       -> STUB_OBJECT                           the same object each time
    StubBytes      megabytes INT -> STUB_BYTES              a large object that cannot cross
    StubTensor     height INT, width INT, value FLOAT -> IMAGE      (1, height, width, 3) of float32
    StubTensorSum  image IMAGE -> FLOAT
    StubLatent     length INT -> LATENT                     {"samples": tensor, "kind": "stub"}
    StubAudio      length INT -> AUDIO                      {"waveform": tensor, "sample_rate": 8000}
    StubTree       -> CONDITIONING                          [[tensor, {"pooled": tensor of int64, "sizes": (1, 2.5, infinity)}]]
    StubShape      value * -> STRING                        its structure, tensors as their types and numbers
    StubOdd        -> FLOAT, FLOAT, STRING, INT, *          infinity, 1.0, a subclass of str, 2 ** 70, [1, "two"]
    StubCount      value * -> INT                           how often this instance was called (NOT_IDEMPOTENT)
inputs
    StubLazy       pick BOOLEAN, first INT (lazy), second INT (lazy) -> INT
    StubLazyAll    a INT (lazy), b INT (lazy) -> INT        asks for a, then for b unless a is 0
    StubOpen       any undeclared names, links under "lazy_…" lazy, under "raw_…" raw -> STRING     JSON of what came, sorted
    StubPlain      a INT -> INT                             undeclared constants are dropped
    StubHidden     text STRING; UNIQUE_ID, PROMPT, DYNPROMPT, EXTRA_PNGINFO, tokens -> STRING   JSON of them
    StubRaw        value * (rawLink) -> STRING              the link as JSON
    StubAny        value "anything" (a type equal to all), number FLOAT (takes INT too) -> STRING
    StubWild       -> WILD, …                               a type equal to all, under every slot
    StubFiles      file COMBO: "none" and the files of `stubs`; ending COMBO: those of `stubs` that end in .stub; last COMBO -> STRING
    StubFolder     file COMBO: what is in the pack's folder -> STRING
running
    StubExpand     times INT, value INT -> INT              a chain of `times` StubAdd of 1, the first shown as node "shown"
    StubExpandSome count INT (list) -> INT                  odd ones expand into a StubAdd, even ones give themselves
    StubExpandObject -> STRING                              expands into StubUseObject with an object as its constant
    StubBlock      value *, block BOOLEAN, message STRING -> *      "" blocks silently
    StubSleep      value *, seconds FLOAT -> * (async)
    StubProgress   steps INT, preview BOOLEAN, seconds FLOAT -> INT
    StubProgressText text STRING -> STRING                  sends it as the node's text
    StubLoop       seconds FLOAT -> INT                     heeds interruption
    StubStubborn   seconds FLOAT -> INT                     does not, but an exception thrown into it ends it
    StubHang       seconds FLOAT -> INT                     nothing ends it
failing
    StubRaise      message STRING, kind COMBO: ValueError, memory, interrupt, exit, own, half (of a surrogate pair) -> INT
    StubAsyncRaise message STRING -> INT (async)
    StubExits      where COMBO: run, later, lazy, changed, validate, value INT (lazy) -> INT      sys.exit there
    StubExit       status INT, said STRING (optional) -> INT        prints it, and os._exit
    StubSegfault   -> INT
    StubRestart    -> INT                                   os.execv
checks
    StubChanged    mode COMBO: same, counter, nan, raise, object -> INT
    StubChecked    number INT, other INT -> INT             VALIDATE_INPUTS(number): > 10 "too much", < 0 False, 5 raises, 9 takes a minute
    StubCheckedTypes value * -> STRING                      VALIDATE_INPUTS(input_types): must be INT
    StubCheckedAll a INT, b INT -> INT                      VALIDATE_INPUTS(**kwargs): a < b, else a text for both
files
    StubReadInput  file STRING -> STRING                    what the file of the input folder holds; VALIDATE_INPUTS(file): it is there
    StubSaveOutput text STRING (output node)                stub_00001_.txt in the output folder, counted on from what is there
"""
import asyncio
import ctypes
import json
import os
import sys
import time

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder
from server import PromptServer

HERE = os.path.dirname(os.path.abspath(__file__))
CLASSES = {}


def node(returns, required=None, optional=None, hidden=None, **more):
    """Declares a class around its function."""
    def declare(cls):
        declared = {"required": required or {}}
        declared |= {"optional": optional} if optional is not None else {}
        declared |= {"hidden": hidden} if hidden is not None else {}
        if not hasattr(cls, "INPUT_TYPES"):
            cls.INPUT_TYPES = classmethod(lambda cls: declared)
        cls.RETURN_TYPES, cls.FUNCTION, cls.CATEGORY = tuple(returns), "run", "stub"
        for name, value in more.items():
            setattr(cls, name, value)
        CLASSES[cls.__name__] = cls
        return cls
    return declare


INT, FLOAT, TEXT, SWITCH, ANY = ("INT", {}), ("FLOAT", {}), ("STRING", {}), ("BOOLEAN", {}), ("*", {})


@node("*", {"value": ANY})
class StubEcho:
    def run(self, value):
        return (value,)


@node(["INT"], {"a": INT, "b": INT})
class StubAdd:
    def run(self, a, b):
        return (a + b,)


@node(["STRING"], {"text": TEXT})
class StubText:
    def run(self, text):
        return (text,)


@node([], {"value": ANY}, OUTPUT_NODE=True)
class StubOutput:
    def run(self, value):
        return {"ui": {"text": [str(value)]}}


@node(["INT"], {"count": INT}, OUTPUT_IS_LIST=(True,))
class StubList:
    def run(self, count):
        return (list(range(count)),)


@node(["INT"], {"values": INT}, INPUT_IS_LIST=True)
class StubSum:
    def run(self, values):
        return (sum(values),)


class Thing:
    alive = 0

    def __init__(self, name):
        self.name = name
        Thing.alive += 1

    def __del__(self):
        Thing.alive -= 1


@node(["STUB_OBJECT"], {"name": TEXT})
class StubObject:
    def run(self, name):
        return (Thing(name),)


@node(["STRING"], {"object": ("STUB_OBJECT", {})})
class StubUseObject:
    def run(self, object):
        return (object.name,)


@node(["INT"], {}, NOT_IDEMPOTENT=True)
class StubAlive:
    def run(self):
        return (Thing.alive,)


@node(["STUB_OBJECT"], {})
class StubSame:
    kept = None

    def run(self):
        StubSame.kept = StubSame.kept or Thing("same")
        return (StubSame.kept,)


@node(["STUB_BYTES"], {"megabytes": INT})
class StubBytes:
    def run(self, megabytes):
        return (bytes(megabytes << 20),)


@node(["IMAGE"], {"height": INT, "width": INT, "value": FLOAT})
class StubTensor:
    def run(self, height, width, value):
        return (torch.full((1, height, width, 3), value),)


@node(["FLOAT"], {"image": ("IMAGE", {})})
class StubTensorSum:
    def run(self, image):
        return (float(sum(image.tolist())),)


@node(["LATENT"], {"length": INT})
class StubLatent:
    def run(self, length):
        return ({"samples": torch.tensor([0.5] * length, shape=(1, length)), "kind": "stub"},)


@node(["AUDIO"], {"length": INT})
class StubAudio:
    def run(self, length):
        return ({"waveform": torch.tensor([0.5] * length, shape=(1, 1, length)), "sample_rate": 8000},)


@node(["CONDITIONING"], {})
class StubTree:
    def run(self):
        pooled = torch.tensor([1, 2 ** 40], torch.int64)
        return ([[torch.tensor([0.5, 1.5]), {"pooled": pooled, "sizes": (1, 2.5, float("inf")), 3: None}]],)


def structure(value):
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)} {value.tolist()}"
    if isinstance(value, dict):
        return {key: structure(part) for key, part in value.items()}
    return type(value)(map(structure, value)) if isinstance(value, (list, tuple)) else value


@node(["STRING"], {"value": ANY})
class StubShape:
    def run(self, value):
        return (repr(structure(value)),)


class OwnText(str):
    pass


@node(["FLOAT", "FLOAT", "STRING", "INT", "*"], {})
class StubOdd:
    def run(self):
        return (float("inf"), 1.0, OwnText("own"), 2 ** 70, [1, "two"])


@node(["INT"], {"value": ANY}, NOT_IDEMPOTENT=True)
class StubCount:
    def __init__(self):
        self.count = 0

    def run(self, value):
        self.count += 1
        return (self.count,)


@node(["INT"], {"pick": SWITCH, "first": ("INT", {"lazy": True}), "second": ("INT", {"lazy": True})})
class StubLazy:
    def check_lazy_status(self, pick, first=None, second=None):
        return [name for name, value in [("first", first) if pick else ("second", second)] if value is None]

    def run(self, pick, first=None, second=None):
        return (first if pick else second,)


@node(["INT"], {"a": ("INT", {"lazy": True}), "b": ("INT", {"lazy": True})})
class StubLazyAll:
    def check_lazy_status(self, a=None, b=None):
        return ["a"] if a is None else ["b"] if b is None and a != 0 else []

    def run(self, a=None, b=None):
        return (a if b is None else a + b,)


class AnyName(dict):
    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return ("*", {"lazy": name.startswith("lazy_"), "rawLink": name.startswith("raw_")})


@node(["STRING"], {}, AnyName())
class StubOpen:
    def check_lazy_status(self, **given):
        return [name for name, value in given.items() if name.startswith("lazy_") and value is None]

    def run(self, **given):
        return (json.dumps(given, sort_keys=True, default=str),)


@node(["INT"], {"a": INT})
class StubPlain:
    def run(self, a):
        return (a,)


@node(["STRING"], {"text": TEXT}, hidden={"node": "UNIQUE_ID", "prompt": "PROMPT", "dyn": "DYNPROMPT", "png": "EXTRA_PNGINFO",
                                         "token": "AUTH_TOKEN_COMFY_ORG", "key": "API_KEY_COMFY_ORG"})
class StubHidden:
    def run(self, text, node, prompt, dyn, png, token, key):
        told = {"text": text, "node": node, "prompt": sorted(prompt), "dyn": sorted(dyn.all_node_ids()), "png": png, "token": token,
                "key": key}
        return (json.dumps(told),)


@node(["STRING"], {"value": ("*", {"rawLink": True})})
class StubRaw:
    def run(self, value):
        return (json.dumps(value),)


class Everything(str):
    def __ne__(self, other):
        return False

    __eq__, __hash__ = str.__eq__, str.__hash__


class Numbers(str):
    def __ne__(self, other):
        return other not in ("FLOAT", "INT")

    __eq__, __hash__ = str.__eq__, str.__hash__


@node(["STRING"], {"value": (Everything("anything"), {}), "number": (Numbers("FLOAT"), {})})
class StubAny:
    def run(self, value, number):
        return (f"{value} {number}",)


class EverySlot(tuple):
    def __getitem__(self, slot):
        return Everything(tuple.__getitem__(self, 0))


@node([], {})
class StubWild:
    def run(self):
        return ("wild",)


StubWild.RETURN_TYPES = EverySlot(("WILD",))


@node(["STRING"])
class StubFiles:
    @classmethod
    def INPUT_TYPES(cls):
        files = folder_paths.get_filename_list("stubs")
        return {"required": {"file": (["none"] + files, {}), "ending": ([file for file in files if file.endswith(".stub")],),
                             "last": (["a", "b"], {"default": "b"})}}

    def run(self, file, ending, last):
        return (f"{file} {ending} {last}",)


@node(["STRING"])
class StubFolder:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": (sorted(os.listdir(HERE)),)}}

    def run(self, file):
        return (file,)


@node(["INT"], {"times": INT, "value": INT})
class StubExpand:
    def run(self, times, value):
        graph = GraphBuilder()
        last = value
        for index in range(times):
            add = graph.node("StubAdd", a=last, b=1)
            if index == 0:
                add.set_override_display_id("shown")
            last = add.out(0)
        return {"result": (last,), "expand": graph.finalize()}


@node(["INT"], {"count": INT})
class StubExpandSome:
    def run(self, count):
        if count % 2 == 0:
            return (count,)
        graph = GraphBuilder()
        add = graph.node("StubAdd", a=count, b=100)
        return {"result": (add.out(0),), "expand": graph.finalize()}


@node(["STRING"], {})
class StubExpandObject:
    def run(self):
        graph = GraphBuilder()
        use = graph.node("StubUseObject", object=Thing("inner"))
        return {"result": (use.out(0),), "expand": graph.finalize()}


@node("*", {"value": ANY, "block": SWITCH, "message": TEXT})
class StubBlock:
    def run(self, value, block, message):
        return (ExecutionBlocker(message or None) if block else value,)


@node("*", {"value": ANY, "seconds": FLOAT})
class StubSleep:
    async def run(self, value, seconds):
        await asyncio.sleep(seconds)
        return (value,)


class Picture:
    """As much of a picture of PIL's as previews need."""
    mode, size, info = "RGB", (4, 2), {}

    def getbands(self):
        return ("R", "G", "B")

    def tobytes(self):
        return bytes(range(24))


@node(["INT"], {"steps": INT, "preview": SWITCH, "seconds": FLOAT})
class StubProgress:
    def run(self, steps, preview, seconds):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            time.sleep(seconds / steps)
            bar.update_absolute(step + 1, steps, ("JPEG", Picture(), 512) if preview else None)
        return (steps,)


@node(["STRING"], {"text": TEXT}, hidden={"node": "UNIQUE_ID"})
class StubProgressText:
    def run(self, text, node):
        PromptServer.instance.send_progress_text(text, node)
        return (text,)


def until(seconds, turn):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        turn()


@node(["INT"], {"seconds": FLOAT})
class StubLoop:
    def run(self, seconds):
        def turn():
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.002)
        until(seconds, turn)
        return (1,)


@node(["INT"], {"seconds": FLOAT})
class StubStubborn:
    def run(self, seconds):
        until(seconds, lambda: time.sleep(0.002))
        return (1,)


@node(["INT"], {"seconds": FLOAT})
class StubHang:
    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                until(seconds, lambda: time.sleep(0.002))
            except BaseException:
                pass
        return (1,)


class OwnError(Exception):
    pass


@node(["INT"], {"message": TEXT, "kind": (["ValueError", "memory", "interrupt", "exit", "own"],)})
class StubRaise:
    def run(self, message, kind):
        if kind == "exit":
            sys.exit(message)
        kinds = {"ValueError": ValueError, "memory": comfy.model_management.OOM_EXCEPTION, "own": OwnError,
                 "interrupt": comfy.model_management.InterruptProcessingException}
        kinds["half"] = lambda message: ValueError(message + "\ud800")
        raise kinds[kind](message)


@node(["INT"], {"message": TEXT})
class StubAsyncRaise:
    async def run(self, message):
        await asyncio.sleep(0.01)
        raise ValueError(message)


@node(["INT"], {"where": (["run", "later", "lazy", "changed", "validate", "validate later"],), "value": ("INT", {"lazy": True})})
class StubExits:
    @classmethod
    async def VALIDATE_INPUTS(cls, where):
        if where == "validate later":
            await asyncio.sleep(0.01)
        StubExits.leave(where, "validate", "validate later")
        return True

    @classmethod
    def IS_CHANGED(cls, where):
        StubExits.leave(where, "changed")
        return 1

    def check_lazy_status(self, where, value=None):
        StubExits.leave(where, "lazy")
        return []

    async def run(self, where, value=None):
        if where == "later":
            await asyncio.sleep(0.01)
        StubExits.leave(where, "run", "later")
        return (1,)

    @staticmethod
    def leave(where, *here):
        if where in here:
            sys.exit(f"in {where}")


@node(["INT"], {"status": INT}, {"said": TEXT})
class StubExit:
    def run(self, status, said=""):
        print(said)
        print("\033[31mthe stub\033[0m ends the process", flush=True)
        os._exit(status)


@node(["INT"], {})
class StubSegfault:
    def run(self):
        ctypes.string_at(0)
        return (1,)


@node(["INT"], {})
class StubRestart:
    def run(self):
        os.execv(sys.executable, [sys.executable, *sys.argv])


@node(["INT"], {"mode": (["same", "counter", "nan", "raise", "object"],)})
class StubChanged:
    counter = 0

    @classmethod
    def IS_CHANGED(cls, mode):
        if mode == "raise":
            raise ValueError("no fingerprint")
        StubChanged.counter += 1
        return {"same": 1.0, "counter": StubChanged.counter, "nan": float("nan"), "object": cls}[mode]

    def run(self, mode):
        return (1,)


@node(["INT"], {"number": INT, "other": INT})
class StubChecked:
    @classmethod
    def VALIDATE_INPUTS(cls, number):
        if number == 5:
            raise ValueError("not five")
        if number == 9:
            time.sleep(60)
        return "too much" if number > 10 else number >= 0

    def run(self, number, other):
        return (number + other,)


@node(["STRING"], {"value": ("STUB_NEVER", {})})
class StubCheckedTypes:
    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True if input_types.get("value") == "INT" else f"INT is wanted, not {input_types.get('value')}"

    def run(self, value):
        return (str(value),)


@node(["INT"], {"a": INT, "b": INT})
class StubCheckedAll:
    @classmethod
    def VALIDATE_INPUTS(cls, **given):
        return True if given["a"] is None or given["b"] is None or given["a"] < given["b"] else "a is to be less than b"

    def run(self, a, b):
        return (a + b,)


@node(["STRING"], {"file": TEXT})
class StubReadInput:
    @classmethod
    def VALIDATE_INPUTS(cls, file):
        return os.path.isfile(os.path.join(folder_paths.get_input_directory(), file)) or f"there is no {file}"

    def run(self, file):
        with open(os.path.join(folder_paths.get_input_directory(), file), encoding="utf-8") as opened:
            return (opened.read(),)


@node([], {"text": TEXT}, OUTPUT_NODE=True)
class StubSaveOutput:
    def run(self, text):
        folder = folder_paths.get_output_directory()
        taken = [int(name.split("_")[1]) for name in os.listdir(folder) if name.startswith("stub_")]
        name = f"stub_{max(taken, default=0) + 1:05}_.txt"
        with open(os.path.join(folder, name), "w", encoding="utf-8") as opened:
            opened.write(text)
        return {"ui": {"images": [{"filename": name, "subfolder": "", "type": "output"}]}}


NODE_CLASS_MAPPINGS = CLASSES
