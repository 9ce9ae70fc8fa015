//! `privacy.yaml`. [`Raw`] is what may stand in the file, and its documentation is the manual.

use crate::detect::{Found, Kind, Why};
use crate::keys::Keys;
use crate::names::{Ends, endings, glued, words};
use regex_automata::{Input, meta};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use waxseal_filter_abi::config::{glob, yaml};

/// The file's members.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// Run the default rules after these. Default true.
    pub defaults: Option<bool>,
    /// Default rules that do not run, by their ids.
    pub without: Vec<String>,
    /// A file of keys for `hash` and pseudonyms: on each line an id, a space, and at least 32 hexadecimal digits. The first
    /// key is used; older ones stand below it.
    pub keys: Option<PathBuf>,
    /// Rules, in order: the first that speaks of a field or a kind is used.
    pub rules: Vec<RawRule>,
    /// Whose names are replaced by pseudonyms, and where.
    pub anonymize: Vec<RawAnonymize>,
    /// The fields that name someone. Default: actor, user_id, requester_id, assigned_by, auditor, user, username, login, manager.
    pub identities: Option<Vec<String>>,
}

/// A rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRule {
    /// Its name, in `metadata.privacy` and reports.
    pub id: String,
    /// Event types or categories (with `*`) that it is for. Default: all.
    #[serde(default)]
    pub types: Vec<String>,
    /// Names of fields, anywhere, in any spelling; and of values in text.
    #[serde(default)]
    pub fields: Vec<String>,
    /// Dotted paths, as `parameters.q`; `*` stands for one name.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Detectors.
    #[serde(default)]
    pub find: Vec<Kind>,
    /// A regular expression of one's own.
    pub pattern: Option<String>,
    /// One of these words must stand before what the pattern finds, or be in the field's name.
    #[serde(default)]
    pub near: Vec<String>,
    /// None of these may.
    #[serde(default)]
    pub not_near: Vec<String>,
    /// Fields that the detectors, or the pattern, leave alone.
    #[serde(default)]
    pub except: Vec<String>,
    /// `data` and `stringData` of Kubernetes' objects of kind `Secret`.
    #[serde(default)]
    pub kubernetes_secrets: bool,
    /// What is done.
    pub action: RawAction,
    /// With `mask`: so many letters or digits stay at the beginning.
    #[serde(default)]
    pub keep_first: usize,
    /// And so many at the end.
    #[serde(default)]
    pub keep_last: usize,
    /// With `allow`: the names that stay. With `shape`: the names whose values stay.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// What is done with what a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawAction {
    /// `*` for all letters and digits but some.
    Mask,
    /// `[redacted:<rule>]`.
    Redact,
    /// The field is gone.
    Drop,
    /// HMAC-SHA-256 with a key.
    Hash,
    /// An address to its network: /24, or /48 of IPv6.
    Truncate,
    /// A date to its month, coordinates to a tenth of a degree.
    Generalise,
    /// Names stay, values go.
    Shape,
    /// Only the names in `allow` stay.
    Allow,
    /// Left as it is, whatever later rules say.
    Keep,
    /// Reserved: sealed for one reader.
    Seal,
}

/// Whose names are replaced.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAnonymize {
    /// Event types or categories (with `*`). Default: all.
    #[serde(default)]
    pub types: Vec<String>,
    /// ISO codes of countries, by `geo_location`; `EU` stands for the European Economic Area. Default: all.
    #[serde(default)]
    pub countries: Vec<String>,
    /// Also where the country is not known. Default true.
    #[serde(default = "yes")]
    pub unknown: bool,
}

fn yes() -> bool {
    true
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Mask { first: usize, last: usize },
    Redact,
    Drop,
    Hash,
    Truncate,
    Generalise,
    Shape(HashSet<String>),
    Allow(HashSet<String>),
    Keep,
}

impl Action {
    /// Whether it does something to a value.
    pub(crate) fn hides(&self) -> bool {
        !matches!(self, Action::Keep | Action::Allow(_))
    }
}

