"""Sends numbered log records with the OpenTelemetry SDK: otlp.py grpc|http ENDPOINT COUNT [TOKEN]."""

import sys

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

transport, endpoint, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
headers = {"authorization": "Bearer " + sys.argv[4]} if len(sys.argv) > 4 else None
if transport == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

    exporter = OTLPLogExporter(endpoint=endpoint, insecure=True, headers=headers)
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import Compression, OTLPLogExporter

    exporter = OTLPLogExporter(endpoint=endpoint, headers=headers, compression=Compression.Gzip)
provider = LoggerProvider(resource=Resource.create({"service.name": "shop", "k8s.node.name": "n1"}))
provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
logger = provider.get_logger("checkout", "1.2")
span = trace.NonRecordingSpan(
    trace.SpanContext(0x0123456789ABCDEF0123456789ABCDEF, 0x0123456789ABCDEF, False, trace.TraceFlags(1)))
context = trace.set_span_in_context(span)
for n in range(count):
    logger.emit(LogRecord(
        timestamp=1700000000000000000 + n, severity_number=SeverityNumber.WARN, severity_text="WARN",
        body={"action": "refund", "amount": 12.5}, attributes={"actor": "dave", "n": n}, context=context))
if not provider.force_flush(20000):
    sys.exit("not flushed")
provider.shutdown()
