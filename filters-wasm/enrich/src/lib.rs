//! Enrich: raw logs become audit events.
//!
//! For each event in turn: a mapping of one's own or a built-in normaliser makes it an event of the schema; ids are put where
//! the source has none; system, user, geography and threat context are added; and what does not fit the schema is noted.
//! What the source said stays whole beside it, and `metadata.$enriched` names what was added.

#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))] // a module exports what C calls

pub mod config;
mod correlate;
pub mod geo;
mod mapping;
mod normalise;
pub mod schema;
pub mod threat;
mod times;
pub mod users;

use config::Config;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use times::Read;
use waxseal_filter_abi::config::glob;
use waxseal_filter_abi::event::{Ids, Object, mixed, write_list};
use waxseal_filter_abi::{Event, Filter, Value};
use waxseal_trail::record::Member;

/// The filter.
#[derive(Debug)]
pub struct Enrich {
    config: Config,
    ids: Ids,
    contexts: Contexts,
}

impl Filter for Enrich {
    const NAME: &'static str = "enrich";
    const FAILS_CLOSED: bool = false;

    fn load(config: &Path) -> Result<Self, String> {
        Config::load(config).map(Enrich::new)
    }

    fn data(&self) -> Vec<(String, PathBuf)> {
        self.config.data.clone()
    }

    fn run(&mut self, event: &mut Event<'_>) {
        if !event.is_regular() {
            event.explain(|| "left as it is: it could not be read, or repeats a name".into());
            return;
        }
        let fields = normalise::Fields::of(event);
        let body = normalise::Body::of(&fields);
        let classified = normalise::run(&self.config, event, &fields, &body);
        correlate::run(event, &fields, &body, if self.config.ids { Some(&mut self.ids) } else { None });
        self.context(event, &fields, classified);
    }
}

#[cfg(target_family = "wasm")]
waxseal_filter_abi::export!(crate::Enrich);

impl Enrich {
    /// With a configuration that has been read.
    pub fn new(config: Config) -> Enrich {
        Enrich { config, ids: Ids::default(), contexts: Contexts::default() }
    }

    fn context(&mut self, event: &mut Event<'_>, fields: &normalise::Fields<'_>, classified: bool) {
        let c = &self.config;
        self.contexts.add(&c.system, event, fields);
        let address = event.get("ip_address").and_then(Value::str).and_then(|t| t.parse().ok());
        if let (Some(geo), Some(address)) = (&c.geo, address) {
            geo.add(event, address);
        }
        if let Some(users) = &c.users {
            users.add(event);
        }
        if let Some(threat) = &c.threat {
            threat.add(event, address);
        }
        if !c.phi.is_empty() {
            let named = |v: Option<Cow<'_, str>>| v.is_some_and(|v| c.phi.iter().any(|p| glob(p, &v)));
            let word = |name: &str| event.get(name).and_then(Value::str);
            if named(event.text(Member::Resource))
                || named(word("resource_type"))
                || named(word("resource_id"))
            {
                event.add_bool("phi_involved", true);
            }
        }
        let mut errors = if classified { schema::errors(event) } else { Vec::new() };
        errors.extend_from_slice(event.conflicts());
        if classified {
            event.set_if_absent(Member::Schema, schema::VERSION);
        }
        if !errors.is_empty() {
            event.explain(|| format!("against the schema: {}", errors.join("; ")));
            add_list(event, "schema_errors", errors.iter().map(String::as_str));
        }
    }
}

/// Adds a list of texts.
pub(crate) fn add_list<'t>(
    event: &mut Event<'_>,
    name: impl Into<Cow<'static, str>>,
    all: impl Iterator<Item = &'t str>,
) {
    event.add_json(name, |out| write_list(all, out));
}

/// Gives an event its time, and says what was assumed of it.
pub(crate) fn set_time(event: &mut Event<'_>, read: Read) {
    event.set_time(read.time);
    let assumed = [("zone", read.zone_assumed), ("year", read.year_assumed)];
    if assumed.iter().any(|(_, yes)| *yes) {
        add_list(event, "time_assumed", assumed.iter().filter(|(_, yes)| *yes).map(|(name, _)| *name));
    }
}

/// System contexts that were made before, by what they were made of: what a shipper says of a pod is the same text each time.
#[derive(Debug)]
struct Contexts(Vec<Option<Known>>);

#[derive(Debug)]
struct Known {
    kubernetes: Box<[u8]>,
    host: Box<[u8]>,
    context: Box<[u8]>,
}

impl Default for Contexts {
    fn default() -> Self {
        Contexts((0..Contexts::SLOTS).map(|_| None).collect())
    }
}

impl Contexts {
    const SLOTS: usize = 256;
    /// What is larger is not kept.
    const LARGEST: usize = 4096;

    fn add(&mut self, config: &config::RawSystem, event: &mut Event<'_>, fields: &normalise::Fields<'_>) {
        let kubernetes = fields.kubernetes.map_or(&[][..], Value::text);
        let host = fields.host.map_or(&[][..], Value::text);
        let slot = (mixed(kubernetes) ^ mixed(host).rotate_left(7)) as usize % Contexts::SLOTS;
        let known = self.0[slot].as_ref().filter(|k| *k.kubernetes == *kubernetes && *k.host == *host);
        let made = if known.is_none() { Some(system(config, fields)) } else { None };
        let context = made.as_deref().or(known.map(|k| &*k.context)).unwrap_or_default();
        event.add_json("system_context", |out| out.extend_from_slice(context));
        if let Some(context) = made.filter(|m| m.len() + kubernetes.len() + host.len() <= Contexts::LARGEST) {
            self.0[slot] =
                Some(Known { kubernetes: kubernetes.into(), host: host.into(), context: context.into() });
        }
    }
}

/// Environment, version, host, container, pod: of the shipper's kubernetes metadata, else of the configuration. Nothing if there
/// is none.
fn system(config: &config::RawSystem, fields: &normalise::Fields<'_>) -> Vec<u8> {
    let mut object = Object::default();
    let k = fields.kubernetes;
    let from = |paths: &[&str], or: &Option<String>| -> Option<String> {
        let found = paths.iter().find_map(|p| k?.path(p)?.str().filter(|t| !t.is_empty()));
        found.map(Cow::into_owned).or_else(|| or.clone())
    };
    let version = from(
        &["labels.app.kubernetes.io/version", "pod_labels.app.kubernetes.io/version", "labels.version"],
        &config.application_version,
    );
    let environment =
        from(&["labels.environment", "labels.env", "namespace_labels.environment"], &config.environment);
    let host = fields.host.and_then(Value::str).filter(|h| !h.is_empty()).map(Cow::into_owned);
    for (name, value) in [
        ("environment", environment),
        ("application_version", version),
        ("host", host.or_else(|| from(&["host", "pod_node_name"], &config.host))),
        ("container_id", from(&["docker_id", "container_id"], &config.container_id)),
        ("pod", from(&["pod_name"], &config.pod)),
        ("namespace", from(&["namespace_name", "pod_namespace"], &config.namespace)),
        ("node", from(&["host", "pod_node_name"], &config.node)),
        ("image", from(&["container_image"], &config.image)),
    ] {
        if let Some(value) = value {
            object.text(name, &value);
        }
    }
    object.written()
}