/// A rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: String,
    types: Vec<String>,
    kinds: u32,
    paths: Vec<Vec<String>>,
    except: HashSet<String>,
    kubernetes: bool,
    everywhere: bool,
    pub(crate) action: Action,
}

/// A policy.
#[derive(Debug)]
pub struct Policy {
    pub(crate) rules: Vec<Rule>,
    /// Rules by the names of fields, their words run together.
    pub(crate) fields: HashMap<String, Vec<u16>>,
    pub(crate) ends: Ends,
    pub(crate) patterns: Option<Patterns>,
    /// All rules in force at once.
    pub(crate) every: Rc<Active>,
    pub(crate) keys: Option<Keys>,
    anonymize: Vec<RawAnonymize>,
    pub(crate) identities: HashSet<String>,
    /// Files that were read: name and path.
    pub(crate) data: Vec<(String, PathBuf)>,
}

/// The rules that are in force for a type of event.
#[derive(Debug, Default)]
pub(crate) struct Active {
    pub(crate) on: Vec<bool>,
    pub(crate) by_kind: [u16; Kind::ALL.len()],
    /// Tells it from others of the same filter; the filter numbers them.
    pub(crate) id: u32,
    /// Any of them goes by paths.
    pub(crate) paths: bool,
    /// `allow` without fields or paths.
    pub(crate) top: u16,
    pub(crate) kubernetes: u16,
}

const IDENTITIES: [&str; 9] =
    ["actor", "user_id", "requester_id", "assigned_by", "auditor", "user", "username", "login", "manager"];

/// The European Economic Area.
const EU: [&str; 30] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IS", "IT",
    "LI", "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
];

const RULES: usize = 1000;

/// The default rules, as they stand in the documentation.
pub const DEFAULT: &str = include_str!("default.yaml");

impl Policy {
    /// No rule.
    pub(crate) const NONE: u16 = u16::MAX;

