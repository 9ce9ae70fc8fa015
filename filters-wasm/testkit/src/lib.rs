//! Where modules and the hosts for them are.

use std::path::{Path, PathBuf};

/// The module of a filter, as `scripts/wasm.sh` built it.
pub fn module(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home)?;
    let path = cache.join("waxseal/filters").join(format!("{name}.wasm"));
    path.is_file().then_some(path)
}

/// A Fluent Bit: `FLUENT_BIT`, or one of PATH.
pub fn fluent_bit() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FLUENT_BIT") {
        return Some(path.into());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join("fluent-bit")).find(|p| p.is_file())
}

/// A city database and one of networks, in MaxMind's format, with about so many networks: beside them 81.2.69.0/24 in London,
/// of AS 20712, and 2001:678::/32 in Berlin.
///
/// # Panics
/// If they cannot be written.
pub fn databases(dir: &Path, networks: u32) -> [PathBuf; 2] {
    use serde_json::json;
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
