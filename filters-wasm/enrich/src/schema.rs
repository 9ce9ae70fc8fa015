//! The audit schema: 21 types in six categories, 96 fields. docs/schema holds the same for machines
//! (`waxseal filter schema` prints it), and a test compares the two.

use waxseal_filter_abi::view::Kind;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;
use waxseal_trail::time::Time;

/// The version of the schema, as events carry it in `schema`.
pub const VERSION: &str = "waxseal-audit/1";

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// Text that names an address, IPv4 or IPv6.
    Address,
    /// Text that is a time of RFC 3339.
    Time,
    /// `true` or `false`.
    Bool,
    /// A number without fraction.
    Integer,
    /// A number.
    Number,
    /// A list of texts.
    List,
    /// An object.
    Object,
    /// Text or a number.
    Word,
    /// Anything.
    Any,
}

/// A field of a type.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name, in `metadata` unless the record has a member of that name.
    pub name: &'static str,
    /// What it holds.
    pub holds: Type,
    /// Whether an event of the type says nothing without it.
    pub required: bool,
}

/// A type of event.
#[derive(Clone, Copy, Debug)]
pub struct EventKind {
    /// Its category.
    pub category: &'static str,
    /// Its `event_type`.
    pub event_type: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
}

const fn f(name: &'static str, holds: Type) -> Field {
    Field { name, holds, required: false }
}

const fn must(name: &'static str, holds: Type) -> Field {
    Field { name, holds, required: true }
}

const fn kind(category: &'static str, event_type: &'static str, fields: &'static [Field]) -> EventKind {
    EventKind { category, event_type, fields }
}

/// All types.
pub const TYPES: [EventKind; 21] = {
    use Type::{Address, Any, Bool, Integer, List, Number, Object, Text, Time as When, Word};
    [
        kind(
            "authentication",
            "login_attempt",
            &[
                must("user_id", Text),
                f("method", Text),
                f("ip_address", Address),
                f("user_agent", Text),
                must("success", Bool),
                f("mfa_used", Bool),
                f("failure_reason", Text),
            ],
        ),
        kind(
            "authentication",
            "logout",
            &[must("user_id", Text), f("session_id", Text), f("duration", Number), f("ip_address", Address)],
        ),
        kind(
            "authentication",
            "password_change",
            &[must("user_id", Text), f("requester_id", Text), f("method", Text), f("ip_address", Address)],
        ),
        kind(
            "authentication",
            "mfa_update",
            &[must("user_id", Text), must("action", Text), f("method", Text), f("ip_address", Address)],
        ),
        kind(
            "authorization",
            "permission_granted",
            &[must("user_id", Text), must("resource", Text), f("permission", Text), f("context", Object)],
        ),
        kind(
            "authorization",
            "permission_denied",
            &[must("user_id", Text), must("resource", Text), f("permission", Text), f("reason", Text)],
        ),
        kind(
            "authorization",
            "role_assignment",
            &[must("user_id", Text), must("role", Text), f("assigned_by", Text), f("expiration", When)],
        ),
        kind(
            "data_access",
            "data_read",
            &[
                must("user_id", Text),
                must("resource_type", Text),
                f("resource_id", Text),
                f("fields_accessed", List),
                f("purpose", Text),
            ],
        ),
        kind(
            "data_access",
            "data_write",
            &[
                must("user_id", Text),
                must("resource_type", Text),
                f("resource_id", Text),
                f("fields_modified", List),
                f("old_values", Object),
                f("new_values", Object),
            ],
        ),
        kind(
            "data_access",
            "data_delete",
            &[
                must("user_id", Text),
                must("resource_type", Text),
                f("resource_id", Text),
                f("reason", Text),
                f("approval_id", Text),
            ],
        ),
        kind(
            "data_access",
            "data_export",
            &[
                must("user_id", Text),
                must("export_type", Text),
                f("filters", Any),
                f("row_count", Integer),
                f("destination", Text),
            ],
        ),
        kind(
            "api_activity",
            "api_call",
            &[
                f("user_id", Text),
                must("endpoint", Text),
                must("method", Text),
                f("parameters", Any),
                f("response_code", Integer),
                f("duration_ms", Number),
                f("ip_address", Address),
            ],
        ),
        kind(
            "api_activity",
            "rate_limit_exceeded",
            &[f("user_id", Text), must("endpoint", Text), f("limit", Word), f("window", Word)],
        ),
        kind(
            "api_activity",
            "api_error",
            &[
                f("user_id", Text),
                must("endpoint", Text),
                must("error_code", Word),
                f("error_message", Text),
                f("stack_trace", Any),
            ],
        ),
        kind(
            "security_events",
            "suspicious_activity",
            &[
                must("type", Text),
                f("actor", Text),
                f("details", Any),
                f("risk_score", Number),
                f("action_taken", Text),
            ],
        ),
        kind(
            "security_events",
            "security_scan",
            &[must("scan_type", Text), must("target", Text), f("findings", Any), f("severity", Text)],
        ),
        kind(
            "security_events",
            "incident_created",
            &[
                must("incident_id", Text),
                f("severity", Text),
                f("description", Text),
                f("affected_resources", List),
            ],
        ),
        kind(
            "compliance_events",
            "consent_granted",
            &[must("user_id", Text), must("purpose", Text), f("scope", Any), f("expiration", When)],
        ),
        kind(
            "compliance_events",
            "consent_withdrawn",
            &[must("user_id", Text), must("purpose", Text), f("reason", Text)],
        ),
        kind(
            "compliance_events",
            "data_retention",
            &[must("action", Text), must("data_type", Text), f("count", Integer), f("reason", Text)],
        ),
        kind(
            "compliance_events",
            "audit_performed",
            &[must("audit_type", Text), f("scope", Any), f("findings", Any), f("auditor", Text)],
        ),
    ]
};

