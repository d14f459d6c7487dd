"""A pack for tests with a real ComfyUI (`test_worker.py --comfyui`): what needs torch, PIL and the newer kind of classes."""
import asyncio
import functools
import json
import time

import comfy.cli_args
import comfy.model_management
import comfy.utils
import execution
import torch
from aiohttp import web
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder
from PIL import Image
from server import PromptServer

WRAPPED = []
plain = execution.execute


@functools.wraps(plain)
async def wrapped(*arguments, **named):
    dynprompt, node = arguments[1], arguments[3]
    WRAPPED[:] = [f"{node} {dynprompt.get_node(node)['class_type']}"] + WRAPPED[:1]
    result = await plain(*arguments, **named)
    assert len(result) == 3
    return result


execution.execute = wrapped


@PromptServer.instance.routes.get("/real/{name}")
async def hello(request):
    return web.Response(text=f"hello {request.match_info['name']} at {request.remote}")


class Base:
    FUNCTION, CATEGORY, RETURN_TYPES, OUTPUT_NODE = "run", "real", ("*",), True
    INPUTS = {}

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {name: (kind, {}) for name, kind in cls.INPUTS.items()}}


class RealEcho(Base):
    INPUTS = {"value": "*"}

    def run(self, value):
        return (value,)


class RealShow(Base):
    INPUTS = {"value": "*"}

    def run(self, value):
        return (f"{value.dtype} {tuple(value.shape)} {value.to(torch.float64).flatten().tolist()}",)


class RealTensor(Base):
    INPUTS = {"dtype": "STRING"}

    def run(self, dtype):
        odd = {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3), "transposed": torch.arange(6.0).reshape(2, 3).T,
               "sparse": torch.eye(3).to_sparse()}
        return (odd[dtype] if dtype in odd else torch.arange(6.0).reshape(2, 3).to(getattr(torch, dtype)),)


class RealRaise(Base):
    INPUTS = {"value": "*", "message": "STRING"}

    def run(self, value, message):
        if message == "memory":
            raise comfy.model_management.OOM_EXCEPTION("memory is out")
        if message == "interrupt":
            raise comfy.model_management.InterruptProcessingException()
        raise ValueError("cut \ud800" if message == "half" else message)


class RealProgress(Base):
    INPUTS = {"steps": "INT", "preview": "STRING"}

    def run(self, steps, preview):
        bar = comfy.utils.ProgressBar(steps)
        picture = Image.new("RGBA" if preview == "PNG" else "RGB", (2048, 1024) if preview == "large" else (64, 32))
        for step in range(steps):
            bar.update_absolute(step + 1, steps, ("PNG" if preview == "PNG" else "JPEG", picture, 512))
        return (steps,)


class RealText(Base):
    INPUTS = {"text": "STRING"}

    def run(self, text):
        PromptServer.instance.send_progress_text(text, "7")
        return (text,)


class RealMethod(Base):
    def run(self):
        return (comfy.cli_args.args.preview_method.value,)


class RealWrapped(Base):
    def run(self):
        return (WRAPPED[1],)


class RealLoop(Base):
    INPUTS = {"seconds": "FLOAT"}

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.005)
        return (1,)


class RealSleep(Base):
    INPUTS = {"seconds": "FLOAT"}

    async def run(self, seconds):
        await asyncio.sleep(seconds)
        return (1,)


def schema(name, inputs, outputs=(io.String.Output(),), **more):
    return io.Schema(node_id=name, category="real", inputs=list(inputs), outputs=list(outputs), **more)


class RealV3(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("RealV3", [io.Int.Input("number"), io.String.Input("text")], hidden=[io.Hidden.unique_id])

    @classmethod
    def validate_inputs(cls, number):
        return True if number < 10 else f"{number} is too much"

    @classmethod
    def fingerprint_inputs(cls, number, text):
        return f"{number}{text}"

    @classmethod
    def execute(cls, number, text):
        return io.NodeOutput(f"{number} {text} {cls.hidden.unique_id}")


class RealV3Async(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("RealV3Async", [io.Int.Input("number")], [io.Int.Output()])

    @classmethod
    async def execute(cls, number):
        await asyncio.sleep(0.01)
        return io.NodeOutput(number + 1)


class RealV3Lazy(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("RealV3Lazy", [io.Int.Input("a", lazy=True), io.Int.Input("b", lazy=True)], [io.Int.Output()])

    @classmethod
    def check_lazy_status(cls, a=None, b=None):
        return ["b"] if b is None else []

    @classmethod
    def execute(cls, a=None, b=None):
        return io.NodeOutput(b)


class RealV3Block(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("RealV3Block", [io.Boolean.Input("block")])

    @classmethod
    def execute(cls, block):
        return io.NodeOutput(None, block_execution="blocked by V3") if block else io.NodeOutput("free")


class RealV3Expand(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("RealV3Expand", [io.Int.Input("number")], [io.Int.Output()], enable_expand=True)

    @classmethod
    def execute(cls, number):
        graph = GraphBuilder()
        node = graph.node("RealV3Async", number=number)
        return io.NodeOutput(node.out(0), expand=graph.finalize())


class RealV3Ui(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("RealV3Ui", [io.String.Input("text")], is_output_node=True)

    @classmethod
    def execute(cls, text):
        return io.NodeOutput(text, ui={"text": [text]})


NODES = [RealEcho, RealShow, RealTensor, RealRaise, RealProgress, RealText, RealMethod, RealWrapped, RealLoop, RealSleep, RealV3,
         RealV3Async, RealV3Lazy, RealV3Block, RealV3Expand, RealV3Ui]

if hasattr(io, "Autogrow"):
    class RealDynamic(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            template = io.Autogrow.TemplatePrefix(io.Int.Input("number"), prefix="number", min=1, max=4)
            return schema("RealDynamic", [io.Autogrow.Input("numbers", template=template)])

        @classmethod
        def execute(cls, numbers):
            return io.NodeOutput(json.dumps(numbers))

    NODES.append(RealDynamic)

for cls in NODES:
    if hasattr(cls, "GET_SCHEMA"):
        cls.GET_SCHEMA()
NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in NODES}
