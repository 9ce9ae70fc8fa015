#!/usr/bin/env python3
"""What Presidio's pattern recognisers find of a corpus, without its language models, for the comparison.

presidio.py corpus.ndjson > presidio.ndjson; each line: {"found": [[start, end], …]} in characters; the last: {"seconds"}."""
import json, sys, time
import tldextract
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer, EmailRecognizer, IbanRecognizer, PhoneRecognizer, UsSsnRecognizer,
)

# Nothing is fetched: the list of domains that the package brings.
tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())
# IP addresses and URLs are left as they are by default here, too.
recognisers = [CreditCardRecognizer(), EmailRecognizer(), IbanRecognizer(), PhoneRecognizer(), UsSsnRecognizer()]
# Without the models there are no context words: what a recogniser is unsure of (0.05 is "very weak" with it) does not count.
LEAST = 0.3
spent = 0.0
for line in open(sys.argv[1], encoding="utf-8"):
    text = json.loads(line)["text"]
    began = time.process_time()
    found = [(r.start, r.end) for x in recognisers for r in x.analyze(text, x.supported_entities, None) if r.score >= LEAST]
    spent += time.process_time() - began
    print(json.dumps({"found": found}))
print(json.dumps({"seconds": spent}))