/// The type of a category and an event type.
pub fn find(category: &str, event_type: &str) -> Option<&'static EventKind> {
    TYPES.iter().find(|t| t.event_type == event_type && t.category == category)
}

/// The type of an event type; their names are distinct.
pub fn by_type(event_type: &str) -> Option<&'static EventKind> {
    TYPES.iter().find(|t| t.event_type == event_type)
}

/// Whether a category is one of the schema's.
pub fn is_category(category: &str) -> bool {
    TYPES.iter().any(|t| t.category == category)
}

/// The member of the record that holds a field, if one does.
pub fn member_of(name: &str) -> Option<Member> {
    Some(match name {
        "action" => Member::Action,
        "actor" => Member::Actor,
        "resource" => Member::Resource,
        "session_id" => Member::SessionId,
        _ => return None,
    })
}

impl Type {
    fn fits(self, v: Value<'_>) -> bool {
        let kind = v.kind();
        match self {
            Type::Text => kind == Kind::String,
            Type::Address => v.str().is_some_and(|t| t.parse::<std::net::IpAddr>().is_ok()),
            Type::Time => v.str().is_some_and(|t| Time::parse_rfc3339(&t).is_some()),
            Type::Bool => kind == Kind::Bool,
            Type::Integer => kind == Kind::Number && v.number().is_some_and(|n| n.fract() == 0.0),
            Type::Number => kind == Kind::Number,
            Type::List => kind == Kind::Array && v.elements().all(|e| e.kind() == Kind::String),
            Type::Object => kind == Kind::Object,
            Type::Word => matches!(kind, Kind::String | Kind::Number),
            Type::Any => kind != Kind::Null,
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Type::Text => "text",
            Type::Address => "an IP address",
            Type::Time => "a time of RFC 3339",
            Type::Bool => "true or false",
            Type::Integer => "a whole number",
            Type::Number => "a number",
            Type::List => "a list of texts",
            Type::Object => "an object",
            Type::Word => "text or a number",
            Type::Any => "a value",
        }
    }

