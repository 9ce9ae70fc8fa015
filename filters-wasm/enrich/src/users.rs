//! Who a user is, from an export of the directory.

use crate::config::RawUsers;
use std::collections::HashMap;
use std::path::Path;
use waxseal_filter_abi::event::{Object, decoded};
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;

/// Users by name; of each, `user_context` as JSON.
#[derive(Debug)]
pub struct Users {
    all: HashMap<String, Box<[u8]>>,
    case_sensitive: bool,
}

impl Users {
    /// Reads an export: CSV with a header, or JSON.
    ///
    /// # Errors
    /// A text with the path, and the line or member.
    pub fn read(path: &Path, config: &RawUsers) -> Result<Users, String> {
        let at = |e: String| format!("{}: {e}", path.display());
        let bytes = std::fs::read(path).map_err(|e| at(e.to_string()))?;
        let mut users = Users { all: HashMap::new(), case_sensitive: config.case_sensitive };
        let is_json = matches!(bytes.iter().find(|c| !c.is_ascii_whitespace()), Some(b'[' | b'{'));
        let read = if is_json { users.json(&bytes, config) } else { users.csv(&bytes, config) };
        read.map_err(at)?;
        if users.all.is_empty() {
            return Err(at("holds no users".into()));
        }
        Ok(users)
    }

    fn put(&mut self, user: &str, mut context: Object) {
        let mut json = Vec::new();
        context.write(&mut json);
        let user = if self.case_sensitive { user.to_owned() } else { user.to_lowercase() };
        self.all.insert(user, json.into());
    }

    fn csv(&mut self, bytes: &[u8], config: &RawUsers) -> Result<(), String> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let header = reader.headers().map_err(|e| e.to_string())?.clone();
        let column = |name: &str| header.iter().position(|h| h == name);
        let key = column(&config.key).ok_or_else(|| format!("no column {:?} in {header:?}", config.key))?;
        let fields: Vec<(String, usize)> =
            config.fields.iter().filter_map(|f| Some((f.clone(), column(f)?))).collect();
        for row in reader.records() {
            let row = row.map_err(|e| e.to_string())?;
            let mut o = Object::default();
            for (name, i) in &fields {
                if let Some(text) = row.get(*i).filter(|t| !t.is_empty()) {
                    o.text(name.clone(), text);
                }
            }
            if let Some(user) = row.get(key).filter(|u| !u.is_empty()) {
                self.put(user, o);
            }
        }
        Ok(())
    }

    fn json(&mut self, bytes: &[u8], config: &RawUsers) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        let all = Value::checked(text).ok_or("no JSON")?;
        let context = |v: Value<'_>| {
            let mut o = Object::default();
            for name in &config.fields {
                if let Some(text) = v.get(name).and_then(Value::word) {
                    o.text(name.clone(), &text);
                }
            }
            o
        };
        for (i, v) in all.elements().enumerate() {
            let user = v.get(&config.key).and_then(Value::word);
            let user = user.ok_or_else(|| format!("[{i}] has no {:?}", config.key))?;
            self.put(&user, context(v));
        }
        for (user, v) in all.members() {
            self.put(&String::from_utf8_lossy(&decoded(user)), context(v));
        }
        Ok(())
    }

    /// Adds `user_context` if the event names a user who is known.
    pub fn add(&self, event: &mut Event<'_>) {
        let json = {
            let Some(user) = event.get("user_id").and_then(Value::str).or_else(|| event.text(Member::Actor))
            else {
                return;
            };
            if self.case_sensitive { self.all.get(user.as_ref()) } else { self.all.get(&user.to_lowercase()) }
        };
        if let Some(json) = json {
            event.add_json("user_context", |out| out.extend_from_slice(json));
        }
    }
}
