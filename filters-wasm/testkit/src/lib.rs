//! What filters are tested and measured with: samples, databases, where modules and the hosts for them are, and filters run
//! natively, in both hosts' forms.

pub mod fuzz;
#[cfg(feature = "host")]
mod shipper;

#[cfg(feature = "host")]
pub use shipper::{Compiled, Shipper};

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use waxseal_filter_abi::Filter;
use waxseal_filter_abi::wire;
use waxseal_trail::record::{Converter, Events, Member};
use waxseal_trail::time::Time;

/// The module of a filter, as `scripts/wasm.sh` built it.
pub fn module(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home)?;
    let path = cache.join("waxseal/filters").join(format!("{name}.wasm"));
    path.is_file().then_some(path)
}

/// A module of the sink's interface in `dir` whose `waxseal_batch` has this body, in WebAssembly's text format; what the sink
/// hands over lies at 65536. With a configuration beside it.
///
/// # Panics
/// If it is none, or cannot be written.
#[cfg(feature = "host")]
pub fn module_of(dir: &Path, name: &str, body: &str) -> waxseal_filter_host::Settings {
    let about = r#"{\22ready\22:{\22name\22:\22bad\22,\22version\22:\221\22,\22fails_closed\22:false,\22data\22:[]}}"#;
    let len = about.replace("\\22", "\"").len();
    let text = format!(
        r#"(module (memory (export "memory") 64 4096) (data (i32.const 16) "{about}")
        (func (export "waxseal_abi") (result i32) i32.const {})
        (func (export "waxseal_buffer") (param i32) (result i32) i32.const 65536)
        (func (export "waxseal_configure") (result i64) i64.const {})
        (func (export "waxseal_batch") (result i64) {body}))"#,
        wire::VERSION,
        (16u64 << 32) | len as u64
    );
    let module = dir.join(format!("{name}.wasm"));
    std::fs::write(&module, wat::parse_str(&text).expect("a module")).expect("writable");
    let config = dir.join(format!("{name}.yaml"));
    std::fs::write(&config, "").expect("writable");
    waxseal_filter_host::Settings::new(module, config)
}

/// A load beyond the memory: a trap, and no signal.
pub const BEYOND: &str = "(i64.load (i32.const -8))";

/// Every event's actor becomes `marked`.
pub fn marking() -> String {
    let value = u64::from_le_bytes(*b"\"marked\"");
    format!(
        r#"(local $i i32) (local $o i32)
        (local.set $o (i32.const 3145728))
        (block $end (loop $next
            (br_if $end (i32.ge_u (local.get $i) (i32.load (i32.const 65536))))
            (i32.store (local.get $o) (i32.const 1))
            (i32.store offset=4 (local.get $o) (i32.const {}))
            (i32.store offset=8 (local.get $o) (i32.const 8))
            (i64.store offset=12 (local.get $o) (i64.const {value}))
            (local.set $o (i32.add (local.get $o) (i32.const 20)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $next)))
        (i64.or (i64.const {}) (i64.extend_i32_u (i32.sub (local.get $o) (i32.const 3145728))))"#,
        Member::Actor as u32,
        3_145_728u64 << 32
    )
}

/// CPU seconds of this thread (proc(5): the first number of `schedstat`, in nanoseconds).
pub fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// A Fluent Bit: `FLUENT_BIT`, or one of PATH.
pub fn fluent_bit() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FLUENT_BIT") {
        return Some(path.into());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join("fluent-bit")).find(|p| p.is_file())
}

/// Runs a Fluent Bit that ends by itself, with a configuration; what it says goes to `log`.
///
/// # Panics
/// If it does not end within a minute.
pub fn run_fluent_bit(binary: &Path, config: &Path, log: &Path) -> std::process::ExitStatus {
    let mut child = std::process::Command::new(binary)
        .arg("-c")
        .arg(config)
        .stderr(std::fs::File::create(log).expect("writable"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("Fluent Bit starts");
    let began = std::time::Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if began.elapsed() > std::time::Duration::from_secs(60) {
            child.kill().expect("a child");
            panic!("Fluent Bit does not end: {}", std::fs::read_to_string(log).unwrap_or_default());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// One line of `samples/` beside enrich.
pub struct Sample {
    /// The file's name, without its ending.
    pub file: String,
    /// The record, JSON, as a shipper has it.
    pub record: String,
    /// What it becomes: `type`, and the values that it `has`.
    pub wanted: Value,
}

/// The samples of every normaliser of enrich, by file.
///
/// # Panics
/// If they cannot be read.
pub fn samples() -> Vec<Sample> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../enrich/samples");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("the samples").map(|e| e.expect("a sample").path()).collect();
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let file = path.file_stem().expect("a name").to_string_lossy().into_owned();
        for line in std::fs::read_to_string(&path).expect("readable").lines() {
            let wanted: Value = serde_json::from_str(line).expect("a sample is JSON");
            all.push(Sample { file: file.clone(), record: wanted["record"].to_string(), wanted });
        }
    }
    all
}

/// Records of a shipper's, converted as the sink does it.
pub fn converted<'r>(records: impl IntoIterator<Item = &'r str>) -> Events {
    let mut events = Events::default();
    let mut converter = Converter::default();
    records.into_iter().for_each(|r| converter.json(r.as_bytes(), &mut events));
    events
}

/// The members of each event.
///
/// # Panics
/// If they are no JSON.
pub fn members(events: &Events) -> Vec<Value> {
    (0..events.len())
        .map(|i| serde_json::from_slice(&events.members_json(i)).expect("members are JSON"))
        .collect()
}

/// The same whichever host the filter ran in: what a shipper's says has one more `$`, because for the sink it came from outside.
pub fn alike(mut v: Value) -> Value {
    if let Some(m) = v.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(names) = m.remove("$$enriched") {
            m.insert("$enriched".into(), names);
        }
        if let Some(Value::Object(lost)) = m.remove("$$displaced") {
            let all = m.entry("$displaced").or_insert_with(|| json!({}));
            lost.into_iter().for_each(|(k, v)| all[k] = v);
        }
    }
    v
}

