"""What comfyd must know of this ComfyUI so that it needs no Python to answer: classes, what their lists of files are made of, routes,
folders."""
import contextlib
import inspect
import json
import os
import sys
import threading
import types

from . import modules, prompt

PROBE = "\x00probe"
FIRST, LAST = "\x01", "\U0010ffff"         # sort before and behind all names of files


# ---- object_info ----------------------------------------------------------------------------------------------------------------------

def _handler(server, path, method="GET"):
    for route in server.routes:
        if getattr(route, "path", None) == path and getattr(route, "method", method) == method:
            return route.handler
    raise LookupError(f"this ComfyUI has no route {path}")


async def ask(server, path, **match):
    """What ComfyUI itself answers under one of its own paths."""
    answer = await _handler(server, path)(types.SimpleNamespace(match_info=match, headers={}, query={}))
    return json.loads(answer.text)


async def _infos(server, names):
    if names is None:
        try:
            return await ask(server, "/object_info")
        except Exception:                                  # one class that is no JSON takes all others along
            import nodes
            names = list(nodes.NODE_CLASS_MAPPINGS)
    infos = {}
    for name in names:
        try:
            infos.update(await ask(server, "/object_info/{node_class}", node_class=name))
        except Exception as error:                         # it is not listed, as in ComfyUI where INPUT_TYPES fails
            print(f"comfyd: the class {name} cannot be told of: {error!r}", file=sys.stderr)
    return infos


# ---- what INPUT_TYPES looks at ----------------------------------------------------------------------------------------------------------

class _Watch:
    """Which folders are read in this thread while it is on."""

    def __init__(self):
        self.thread, self.seen, self.hooked = None, set(), False

    def hook(self, event, arguments):
        if event in ("os.listdir", "os.scandir") and self.thread == threading.get_ident() and arguments:
            path = arguments[0]
            if path is None:
                self.seen.add(os.getcwd())
            elif isinstance(path, (str, bytes, os.PathLike)):
                self.seen.add(os.path.abspath(os.fsdecode(path)))

    def __enter__(self):
        if not self.hooked:
            sys.addaudithook(self.hook)                    # for good: there is no way to take it off
            self.hooked = True
        self.seen, self.thread = set(), threading.get_ident()
        return self

    def __exit__(self, *error):
        self.thread = None


WATCH = _Watch()


class _Markers(dict):
    """ComfyUI's cache of file lists with two markers in place of each folder's files, one sorting first and one last."""

    def __init__(self, folders):
        super().__init__()
        self.folders, self.asked = folders, set()

    def get(self, key, default=None):
        if key not in self.folders:
            return default
        self.asked.add(key)
        return [FIRST + key, LAST + key], {}, 0.0

    def __contains__(self, key):
        return key in self.folders


class _Lists:
    """Calls INPUT_TYPES with markers for files."""

    def __init__(self):
        import folder_paths
        self.helper = getattr(folder_paths, "cache_helper", None)
        self.folders = folder_paths.folder_names_and_paths
        self.paths = {name: [os.path.abspath(str(path)) for path in entry[0]] for name, entry in self.folders.items()}

    def marked(self, cls):
        """Its inputs with markers, or `None` where it fails with these; the lists that it asked for; the folders that it read itself."""
        if self.helper is None:
            return None, set(), set()
        markers = _Markers(self.folders)
        kept, active = self.helper.cache, self.helper.active
        self.helper.cache, self.helper.active = markers, True
        try:
            with WATCH as watch:
                try:
                    inputs = cls.INPUT_TYPES()
                except Exception:
                    inputs = None
        finally:
            self.helper.cache, self.helper.active = kept, active
        return inputs, markers.asked, watch.seen

    def describe(self, cls, info):
        """Its inputs, templates of its lists, and the folders on which it depends in ways that these do not tell."""
        inputs, asked, read = self.marked(cls)
        dirs = {path for path in read if not path.startswith(sys.prefix)}
        templates, told = {}, set()
        if asked and inputs is not None and self._steady(cls, info):
            templates, told = self._templates(inputs, info, asked)
        for folder in asked - told:
            dirs.update(self.paths.get(folder, ()))
        return cls.INPUT_TYPES() if inputs is None else inputs, templates, sorted(dirs)

    def _steady(self, cls, info):
        """Whether the class says the same when it is asked again."""
        with self.helper:
            try:
                return json.loads(json.dumps(cls.INPUT_TYPES())) == info["input"]
            except Exception:
                return False

    def _templates(self, inputs, info, asked):
        """Templates by input, and the folders whose every marker is part of one."""
        templates, told, odd = {}, set(), set()
        for category in ("required", "optional"):
            group = inputs.get(category)
            for name, spec in (group.items() if isinstance(group, dict) else ()):
                choices, rest = _choices(spec)
                real = _choices(info["input"].get(category, {}).get(name))[0]
                odd |= _marks(rest)
                if choices is None or real is None:
                    continue
                parts = _parts(choices)
                if parts is None or self._listed(parts) != list(real):
                    odd |= _marks(choices) or asked        # it makes something of the files that nobody can see from here
                elif _marks(choices):
                    templates[name] = parts
                    told |= _marks(choices)
        return templates, told - odd

    def _listed(self, parts):
        import folder_paths
        listed = []
        with self.helper:
            for part in parts:
                listed += folder_paths.get_filename_list(part["folder"]) if "folder" in part else [part["v"]]
        return listed


