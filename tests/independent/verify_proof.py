#!/usr/bin/env python3
"""Checks a proof of one event (docs/proof.md) against a trust file, written from the pages alone.

    verify_proof.py PROOF TRUST

Exit status: 0 it holds, 1 it does not. Needs what verify.py beside it needs. Left out: writers that only a CA vouches
for, revoked keys, and policies with groups of groups.
"""
import base64
import hashlib
import json
import re
import sys

import verify as v
import verify_receipt


class No(Exception):
    pass


def need(condition, why):
    if not condition:
        raise No(why)


def climb(leaf, index, size, path):
    """RFC 9162 section 2.1.3.2."""
    need(index < size, "an index beyond the tree")
    f, s, r = index, size - 1, leaf
    for p in path:
        need(s > 0, "a path that is too long")
        if f & 1 or f == s:
            r = hashlib.sha256(b"\1" + p + r).digest()
            while not f & 1 and f:
                f, s = f >> 1, s >> 1
        else:
            r = hashlib.sha256(b"\1" + r + p).digest()
        f, s = f >> 1, s >> 1
    need(s == 0, "a path that is too short")
    return r


def hashes(text):
    raw = base64.b64decode(text, validate=True)
    need(len(raw) % 32 == 0 and base64.b64encode(raw).decode() == text, "not hashes in base64")
    return [raw[i:i + 32] for i in range(0, len(raw), 32)]


def leaf(data):
    return hashlib.sha256(b"\0" + data).digest()


def envelope(value, kind, signers):
    """The payload, if exactly these keys signed, in this order."""
    need(set(value) == {"payload", "payloadType", "signatures"}, "no envelope")
    need(value["payloadType"] == f"application/vnd.waxseal.{kind}+json", "another type")
    payload = base64.b64decode(value["payload"], validate=True)
    need(base64.b64encode(payload).decode() == value["payload"], "its payload's base64")
    body = json.loads(payload)
    keys = signers(body)
    need([s["keyid"] for s in value["signatures"]] == [hashlib.sha256(base64.b64decode(k)).hexdigest() for k in keys], "other signers")
    name = value["payloadType"].encode()
    message = b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)
    for key, signature in zip(keys, value["signatures"]):
        try:
            v.verify_signature(key, base64.b64decode(signature["sig"], validate=True), message)
        except Exception as e:
            raise No(f"a signature: {e}") from None
    need(body["format"] == f"waxseal/{kind}/1" and not body.get("crit"), "an unknown format")
    return body, hashlib.sha256(b"\0" + payload).hexdigest()


def vkey(text):
    name, key_id, key = text.split("+", 2)
    raw = base64.b64decode(key)
    need(hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4].hex() == key_id, "a vkey's id")
    return name, bytes.fromhex(key_id), raw[0], raw[1:]


def signed(note, key):
    """When a key signed a note, or True for one that does not say; None if it did not."""
    name, key_id, kind, raw = key
    text, lines = note.rsplit("\n\n", 1)
    text += "\n"
    found = None
    for line in lines.splitlines():
        m = re.fullmatch("\u2014 (\\S+) (\\S+)", line)
        need(m, "no signature line")
        sig = base64.b64decode(m[2], validate=True)
        need(base64.b64encode(sig).decode() == m[2], "a signature line's base64")
        if m[1] != name or sig[:4] != key_id:
            continue
        sig, message, at = sig[4:], text.encode(), True
        if kind == 4:
            at = int.from_bytes(sig[:8], "big")
            sig, message = sig[8:], f"cosignature/v1\ntime {at}\n{text}".encode()
        try:
            v.ed25519.Ed25519PublicKey.from_public_bytes(raw).verify(sig, message)
        except v.InvalidSignature:
            raise No(f"the signature line of {name}") from None
        found = at
    return found


def quorum(policy, note):
    """Who has seen it; fails if that is not enough."""
    seen, names, wanted = {}, {}, None
    for line in policy.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "witness":
            at = signed(note, vkey(words[2]))
            names[words[1]] = at is not None
            if at is not None:
                seen[words[1]] = at
        elif words[0] == "group":
            members = [names[w] for w in words[3:]]
            least = {"any": 1, "all": len(members)}.get(words[2]) or int(words[2])
            names[words[1]] = sum(members) >= least
        elif words[0] == "quorum":
            wanted = words[1]
    need(wanted == "none" or names[wanted], "too few witnesses")
    return seen


def trust_file(path):
    """A trust file's members; a policy is a block of text."""
    text = open(path, encoding="utf-8").read()
    policy = re.search(r"^policy: \|\n((?:  .*\n)*)", text, re.M)
    rest = text.replace(policy[0], "") if policy else text
    # Flow lists of keys, as `[A, B]`.
    rest = re.sub(r"^(\s*)(\w+): \[(.+)\]$", lambda m: f"{m[1]}{m[2]}:" + "".join(f"\n{m[1]}  - {k.strip()}" for k in m[3].split(",")), rest, flags=re.M)
    return v.read_yaml(rest), re.sub(r"^  ", "", policy[1], flags=re.M) if policy else "quorum none\n"


