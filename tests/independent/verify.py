#!/usr/bin/env python3
"""An independent verifier of the trail format, version 1, written from docs/format.md alone.

    verify.py TRAIL --trust FILE [--as-of TIME] [--quick] [--strict] [--format text|json]
    verify.py --records records.jsonl      run the conversions of a conformance kit
    verify.py --cases KITDIR               run the cases of a conformance kit

TRAIL is a local directory. Exit status: 0 nothing wrong, 1 something is, 2 the check could not be made.
Needs Python 3.11, pyarrow and cryptography; shares no code with any other implementation.

Left out: buckets, the log and what proves it from outside (a trust file that names any of it is UNREADABLE; verify_proof.py checks
proofs of single events), and everything the page marks reserved. Of RFC 5280
only names, signatures, validity, basicConstraints, keyUsage, path length and SAN are judged; a certificate with any
other critical extension vouches for nothing. The trust file is read as a small YAML subset: block maps and lists,
plain and quoted scalars, `[]` and comments.
"""
import argparse
import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import struct
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import date, datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

MAX_INT = 2**53 - 1
MAX_RECORD, SINK_SHARE, MAX_DEPTH = 1 << 20, 4096, 64
MAX_PAYLOAD, MAX_ENVELOPE = 40_000, 60_000
MAX_COUNT, MAX_RECORD_BYTES, MAX_PARQUET = 1 << 20, 256 << 20, 512 << 20
MAX_RAW = 131_072
FAILING = ("TAMPERED", "FORK", "ROLLBACK", "TRUNCATED", "GAP", "INCONSISTENT", "SILENT", "ABANDONED", "OVERDUE", "STALE",
           "UNTRUSTED", "SHORT_RETENTION", "DECLARED_LOSS")
IMPOSSIBLE = ("UNKNOWN_FORMAT", "OTHER_TRAIL", "UNREADABLE")
LISTED = ("UNANCHORED", "STOPPED", "EXPIRED", "ERASED", "ARCHIVED", "FOREIGN", "CLOCK", "ACKNOWLEDGED")
FRESHNESS = "unproven after the beginning"


class Fault(Exception):
    """Something is wrong with one object; `verdict` says how badly."""

    def __init__(self, verdict, detail):
        super().__init__(detail)
        self.verdict = verdict


# --- section 1: JSON, hashes, times, base64 ---------------------------------------------------------------------------

def number_text(x):
    """ECMAScript's Number::toString of a finite double."""
    if x == 0:
        return "0"
    mantissa, _, exponent = repr(abs(float(x))).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        text = digits.ljust(point, "0")
    elif 0 < point <= 21:
        text = digits[:point] + "." + digits[point:]
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + f"e{point - 1:+d}"
    return "-" + text if x < 0 else text