def _choices(spec):
    """An input's choices, if it is a choice, and all else of its declaration."""
    if not isinstance(spec, (list, tuple)) or not spec:
        return None, spec
    options = spec[1] if len(spec) > 1 else None
    if isinstance(spec[0], (list, tuple)):
        return list(spec[0]), options
    if isinstance(options, dict) and isinstance(options.get("options"), (list, tuple)):
        return list(options["options"]), {key: value for key, value in options.items() if key != "options"}
    return None, options


def _marks(value, depth=8):
    """The folders whose markers are somewhere in a value."""
    if isinstance(value, str):
        found = set()
        for mark in (FIRST, LAST):
            if mark in value:
                found.add(value.partition(mark)[2])
        return found
    if depth and isinstance(value, dict):
        return set().union(*(_marks(item, depth - 1) for item in [*value.values(), *value.keys()]))
    if depth and isinstance(value, (list, tuple, set)):
        return set().union(*(_marks(item, depth - 1) for item in value))
    return set()


def _parts(choices):
    """Choices as literals and folders; `None` where markers do not stand side by side, since then the class does more than list files."""
    parts, at = [], 0
    while at < len(choices):
        value = choices[at]
        if isinstance(value, str) and value.startswith(FIRST) and at + 1 < len(choices) and choices[at + 1] == LAST + value[1:]:
            parts.append({"folder": value[1:]})
            at += 2
        elif _marks(value):
            return None
        else:
            parts.append({"v": value})
            at += 1
    return parts


# ---- flags ------------------------------------------------------------------------------------------------------------------------------

def _output_types():
    import nodes
    found = {}
    for cls in list(nodes.NODE_CLASS_MAPPINGS.values()):
        with contextlib.suppress(Exception):
            found.update((str.__str__(kind), None) for kind in cls.RETURN_TYPES if isinstance(kind, str))
    found.pop("*", None)                                   # fits everywhere by its text
    return list(found)


class _Types:
    """Compares types of outputs with those of inputs as the classes of the latter do."""

    def __init__(self):
        self.outputs, self.known = _output_types(), {}

    def accepts(self, inputs):
        """By input, the types that its own comparison takes beyond what its text says; `*` for all."""
        accepts = {}
        for category in ("required", "optional"):
            group = inputs.get(category)
            for name, spec in (group.items() if isinstance(group, dict) else ()):
                kind = spec[0] if isinstance(spec, (list, tuple)) and spec else None
                if not isinstance(kind, str) or type(kind) is str or str.__eq__(kind, "*"):
                    continue
                key = type(kind), str.__str__(kind), repr(getattr(kind, "__dict__", None))
                if key not in self.known:
                    self.known[key] = self._more(kind)
                if self.known[key]:
                    accepts[name] = self.known[key]
        return accepts

    def _more(self, kind):
        from comfy_execution.validation import validate_node_input
        if validate_node_input(PROBE, kind):
            return ["*"]
        plain = str.__str__(kind)
        return [given for given in self.outputs if validate_node_input(given, kind) and not validate_node_input(given, plain)]


