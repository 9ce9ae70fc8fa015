#!/usr/bin/env python3
"""Checks a receipt of an anchor (docs/ethereum.md, "Receipts") without any node, written from that page and the Yellow Paper alone.

    verify_receipt.py RECEIPT [BLOCK_HASH]

Prints what it proves, if its block is the chain's. Exit status: 0 it holds (and is of that block), 1 it does not. Needs nothing
but Python.
"""
import base64
import datetime
import json
import sys

CODE_HASH = "0x7b2fbc41323452e1323bfd8de5e05314ebe6386a59c69b45967b20dba1392a3b"


class No(Exception):
    pass


def need(condition, why):
    if not condition:
        raise No(why)


def keccak256(data):
    """Keccak[c=512] as Ethereum has it: FIPS 202's permutation, with the padding of before the standard."""
    def rot(x, n):
        n %= 64
        return ((x << n) | (x >> (64 - n))) & (1 << 64) - 1 if n else x

    state = [[0] * 5 for _ in range(5)]
    padded = bytearray(data) + b"\1" + b"\0" * (135 - len(data) % 136)
    padded[-1] |= 0x80
    for block in range(0, len(padded), 136):
        for i in range(17):
            state[i % 5][i // 5] ^= int.from_bytes(padded[block + 8 * i:block + 8 * i + 8], "little")
        lfsr = 1
        for _ in range(24):
            c = [state[x][0] ^ state[x][1] ^ state[x][2] ^ state[x][3] ^ state[x][4] for x in range(5)]
            d = [c[(x + 4) % 5] ^ rot(c[(x + 1) % 5], 1) for x in range(5)]
            state = [[state[x][y] ^ d[x] for y in range(5)] for x in range(5)]
            x, y, current = 1, 0, state[1][0]
            for t in range(24):
                x, y = y, (2 * x + 3 * y) % 5
                current, state[x][y] = state[x][y], rot(current, (t + 1) * (t + 2) // 2)
            for y in range(5):
                row = [state[x][y] for x in range(5)]
                for x in range(5):
                    state[x][y] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5])
            for j in range(7):
                lfsr = (lfsr << 1) ^ (0x171 if lfsr >> 7 else 0)
                if lfsr & 2:
                    state[0][0] ^= 1 << ((1 << j) - 1)
    return b"".join(state[i % 5][i // 5].to_bytes(8, "little") for i in range(4))


def rlp(data):
    """The one item that is there: bytes, or a list."""
    item, rest = rlp_item(data)
    need(not rest, "something behind an item in RLP")
    return item


def rlp_item(data):
    need(data, "an item in RLP that is cut off")
    first = data[0]
    if first < 0x80:
        return data[:1], data[1:]
    kind, short = (0x80, 0xB7) if first < 0xC0 else (0xC0, 0xF7)
    at, length = 1, first - kind
    if first > short:
        at = 1 + first - short
        length = int.from_bytes(data[1:at], "big")
        need(length > 55 and data[1], "a length in RLP that is longer than it need be")
    body, rest = data[at:at + length], data[at + length:]
    need(len(body) == length, "an item in RLP that is cut off")
    if kind == 0x80:
        need(length != 1 or body[0] >= 0x80, "a byte in RLP that is longer than it need be")
        return body, rest
    items = []
    while body:
        item, body = rlp_item(body)
        items.append(item)
    return items, rest


def rlp_number(n):
    if n == 0:
        return b"\x80"
    raw = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return raw if len(raw) == 1 and raw[0] < 0x80 else bytes([0x80 + len(raw)]) + raw


def b64(text):
    raw = base64.b64decode(text, validate=True)
    need(base64.b64encode(raw).decode() == text, "not base64 in its one form")
    return raw


def trie(root, key, nodes):
    """The value under a key of a Merkle-Patricia trie (Yellow Paper, appendix D), by the nodes from the root to it; None if the
    nodes show that there is none."""
    path = [n for b in key for n in (b >> 4, b & 15)]
    nodes = [b64(n) for n in nodes]
    want = root
    for at, raw in enumerate(nodes):
        need((keccak256(raw) if len(raw) >= 32 else raw) == want, "a node that does not follow from the one before")
        node = rlp(raw)
        while True:
            last = at == len(nodes) - 1
            if len(node) == 17:
                need(path, "a key that is too short")
                child = node[path.pop(0)]
            else:
                need(len(node) == 2, "a node of another form")
                nibbles = [n for b in node[0] for n in (b >> 4, b & 15)]
                flag, rest = nibbles[0], nibbles[1 if nibbles[0] & 1 else 2:]
                if path[:len(rest)] != rest:
                    need(last, "nodes behind the end")
                    return None
                path = path[len(rest):]
                if flag & 2:
                    need(last and not path, "nodes behind the end")
                    return node[1]
                child = node[1]
            if isinstance(child, list):
                node = child
                continue
            if child == b"":
                need(last, "nodes behind the end")
                return None
            want = child
            break
    raise No("nodes that end too early")


def index(n):
    return rlp_number(n)


def typed(raw):
    """The type of a transaction or receipt (EIP-2718), and its list."""
    return (raw[0], rlp(raw[1:])) if raw[0] < 0x80 else (0, rlp(raw))


def number(raw):
    return int.from_bytes(raw, "big")


def address(text):
    need(len(text) == 42 and text == text.lower() and text[:2] == "0x", "no address")
    return bytes.fromhex(text[2:])


def word(text):
    need(len(text) == 66 and text == text.lower() and text[:2] == "0x", "no hash")
    return bytes.fromhex(text[2:])


def check(r):
    """Checks a receipt; the block's hash that everything in it follows from."""
    members = {"format", "chain", "contract", "sender", "hash", "merkle_root", "metadata", "transaction_hash", "transaction_index",
               "block_number", "block_hash", "timestamp", "gas_used", "log_index", "proof"}
    need(set(r) == members and r["format"] == "waxseal/ethereum/1", "another form, or no proof")
    proof, contract, sender = r["proof"], address(r["contract"]), address(r["sender"])
    anchored, metadata = bytes.fromhex(r["hash"]), r["metadata"].encode()
    need(set(proof) <= {"header", "transaction", "receipt", "receipt_before", "state"}, "an unknown member")
    raw = b64(proof["header"])
    need(keccak256(raw) == word(r["block_hash"]), "another block's header")
    header = rlp(raw)
    state_root, transactions, receipts = header[3:6]
    time = number(header[11])
    need(number(header[8]) == r["block_number"], "another number")
    said = datetime.datetime.fromtimestamp(time, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    need(said == r["timestamp"], "another time")

    raw = trie(transactions, index(r["transaction_index"]), proof["transaction"])
    need(raw is not None and keccak256(raw) == word(r["transaction_hash"]), "another transaction")
    kind, fields = typed(raw)
    chain = (number(fields[6]) - 35) // 2 if kind == 0 else number(fields[0])
    need(chain == r["chain"], "a transaction for another chain")

    _, fields = typed(trie(receipts, index(r["transaction_index"]), proof["receipt"]))
    need(fields[0] == b"\1", "a transaction that was reverted")
    before = 0
    if r["transaction_index"]:
        before = number(typed(trie(receipts, index(r["transaction_index"] - 1), proof["receipt_before"]))[1][1])
    else:
        need("receipt_before" not in proof, "nothing is before the first")
    need(number(fields[1]) - before == r["gas_used"], "other gas")
    where, topics, data = fields[3][r["log_index"]]
    event = keccak256(b"HashAnchored(bytes32,uint256,string,address)")
    need(where == contract and topics == [event, anchored, bytes(12) + sender], "another event")
    padded = metadata + bytes(-len(metadata) % 32)
    need(data == time.to_bytes(32, "big") + (64).to_bytes(32, "big") + len(metadata).to_bytes(32, "big") + padded, "another event")

    if "state" in proof:
        s = proof["state"]
        need(set(s) == {"sequence", "count", "authorized", "account", "anchor", "digest", "sender"}, "an unknown member")
        account = rlp(trie(state_root, keccak256(contract), s["account"]))
        need("0x" + account[3].hex() == CODE_HASH, "another contract")
        need(s["sequence"] <= s["count"], "none of the sender's anchors")
        first = keccak256(anchored + (2).to_bytes(32, "big"))
        second = (int.from_bytes(first, "big") + 1) % (1 << 256)
        own = keccak256(bytes(12) + sender + (3).to_bytes(32, "big"))
        slots = [
            (first, s["sequence"] << 200 | int.from_bytes(sender, "big") << 40 | time, s["anchor"]),
            (second.to_bytes(32, "big"), int.from_bytes(keccak256(metadata), "big"), s["digest"]),
            (own, s["count"] << 8 | s["authorized"], s["sender"]),
        ]
        for slot, value, nodes in slots:
            need(trie(account[2], keccak256(slot), nodes) == rlp_number(value), "another value in the contract's storage")
    return r["block_hash"]


def main():
    with open(sys.argv[1], "rb") as f:
        data = f.read()
    try:
        receipt = json.loads(data)
        need(json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data, "not in canonical form")
        block = check(receipt)
        need(len(sys.argv) < 3 or sys.argv[2] == block, f"of block {block}")
    except (No, KeyError, ValueError, TypeError, IndexError, AttributeError) as e:
        print(f"does not hold: {e!r}", file=sys.stderr)
        return 1
    print(f"{receipt['hash']} was anchored by {receipt['timestamp']}, if chain {receipt['chain']} has block {block}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
