#!/usr/bin/env python3
"""Writes python.json: what Python's json.loads, int and float make of texts.

    record_python.py > python.json

Results of json.loads are kept as comfyd holds them: what JSON has no way to write becomes null, or its text below the inputs of a graph's
node; whole numbers beyond 64 bits become floats; lone surrogates become U+FFFD. A result of null means that Python raises an error."""
import json
import math
import re
import sys
import unicodedata

DOCUMENTS = [
    "NaN", "Infinity", "-Infinity", "-NaN", "nan", "infinity", "+Infinity", "Inf", "NaNN", "-", "[NaN,Infinity , -Infinity]",
    '{"a":NaN}', "- Infinity", "-Infinit", "NaN1", "[NaN NaN]", '{NaN:1}',
    "0", "-0", "-0.0", "00", "01", "-01", "1.", ".5", "+1", "1e5", "1E+5", "1e-5", "1e", "1e+", "1.5e3", "0x10", "1_000", "0e0", "0.1e-7",
    "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775808",
    "-9223372036854775809", "340282366920938463463374607431768211456", "1" + "0" * 309, "-1" + "0" * 309, "1e308", "1e309", "-1e999",
    "1e-400", "0.30000000000000004", "5e-324", "1.7976931348623157e308", "2.2250738585072011e-308", "9007199254740993.0", "1e22", "1e23",
    r'"\ud83d"', r'"\ude00"', r'"\ud83d\ude00"', r'"\ude00\ud83d"', r'"\ud83d\ud83d\ude00"', r'"x\ud83dy"', r'"\ud83dA"', r'"\ud83d\n"',
    r'"\ud83d\u"', r'"\ud83d\uzzzz"', r'"\uD83D\uDE00"', r'"\ud83d\\ude00"', r'{"\ud83d": "\udc00"}', r'"\u00e9\u0000\uffff"', r'"\u12"',
    r'"\u+123"', r'"\u 123"', r'"\u12_3"', r'"\b\f\n\r\t\"\\\/"', r'"\a"', r'"\x41"', r'"\'"', '"\\', '"', '"a', "'a'", '"\n"', '"\t"',
    '"\0"', '"\x1f"', '"\x7f"', '"é😀\u2028"',
    "", " ", "[]", "{}", "[ ]", "{ }", "[1,]", "[,1]", "[1 2]", '{"a":1,}', '{,"a":1}', '{"a"}', '{"a" 1}', '{"a":}', "{a:1}", "{1:1}",
    "[1", "[1,", '{"a":1', '{"a":', '{"a"', "{", "[", "]", "}", "1 2", "null null", "nul", "nulll", "True", "None", "undefined", "true",
    "false", "null", "\ufeff1", "\u00a01", "\x0b1", "\x0c1", " \t\r\n1 \t\r\n", "// a\n1", "/* a */1", "[1]//",
    '{"a":1,"b":2,"a":3}', '{"a":{"b":[1,{"c":null}]},"d":[[],[{}]]}', '{"":""}', '[["a",0],["b",1.0]]',
    '{"prompt":{"1":{"inputs":{"a":NaN,"b":[-Infinity,{"c":1e999}],"d":18446744073709551616,"e":-9223372036854775809,"f":1e30},'
    '"is_changed":[NaN],"x":18446744073709551616}},"extra_data":{"inputs":NaN,"a":{"inputs":[Infinity]}}}',
    '{"1":{"inputs":{"a":NaN,"b":' + "9" * 60 + '},"class_type":NaN},"inputs":NaN}',
    '[{"1":{"inputs":{"a":NaN}}}]', '{"prompt":[{"inputs":NaN}]}', '{"prompt":{"inputs":NaN}}', '{"prompt":{"inputs":[NaN]},"inputs":[NaN]}',
]
NUMBERS = [
    "7", " 7 ", "\t7\n", "\v7\f", "\x1c7", "7\x1f", "\x857", "\xa07\u3000", "\u200b7", "7\0", "+7", "-7", "- 7", "--7", "+-7", "-0", "007",
    "1_000", "1__0", "_1", "1_", "+_1", "-1_0", "1_000.5", "1_.5", "1._5", "1e1_0", "1_e1", "1e_1", "0x10", "0b1", "0o7", "1e3", "1E3", "1.0",
    "1.", ".5", ".", "", " ", "-", "+", "e5", "1e", "1e+", "1e400", "-1e400", "1e-400", "1d5", "1,5", "1 0", "0x1p3", "True", "None",
    "nan", "NaN", "+nan", "-NAN", "inf", "-inf", "Infinity", "+INFINITY", "infinit", "in_f", "nan(1)", " inf ", "١٢_٣", "٣.٥", "1e٣", "٣x", "²",
    "Ⅷ", "½", "一", "18446744073709551615", "18446744073709551616", "-18446744073709551616", "340282366920938463463374607431768211456",
    "1" + "0" * 400, "0.1", "123456789.123456789", "4.35", "-2.5e-7", "1e16", "1e15", "123456789012345680.0", "1e-4", "1e-5", "5e-324",
]
NUMBERS += ["".join(chr(zero + i) for i in (1, 0, 2, 3, 4, 5, 6, 7, 8, 9)) for zero in range(128, sys.maxunicode)
            if unicodedata.category(chr(zero)) == "Nd" and unicodedata.decimal(chr(zero)) == 0]


def held(value, path=()):
    """A value as comfyd holds it."""
    in_inputs = path[1:2] == ("inputs",) or path[0:1] == ("prompt",) and path[2:3] == ("inputs",)
    if isinstance(value, dict):
        return {held(key): held(item, path + (key,)) for key, item in value.items()}
    if isinstance(value, list):
        return [held(item, path + (None,)) for item in value]
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int) and not -2**63 <= value < 2**64:
        if in_inputs:
            return str(value)
        try:
            value = float(value)
        except OverflowError:
            return None
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value) if in_inputs else None
    return value


def tried(function, text):
    try:
        return function(text)
    except ValueError:
        return None


rows = {"json": [], "numbers": []}
for text in DOCUMENTS:
    rows["json"].append([text, tried(lambda text: json.dumps(held(json.loads(text)), allow_nan=False), text)])
for text in NUMBERS:
    rows["numbers"].append([text, tried(lambda text: str(int(text)), text), tried(lambda text: repr(float(text)), text)])
lines = [f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for name, rows in rows.items()]
print("{" + ",\n".join(lines) + "}")
