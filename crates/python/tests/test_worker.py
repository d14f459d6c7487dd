"""Tests of the worker: `python3 test_worker.py [--comfyui PATH --python PY]`. With the stub in `comfyui/` they need nothing but Python;
with a real ComfyUI, and the interpreter that has its packages, its own classes are called too."""
import argparse
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import types
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from host import HERE, STUB, Worker, link

OPTIONS = argparse.Namespace(comfyui=None, python=sys.executable)
LINUX = sys.platform.startswith("linux")


class Case(unittest.TestCase):
    """One worker for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        cls.worker = Worker()

    @classmethod
    def tearDownClass(cls):
        cls.worker.end()

    def setUp(self):
        self.prompt = {str(number): {"class_type": "StubEcho", "inputs": {}} for number in range(1, 10)}
        self.assertEqual(self.begin(), {})

    def tearDown(self):
        self.worker.tell("end")
        self.worker.ask("show", h=-1)           # the executor has seen the end
        self.worker.events.clear()

    def begin(self, **fields):
        answer = self.worker.begin(fields.pop("prompt", self.prompt), **fields)
        return {key: value for key, value in answer.items() if key not in ("re", "blob")}

    def run_node(self, name, inputs=None, **fields):
        answer = self.worker.run(name, inputs=inputs, **fields)
        return {key: value for key, value in answer.items() if key not in ("re", "blob")}

    def value(self, name, inputs=None, **fields):
        return self.worker.value(name, inputs, **fields)


class Values(Case):
    def test_scalars_stay_what_they_are(self):
        for value in (1, 1.0, -0.0, 2 ** 63, -2 ** 63, True, None, "ä\U0001f600", ""):
            got = self.value("StubEcho", {"value": {"j": value}})
            self.assertEqual((type(got), got), (type(value), value))
        outputs = self.run_node("StubOdd")["outputs"]
        self.assertEqual(outputs[:4], [[{"f": "inf"}], [1.0], ["own"], [{"i": str(2 ** 70)}]])
        self.assertEqual((outputs[4][0]["k"], type(outputs[1][0])), ("list", float))
        for told in ({"f": "nan"}, {"i": str(10 ** 30)}):
            self.assertEqual(self.value("StubEcho", {"value": told}), told)

    def test_an_object_keeps_its_number_and_lives_until_it_is_released(self):
        before = self.value("StubAlive", node="2")
        made = self.value("StubObject", {"name": "a"})
        self.assertEqual(made["k"], "Thing")
        again = self.value("StubEcho", {"value": link("1", 0, made)}, node="3")
        self.assertEqual(again["h"], made["h"])
        self.assertEqual(self.value("StubUseObject", {"object": link("1", 0, made)}, node="4"), "a")
        self.assertEqual(self.value("StubAlive", node="2"), before + 1)
        # What a call refers to is held until it is answered, also where the same message releases it.
        used = self.run_node("StubUseObject", {"object": link("1", 0, made)}, node="4", release=[made["h"]])
        self.assertEqual(used["outputs"], [["a"]])
        self.assertEqual(self.value("StubAlive", node="2"), before)
        gone = self.run_node("StubUseObject", {"object": link("1", 0, made)}, node="4")
        self.assertIn(f"no object {made['h']}", gone["error"]["message"])
        self.assertNotEqual(self.value("StubObject", {"name": "b"})["h"], made["h"])

    def test_a_release_counts_how_often_a_number_was_told(self):
        first = self.value("StubSame")
        second = self.value("StubSame", release=[[first["h"], 0]])
        self.assertEqual(first["h"], second["h"])
        self.worker.tell("release", release=[[first["h"], 1]])
        self.assertEqual(self.value("StubUseObject", {"object": link("1", 0, first)}, node="4"), "same")
        self.worker.ask("ping", release=[[first["h"], 1]])
        self.assertIn("error", self.run_node("StubUseObject", {"object": link("1", 0, first)}, node="4"))

    def test_every_released_object_is_gone(self):
        before = self.worker.ask("stats")["objects"]
        made = [self.value("StubObject", {"name": "x"})["h"] for _ in range(50)]
        self.assertEqual(self.worker.ask("stats")["objects"], before + 50)
        self.worker.ask("ping", release=made)
        self.assertEqual(self.worker.ask("stats")["objects"], before)

    def test_tensors_cross_both_ways(self):
        made = self.value("StubTensor", {"height": 2, "width": 4, "value": 0.5})
        self.assertEqual((made["s"], made["shape"], made["k"]), (96, [1, 2, 4, 3], "Tensor"))
        got = self.worker.ask("fetch", h=made["h"])
        self.assertEqual(got["p"], {"tensors": {"": {"dtype": "float32", "shape": [1, 2, 4, 3], "at": 0, "len": 96}}, "meta": {}})
        self.assertEqual(bytes(got["blob"]), struct.pack("<24f", *[0.5] * 24))
        put = {"p": {"tensors": {"": {"dtype": "float32", "shape": [1, 2, 1, 3], "at": 16, "len": 24}}, "meta": {}}}
        blob = bytes(16) + struct.pack("<6f", 1, 2, 3, 4, 5, 6)
        self.assertEqual(self.value("StubTensorSum", {"image": link("1", 0, put)}, blob=blob), 21.0)
        large = {"p": {"tensors": {"": {"dtype": "float32", "shape": [1, 300, 300, 3], "at": 0, "len": 1080000}}, "meta": {}}}
        self.assertEqual(self.value("StubTensorSum", {"image": link("1", 0, large)}, blob=struct.pack("<f", 1) * 270000), 270000.0)

    def test_memory_in_which_a_tensor_lies_is_not_used_again(self):
        part = {"dtype": "float32", "shape": [100000], "at": 0, "len": 400000}
        kept = [self.value("StubEcho", {"value": link("1", 0, {"p": {"tensors": {"": part}, "meta": {}}})},
                           blob=struct.pack("<f", number) * 100000) for number in range(5)]
        for number, value in enumerate(kept):
            self.assertEqual(self.worker.ask("fetch", h=value["h"])["blob"][-4:], struct.pack("<f", number))
        self.worker.ask("ping", release=[value["h"] for value in kept])

    def test_a_latent_crosses_with_what_it_says(self):
        made = self.value("StubLatent", {"length": 3})
        self.assertEqual((made["k"], made["s"]), ("dict", 16))
        got = self.worker.ask("fetch", h=made["h"])["p"]
        self.assertEqual(got["meta"], {"kind": "stub"})
        self.assertEqual(got["tensors"]["samples"], {"dtype": "float32", "shape": [1, 3], "at": 0, "len": 12})
        put = {"p": {"tensors": {"samples": {"dtype": "float32", "shape": [3], "at": 0, "len": 12}}, "meta": {"kind": "native"}}}
        back = self.value("StubEcho", {"value": link("1", 0, put)}, blob=bytes(12))
        self.assertEqual(self.worker.ask("fetch", h=back["h"])["p"]["meta"], {"kind": "native"})

    def test_structures_of_tensors_cross(self):
        for name, shown in (("StubAudio", "{'waveform': 'torch.float32 [1, 1, 2] [0.5, 0.5]', 'sample_rate': 8000}"),
                            ("StubTree", "[['torch.float32 [2] [0.5, 1.5]', {'pooled': 'torch.int64 [2] [1, 1099511627776]', "
                                         "'sizes': (1, 2.5, inf), 3: None}]]")):
            made = self.value(name, {"length": 2} if name == "StubAudio" else {})
            got = self.worker.ask("fetch", h=made["h"])
            back = link("1", 0, {"p": got["p"]})
            self.assertEqual(self.value("StubShape", {"value": back}, blob=bytes(got["blob"])), shown)

    def test_what_cannot_cross_says_so(self):
        for name, inputs in (("StubObject", {"name": "a"}), ("StubBytes", {"megabytes": 1})):
            made = self.value(name, inputs)
            self.assertTrue(self.worker.ask("fetch", h=made["h"])["error"]["cannot_cross"])
        self.assertEqual(made["s"], 1 << 20)
        plain = self.run_node("StubOdd")["outputs"][4][0]
        self.assertEqual(self.worker.ask("fetch", h=plain["h"])["j"], [1, "two"])
        self.assertEqual(json.loads(self.worker.ask("show", h=plain["h"])["text"]), [1, "two"])

    def test_a_tensor_outside_of_its_frame_is_refused(self):
        for part in ({"dtype": "float32", "shape": [4], "at": 0, "len": 16}, {"dtype": "Tensor", "shape": [1], "at": 0, "len": 4},
                     {"dtype": "float32", "shape": [1], "at": -4, "len": 4}):
            put = {"p": {"tensors": {"": part}, "meta": {}}}
            self.assertIn("error", self.run_node("StubEcho", {"value": link("1", 0, put)}, blob=bytes(8)))

    def test_lists_come_as_all_their_values(self):
        self.assertEqual(self.run_node("StubList", {"count": 3})["outputs"], [[0, 1, 2]])
        self.assertEqual(self.run_node("StubAdd", {"a": link("1", 0, 0, 1, 2), "b": 10})["outputs"], [[10, 11, 12]])
        self.assertEqual(self.run_node("StubSum", {"values": link("1", 0, 1, 2, 3)})["outputs"], [[6]])
        self.assertEqual(self.run_node("StubList", {"count": link("1", 0, 2, 1)})["outputs"], [[0, 1, 0]])
        self.assertEqual(self.run_node("StubEcho", {"value": link("1", 0, {"L": [1, {"L": [2]}]})})["outputs"][0][0]["k"], "list")


class Inputs(Case):
    def test_undeclared_constants_follow_the_classs_own_rule(self):
        self.assertEqual(self.value("StubPlain", {"a": 1, "other": 2}), 1)
        self.assertEqual(json.loads(self.value("StubOpen", {"x": 1, "y": "two"})), {"x": 1, "y": "two"})
        self.assertIn("unexpected keyword", self.run_node("StubPlain", {"a": 1, "other": link("2", 0, 1)})["error"]["message"])

    def test_links_under_undeclared_names(self):
        answer = self.worker.ask("inspect", **{"class": "StubOpen"}, inputs=[["lazy_a", link("1")], ["b", link("2")], ["raw_c", link("3")],
                                                                             ["d", 4]])
        self.assertEqual(answer["names"], {"lazy_a": {"lazy": True, "raw": False}, "b": {"lazy": False, "raw": False},
                                           "raw_c": {"lazy": False, "raw": True}})
        given = {"lazy_a": link("1"), "b": link("2", 1, "came"), "raw_c": link("3")}
        self.assertEqual(self.worker.ask("lazy", node="5", **{"class": "StubOpen"}, inputs=list(given.items()))["needed"], ["lazy_a"])
        self.assertEqual(json.loads(self.value("StubOpen", given, node="5")), {"lazy_a": None, "b": "came", "raw_c": ["3", 0]})

    def test_raw_links(self):
        self.assertEqual(json.loads(self.value("StubRaw", {"value": link("7", 2)})), ["7", 2])

    def test_lazy_inputs(self):
        def needed(**inputs):
            return self.worker.ask("lazy", node="1", **{"class": "StubLazyAll"}, inputs=list(inputs.items()))["needed"]
        self.assertEqual(needed(a=link("2"), b=link("3")), ["a"])
        self.assertEqual(needed(a=link("2", 0, 5), b=link("3")), ["b"])
        self.assertEqual(needed(a=link("2", 0, 0), b=link("3")), [])
        self.assertEqual(needed(a=link("2", 0, 0, 1), b=link("3")), ["b"])
        self.assertEqual(self.value("StubLazy", {"pick": False, "first": link("2"), "second": link("3", 0, 7)}), 7)

    def test_hidden_inputs(self):
        extra = {"client_id": "c", "extra_pnginfo": {"workflow": {}}, "auth_token_comfy_org": "t", "api_key_comfy_org": "k"}
        self.begin(extra=extra)
        told = json.loads(self.value("StubHidden", {"text": "x"}, node="4"))
        ids = sorted(self.prompt)
        self.assertEqual(told, {"text": "x", "node": "4", "prompt": ids, "dyn": ids, "png": {"workflow": {}}, "token": "t", "key": "k"})

    def test_instances_live_while_their_node_is_in_the_prompt(self):
        self.assertEqual([self.value("StubCount", {"value": 1}, node=node) for node in ("1", "1", "2", "1")], [1, 2, 1, 3])
        both = {"1": {"class_type": "StubCount", "inputs": {}}, "2": {"class_type": "StubCount", "inputs": {}}}
        self.begin(prompt=both)
        self.assertEqual(self.value("StubCount", {"value": 1}, node="1"), 4)
        self.begin(prompt={"1": both["1"]})
        self.assertEqual(self.value("StubCount", {"value": 1}, node="1"), 5)
        self.begin(prompt=both)
        self.assertEqual([self.value("StubCount", {"value": 1}, node=node) for node in ("1", "2")], [6, 1])
        self.begin()                                                            # another class has the id now
        self.begin(prompt=both)
        self.assertEqual(self.value("StubCount", {"value": 1}, node="1"), 1)
        self.worker.ask("free", unload=True, cache=True)
        self.assertEqual(self.value("StubCount", {"value": 1}, node="1"), 1)

    def test_a_class_that_does_not_exist(self):
        self.assertIn("no node class 'Nobody'", self.run_node("Nobody")["error"]["message"])


class Results(Case):
    def test_what_clients_are_shown(self):
        answer = self.run_node("StubOutput", {"value": link("1", 0, 1, 2)})
        self.assertEqual(answer, {"ui": {"text": ["1", "2"]}, "blocked": [], "outputs": []})

    def test_an_expansion_is_in_the_prompt_at_once(self):
        answer = self.run_node("StubExpand", {"times": 2, "value": 5}, node="3")
        self.assertEqual(answer["calls"], [{"values": [{"link": ["3.0.0.2", 0]}], "expand": {
            "3.0.0.1": {"class_type": "StubAdd", "display": "shown", "inputs": {"a": 5, "b": 1}},
            "3.0.0.2": {"class_type": "StubAdd", "display": None, "inputs": {"a": {"link": ["3.0.0.1", 0]}, "b": 1}}}}])
        self.assertIn("3.0.0.2", json.loads(self.value("StubHidden", {"text": ""}, node="4"))["dyn"])
        self.assertEqual(self.value("StubAdd", {"a": 5, "b": 1}, node="3.0.0.1", display="shown"), 6)

    def test_calls_of_a_list_expand_one_by_one(self):
        calls = self.run_node("StubExpandSome", {"count": link("1", 0, 2, 3)}, node="3")["calls"]
        self.assertEqual(calls[0], {"values": [2], "expand": None})
        self.assertEqual(calls[1], {"values": [{"link": ["3.1.0.1", 0]}], "expand": {
            "3.1.0.1": {"class_type": "StubAdd", "display": None, "inputs": {"a": 3, "b": 100}}}})

    def test_objects_as_constants_of_an_expansion(self):
        expand = self.run_node("StubExpandObject", node="3")["calls"][0]["expand"]
        self.assertEqual(self.value("StubUseObject", {"object": expand["3.0.0.1"]["inputs"]["object"]}, node="3.0.0.1"), "inner")

    def test_blockers(self):
        answer = self.run_node("StubBlock", {"value": 1, "block": link("1", 0, True, False), "message": "not now"})
        self.assertEqual((answer["outputs"], answer["blocked"]), ([[{"b": "not now"}, 1]], []))
        answer = self.run_node("StubEcho", {"value": link("1", 0, {"b": "not now"}, 2, {"b": None})}, node="2")
        self.assertEqual((answer["outputs"], answer["blocked"]), ([[{"b": None}, 2, {"b": None}]], ["not now"]))

    def test_calls_of_coroutines_go_side_by_side(self):
        began = time.monotonic()
        calls = [self.worker.start("run", node=str(node), **{"class": "StubSleep"}, inputs=[["value", node], ["seconds", 1.0]])
                 for node in range(1, 6)]
        self.assertEqual(self.value("StubAdd", {"a": 1, "b": 2}, node="6"), 3)
        self.assertLess(time.monotonic() - began, 0.9)
        self.assertEqual([call.get(timeout=5)["outputs"] for call in calls], [[[node]] for node in range(1, 6)])
        self.run_node("StubSleep", {"value": link("1", 0, 1, 2, 3), "seconds": 1.0})
        self.assertLess(time.monotonic() - began, 4)

    def test_failures(self):
        answer = self.run_node("StubRaise", {"message": "not so", "kind": "ValueError"})["error"]
        self.assertEqual((answer["type"], answer["message"], answer["oom"]), ("ValueError", "not so", False))
        self.assertEqual(answer["inputs"], {"message": ["not so"], "kind": ["ValueError"]})
        self.assertIn("raise kinds[kind](message)", answer["traceback"][-1])
        self.assertFalse([line for line in answer["traceback"] if "comfyd_worker" in line])
        self.assertTrue(self.run_node("StubRaise", {"message": "", "kind": "own"})["error"]["type"].endswith("stub_nodes.OwnError"))
        self.assertEqual(self.run_node("StubRaise", {"message": "cut", "kind": "half"})["error"]["message"], "cut?")
        self.assertEqual(self.run_node("StubAsyncRaise", {"message": "later"})["error"]["message"], "later")
        self.assertEqual(self.run_node("StubRaise", {"message": "m", "kind": "interrupt"}), {"interrupted": True})
        self.assertEqual(self.run_node("StubRaise", {"message": "bye", "kind": "exit"})["error"]["type"], "SystemExit")
        memory = self.run_node("StubRaise", {"message": "m", "kind": "memory"})["error"]
        self.assertTrue(memory["oom"])
        self.assertIn("memory", memory["tips"])
        self.assertEqual(self.value("StubAdd", {"a": 1, "b": 2}), 3)

    def test_code_that_ends_the_process_fails_its_node(self):
        named, pid = {"class": "StubExits"}, self.worker.process.pid
        for where in ("run", "later"):
            error = self.run_node("StubExits", {"where": where, "value": link("2")})["error"]
            self.assertEqual((error["type"], error["message"]), ("SystemExit", f"in {where}"))
            self.assertEqual(error["inputs"], {"where": [where], "value": [None]})
            self.assertIn("sys.exit", error["traceback"][-1])
            self.assertFalse([line for line in error["traceback"] if "comfyd_worker" in line])
        error = self.worker.ask("lazy", node="1", **named, inputs=[["where", "lazy"], ["value", link("2")]])["error"]
        self.assertEqual((error["type"], error["inputs"]), ("SystemExit", {"where": ["lazy"], "value": [None]}))
        for where in ("validate", "validate later"):
            error = self.worker.ask("validate", node="1", **named, inputs=[["where", where]], types={})["error"]
            self.assertEqual((error["type"], error["message"]), ("SystemExit", f"in {where}"))
        self.assertTrue(self.worker.ask("changed", node="1", **named, inputs=[["where", "changed"]])["always"])
        self.assertEqual(self.worker.ask("changed", node="1", **named, inputs=[["where", "run"]])["text"], "[1]")
        self.assertEqual(self.worker.ask("validate", node="1", **named, inputs=[["where", "run"]], types={})["refused"], [])
        self.assertEqual((self.value("StubAdd", {"a": 1, "b": 2}), self.worker.process.poll()), (3, None))

    def test_inputs_of_a_failure_are_texts(self):
        made = self.value("StubTensor", {"height": 1, "width": 1, "value": 1.0})
        answer = self.run_node("StubAdd", {"a": link("1", 0, made), "b": 1})["error"]
        self.assertEqual(answer["inputs"]["b"], [1])
        self.assertIn("Tensor", answer["inputs"]["a"][0])


class Checks(Case):
    def changed(self, mode):
        answer = self.worker.ask("changed", node="1", **{"class": "StubChanged"}, inputs=[["mode", mode]])
        return answer.get("text") or answer["always"]

    def test_what_a_result_depends_on(self):
        self.assertEqual(self.changed("same"), self.changed("same"))
        self.assertNotEqual(self.changed("counter"), self.changed("counter"))
        self.assertEqual([self.changed(mode) for mode in ("nan", "raise", "object")], [True, True, True])

    def refused(self, name, inputs, **fields):
        answer = self.worker.ask("validate", node="1", **{"class": name}, inputs=list(inputs.items()), **fields)
        return [(entry["input"], entry["reason"]) for entry in answer["refused"]] if "refused" in answer else answer["error"]

    def test_checks_of_classes(self):
        self.assertEqual(self.refused("StubChecked", {"number": 3, "other": 1}), [])
        self.assertEqual(self.refused("StubChecked", {"number": 30, "other": 1}), [("number", "too much")])
        self.assertEqual(self.refused("StubChecked", {"number": -1, "other": 1}), [("number", None)])
        self.assertEqual(self.refused("StubChecked", {"number": 5, "other": 1})["message"], "not five")
        self.assertEqual(self.refused("StubCheckedTypes", {"value": link("1")}, types={"value": "INT"}), [])
        self.assertEqual(self.refused("StubCheckedTypes", {"value": link("1")}, types={"value": "IMAGE"}),
                         [("input_types", "INT is wanted, not IMAGE")])
        self.assertEqual(self.refused("StubCheckedAll", {"a": 1, "b": 2}), [])
        reason = "a is to be less than b"
        self.assertEqual(self.refused("StubCheckedAll", {"a": 3, "b": 2}), [("a", reason), ("b", reason)])
        self.assertEqual(self.refused("StubCheckedAll", {"a": link("1"), "b": 2}), [])
        self.assertEqual(self.refused("StubAdd", {"a": 1, "b": 2}), [])

    def test_checks_need_no_prompt(self):
        self.worker.tell("end")
        self.assertEqual(self.refused("StubChecked", {"number": 30, "other": 1}), [("number", "too much")])

    def test_requests_pass_the_packs_handlers(self):
        request = {"prompt": {}, "extra_data": {"stub_handler": 1}}
        self.assertEqual(self.worker.ask("on_prompt", json=request)["json"]["extra_data"], {"stub_handler": 1, "stub": True})
        self.assertEqual(self.worker.ask("on_prompt", json={"prompt": {}})["json"], {"prompt": {}})


class Reports(Case):
    def test_steps_are_thinned_out_and_the_last_one_is_told(self):
        began = time.monotonic()
        self.run_node("StubProgress", {"steps": 200, "preview": False, "seconds": 0.4}, node="4")
        took = time.monotonic() - began
        told = [event for event in self.worker.events if event["ev"] == "progress"]
        self.assertEqual({(event["node"], event["max"]) for event in told}, {("4", 200)})
        self.assertEqual(told[-1]["value"], 200)
        self.assertEqual([event["value"] for event in told], sorted({event["value"] for event in told}))
        self.assertLess(len(told), took / 0.03 + 3)

    def test_previews_are_pixels(self):
        self.run_node("StubProgress", {"steps": 1, "preview": True, "seconds": 0}, node="4")
        event = self.worker.event("preview")
        self.assertEqual(bytes(event.pop("blob")), bytes(range(24)))
        self.assertEqual(event, {"ev": "preview", "node": "4", "width": 4, "height": 2, "channels": 3, "max": 512, "lossless": False})

    def test_texts_and_events(self):
        self.run_node("StubProgressText", {"text": "ä"}, node="4")
        event = self.worker.event("text")
        self.assertEqual((event["node"], event["text"]), ("4", "ä"))
        self.run_node("StubEvent", {"name": "stub.said", "text": "hi", "all": False})
        event = self.worker.event("event")
        self.assertEqual((event["name"], event["data"], event["sid"]), ("stub.said", {"text": "hi"}, "c"))
        event = self.worker.event("binary")
        self.assertEqual((event["type"], event["sid"], bytes(event["blob"])), (77, "c", b"hi"))
        self.run_node("StubEvent", {"name": "stub.said", "text": "hi", "all": True})
        self.assertIsNone(self.worker.event("event")["sid"])

    def test_comfyds_own_events_are_not_the_packs(self):
        for name in ("status", "executing", "executed", "execution_error", "progress_state", "execution_success"):
            self.run_node("StubEvent", {"name": name, "text": "x", "all": True})
        self.worker.ask("ping")
        self.assertEqual({event["ev"] for event in self.worker.events}, {"binary"})


class Queue(Case):
    def test_what_packs_see_of_the_queue(self):
        self.begin(prompt_id="seen", extra={"client_id": "me", "api_key_comfy_org": "k"}, number=7)
        told = json.loads(self.value("StubQueue", node="5", display="shown"))
        self.assertEqual(told, {"running": ["seen"], "secrets": [["api_key_comfy_org"]], "waiting": [], "remaining": 1, "client": "me",
                                "node": "shown", "prompt": "seen", "history": {}, "address": "127.0.0.1", "port": 18188})

    def test_the_history_is_comfyds(self):
        entry = {"prompt": [3, "p0", {}, {}, []], "outputs": {"9": {}}}
        self.worker.history = {"json": {"p0": entry}}
        told = json.loads(self.value("StubHistory", {"id": "p0"}))
        self.assertEqual(told, {"one": {"p0": entry}, "newest": ["p0"], "attribute": ["p0"], "tuple": True})
        asked = [{key: value for key, value in message.items() if key not in ("ev", "ask", "blob")} for message in self.worker.asked[-3:]]
        none = {"prompt_id": None, "max_items": None, "offset": -1, "owner": ""}
        self.assertEqual(asked, [{**none, "prompt_id": "p0"}, {**none, "max_items": 2}, none])
        self.assertEqual(self.worker.event("forget", ids=["p0"])["owner"], "")
        self.worker.history = {"error": "not today"}
        self.assertIn("not today", self.run_node("StubHistory", {"id": "p0"})["error"]["message"])
        self.worker.history = {"json": {}}

    def test_what_packs_put_in_and_take_out(self):
        self.begin(prompt_id="first", extra={"client_id": "me", "api_key_comfy_org": "k"}, outputs=["1"], number=100)
        self.run_node("StubEnqueue", {"times": 2})
        items = [self.worker.event("enqueue")["item"] for _ in range(2)]
        self.assertEqual([item[0] for item in items], [-101, -102])
        self.assertEqual([item[2:] for item in items], [[self.prompt, {"client_id": "me", "api_key_comfy_org": "k"}, ["1"]]] * 2)
        self.assertTrue(self.value("StubRemove", {"id": items[0][1]}, node="2"))
        self.assertEqual(self.worker.event("remove")["ids"], [items[0][1]])
        self.assertFalse(self.value("StubRemove", {"id": "nobody's"}, node="2"))
        self.begin(prompt_id=items[1][1])
        self.assertEqual(json.loads(self.value("StubQueue", node="5"))["waiting"], [])
        self.run_node("StubRemove", {"id": ""}, node="2")
        self.worker.event("wipe")

    def test_flags_are_obeyed_when_the_prompt_is_over(self):
        self.assertEqual([self.value("StubCount", {"value": 1}, node="1") for _ in range(2)], [1, 2])
        self.run_node("StubFlag", {"value": 1}, node="2")
        self.assertEqual(self.value("StubCount", {"value": 1}, node="1"), 3)
        self.worker.tell("end")
        self.begin()
        self.assertEqual(self.value("StubCount", {"value": 1}, node="1"), 1)


class Interruption(Case):
    def test_a_node_that_heeds_it(self):
        call = self.worker.start("run", node="1", **{"class": "StubLoop"}, inputs=[["seconds", 20]])
        time.sleep(0.05)
        began = time.monotonic()
        self.worker.tell("interrupt")
        self.assertTrue(call.get(timeout=5)["interrupted"])
        self.assertLess(time.monotonic() - began, 0.5)
        self.begin()
        self.assertEqual(self.value("StubLoop", {"seconds": 0.01}), 1)

    def test_calls_of_a_list_stop_between_two(self):
        call = self.worker.start("run", node="1", **{"class": "StubStubborn"}, inputs=[["seconds", link("2", 0, *[0.05] * 100)]])
        time.sleep(0.1)
        self.worker.tell("interrupt")
        self.assertTrue(call.get(timeout=1)["interrupted"])

    def test_a_node_that_does_not_is_thrown_an_exception(self):
        call = self.worker.start("run", node="1", **{"class": "StubStubborn"}, inputs=[["seconds", 20]])
        time.sleep(0.05)
        self.worker.tell("interrupt")
        self.worker.tell("raise")
        self.assertTrue(call.get(timeout=5)["interrupted"])
        self.begin()
        self.assertEqual(self.value("StubAdd", {"a": 1, "b": 2}), 3)

    def test_calls_that_wait_are_given_up(self):
        for how in ("raise", "end"):
            call = self.worker.start("run", node="1", **{"class": "StubSleep"}, inputs=[["value", 1], ["seconds", 20]])
            time.sleep(0.05)
            self.worker.tell(how)
            self.assertTrue(call.get(timeout=5)["interrupted"])
            self.begin()
            self.assertEqual(self.value("StubAdd", {"a": 1, "b": 2}), 3)

    def test_raise_while_nothing_runs_harms_nothing(self):
        for _ in range(20):
            self.worker.tell("raise")
        self.assertEqual(self.value("StubAdd", {"a": 1, "b": 2}), 3)

    def test_the_reader_answers_while_a_node_runs(self):
        made = self.value("StubTensor", {"height": 1, "width": 1, "value": 1.0})
        call = self.worker.start("run", node="1", **{"class": "StubStubborn"}, inputs=[["seconds", 3]])
        began = time.monotonic()
        self.worker.ask("ping")
        self.worker.ask("fetch", h=made["h"])
        self.worker.ask("describe", classes=["StubAdd"])
        self.assertLess(time.monotonic() - began, 2.5)
        call.get(timeout=10)


class Users(unittest.TestCase):
    def test_files_of_users_are_apart(self):
        sys.path.insert(0, os.path.join(os.path.dirname(HERE), "worker"))
        from comfyd_worker import prompt, users
        root = tempfile.mkdtemp(prefix="comfyd-users-")
        self.addCleanup(shutil.rmtree, root)
        module = types.ModuleType("folder_paths")
        for kind in ("input", "output", "temp"):
            setattr(module, f"get_{kind}_directory", lambda folder=os.path.join(root, kind): folder)
        module.get_save_image_path = lambda prefix, folder, width=0: (prefix, folder, width)
        module.get_annotated_filepath = lambda name, folder=None: os.path.join(folder or os.path.join(root, "input"), name)
        users.install(module)
        output, own = os.path.join(root, "output"), os.path.join(root, "input", "users", "ann", "a.png")
        os.makedirs(os.path.dirname(own))
        open(own, "w").close()
        self.assertEqual(module.get_save_image_path("x", output), ("x", output, 0))
        prompt.State.owner = "ann"
        self.addCleanup(setattr, prompt.State, "owner", "")
        self.assertEqual(module.get_save_image_path("x/", output, width=1), ("users/ann/x/", output, 1))
        self.assertEqual(module.get_save_image_path("users/ann/x", output)[0], "users/ann/x")
        self.assertEqual(module.get_save_image_path("x", "/elsewhere")[0], "x")
        self.assertRaisesRegex(ValueError, "leads out", module.get_save_image_path, "../bob/x", output)
        self.assertEqual(module.get_annotated_filepath("a.png"), own)
        self.assertEqual(module.get_annotated_filepath("users/ann/a.png"), own)
        self.assertEqual(module.get_annotated_filepath("b.png"), os.path.join(root, "input", "b.png"))
        self.assertEqual(module.get_annotated_filepath("b.png", output), os.path.join(output, "users", "ann", "b.png"))
        for name in ("users/bob/a.png", "x/../users/bob/a.png", "Users/bob/a.png"):
            self.assertRaisesRegex(ValueError, "another user", module.get_annotated_filepath, name)


class BadFrames(Case):
    def test_nothing_that_makes_no_sense_ends_the_worker(self):
        for raw in (b"", b"{", b"[]", b"null", b"1", b"\xff\xfe", b"[" * 100000, b"{}", b'{"op": 3}', b'{"op": "nobody"}',
                    b'{"op": "run"}', b'{"release": 7}', b'{"op": "interrupt", "h": 9}'):
            self.worker.raw(raw, b"some bytes")
        for fields in ({}, {"op": "nobody"}, {"op": "run"}, {"op": "run", "inputs": 3}, {"op": "run", "node": "1", "class": "StubAdd",
                       "inputs": [["a", {"h": "x"}]]}, {"op": "fetch"}, {"op": "fetch", "h": [1]}, {"op": "fetch", "h": 10 ** 9},
                       {"op": "begin"}, {"op": "validate"},
                       {"op": "run", "node": "1", "class": "StubEcho", "inputs": [["value", {"?": 1}]]},
                       {"op": "on_prompt"}, {"op": "describe", "classes": 3}, {"op": ["run"]}, {"op": "ping", "release": 3}):
            fields = dict(fields)
            answer = self.worker.ask(fields.pop("op", None), seconds=5, **fields)
            self.assertIn("error", answer, fields)
            self.assertTrue(answer["error"]["message"])
        self.begin()
        self.assertEqual(self.value("StubAdd", {"a": 1, "b": 2}), 3)


class Manifest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        cls.stubs = os.path.join(cls.folder, "models", "stubs")
        os.makedirs(cls.stubs)
        cls.touch("one.stub")
        cls.touch("two.safetensors")
        cls.worker = Worker(arguments=["--base-directory", cls.folder])
        cls.manifest = cls.worker.ask("describe")

    @classmethod
    def tearDownClass(cls):
        cls.worker.end()
        shutil.rmtree(cls.folder)

    @classmethod
    def touch(cls, name):
        open(os.path.join(cls.stubs, name), "w").close()

    def test_info_is_what_comfyui_answers(self):
        info = {name: json.loads(told["info"]) for name, told in self.manifest["classes"].items()}
        self.assertEqual(info, json.loads(self.worker.request("GET", "/object_info")[1]))
        self.assertEqual(list(info), self.manifest["order"])

    def test_flags(self):
        told = {name: {flag for flag in ("async", "list", "lazy", "changed", "once", "introspects", "open", "types") if entry[flag]}
                for name, entry in self.manifest["classes"].items()}
        for name, flags in (("StubAdd", set()), ("StubSleep", {"async"}), ("StubSum", {"list"}), ("StubLazy", {"lazy"}),
                            ("StubChanged", {"changed"}), ("StubCount", {"once"}), ("StubHidden", {"introspects", "once"}),
                            ("StubRaw", {"introspects"}), ("StubOpen", {"open", "lazy"}), ("StubCheckedTypes", {"types"})):
            self.assertEqual(told[name], flags, name)
        checks = {name: (entry["validate"], entry["validates"]) for name, entry in self.manifest["classes"].items() if entry["validate"]}
        self.assertEqual(checks, {"StubChecked": ("names", ["number"]), "StubCheckedTypes": ("names", ["input_types"]),
                                  "StubCheckedAll": ("all", []), "StubExits": ("names", ["where"]), "StubReadInput": ("names", ["file"])})
        wild = {name: entry["wild"] for name, entry in self.manifest["classes"].items() if entry["wild"] or entry["any_slot"]}
        self.assertEqual(wild, {"StubWild": [0]})
        self.assertEqual(self.manifest["classes"]["StubAny"]["accepts"], {"value": ["*"], "number": ["INT"]})

    def test_lists_of_files(self):
        told = self.manifest["classes"]["StubFiles"]
        self.assertEqual(told["lists"], {"file": [{"v": "none"}, {"folder": "stubs"}]})
        self.assertEqual(told["dirs"], [self.stubs])                # for `ending`, which is no plain list of files
        told = self.manifest["classes"]["StubFolder"]
        self.assertEqual((told["lists"], told["dirs"]), ({}, [os.path.join(STUB, "custom_nodes", "stub_nodes")]))
        self.assertEqual(self.manifest["folders"]["stubs"], [[self.stubs], [".safetensors", ".stub"]])
        self.touch("three.stub")
        again = self.worker.ask("describe", classes=["StubFiles", "Nobody"])["classes"]
        self.assertEqual(list(again), ["StubFiles"])
        self.assertEqual(json.loads(again["StubFiles"]["info"])["input"]["required"]["ending"], [["one.stub", "three.stub"]])

    def test_packs(self):
        packs = {pack["name"]: pack for pack in self.manifest["modules"]}
        self.assertIn("a_module_that_nobody_has", packs["stub_broken"]["error"])
        self.assertIn("no startup today", packs["stub_broken"]["error"])
        self.assertIn("this pack wants a restart", packs["stub_leaves"]["error"])
        self.assertIn("Traceback", packs["stub_broken"]["error"])
        self.assertEqual(packs["stub_queue"]["classes"], ["StubEvent", "StubEnqueue", "StubRemove", "StubQueue", "StubHistory", "StubFlag"])
        self.assertIsNone(packs["stub_queue"]["error"])
        self.assertGreater(packs["stub_nodes"]["seconds"], 0)
        self.assertEqual(self.manifest["web"], {"stub_web": os.path.join(STUB, "custom_nodes", "stub_web", "js")})
        self.assertEqual(self.manifest["on_prompt"], 1)
        self.assertEqual(self.manifest["replacements"]["StubOld"][0]["new_node_id"], "StubSum")
        for route in (["GET", "/stub/hello/{name}"], ["GET", "/stub/files/{path:.*}"], ["POST", "/stub/echo"], ["GET", "/system_stats"]):
            self.assertIn(route, self.manifest["routes"])

    def test_versions_and_devices(self):
        self.assertEqual(self.manifest["versions"]["comfyui"], "0.33.0-stub")
        self.assertEqual(self.worker.ready["versions"], self.manifest["versions"])
        stats = self.worker.ask("stats")
        self.assertEqual((stats["devices"][0]["vram_total"], stats["ram_total"], stats["pytorch"]), (1000, 1000, "stub"))

    def test_routes_know_who_asks(self):
        self.assertEqual(self.worker.request("GET", "/stub/who", headers="X-Comfyd-Remote: 10.1.2.3\r\n"), (200, b"10.1.2.3"))

    def test_routes_are_served(self):
        self.assertEqual(self.worker.request("GET", "/stub/hello/you?x=1"), (200, b'{"hello": "you", "query": {"x": "1"}}'))
        self.assertEqual(self.worker.request("POST", "/stub/echo", b"abc"), (200, b"abc"))
        self.assertEqual(self.worker.request("GET", "/stub/nothing")[0], 404)


class Odd(unittest.TestCase):
    def test_classes_of_which_comfyui_cannot_tell(self):
        worker = Worker(environment={"STUB_ODD": "1"})
        self.addCleanup(worker.end)
        classes = worker.ask("describe")["classes"]
        told = {name: (entry["unlisted"], json.loads(entry["info"])["output"]) for name, entry in classes.items() if "stub/odd" in entry["info"]}
        self.assertEqual(told, {"StubNoTypes": (True, []), "StubNoJson": (True, ["INT"]), "StubNoComma": (False, "IMAGE")})
        self.assertFalse(classes["StubAdd"]["unlisted"])
        worker.begin({"1": {"class_type": "StubNoTypes", "inputs": {}}})
        answer = worker.run("StubNoTypes", inputs={"value": 5})
        self.assertEqual((answer["ui"], answer["outputs"]), ({"text": ["5"]}, []))
        self.assertEqual(worker.run("StubNoJson", inputs={"value": 5})["outputs"], [[2]])


class Process(unittest.TestCase):
    def worker(self, *arguments, **more):
        worker = Worker(arguments=arguments, **more)
        self.addCleanup(worker.end)
        return worker

    def test_it_ends_with_the_connection(self):
        worker = self.worker()
        worker.begin({"1": {"class_type": "StubHang", "inputs": {}}})
        worker.start("run", node="1", **{"class": "StubHang"}, inputs=[["seconds", 60]])
        time.sleep(0.1)
        worker.socket.shutdown(2)
        worker.process.wait(5)

    @unittest.skipUnless(LINUX, "Linux only")
    def test_it_ends_with_its_parent(self):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            worker = Worker()
            os.write(write, str(worker.process.pid).encode())
            time.sleep(60)
            os._exit(0)
        process = int(os.read(read, 100))
        with open(f"/proc/{process}/oom_score_adj") as file:
            self.assertGreaterEqual(int(file.read()), 500)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        end = time.monotonic() + 5
        while os.path.exists(f"/proc/{process}") and time.monotonic() < end:
            with open(f"/proc/{process}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    break
            time.sleep(0.01)
        else:
            self.assertFalse(os.path.exists(f"/proc/{process}"))

    def test_crashes_are_ends_of_the_process(self):
        for name, inputs, status in (("StubExit", {"status": 3}, 3), ("StubSegfault", {}, -signal.SIGSEGV)):
            worker = self.worker()
            worker.begin({"1": {"class_type": name, "inputs": {}}})
            self.assertTrue(worker.run(name, inputs=inputs, seconds=10)["gone"])
            self.assertEqual(worker.process.wait(10), status)

    def test_restarts(self):
        worker = self.worker()
        worker.begin({"1": {"class_type": "StubRestart", "inputs": {}}})
        self.assertTrue(worker.run("StubRestart", seconds=10)["gone"])
        worker.event("restart")
        self.assertEqual(worker.process.wait(10), 0)
        worker = self.worker()
        with self.assertRaises((IndexError, OSError)):
            worker.request("GET", "/stub/restart")
        self.assertEqual(worker.process.wait(10), 0)

    def test_starts_that_fail(self):
        for argument, status, text in ((["--stub-start-fails"], 1, "the stub does not start"),
                                       (["--stub-start-exits", "4"], 4, "as it was told")):
            worker = self.worker(*argument, start_s=0)
            self.assertEqual(worker.process.wait(10), status)
            self.assertIn(text, worker.said())

    @unittest.skipUnless(LINUX, "Linux only")
    def test_a_network_that_is_denied(self):
        worker = self.worker(environment={"COMFYD_NETWORK": "deny"}, start_s=0)
        try:
            worker.wait_ready(20)
        except RuntimeError:
            self.assertEqual(worker.process.wait(10), 78)           # namespaces are forbidden here: it does not start unprotected
            self.assertIn("the network cannot be denied", worker.said())
            return
        with open(f"/proc/{worker.process.pid}/net/dev") as file:
            self.assertEqual([line.split(":")[0].strip() for line in file.readlines()[2:]], ["lo"])
        self.assertNotEqual(os.readlink(f"/proc/{worker.process.pid}/ns/net"), os.readlink("/proc/self/ns/net"))
        self.assertEqual(worker.request("POST", "/stub/echo", b"still")[1], b"still")

    def test_the_temp_folder_stays(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        os.makedirs(os.path.join(folder, "temp"))
        open(os.path.join(folder, "temp", "kept"), "w").close()
        self.worker("--base-directory", folder)
        self.assertTrue(os.path.exists(os.path.join(folder, "temp", "kept")))

    def test_a_call_costs_little(self):
        worker = self.worker()
        worker.begin({"1": {"class_type": "StubAdd", "inputs": {}}})
        began = time.perf_counter()
        for _ in range(500):
            worker.run("StubAdd", inputs={"a": 1, "b": 2})
        print(f"\n{(time.perf_counter() - began) * 2:.3f} ms a call", file=sys.stderr)


class Real(unittest.TestCase):
    """ComfyUI itself, with its own classes and with a pack that is written for the purpose."""

    PACK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "real_pack.py")

    @classmethod
    def setUpClass(cls):
        if OPTIONS.comfyui is None:
            raise unittest.SkipTest("--comfyui names none")
        cls.folder = tempfile.mkdtemp()
        for name in ("custom_nodes", "models", "input", "output", "user"):
            os.makedirs(os.path.join(cls.folder, name))
        shutil.copy(cls.PACK, os.path.join(cls.folder, "custom_nodes", "real_pack.py"))
        with open(os.path.join(cls.folder, "custom_nodes", "broken.py"), "w") as file:
            file.write("import nothing_that_exists\n")
        arguments = ["--cpu", "--base-directory", cls.folder, "--preview-method", "none"]
        cls.worker = Worker(OPTIONS.comfyui, OPTIONS.python, arguments)

    @classmethod
    def tearDownClass(cls):
        cls.worker.end()
        shutil.rmtree(cls.folder, ignore_errors=True)

    def setUp(self):
        prompt = {str(number): {"class_type": "RealEcho", "inputs": {}} for number in range(1, 10)}
        self.assertNotIn("error", self.worker.begin(prompt))

    def tearDown(self):
        self.worker.tell("end")
        self.worker.ask("show", h=-1)
        self.worker.events.clear()

    def value(self, name, inputs=None, **fields):
        return self.worker.value(name, inputs, **fields)

    def test_the_manifest_has_what_comfyui_answers(self):
        manifest = self.worker.ask("describe")
        info = {name: json.loads(told["info"]) for name, told in manifest["classes"].items() if not told["unlisted"]}
        self.assertEqual(info, json.loads(self.worker.request("GET", "/object_info")[1]))
        packs = {pack["name"]: pack for pack in manifest["modules"]}
        self.assertIn("nothing_that_exists", packs["broken.py"]["error"])
        self.assertIn("Traceback", packs["broken.py"]["error"])
        self.assertIn("RealEcho", packs["real_pack.py"]["classes"])
        classes = manifest["classes"]
        self.assertEqual(classes["CheckpointLoaderSimple"]["lists"], {"ckpt_name": [{"folder": "checkpoints"}]})
        self.assertEqual(classes["VAELoader"]["dirs"], [os.path.join(self.folder, "models", "vae_approx")])
        self.assertEqual(classes["LoadImage"]["dirs"], [os.path.join(self.folder, "input")])
        self.assertTrue(classes["RealV3"]["v3"] and classes["RealV3"]["validate"] and classes["RealV3"]["changed"])
        self.assertTrue(classes["RealV3Lazy"]["lazy"] and classes["RealV3Async"]["async"])
        self.assertFalse(classes["EmptyImage"]["open"])
        self.assertIn(["GET", "/real/{name}"], manifest["routes"])
        self.assertIn(["GET", "/api/real/{name}"], manifest["routes"])

    def test_structures_cross(self):
        made = self.value("EmptyLatentAudio", {"seconds": 1.0, "batch_size": 1})
        self.assertIn("samples", self.worker.ask("fetch", h=made["h"])["p"]["tensors"])
        sound = self.value("EmptyAudio", {"duration": 0.01, "sample_rate": 8000, "channels": 2})
        got = self.worker.ask("fetch", h=sound["h"])
        self.assertEqual(got["p"]["meta"], {"sample_rate": 8000})
        put = link("1", 0, {"p": got["p"]})
        back = self.value("RealEcho", {"value": put}, blob=bytes(got["blob"]))
        again = self.worker.ask("fetch", h=back["h"])
        self.assertEqual((again["p"], bytes(again["blob"])), (got["p"], bytes(got["blob"])))

    def test_pictures_cross(self):
        made = self.value("EmptyImage", {"width": 8, "height": 4, "batch_size": 1, "color": 0xFF8000})
        self.assertEqual(made["shape"], [1, 4, 8, 3])
        got = self.worker.ask("fetch", h=made["h"])
        self.assertEqual(got["p"]["tensors"][""]["dtype"], "float32")
        put = {"p": got["p"]}
        inverted = self.value("ImageInvert", {"image": link("1", 0, put)}, node="2", blob=bytes(got["blob"]))
        back = self.worker.ask("fetch", h=inverted["h"])["blob"]
        first = struct.unpack("<3f", bytes(back[:12]))
        self.assertEqual([round(number, 3) for number in first], [0.0, 0.498, 1.0])

    def test_numbers_of_every_type_cross(self):
        for name in ("bfloat16", "float16", "float32", "float64", "int32", "int64", "uint8", "bool", "float8_e4m3fn"):
            made = self.value("RealTensor", {"dtype": name})
            got = self.worker.ask("fetch", h=made["h"])
            self.assertEqual((got["p"]["tensors"][""]["dtype"], got["p"]["tensors"][""]["shape"]), (name, [2, 3]))
            put = {"p": got["p"]}
            self.assertEqual(self.value("RealShow", {"value": link("1", 0, put)}, node="2", blob=bytes(got["blob"])),
                             self.value("RealShow", {"value": link("1", 0, made)}, node="2"), name)
        for kind in ("scalar", "empty", "transposed", "sparse"):
            made = self.value("RealTensor", {"dtype": kind})
            got = self.worker.ask("fetch", h=made["h"])
            if kind == "sparse":
                self.assertTrue(got["error"]["cannot_cross"])
                continue
            put = {"p": got["p"]}
            self.assertEqual(self.value("RealShow", {"value": link("1", 0, put)}, node="2", blob=bytes(got["blob"])),
                             self.value("RealShow", {"value": link("1", 0, made)}, node="2"), kind)

    def test_a_latent_with_a_mask_crosses(self):
        made = self.value("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1})
        got = self.worker.ask("fetch", h=made["h"])["p"]
        self.assertEqual(got["tensors"]["samples"]["shape"], [1, 4, 8, 8])

    def test_v3_classes(self):
        self.assertEqual(self.value("RealV3", {"number": 4, "text": "x"}, node="4"), "4 x 4")
        self.assertEqual(self.value("RealV3Async", {"number": 4}), 5)
        needed = self.worker.ask("lazy", node="5", **{"class": "RealV3Lazy"}, inputs=[["a", link("1")], ["b", link("2")]])
        self.assertEqual(needed["needed"], ["b"])
        refused = self.worker.ask("validate", node="4", **{"class": "RealV3"}, inputs=[["number", 99], ["text", "x"]])["refused"]
        self.assertEqual(refused, [{"input": "number", "reason": "99 is too much"}])
        inputs = [["number", 1], ["text", "x"]]
        same = [self.worker.ask("changed", node="4", **{"class": "RealV3"}, inputs=inputs)["text"] for _ in range(2)]
        self.assertEqual(*same)
        blocked = self.worker.run("RealV3Block", inputs={"block": True})["outputs"]
        self.assertEqual(blocked, [[{"b": "blocked by V3"}]])
        expanded = self.worker.run("RealV3Expand", inputs={"number": 1}, node="6")["calls"]
        self.assertEqual(expanded, [{"values": [{"link": ["6.0.0.1", 0]}], "expand": {
            "6.0.0.1": {"class_type": "RealV3Async", "display": None, "inputs": {"number": 1}}}}])
        shown = self.worker.run("RealV3Ui", inputs={"text": "seen"})
        self.assertEqual(shown["ui"], {"text": ["seen"]})

    def test_dynamic_inputs(self):
        manifest = self.worker.ask("describe", classes=["RealDynamic"])["classes"].get("RealDynamic")
        if manifest is None:
            self.skipTest("this ComfyUI has none")
        self.assertTrue(manifest["open"] and manifest["dynamic"])
        inputs = {"numbers.number0": 1, "numbers.number1": link("1", 0, 2)}
        self.assertEqual(json.loads(self.value("RealDynamic", inputs)), {"number0": 1, "number1": 2})
        told = self.worker.ask("inspect", **{"class": "RealDynamic"}, inputs=list(inputs.items()))
        self.assertEqual(told["names"], {"numbers.number1": {"lazy": False, "raw": False}})
        self.assertIn("numbers.number0", told["inputs"]["required"])

    def test_failures_are_shown_as_comfyui_shows_them(self):
        made = self.value("EmptyImage", {"width": 8, "height": 4, "batch_size": 1, "color": 0})
        error = self.worker.run("RealRaise", inputs={"value": link("1", 0, made), "message": "so"})["error"]
        self.assertEqual((error["type"], error["message"]), ("ValueError", "so"))
        self.assertTrue(error["inputs"]["value"][0].startswith("tensor("))
        self.assertTrue(error["traceback"][0].lstrip().startswith(f'File "{OPTIONS.comfyui}'))
        # ComfyUI's log could not write it.
        self.assertEqual(self.worker.run("RealRaise", inputs={"value": 1, "message": "half"})["error"]["message"], "cut ?")
        memory = self.worker.run("RealRaise", inputs={"value": 1, "message": "memory"})["error"]
        self.assertTrue(memory["oom"])
        self.assertIn("TIPS", memory["tips"])
        self.assertTrue(self.worker.run("RealRaise", inputs={"value": 1, "message": "interrupt"})["interrupted"])

    def test_progress_and_previews(self):
        self.worker.run("RealProgress", inputs={"steps": 3, "preview": "JPEG"}, node="7")
        self.assertEqual(self.worker.event("progress", value=3)["node"], "7")
        preview = self.worker.event("preview")
        self.assertEqual((preview["node"], preview["width"], preview["height"], preview["channels"], preview["max"], preview["lossless"]),
                         ("7", 64, 32, 3, 512, False))
        self.assertEqual(len(preview["blob"]), 64 * 32 * 3)
        self.worker.run("RealProgress", inputs={"steps": 1, "preview": "PNG"}, node="7")
        preview = self.worker.event("preview", lossless=True)
        self.assertEqual((preview["channels"], len(preview["blob"])), (4, 64 * 32 * 4))
        self.worker.run("RealProgress", inputs={"steps": 1, "preview": "large"}, node="7")
        preview = self.worker.event("preview", height=256)
        self.assertEqual((preview["width"], preview["max"]), (512, 512))
        self.worker.run("RealText", inputs={"text": "halfway"}, node="7")
        self.assertEqual(self.worker.event("text")["text"], "halfway")

    def test_the_prompt_says_how_previews_are_made(self):
        for asked, method in (("taesd", "taesd"), (None, "none"), ("latent2rgb", "latent2rgb"), ("default", "none")):
            extra = {"client_id": "c", **({"preview_method": asked} if asked else {})}
            self.assertNotIn("error", self.worker.begin({"1": {"class_type": "RealMethod", "inputs": {}}}, extra=extra))
            self.assertEqual(self.value("RealMethod"), method)

    def test_packs_that_wrap_execution(self):
        self.value("RealEcho", {"value": 3}, node="8")
        self.assertEqual(self.value("RealWrapped"), "8 RealEcho")

    def test_interruption(self):
        call = self.worker.start("run", node="1", **{"class": "RealLoop"}, inputs=[["seconds", 30]])
        time.sleep(0.1)
        self.worker.tell("interrupt")
        self.assertTrue(call.get(timeout=5)["interrupted"])
        call = self.worker.start("run", node="1", **{"class": "RealSleep"}, inputs=[["seconds", 30]])
        time.sleep(0.1)
        self.worker.tell("raise")
        self.assertTrue(call.get(timeout=5)["interrupted"])

    def test_saving_writes_where_comfyui_writes(self):
        made = self.value("EmptyImage", {"width": 8, "height": 4, "batch_size": 1, "color": 0})
        shown = self.worker.run("SaveImage", inputs={"images": link("1", 0, made), "filename_prefix": "real"}, node="3")["ui"]
        self.assertTrue(os.path.exists(os.path.join(self.folder, "output", shown["images"][0]["filename"])))

    def test_routes_and_stats(self):
        told = self.worker.request("GET", "/real/you", headers="X-Comfyd-Remote: 10.1.2.3\r\n")
        self.assertEqual(told, (200, b"hello you at 10.1.2.3"))
        stats = self.worker.ask("stats")
        self.assertEqual(stats["devices"][0]["type"], "cpu")
        self.assertEqual(stats["comfyui"], self.worker.ready["versions"]["comfyui"])
        self.assertIn("free", json.dumps(stats["devices"][0]))
        self.assertNotIn("error", self.worker.ask("free", unload=True, cache=True))

    def test_costs(self):
        began = time.perf_counter()
        for _ in range(300):
            self.worker.run("RealEcho", inputs={"value": 1})
        call = (time.perf_counter() - began) / 300 * 1000
        made = self.value("EmptyImage", {"width": 1024, "height": 1024, "batch_size": 1, "color": 0})
        fetches, puts = [], []
        for _ in range(6):
            began = time.perf_counter()
            got = self.worker.ask("fetch", h=made["h"])
            fetches.append(time.perf_counter() - began)
            began = time.perf_counter()
            self.value("RealEcho", {"value": link("1", 0, {"p": got["p"]})}, blob=got["blob"])
            puts.append(time.perf_counter() - began)
        began = time.perf_counter()
        count = len(self.worker.ask("describe")["classes"])
        describe = time.perf_counter() - began
        print(f"\n{call:.3f} ms a call, 12.6 MB out {min(fetches) * 1000:.1f} ms, in {min(puts) * 1000:.1f} ms, {count} classes described "
              f"in {describe:.3f} s", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--comfyui")
    parser.add_argument("--python", default=sys.executable)
    OPTIONS, rest = parser.parse_known_args()
    if OPTIONS.comfyui is not None:
        OPTIONS.comfyui = os.path.abspath(OPTIONS.comfyui)
    unittest.main(argv=[sys.argv[0], *rest])