    /// Reads `privacy.yaml` and what it names; relative paths are the file's neighbours.
    ///
    /// # Errors
    /// A text with file, line and key.
    pub fn load(file: &Path) -> Result<Policy, String> {
        let at = |e: String| format!("{}: {e}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| at(e.to_string()))?;
        Policy::parse(&text, file.parent().unwrap_or(Path::new(""))).map_err(at)
    }

    /// From the file's text; relative paths are of `dir`.
    ///
    /// # Errors
    /// A text with line and key.
    pub fn parse(text: &str, dir: &Path) -> Result<Policy, String> {
        let raw: Raw = yaml(text)?;
        let mut data = Vec::new();
        let keys = match &raw.keys {
            Some(path) => {
                let whole = dir.join(path);
                let keys = Keys::read(&whole).map_err(|e| format!("keys: {e}"))?;
                // The header says which key was in force.
                data.push((format!("{} (key {})", path.display(), keys.id()), whole));
                Some(keys)
            }
            None => None,
        };
        let mut raws: Vec<RawRule> = raw.rules;
        let own = raws.len();
        if raw.defaults.unwrap_or(true) {
            let defaults = yaml::<Raw>(DEFAULT)?.rules;
            for id in &raw.without {
                if !defaults.iter().any(|r| r.id == *id) {
                    let ids: Vec<&str> = defaults.iter().map(|r| &*r.id).collect();
                    return Err(format!("without: {id:?} is no default rule; they are {}", ids.join(", ")));
                }
            }
            raws.extend(defaults.into_iter().filter(|r| !raw.without.contains(&r.id)));
        }
        if raws.len() > RULES {
            return Err(format!("rules: {} of them, and at most {RULES} can be read", raws.len()));
        }
        let identities = raw.identities.unwrap_or_else(|| IDENTITIES.map(String::from).into());
        let mut policy = Policy {
            rules: Vec::new(),
            fields: HashMap::new(),
            ends: Ends::of(std::iter::empty()),
            patterns: None,
            every: Rc::default(),
            keys,
            anonymize: raw.anonymize,
            identities: identities.iter().map(|n| glued(n)).collect(),
            data,
        };
        let mut patterns = Vec::new();
        let mut ids = HashSet::new();
        for (i, raw) in raws.into_iter().enumerate() {
            let at = |e: String| format!("rules[{i}] ({}): {e}", raw.id);
            if !is_id(raw.id.as_bytes()) {
                return Err(at(
                    "an id begins with a letter and has small letters, digits and hyphens, 40 at most".into(),
                ));
            }
            if i < own && !ids.insert(raw.id.clone()) {
                return Err(at("another rule has this id".into()));
            }
            let n = policy.rules.len() as u16;
            let rule = policy.rule(&raw).map_err(at)?;
            for name in &raw.fields {
                let glued = glued(name);
                if glued.is_empty() {
                    return Err(at(format!("fields: {name:?} has no letters or digits")));
                }
                policy.fields.entry(glued).or_default().push(n);
            }
            if let Some(pattern) = &raw.pattern {
                let words = |all: &[String]| all.iter().map(|w| w.to_lowercase()).collect();
                patterns.push(Pattern {
                    text: pattern.clone(),
                    rule: n,
                    types: raw.types.clone(),
                    near: words(&raw.near),
                    not_near: words(&raw.not_near),
                });
            } else if !raw.near.is_empty() || !raw.not_near.is_empty() {
                return Err(at("near and not_near go with a pattern".into()));
            }
            policy.rules.push(rule);
        }
        policy.ends = Ends::of(policy.fields.keys());
        policy.every = Rc::new(policy.active_if(|_| true));
        for (i, a) in policy.anonymize.iter().enumerate() {
            if policy.keys.is_none() {
                return Err(format!("anonymize[{i}]: pseudonyms need keys: <file>"));
            }
            let code = |c: &String| c.len() == 2 && c.bytes().all(|c| c.is_ascii_uppercase());
            if let Some(bad) = a.countries.iter().find(|c| !code(c)) {
                return Err(format!("anonymize[{i}]: countries: {bad:?} is no code of ISO 3166, as DE"));
            }
        }
        if !patterns.is_empty() {
            policy.patterns = Some(Patterns::new(patterns)?);
        }
        Ok(policy)
    }

    fn rule(&self, raw: &RawRule) -> Result<Rule, String> {
        let named = !raw.fields.is_empty() || !raw.paths.is_empty() || raw.kubernetes_secrets;
        let found = !raw.find.is_empty() || raw.pattern.is_some();
        if named && found {
            return Err("either fields and paths, or find and pattern: make two rules of it".into());
        }
        if !named && !found && raw.action != RawAction::Allow {
            return Err("it speaks of nothing: give it fields, paths, find or a pattern".into());
        }
        if !raw.except.is_empty() && !found {
            return Err("except goes with find or a pattern".into());
        }
        if (raw.keep_first > 0 || raw.keep_last > 0) && raw.action != RawAction::Mask {
            return Err("keep_first and keep_last go with action: mask".into());
        }
        if !raw.allow.is_empty() && !matches!(raw.action, RawAction::Allow | RawAction::Shape) {
            return Err("allow goes with action: allow, or shape".into());
        }
        let allowed = || raw.allow.iter().map(|n| glued(n)).collect();
        let action = match raw.action {
            RawAction::Mask => Action::Mask { first: raw.keep_first, last: raw.keep_last },
            RawAction::Redact => Action::Redact,
            RawAction::Drop => Action::Drop,
            RawAction::Hash if self.keys.is_none() => return Err("hash needs keys: <file>".into()),
            RawAction::Hash => Action::Hash,
            RawAction::Truncate => Action::Truncate,
            RawAction::Generalise => Action::Generalise,
            RawAction::Shape | RawAction::Allow if found => {
                return Err("it goes with fields or paths, not with what is found in text".into());
            }
            RawAction::Shape => Action::Shape(allowed()),
            RawAction::Allow if raw.allow.is_empty() => return Err("allow: names that stay".into()),
            RawAction::Allow => Action::Allow(allowed()),
            RawAction::Keep if found => {
                return Err("keep goes with fields or paths; a detector's rule has except".into());
            }
            RawAction::Keep => Action::Keep,
            RawAction::Seal => {
                return Err("seal is reserved: nothing can be sealed for one reader yet".into());
            }
        };
        let paths = raw.paths.iter().map(|p| {
            let path = p.strip_prefix("metadata.").unwrap_or(p);
            path.split('.').map(str::to_owned).collect()
        });
        Ok(Rule {
            id: raw.id.clone(),
            types: raw.types.clone(),
            kinds: raw.find.iter().fold(0, |bits, k| bits | k.bit()),
            paths: paths.collect(),
            except: raw.except.iter().map(|n| glued(n)).collect(),
            kubernetes: raw.kubernetes_secrets,
            everywhere: !named && !found,
            action,
        })
    }

    /// The rules for an event of that type.
    pub(crate) fn active(&self, category: &str, event_type: &str) -> Active {
        self.active_if(|r| applies(&r.types, category, event_type))
    }

    fn active_if(&self, applies: impl Fn(&Rule) -> bool) -> Active {
        let on: Vec<bool> = self.rules.iter().map(applies).collect();
        let first = |fits: &dyn Fn(&Rule) -> bool| {
            let mut all = self.rules.iter().zip(&on);
            all.position(|(r, on)| *on && fits(r)).map_or(Policy::NONE, |i| i as u16)
        };
        Active {
            id: 0,
            by_kind: Kind::ALL.map(|k| first(&|r| r.kinds & k.bit() != 0)),
            paths: self.rules.iter().zip(&on).any(|(r, on)| *on && !r.paths.is_empty()),
            top: first(&|r| r.everywhere),
            kubernetes: first(&|r| r.kubernetes),
            on,
        }
    }

    /// The first rule in force whose path leads there.
    pub(crate) fn by_path(&self, active: &Active, path: &str) -> u16 {
        let path = path.strip_prefix("metadata.").unwrap_or(path);
        let path = path.strip_prefix("$displaced.").unwrap_or(path);
        let leads = |pattern: &Vec<String>| {
            let mut names = path.split('.');
            pattern.iter().all(|p| names.next().is_some_and(|n| p == "*" || p == n)) && names.next().is_none()
        };
        let mut all = self.rules.iter().zip(&active.on);
        all.position(|(r, on)| *on && r.paths.iter().any(leads)).map_or(Policy::NONE, |i| i as u16)
    }

    /// The rules of detectors that leave a name alone.
    pub(crate) fn exempt(&self, words: &[String]) -> Vec<u16> {
        let whole = words.concat();
        let all = self.rules.iter().enumerate();
        all.filter(|(_, r)| r.except.contains(&whole)).map(|(i, _)| i as u16).collect()
    }

    /// Whether a name tells who someone is.
    pub(crate) fn is_identity(&self, name: &[u8]) -> bool {
        endings(&words(name)).iter().any(|e| self.identities.contains(e))
    }

    /// Whether any event is anonymised.
    pub(crate) fn anonymizes_any(&self) -> bool {
        !self.anonymize.is_empty()
    }

    /// Whether whoever stands in such an event is to have a pseudonym.
    pub(crate) fn anonymizes(&self, category: &str, event_type: &str, country: Option<&str>) -> bool {
        self.anonymize.iter().any(|a| {
            let there = match country {
                _ if a.countries.is_empty() => true,
                None => a.unknown,
                Some(c) => a.countries.iter().any(|x| x == c || (x == "EU" && EU.contains(&c))),
            };
            there && applies(&a.types, category, event_type)
        })
    }
}

fn applies(types: &[String], category: &str, event_type: &str) -> bool {
    types.is_empty() || types.iter().any(|t| glob(t, category) || glob(t, event_type))
}

/// Whether a rule may be called so. (Nothing that is looked for is written with these alone, and no longer.)
pub(crate) fn is_id(id: &[u8]) -> bool {
    let letter = id.first().is_some_and(u8::is_ascii_alphabetic);
    letter
        && id.len() <= 40
        && id.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'))
}

struct Pattern {
    text: String,
    rule: u16,
    types: Vec<String>,
    near: Vec<String>,
    not_near: Vec<String>,
}

/// The patterns of one's own: those that are for the same types in one automaton, in one pass.
#[derive(Debug)]
pub(crate) struct Patterns(Vec<Group>);

#[derive(Debug)]
struct Group {
    regex: meta::Regex,
    rules: Vec<(u16, Vec<String>, Vec<String>)>,
}

impl Patterns {
    const LONGEST: usize = 1000;
    /// Bytes of automaton for all patterns that are for the same types.
    const SIZE: usize = 4 << 20;

