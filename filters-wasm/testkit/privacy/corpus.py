#!/usr/bin/env python3
"""A labelled corpus of strings with and without something to hide. Shares nothing with the detectors that it is for.

corpus.py COUNT [SEED] > corpus.ndjson; each line: {"text", "kind", "secret"}; kind `decoy:<class>` has no secret."""
import base64, hashlib, hmac, json, random, sys, urllib.parse, uuid
from faker import Faker

count = int(sys.argv[1])
seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
rnd = random.Random(seed)
Faker.seed(seed)
LOCALES = ["en_US", "de_DE", "fr_FR", "es_ES", "ru_RU", "ja_JP", "zh_CN", "ko_KR", "ar_AA", "el_GR", "hi_IN", "he_IL", "th_TH"]
fakers = {l: Faker(l) for l in set(LOCALES + ["en_GB", "it_IT", "nl_NL", "pl_PL"])}
en = fakers["en_US"]
# Faker is slow: sentences are drawn from a stock.
prose = []
for l in LOCALES:
    for _ in range(60):
        try:
            prose.append(" ".join(fakers[l].words(rnd.randint(2, 7))))
        except Exception:
            prose.append(fakers[l].name())
# Numbers published for tests by card networks and payment services.
PUBLISHED = """4242424242424242 4000056655665556 5555555555554444 2223003122003222 5200828282828210 5105105105105100 378282246310005
371449635398431 6011111111111117 6011000990139424 6011981111111113 3056930009020004 36227206271667 6555900000604105 3566002020360505
6200000000000005 6200000000000047 6205500000000000004 4111111111111111 4012888888881881 4222222222222 30569309025904 38520000023237
3530111333300000 5019717010103742 6759649826438453 6799990100000000019 4917610000000000003 4462030000000000 5641820000000005""".split()


def luhn_ok(n):
    total = 0
    for i, c in enumerate(reversed(n)):
        d = int(c)
        if i % 2:
            d = d * 2 - 9 if d > 4 else d * 2
        total += d
    return total % 10 == 0


def with_check(n):
    return next(n + str(c) for c in range(10) if luhn_ok(n + str(c)))


def digits(n):
    return "".join(rnd.choice("0123456789") for _ in range(n))


def grouped(n, sizes, sep):
    out, at = [], 0
    for s in sizes:
        out.append(n[at : at + s])
        at += s
    if at < len(n):
        out.append(n[at:])
    return sep.join(out)


def card():
    if rnd.random() < 0.3:
        n = rnd.choice(PUBLISHED)
    else:
        n = en.credit_card_number(rnd.choice(["mastercard", "visa16", "visa13", "visa19", "amex", "discover", "diners", "jcb15", "jcb16", "maestro"]))
    style = rnd.random()
    if style < 0.45 or len(n) < 14:
        return n
    sep = rnd.choice([" ", " ", "-", "-", ".", "\n", "\u00a0", " - "])
    if len(n) == 15:
        return grouped(n, [4, 6, 5], sep)
    if len(n) == 14:
        return grouped(n, [4, 6, 4], sep)
    if len(n) in (16, 19):
        return grouped(n, [4, 4, 4, 4], sep)
    return n


def phone():
    pick = rnd.random()
    if pick < 0.25:
        cc, n = rnd.choice([("1", "2025550" + digits(3)), ("44", "20794609" + digits(2)), ("49", "30" + digits(7)), ("33", "1" + digits(8)), ("81", "3" + digits(8)), ("91", "98" + digits(8)), ("55", "119" + digits(8)), ("61", "4" + digits(8)), ("7", "912" + digits(7)), ("86", "138" + digits(8))])
        return "+" + cc + n
    if pick < 0.55:
        area, ex = rnd.choice(["202", "415", "212", "918", "305"]), rnd.choice("23456789") + digits(2)
        last = digits(4)
        return rnd.choice(["({}) {}-{}", "({}){}-{}", "{}-{}-{}", "{}.{}.{}", "1-{}-{}-{}", "+1-{}-{}-{}", "+1 {} {} {}", "001-{}-{}-{}"]).format(area, ex, last) + rnd.choice(["", "", "", "x" + digits(4), " ext. " + digits(3)])
    locale = rnd.choice(["en_GB", "de_DE", "fr_FR", "nl_NL", "es_ES", "ru_RU"])
    while True:
        n = fakers[locale].phone_number()
        # As people write it: with the country, or with the trunk's zero and in groups.
        bare = "".join(c for c in n if c.isdigit())
        if len(bare) >= 9 and not n.startswith(("(00", "00")) and (n.startswith("+") or any(c in n for c in " -(")):
            return n


