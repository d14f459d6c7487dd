"""The running prompt: gathers the inputs of its nodes, calls them, and tells what they gave. All by ComfyUI's own functions, which are
looked up for each call, since packs wrap them."""
import contextlib
import gc
import inspect
import logging
import math
import sys
import time
import traceback
import types
from collections.abc import Mapping, Sequence

from . import facade, guard, reports, values

OWN_FILES = __file__.rpartition("/")[0] or __file__.rpartition("\\")[0]


class State:
    """What is known of the running prompt. One runs at a time."""
    id, dyn, extra, models, collected = "", None, {}, None, time.monotonic()
    owner = ""              # whose files it saves and reads, where users are told apart
    executed = set()
    instances = {}          # (node, class) -> (its object, the node of the prompt that it came from)
    calls = {}              # node -> the call that `execute` is to make
    parameters = {}         # name of a function of `execution` -> the names of its parameters, before any pack wrapped it
    advice = ()             # what this version tells people after some failures
    server = None


class Call:
    """One node to be called, and what came of it."""

    def __init__(self, message):
        self.node, self.name = str(message["node"]), str(message["class"])
        self.display = str(message.get("display") or self.node)
        self.given, self.came, self.types = message["given"], message["came"], message.get("types") or {}
        self.data, self.blocked, self.reply, self.error = None, [], None, None


def arrive(message, blob):
    """Reads a message's inputs. From here on they are held, whatever is released meanwhile."""
    given, came = {}, {}
    for name, source in message.get("inputs") or []:
        if isinstance(source, dict) and "link" in source:
            node, slot = source["link"]
            given[name] = [str(node), slot]
            if source.get("values") is not None:
                came[name] = [values.decode(value, blob) for value in source["values"]]
        else:
            given[name] = values.decode(source, blob)
    message["given"], message["came"] = given, came


def _call_if_there(module, name, *arguments):
    """Parts of ComfyUI that not every version has."""
    function = getattr(sys.modules.get(module), name, None)
    return function(*arguments) if callable(function) else None


def _set_preview_method(wanted):
    """As newer versions do it themselves: what the prompt asks for, else what ComfyUI was started with."""
    if hasattr(sys.modules.get("latent_preview"), "set_preview_method"):
        return _call_if_there("latent_preview", "set_preview_method", wanted)
    cli = sys.modules.get("comfy.cli_args")
    if not hasattr(cli, "LatentPreviewMethod"):
        return None
    if not hasattr(State, "preview_method"):
        State.preview_method = cli.args.preview_method
    asked = next((method for method in cli.LatentPreviewMethod if method.value == wanted), None)
    cli.args.preview_method = State.preview_method if asked is None else asked
    return None


def _lifecycle(event):
    """Tells packs that keep caches of their own, in versions that have these."""
    import execution
    notify = getattr(execution.PromptExecutor, "_notify_prompt_lifecycle", None)
    if notify is not None:
        notify(None, event, State.id)


def _root(node):
    """The node of the submitted prompt from which an id of an expansion stems."""
    return State.dyn.get_real_node_id(node) if State.dyn is not None else node


async def begin(message):
    """A prompt begins."""
    import comfy.model_management as memory
    import execution
    import nodes
    from comfy_execution import graph, progress

    server, prompt, extra = State.server, message["prompt"], dict(message.get("extra") or {})
    nodes.interrupt_processing(False)
    _set_preview_method(extra.get("preview_method"))
    State.id, State.extra, State.dyn, State.executed = message["prompt_id"], extra, graph.DynamicPrompt(prompt), set()
    State.owner = message.get("owner") or ""
    State.calls.clear()
    _leave_client(server)
    server.client_id, server.last_prompt_id, server.last_node_id = extra.get("client_id"), State.id, None
    # Whoever looks whether the client can show previews with their node's id finds that it can: comfyd does the rest.
    server.sockets_metadata.setdefault(server.client_id, {"feature_flags": {"supports_preview_metadata": True}})
    number = message.get("number", 0)
    server.number = max(server.number, int(abs(number)) + 1)        # packs count on from there
    item = (number, State.id, prompt, extra, message.get("outputs") or [])
    if "process_item" in State.parameters.get("task_done", ()):
        secret = {key: extra[key] for key in execution.SENSITIVE_EXTRA_DATA_KEYS if key in extra}
        item = (*item[:3], {key: value for key, value in extra.items() if key not in secret}, item[4], secret)
    facade.begin(server.prompt_queue, item)
    progress.reset_progress_state(State.id, State.dyn)
    progress.add_progress_handler(reports.handler())
    kept = {key: held for key, held in State.instances.items() if _lives(key, held[1], prompt)}
    State.instances.clear()
    State.instances.update(kept)
    tracker = getattr(sys.modules.get("comfy.model_patcher"), "PromptModelTracker", None)
    if tracker is not None:
        State.models = State.models or tracker()
        State.models.start()
    _lifecycle("start")
    if hasattr(memory, "cleanup_models_gc"):
        memory.cleanup_models_gc()
    return {}