def _outputs(cls):
    """Slots that fit every input by a comparison of their own, and whether there is no last slot."""
    from comfy_execution.validation import validate_node_input
    kinds = cls.RETURN_TYPES
    odd = [slot for slot in range(len(kinds)) if isinstance(kinds[slot], str) and type(kinds[slot]) is not str]
    wild = [slot for slot in odd if not str.__eq__(kinds[slot], "*") and validate_node_input(kinds[slot], PROBE)]
    try:
        kinds[len(kinds) + 1000]
    except IndexError:
        return wild, False
    return wild, True


def _is_open(name, cls, inputs):
    """Whether it takes inputs that it does not declare, and whether their declarations depend on other inputs."""
    from comfy_execution import graph
    dynamic = getattr(sys.modules.get("comfy_api.latest._io"), "DYNAMIC_INPUT_LOOKUP", {})
    specs = [spec for group in inputs.values() if isinstance(group, dict) for spec in dict.values(group)]
    is_dynamic = any(isinstance(spec, (list, tuple)) and spec and isinstance(spec[0], str) and str.__str__(spec[0]) in dynamic
                     for spec in specs)
    takes = getattr(cls, "ACCEPT_ALL_INPUTS", False) is True
    takes = takes or any(PROBE in group for category, group in inputs.items() if hasattr(group, "__contains__") and category != "hidden")
    if not takes and not prompt.is_v3(cls):
        order = graph.TopologicalSort(graph.DynamicPrompt({"0": {"class_type": name, "inputs": {}}}))
        takes = order.get_input_info("0", PROBE)[0] is not None
    return bool(takes or is_dynamic), is_dynamic


def _once(name, cls, hidden):
    if getattr(cls, "NOT_IDEMPOTENT", False):
        return True
    try:
        from comfy_execution.caching import include_unique_id_in_input
    except ImportError:
        return "UNIQUE_ID" in hidden
    return bool(include_unique_id_in_input(name))


def _options(inputs):
    for category in ("required", "optional"):
        group = inputs.get(category)
        for spec in (dict.values(group) if isinstance(group, dict) else ()):
            if isinstance(spec, (list, tuple)) and len(spec) > 1 and isinstance(spec[1], dict):
                yield spec[1]


def _validation(cls):
    """How it checks its inputs itself: `validate`, `validates` and `types` of the manifest."""
    function = prompt.override(cls, "VALIDATE_INPUTS", "validate_inputs")[1]
    if function is None:
        return False, [], False
    spec = inspect.getfullargspec(function)
    if spec.varkw is None and not spec.args:
        return False, [], False
    names = spec.args[1:] if inspect.ismethod(function) else spec.args
    return "all" if spec.varkw is not None else "names", list(names), "input_types" in spec.args


def _part(name, what, default, function, *arguments):
    """Some of what is told of a class. Where the class is too odd for that it is told of anyway, with a line in the log."""
    try:
        return function(*arguments)
    except Exception as error:
        print(f"comfyd: {what} of the class {name} cannot be told: {error!r}", file=sys.stderr)
        return default


def _hidden(inputs):
    kinds = [kind[0] if isinstance(kind, tuple) and kind else kind for kind in dict.values(inputs.get("hidden") or {})]
    return {str.__str__(kind) for kind in kinds if isinstance(kind, str)}