    /// As JSON Schema (2020-12) says it.
    pub fn json_schema(self) -> serde_json::Value {
        use serde_json::json;
        match self {
            Type::Text => json!({"type": "string"}),
            Type::Address => json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
            Type::Time => json!({"type": "string", "format": "date-time"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Integer => json!({"type": "integer"}),
            Type::Number => json!({"type": "number"}),
            Type::List => json!({"type": "array", "items": {"type": "string"}}),
            Type::Object => json!({"type": "object"}),
            Type::Word => json!({"type": ["string", "number"]}),
            Type::Any => json!({"not": {"type": "null"}}),
        }
    }
}

/// What is wrong with an event of the schema: a line each. A value that is sealed or withheld is nobody's fault.
pub fn errors(event: &Event<'_>) -> Vec<String> {
    let category = event.text(Member::Category).unwrap_or_default();
    let event_type = event.text(Member::EventType).unwrap_or_default();
    let Some(kind) = find(&category, &event_type) else {
        return match (is_category(&category), by_type(&event_type)) {
            (true, _) => vec![format!("event_type: {event_type:?} is no type of {category}")],
            (false, Some(t)) => {
                vec![format!("category: {event_type} is of {}, not of {category:?}", t.category)]
            }
            (false, None) => Vec::new(),
        };
    };
    let mut all = Vec::new();
    for field in kind.fields {
        let value = match member_of(field.name) {
            Some(member) => event.member(member),
            None => event.get(field.name),
        };
        match value {
            None if field.required => all.push(format!("{}: missing", field.name)),
            Some(v) if !field.holds.fits(v) && !is_wrapped(v) => {
                all.push(format!("{}: not {}", field.name, field.holds.name()));
            }
            _ => {}
        }
    }
    all
}

fn is_wrapped(v: Value<'_>) -> bool {
    v.kind() == Kind::Object
        && v.members().next().is_some_and(|(k, _)| k.starts_with(b"$") && !k.starts_with(b"$$"))
}

/// The whole schema as a JSON Schema (2020-12) of records.
pub fn json_schema() -> serde_json::Value {
    use serde_json::{Map, Value, json};
    let branches: Vec<Value> = TYPES
        .iter()
        .map(|t| {
            let mut top = Map::new();
            let mut inner = Map::new();
            let (mut needs, mut inner_needs) = (vec![json!("category"), json!("event_type")], Vec::new());
            top.insert("category".into(), json!({"const": t.category}));
            top.insert("event_type".into(), json!({"const": t.event_type}));
            for f in t.fields {
                let (place, needs) = match member_of(f.name) {
                    Some(_) => (&mut top, &mut needs),
                    None => (&mut inner, &mut inner_needs),
                };
                place.insert(f.name.into(), f.holds.json_schema());
                if f.required {
                    needs.push(json!(f.name));
                }
            }
            let mut metadata = json!({"type": "object", "properties": inner});
            if !inner_needs.is_empty() {
                metadata["required"] = inner_needs.into();
                needs.push(json!("metadata"));
            }
            top.insert("metadata".into(), metadata);
            json!({"title": format!("{}.{}", t.category, t.event_type), "properties": top, "required": needs})
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:{VERSION}"),
        "title": "Waxseal audit events",
        "description": "Members of a record that hold an audit event. Other members and other metadata may stand beside.",
        "type": "object",
        "oneOf": branches,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_21_types_and_96_fields() {
        assert_eq!(TYPES.iter().map(|t| t.fields.len()).sum::<usize>(), 96);
        let mut names: Vec<_> = TYPES.iter().map(|t| t.event_type).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 21);
    }

    #[test]
    fn the_copy_for_machines_is_the_same() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schema/audit-events.json");
        let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(kept == json_schema(), "waxseal filter schema > docs/schema/audit-events.json");
    }
}
