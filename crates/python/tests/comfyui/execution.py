"""How a node is called, and the queue."""
import asyncio
import enum
import heapq
import inspect
import threading

import nodes
from comfy_execution.graph import get_input_info
from comfy_execution.graph_utils import ExecutionBlocker, is_link
from comfy_execution.utils import CurrentNodeContext

SENSITIVE_EXTRA_DATA_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


class ExecutionResult(enum.Enum):
    SUCCESS = 0
    FAILURE = 1
    PENDING = 2


def format_value(value):
    return value if value is None or isinstance(value, (int, float, bool, str)) else str(value)


def get_input_data(inputs, class_def, unique_id, execution_list=None, dynprompt=None, extra_data={}):
    declared, data, missing = class_def.INPUT_TYPES(), {}, {}
    for name, value in inputs.items():
        _, category, options = get_input_info(class_def, name, declared)
        if is_link(value) and not (options or {}).get("rawLink"):
            data[name], missing[name] = (None,), True
        elif category is not None:
            data[name] = [value]
    hidden = {
        "PROMPT": dynprompt.get_original_prompt() if dynprompt is not None else {},
        "DYNPROMPT": dynprompt,
        "UNIQUE_ID": unique_id,
        "EXTRA_PNGINFO": extra_data.get("extra_pnginfo"),
        "AUTH_TOKEN_COMFY_ORG": extra_data.get("auth_token_comfy_org"),
        "API_KEY_COMFY_ORG": extra_data.get("api_key_comfy_org"),
    }
    data.update({name: [hidden[kind]] for name, kind in declared.get("hidden", {}).items() if kind in hidden})
    return data, missing, {"hidden_inputs": {}}


async def resolve_map_node_over_list_results(results):
    waiting = [result for result in results if isinstance(result, asyncio.Task) and not result.done()]
    if waiting:
        await asyncio.wait(waiting)
    return [result.result() if isinstance(result, asyncio.Task) else result for result in results]


async def _async_map_node_over_list(prompt_id, unique_id, obj, input_data_all, func, allow_interrupt=False, execution_block_cb=None,
                                    pre_execute_cb=None, v3_data=None):
    if getattr(obj, "INPUT_IS_LIST", False):
        calls = [(0, input_data_all)]
    else:
        longest = max((len(values) for values in input_data_all.values()), default=0)
        pick = lambda at: {name: values[min(at, len(values) - 1)] for name, values in input_data_all.items()}
        calls = [(at, pick(at)) for at in range(longest)] or [(None, {})]
    results = []
    for index, inputs in calls:
        if allow_interrupt:
            nodes.before_node_execution()
        every = [entry for value in inputs.values() for entry in (value if getattr(obj, "INPUT_IS_LIST", False) else [value])]
        block = next((entry for entry in every if isinstance(entry, ExecutionBlocker)), None)
        if block is not None:
            results.append(execution_block_cb(block) if execution_block_cb else block)
            continue
        if pre_execute_cb is not None and index is not None:
            pre_execute_cb(index)
        function = getattr(obj, func)
        if inspect.iscoroutinefunction(function):
            async def within(function=function, index=index, inputs=inputs):
                with CurrentNodeContext(prompt_id, unique_id, index):
                    return await function(**inputs)
            task = asyncio.create_task(within())
            await asyncio.sleep(0)
            results.append(task.result() if task.done() else task)
        else:
            with CurrentNodeContext(prompt_id, unique_id, index):
                results.append(function(**inputs))
    return results


def get_output_from_returns(return_values, obj):
    calls, shown, expands = [], [], False
    everywhere = lambda result: tuple([result] * len(obj.RETURN_TYPES)) if isinstance(result, ExecutionBlocker) else result
    for value in return_values:
        if isinstance(value, dict):
            if "ui" in value:
                shown.append(value["ui"])
            expands = expands or "expand" in value
            if "expand" in value or "result" in value:
                calls.append((value.get("expand"), everywhere(value.get("result"))))
        else:
            calls.append((None, everywhere(value)))
    ui = {key: [entry for one in shown for entry in one[key]] for key in shown[0]} if shown else {}
    return calls if expands else _joined([result for _, result in calls], obj), ui, expands


def _joined(results, obj):
    if not results:
        return []
    is_list = getattr(obj, "OUTPUT_IS_LIST", [False] * len(results[0]))
    slots = []
    for at in range(len(results[0])):
        slot = []
        for result in results:
            as_list = is_list[at] and not isinstance(result[at], ExecutionBlocker)
            slot.extend(result[at] if as_list else [result[at]])
        slots.append(slot)
    return slots


async def get_output_data(prompt_id, unique_id, obj, input_data_all, execution_block_cb=None, pre_execute_cb=None, v3_data=None):
    values = await _async_map_node_over_list(prompt_id, unique_id, obj, input_data_all, obj.FUNCTION, True, execution_block_cb,
                                             pre_execute_cb, v3_data)
    if any(isinstance(value, asyncio.Task) and not value.done() for value in values):
        return values, {}, False, True
    return (*get_output_from_returns(values, obj), False)


async def execute(server, dynprompt, caches, current_item, extra_data, executed, prompt_id, execution_list, pending_subgraph_results,
                  pending_async_nodes, ui_outputs):
    raise RuntimeError("TIPS: comfyd replaces this; memory")


class PromptExecutor:
    def __init__(self, server):
        self.server = server


class PromptQueue:
    def __init__(self, server):
        self.server, self.mutex, self.task_counter = server, threading.RLock(), 0
        self.queue, self.currently_running, self.history, self.flags = [], {}, {}, {}

    def put(self, item):
        with self.mutex:
            heapq.heappush(self.queue, item)

    def get(self, timeout=None):
        raise RuntimeError("comfyd replaces this")

    def task_done(self, item_id, history_result, status, process_item=None):
        raise RuntimeError("comfyd does this")

    def get_current_queue(self):
        with self.mutex:
            return list(self.currently_running.values()), list(self.queue)

    get_current_queue_volatile = get_current_queue

    def get_tasks_remaining(self):
        with self.mutex:
            return len(self.queue) + len(self.currently_running)

    def wipe_queue(self):
        raise RuntimeError("comfyd replaces this")

    def delete_queue_item(self, function):
        raise RuntimeError("comfyd replaces this")

    def get_history(self, prompt_id=None, max_items=None, offset=-1, map_function=None):
        return {}

    def set_flag(self, name, data):
        with self.mutex:
            self.flags[name] = data

    def get_flags(self, reset=True):
        with self.mutex:
            flags = self.flags
            if reset:
                self.flags = {}
            return dict(flags)