def _told(value):
    """As it is, but for integers beyond 64 bits, which JSON readers make floats of: texts stand for them."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    if isinstance(value, int) and not -1 << 63 <= value < 1 << 64:
        return f"\0int:{value}"
    return value


def _class(name, cls, info, types, lists):
    inputs, templates, dirs = _part(name, "the lists", (info["input"], {}, []), lists.describe, cls, info)
    hidden = _part(name, "the hidden inputs", set(), _hidden, inputs)
    validate, validates, wants_types = _part(name, "the check", (False, [], False), _validation, cls)
    takes, dynamic = _part(name, "the open inputs", (False, False), _is_open, name, cls, inputs)
    wild, any_slot = _part(name, "the outputs", ([], False), _outputs, cls)
    raw = _part(name, "the options", False, lambda: any(option.get("rawLink") for option in _options(inputs)))
    return {
        "info": _told(info),
        "async": inspect.iscoroutinefunction(getattr(cls, str(getattr(cls, "FUNCTION", "")), None)),
        "list": bool(getattr(cls, "INPUT_IS_LIST", False)),
        "lazy": prompt.override(cls, "check_lazy_status", "check_lazy_status")[1] is not None,
        "changed": prompt.override(cls, "IS_CHANGED", "fingerprint_inputs")[1] is not None,
        "validate": validate, "validates": validates, "types": wants_types,
        "once": _part(name, "the identity", False, _once, name, cls, hidden),
        "introspects": "DYNPROMPT" in hidden or raw,
        "open": takes, "dynamic": dynamic,
        "v3": prompt.is_v3(cls),
        "wild": wild, "any_slot": any_slot,
        "accepts": _part(name, "the types", {}, types.accepts, inputs),
        "lists": templates, "dirs": dirs,
    }


# ---- the rest ---------------------------------------------------------------------------------------------------------------------------

def _routes(server):
    """Method and path of all routes of the app, parts of applications and static folders included; not the one that serves all else."""
    routes, router = [], server.app.router
    for route in router.routes():
        resource = getattr(route, "resource", None)
        if resource is None:
            continue
        info = resource.get_info()
        path = getattr(resource, "_orig_path", None) or info.get("path") or info.get("formatter")
        if path is None and "prefix" in info:
            path = f"{info['prefix']}/{{path:.*}}" if info["prefix"] else None
        if path:
            routes.append([route.method, path])
    return routes


def versions():
    """Of ComfyUI and what it stands on."""
    import comfyui_version
    told = {"comfyui": comfyui_version.__version__, "python": sys.version}
    torch = getattr(sys.modules.get("torch"), "__version__", None)
    if torch is not None:
        told["pytorch"] = str(torch)
    with contextlib.suppress(Exception):
        from importlib.metadata import version
        told["frontend"] = version("comfyui_frontend_package")
    return told


def _directories():
    import folder_paths
    told = {}
    for name in ("input", "output", "temp", "user"):
        get = getattr(folder_paths, f"get_{name}_directory", None)
        if get is not None:
            told[name] = os.path.abspath(get())
    return told


def _replacements(server):
    """What stands in for classes that there are not any more, in versions that have that. comfyd puts it in their place itself."""
    with contextlib.suppress(Exception):
        told = server.node_replace_manager.as_dict()
        json.dumps(told)                                   # what cannot be told is not
        return told
    return {}


async def _answers(server):
    """What pages ask for at once, so that they need not wait for a process."""
    told = {}
    for path in ("/i18n", "/workflow_templates", "/global_subgraphs"):
        with contextlib.suppress(Exception):
            told[path] = await ask(server, path)
    return told


async def describe(server, names=None):
    """The manifest, of all classes or of those."""
    import folder_paths
    import nodes
    infos = await _infos(server, names)
    types, lists, classes = _Types(), _Lists(), {}
    for name, info in infos.items():
        cls = nodes.NODE_CLASS_MAPPINGS.get(name)
        try:
            classes[name] = _class(name, cls, info, types, lists)
        except Exception as error:
            print(f"comfyd: the class {name} cannot be described: {error!r}", file=sys.stderr)
    folders = {name: [[os.path.abspath(str(path)) for path in entry[0]], sorted(entry[1])]
               for name, entry in folder_paths.folder_names_and_paths.items()}
    return {
        "format": 1, "versions": versions(), "classes": classes, "order": list(classes), "modules": modules.told(),
        "web": {name: os.path.abspath(path) for name, path in nodes.EXTENSION_WEB_DIRS.items()}, "routes": _routes(server),
        "on_prompt": len(server.on_prompt_handlers), "replacements": _replacements(server), "folders": folders, "directories": _directories(),
        "answers": await _answers(server) if names is None else {},
    }