def _lives(key, root, prompt):
    node, name = key
    there = prompt.get(root)
    return there is not None and (node != root or there.get("class_type") == name)


def _leave_client(server):
    metadata = getattr(server, "sockets_metadata", {})
    if server.client_id not in getattr(server, "sockets", {}):
        metadata.pop(server.client_id, None)


def end():
    """The prompt is over."""
    import comfy.model_management as memory
    if State.dyn is None:
        return
    server = State.server
    facade.end(server.prompt_queue)
    _leave_client(server)
    server.last_node_id = None
    reports.PROGRESS.forget()
    State.calls.clear()
    if getattr(memory, "DISABLE_SMART_MEMORY", False):
        memory.unload_all_models()
    if State.models is not None:
        State.models.end()
    _lifecycle("end")
    State.dyn, State.extra = None, {}
    obey_flags()


def running():
    """Whether a prompt runs."""
    return State.dyn is not None


def obey_flags():
    """Frees what packs asked to be freed, once no prompt runs."""
    if running() or State.server is None:
        return
    flags = State.server.prompt_queue.get_flags()
    wants_all = bool(flags.get("free_memory", False))
    if flags.get("unload_models", wants_all) or wants_all:
        free({"unload": bool(flags.get("unload_models", wants_all)), "cache": wants_all})


def free(message):
    """Unloads models, or drops what is kept."""
    import comfy.model_management as memory
    if message.get("unload"):
        memory.unload_all_models()
    if message.get("cache"):
        State.instances.clear()
    collect()


def collect():
    """What ComfyUI does now and then between prompts."""
    import comfy.model_management as memory
    gc.collect()
    memory.soft_empty_cache()
    _call_if_there("hook_breaker_ac10a0", "restore_functions")
    State.collected = time.monotonic()


# ---- calls ----------------------------------------------------------------------------------------------------------------------------

def is_v3(cls):
    base = getattr(sys.modules.get("comfy_api.internal"), "_ComfyNodeInternal", None)
    return base is not None and isinstance(cls, type) and issubclass(cls, base)


def override(cls, classic, v3):
    """The name and the function of one of a class's optional methods; the function is `None` where the class leaves it out."""
    if not is_v3(cls):
        return classic, getattr(cls, classic, None)
    internal = sys.modules["comfy_api.internal"]
    if hasattr(internal, "first_real_override"):
        return v3, internal.first_real_override(cls, v3)
    return v3, getattr(cls, v3, None) if any(v3 in base.__dict__ for base in cls.__mro__[:-2]) else None


def find_class(name):
    """The class of that name."""
    import nodes
    try:
        return nodes.NODE_CLASS_MAPPINGS[name]
    except KeyError:
        raise LookupError(f"this ComfyUI has no node class {name!r}") from None


def gather(call, dyn, extra):
    """All inputs of a call as ComfyUI gathers them; values that came along links replace what it leaves open."""
    import execution
    cls = find_class(call.name)
    got = execution.get_input_data(call.given, cls, call.node, None, dyn, extra)
    data, missing, v3 = got[0], got[1], got[2] if len(got) > 2 else {}
    for name, came in call.came.items():
        if name in missing:
            data[name] = came
            del missing[name]
    call.data = data
    return cls, data, missing, v3


def _with_v3(function, v3):
    """The keyword under which a version of ComfyUI takes what its newer classes need."""
    names = State.parameters.get(function, ())
    return next(({name: v3} for name in ("v3_data", "hidden_inputs") if name in names), {})


