"""Values on their way between the two: scalars cross, tensors are copied when they are asked for, everything else stays here under a
number."""
import enum
import itertools
import json
import math
import sys
import threading
from collections.abc import Mapping

TEXT_MAX = 16 << 20
ALIGN = 64


class CannotCross(Exception):
    """A value that only this process can use."""


class Objects:
    """The objects that comfyd knows, by number. A number is never used again, and the same object keeps its number while it is held."""

    def __init__(self):
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._held = {}             # number -> [object, how often comfyd was told of it]
        self._by_id = {}            # id(object) -> number; held objects keep their ids

    def __len__(self):
        return len(self._held)

    def number(self, value):
        """Its number; counts that comfyd is told of it."""
        with self._lock:
            number = self._by_id.get(id(value))
            if number is None:
                number = self._by_id[id(value)] = next(self._numbers)
                self._held[number] = [value, 0]
            self._held[number][1] += 1
            return number

    def get(self, number):
        """The object of that number."""
        try:
            return self._held[number][0]
        except (KeyError, TypeError):
            raise LookupError(f"there is no object {number!r} in this worker") from None

    def release(self, numbers):
        """Lets objects go: a number lets go at once, `[number, times]` when comfyd was told of it no more often than that.

        The second form is for a number that is told again while its release is under way.
        """
        gone = []                   # freed when the lock is: what a destructor does is the pack's business
        with self._lock:
            for entry in numbers:
                number, times = entry if isinstance(entry, (list, tuple)) else (entry, None)
                held = self._held.get(number)
                if held is None:
                    continue
                held[1] -= held[1] if times is None else times
                if held[1] <= 0:
                    del self._held[number]
                    del self._by_id[id(held[0])]
                    gone.append(held[0])
        del gone


OBJECTS = Objects()
PUT = {}                            # comfyd's own values by comfyd's own numbers, until the prompt ends: each comes once


def unsaid(told):
    """An answer with values was not sent: comfyd does not know of them."""
    if isinstance(told, dict):
        if isinstance(told.get("h"), int):
            OBJECTS.release([(told["h"], 1)])
        else:
            for part in told.values():
                unsaid(part)
    elif isinstance(told, list):
        for part in told:
            unsaid(part)


def _tensor_type():
    return getattr(sys.modules.get("torch"), "Tensor", ())


def size_of(value, depth=4):
    """Bytes of the tensors and texts in a value, as far as they are in sight. Models count nothing: their memory is managed elsewhere."""
    if isinstance(value, _tensor_type()):
        return value.numel() * value.element_size()
    if isinstance(value, (bytes, bytearray, str)):
        return len(value)
    if depth and isinstance(value, dict):
        return sum(size_of(item, depth - 1) for item in list(value.values()))
    if depth and isinstance(value, (list, tuple)):
        return sum(size_of(item, depth - 1) for item in value)
    count = getattr(value, "nbytes", 0) if type(value).__module__.partition(".")[0] == "numpy" else 0
    return count if isinstance(count, int) else 0


def shape_of(value):
    """The shape of a tensor or array; `None` for anything else."""
    shape = getattr(value, "shape", None)
    try:
        return [int(length) for length in shape] if isinstance(shape, tuple) else None
    except (TypeError, ValueError):
        return None


def encode(value):
    """A value as comfyd is told of it."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if not isinstance(value, enum.Enum):
        if isinstance(value, str) and len(value) <= TEXT_MAX:
            return str.__str__(value)                      # plain, whatever a subclass makes of these
        if isinstance(value, int) and value.bit_length() < 127:
            value = int.__pos__(value)                     # readers of JSON round what is beyond 64 bits
            return value if -1 << 63 <= value < 1 << 64 else {"i": str(value)}
        if isinstance(value, float):
            value = float.__pos__(value)
            return value if math.isfinite(value) else {"f": repr(value)}
    from comfy_execution.graph_utils import ExecutionBlocker
    if isinstance(value, ExecutionBlocker):
        return {"b": None if value.message is None else str(value.message)}
    told = {"h": OBJECTS.number(value), "k": kind.__name__, "s": size_of(value)}
    shape = shape_of(value)
    if shape is not None:
        told["shape"] = shape
    return told


def decode(told, blob):
    """The value that comfyd tells of."""
    if not isinstance(told, dict):
        return told
    if "h" in told:
        return OBJECTS.get(told["h"])
    if "j" in told:
        return told["j"]
    if "f" in told:
        return float(told["f"])
    if "i" in told:
        return int(told["i"])
    if "L" in told:
        return [decode(item, blob) for item in told["L"]]
    if "p" in told:
        value = unpack(told["p"], blob)
        if "put" in told:
            PUT[told["put"]] = value
        return value
    if "put" in told:
        return PUT[told["put"]]
    if "b" in told:
        from comfy_execution.graph_utils import ExecutionBlocker
        return ExecutionBlocker(told["b"])
    raise ValueError(f"a value has one of the forms h, j, f, i, L, p, put and b, not {sorted(told)}")


def _named(torch, name):
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"torch has no numbers of type {name!r}")
    return dtype


def unpack(told, blob):
    """A value with tensors. They lie in the memory into which the frame was read: nothing is copied."""
    import torch
    parts = {}
    for name, part in told["tensors"].items():
        dtype, shape, at, length = _named(torch, part["dtype"]), part["shape"], part["at"], part["len"]
        if at < 0 or length < 0 or at + length > len(blob):
            raise ValueError("a tensor lies outside of its frame")
        if length == 0:
            parts[name] = torch.empty(shape, dtype=dtype)
            continue
        memory = memoryview(blob)[at:at + length]          # its memory is not used again while this view lives, which torch holds
        if at % 16:
            memory = memoryview(bytearray(memory))         # torch wants its numbers at whole multiples of their size
        parts[name] = torch.frombuffer(memory, dtype=dtype).reshape(shape)
    if "tree" in told:
        return _from_tree(told["tree"], parts)
    return parts[""] if "" in parts else {**parts, **told.get("meta", {})}


def _bytes_of(torch, tensor):
    """The memory of a tensor's numbers in order, in the memory of the CPU."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype.is_complex:
        raise CannotCross(f"a tensor of layout {tensor.layout} and type {tensor.dtype} cannot leave its worker")
    if not tensor.numel():
        return b""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()).cast("B")


