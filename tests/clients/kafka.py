"""A Kafka broker of librdkafka's own (its mock cluster) with numbered messages: kafka.py COUNT GROUP.

Prints its address; for each line on standard input, the offsets that GROUP has committed, added up.
"""

import json
import sys

from confluent_kafka import Consumer, Producer, TopicPartition

count, group = int(sys.argv[1]), sys.argv[2]
producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
metadata = producer.list_topics(timeout=10)
brokers = ",".join(f"{b.host}:{b.port}" for b in metadata.brokers.values())
for n in range(count):
    producer.produce("audit", json.dumps({"n": n}).encode())
producer.flush(10)
print(brokers, flush=True)
for _ in sys.stdin:
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": group})
    partitions = consumer.list_topics("audit", timeout=10).topics["audit"].partitions
    offsets = consumer.committed([TopicPartition("audit", p) for p in partitions], timeout=10)
    consumer.close()
    print(sum(max(o.offset, 0) for o in offsets), flush=True)