async def _mapped(call, obj, data, function, v3, interruptible=False):
    """A method of a class for all entries of the lists of its inputs."""
    import execution
    more = _with_v3("_async_map_node_over_list", v3)
    results = await execution._async_map_node_over_list(State.id, call.node, obj, data, function, allow_interrupt=interruptible, **more)
    return await execution.resolve_map_node_over_list_results(results)


def _instance(call, cls):
    key = call.node, call.name
    held = State.instances.get(key)
    if held is None or type(held[0]) is not cls:
        held = cls(), _root(call.node)
        if not getattr(getattr(sys.modules.get("comfy.cli_args"), "args", None), "cache_none", False):
            State.instances[key] = held
    return held[0]


async def run(message):
    """Calls a node through ComfyUI's `execution.execute`, which is `execute` below or what packs have wrapped around it."""
    import execution
    if not running():
        raise RuntimeError("no prompt has begun")
    call = Call(message)
    State.calls[call.node] = call
    there = {
        "server": State.server, "dynprompt": State.dyn, "current_item": call.node, "extra_data": State.extra, "prompt_id": State.id,
        "caches": types.SimpleNamespace(outputs={}, ui={}, objects={}, all=[]), "executed": State.executed,
        "pending_subgraph_results": {}, "pending_async_nodes": {}, "ui_outputs": {},
    }
    try:
        await execution.execute(*(there.get(name) for name in State.parameters["execute"]))
    finally:
        if State.calls.get(call.node) is call:             # and not that of a later prompt, where this one outlived its own
            del State.calls[call.node]
        reports.PROGRESS.finish(call.node)
    if call.error is not None:
        raise Failed(call)
    if call.reply is None:
        raise RuntimeError("a pack that replaces execution.execute did not run the node")
    return call.reply


class Failed(Exception):
    """A call failed: `call.error` is why."""

    def __init__(self, call):
        super().__init__(f"the node {call.node} failed")
        self.call = call


def _failed(call, error):
    """Notes and logs why a call failed."""
    call.error = error
    if is_interrupt(error):
        logging.info("Processing interrupted")
    else:
        logging.error("!!! Exception during processing !!! %s", _loggable(_said(error)))
        logging.error(_loggable(traceback.format_exc()))
    return Failed(call)


async def execute(server, dynprompt, caches, current_item, extra_data, *rest, **more):
    """Stands in for `execution.execute`: the one node, and nothing of what it depends on."""
    import comfy.model_management as memory
    import execution
    from comfy_execution.progress import get_progress_state
    call = State.calls[current_item]
    try:
        get_progress_state().start_progress(call.node)
        cls, data, _, v3 = gather(call, dynprompt, extra_data)
        server.last_node_id = call.display
        if State.models is not None:
            State.models.add(list(call.came.values()))
        call.reply = await _produce(call, cls, _instance(call, cls), data, v3)
    except memory.InterruptProcessingException as error:
        _failed(call, error)
        return execution.ExecutionResult.FAILURE, {"node_id": dynprompt.get_real_node_id(call.node)}, error
    except guard.ANY as error:
        _failed(call, error)
        told = {"node_id": dynprompt.get_real_node_id(call.node), "exception_message": _said(error),
                "exception_type": _type_name(type(error)), "traceback": traceback.format_tb(error.__traceback__), "current_inputs": {}}
        return execution.ExecutionResult.FAILURE, told, error
    get_progress_state().finish_progress(call.node)
    State.executed.add(call.node)
    return execution.ExecutionResult.SUCCESS, None, None


async def _produce(call, cls, obj, data, v3):
    import execution
    from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder

    def blocked(block):
        if block.message is None:
            return block
        call.blocked.append(str(block.message))
        return ExecutionBlocker(None)

    def before(index):
        GraphBuilder.set_default_prefix(call.node, index, 0)

    before(0)                                              # a class without inputs is called without notice
    try:
        got = await execution.get_output_data(State.id, call.node, obj, data, execution_block_cb=blocked, pre_execute_cb=before,
                                              **_with_v3("get_output_data", v3))
        output, ui, expands = got[:3]
        if len(got) > 3 and got[3]:                        # calls of coroutines that are still under way
            results = await execution.resolve_map_node_over_list_results(output)
            output, ui, expands = execution.get_output_from_returns(results, cls)
    finally:
        _after_call()
    if ui and hasattr(execution, "enrich_output_with_assets"):
        ui = execution.enrich_output_with_assets(ui)
    reply = {"ui": ui or None, "blocked": call.blocked}
    if expands:
        reply["calls"] = [_one(call, graph, result, getattr(cls, "OUTPUT_IS_LIST", ())) for graph, result in output]
    else:
        reply["outputs"] = [[values.encode(value) for value in slot] for slot in output]
    return reply


