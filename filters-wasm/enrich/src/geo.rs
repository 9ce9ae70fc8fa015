//! Geography and networks of addresses, from databases in MaxMind's format.

use maxminddb::{LookupResult, Reader, geoip2};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use waxseal_filter_abi::Event;
use waxseal_filter_abi::event::Object;

/// Where an address's networks lie in each database, or its scope, and `geo_location` as JSON.
#[derive(Clone, Debug)]
struct Known {
    place: Place,
    json: Box<[u8]>,
}

/// The offsets of what each database holds for an address: equal ones say the same of it.
type Place = [Option<usize>; MOST];

/// What each database holds for an address.
type Found<'g> = [Option<LookupResult<'g, Vec<u8>>>; MOST];

/// So many databases at most.
const MOST: usize = 8;

/// Open databases, and what was last looked up.
pub struct Geo {
    databases: Vec<(Kind, Reader<Vec<u8>>)>,
    language: String,
    /// By a hash of the place.
    recent: RefCell<Vec<Option<Known>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    City,
    Country,
    Asn,
}

const RECENT: usize = 4096;

impl std::fmt::Debug for Geo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.databases.iter().map(|(k, r)| (k, &r.metadata().database_type))).finish()
    }
}

impl Geo {
    /// Opens databases.
    ///
    /// # Errors
    /// A text with the path, if one is missing, corrupt or of a kind that says nothing of places or networks.
    pub fn open(paths: &[PathBuf], language: &str) -> Result<Geo, String> {
        if paths.len() > MOST {
            return Err(format!("{} databases, and at most {MOST} can be read", paths.len()));
        }
        let databases = paths
            .iter()
            .map(|path| {
                let at = |e: String| format!("{}: {e}", path.display());
                let bytes = std::fs::read(path).map_err(|e| at(e.to_string()))?;
                let reader =
                    Reader::from_source(bytes).map_err(|e| at(format!("no MaxMind database: {e}")))?;
                // That the tree and what it points to can be read, as far as one walk shows.
                let probe = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));
                reader.lookup(probe).map_err(|e| at(format!("a damaged database: {e}")))?;
                let kind = reader.metadata().database_type.clone();
                let kind = match kind.as_str() {
                    k if k.contains("City") || k.contains("Enterprise") => Kind::City,
                    k if k.contains("Country") => Kind::Country,
                    k if k.contains("ASN") || k.contains("ISP") => Kind::Asn,
                    other => return Err(at(format!("{other:?} is no city, country or ASN database"))),
                };
                Ok((kind, reader))
            })
            .collect::<Result<_, String>>()?;
        Ok(Geo { databases, language: language.to_owned(), recent: RefCell::new(vec![None; RECENT]) })
    }

    /// Adds `geo_location` if anything is known of the address.
    pub fn add(&self, event: &mut Event<'_>, address: IpAddr) {
        let address = address.to_canonical();
        if let Some(scope) = scope(address) {
            event.add_json("geo_location", |out| {
                out.extend_from_slice(b"{\"scope\":\"");
                out.extend_from_slice(scope.as_bytes());
                out.extend_from_slice(b"\"}");
            });
            return;
        }
        let found: Found<'_> = std::array::from_fn(|i| {
            // Damage that only this address meets says nothing of the place.
            self.databases.get(i).and_then(|(_, reader)| reader.lookup(address).ok())
        });
        let place = found.each_ref().map(|f| f.as_ref().and_then(LookupResult::offset));
        if place.iter().all(Option::is_none) {
            return;
        }
        let mixed = place.iter().fold(0u64, |n, at| {
            (n.rotate_left(5) ^ at.map_or(0, |at| at as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        let slot = (mixed >> 32) as usize % RECENT;
        let mut recent = self.recent.borrow_mut();
        if recent[slot].as_ref().is_none_or(|k| k.place != place) {
            recent[slot] = Some(Known { place, json: self.look_up(&found).into() });
        }
        if let Some(Known { json, .. }) = &recent[slot] {
            event.add_json("geo_location", |out| out.extend_from_slice(json));
        }
    }

    /// What the databases say together.
    fn look_up(&self, found: &Found<'_>) -> Vec<u8> {
        let mut o = Object::default();
        for ((kind, _), found) in self.databases.iter().zip(found) {
            let Some(found) = found else { continue };
            match kind {
                Kind::Asn => {
                    if let Ok(Some(asn)) = found.decode::<geoip2::Asn<'_>>() {
                        if let Some(n) = asn.autonomous_system_number {
                            o.number("asn", f64::from(n));
                        }
                        if let Some(name) = asn.autonomous_system_organization {
                            o.text("as_organization", name);
                        }
                    }
                }
                Kind::City => {
                    if let Ok(Some(city)) = found.decode::<geoip2::City<'_>>() {
                        self.country(&city.country, &mut o);
                        if let Some(name) = self.name(&city.city.names) {
                            o.text("city", name);
                        }
                        if let (Some(lat), Some(lon)) = (city.location.latitude, city.location.longitude) {
                            let mut c = Object::default();
                            c.number("latitude", lat).number("longitude", lon);
                            let mut json = Vec::new();
                            c.write(&mut json);
                            o.json("coordinates", json);
                        }
                        if let Some(zone) = city.location.time_zone {
                            o.text("time_zone", zone);
                        }
                    }
                }
                Kind::Country => {
                    if let Ok(Some(country)) = found.decode::<geoip2::Country<'_>>() {
                        self.country(&country.country, &mut o);
                    }
                }
            }
        }
        o.written()
    }

    fn country(&self, c: &geoip2::country::Country<'_>, o: &mut Object) {
        if let Some(code) = c.iso_code {
            o.text("country", code);
        }
        if let Some(name) = self.name(&c.names) {
            o.text("country_name", name);
        }
    }

    fn name<'n>(&self, names: &geoip2::Names<'n>) -> Option<&'n str> {
        let of = |language: &str| match language {
            "de" => names.german,
            "es" => names.spanish,
            "fr" => names.french,
            "ja" => names.japanese,
            "pt-BR" => names.brazilian_portuguese,
            "ru" => names.russian,
            "zh-CN" => names.simplified_chinese,
            _ => names.english,
        };
        of(&self.language).or(names.english)
    }
}

/// What kind of address it is, if it is none of a place.
fn scope(address: IpAddr) -> Option<&'static str> {
    let v4 = |a: Ipv4Addr| {
        let [b0, b1, ..] = a.octets();
        Some(match () {
            () if a.is_loopback() => "loopback",
            () if a.is_private() || (b0 == 100 && (64..128).contains(&b1)) => "private",
            () if a.is_link_local() => "link_local",
            () if a.is_unspecified() || a.is_broadcast() || a.is_multicast() || a.is_documentation() => {
                "special"
            }
            () => return None,
        })
    };
    match address {
        IpAddr::V4(a) => v4(a),
        IpAddr::V6(a) => Some(match () {
            () if a.is_loopback() => "loopback",
            () if a.is_unique_local() => "private",
            () if a.is_unicast_link_local() => "link_local",
            () if a.is_unspecified() || a.is_multicast() => "special",
            () => return None,
        }),
    }
}
