//! What was looked through and held nothing: what many events have alike, a pod's labels, where an address is, or a browser's
//! name, is looked through once.

use crate::names::Info;
use waxseal_filter_abi::event::{mixed, same};

/// Shorter ones are looked through as quickly as they are found here; longer ones would fill the memory.
const OBJECTS: std::ops::RangeInclusive<usize> = 40..=2048;
const STRINGS: std::ops::RangeInclusive<usize> = 12..=256;
const SLOTS: usize = 512;
/// Names are told apart by so many.
const NAMES: usize = 256;
/// After so many in a row that were new, only one of as many is looked up: what is never the same twice pays little.
const PATIENCE: u8 = 32;

/// Where something was looked through: all that what is found in it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    /// Its name, and what that says.
    name: u32,
    raised: u32,
    /// The rules in force ([`crate::policy::Active`]).
    active: u32,
    depth: u32,
}

impl Context {
    /// Of the value of a name that no rule leaves alone.
    pub(crate) fn new(info: Info, active: u32, depth: usize, shipper: bool) -> Context {
        let depth = (depth as u32) << 1 | u32::from(shipper);
        Context { name: info.check, raised: info.raised, active, depth }
    }

    fn row(self) -> usize {
        self.name as usize % NAMES
    }
}

#[derive(Debug)]
struct Seen {
    hash: u64,
    context: Context,
    text: Vec<u8>,
}

/// Of one name.
#[derive(Debug, Default)]
struct Row {
    /// Where its last object is.
    object: u16,
    /// How many objects, and strings, in a row were new.
    new: [u8; 2],
    string: Option<Seen>,
}

/// Whether what was new so often is to be looked up, or kept, this time.
fn is_worth_it(new: &mut u8) -> bool {
    *new = if *new >= 2 * PATIENCE { PATIENCE } else { *new + 1 };
    *new <= PATIENCE
}

#[derive(Debug)]
pub(crate) struct Known {
    objects: Vec<Option<Seen>>,
    rows: Vec<Row>,
}

impl Default for Known {
    fn default() -> Self {
        let (mut objects, mut rows) = (Vec::new(), Vec::new());
        objects.resize_with(SLOTS, || None);
        rows.resize_with(NAMES, Row::default);
        Known { objects, rows }
    }
}

/// Where in a text, that begins with it, the end of something seen is.
fn begins(text: &[u8], seen: &Option<Seen>, context: Context) -> Option<usize> {
    let seen = seen.as_ref().filter(|s| s.context == context)?;
    let len = seen.text.len();
    text.get(..len).is_some_and(|t| same(t, &seen.text)).then_some(len)
}

fn put(seen: &mut Option<Seen>, hash: u64, context: Context, what: &[u8]) {
    let mut text = seen.take().map_or_else(Vec::new, |s| s.text);
    text.clear();
    text.extend_from_slice(what);
    *seen = Some(Seen { hash, context, text });
}

impl Known {
    /// The length of the object with which `text` begins, if the last one of its name was the same.
    pub(crate) fn last_object(&self, text: &[u8], context: Context) -> Option<usize> {
        begins(text, &self.objects[usize::from(self.rows[context.row()].object)], context)
    }

    /// The same of a string.
    pub(crate) fn last_string(&mut self, text: &[u8], context: Context) -> Option<usize> {
        let row = &mut self.rows[context.row()];
        let len = begins(text, &row.string, context)?;
        row.new[1] = 0;
        Some(len)
    }

    /// Keeps a string that held nothing, perhaps.
    pub(crate) fn keep_string(&mut self, string: &[u8], context: Context) {
        let row = &mut self.rows[context.row()];
        if STRINGS.contains(&string.len()) && is_worth_it(&mut row.new[1]) {
            put(&mut row.string, 0, context, string);
        }
    }

    /// Whether an object is known; if not, and if it is worth it, where to [`Known::keep`] it.
    pub(crate) fn find(&mut self, object: &[u8], context: Context) -> Result<(), Option<u64>> {
        let row = &mut self.rows[context.row()];
        if !OBJECTS.contains(&object.len()) || !is_worth_it(&mut row.new[0]) {
            return Err(None);
        }
        let hash = mixed(object);
        let at = (hash % SLOTS as u64) as usize;
        match &self.objects[at] {
            Some(s) if s.hash == hash && s.context == context && same(&s.text, object) => {
                (row.object, row.new[0]) = (at as u16, 0);
                Ok(())
            }
            _ => Err(Some(hash)),
        }
    }

    /// Keeps an object that held nothing.
    pub(crate) fn keep(&mut self, object: &[u8], context: Context, hash: u64) {
        let at = (hash % SLOTS as u64) as usize;
        put(&mut self.objects[at], hash, context, object);
        self.rows[context.row()].object = at as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(depth: usize) -> Context {
        Context::new(Info::default(), 1, depth, false)
    }

    #[test]
    fn only_the_same_in_the_same_place_is_known() {
        let mut known = Known::default();
        let object = format!("{{\"a\":\"{}\"}}", "x".repeat(50));
        let hash = known.find(object.as_bytes(), context(2)).unwrap_err().unwrap();
        known.keep(object.as_bytes(), context(2), hash);
        assert_eq!(known.find(object.as_bytes(), context(2)), Ok(()));
        let behind = format!("{object},\"b\":1}}");
        assert_eq!(known.last_object(behind.as_bytes(), context(2)), Some(object.len()));
        let string = "\"Mozilla/5.0 (X11)\"";
        known.keep_string(string.as_bytes(), context(2));
        let after = format!("{string},\"b\":1}}");
        assert_eq!(known.last_string(after.as_bytes(), context(2)), Some(string.len()));
        for other in [
            context(3),
            Context { active: 2, ..context(2) },
            Context::new(Info::default(), 1, 2, true),
            Context { raised: 1, ..context(2) },
            Context { name: NAMES as u32, ..context(2) },
        ] {
            assert_eq!(known.last_object(behind.as_bytes(), other), None);
            assert_eq!(known.last_string(after.as_bytes(), other), None);
            assert!(known.find(object.as_bytes(), other).is_err());
        }
        assert!(known.find(object.replace("xxx", "xxy").as_bytes(), context(2)).is_err());
        assert_eq!(known.last_object(&object.as_bytes()[..20], context(2)), None);
        assert_eq!(known.last_string(b"\"Mozilla/5.0 (X12)\"", context(2)), None);
        assert_eq!(known.last_string(&string.as_bytes()[..10], context(2)), None);
    }

    #[test]
    fn what_is_never_the_same_is_looked_up_now_and_then() {
        let mut known = Known::default();
        let mut asked = 0;
        for n in 0..3200 {
            let object = format!("{{\"a\":\"{n:060}\"}}");
            if let Err(Some(hash)) = known.find(object.as_bytes(), context(2)) {
                asked += 1;
                known.keep(object.as_bytes(), context(2), hash);
            }
        }
        assert!((100..200).contains(&asked), "{asked}");
        // When it repeats, it is found again; so are many that differ in one byte.
        let mut found = 0;
        for n in 0..4000 {
            let object = format!("{{\"a\":\"{}{:02}\"}}", "y".repeat(60), n % 50);
            match known.find(object.as_bytes(), context(2)) {
                Ok(()) => found += 1,
                Err(Some(hash)) => known.keep(object.as_bytes(), context(2), hash),
                Err(None) => {}
            }
        }
        assert!(found > 1500, "{found}");
    }
}