def _after_call():
    """Versions that page weights in as they are used reset that after every call."""
    if not getattr(sys.modules.get("comfy.memory_management"), "aimdo_enabled", False):
        return
    _call_if_there("comfy.model_management", "reset_cast_buffers")
    _call_if_there("comfy.model_prefetch", "cleanup_prefetch_queues")
    _call_if_there("comfy_aimdo.model_vbar", "vbars_reset_watermark_limits")


def _one(call, graph, result, is_list):
    """What one of several calls gave. The nodes of an expansion are in the prompt from here on, with their real inputs."""
    from comfy_execution.graph_utils import is_link
    told = []
    for index, value in enumerate(result or ()):
        if graph and is_link(value):
            told.append({"link": list(value)})
        elif index < len(is_list) and is_list[index] and isinstance(value, (list, tuple)):
            told.append({"L": [values.encode(item) for item in value]})
        else:
            told.append(values.encode(value))
    if not graph:
        return {"values": told, "expand": None}
    expand = {}
    for node, info in graph.items():
        display = info.get("override_display_id")
        State.dyn.add_ephemeral_node(node, info, call.node, call.node if display is None else display)
        inputs = {name: _expanded(value) for name, value in info.get("inputs", {}).items()}
        expand[node] = {"class_type": info["class_type"], "display": display, "inputs": inputs}
    return {"values": told, "expand": expand}


def _expanded(value):
    from comfy_execution.graph_utils import is_link
    if is_link(value):
        return {"link": list(value)}
    return {"j": value} if isinstance(value, (dict, list)) and values.is_json(value) else values.encode(value)


async def lazy(message):
    """Which of its inputs a node asks for."""
    call = Call(message)
    cls, data, missing, v3 = gather(call, State.dyn, State.extra)
    obj = _instance(call, cls)
    if isinstance(v3, dict) and is_v3(cls):
        v3 = {**v3, "create_dynamic_tuple": True}          # they are asked for by the names that the prompt uses
    try:
        results = await _mapped(call, obj, data, "check_lazy_status", v3, interruptible=True)
    except guard.ANY as error:
        raise _failed(call, error) from None
    asked = [name for result in results if isinstance(result, list) for name in result if isinstance(name, str)]
    return {"needed": list(dict.fromkeys(name for name in asked if name not in data or name in missing))}


class Unstable(Exception):
    """A value that is never equal to itself."""


def _stable(value):
    """A value as text that is equal where ComfyUI's cache finds the value equal."""
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return repr(value)
    if isinstance(value, float):
        if math.isnan(value):
            raise Unstable
        return repr(float(value))
    if isinstance(value, Mapping):
        return "{%s}" % ",".join(f"{_stable(key)}:{_stable(item)}" for key, item in sorted(value.items()))
    if isinstance(value, Sequence):
        return "[%s]" % ",".join(map(_stable, value))
    raise Unstable


async def changed(message):
    """What a node's result depends on besides its inputs. Only constants are told to it, as in ComfyUI."""
    from comfy_execution.graph_utils import ExecutionBlocker
    call = Call(message)
    cls = find_class(call.name)
    name, function = override(cls, "IS_CHANGED", "fingerprint_inputs")
    if function is None:
        return {"text": ""}
    try:
        _, data, _, v3 = gather(call, None, {})
        results = await _mapped(call, cls, data, name, v3)
        return {"text": _stable([None if isinstance(result, ExecutionBlocker) else result for result in results])}
    except Unstable:
        return {"always": True}
    except guard.ANY as error:
        logging.warning("WARNING: %s", _loggable(_said(error)))
        return {"always": True}


async def validate(message):
    """What a class itself says of its inputs."""
    from comfy_execution.graph_utils import ExecutionBlocker
    call = Call(message)
    cls = find_class(call.name)
    name, function = override(cls, "VALIDATE_INPUTS", "validate_inputs")
    if function is None:
        return {"refused": []}
    spec = inspect.getfullargspec(function)
    if not spec.args and spec.varkw is None:
        return {"refused": []}
    _, data, _, v3 = gather(call, None, {})
    data = {key: value for key, value in data.items() if key in spec.args or spec.varkw is not None}
    if "input_types" in spec.args:
        data["input_types"] = [call.types]
    results = await _mapped(call, cls, data, name, v3)
    refused = [
        {"input": key, "reason": None if result is False else str(result)}
        for key in data for result in results if result is not True and not isinstance(result, ExecutionBlocker)
    ]
    return {"refused": refused}