    fn new(all: Vec<Pattern>) -> Result<Patterns, String> {
        let mut by_types: Vec<(Vec<String>, Vec<Pattern>)> = Vec::new();
        for p in all {
            // One with words of its own may refuse what it fits: alone, it takes nothing from the others.
            let alone = !p.near.is_empty() || !p.not_near.is_empty();
            let together =
                |list: &[Pattern]| !alone && list.iter().all(|p| p.near.is_empty() && p.not_near.is_empty());
            match by_types.iter_mut().find(|(t, list)| *t == p.types && together(list)) {
                Some((_, list)) => list.push(p),
                None => by_types.push((p.types.clone(), vec![p])),
            }
        }
        let build = |texts: &[&str]| {
            let config =
                meta::Config::new().nfa_size_limit(Some(Patterns::SIZE)).hybrid_cache_capacity(1 << 20);
            let built = meta::Builder::new().configure(config).build_many(texts);
            built.map_err(|e| e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string))
        };
        let mut groups = Vec::new();
        for (_, list) in by_types {
            for p in &list {
                let at = |e: String| format!("rules[{}]: pattern: {e}", p.rule);
                if p.text.len() > Patterns::LONGEST {
                    return Err(at(format!("longer than {} bytes", Patterns::LONGEST)));
                }
                let alone = build(&[&p.text]).map_err(at)?;
                if alone.is_match("") {
                    return Err(at("it fits the empty text".into()));
                }
            }
            let texts: Vec<&str> = list.iter().map(|p| &*p.text).collect();
            let regex = build(&texts).map_err(|e| format!("rules: all patterns together: {e}"))?;
            groups.push(Group {
                regex,
                rules: list.into_iter().map(|p| (p.rule, p.near, p.not_near)).collect(),
            });
        }
        Ok(Patterns(groups))
    }

    /// Finds what the patterns in force fit.
    pub(crate) fn find(&self, text: &[u8], active: &Active, found: &mut Vec<Found>) {
        const BEFORE: usize = 64;
        for group in &self.0 {
            if !active.on[group.rules[0].0 as usize] {
                continue;
            }
            for m in group.regex.find_iter(Input::new(text)) {
                let (rule, near, not_near) = &group.rules[m.pattern().as_usize()];
                if !near.is_empty() || !not_near.is_empty() {
                    let before = String::from_utf8_lossy(&text[m.start().saturating_sub(BEFORE)..m.start()]);
                    let before = before.to_lowercase();
                    let has = |words: &[String]| words.iter().any(|w| before.contains(&**w));
                    if (!near.is_empty() && !has(near)) || has(not_near) {
                        continue;
                    }
                }
                found.push(Found {
                    start: m.start(),
                    end: m.end(),
                    rule: *rule,
                    why: Why::Pattern,
                    whole: false,
                });
            }
        }
    }
}
