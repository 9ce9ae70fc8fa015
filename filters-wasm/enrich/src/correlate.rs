//! Ids: those that the source has, under the names that it has them, else fresh ones.

use crate::normalise::{Body, Fields};
use std::borrow::Cow;
use waxseal_filter_abi::event::Ids;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::{Member, is_uuid};

/// The trace id of a W3C `traceparent` (Trace Context section 3.2): `00-<32 hex>-<16 hex>-<2 hex>`.
fn trace_id(text: &str) -> Option<&str> {
    let mut parts = text.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |t: &str, n| t.len() == n && t.bytes().all(|c| c.is_ascii_hexdigit());
    (hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && hex(span, 16)
        && trace.bytes().any(|c| c != b'0'))
    .then_some(trace)
}

pub(crate) fn run(event: &mut Event<'_>, fields: &Fields<'_>, body: &Body<'_>, ids: Option<&mut Ids>) {
    let inner = |name: &str| body.json()?.path(name);
    let text = |v: Option<Value<'_>>| {
        v.and_then(Value::word).filter(|t| !matches!(&**t, "" | "-")).map(Cow::into_owned)
    };
    let traceparent =
        text(fields.traceparent.or_else(|| inner("traceparent")).or_else(|| inner("headers.traceparent")));
    let request = text(fields.request_id.or_else(|| {
        ["x_request_id", "x-request-id", "X-Request-ID", "request_id", "headers.x-request-id"]
            .iter()
            .find_map(|n| inner(n))
    }));
    if let Some(id) = &request {
        event.set_if_absent(Member::RequestId, id);
    }
    if let Some(id) = text(fields.session_id.or_else(|| inner("session_id"))) {
        event.set_if_absent(Member::SessionId, &id);
    }
    if event.member(Member::EventId).is_none()
        && let Some(id) =
            text(inner("event_id")).map(|t| t.to_ascii_lowercase()).filter(|t| is_uuid(t.as_bytes()))
    {
        event.set(Member::EventId, &id);
    }
    let correlation = traceparent.as_deref().and_then(trace_id).map(str::to_owned).or(request);
    if let Some(id) = correlation {
        event.set_if_absent(Member::CorrelationId, &id);
    }
    let Some(ids) = ids else { return };
    let now = event.now();
    if event.member(Member::EventId).is_none()
        && let Some(id) = ids.fresh(now)
    {
        event.set(Member::EventId, &id);
    }
    // An event that nothing relates to others is at least found by its own id.
    if event.member(Member::CorrelationId).is_none()
        && let Some(id) = event.text(Member::EventId).map(Cow::into_owned)
    {
        event.set(Member::CorrelationId, &id);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn trace_contexts_are_read_as_the_standard_has_them() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(super::trace_id(good), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in [
            "",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert_eq!(super::trace_id(bad), None);
        }
    }
}