def is_json(value, depth=32):
    """Whether JSON gives a value back as it was: no tuples, no keys other than texts, nothing infinite."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return True
    if kind is float:
        return math.isfinite(value)
    if not depth:
        return False
    if kind is list:
        return all(is_json(item, depth - 1) for item in value)
    return kind is dict and all(type(key) is str and is_json(item, depth - 1) for key, item in value.items())


def is_heavy(value):
    """Whether to pack it may take long, because it makes its contents when they are looked at."""
    return isinstance(value, Mapping) and type(value) is not dict


def _tree(value, tensors, depth=32):
    """A structure with names of tensors in their places, which are collected in `tensors`. Raises `CannotCross`."""
    kind = type(value)
    if isinstance(value, _tensor_type()):
        name = str(len(tensors))
        tensors[name] = value
        return {"t": name}
    if depth and kind in (list, tuple):
        return {"L" if kind is list else "T": [_tree(item, tensors, depth - 1) for item in value]}
    if depth and kind is dict:
        return {"D": [[_tree(key, tensors, 0), _tree(item, tensors, depth - 1)] for key, item in value.items()]}
    if value is None or kind in (bool, int, str) and (kind is not int or value.bit_length() < 127) or kind is float:
        return encode(value)
    raise CannotCross(_stays(value))


def _from_tree(tree, tensors):
    """The structure."""
    if not isinstance(tree, dict):
        return tree
    if "t" in tree:
        return tensors[tree["t"]]
    if "L" in tree:
        return [_from_tree(item, tensors) for item in tree["L"]]
    if "T" in tree:
        return tuple(_from_tree(item, tensors) for item in tree["T"])
    if "D" in tree:
        return {_from_tree(key, tensors): _from_tree(item, tensors) for key, item in tree["D"]}
    return decode(tree, b"")


def pack(value):
    """What of an object leaves this process: fields of the answer, and the memory of its tensors. Raises `CannotCross`."""
    tensor_type = _tensor_type()
    if is_json(value):
        return {"j": value}, []
    if isinstance(value, tensor_type):
        parts, meta = {"": value}, {}
    elif isinstance(value, Mapping):
        value = dict(value)
        parts = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, tensor_type)}
        meta = {key: item for key, item in value.items() if key not in parts}
        if not parts or "" in parts or not is_json(meta):
            return _pack(*_structure(value))
    elif isinstance(value, (list, tuple)):
        return _pack(*_structure(value))
    elif isinstance(value, str):
        return {"j": str.__str__(value)}, []               # members of enumerations, which keep their class while they stay
    elif isinstance(value, int):
        return {"j": int.__pos__(value)}, []
    else:
        raise CannotCross(_stays(value))
    return _pack(parts, {"meta": meta})


def _structure(value):
    parts = {}
    tree = _tree(value, parts)
    return parts, {"tree": tree}


def _pack(parts, rest):
    import torch
    tensors, blobs, at = {}, [], 0
    for name, tensor in parts.items():
        memory = _bytes_of(torch, tensor)
        tensors[name] = {"dtype": str(tensor.dtype).partition(".")[2], "shape": list(tensor.shape), "at": at, "len": len(memory)}
        gap = -len(memory) % ALIGN
        blobs += [memory, bytes(gap)]
        at += len(memory) + gap
    if blobs:
        blobs.pop()
    return {"p": {"tensors": tensors, **rest}}, blobs


def _stays(value):
    return f"a value of type {type(value).__name__} cannot leave its worker"


def shown(value):
    """A value as text, for people."""
    if isinstance(value, (dict, list)) and is_json(value):
        return json.dumps(value, indent=4)[:TEXT_MAX]
    return str(value)[:TEXT_MAX]