async def inspect_links(message):
    """What a class makes of links under names that it does not declare. ComfyUI's own functions ask: some classes look at who asks them.

    For a class whose inputs depend on others (`dynamic` in the manifest) it also tells the inputs that this graph gives it.
    """
    import execution
    from comfy_execution import graph
    name = str(message["class"])
    cls = find_class(name)
    links = {key: [f"from {index}", 0] for index, (key, value) in enumerate(message["given"].items()) if _is_link(value)}
    given = {**message["given"], **links}
    empty = {source: {"class_type": name, "inputs": {}} for source, _ in links.values()}
    order = graph.TopologicalSort(graph.DynamicPrompt({"0": {"class_type": name, "inputs": given}, **empty}))
    order.add_node("0")
    missing = execution.get_input_data(given, cls, "0", None, None, {})[1]
    names = {key: {"lazy": source not in order.pendingNodes, "raw": key not in missing} for key, (source, _) in links.items()}
    answer = {"names": names}
    finalized = getattr(sys.modules.get("comfy_api.latest._io"), "get_finalized_class_inputs", None)
    if finalized is not None and is_v3(cls):
        declared = finalized(cls.INPUT_TYPES(), message["given"])[0]
        answer["inputs"] = {kind: declared.get(kind, {}) for kind in ("required", "optional")}
    return answer


def _is_link(value):
    from comfy_execution.graph_utils import is_link
    return is_link(value)


# ---- failures -------------------------------------------------------------------------------------------------------------------------

def _type_name(kind):
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _frames(error):
    """The traceback as ComfyUI's history has it, without this package's own part of the way."""
    found = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in found if not frame.filename.startswith(OWN_FILES)]
    return traceback.format_list(theirs or found)


def _shown(call):
    """A call's inputs as ComfyUI's history has them."""
    import execution
    if call is None or call.data is None:
        return {}
    shown = {}
    for name, given in call.data.items():
        with contextlib.suppress(*guard.ANY):              # an object whose `__str__` fails is left out
            shown[name] = [execution.format_value(value) for value in given]
    return shown


def is_interrupt(error):
    """Whether an exception says that the prompt is to stop."""
    interrupt = getattr(sys.modules.get("comfy.model_management"), "InterruptProcessingException", ())
    return isinstance(error, interrupt)


def failure(error):
    """A failed answer."""
    call = error.call if isinstance(error, Failed) else None
    error = call.error if call is not None else error
    if isinstance(error, guard.Ended):
        error = error.__cause__
    if is_interrupt(error):
        return {"interrupted": True}
    memory = sys.modules.get("comfy.model_management")
    oom, tips = False, None
    if memory is not None:
        oom = memory.is_oom(error) if hasattr(memory, "is_oom") else isinstance(error, memory.OOM_EXCEPTION)
    if isinstance(error, values.CannotCross):
        return {"error": {"cannot_cross": True, "message": str(error)}}
    told = {"type": _type_name(type(error)), "message": _said(error), "traceback": _frames(error), "oom": bool(oom), "inputs": _shown(call)}
    sampling = call is not None and isinstance(error, RuntimeError) and "mat1 and mat2 shapes" in told["message"] and "Sampler" in call.name
    if oom or sampling:
        tips = next((text for text in State.advice if ("memory" if oom else "CLIP") in text), None)
    if tips is not None:
        told["tips"] = tips
    _let_go(error)
    if oom:
        logging.error("Got an OOM, unloading all loaded models.")
        memory.unload_all_models()
    return {"error": told}


def _said(error):
    try:
        return str(error)
    except guard.ANY:
        return type(error).__name__


def _loggable(text):
    """A text as ComfyUI's log can write it: halves of surrogate pairs would fail there, and the node's own error be lost."""
    return text.encode("utf-8", "backslashreplace").decode()


def _let_go(error):
    """What the frames of an exception hold, a model's tensors perhaps, is not to outlive its report."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        with contextlib.suppress(RuntimeError):
            traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