def check(data, trust, policy):
    need(not trust.get("revoked"), "a trust file with revoked keys, which is not read here")
    need(data.endswith(b"\n"), "no newline at its end")
    proof = v.canonical(data[:-1])
    need(proof["format"] == "waxseal/proof/1", "another format")
    known = {"format", "trail", "record", "path", "header", "log", "genesis", "keys", "statement", "certificates", "timestamps", "ethereum"}
    need(set(proof) <= known, "an unknown member")
    need(proof["trail"] == trust["trail"], "another trail")
    record = v.jcs(proof["record"])
    v.read_record(record)
    writer, sequence = proof["record"]["writer"], proof["record"]["sequence"]

    def ours(body):
        need(body["trail"] == proof["trail"] and body["writer"] == writer, "of another trail or writer")

    genesis, previous = envelope(proof["genesis"]["envelope"], "writer", lambda b: [k["spki"] for k in b["keys"]])
    ours(genesis)
    keys = [k["spki"] for k in genesis["keys"]]
    name = writer.rsplit(".", 1)[0]
    pinned = [k for w in trust.get("writers", []) if v.re.fullmatch(v.re.escape(w["name"]).replace(r"\*", ".*").replace(r"\?", "."), name) for k in w.get("keys", [])]
    need(set(keys) & set(pinned), "nothing vouches for the writer")
    entries = [proof["genesis"]]
    after = 0
    for number, in_log in enumerate(proof.get("keys", []), 1):
        old = keys
        body, statement = envelope(in_log["envelope"], "keys", lambda b: old + [k["spki"] for k in b["keys"] if k["spki"] not in old])
        ours(body)
        need(body["number"] == number and body["previous"] == previous, "key statements that do not follow")
        keys, previous = [k["spki"] for k in body["keys"]], statement
        after = body["after"]["batch"] + 1 if "after" in body else 0
        entries.append(in_log)
    header, _ = envelope(proof["header"], "batch", lambda _: keys)
    ours(header)
    events = header["events"]
    need(header["keys"] == len(proof.get("keys", [])) and header["batch"] >= after, "not the keys in force")
    index = sequence - events["first_sequence"]
    need(0 <= index < events["count"], "a header of other records")
    root = climb(leaf(record), index, events["count"], hashes(proof["path"]))
    need(root.hex() == events["merkle_root"], "not in the batch")

    # c2sp.org/tlog-proof
    head, note = proof["log"].split("\n\n", 1)
    lines = head.split("\n")
    need(lines[0] == "c2sp.org/tlog-proof@v1" and re.fullmatch("index (0|[1-9][0-9]*)", lines[1]), "no proof of the log")
    origin, size, top = note.split("\n")[:3]
    log = vkey(trust["log"])
    need(origin == log[0] and signed(note, log), "not signed by the log")
    size, top = int(size), base64.b64decode(top, validate=True)
    path = [base64.b64decode(h, validate=True) for h in lines[2:]]
    need(climb(leaf(v.jcs(proof["header"])), int(lines[1][6:]), size, path) == top, "the header is not in the log")
    for e in entries:
        need(climb(leaf(v.jcs(e["envelope"])), e["index"], size, hashes(e["path"])) == top, "a statement is not in the log")
    seen = quorum(policy, note)
    # Time-stamps are for `openssl ts -verify`: their imprint is of the checkpoint as it is stored, with the log's line alone.
    text, _, lines = note.partition("\n\n")
    own = [s for s in lines.splitlines() if s.startswith(f"— {log[0]} ") and signed(f"{text}\n\n{s}\n", log)]
    imprint = hashlib.sha256(f"{text}\n\n{own[0]}\n".encode()).hexdigest()
    for token in proof.get("timestamps", []):
        response = base64.b64decode(token["response"], validate=True)
        need(set(token) == {"response", "sha256"} and hashlib.sha256(response).hexdigest() == token["sha256"], "a time-stamp that was changed")
        print(f"time-stamp: openssl ts -verify -digest {imprint} -CAfile ROOT -in RESPONSE  ({len(response)} bytes)")
    for receipt in proof.get("ethereum", []):
        need(receipt["hash"] == imprint and receipt["merkle_root"] == top.hex(), "an anchor of another checkpoint")
        said = v.canonical(receipt["metadata"].encode())
        need(said["origin"] == origin and said["size"] == size, "an anchor of another checkpoint")
        block = verify_receipt.check(receipt)
        print(f"anchored by {receipt['timestamp']}, if chain {receipt['chain']} has block {block}")
    print(f"{proof['record']['event_id']}: record {sequence} of {writer}, sealed {header['sealed_at']}, in a log of {size}; seen by {sorted(seen)}")


def main():
    trust, policy = trust_file(sys.argv[2])
    try:
        with open(sys.argv[1], "rb") as f:
            check(f.read(), trust, policy)
    except (No, verify_receipt.No, v.Fault, v.Broken, KeyError, ValueError, TypeError) as e:
        print(f"does not hold: {e!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