ESCAPES = {i: f"\\u{i:04x}" for i in range(32)} | {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


def jcs_text(v):
    if isinstance(v, str):
        return '"' + v.translate(ESCAPES) + '"'
    if v is None or isinstance(v, bool):
        return {None: "null", True: "true", False: "false"}[v]
    if isinstance(v, dict):
        names = sorted(v, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(jcs_text(name) + ":" + jcs_text(v[name]) for name in names) + "}"
    if isinstance(v, list):
        return "[" + ",".join(map(jcs_text, v)) + "]"
    return number_text(v)


def jcs(v):
    return jcs_text(v).encode()


def depth(v):
    if isinstance(v, (dict, list)):
        return 1 + max(map(depth, v.values() if isinstance(v, dict) else v), default=0)
    return 0


def read_number(text):
    x = float(text)
    if x - x != 0:
        raise ValueError("a number no double holds")
    return int(x) if x.is_integer() else x


def unique(pairs):
    if len(members := dict(pairs)) != len(pairs):
        raise ValueError("a repeated member name")
    return members


def no_constant(name):
    raise ValueError(f"{name} is no JSON")


def canonical(data):
    """The value of `data`, which must be the JCS of its own parse."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_float=read_number, parse_int=read_number,
                           parse_constant=no_constant)
        if depth(value) > MAX_DEPTH:
            raise ValueError("nested too deep")
        if jcs(value) != data:
            raise ValueError("not canonical JSON")
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def leaf(data):
    return sha256(b"\0" + data)


def merkle_root(leaves):
    """The RFC 6962 tree head over hexadecimal leaf hashes."""
    if not leaves:
        return sha256(b"")
    stack = []  # (size, digest) of complete subtrees, larger ones first
    for digest in map(bytes.fromhex, leaves):
        size = 1
        while stack and stack[-1][0] == size:
            digest, size = hashlib.sha256(b"\1" + stack.pop()[1] + digest).digest(), 2 * size
        stack.append((size, digest))
    root = stack.pop()[1]
    while stack:
        root = hashlib.sha256(b"\1" + stack.pop()[1] + root).digest()
    return root.hex()


RFC3339 = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
                     r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))")
SECOND = 10**9
DAY = 86_400 * SECOND
EPOCH_DAY = date(1970, 1, 1).toordinal()
CYCLE = 146_097  # days in 400 years


def parse_time(text):
    """Nanoseconds since 1970 of an RFC 3339 text, or None."""
    if not (m := RFC3339.fullmatch(text)):
        return None
    year, month, day, hour, minute, second = map(int, m.groups()[:6])
    off_hour, off_minute = int(m[9] or 0), int(m[10] or 0)
    if hour > 23 or minute > 59 or second > 59 or off_hour > 23 or off_minute > 59:
        return None
    cycles = 1 if year == 0 else 0  # the year 0 may still become year 1 by its offset; Python has no year 0
    try:
        days = date(year + 400 * cycles, month, day).toordinal() - CYCLE * cycles - EPOCH_DAY
    except ValueError:
        return None
    offset = (off_hour * 60 + off_minute) * (-60 if m[8] == "-" else 60)
    return (days * 86_400 + hour * 3600 + minute * 60 + second - offset) * SECOND + int((m[7] or "").ljust(9, "0"))


def format_time(ns):
    """The page's form of a time, or None outside the years 0001 to 9999."""
    days, rest = divmod(ns, DAY)
    if not 1 <= days + EPOCH_DAY <= date.max.toordinal():
        return None
    seconds, nanos = divmod(rest, SECOND)
    return (f"{date.fromordinal(days + EPOCH_DAY)}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
            f".{nanos:09d}Z")


def is_time(v):
    return isinstance(v, str) and (ns := parse_time(v)) is not None and format_time(ns) == v


def unbase64(text):
    """The bytes of canonical padded base64."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 that is not canonical")
    return data


def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def is_base64url(v, length=None):
    if not isinstance(v, str) or not re.fullmatch("[A-Za-z0-9_-]*", v):
        return False
    try:
        data = base64.urlsafe_b64decode(v + "=" * (-len(v) % 4))
    except ValueError:
        return False
    return base64url(data) == v and length in (None, len(data))


# --- shapes: what members an object must have -------------------------------------------------------------------------

def is_str(v):
    return isinstance(v, str)


def is_int(v):
    return type(v) is int and abs(v) <= MAX_INT


def is_count(v):
    return is_int(v) and v >= 0


def is_hash(v):
    return is_str(v) and re.fullmatch("[0-9a-f]{64}", v) is not None


def is_base64(v):
    try:
        return is_str(v) and len(unbase64(v)) > 0
    except ValueError:
        return False


def opt(test):
    def optional(v):
        return test(v)
    optional.optional = True
    return optional


def one_of(*values):
    return lambda v: is_str(v) and v in values


def null_or(test):
    return lambda v: v is None or test(v)


def list_of(test):
    return lambda v: isinstance(v, list) and all(map(test, v))


def shape(members):
    return lambda v: misfit(v, members) is None


def misfit(v, members):
    """The name of the first member of `v` that is missing or of a wrong type; unknown ones are ignored."""
    if not isinstance(v, dict):
        return "(no object)"
    for name, test in members.items():
        if not (test(v[name]) if name in v else getattr(test, "optional", False)):
            return name
    return None


WRITER_NAME = re.compile(r"([a-z0-9](?:[a-z0-9.-]{0,126}[a-z0-9])?)\.([0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15})")
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_name(v):
    return is_str(v) and re.fullmatch("[a-z0-9]([a-z0-9.-]{0,126}[a-z0-9])?", v) is not None and ".." not in v


def is_writer(v):
    return is_str(v) and (m := WRITER_NAME.fullmatch(v)) is not None and ".." not in m[1]


KEYS = list_of(shape({"spki": is_base64, "certificates": list_of(is_hash)}))
REFERENCE = {"batch": is_count, "statement": is_hash}
SHAPES = {
    "trail": {"name": is_name, "origin": is_str, "lock": one_of("compliance", "governance", "none"), "min_retention": is_count,
              "max_merge_delay": is_count, "nonce": lambda v: is_base64url(v, 16), "created_at": is_time,
              "operators": list_of(is_base64), "workers": list_of(is_base64)},
    "writer": {"writer": is_writer, "created_at": is_time, "next_by": is_time,
               "reason": one_of("first", "state_lost", "key_lost", "fork", "rollover"),
               "predecessor": opt(shape({"writer": is_writer, "batch": opt(is_count), "statement": is_hash})),
               "keys": KEYS, "software": is_str},
    "keys": {"writer": is_writer, "number": is_count, "previous": is_hash, "after": opt(shape(REFERENCE)), "keys": KEYS},
    "retirement": {"writer": is_writer, "batch": opt(is_count), "statement": is_hash, "reason": is_str},
    "batch": {
        "writer": is_writer, "batch": is_count, "previous": is_hash, "keys": is_count,
        "boot": lambda v: is_int(v) and v >= 1, "state": one_of("running", "stopped", "retired"), "next_by": opt(is_time),
        "events": shape({"count": lambda v: is_count(v) and v <= MAX_COUNT, "first_sequence": is_count, "previous_hash": is_hash,
                         "last_hash": is_hash, "merkle_root": is_hash, "columns": is_int,
                         "record_bytes": lambda v: is_count(v) and v <= MAX_RECORD_BYTES,
                         "first_timestamp": opt(is_time), "last_timestamp": opt(is_time)}),
        "object": opt(shape({"sha256": is_hash, "bytes": lambda v: is_count(v) and v <= MAX_PARQUET})),
        "filters": list_of(shape({"name": is_str, "module": opt(is_hash), "config": opt(is_hash),
                                  "data": opt(list_of(shape({"name": is_str, "sha256": is_hash})))})),
        "intake": shape({"received": is_count, "redelivered": is_count, "unparsed": is_count, "filter_errors": is_count,
                         "declared_lost": null_or(is_count)}),
        "clock": null_or(shape({"synchronized": lambda v: isinstance(v, bool), "max_error_ns": null_or(is_count)})),
        "sealed_at": is_time, "retain_until": is_time, "software": is_str},
}


# --- section 2: a record in a verified trail --------------------------------------------------------------------------

STRINGS = ("category", "event_type", "actor", "resource", "action", "result", "correlation_id", "session_id", "request_id",
           "schema")
SINK_ONLY = ("observed_at", "source", "writer", "sequence", "previous_hash", "nonce")
REQUIRED = ("event_id", "timestamp", "category", "event_type", *SINK_ONLY)


def is_sealed(v):
    return isinstance(v, dict) and v.keys() == {"$sealed"} and isinstance(v["$sealed"], dict)


def is_event_id(v):
    return is_str(v) and UUID.fullmatch(v) is not None


RECORD = {name: opt(lambda v: is_str(v) or is_sealed(v)) for name in STRINGS} | {
    "event_id": lambda v: is_event_id(v) or is_sealed(v), "timestamp": is_time, "observed_at": is_time,
    "metadata": opt(lambda v: isinstance(v, dict) and len(v) > 0),
    "source": lambda v: isinstance(v, dict),
    "writer": is_writer, "sequence": is_count, "previous_hash": is_hash, "nonce": lambda v: is_base64url(v, 16)}
WRAPPERS = {
    "$number": is_str, "$bytes": is_base64url, "$map": lambda v: isinstance(v, list),
    "$ext": lambda v: isinstance(v, list) and len(v) == 2 and is_int(v[0]) and -128 <= v[0] <= 127 and is_base64url(v[1])}


def check_values(v):
    if isinstance(v, dict):
        if len(v) == 1 and (name := next(iter(v))) in WRAPPERS and not WRAPPERS[name](v[name]):
            raise ValueError(f"a {name} that is not like one")
        for member in v.values():
            check_values(member)
    elif isinstance(v, list):
        for item in v:
            check_values(item)
    elif isinstance(v, (int, float)) and abs(v) > MAX_INT:
        raise ValueError("a number beyond 2^53-1")


def read_record(data):
    if len(data) > MAX_RECORD:
        raise ValueError("larger than 1 MiB")
    record = canonical(data)
    if not isinstance(record, dict):
        raise ValueError("no object")
    if other := record.keys() - RECORD.keys():
        raise ValueError(f"another member: {min(other)}")
    if missing := [name for name in REQUIRED if name not in record]:
        raise ValueError(f"without {missing[0]}")
    if (name := misfit(record, RECORD)) is not None:
        raise ValueError(f"wrong type: {name}")
    check_values(record)
    return record


# --- section 2: from an input to a record -----------------------------------------------------------------------------

class Broken(Exception):
    """The input is no event."""


class Literal(str):
    """The text of a JSON number."""


class Pairs(list):
    """The members of a map in source order."""

    def regular(self):
        return all(type(k) is str for k, _ in self) and len({k for k, _ in self}) == len(self)


@dataclass
class Ext:
    type: int
    data: bytes


class JsonReader:
    SPACE = re.compile(r"[ \t\n\r]*")
    NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
    STRING = re.compile(r'"((?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+)"')
    ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
    SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
    WORDS = {"true": True, "false": False, "null": None}

    def __init__(self, data):
        try:
            self.text = data.decode()
        except UnicodeDecodeError:
            raise Broken("not UTF-8") from None
        self.at = 0

    def document(self):
        value = self.value(1)
        if self.peek():
            raise Broken("something follows")
        return value

    def peek(self):
        self.at = self.SPACE.match(self.text, self.at).end()
        return self.text[self.at:self.at + 1]

    def take(self, pattern):
        if not (m := pattern.match(self.text, self.at)):
            raise Broken("no JSON")
        self.at = m.end()
        return m

    def value(self, level):
        first = self.peek()
        if first in ("{", "["):
            if level > MAX_DEPTH:
                raise Broken("too deep")
            return self.items(level, first == "{")
        if first == '"':
            return self.string()
        for word, value in self.WORDS.items():
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        return Literal(self.take(self.NUMBER)[0])

    def items(self, level, is_map):
        close, items = ("}", Pairs()) if is_map else ("]", [])
        self.at += 1
        if self.peek() == close:
            self.at += 1
            return items
        while True:
            if is_map:
                self.peek()
                key = self.string()
                if self.peek() != ":":
                    raise Broken("no colon")
                self.at += 1
            value = self.value(level + 1)
            items.append((key, value) if is_map else value)
            follows = self.peek()
            self.at += 1
            if follows == close:
                return items
            if follows != ",":
                raise Broken("no comma")

    def string(self):
        text = self.take(self.STRING)[1]
        if "\\" in text:
            text = self.ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else self.SHORT.get(m[2], m[2]), text)
            try:
                text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            except UnicodeDecodeError:
                raise Broken("a lone surrogate") from None
        return text


class MsgpackReader:
    NUMBERS = {0xca: ">f", 0xcb: ">d", 0xcc: ">B", 0xcd: ">H", 0xce: ">I", 0xcf: ">Q", 0xd0: ">b", 0xd1: ">h", 0xd2: ">i", 0xd3: ">q"}
    CONSTANTS = {0xc0: None, 0xc2: False, 0xc3: True}
    LENGTHS = {1: ">B", 2: ">H", 4: ">I"}
    # first byte of a family with its length behind it -> (kind, bytes of the length)
    FAMILIES = {0xc4: ("bin", 1), 0xc5: ("bin", 2), 0xc6: ("bin", 4), 0xc7: ("ext", 1), 0xc8: ("ext", 2), 0xc9: ("ext", 4),
                0xd9: ("str", 1), 0xda: ("str", 2), 0xdb: ("str", 4), 0xdc: ("array", 2), 0xdd: ("array", 4),
                0xde: ("map", 2), 0xdf: ("map", 4)}

    def __init__(self, data):
        self.data, self.at = data, 0

    def document(self):
        value = self.value(1)
        if self.at != len(self.data):
            raise Broken("something follows")
        return value

    def take(self, length):
        if len(self.data) - self.at < length:
            raise Broken("cut off")
        self.at += length
        return self.data[self.at - length:self.at]

    def unpack(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, level):
        byte = self.unpack(">B")
        if byte <= 0x7f or byte >= 0xe0:
            return byte if byte <= 0x7f else byte - 256
        if byte in self.CONSTANTS:
            return self.CONSTANTS[byte]
        if byte in self.NUMBERS:
            return self.unpack(self.NUMBERS[byte])
        if byte <= 0x8f:
            return self.items("map", byte & 0x0f, level)
        if byte <= 0x9f:
            return self.items("array", byte & 0x0f, level)
        if byte <= 0xbf:
            return self.items("str", byte & 0x1f, level)
        if 0xd4 <= byte <= 0xd8:
            return self.items("ext", 1 << (byte - 0xd4), level)
        if byte not in self.FAMILIES:
            raise Broken("no MessagePack")
        kind, width = self.FAMILIES[byte]
        return self.items(kind, self.unpack(self.LENGTHS[width]), level)

    def items(self, kind, length, level):
        if kind == "ext":
            return Ext(self.unpack(">b"), self.take(length))
        if kind == "bin":
            return self.take(length)
        if kind == "str":
            data = self.take(length)
            try:
                return data.decode()
            except UnicodeDecodeError:
                return data
        if level > MAX_DEPTH:
            raise Broken("too deep")
        if kind == "array":
            return [self.value(level + 1) for _ in range(length)]
        return Pairs((self.value(level + 1), self.value(level + 1)) for _ in range(length))


def decimal(text):
    """A number text as (negative, significant digits, exponent), equal for equal values."""
    m = re.fullmatch(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)0*([0-9]*))?", text)
    digits, fraction = (m[2] + (m[3] or "")).lstrip("0"), len(m[3] or "")
    exponent = int((m[5] or "0")[:20]) * (-1 if m[4] == "-" else 1)  # 20 digits are beyond all doubles already
    significant = digits.rstrip("0")
    if not significant:
        return m[1] == "-", "", 0
    return m[1] == "-", significant, exponent - fraction + len(digits) - len(significant)


def encode_literal(text):
    negative, digits, exponent = decimal(text)
    if not digits and negative:
        return {"$number": str(text)}
    size = len(digits) + exponent
    if size > 16 or size == 16 and digits.ljust(16, "0") > str(MAX_INT):
        return {"$number": str(text)}
    nearest = float(text)
    return nearest if decimal(number_text(nearest)) == (negative, digits, exponent) else {"$number": str(text)}


def encode_double(x):
    if x != x:
        return {"$number": "NaN"}
    if x in (float("inf"), float("-inf")):
        return {"$number": "Infinity" if x > 0 else "-Infinity"}
    if x == 0 and str(x) == "-0.0":
        return {"$number": "-0"}
    return {"$number": number_text(x)} if abs(x) > MAX_INT else x


def escape(key):
    return "$" + key if key.startswith("$") else key


def encode(v):
    """An input value as the record has it."""
    if isinstance(v, Literal):
        return encode_literal(v)
    if v is None or isinstance(v, (str, bool)):
        return v
    if isinstance(v, int):
        return v if abs(v) <= MAX_INT else {"$number": str(v)}
    if isinstance(v, float):
        return encode_double(v)
    if isinstance(v, bytes):
        return {"$bytes": base64url(v)}
    if isinstance(v, Ext):
        return {"$ext": [v.type, base64url(v.data)]}
    if not isinstance(v, Pairs):
        return [encode(item) for item in v]
    if v.regular():
        return {escape(key): encode(value) for key, value in v}
    return {"$map": [[encode(key), encode(value)] for key, value in v]}


def lift_time(v):
    """A `timestamp` in the page's form, or None if it cannot be read."""
    if type(v) is str:
        ns = parse_time(v)
        return None if ns is None else format_time(ns)
    if not isinstance(v, Ext):
        return None
    size = len(v.data)
    if v.type == -1 and size == 4:
        seconds, nanos = struct.unpack(">I", v.data)[0], 0
    elif v.type == -1 and size == 8:
        both = struct.unpack(">Q", v.data)[0]
        seconds, nanos = both & (1 << 34) - 1, both >> 34
    elif v.type == -1 and size == 12:
        nanos, seconds = struct.unpack(">Iq", v.data)
    elif v.type == 0 and size == 8:
        seconds, nanos = struct.unpack(">II", v.data)
    else:
        return None
    return format_time(seconds * SECOND + nanos) if nanos < SECOND else None


def lift_member(name, v):
    """The value of a member that the record's table names, or None if its type is wrong or it is forged."""
    if name == "timestamp":
        return lift_time(v)
    if type(v) is not str or (name, v) in (("category", "trail"), ("event_type", "unparsed")):
        return None
    return v if name in STRINGS or name == "event_id" and is_event_id(v) else None


def lift(event):
    if not event.regular():
        return {"metadata": encode(event)}
    members, metadata, others, displaced = {}, {}, {}, {}
    for name, v in event:
        named = name in STRINGS or name in ("event_id", "timestamp")
        if named and (lifted := lift_member(name, v)) is not None:
            members[name] = lifted
        elif name == "metadata" and isinstance(v, Pairs) and v.regular():
            metadata = encode(v)
        elif named or v is None or name in SINK_ONLY or name == "metadata":
            displaced[escape(name)] = encode(v)
        else:
            others[escape(name)] = encode(v)
    for name, v in others.items():
        (displaced if name in metadata else metadata)[name] = v
    if displaced:
        metadata["$displaced"] = displaced
    return members | ({"metadata": metadata} if metadata else {})


def unparsed(data):
    raw = data[:MAX_RAW]
    if len(data) > MAX_RAW:
        for cut in range(1, 4):
            if unfinished(raw[-cut:]):
                raw = raw[:-cut]
                break
    try:
        raw = raw.decode()
    except UnicodeDecodeError:
        raw = {"$bytes": base64url(raw)}
    return {"category": "unclassified", "event_type": "unparsed",
            "metadata": {"$raw": raw, "$raw_length": len(data), "$raw_sha256": sha256(data)}}


def unfinished(tail):
    try:
        tail.decode()
    except UnicodeDecodeError as e:
        return e.start == 0 and e.reason == "unexpected end of data"
    return False


def convert(kind, data):
    """The members of a record that the input alone decides."""
    try:
        event = {"json": JsonReader, "msgpack": MsgpackReader}[kind](data).document()
        if not isinstance(event, Pairs):
            raise Broken("no map")
        members = lift(event)
        if depth(members) > MAX_DEPTH or len(jcs(members)) > MAX_RECORD - SINK_SHARE:
            raise Broken("too deep or too large")
        return members
    except Broken:
        return unparsed(data)


# --- section 3: keys, signatures, statements --------------------------------------------------------------------------

P = 2**255 - 19
Y8 = int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little")
SMALL_ORDER = {0, 1, P - 1, Y8, P - Y8}
L = 2**252 + 27742317777372353535851937790883648493


def check_point(encoded, what):
    y = int.from_bytes(encoded, "little") & (1 << 255) - 1
    if y >= P or y in SMALL_ORDER:
        raise Fault("TAMPERED", f"Ed25519 {what} is not canonical or of small order")


def load_key(spki):
    der = unbase64(spki)
    try:
        key = serialization.load_der_public_key(der)
        again = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise Fault("TAMPERED", "a key that cannot be read") from None
    if again != der:
        raise Fault("TAMPERED", "a key that is not in DER")
    if not isinstance(key, ed25519.Ed25519PublicKey) and not (
            isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192):
        raise Fault("TAMPERED", "a key of another algorithm or size")
    return key


def verify_signature(spki, sig, message):
    key = load_key(spki)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(sig, message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
            return
        if len(sig) != 64 or int.from_bytes(sig[32:], "little") >= L:
            raise Fault("TAMPERED", "an Ed25519 signature that is not canonical")
        check_point(key.public_bytes_raw(), "key")
        check_point(sig[:32], "signature")
        key.verify(sig, message)
    except InvalidSignature:
        raise Fault("TAMPERED", "a signature is wrong") from None


def key_id(spki):
    return sha256(unbase64(spki))


@dataclass
class Statement:
    type: str
    payload: dict
    hash: str
    signed: bytes
    signatures: list  # (key id, signature)
    intact: bool = True  # of a known format and with all members as the page has them

    def verify(self, keys):
        required = list(dict.fromkeys(keys))
        if not required or [keyid for keyid, _ in self.signatures] != [key_id(k) for k in required]:
            raise Fault("TAMPERED", "not signed by exactly its keys")
        for spki, (_, sig) in zip(required, self.signatures):
            verify_signature(spki, sig, self.signed)

    def verifies_under_one_of(self, keys):
        return any(attempt(verify_signature, spki, sig, self.signed)
                   for spki in keys for keyid, sig in self.signatures if keyid == key_id(spki))

    def keys(self):
        """The SPKIs of a genesis or key statement."""
        if not KEYS(self.payload.get("keys")):
            raise Fault("TAMPERED", "names no keys")
        return [k["spki"] for k in self.payload["keys"]]


def attempt(action, *args):
    try:
        action(*args)
        return True
    except Fault:
        return False


ENVELOPE = {"payload": is_str, "payloadType": is_str, "signatures": list_of(lambda v: isinstance(v, dict) and v.keys() == {
    "keyid", "sig"} and is_hash(v["keyid"]) and is_base64(v["sig"]))}


def open_envelope(data, kind):
    try:
        envelope = canonical(data)
        if misfit(envelope, ENVELOPE) is not None or envelope.keys() != ENVELOPE.keys():
            raise ValueError("no envelope")
        body = unbase64(envelope["payload"])
        if len(body) > MAX_PAYLOAD:
            raise ValueError("payload too large")
        payload = canonical(body)
        if not isinstance(payload, dict):
            raise ValueError("payload is no object")
    except ValueError as e:
        raise Fault("TAMPERED", f"no statement: {e}") from None
    found = envelope["payloadType"]
    if found != f"application/vnd.waxseal.{kind}+json":
        raise Fault("TAMPERED", f"payload type {found}")
    signed = b"DSSEv1 %d %s %d %s" % (len(found.encode()), found.encode(), len(body), body)
    return Statement(kind, payload, leaf(body), signed, [(s["keyid"], unbase64(s["sig"])) for s in envelope["signatures"]])


# --- section 3: trust -------------------------------------------------------------------------------------------------

class TrustError(Exception):
    pass


YAML_BODY = re.compile(r"""(?:[^'"#]|'[^']*'|"(?:\\.|[^"\\])*"|(?<=\S)#)*+""")  # a line up to its comment


def yaml_lines(text):
    for number, line in enumerate(text.splitlines(), 1):
        body = YAML_BODY.match(line)[0]
        if line[len(body):][:1] not in ("", "#"):
            raise TrustError(f"line {number}: a quote that is not closed")
        body = body.rstrip()
        if not body.strip() or number == 1 and body == "---":
            continue
        indent = len(body) - len(body.lstrip(" "))
        if body[indent] == "\t":
            raise TrustError(f"line {number}: a tab")
        yield [indent, body[indent:], number]


def yaml_scalar(text, number):
    if text == "[]":
        return []
    if text == "{}":
        return {}
    if m := re.fullmatch("'((?:[^']|'')*)'", text):
        return m[1].replace("''", "'")
    if re.fullmatch(r'"(?:[^"\\]|\\["\\/])*"', text):
        return json.loads(text)
    if text[0] in "[]{}&*!|>%@`'\"," or ": " in text or text.endswith(":"):
        raise TrustError(f"line {number}: not in the subset of YAML that is read here")
    return text


def yaml_block(lines, indent):
    return yaml_list(lines, indent) if re.match(r"-(\s|$)", lines[0][1]) else yaml_map(lines, indent)


def yaml_list(lines, indent):
    items = []
    while lines and lines[0][0] == indent and (m := re.match(r"-(\s+|$)", lines[0][1])):
        _, text, number = lines[0]
        rest = text[m.end():]
        if not rest:
            lines.pop(0)
            items.append(yaml_child(lines, indent + 1, number))
        elif re.match(r"[A-Za-z_]+:(\s|$)", rest):
            lines[0][0], lines[0][1] = indent + m.end(), rest
            items.append(yaml_map(lines, indent + m.end()))
        else:
            lines.pop(0)
            items.append(yaml_scalar(rest, number))
    return items


def yaml_child(lines, at_least, number):
    if not lines or lines[0][0] < at_least:
        raise TrustError(f"line {number}: nothing follows")
    return yaml_block(lines, lines[0][0])


def yaml_map(lines, indent):
    members = {}
    while lines and lines[0][0] == indent and not re.match(r"-(\s|$)", lines[0][1]):
        _, text, number = lines.pop(0)
        if not (m := re.fullmatch(r"([A-Za-z_]+):(?:\s+(.*))?", text)):
            raise TrustError(f"line {number}: no member")
        if m[1] in members:
            raise TrustError(f"line {number}: {m[1]} is repeated")
        if m[2]:
            members[m[1]] = yaml_scalar(m[2], number)
        else:
            is_list = bool(lines) and lines[0][0] == indent and lines[0][1].startswith("-")
            members[m[1]] = yaml_child(lines, indent if is_list else indent + 1, number)
    return members


def read_yaml(text):
    if not (lines := list(yaml_lines(text))):
        raise TrustError("empty")
    value = yaml_block(lines, lines[0][0])
    if lines:
        raise TrustError(f"line {lines[0][2]}: wrong indentation")
    return value


RESERVED_TRUST = ("log", "policy", "max_anchor_age", "timestamps", "ethereum", "revoked")


@dataclass
class Trust:
    trail: str
    operators: list
    writers: list
    reserved: list

    def entries(self, name):
        """The entries whose glob matches a writer's name without the epoch."""
        return [e for e in self.writers if re.fullmatch(
            re.escape(e["name"]).replace(r"\*", ".*").replace(r"\?", "."), name)]

    def pinned(self, name):
        return [key for e in self.entries(name) for key in e.get("keys", [])]


def read_trust(path):
    try:
        with open(path, encoding="utf-8") as f:
            doc = read_yaml(f.read())
    except (OSError, UnicodeDecodeError) as e:
        raise TrustError(str(e)) from None
    entry = {"name": is_str, "keys": opt(list_of(is_base64)), "cas": opt(list_of(is_str))}
    known = {"trail": is_hash, "operators": opt(list_of(is_base64)),
             "writers": opt(list_of(lambda v: isinstance(v, dict) and v.keys() <= entry.keys() and misfit(v, entry) is None))}
    if (name := misfit(doc, known)) is not None:
        raise TrustError(f"{name} is missing or wrong")
    if other := doc.keys() - known.keys() - set(RESERVED_TRUST):
        raise TrustError(f"unknown member {min(other)}")
    writers = doc.get("writers", [])
    for w in writers:
        w["cas"] = [ca if is_hash(ca) else read_ca(os.path.join(os.path.dirname(path), ca)) for ca in w.get("cas", [])]
    return Trust(doc["trail"], doc.get("operators", []), writers, sorted(doc.keys() & set(RESERVED_TRUST)))


def read_ca(path):
    try:
        with open(path, "rb") as f:
            return load_certificate(f.read())
    except (OSError, ValueError) as e:
        raise TrustError(f"CA {path}: {e}") from None


def load_certificate(data):
    return x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)


def extension(cert, kind):
    try:
        return cert.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def check_issuer(child, issuer, below):
    """`issuer` may have issued `child`, with `below` intermediate certificates under it."""
    child.verify_directly_issued_by(issuer)
    constraints, usage = extension(issuer, x509.BasicConstraints), extension(issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca or constraints.path_length is not None and constraints.path_length < below:
        raise ValueError("no CA")
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("may not sign certificates")


def chain_vouches(spki, chain, ca, at, dns, uri):
    """Whether `chain` (leaf first) leads from the key to the certificate `ca`, judged at the time `at`."""
    judged = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
    try:
        chain = chain[:chain.index(ca)] if ca in chain else chain
        if not chain:
            return False
        path = [*chain, ca]
        for cert in path:
            if not cert.not_valid_before_utc <= at <= cert.not_valid_after_utc:
                return False
            if any(e.critical and not isinstance(e.value, judged) for e in cert.extensions):
                return False
        for i in range(len(chain)):
            check_issuer(path[i], path[i + 1], i)
        key = path[0].public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        san = extension(path[0], x509.SubjectAlternativeName)
        return key == unbase64(spki) and san is not None and (
            dns in san.get_values_for_type(x509.DNSName) or uri in san.get_values_for_type(x509.UniformResourceIdentifier))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.DuplicateExtension):
        return False


# --- sections 5 and 6: checking a trail -------------------------------------------------------------------------------

PATHS = {"genesis": re.compile(r"writers/([^/]+)/genesis()\.json"), "keys": re.compile(r"writers/([^/]+)/keys/([0-9]{6})\.json"),
         "batch": re.compile(r"batches/([^/]+)/([0-9]{12})\.json")}
OPERATORS_PATH = re.compile(r"statements/([a-z-]+)/([0-9a-f]{64})\.json")
PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
RESERVED_STATEMENTS = ("acknowledgement", "finding", "renewal", "expected-writers", "erasure")
COLUMNS = ("event_id", "category", "event_type", "actor", "resource", "action", "result", "correlation_id", "session_id")


@dataclass
class Writer:
    id: str
    genesis: Statement = None
    key_statements: dict = field(default_factory=dict)  # number -> Statement
    key_lists: list = field(default_factory=list)       # [(in force from batch, number, [spki])]
    headers: dict = field(default_factory=dict)         # number -> valid Statement
    latest: dict = None                                 # payload of the last intact header so far
    declared_lost: int = 0                              # the greatest so far

    @property
    def name(self):
        return self.id.rpartition(".")[0]

    @property
    def epoch(self):
        return self.id.rpartition(".")[2]

    def in_force(self, batch):
        return [(number, keys) for start, number, keys in self.key_lists if start <= batch][-1]

    def last(self):
        return self.headers[max(self.headers)] if self.headers else None


def header_path(writer, batch):
    return f"batches/{writer}/{batch:012d}.json"


def events_path(payload):
    at, digest = payload["sealed_at"], payload["object"]["sha256"]
    return f"events/date={at[:10]}/hour={at[11:13]}/{payload['writer']}-{payload['batch']:012d}-{digest[:16]}.parquet"


class Check:
    """One check of one trail in a local directory."""

    def __init__(self, root, trust, now, quick):
        self.root, self.trust, self.now, self.quick = root, trust, now, quick
        self.findings, self.named, self.writers, self.retired = [], set(), {}, set()
        self.last_headers = []
        self.trail = None
        self.trail_id = trust.trail if trust else None
        self.stats = {"writers": 0, "headers": 0, "objects": 0, "records": 0}

    def add(self, verdict, obj, detail, writer=None, sequences=None):
        self.findings.append({"verdict": verdict, "object": obj, "writer": writer, "sequences": sequences, "detail": detail})

    def run(self):
        try:
            self.files = set(self.list_files())
            self.index_files()
            for name in self.trust.reserved if self.trust else ():
                self.add("UNREADABLE", None, f"the trust file names `{name}`, which this verifier cannot check")
            if self.check_trail_statement():
                self.check_operators_statements()
                self.check_writers()
                # What the log and its anchors hold is judged by those who check them.
                rest = {p for p in self.files if not p.startswith(("log/", "anchors/"))}
                for path in sorted(rest - self.named):
                    self.add("FOREIGN", path, "nothing names this object")
        except OSError as e:
            self.add("UNREADABLE", None, str(e))
        return self

    # the store

    def list_files(self):
        def fail(error):
            raise error
        for folder, folders, files in os.walk(self.root, onerror=fail):
            if folder == self.root:
                folders[:] = [f for f in folders if f not in (".retention", ".tmp")]
            for name in files:
                yield os.path.relpath(os.path.join(folder, name), self.root).replace(os.sep, "/")

    def index_files(self):
        """Which writers there are, and the sorted numbers of their headers and key statements."""
        self.numbers = {}
        for path in self.files:
            for kind, pattern in PATHS.items():
                if (m := pattern.fullmatch(path)) and is_writer(m[1]):
                    of_writer = self.numbers.setdefault(m[1], {name: [] for name in PATHS})
                    of_writer[kind].append(int(m[2] or 0))
        for of_writer in self.numbers.values():
            for numbers in of_writer.values():
                numbers.sort()

    def read(self, path, limit):
        with open(os.path.join(self.root, path), "rb") as f:
            data = f.read(limit + 1)
        if len(data) > limit:
            raise Fault("TAMPERED", "too large")
        return data

    def open_statement(self, path, kind, **fits):
        """The statement at `path`, signatures not yet verified; its payload must fit the path."""
        statement = open_envelope(self.read(path, MAX_ENVELOPE), kind)
        for name, value in fits.items():
            if statement.payload.get(name) != value or isinstance(statement.payload.get(name), bool):
                raise Fault("TAMPERED", f"`{name}` does not fit the path or the trail")
        return statement

    def judge_payload(self, path, statement, writer=None):
        """After the signatures: an unknown format or a payload that is not like the page's table."""
        payload, crit = statement.payload, statement.payload.get("crit", [])
        statement.intact = False
        if payload.get("format") != f"waxseal/{statement.type}/1":
            self.add("UNKNOWN_FORMAT", path, f"format {payload.get('format')!r}", writer)
        elif not list_of(is_str)(crit):
            self.add("INCONSISTENT", path, "`crit` is no array of strings", writer)
        elif crit:
            self.add("UNKNOWN_FORMAT", path, f"crit {crit}", writer)
        elif (name := misfit(payload, SHAPES[statement.type])) is not None:
            self.add("INCONSISTENT", path, f"`{name}` is missing or wrong", writer)
        else:
            statement.intact = True
        return statement.intact

    # trail and operators' statements

    def check_trail_statement(self):
        """False if the check ends here."""
        if not self.trust:
            self.add("UNTRUSTED", None, "UNTRUSTED KEYS: consistent, but by whose word?")
        self.named.add("trail.json")
        if "trail.json" not in self.files:
            self.add("TRUNCATED", "trail.json", "no trail statement")
            return self.trust is not None
        try:
            statement = self.open_statement("trail.json", "trail")
            operators = statement.payload.get("operators")
            if not list_of(is_base64)(operators):
                raise Fault("TAMPERED", "names no operators")
            statement.verify(operators)
        except Fault as e:
            self.add(e.verdict, "trail.json", str(e))
            return self.trust is not None
        if self.trust and statement.hash != self.trust.trail:
            self.add("OTHER_TRAIL", "trail.json", f"this is trail {statement.hash}")
            return False
        self.trail_id = statement.hash
        self.trail = statement
        if self.trust and not set(operators) & set(self.trust.operators):
            self.add("UNTRUSTED", "trail.json", "none of its operators is pinned")
        self.judge_payload("trail.json", statement)
        return True

    def check_operators_statements(self):
        operators = self.trail.payload["operators"] if self.trail else (self.trust.operators if self.trust else [])
        for path in sorted(self.files):
            m = OPERATORS_PATH.fullmatch(path)
            if m and m[1] in RESERVED_STATEMENTS:
                self.named.add(path)
            if not m or m[1] != "retirement":
                continue
            try:
                statement = self.open_statement(path, m[1], trail=self.trail_id)
                if statement.hash != m[2] or len(statement.signatures) != 1:
                    continue
                statement.verify([spki for spki in operators if key_id(spki) == statement.signatures[0][0]])
            except Fault:
                continue
            self.named.add(path)
            if self.judge_payload(path, statement):
                self.retired.add(statement.payload["writer"])
                self.last_headers.append((statement.payload["writer"], statement.payload["batch"]))

    # writers

    def check_writers(self):
        for writer in map(Writer, sorted(self.numbers)):
            if self.check_genesis(writer):
                self.writers[writer.id] = writer
                self.check_key_statements(writer)
                self.check_headers(writer)
        self.stats["writers"] = len(self.writers)
        for writer in self.writers.values():
            self.check_after(writer)
            self.check_predecessor(writer)
            self.check_silence(writer)
            self.check_certificates(writer)
            self.check_events(writer)

    def check_genesis(self, writer):
        """Whether the writer is one to judge further: a valid genesis that someone pinned vouches for."""
        path = f"writers/{writer.id}/genesis.json"
        entries = self.trust.entries(writer.name) if self.trust else [{}]
        if path not in self.files:
            if entries:
                self.add("TRUNCATED", path, "no genesis of a writer whose name is trusted", writer.id)
            return False
        try:
            writer.genesis = self.open_statement(path, "writer", trail=self.trail_id, writer=writer.id)
            keys = writer.genesis.keys()
            writer.genesis.verify(keys)
        except Fault as e:
            if entries:
                self.named.add(path)
                self.add(e.verdict, path, str(e), writer.id)
            return False
        if self.trust and not set(keys) & set(self.trust.pinned(writer.name)) and not self.ca_vouches(writer, entries):
            if entries:
                self.add("UNTRUSTED", path, "nothing pinned vouches for a writer whose name is trusted", writer.id)
            return False
        self.named.add(path)
        writer.key_lists.append((0, 0, keys))
        return self.judge_payload(path, writer.genesis, writer.id)

    def certificate(self, digest):
        path = f"certs/{digest}.der"
        if path not in self.files:
            raise Fault("GAP", "certificate is missing")
        data = self.read(path, MAX_RECORD)
        if sha256(data) != digest:
            raise Fault("TAMPERED", "certificate has another digest")
        return load_certificate(data)

    def ca_vouches(self, writer, entries):
        payload = writer.genesis.payload
        if not self.trail or not is_time(payload.get("created_at")):
            return False
        at = datetime.fromisoformat(payload["created_at"][:19]).replace(tzinfo=timezone.utc)
        uri = f"waxseal:{self.trail.payload.get('name')}:{writer.name}"
        for key in payload["keys"]:
            for ca in (ca for e in entries for ca in e.get("cas", [])):
                with contextlib.suppress(Fault, ValueError):
                    chain = [self.certificate(digest) for digest in key["certificates"]]
                    root = self.certificate(ca) if is_str(ca) else ca
                    if chain_vouches(key["spki"], chain, root, at, writer.name, uri):
                        return True
        return False

    def check_key_statements(self, writer):
        previous = writer.genesis
        expected = 1
        for number in (n for n in self.numbers[writer.id]["keys"] if n > 0):
            path = f"writers/{writer.id}/keys/{number:06d}.json"
            self.named.add(path)
            if number > expected:
                self.add("GAP", f"writers/{writer.id}/keys/{expected:06d}.json", "key statement is missing", writer.id)
                return
            if self.check_key_statement(writer, path, number, previous) is None:
                return
            previous = writer.key_statements[number]
            expected = number + 1

    def check_key_statement(self, writer, path, number, previous):
        try:
            statement = self.open_statement(path, "keys", trail=self.trail_id, writer=writer.id, number=number)
            keys = statement.keys()
            if not keys:
                raise Fault("TAMPERED", "names no keys")
            statement.verify(writer.key_lists[-1][2] + keys)
        except Fault as e:
            self.add(e.verdict, path, str(e), writer.id)
            return None
        if not self.judge_payload(path, statement, writer.id):
            return None
        if statement.payload["previous"] != previous.hash:
            self.add("TAMPERED", path, "`previous` is another statement's hash", writer.id)
        after = statement.payload.get("after")
        writer.key_statements[number] = statement
        writer.key_lists.append((after["batch"] + 1 if after else 0, number, keys))
        return statement

    def check_after(self, writer):
        above = max(self.numbers[writer.id]["batch"], default=-1)
        for name, batch in self.last_headers:
            if name == writer.id and batch > above:
                self.add("GAP", header_path(name, batch), "the last header by an operator's word is missing", name)
        for number, statement in writer.key_statements.items():
            if after := statement.payload.get("after"):
                self.check_reference(f"writers/{writer.id}/keys/{number:06d}.json", writer, writer, after)

    def check_reference(self, path, writer, owner, reference):
        """`reference` {batch, statement} in the object at `path` must name a statement of `owner`."""
        batch = reference.get("batch")
        target = owner.genesis if batch is None else owner.headers.get(batch)
        if target and target.hash != reference["statement"]:
            self.add("TAMPERED", path, "names a header or genesis by another hash", writer.id)
        elif batch is not None and header_path(owner.id, batch) not in self.files:
            self.add("GAP", header_path(owner.id, batch), f"header is missing that {path} names", writer.id)

    def is_retired(self, writer_id):
        writer = self.writers.get(writer_id)
        last = writer.last() if writer else None
        return writer_id in self.retired or bool(last and last.intact and last.payload["state"] == "retired")

    def check_predecessor(self, writer):
        path, payload = f"writers/{writer.id}/genesis.json", writer.genesis.payload
        if predecessor := payload.get("predecessor"):
            owner = self.writers.get(predecessor["writer"])
            if not self.is_retired(predecessor["writer"]):
                self.add("ABANDONED", path, f"{predecessor['writer']} was left without a retirement", predecessor["writer"])
            if owner:
                self.check_reference(path, writer, owner, predecessor)
            elif f"writers/{predecessor['writer']}/genesis.json" not in self.files:
                self.add("GAP", f"writers/{predecessor['writer']}/genesis.json", f"predecessor of {writer.id} is missing", writer.id)
        if payload["reason"] == "first":
            for other in self.writers.values():
                if other.name == writer.name and other.epoch < writer.epoch and not self.is_retired(other.id):
                    self.add("ABANDONED", path, f"{other.id} was left without a retirement", other.id)

    def check_silence(self, writer):
        last = writer.last()
        if last and not last.intact:
            return
        state = last.payload["state"] if last else "running"
        path = header_path(writer.id, max(writer.headers)) if last else f"writers/{writer.id}/genesis.json"
        next_by = (last or writer.genesis).payload.get("next_by")
        if state == "stopped":
            self.add("STOPPED", path, "the writer stopped", writer.id)
        elif state == "running" and next_by and next_by < self.now and writer.id not in self.retired:
            self.add("SILENT", path, f"the next header was due by {next_by}", writer.id)

    def check_certificates(self, writer):
        statements = [writer.genesis, *writer.key_statements.values()]
        for digest in sorted({d for s in statements for k in s.payload["keys"] for d in k["certificates"]}):
            self.named.add(f"certs/{digest}.der")
            try:
                self.certificate(digest)
            except Fault as e:
                self.add(e.verdict, f"certs/{digest}.der", str(e), writer.id)
            except ValueError:
                self.add("INCONSISTENT", f"certs/{digest}.der", "no certificate", writer.id)

    # headers

    def check_headers(self, writer):
        expected = 0
        for batch in self.numbers[writer.id]["batch"]:
            path = header_path(writer.id, batch)
            self.named.add(path)
            if batch > expected:
                self.add("GAP", header_path(writer.id, expected), f"{batch - expected} headers missing", writer.id)
            expected = batch + 1
            number, keys = writer.in_force(batch)
            try:
                header = self.open_statement(path, "batch", trail=self.trail_id, writer=writer.id, batch=batch)
                header.verify(keys)
            except Fault as e:
                self.add(e.verdict, path, str(e), writer.id)
                continue
            self.stats["headers"] += 1
            self.judge_header(writer, path, header, number)
            writer.headers[batch] = header

    def judge_header(self, writer, path, header, number):
        if not self.judge_payload(path, header, writer.id):
            return
        payload = header.payload
        if payload.get("object"):
            self.named.add(events_path(payload))
        if payload["events"]["columns"] != 1:
            self.add("UNKNOWN_FORMAT", path, f"events.columns {payload['events']['columns']}", writer.id)
        faults = [*own_faults(payload)]
        if payload["keys"] != number:
            faults.append(f"`keys` is not {number}, the statement in force")
        if writer.latest:
            faults += going_back(writer.latest, payload)
        writer.latest = payload
        for detail in faults:
            self.add("INCONSISTENT", path, detail, writer.id)
        lost = payload["intake"]["declared_lost"] or 0
        if lost > writer.declared_lost:
            self.add("DECLARED_LOSS", path, "the shipper says that it lost events", writer.id)
            writer.declared_lost = lost
        before = writer.genesis if payload["batch"] == 0 else writer.headers.get(payload["batch"] - 1)
        if before:
            self.judge_link(writer, path, payload, before)
        self.judge_retention(writer, path, payload)

    def judge_link(self, writer, path, payload, before):
        """`before` is the valid header before, or the genesis before batch 0."""
        if payload["previous"] != before.hash:
            self.add("TAMPERED", path, "`previous` is another statement's hash", writer.id)
        if not before.intact:
            return
        events = payload["events"]
        received, sequence, last_hash = 0, 0, before.hash
        if before is not writer.genesis:
            received, prior = before.payload["intake"]["received"], before.payload["events"]
            sequence, last_hash = prior["first_sequence"] + prior["count"], prior["last_hash"]
        if payload["intake"]["received"] - received > events["count"]:
            self.add("INCONSISTENT", path, "`received` grows by more than `count`", writer.id)
        if events["first_sequence"] > sequence:
            self.add("GAP", path, "records are missing before this batch", writer.id, [sequence, events["first_sequence"] - 1])
        elif events["first_sequence"] < sequence:
            self.add("INCONSISTENT", path, "`first_sequence` is too small", writer.id)
        elif events["previous_hash"] != last_hash:
            self.add("TAMPERED", path, "`events.previous_hash` is not the last record's hash", writer.id)
        next_by = before.payload.get("next_by")
        if next_by and payload["sealed_at"] > next_by:
            self.add("SILENT", path, f"sealed after {next_by}", writer.id)

    def judge_retention(self, writer, path, payload):
        if not self.trail or not self.trail.intact:
            return
        terms = self.trail.payload
        if parse_time(payload["retain_until"]) < parse_time(payload["sealed_at"]) + terms["min_retention"] * DAY:
            self.add("SHORT_RETENTION", path, "`retain_until` is before what the trail promises", writer.id)
        for obj in [path] + ([events_path(payload)] if payload.get("object") else []):
            lock, until = self.promise(obj)
            if obj in self.files and (until is not None and until < payload["retain_until"] or lock == "none" != terms["lock"]):
                self.add("SHORT_RETENTION", obj, f"lock {lock}, kept until {until or 'no known time'}", writer.id)

    def promise(self, path):
        """(lock, until when) the store says that it keeps the object; a promise that cannot be read is over already."""
        try:
            found = json.loads(self.read(".retention/" + path, MAX_ENVELOPE))
        except FileNotFoundError:
            return "none", None
        except (Fault, ValueError, RecursionError):
            found = None
        terms = {"sha256": is_hash, "lock": SHAPES["trail"]["lock"], "retain_until": is_time}
        return (found["lock"], found["retain_until"]) if misfit(found, terms) is None else ("none", "")

    # events objects

    def check_events(self, writer):
        observed = ""
        for batch, header in writer.headers.items():
            if not header.intact or not header.payload.get("object"):
                continue
            payload = header.payload
            path = events_path(payload)
            first = payload["events"]["first_sequence"]
            sequences = [first, first + payload["events"]["count"] - 1]
            if path not in self.files:
                expired = self.now > payload["retain_until"]
                self.add("EXPIRED" if expired else "GAP", path, "events object is missing", writer.id, sequences)
                continue
            try:
                data = self.read(path, payload["object"]["bytes"])
                if len(data) != payload["object"]["bytes"] or sha256(data) != payload["object"]["sha256"]:
                    raise Fault("TAMPERED", "not the object that the header names")
                self.stats["objects"] += 1
                if not self.quick and payload["events"]["columns"] == 1:
                    observed = self.check_object(data, payload, observed)
            except Fault as e:
                self.add(e.verdict, path, str(e), writer.id, sequences)

    def check_object(self, data, payload, observed):
        """Checks the rows; returns the greatest `observed_at` so far."""
        try:
            file = pq.ParquetFile(io.BytesIO(data))
            check_parquet(file, payload)
        except PARQUET_ERRORS as e:
            raise Fault("INCONSISTENT", f"no readable Parquet: {e}") from None
        events = payload["events"]
        previous, leaves, total, timestamps = events["previous_hash"], [], 0, []
        for row in parquet_rows(file):
            where = f"row {len(leaves)}: "
            try:
                text = row[0].encode()
                record = read_record(text)
            except (ValueError, AttributeError) as e:
                raise Fault("INCONSISTENT", f"{where}malformed record: {e}") from None
            if record["previous_hash"] != previous:
                raise Fault("TAMPERED", f"{where}`previous_hash` is not the hash of the record before")
            if record["sequence"] != events["first_sequence"] + len(leaves) or record["writer"] != payload["writer"]:
                raise Fault("INCONSISTENT", f"{where}wrong sequence or writer")
            if row[1:] != columns_of(record):
                raise Fault("INCONSISTENT", f"{where}a column is not the record's")
            if record["observed_at"] < observed:
                raise Fault("INCONSISTENT", f"{where}`observed_at` goes back")
            observed = record["observed_at"]
            previous = leaf(text)
            leaves.append(previous)
            timestamps.append(record["timestamp"])
            total += len(text)
            self.stats["records"] += 1
        if len(leaves) != events["count"]:
            raise Fault("INCONSISTENT", "the number of rows is not `count`")
        if previous != events["last_hash"] or merkle_root(leaves) != events["merkle_root"]:
            raise Fault("TAMPERED", "`last_hash` or `merkle_root` is not the records'")
        if total != events["record_bytes"]:
            raise Fault("INCONSISTENT", "`record_bytes` is not the records'")
        if leaves and (min(timestamps), max(timestamps)) != (events.get("first_timestamp"), events.get("last_timestamp")):
            raise Fault("INCONSISTENT", "the header's timestamps are not the records'")
        return observed


def own_faults(p):
    """What a header says that cannot be, by itself."""
    events, running = p["events"], p["state"] == "running"
    if ("next_by" in p) != running:
        yield "`next_by` is missing while running" if running else "`next_by` while not running"
    if not p["retain_until"].endswith(".000000000Z"):
        yield "`retain_until` has a fraction"
    extras = ("object" in p, "first_timestamp" in events, "last_timestamp" in events)
    if events["count"] == 0:
        if any(extras) or events["record_bytes"] or events["previous_hash"] != events["last_hash"] or \
                events["merkle_root"] != sha256(b""):
            yield "an empty batch that is not like one"
    elif not all(extras):
        yield "a batch of records without object or timestamps"


TOTALS = ("received", "redelivered", "unparsed", "filter_errors", "declared_lost")


def going_back(before, after):
    if before["state"] == "retired":
        yield "a header after `retired`"
    for name in ("sealed_at", "boot"):
        if after[name] < before[name]:
            yield f"`{name}` goes back"
    for name, total in before["intake"].items():
        if name in TOTALS and total is not None and (after["intake"][name] or 0) < total:
            yield f"`intake.{name}` goes back"


def check_parquet(file, payload):
    """Columns, key-values, row count and declared sizes, from the footer alone."""
    names = ("record", "sequence", "timestamp", *COLUMNS, "source_ip")
    schema, arrow = file.schema, file.schema_arrow
    if len(schema) != len(names) or tuple(schema.column(i).path for i in range(len(names))) != names:
        raise Fault("INCONSISTENT", "other columns")
    for i in range(len(names)):
        column = schema.column(i)
        logical = json.loads(column.logical_type.to_json())
        kind = (column.physical_type, logical["Type"])
        expected = {1: ("INT64", "None"), 2: ("INT64", "Timestamp")}.get(i, ("BYTE_ARRAY", "String"))
        levels = (column.max_definition_level, column.max_repetition_level)
        field_id = (arrow.field(i).metadata or {}).get(b"PARQUET:field_id")
        if i == 1 and logical["Type"] == "Int" and logical["bitWidth"] == 64 and logical["isSigned"]:
            kind = expected
        if kind != expected or levels != (0 if i < 2 else 1, 0) or field_id != b"%d" % (i + 1):
            raise Fault("INCONSISTENT", f"column {names[i]} is another")
        if i == 2 and (logical["timeUnit"], logical["isAdjustedToUTC"]) != ("microseconds", True):
            raise Fault("INCONSISTENT", "column timestamp is another")
    values = file.metadata.metadata or {}
    for name in ("trail", "writer", "batch"):
        if values.get(b"waxseal." + name.encode()) != str(payload[name]).encode():
            raise Fault("INCONSISTENT", f"key-value waxseal.{name} is another")
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    if file.metadata.num_rows != payload["events"]["count"] or sum(g.num_rows for g in groups) != file.metadata.num_rows:
        raise Fault("INCONSISTENT", "the number of rows is not `count`")
    if any(not 0 <= g.total_byte_size <= 2 * MAX_RECORD_BYTES for g in groups):
        raise Fault("INCONSISTENT", "declares more bytes than a batch may have")


def parquet_rows(file):
    try:
        for batch in file.iter_batches(batch_size=256):
            # as integers, since Python's datetime has neither nanoseconds nor a careful overflow
            columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in batch.columns]
            yield from zip(*(c.to_pylist() for c in columns))
    except PARQUET_ERRORS as e:
        raise Fault("INCONSISTENT", f"no readable Parquet: {e}") from None


def columns_of(record):
    """Columns 2 to 13 as the record decides them."""
    ip = record["metadata"].get("ip_address") if "metadata" in record else None
    strings = [record.get(name) for name in COLUMNS] + [ip]
    return (record["sequence"], parse_time(record["timestamp"]) // 1000, *(s if is_str(s) else None for s in strings))


# --- section 7 and the command line -----------------------------------------------------------------------------------

def conclude(check, strict):
    """(exit status, the strongest verdict or OK)"""
    verdicts = {f["verdict"] for f in check.findings}
    for status, group in ((1, FAILING), (1 if strict else 0, LISTED), (2, IMPOSSIBLE)):
        strongest = next((v for v in group if v in verdicts), None)
        if strongest and status:
            return status, strongest
    return 0, "OK"


def verify(root, trust_file, now, quick, strict):
    """(exit status, result)"""
    try:
        trust = read_trust(trust_file) if trust_file else None
    except TrustError as e:
        finding = {"verdict": "UNREADABLE", "object": None, "writer": None, "sequences": None, "detail": f"trust file: {e}"}
        return 2, {"verdict": "UNREADABLE", "trail": None, "lock": None, "freshness": FRESHNESS, "findings": [finding], "stats": {}}
    check = Check(root, trust, now, quick).run()
    status, verdict = conclude(check, strict)
    lock = check.trail.payload.get("lock") if check.trail else None
    return status, {"verdict": verdict, "trail": check.trail_id, "lock": lock, "freshness": FRESHNESS,
                    "findings": check.findings, "stats": check.stats}


def print_text(result):
    for f in result["findings"]:
        print(f"{f['verdict']:<16}{f['object'] or '-'}: {f['detail']}")
    print(" ".join(f"{name}={value}" for name, value in result["stats"].items()))
    print(f"trail: {result['trail']}\nfreshness: {result['freshness']}\n{result['verdict']}")


def run_records(path):
    total = wrong = 0
    with open(path, encoding="utf-8") as f:
        for total, line in enumerate(f, 1):
            case = json.loads(line)
            data = unbase64(case["input"]) if "input" in case else gzip.decompress(unbase64(case["input_gzip"]))
            expected = (case["record_members"].encode() if "record_members" in case
                        else gzip.decompress(unbase64(case["record_members_gzip"])))
            if (found := jcs(convert(case["kind"], data))) != expected:
                wrong += 1
                print(f"line {total} ({case['kind']}): {data[:200]!r}\n  expected {expected[:600]!r}\n  found    {found[:600]!r}")
    print(f"{total} conversions, {wrong} wrong")
    return 1 if wrong else 0


def apply(root, op):
    path = os.path.join(root, op.get("path") or op["to"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if op["op"] == "copy":
        shutil.copyfile(os.path.join(root, op["from"]), path)
    elif op["op"] == "delete":
        os.remove(path)
    elif op["op"] == "truncate":
        os.truncate(path, op["length"])
    elif op["op"] in ("write", "append"):
        with open(path, "wb" if op["op"] == "write" else "ab") as f:
            f.write(unbase64(op["base64"]))
    elif op["op"] == "flip":
        with open(path, "r+b") as f:
            f.seek(op["offset"])
            byte = f.read(1)[0] ^ 1 << op["bit"]
            f.seek(op["offset"])
            f.write(bytes([byte]))
    else:
        raise ValueError(f"unknown op {op['op']}")


def run_cases(kit):
    total = wrong = 0
    with open(os.path.join(kit, "cases.jsonl"), encoding="utf-8") as f:
        for total, line in enumerate(f, 1):
            case, expect = json.loads(line), None
            with tempfile.TemporaryDirectory() as folder:
                root = os.path.join(folder, "trail")
                shutil.copytree(os.path.join(kit, "good"), root)
                for op in case["ops"]:
                    apply(root, op)
                status, result = verify(root, os.path.join(kit, "trust.yaml"), case["as_of"], "--quick" in case["args"],
                                        "--strict" in case["args"])
            expect, found = case["expect"], [x["verdict"] for x in result["findings"]]
            if status != expect["exit"] or not set(expect["verdicts"]) <= set(found):
                wrong += 1
                print(f"{case['name']}: expected {expect['exit']} {expect['verdicts']}, found {status}")
                for x in result["findings"]:
                    print(f"  {x['verdict']} {x['object']}: {x['detail']}")
    print(f"{total} cases, {wrong} wrong")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trail", nargs="?")
    parser.add_argument("--trust")
    parser.add_argument("--as-of")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--records")
    parser.add_argument("--cases")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")
    if args.records:
        return run_records(args.records)
    if args.cases:
        return run_cases(args.cases)
    if not args.trail:
        parser.error("no trail")
    now = parse_time(args.as_of) if args.as_of else int(datetime.now(timezone.utc).timestamp() * SECOND)
    if now is None or format_time(now) is None:
        parser.error("--as-of is no time")
    status, result = verify(args.trail, args.trust, format_time(now), args.quick, args.strict)
    if args.format == "json":
        print(json.dumps(result))
    else:
        print_text(result)
    return status


if __name__ == "__main__":
    sys.exit(main())