/// A filter natively, whose answers must be good.
pub struct Native<F>(waxseal_filter_abi::native::Native<F>);

impl<F: Filter> Native<F> {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What the filter says.
    pub fn load(config: &Path) -> Result<Native<F>, String> {
        waxseal_filter_abi::native::Native::load(config).map(Native)
    }

    /// What the module answers to bytes, as they are.
    pub fn raw(&mut self, chunk: &[u8]) -> Option<&[u8]> {
        self.0.raw(chunk)
    }

    /// As in the sink: over a chunk of converted events, held to the page.
    ///
    /// # Panics
    /// If what the filter answers is no answer, or what it makes of an event is none.
    pub fn in_sink(&mut self, from: &Events, tag: &str, now: Time, to: &mut Events) {
        let source = json!({"tag": tag}).to_string();
        if let Err(e) = self.0.run(from, source.as_bytes(), now, 0, |_, _| {}, to) {
            panic!("{e}: {}", String::from_utf8_lossy(from.text()));
        }
    }

    /// The same, unless the filter refuses to answer for an event.
    ///
    /// # Panics
    /// As [`Native::in_sink`].
    pub fn may_answer(&mut self, from: &Events, tag: &str, now: Time, to: &mut Events) -> bool {
        let source = json!({"tag": tag}).to_string();
        match self.0.run(from, source.as_bytes(), now, 0, |_, _| {}, to) {
            Ok(()) => true,
            Err(e) if e == wire::REFUSED => false,
            Err(e) => panic!("{e}: {}", String::from_utf8_lossy(from.text())),
        }
    }

    /// As in a shipper: what its filter gives back for a record.
    ///
    /// # Panics
    /// If the answer does not end where its NUL is.
    pub fn in_shipper(&mut self, record: &[u8], tag: &str, now: Time) -> &[u8] {
        let answer = self.0.record(record, tag, now);
        let (nul, text) = answer.split_last().expect("a NUL");
        assert!(*nul == 0 && !text.contains(&0), "{}", String::from_utf8_lossy(answer));
        text
    }
}

/// A city database and one of networks, in MaxMind's format, with about so many networks: beside them 81.2.69.0/24 in London,
/// of AS 20712, and 2001:678::/32 in Berlin.
///
/// # Panics
/// If they cannot be written.
pub fn databases(dir: &Path, networks: u32) -> [PathBuf; 2] {
    let city = |name: &str, code: &str, country: &str, at: (f64, f64), zone: &str| {
        json!({
            "city": {"geoname_id": 1, "names": {"en": name, "de": name}},
            "country": {"iso_code": code, "geoname_id": 2, "names": {"en": country}},
            "location": {"latitude": at.0, "longitude": at.1, "time_zone": zone},
        })
    };
    let mut cities = mmdb_writer::Writer::new("GeoLite2-City");
    let mut asns = mmdb_writer::Writer::new("GeoLite2-ASN");
    let mut put = |net: &str, city: &serde_json::Value, asn: u32, name: &str| {
        let net: ipnet::IpNet = net.parse().expect("a network");
        cities.insert_value(net, typed(city)).expect("it fits");
        let asn = json!({"autonomous_system_number": asn, "autonomous_system_organization": name});
        asns.insert_value(net, typed(&asn)).expect("it fits");
    };
    let london = city("London", "GB", "United Kingdom", (51.5142, -0.0931), "Europe/London");
    put("81.2.69.0/24", &london, 20712, "Andrews & Arnold Ltd");
    put("2001:678::/32", &city("Berlin", "DE", "Germany", (52.5, 13.4), "Europe/Berlin"), 64500, "Example");
    for n in 0..networks {
        // 1.0.0.0 onwards, /24 each.
        let net = std::net::Ipv4Addr::from(0x0100_0000 + (n << 8));
        if net.octets()[0] == 81 || net.octets()[0] == 10 {
            continue;
        }
        let name = format!("City {n}");
        let at = (f64::from(n % 180) - 90.0, f64::from(n % 360) - 180.0);
        put(&format!("{net}/24"), &city(&name, "ZZ", "Nowhere", at, "UTC"), n % 60_000 + 1, "A network");
    }
    let paths = [dir.join("city.mmdb"), dir.join("asn.mmdb")];
    std::fs::write(&paths[0], cities.to_bytes().expect("a database")).expect("writable");
    std::fs::write(&paths[1], asns.to_bytes().expect("a database")).expect("writable");
    paths
}

/// With the types that MaxMind's own databases have: whole numbers are of 32 bits.
fn typed(v: &serde_json::Value) -> mmdb_writer::Value {
    use mmdb_writer::Value as Mmdb;
    match v {
        serde_json::Value::Object(all) => Mmdb::Map(all.iter().map(|(k, v)| (k.clone(), typed(v))).collect()),
        serde_json::Value::Number(n) => match n.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) => Mmdb::U32(n),
            None => Mmdb::Double(n.as_f64().unwrap_or_default()),
        },
        other => Mmdb::String(other.as_str().unwrap_or_default().to_owned()),
    }
}