def b64u(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


def alnum(n, chars="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"):
    return "".join(rnd.choice(chars) for _ in range(n))


def jwt():
    head = b64u(json.dumps({"alg": rnd.choice(["HS256", "RS256"]), "typ": "JWT"}).encode())
    body = b64u(json.dumps({"sub": en.user_name(), "iat": rnd.randint(1_500_000_000, 1_800_000_000)}).encode())
    return f"{head}.{body}.{b64u(hmac.new(rnd.randbytes(8), (head + body).encode(), hashlib.sha256).digest())}"


def pem():
    kind = rnd.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
    body = base64.b64encode(rnd.randbytes(rnd.randint(120, 600))).decode()
    return f"-----BEGIN {kind}-----\n" + "\n".join(body[i : i + 64] for i in range(0, len(body), 64)) + f"\n-----END {kind}-----"


def ssn():
    n = en.ssn()
    return n if rnd.random() < 0.8 else n.replace("-", " ")


def iban():
    n = fakers[rnd.choice(["de_DE", "en_GB", "fr_FR", "it_IT", "es_ES", "nl_NL", "pl_PL"])].iban()
    pick = rnd.random()
    return grouped(n, [4] * (len(n) // 4), " ") if pick < 0.4 else n.lower() if pick < 0.45 else n


def email():
    return rnd.choice([en.email, en.safe_email, en.company_email, fakers["de_DE"].email, fakers["fr_FR"].free_email])()


SECRETS = {
    "card": (12, card),
    "ssn": (6, ssn),
    "iban": (6, iban),
    "email": (10, email),
    "phone": (10, phone),
    "jwt": (3, jwt),
    "aws_key": (3, lambda: rnd.choice(["AKIA", "ASIA"]) + alnum(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")),
    "gcp_key": (2, lambda: "AIza" + alnum(33) + rnd.choice(["-_", "aB", "9-"])),
    "github_key": (3, lambda: rnd.choice(["ghp_", "gho_", "ghs_"]) + alnum(36) if rnd.random() < 0.8 else "github_pat_" + alnum(22) + "_" + alnum(59)),
    "private_key": (1, pem),
}


def bearer():
    token = rnd.choice([alnum(40), rnd.randbytes(16).hex(), str(uuid.UUID(bytes=rnd.randbytes(16))), alnum(24) + "=="])
    return f"Authorization: Bearer {token}", token


def url_password():
    password = alnum(rnd.randint(8, 20))
    return f"{rnd.choice(['postgres', 'mysql', 'redis', 'amqp', 'https'])}://{en.user_name()}:{password}@{en.hostname()}/{en.word()}", password


WHOLE = {"bearer": (3, bearer), "url_password": (1, url_password)}


def any_card(n):
    """Whether a number is one that a card could have, by what the networks publish."""
    i = lambda k: int(n[:k])
    ranges = n[0] == "4" or 51 <= i(2) <= 55 or 2221 <= i(4) <= 2720 or i(2) in (30, 34, 35, 36, 37, 38, 39, 50, 56, 57, 58, 60, 62, 63, 64, 65, 67, 81, 82) or i(4) in (2131, 1800) or 2200 <= i(4) <= 2205 or i(4) in (8600, 9792, 9860)
    return ranges and luhn_ok(n)


def random_id():
    while True:
        n = rnd.choice("123456789") + digits(rnd.randint(12, 18))
        if not any_card(n):
            return n


def outside():
    while True:
        n = with_check(rnd.choice("179") + digits(rnd.choice([12, 13, 14, 15, 18])))
        if not any_card(n):
            return n


def epoch():
    t = rnd.randint(1_300_000_000, 1_900_000_000)
    return rnd.choice([str(t), str(t) + digits(3), str(t) + digits(6), str(t) + digits(9), f"{t}.{digits(6)}", f"{t}.{digits(3)}"])


def order():
    a, b, c = digits(3), digits(3), digits(4)
    return rnd.choice([f"order {a}-{b}-{c}", f"PO-{a}{b}{c}", f"ORD-{a}-{b}-{c}", f"invoice {a}{b}{c}", f"ticket #{a}{b}", f"INV/{rnd.randint(2019, 2026)}/{digits(7)}", f"tracking {digits(12)}", f"part no {digits(3)}-{digits(2)}", f"SKU {digits(8)}"])


def version():
    return rnd.choice([f"v{rnd.randint(0, 40)}.{rnd.randint(0, 99)}.{rnd.randint(0, 9999)}", f"{rnd.randint(1, 20)}.{rnd.randint(0, 30)}.{rnd.randint(0, 30)}-rc{rnd.randint(1, 9)}", f"{rnd.randint(100, 140)}.0.{rnd.randint(1000, 9999)}.{rnd.randint(10, 200)}", f"{rnd.randint(2019, 2026)}.{rnd.randint(1, 12)}.{rnd.randint(0, 31)}+build.{digits(6)}"])


def line():
    return rnd.choice([
        f"Dec {rnd.randint(1, 28)} {rnd.randint(10, 23)}:{rnd.randint(10, 59)}:{rnd.randint(10, 59)} host-{digits(2)} sshd[{digits(5)}]: Accepted publickey for {en.user_name()} from {en.ipv4()} port {digits(5)} ssh2",
        f'{en.ipv4()} - - [{rnd.randint(10, 28)}/Oct/2024:13:55:36 +0000] "GET /items/{digits(6)}?page={digits(2)} HTTP/1.1" 200 {digits(5)} "-" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/{digits(3)}.0.{digits(4)}.{digits(2)}"',
        f"{en.iso8601()}Z INFO [http-nio-8080-exec-{digits(1)}] c.s.b.Service took {digits(3)}.{digits(6)} ms, {digits(4)} rows, heap {digits(9)}",
        f"type=SYSCALL msg=audit({digits(10)}.{digits(3)}:{digits(6)}): arch=c000003e syscall=59 success=yes exit=0 a0=55f{digits(9)} items=2 ppid={digits(4)} pid={digits(5)}",
    ])


def hashes():
    b = rnd.randbytes(64)
    return rnd.choice([hashlib.md5(b).hexdigest(), hashlib.sha1(b).hexdigest(), hashlib.sha256(b).hexdigest(), hashlib.sha512(b).hexdigest(), "sha256:" + hashlib.sha256(b).hexdigest(), hashlib.sha256(b).hexdigest().upper(), base64.b64encode(hashlib.sha256(b).digest()).decode()])


DECOYS = {
    "ids of 13 to 19 digits": random_id,
    "Luhn, no issuer": outside,
    "epochs": epoch,
    "UUIDs": lambda: rnd.choice([str, lambda u: str(u).upper(), lambda u: u.hex])(uuid.UUID(bytes=rnd.randbytes(16), version=rnd.choice([1, 4, 5]))),
    "hashes": hashes,
    "versions": version,
    "orders": order,
    "log lines": line,
    "prose": lambda: rnd.choice(prose),
}
WORDS = {
    "card": ["card", "Card number:", "Visa", "PAN", "Kreditkarte", "карта", "クレジットカード", "", "", ""],
    "ssn": ["SSN", "ssn:", "social security number", "", ""],
    "iban": ["IBAN", "Konto", "to account", "", ""],
    "phone": ["phone", "Tel.", "call", "телефон", "電話", "", "", ""],
}


def place(kind, secret):
    """A text with the secret in it, and the secret as it stands there."""
    words = rnd.choice(WORDS.get(kind, [""]))
    whole = f"{words} {secret}" if words else secret
    pick = rnd.random()
    if pick < 0.15:
        return secret, secret
    if pick < 0.55:
        return f"{rnd.choice(prose)} {whole} {rnd.choice(prose)}", secret
    if pick < 0.65:
        return f"{rnd.choice(prose)}: <{secret}>, {rnd.choice(prose)}", secret
    if pick < 0.75:
        return f"level=info {rnd.choice(['note', 'value', 'input', 'q'])}={json.dumps(secret) if ' ' in secret else secret} took={digits(2)}ms", secret
    if pick < 0.85:
        return json.dumps({"event": "x", rnd.choice(["note", "value", "comment", "body"]): whole, "n": rnd.randint(1, 9)}), json.dumps(secret)[1:-1]
    if pick < 0.93:
        inner = json.dumps({"note": whole})
        return json.dumps({"payload": inner, "v": 2}), json.dumps(json.dumps(secret)[1:-1])[1:-1]
    if pick < 0.97 and kind != "private_key":
        quoted = urllib.parse.quote(secret, safe="")
        return f"GET /search?q={quoted}&page=1 HTTP/1.1", quoted
    return f"{rnd.choice(prose)}\n{whole}\n{rnd.choice(prose)}", secret


kinds = [(k, w) for k, (w, _) in {**SECRETS, **WHOLE}.items()]
names, weights = [k for k, _ in kinds], [w for _, w in kinds]
for i in range(count):
    if i % 5 < 3:
        kind = rnd.choices(names, weights)[0]
        if kind in WHOLE:
            whole, secret = WHOLE[kind][1]()
            text = whole if rnd.random() < 0.3 else f"{rnd.choice(prose)} {whole}\n{rnd.choice(prose)}"
        else:
            text, secret = place(kind, SECRETS[kind][1]())
        print(json.dumps({"text": text, "kind": kind, "secret": secret}, ensure_ascii=False))
    else:
        name = rnd.choice(list(DECOYS))
        text, _ = place("decoy", DECOYS[name]())
        print(json.dumps({"text": text, "kind": "decoy:" + name, "secret": None}, ensure_ascii=False))
