"""Classes of which ComfyUI cannot tell, though it runs them; there only where the variable STUB_ODD is set.

    StubNoTypes    value * (output node)                    RETURN_TYPES is None; ui {"text": [str(value)]}
    StubNoJson     value * -> INT (output node)             an option that is no JSON
    StubNoComma    -> IMAGE, by mistake without a tuple around it: types I, M, A, G, E
    StubNeverDeclared        INPUT_TYPES ends the process
"""
import os
import sys


class StubNoTypes:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = None, "run", "stub/odd", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*", {})}}

    def run(self, value):
        return {"ui": {"text": [str(value)]}}


class StubNoJson(StubNoTypes):
    RETURN_TYPES = ("INT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*", {"kinds": {int}})}}

    def run(self, value):
        return {"ui": {"text": ["set"]}, "result": (2,)}


class StubNoComma(StubNoTypes):
    RETURN_TYPES = ("IMAGE")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}


class StubNeverDeclared(StubNoTypes):
    @classmethod
    def INPUT_TYPES(cls):
        sys.exit("declared")


NODE_CLASS_MAPPINGS = {}
if os.environ.get("STUB_ODD"):
    NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (StubNoTypes, StubNoJson, StubNoComma, StubNeverDeclared)}
