//! JSON of the cloud: Kubernetes audit (audit.k8s.io/v1), AWS CloudTrail, Falco.

use super::{Body, Fields, Say};
use std::borrow::Cow;
use waxseal_filter_abi::event::Object;
use waxseal_filter_abi::view::Kind;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;
use waxseal_trail::time::Time;

/// Looks into the event, or into the object that it carries.
struct Look<'l, 'a> {
    event: Option<&'l Event<'a>>,
    object: Option<Value<'l>>,
}

impl<'l> Look<'l, '_> {
    fn value(&self, path: &str) -> Option<Value<'l>> {
        match (self.event, self.object) {
            (Some(e), _) => e.path(path),
            (None, Some(o)) => o.path(path),
            (None, None) => None,
        }
    }

    fn text(&self, path: &str) -> Option<String> {
        self.value(path).and_then(Value::word).map(Cow::into_owned).filter(|t| !t.is_empty())
    }
}

/// What an item says, before it is an event.
#[derive(Clone, Default)]
struct Found {
    event_type: &'static str,
    action: String,
    /// Whom it is about.
    user: Option<String>,
    /// Who did it, where that is not whom it is about.
    doer: Option<Option<String>>,
    ip: Option<String>,
    resource: Option<String>,
    /// Nothing if it does not say yet.
    ok: Option<bool>,
    texts: Vec<(&'static str, String)>,
    ints: Vec<(&'static str, i64)>,
    bools: Vec<(&'static str, bool)>,
    /// JSON of the source's own.
    values: Vec<(&'static str, Vec<u8>)>,
    list: Vec<(&'static str, Vec<String>)>,
    correlation: Option<String>,
    event_id: Option<String>,
    time: Option<Time>,
    duration_ms: Option<f64>,
}

impl Found {
    fn put(&self, event: &mut Event<'_>, embedded: bool) {
        let mut say = Say::new(self.event_type, &self.action)
            .user(self.user.as_deref())
            .ip(self.ip.as_deref())
            .resource(self.resource.as_deref())
            .result(self.ok);
        if let Some(doer) = &self.doer {
            say = say.by(doer.as_deref());
        }
        say.to(event);
        for (name, text) in &self.texts {
            event.add(*name, text);
        }
        for (name, n) in &self.ints {
            event.add_int(*name, *n);
        }
        for (name, yes) in &self.bools {
            event.add_bool(*name, *yes);
        }
        for (name, text) in &self.values {
            if let Some(v) = Value::first(text) {
                event.add_value(*name, v, embedded);
            }
        }
        for (name, all) in &self.list {
            crate::add_list(event, *name, all.iter().map(String::as_str));
        }
        if let Some(ms) = self.duration_ms {
            event.add_number("duration_ms", ms);
        }
        if let Some(id) = &self.correlation {
            event.set_if_absent(Member::CorrelationId, id);
        }
        if let Some(id) = self.event_id.as_ref().map(|i| i.to_ascii_lowercase())
            && waxseal_trail::record::is_uuid(id.as_bytes())
        {
            event.set_if_absent(Member::EventId, &id);
        }
        if let Some(t) = self.time {
            event.set_time(t);
        }
    }

    /// In a few words, for an event that stands for several.
    fn summary(&self) -> Object {
        let mut o = Object::default();
        o.text("event_type", self.event_type).text("action", &self.action);
        if let Some(ok) = self.ok {
            o.bool("success", ok);
        }
        let doer = self.doer.clone().flatten();
        for (name, text) in [
            ("user_id", &self.user),
            ("actor", &doer),
            ("ip_address", &self.ip),
            ("resource", &self.resource),
        ] {
            if let Some(t) = text {
                o.text(name, t);
            }
        }
        if let Some(id) = &self.correlation {
            o.text("correlation_id", id);
        }
        if let Some(t) = self.time {
            let t = t.text();
            o.text("timestamp", std::str::from_utf8(&t).unwrap_or_default());
        }
        o
    }
}

/// One event, or several under one name. A shipper's record is one event whatever it holds: of several, the event says
/// each in a few words (`events`), and is of their type if they share one.
fn put(event: &mut Event<'_>, all: &[Found], embedded: bool, list: &str) -> bool {
    match all {
        [] => false,
        [one] => {
            one.put(event, embedded);
            true
        }
        many => {
            match of_all(many) {
                Some(all) => all.put(event, embedded),
                None => {
                    let user = shared(many, |f| &f.user);
                    let ok = succeeded(many);
                    Say::new("api_call", "list").user(user.as_deref()).result(ok).to(event);
                    event.add("endpoint", list);
                    event.add("method", "list");
                    let mut types: Vec<&str> = many.iter().map(|f| f.event_type).collect();
                    types.sort_unstable();
                    types.dedup();
                    crate::add_list(event, "event_types", types.into_iter());
                }
            }
            event.add_json("events", |out| {
                for (i, f) in many.iter().enumerate() {
                    out.push(if i > 0 { b',' } else { b'[' });
                    f.summary().write(out);
                }
                out.push(b']');
            });
            event.add_int("event_count", many.len() as i64);
            true
        }
    }
}

/// What all say; the default if they differ.
fn shared<'f, T>(many: &'f [Found], of: impl Fn(&'f Found) -> &'f T) -> Cow<'f, T>
where
    T: Clone + PartialEq + Default,
{
    let first = of(&many[0]);
    if many.iter().all(|f| of(f) == first) { Cow::Borrowed(first) } else { Cow::Owned(T::default()) }
}

/// Of several: a failure if one failed.
fn succeeded(many: &[Found]) -> Option<bool> {
    let of = |ok| many.iter().any(|f| f.ok == ok);
    if of(Some(false)) {
        Some(false)
    } else if of(None) {
        None
    } else {
        Some(true)
    }
}

/// Several of one type and user as one: what they share.
fn of_all(many: &[Found]) -> Option<Found> {
    let first = many.first()?;
    if many.iter().any(|f| f.event_type != first.event_type || f.user != first.user || f.doer != first.doer) {
        return None;
    }
    fn kept<T: Clone + PartialEq>(all: &[Found], of: impl Fn(&Found) -> &Vec<T>) -> Vec<T> {
        of(&all[0]).iter().filter(|v| all.iter().all(|f| of(f).contains(v))).cloned().collect()
    }
    let ok = succeeded(many);
    let mut f = Found {
        action: shared(many, |f| &f.action).into_owned(),
        ip: shared(many, |f| &f.ip).into_owned(),
        resource: shared(many, |f| &f.resource).into_owned(),
        ok,
        texts: kept(many, |f| &f.texts),
        ints: kept(many, |f| &f.ints),
        bools: kept(many, |f| &f.bools),
        values: kept(many, |f| &f.values),
        list: kept(many, |f| &f.list),
        correlation: shared(many, |f| &f.correlation).into_owned(),
        event_id: None,
        time: many.iter().filter_map(|f| f.time).min(),
        duration_ms: None,
        ..first.clone()
    };
    if f.event_type == "login_attempt"
        && let Some(ok) = ok
    {
        f.bools.retain(|(name, _)| *name != "success");
        f.bools.push(("success", ok));
    }
    Some(f)
}

pub(super) fn kubernetes(event: &mut Event<'_>, fields: &Fields<'_>, body: &Body<'_>) -> bool {
    let is =
        |v: Option<Value<'_>>, text: &[u8]| v.and_then(Value::raw_str).is_some_and(|t| t.starts_with(text));
    let outer = is(fields.api_version, b"audit.k8s.io/");
    let object = if outer { None } else { body.json() };
    let (kind, api) = match object {
        Some(o) => (o.get("kind"), o.get("apiVersion")),
        None => (fields.kind, fields.api_version),
    };
    if !is(api, b"audit.k8s.io/") {
        return false;
    }
    let all: Vec<Found> = if is(kind, b"EventList") {
        let items = match object {
            Some(o) => o.get("items"),
            None => event.path("items"),
        };
        items
            .into_iter()
            .flat_map(Value::elements)
            .map(|v| audit(&Look { event: None, object: Some(v) }))
            .collect()
    } else if outer {
        vec![audit(&Look { event: Some(event), object: None })]
    } else {
        vec![audit(&Look { event: None, object })]
    };
    put(event, &all, object.is_some(), "audit.k8s.io/EventList")
}

fn audit(look: &Look<'_, '_>) -> Found {
    let verb = look.text("verb").unwrap_or_default();
    let uri = look.text("requestURI").unwrap_or_default();
    let code = look.value("responseStatus.code").and_then(Value::int);
    let get = |name: &str| look.text(&format!("objectRef.{name}"));
    let (kind, sub, name, namespace) = (get("resource"), get("subresource"), get("name"), get("namespace"));
    let resource = kind.as_ref().map(|k| {
        let parts = [namespace.as_deref(), Some(k.as_str()), name.as_deref(), sub.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    });
    let rbac = kind.as_deref().is_some_and(|k| {
        matches!(k, "rolebindings" | "clusterrolebindings")
            || (matches!(k, "roles" | "clusterroles") && verb != "get")
    });
    let acts = matches!(sub.as_deref(), Some("exec" | "attach" | "portforward" | "proxy"));
    let event_type = match (code, verb.as_str()) {
        (Some(401), _) => "login_attempt",
        (Some(403), _) => "permission_denied",
        (Some(429), _) => "rate_limit_exceeded",
        (Some(500..), _) => "api_error",
        _ if acts => "permission_granted",
        _ if kind.is_none() => "api_call",
        (_, "create" | "update" | "patch") if rbac => "role_assignment",
        (_, "create") if kind.as_deref().is_some_and(|k| k.ends_with("reviews")) => "api_call",
        (_, "get" | "list" | "watch") => "data_read",
        (_, "create" | "update" | "patch") => "data_write",
        (_, "delete" | "deletecollection") => "data_delete",
        _ => "api_call",
    };
    let user = look.text("impersonatedUser.username").or_else(|| look.text("user.username"));
    // A request that has only been received has not been answered.
    let stage = look.text("stage");
    let ok = code.map(|c| c < 400).or((stage.as_deref() == Some("Panic")).then_some(false));
    // All but the last a client may choose (X-Forwarded-For).
    let ips: Vec<String> = look
        .value("sourceIPs")
        .into_iter()
        .flat_map(Value::elements)
        .filter_map(|v| v.str().map(Cow::into_owned))
        .collect();
    let mut f = Found {
        event_type,
        action: verb.clone(),
        user: user.clone(),
        ip: ips.last().cloned(),
        resource: resource.clone().or_else(|| Some(uri.clone()).filter(|u| !u.is_empty())),
        ok,
        correlation: look.text("auditID"),
        time: look
            .text("requestReceivedTimestamp")
            .or_else(|| look.text("stageTimestamp"))
            .and_then(|t| Time::parse_rfc3339(&t)),
        ..Found::default()
    };
    if ips.len() > 1 {
        f.list.push(("source_ips", ips));
    }
    if let Some(s) = stage.filter(|s| s != "ResponseComplete") {
        f.texts.push(("stage", s));
    }
    if look.value("impersonatedUser").is_some()
        && let Some(by) = look.text("user.username")
    {
        f.texts.push(("impersonated_by", by));
    }
    if let Some(agent) = look.text("userAgent") {
        f.texts.push(("user_agent", agent));
    }
    f.texts.push(("endpoint", uri));
    f.texts.push(("method", verb.clone()));
    if let Some(c) = code {
        f.ints.push(("response_code", c));
    }
    if let (Some(from), Some(to)) = (
        look.text("requestReceivedTimestamp").and_then(|t| Time::parse_rfc3339(&t)),
        look.text("stageTimestamp").and_then(|t| Time::parse_rfc3339(&t)),
    ) && look.text("stage").as_deref() == Some("ResponseComplete")
    {
        f.duration_ms = Some((to.unix_micros() - from.unix_micros()) as f64 / 1e3);
    }
    let reason = look.text("annotations.authorization.k8s.io/reason");
    match event_type {
        "login_attempt" => {
            f.bools.push(("success", false));
            f.texts.push(("failure_reason", look.text("responseStatus.message").unwrap_or("401".into())));
        }
        "permission_denied" | "permission_granted" => {
            f.texts.push(("permission", sub.unwrap_or(verb)));
            if event_type == "permission_denied" {
                let why = look.text("responseStatus.message").or(reason.filter(|r| !r.is_empty()));
                f.texts.push(("reason", why.unwrap_or("forbidden".into())));
            }
        }
        "role_assignment" => {
            let role = look.text("requestObject.roleRef.name").or(name);
            let subjects = look.value("requestObject.subjects").into_iter().flat_map(Value::elements);
            let subjects: Vec<String> =
                subjects.filter_map(|s| s.get("name")?.str().map(Cow::into_owned)).collect();
            f.texts.push(("role", role.unwrap_or_else(|| "unknown".into())));
            if let Some(by) = &user {
                f.texts.push(("assigned_by", by.clone()));
            }
            f.doer = Some(user);
            f.user = subjects.first().cloned();
            if !subjects.is_empty() {
                f.list.push(("assigned_to", subjects));
            }
        }
        "data_read" | "data_write" | "data_delete" => {
            f.texts.push(("resource_type", kind.unwrap_or_default()));
            let id = [namespace, name].into_iter().flatten().collect::<Vec<_>>().join("/");
            if !id.is_empty() {
                f.texts.push(("resource_id", id));
            }
            if event_type == "data_write"
                && let Some(o) = look.value("requestObject").filter(|o| o.kind() == Kind::Object)
            {
                f.values.push(("new_values", o.text().to_vec()));
            }
        }
        "api_error" => {
            f.texts.push(("error_code", code.unwrap_or(500).to_string()));
            if let Some(m) = look.text("responseStatus.message") {
                f.texts.push(("error_message", m));
            }
        }
        _ => {}
    }
    f
}

pub(super) fn cloudtrail(event: &mut Event<'_>, fields: &Fields<'_>, body: &Body<'_>) -> bool {
    let aws =
        |v: Option<Value<'_>>| v.and_then(Value::raw_str).is_some_and(|t| t.ends_with(b".amazonaws.com"));
    let records = fields.records.or_else(|| body.json()?.get("Records"));
    if let Some(records) = records.filter(|r| r.kind() == Kind::Array) {
        if !records.elements().next().is_some_and(|r| aws(r.get("eventSource"))) {
            return false;
        }
        let all: Vec<Found> =
            records.elements().map(|v| aws_event(&Look { event: None, object: Some(v) })).collect();
        return put(event, &all, fields.records.is_none(), "cloudtrail.amazonaws.com/Records");
    }
    if fields.event_name.is_some() && aws(fields.event_source) {
        let found = aws_event(&Look { event: Some(event), object: None });
        return put(event, &[found], false, "");
    }
    // Alone, or as EventBridge passes it on.
    let is_event = |o: &Value<'_>| aws(o.get("eventSource")) && o.get("eventName").is_some();
    if let Some(detail) = fields.detail.filter(is_event) {
        return put(event, &[aws_event(&Look { event: None, object: Some(detail) })], false, "");
    }
    let object =
        body.json().and_then(|o| if is_event(&o) { Some(o) } else { o.get("detail").filter(is_event) });
    let Some(object) = object else {
        return false;
    };
    put(event, &[aws_event(&Look { event: None, object: Some(object) })], true, "")
}

fn aws_event(look: &Look<'_, '_>) -> Found {
    let name = look.text("eventName").unwrap_or_default();
    let service = look.text("eventSource").unwrap_or_default();
    let service = service.trim_end_matches(".amazonaws.com").to_owned();
    let error = look.text("errorCode");
    let read_only = look.value("readOnly").and_then(Value::word).map(|w| w == "true");
    let read_only = read_only
        .unwrap_or_else(|| ["Get", "List", "Describe", "Head", "Lookup"].iter().any(|p| name.starts_with(p)));
    let denied = error.as_deref().is_some_and(|e| {
        e.contains("AccessDenied") || e.contains("Unauthorized") || e.contains("NotAuthorized")
    });
    let limited = error.as_deref().is_some_and(|e| {
        e.contains("Throttl") || e.contains("LimitExceeded") || e.contains("TooManyRequests")
    });
    let login = matches!(
        name.as_str(),
        "ConsoleLogin" | "UserAuthentication" | "CredentialVerification" | "CheckMfa"
    );
    let event_type = match name.as_str() {
        _ if login => "login_attempt",
        _ if denied => "permission_denied",
        _ if limited => "rate_limit_exceeded",
        _ if error.is_some() => "api_error",
        "ChangePassword"
        | "UpdateLoginProfile"
        | "CreateLoginProfile"
        | "PasswordUpdated"
        | "PasswordRecoveryCompleted" => "password_change",
        "EnableMFADevice"
        | "DeactivateMFADevice"
        | "CreateVirtualMFADevice"
        | "DeleteVirtualMFADevice"
        | "ResyncMFADevice" => "mfa_update",
        "AttachUserPolicy"
        | "AttachRolePolicy"
        | "AttachGroupPolicy"
        | "PutUserPolicy"
        | "PutRolePolicy"
        | "PutGroupPolicy"
        | "AddUserToGroup"
        | "AddRoleToInstanceProfile"
        | "DetachUserPolicy"
        | "DetachRolePolicy"
        | "DetachGroupPolicy"
        | "DeleteUserPolicy"
        | "DeleteRolePolicy"
        | "DeleteGroupPolicy"
        | "RemoveUserFromGroup"
        | "RemoveRoleFromInstanceProfile"
        | "UpdateAssumeRolePolicy"
        | "SetDefaultPolicyVersion"
        | "CreatePolicyVersion" => "role_assignment",
        "Logout" | "SignOut" => "logout",
        n if n.starts_with("AssumeRole")
            || n == "SwitchRole"
            || n == "GetSessionToken"
            || n == "GetFederationToken" =>
        {
            "permission_granted"
        }
        // A prompt, and no answer.
        "CredentialChallenge" => "api_call",
        _ if read_only => "data_read",
        n if n.contains("Export") || n == "CreateSnapshot" && service == "rds" || n == "UnloadData" => {
            "data_export"
        }
        n if ["Delete", "Remove", "Terminate", "Deregister", "Purge"].iter().any(|p| n.starts_with(p)) => {
            "data_delete"
        }
        _ => "data_write",
    };
    let root = look.text("userIdentity.type").as_deref() == Some("Root");
    let user = root
        .then(|| "root".to_owned())
        .or_else(|| look.text("userIdentity.userName"))
        .or_else(|| {
            look.text("userIdentity.sessionContext.sessionIssuer.userName").map(|r| {
                // The session's name tells people apart who share a role.
                match look.text("userIdentity.arn").and_then(|a| a.rsplit('/').next().map(str::to_owned)) {
                    Some(session) => format!("{r}/{session}"),
                    None => r,
                }
            })
        })
        .or_else(|| look.text("userIdentity.onBehalfOf.userId"))
        .or_else(|| look.text("additionalEventData.UserName"))
        .or_else(|| look.text("userIdentity.invokedBy"))
        .or_else(|| look.text("userIdentity.principalId"))
        .or_else(|| look.text("userIdentity.accountId"));
    let parameter = |names: &[&str]| names.iter().find_map(|n| look.text(&format!("requestParameters.{n}")));
    let resource =
        look.text("resources.0.ARN").or_else(|| match (parameter(&["bucketName"]), parameter(&["key"])) {
            (Some(bucket), Some(key)) => Some(format!("arn:aws:s3:::{bucket}/{key}")),
            (Some(bucket), None) => Some(format!("arn:aws:s3:::{bucket}")),
            _ => parameter(&[
                "roleArn",
                "policyArn",
                "functionName",
                "instanceId",
                "tableName",
                "secretId",
                "keyId",
                "groupId",
                "userName",
                "roleName",
                "groupName",
                "dBInstanceIdentifier",
                "logGroupName",
                "name",
            ]),
        });
    let endpoint = format!("{service}:{name}");
    // `"responseElements": {"ConsoleLogin": "Failure"}`
    let response = ["responseElements", "serviceEventDetails"]
        .iter()
        .find_map(|n| look.value(n)?.get(&name)?.str().map(Cow::into_owned));
    let ok = error.is_none() && response.as_deref() != Some("Failure");
    let mut f = Found {
        event_type,
        action: name.clone(),
        user: user.clone(),
        ip: look.text("sourceIPAddress"),
        resource: resource.clone().or_else(|| Some(endpoint.clone())),
        ok: Some(ok),
        correlation: look.text("eventID"),
        event_id: look.text("eventID"),
        time: look.text("eventTime").and_then(|t| Time::parse_rfc3339(&t)),
        ..Found::default()
    };
    if let Some(agent) = look.text("userAgent") {
        f.texts.push(("user_agent", agent));
    }
    let mfa = look
        .text("additionalEventData.MFAUsed")
        .or_else(|| look.text("userIdentity.sessionContext.attributes.mfaAuthenticated"));
    match event_type {
        "login_attempt" => {
            f.bools.push(("success", ok));
            f.texts.push(("method", if name == "CheckMfa" { "mfa" } else { "console" }.into()));
            if let Some(m) = mfa {
                f.bools.push(("mfa_used", m.eq_ignore_ascii_case("yes") || m == "true"));
            }
            if !ok {
                let why = look.text("errorMessage").or(error);
                f.texts.push(("failure_reason", why.unwrap_or("failure".into())));
            }
        }
        "permission_denied" => {
            f.texts.push(("permission", endpoint));
            f.texts.push(("reason", look.text("errorMessage").or(error).unwrap_or_default()));
        }
        "permission_granted" => f.texts.push(("permission", endpoint)),
        "rate_limit_exceeded" | "api_call" => {
            f.texts.push(("endpoint", endpoint));
            f.texts.push(("method", name));
        }
        "api_error" => {
            f.texts.push(("endpoint", endpoint));
            f.texts.push(("error_code", error.unwrap_or_default()));
            if let Some(m) = look.text("errorMessage") {
                f.texts.push(("error_message", m));
            }
        }
        "password_change" | "mfa_update" => {
            if let Some(target) = parameter(&["userName"]) {
                f.texts.push(("requester_id", user.clone().unwrap_or_default()));
                f.user = Some(target);
                f.doer = Some(user);
            }
            f.texts.push(("method", "iam".into()));
        }
        "role_assignment" => {
            let role = parameter(&["policyArn", "groupName", "policyName", "roleName"]);
            f.texts.push(("role", role.unwrap_or(name)));
            f.texts.push(("assigned_by", user.clone().unwrap_or_default()));
            if let Some(target) = parameter(&["userName", "roleName", "groupName"]) {
                f.user = Some(target);
                f.doer = Some(user);
            }
        }
        "data_export" => {
            f.texts.push(("export_type", endpoint));
            if let Some(to) = parameter(&["s3BucketName", "destination", "s3Bucket", "bucketName"]) {
                f.texts.push(("destination", to));
            }
        }
        "data_read" | "data_write" | "data_delete" => {
            f.texts.push(("resource_type", service));
            if let Some(r) = resource {
                f.texts.push(("resource_id", r));
            }
            if event_type == "data_write"
                && let Some(p) = look.value("requestParameters").filter(|p| p.kind() == Kind::Object)
            {
                f.values.push(("new_values", p.text().to_vec()));
            }
        }
        _ => {}
    }
    f
}

pub(super) fn falco(event: &mut Event<'_>, fields: &Fields<'_>, body: &Body<'_>) -> bool {
    let outer = fields.rule.is_some() && fields.output_fields.is_some_and(|f| f.kind() == Kind::Object);
    let object = body.json().filter(|o| o.get("rule").is_some() && o.get("output_fields").is_some());
    if !outer && object.is_none() {
        return false;
    }
    let found = {
        let look =
            if outer { Look { event: Some(event), object: None } } else { Look { event: None, object } };
        let Some(rule) = look.text("rule") else { return false };
        let priority = look.text("priority").unwrap_or_default();
        let risk = match priority.to_ascii_lowercase().as_str() {
            "emergency" => 100,
            "alert" => 90,
            "critical" => 80,
            "error" => 70,
            "warning" => 50,
            "notice" => 30,
            "informational" | "info" => 10,
            _ => 0,
        };
        let field =
            |name: &str| look.value("output_fields")?.get(name).and_then(Value::word).map(Cow::into_owned);
        let any =
            |names: &[&str]| names.iter().find_map(|n| field(n).filter(|v| !matches!(&**v, "" | "<NA>")));
        let ip = any(&["fd.cip", "fd.rip", "ka.sourceips", "ct.srcip"]);
        let parts = ["k8s.ns.name", "k8s.pod.name", "container.id"].iter().filter_map(|n| any(&[n]));
        let resource = parts.collect::<Vec<_>>().join("/");
        // Who logged in tells more than who they became.
        let user = any(&["user.loginname", "user.name", "ka.user.name", "ct.user"]);
        let mut f = Found {
            event_type: "suspicious_activity",
            action: "detect".into(),
            user,
            ip,
            resource: Some(resource)
                .filter(|r| !r.is_empty())
                .or_else(|| any(&["fd.name", "ka.target.name"])),
            ok: Some(false),
            time: look.text("time").and_then(|t| Time::parse_rfc3339(&t)),
            ..Found::default()
        };
        f.texts.push(("type", rule));
        if let Some(output) = look.text("output") {
            f.texts.push(("details", super::cut(&output).to_owned()));
        }
        f.texts.push(("severity", priority));
        f.ints.push(("risk_score", risk));
        f
    };
    found.put(event, !outer);
    // Falco reports; what it saw may have succeeded or not.
    event.set(Member::Result, "detected");
    true
}
